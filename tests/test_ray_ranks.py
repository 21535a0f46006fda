"""Ranks of a training in a Ray cluster, simulated on this machine: the bytes of ranks without Ray, whatever is lost."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("ray") is None:
    pytest.skip("Ray is not installed (selftaught[cluster])", allow_module_level=True)

import ray
from ray.exceptions import RayTaskError

from ray_nodes import Nodes, cluster_of, wait_until
from selftaught.machine.cluster import ClusterConfig
from selftaught.machine.devices import Machine
from selftaught.machine.opening import Opening
from selftaught.machine.ray_cluster import joined
from selftaught.records.errors import ConfigError
from selftaught.records.training import StepMetrics
from selftaught.training.sft_config import SftConfig
from test_train_ranks import SETTINGS, training

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head without room for ranks, and two nodes with one CPU each."""
    with cluster_of(1, 1) as started, joined(started.address):
        yield started


def trainer(cluster: Any, note: Callable[[str], None] = lambda line: None, ranks: int = 2) -> Any:
    address = None if cluster is None else cluster.address
    machine = Machine(device="cpu", dtype="float32", threads=ranks, ranks=ranks)
    opening = Opening(machine=machine, cluster=ClusterConfig(address=address), note=note)
    return SftConfig(**SETTINGS).opener(opening)()


def is_free() -> bool:
    """Whether nobody uses the cluster's CPUs."""
    return bool(ray.available_resources().get("CPU", 0) == 2)


@pytest.mark.parametrize("killed", ["SelftaughtRank", "Mailbox"])
def test_ranks_in_a_cluster_train_the_bytes_of_ranks_on_one_machine_also_when_one_is_killed(
    killed: str, cluster: Nodes, tiny: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    steps: list[int] = []

    def kill_once(metrics: StepMetrics) -> None:
        steps.append(metrics.step)
        if len(steps) == 2:
            os.kill(cluster.processes(killed)[0], signal.SIGKILL)

    here = trainer(None).fine_tune(training(tiny, tmp_path / "here"), lambda metrics: None)
    there = trainer(cluster, notes.append).fine_tune(training(tiny, tmp_path / "there", steps=5), kill_once)
    assert there.sha256 == here.sha256
    assert steps[-5:] == [1, 2, 3, 4, 5]
    assert len(steps) >= 7
    assert "has lost a rank (" in notes[0]
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("here", "there")]
    assert names[0] == names[1]


def test_a_fault_of_the_package_in_a_rank_is_a_traceback_and_no_reason_to_train_again(
    cluster: Nodes, tiny: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    broken = replace(training(tiny, tmp_path / "out"), examples=(None,))  # type: ignore[arg-type]
    with pytest.raises(RayTaskError, match="NoneType"):
        trainer(cluster, notes.append).fine_tune(broken, lambda metrics: None)
    assert notes == []
    wait_until(lambda: is_free() and not cluster.ranks())


def test_a_stop_in_a_step_ends_the_ranks_and_frees_their_room(cluster: Nodes, tiny: Path, tmp_path: Path) -> None:
    def stop(metrics: StepMetrics) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(cluster).fine_tune(training(tiny, tmp_path / "out"), stop)
    wait_until(lambda: is_free() and not cluster.ranks())


def test_a_cluster_without_room_for_all_ranks_is_refused_in_one_line(
    cluster: Nodes, tiny: Path, tmp_path: Path
) -> None:
    expected = r"train_workers = 4 needs 1 CPU for each, and the Ray cluster has that 2 times on 3 nodes"
    with pytest.raises(ConfigError, match=expected):
        trainer(cluster, ranks=4).fine_tune(training(tiny, tmp_path / "out"), lambda metrics: None)

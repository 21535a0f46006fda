"""Ranks of a training in a Ray cluster, simulated on this machine: the bytes of ranks without Ray, whatever is lost."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import PATIENCE_S
from selftaught.machine.cluster import ClusterConfig
from selftaught.machine.devices import Machine
from selftaught.machine.opening import Opening
from selftaught.records.errors import ConfigError
from selftaught.records.training import StepMetrics
from selftaught.training.sft_config import SftConfig
from test_train_ranks import SETTINGS, training

psutil = pytest.importorskip("psutil")
ray = pytest.importorskip("ray", reason="needs selftaught[cluster]")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for ranks, and two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        found.add_node(num_cpus=1)
    yield found
    ray.shutdown()
    found.shutdown()


def trainer(cluster: Any, note: Callable[[str], None] = lambda line: None, ranks: int = 2) -> Any:
    address = None if cluster is None else cluster.address
    machine = Machine(device="cpu", dtype="float32", threads=ranks, ranks=ranks)
    opening = Opening(machine=machine, cluster=ClusterConfig(address=address), note=note)
    return SftConfig(**SETTINGS).opener(opening)()


def processes_of(cluster: Any) -> list[Any]:
    """Those that train in this cluster."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    children = [child for pid in raylets for child in psutil.Process(pid).children(recursive=True)]
    return [child for child in children if "TrainWorker" in " ".join(child.cmdline())]


def wait_for_room() -> None:
    deadline = time.monotonic() + PATIENCE_S
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline, "the ranks have not ended"
        time.sleep(0.2)


def test_ranks_in_a_cluster_train_the_bytes_of_ranks_on_one_machine_also_when_one_is_killed(
    cluster: Any, tiny: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    steps: list[int] = []

    def kill_once(metrics: StepMetrics) -> None:
        steps.append(metrics.step)
        if len(steps) == 2:
            os.kill(processes_of(cluster)[0].pid, signal.SIGKILL)

    here = trainer(None).fine_tune(training(tiny, tmp_path / "here"), lambda metrics: None)
    there = trainer(cluster, notes.append).fine_tune(training(tiny, tmp_path / "there", steps=5), kill_once)
    assert there.sha256 == here.sha256
    assert steps[-5:] == [1, 2, 3, 4, 5]
    assert len(steps) >= 7
    assert "has lost a rank (" in notes[0]
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("here", "there")]
    assert names[0] == names[1]


def test_a_stop_in_a_step_ends_the_ranks_and_frees_their_room(cluster: Any, tiny: Path, tmp_path: Path) -> None:
    def stop(metrics: StepMetrics) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(cluster).fine_tune(training(tiny, tmp_path / "out"), stop)
    wait_for_room()
    assert processes_of(cluster) == []


def test_a_cluster_without_room_for_all_ranks_is_refused_in_one_line(cluster: Any, tiny: Path, tmp_path: Path) -> None:
    expected = r"train_workers = 4 needs 1 CPUs for each, and the Ray cluster has that 2 times on 3 nodes"
    with pytest.raises(ConfigError, match=expected):
        trainer(cluster, ranks=4).fine_tune(training(tiny, tmp_path / "out"), lambda metrics: None)


def test_a_cluster_that_does_not_answer_is_refused_in_one_line(cluster: Any) -> None:
    ray.shutdown()
    cluster_elsewhere = type("Elsewhere", (), {"address": "127.0.0.1:1"})
    with pytest.raises(ConfigError, match=r"cluster.address = '127.0.0.1:1': no Ray cluster answers") as caught:
        trainer(cluster_elsewhere)
    assert "\n" not in str(caught.value)

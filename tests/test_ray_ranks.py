"""Ranks of a training in a Ray cluster, simulated on this machine: the bytes of ranks without Ray, whatever is lost."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
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
from selftaught.machine.platforms import TrainingPlatform, platform_of
from selftaught.machine.ray_cluster import joined
from selftaught.records.errors import ConfigError, ModelError, RefusedError
from selftaught.records.samples import ModelRef
from selftaught.records.training import StepMetrics
from selftaught.training import rank_trainer, ray_ranks
from selftaught.training.ray_rank_process import Started
from selftaught.training.sft_config import SftConfig
from test_train_ranks import SETTINGS, training
from worker_functions import wait_after

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nodes' cache of the hub, which is not this process's."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def cluster(hub: Path) -> Iterator[Nodes]:
    """A head without room for ranks, and two nodes with one CPU each."""
    with cluster_of(1, 1, HF_HUB_CACHE=str(hub)) as started, joined(started.address):
        yield started


def cached(cache: Path, digit: str = "1") -> Path:
    """The folder of a model in a cache of the hub."""
    return cache / "models--of--test" / "snapshots" / (digit * 40)


def trainer(
    cluster: Any,
    note: Callable[[str], None] = lambda line: None,
    ranks: int = 2,
    stop: Callable[[], None] = lambda: None,
    platform: TrainingPlatform | None = None,
    any_machine: bool = False,
) -> Any:
    address = None if cluster is None else cluster.address
    opening = Opening(
        machine=Machine(device="cpu", dtype="float32", threads=ranks, ranks=ranks),
        cluster=ClusterConfig(address=address, any_machine=any_machine),
        training_platform=platform or TrainingPlatform(),
        note=note,
        raise_if_stopped=stop,
    )
    return SftConfig(**SETTINGS).opener(opening)()


def is_free() -> bool:
    """Whether nobody uses the cluster's CPUs."""
    return bool(ray.available_resources().get("CPU", 0) == 2)


STEPS = 5


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
            (tmp_path / "go on").touch()

    disturbed = wait_after(training(tiny, tmp_path / "there", steps=STEPS), 2, tmp_path / "go on")
    here = trainer(None).fine_tune(training(tiny, tmp_path / "here", steps=STEPS), lambda metrics: None)
    there = trainer(cluster, notes.append).fine_tune(disturbed, kill_once)
    assert there.sha256 == here.sha256
    assert steps[-STEPS:] == list(range(1, STEPS + 1))
    assert len(steps) >= STEPS + 2
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


ELSEWHERE = {"APPEARS_S": 0.1, "nonce_in": lambda folder: nullcontext((folder / "nonce", "content"))}
"""As if the run had its folder on another filesystem than the nodes."""


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (ELSEWHERE, "it does not see .*, or sees another folder there;"),
        ({"__version__": "9.9"}, "and the run 9.9;"),
    ],
)
def test_ranks_that_see_another_folder_than_the_run_or_have_another_version_are_refused_before_they_train(
    changed: dict[str, Any],
    expected: str,
    cluster: Nodes,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in changed.items():
        monkeypatch.setattr(ray_ranks, name, value)
    with pytest.raises(RefusedError, match=rf"rank . of 2 on node .*: .*{expected}"):
        trainer(cluster).fine_tune(training(tiny, tmp_path / "out"), lambda metrics: pytest.fail("it trains"))
    wait_until(lambda: is_free() and not cluster.ranks())


def test_ranks_in_a_cluster_must_be_like_the_runs_first_ones_here_or_there(
    cluster: Nodes, tiny: Path, tmp_path: Path
) -> None:
    kept, steps = list[str](), list[StepMetrics]()
    platform = TrainingPlatform(keep=kept.append)
    for number, where in enumerate((cluster, None, cluster)):
        trainer(where, platform=platform).fine_tune(training(tiny, tmp_path / str(number), steps=1), steps.append)
    assert kept == [platform_of("cpu")]
    assert len(steps) == 3
    other, line = (
        TrainingPlatform("a better machine"),
        r"rank 0 of 2 on node .* has CPU .*, and the ranks that trained fi",
    )
    with pytest.raises(RefusedError, match=line):
        trainer(cluster, platform=other).fine_tune(training(tiny, tmp_path / "other"), steps.append)
    assert len(steps) == 3
    wait_until(lambda: is_free() and not cluster.ranks())
    more = training(tiny, tmp_path / "any", steps=1)
    trainer(cluster, platform=other, any_machine=True).fine_tune(more, steps.append)
    assert len(steps) == 4


def test_ranks_find_a_model_of_the_hub_in_the_cache_of_their_own_machine(
    cluster: Nodes, hub: Path, tiny: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny, cached(hub))
    path = str(cached(tmp_path))
    from_hub = replace(training(tiny, tmp_path / "out", steps=1), start=ModelRef(path=path))
    checkpoint = trainer(cluster).fine_tune(from_hub, lambda metrics: None)
    assert checkpoint.started_from == path
    nowhere = replace(from_hub, start=ModelRef(path=str(cached(tmp_path, "2"))))
    with pytest.raises(ModelError, match=r"sees no such folder, and has no of/test at commit 2* in the hub's cache"):
        trainer(cluster).fine_tune(nowhere, lambda metrics: None)


@pytest.mark.parametrize("when", ["while they load", "in a step that hangs"])
def test_a_stop_is_heard_while_ranks_are_silent(
    when: str, cluster: Nodes, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_trainer, "QUIET_S", 2.0)
    steps, loading = list[int](), list[Started]()
    messages = ray_ranks._messages

    def seen(mailbox: Any) -> list[Any]:
        taken = messages(mailbox)
        loading.extend(message for message in taken if isinstance(message, Started))
        return taken

    monkeypatch.setattr(ray_ranks, "_messages", seen)

    def freeze(metrics: StepMetrics) -> None:
        steps.append(metrics.step)
        os.kill(cluster.ranks()[1], signal.SIGSTOP)

    def stop() -> None:
        if steps or (when == "while they load" and len(loading) == 2):
            raise KeyboardInterrupt

    step = 0 if when == "while they load" else 1
    held = wait_after(training(tiny, tmp_path / "out"), step, tmp_path / "never")
    with pytest.raises(KeyboardInterrupt):
        trainer(cluster, stop=stop).fine_tune(held, freeze)
    assert bool(steps) is (when == "in a step that hangs")
    wait_until(lambda: is_free() and not cluster.ranks())


def test_a_cluster_without_room_for_all_ranks_is_refused_in_one_line(
    cluster: Nodes, tiny: Path, tmp_path: Path
) -> None:
    expected = (
        r"train_workers = 4: the cluster has room for 2 with 1 CPU each: .* has 1 CPU.*; add nodes, or begin a new run"
    )
    with pytest.raises(ConfigError, match=expected):
        trainer(cluster, ranks=4).fine_tune(training(tiny, tmp_path / "out"), lambda metrics: None)

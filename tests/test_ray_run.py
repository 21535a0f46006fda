"""A whole run on a Ray cluster ends with the bytes of one process, whatever is lost meanwhile: docs/cluster.md."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("ray") is None:
    pytest.skip("Ray is not installed (selftaught[cluster])", allow_module_level=True)

from builders import PATIENCE_S
from ray_nodes import Nodes, cluster_of
from selftaught.machine.ray_cluster import joined
from selftaught.records.errors import RefusedError
from selftaught.records.training import StepMetrics
from selftaught.runs.reading import read_steps
from test_kill import SETTINGS, finish, weights
from test_ray_ranks import trainer
from test_train_ranks import training
from toy import folder_bytes

pytestmark = pytest.mark.slow

FOLDERS = ("problems.jsonl", "prompts.jsonl", "samples", "examples", "left_out", "evaluations.jsonl", "result.json")
LONGER = {
    "compute.workers": 1,
    "compute.chunk_completions": 6,
    "loop.max_iterations": 2,
    "training.keep_weights": "all",
    "training.steps_first_iteration": 80,
    "cluster.train_workers": 2,
}


def command(run_dir: Path, **more: object) -> list[str]:
    values = {**SETTINGS, **LONGER, **more}
    overrides = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "selftaught", "run", "arithmetic", "--run-dir", str(run_dir), *overrides]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that samples in one process and trains on two ranks of this machine."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    finish(command(folder))
    return folder


@pytest.fixture
def cluster() -> Iterator[Nodes]:
    """A head and three nodes, each with room for one worker or rank."""
    with cluster_of(1, 1, 1) as started:
        yield started


class Driver:
    """A start of the run in a process of its own, which must last until what it waits for has happened."""

    def __init__(self, run_dir: Path, arguments: list[str]) -> None:
        self._run_dir, self._said = run_dir, run_dir.with_suffix(".err")
        with open(self._said, "wb") as said:
            self._process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=said)

    def until(self, what: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE_S
        while not (found := what()):
            assert self._process.poll() is None, self._said.read_text()
            assert time.monotonic() < end, f"waited {PATIENCE_S} s in vain"
            time.sleep(0.01)
        return found

    def until_it_samples(self, stage: str) -> None:
        self.until(lambda: list((self._run_dir / "samples").glob(f"{stage}.*")))

    def until_it_tells(self, what: str, times: int = 1) -> None:
        self.until(lambda: log_of(self._run_dir).count(what) >= times)

    def until_it_trains(self, iteration: int) -> None:
        """Until a step has been taken."""
        self.until(lambda: any(step.iteration == iteration for step in read_steps(self._run_dir)))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def log_of(run_dir: Path) -> str:
    return "".join(path.read_text() for path in (run_dir / "logs").glob("*.log"))


def assert_same(run_dir: Path, alone: Path) -> None:
    assert folder_bytes(run_dir, *FOLDERS) == folder_bytes(alone, *FOLDERS)
    assert weights(run_dir) == weights(alone)
    assert len(weights(run_dir)) == 2
    assert not list(run_dir.glob("cluster*")), "the file by which workers know the folder"
    assert not list(run_dir.glob("samples/*.parts"))
    assert not list(run_dir.glob("checkpoints/*.tmp"))


def test_a_run_on_a_cluster_has_the_bytes_of_one_machine(cluster: Nodes, alone: Path, tmp_path: Path) -> None:
    finish(command(tmp_path / "run", **{"cluster.address": cluster.address}))
    assert_same(tmp_path / "run", alone)
    assert not cluster.workers(), "workers end with their run"
    assert not cluster.ranks()


def test_a_run_that_loses_workers_a_node_a_rank_and_itself_has_the_same_bytes(
    cluster: Nodes, alone: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    arguments = command(run_dir, **{"cluster.address": cluster.address, "cluster.chunk_timeout": 20})

    driver = Driver(run_dir, arguments)
    driver.until_it_samples("001-rationale")
    workers = driver.until(lambda: pids if len(pids := cluster.workers()) == 3 else None)
    for worker in workers:  # so that the stage cannot end before they are lost
        os.kill(worker, signal.SIGSTOP)
    killed, unplugged, _ = workers  # the third stays frozen: the one in the place of the killed does all
    os.kill(killed, signal.SIGKILL)
    cluster.lose_node_of(unplugged)
    with suppress(ProcessLookupError):  # it ends by itself when it finds its node gone
        os.kill(unplugged, signal.SIGCONT)
    driver.until_it_tells("was lost", times=2)
    driver.until_it_trains(1)
    os.kill(cluster.ranks()[0], signal.SIGKILL)
    driver.until_it_tells("has lost a rank")
    driver.until_it_samples("002-rationale")
    driver.kill()

    driver = Driver(run_dir, arguments)
    driver.until_it_trains(2)
    driver.kill()

    finish(arguments)
    assert_same(run_dir, alone)
    assert not cluster.workers()
    assert not cluster.ranks()


def test_a_training_that_has_lost_its_nodes_is_not_done_again_on_others_that_compute_otherwise(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    with cluster_of(1, 1) as nodes, joined(nodes.address):

        def lose_and_add(metrics: StepMetrics) -> None:
            steps.append(metrics.step)
            if len(steps) == 1:
                monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
                for rank in nodes.ranks():
                    nodes.lose_node_of(rank)
                    nodes.add(cpus=1)

        with pytest.raises(RefusedError, match=r"has CPU .*\(DEFAULT\), .*, and the ranks that trained first for this"):
            trainer(nodes).fine_tune(training(tiny, tmp_path / "out", steps=40), lose_and_add)
    assert steps == list(range(1, len(steps) + 1)), "it has begun again"

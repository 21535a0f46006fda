"""A whole run on a Ray cluster ends with the bytes of one process, whatever is lost meanwhile: docs/cluster.md."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("ray") is None:
    pytest.skip("Ray is not installed (selftaught[cluster])", allow_module_level=True)

from builders import PATIENCE_S
from ray_nodes import cluster_of
from test_kill import SETTINGS, finish, weights
from toy import folder_bytes

pytestmark = pytest.mark.slow

FOLDERS = ("problems.jsonl", "prompts.jsonl", "samples", "examples", "left_out", "evaluations.jsonl", "result.json")
LONGER = {"compute.chunk_completions": 12, "loop.max_iterations": 2, "training.keep_weights": "all"}


def command(run_dir: Path, **more: object) -> list[str]:
    values = {**SETTINGS, **LONGER, **more}
    overrides = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "selftaught", "run", "arithmetic", "--run-dir", str(run_dir), *overrides]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run in one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    finish(command(folder, **{"compute.workers": 1}))
    return folder


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and three nodes, each with room for one worker; `pids` are the ids of its workers' processes."""
    with (
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder,  # Ray's sockets need a short path
        cluster_of(1, 1, 1, folder=Path(folder)) as started,
    ):
        started.pids = lambda: workers_of(folder)
        yield started


def workers_of(folder: str) -> list[int]:
    """The processes of workers that a cluster whose files are in a folder has started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_worker = b"SelftaughtWorker" in (process / "cmdline").read_bytes()
            if is_worker and f"RAY_TMPDIR={folder}\0".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue  # it has ended meanwhile
    return sorted(found)


def wait_for(what: Callable[[], Any], driver: "subprocess.Popen[str]") -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert driver.poll() is None, driver.stderr.read() if driver.stderr else ""
        assert time.monotonic() < end, f"waited {PATIENCE_S} s in vain"
        time.sleep(0.05)
    return found


def start(arguments: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def assert_same(run_dir: Path, alone: Path) -> None:
    assert folder_bytes(run_dir, *FOLDERS) == folder_bytes(alone, *FOLDERS)
    assert weights(run_dir) == weights(alone)
    assert len(weights(run_dir)) == 2
    assert not list(run_dir.glob("cluster*")), "the file by which workers know the folder"
    assert not list(run_dir.glob("samples/*.parts"))


def test_a_run_on_a_cluster_has_the_bytes_of_one_process(cluster: Any, alone: Path, tmp_path: Path) -> None:
    finish(command(tmp_path / "run", **{"compute.workers": 1, "cluster.address": cluster.address}))
    assert_same(tmp_path / "run", alone)
    assert not cluster.pids(), "workers end with their run"


def test_a_run_that_loses_workers_a_node_and_itself_has_the_same_bytes(
    cluster: Any, alone: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    settings = {"compute.workers": 1, "cluster.address": cluster.address, "cluster.chunk_timeout": 20}
    arguments = command(run_dir, **settings)
    samples = run_dir / "samples"

    driver = start(arguments)
    wait_for(lambda: list(samples.glob("001-rationale.*")), driver)
    killed, frozen, *_ = wait_for(lambda: pids if len(pids := cluster.pids()) == 3 else None, driver)
    os.kill(killed, signal.SIGKILL)
    os.kill(frozen, signal.SIGSTOP)
    wait_for(lambda: list(samples.glob("001-rationalization.*")), driver)
    node = next(node for node in cluster.worker_nodes if node)
    cluster.remove_node(node, allow_graceful=False)
    wait_for(lambda: list(samples.glob("002-rationale.*")), driver)
    driver.kill()
    driver.communicate()

    finish(arguments)
    assert_same(run_dir, alone)
    log = "".join(path.read_text() for path in (run_dir / "logs").glob("*.log"))
    assert log.count("was lost") >= 2, log
    assert not cluster.pids()

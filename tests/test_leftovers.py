"""Processes that a killed run has left behind are ended, and no others."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from selftaught.machine.leftovers import end_leftovers, remember

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@pytest.fixture
def stopped() -> Iterator["subprocess.Popen[bytes]"]:
    """A process of the package, by its command line, that does not notice the end of its run."""
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", "selftaught"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


def test_a_stopped_process_of_a_killed_run_is_ended_at_the_next_start(
    stopped: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    path = tmp_path / "logs" / "ranks.json"
    assert end_leftovers(path) == []
    remember(path, [stopped.pid])
    assert end_leftovers(path) == [stopped.pid]
    assert stopped.wait(timeout=60) == -signal.SIGKILL
    assert not path.exists()
    remember(path, [stopped.pid])  # it is gone
    assert end_leftovers(path) == []


@pytest.mark.parametrize("changed", [{"machine": "another"}, {"started": "an earlier one with its id"}])
def test_a_process_of_another_machine_or_with_the_id_of_another_is_left_alone(
    stopped: "subprocess.Popen[bytes]", tmp_path: Path, changed: dict[str, str]
) -> None:
    path = tmp_path / "ranks.json"
    remember(path, [stopped.pid])
    held = json.loads(path.read_text(encoding="utf-8"))
    if "started" in changed:
        changed = {"started": {str(stopped.pid): "1"}}  # type: ignore[dict-item]
    path.write_text(json.dumps({**held, **changed}), encoding="utf-8")
    assert end_leftovers(path) == []
    assert stopped.poll() is None
    assert not path.exists()


def test_a_process_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ranks.json"
    with subprocess.Popen(["sleep", "60"]) as other:
        remember(path, [other.pid])
        assert end_leftovers(path) == []
        assert other.poll() is None
        other.kill()

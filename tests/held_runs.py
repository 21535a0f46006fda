"""Commands that stop themselves at a definite point, where a test finds them however busy the machine is.

A test that waits for a file and then signals the process may come too late: the process has gone on meanwhile.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from builders import PATIENCE_S

PROGRAM = """
import json, os, signal, sys
from selftaught.cli.app import main
places = json.loads(sys.argv.pop(1))
def stop(event, arguments):
    if event != "open" or not places or arguments[1] != "a" or str(arguments[0]) != places[0]:
        return
    if os.path.exists(places[0]) and os.path.getsize(places[0]):
        del places[0]
        os.kill(os.getpid(), signal.SIGSTOP)
sys.addaudithook(stop)
main()
"""


def started(arguments: list[str], *places: Path) -> "subprocess.Popen[str]":
    """Start a command line of `python -m selftaught`. Its process stops itself (SIGSTOP) before it appends to each of
    the files, one after the other, as soon as that file holds something; `held` waits for that."""
    assert arguments[:3] == [sys.executable, "-m", "selftaught"]
    held_at = json.dumps([str(place) for place in places])
    command = [sys.executable, "-c", PROGRAM, held_at, *arguments[3:]]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def held(process: "subprocess.Popen[str]") -> None:
    """Return when the process has stopped at its next place."""
    deadline = time.monotonic() + PATIENCE_S
    while state_of(Path(f"/proc/{process.pid}")) != "T":
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"not stopped in {PATIENCE_S} s"
        time.sleep(0.01)


def go_on(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGCONT)


def state_of(folder: Path) -> str:
    """Of a process or a thread by its folder in /proc: R for one that computes or could, S for one that waits for an
    event, D for a disk, T for a stopped one."""
    return (folder / "stat").read_text().rpartition(")")[2].split()[0]

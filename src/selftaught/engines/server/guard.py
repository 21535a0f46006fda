"""Runs a server, and ends it when the process that started it is gone, even by SIGKILL.

    python guard.py PARENT_PID GRACE_S COMMAND…

The guard must lead a process group of its own; the server and all that it starts belong to that group, so one signal
reaches them all. It is run as a file, by path, and imports only the standard library: it lives as long as the server
and should use almost no memory.

It has a child, which guards the server in case the guard is killed: Ray ends a worker with SIGKILL to all its children,
but not to theirs.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

POLL_S = 0.2
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: list[str]) -> int:
    """The server's exit code; 128 + the signal's number if a signal ended it."""
    parent, grace_s = int(arguments[0]), float(arguments[1])
    # The group's signals are for the server; the guard must outlive it to report how it ended.
    for number in ENDING:
        signal.signal(number, lambda *_: None)  # which the server does not inherit, as it would SIG_IGN
    first = os.getpid()
    if second := os.fork():
        code = guarded(lambda: _ended(second), parent, grace_s)
        end_rest(grace_s)
        return code
    return guarded(subprocess.Popen(arguments[2:], stdin=subprocess.DEVNULL).poll, first, grace_s)


def guarded(poll: Callable[[], int | None], parent: int, grace_s: float) -> int:
    """Wait until `poll` gives an exit code, the negative number of a signal if that ended the process. Ends the group
    if the parent is gone before."""
    while (code := poll()) is None:
        if os.getppid() != parent:
            end_group(poll, grace_s)
        time.sleep(POLL_S)
    return code if code >= 0 else 128 - code


def end_group(poll: Callable[[], int | None], grace_s: float) -> None:
    """Signal the group to end, and kill it, the guard included, once the grace is over."""
    os.killpg(os.getpgrp(), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def end_rest(grace_s: float) -> None:
    """Have what an ended server has left in the group ended, such as the processes that hold a GPU when the one that
    answered requests was killed. A process outside of the group does it, so that the exit code is told at once."""
    group = os.getpgrp()
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # Python takes back a handler before it has ended
    if os.fork():
        return
    os.setpgid(0, 0)
    with suppress(ProcessLookupError, PermissionError):  # nothing is left; macOS reports the second error
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            time.sleep(POLL_S)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)
    os._exit(0)


def _ended(child: int) -> int | None:
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

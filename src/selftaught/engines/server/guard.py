"""Runs a server, and ends it when the process that started it is gone, even by SIGKILL.

    python guard.py PARENT_PID GRACE_S COMMAND…

The guard must lead a process group of its own; the server and all that it starts belong to that group, so one signal
reaches them all. It is run as a file, by path, and imports only the standard library: it lives as long as the server
and should use almost no memory.
"""

import os
import signal
import subprocess
import sys
import time

POLL_S = 0.2


def main(arguments: list[str]) -> int:
    """The server's exit code; 128 + the signal's number if a signal ended it."""
    parent, grace_s = int(arguments[0]), float(arguments[1])
    # The group's signals are for the server; the guard must outlive it to report how it ended.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    server = subprocess.Popen(arguments[2:], stdin=subprocess.DEVNULL)
    while server.poll() is None:
        if os.getppid() != parent:
            end_group(server, grace_s)
        time.sleep(POLL_S)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def end_group(server: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """Signal the group to end, and kill it, the guard included, once the grace is over."""
    os.killpg(os.getpgrp(), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

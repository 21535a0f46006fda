"""Processes that a killed run has left behind. They end by themselves when it is gone, unless they are stopped.

A file names them by id and start, so that a process that has got the same id since is not taken for one of them.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
PACKAGE = b"selftaught"
"""In the command line of each of them."""
GONE_S = 10.0
"""In which the system ends a process that is killed."""


def remember(path: Path, pids: Sequence[int]) -> None:
    """Write down processes that have been started here; nothing on a system without /proc."""
    started = {pid: at for pid in pids if (at := _start_of(pid)) is not None}
    temporary = path.with_name(f"{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"machine": _machine(), "started": started}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def end_leftovers(path: Path) -> list[int]:
    """End the processes that `path` names and that still run on this machine; the file is gone after that."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    ended = []
    if held["machine"] == _machine():
        for pid, started in ((int(pid), at) for pid, at in held["started"].items()):
            if _start_of(pid) == started and PACKAGE in _command_line(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    ended.append(pid)
        deadline = time.monotonic() + GONE_S
        while any(_start_of(pid) == held["started"][str(pid)] for pid in ended) and time.monotonic() < deadline:
            time.sleep(0.05)
    path.unlink()
    return ended


def _machine() -> str:
    """This machine since it was started."""
    boot = _PROC / "sys/kernel/random/boot_id"
    return f"{socket.gethostname()} {boot.read_text(encoding='utf-8').strip() if boot.exists() else ''}"


def _start_of(pid: int) -> str | None:
    """When a process was started, in the system's units; None if it is gone, or is there in name only (a zombie)."""
    try:
        state, *rest = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else rest[18]


def _command_line(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""

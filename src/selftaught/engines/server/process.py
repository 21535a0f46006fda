"""A server as a child process: started in a process group of its own, awaited, and ended with all its processes.

`guard.py` runs between this process and the server, so that the server ends when this process is killed. POSIX only,
as process groups are.
"""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from selftaught.engines.server import guard
from selftaught.records.errors import EngineError

HOST = "127.0.0.1"
POLL_S = 0.1
GRACE_S = 15.0
"""From SIGTERM to SIGKILL."""
KILL_S = 30.0
"""From SIGKILL to giving up; a process that waits for a device may take this long to end."""
LOG_TAIL = 256 << 10
"""Bytes at the log's end that are searched for the cause of an error."""

_GUARD = os.fsencode(str(guard.__file__))
_LOG_PREFIX = re.compile(r"^(\([^)]*pid=\d+\)\s*)?((DEBUG|INFO|WARNING|ERROR|CRITICAL)\s[\d: .-]+\[[^\]]*\]\s*)?")
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b|No module named|[Oo]ut of memory")
_FOLLOW_UP = re.compile(r"root cause|Engine core initialization failed|EngineDeadError")
"""Exceptions that only report an earlier one."""


class ServerProcess:
    """A running server. Raises EngineError if it cannot be started; its owner must `stop` it.

    It starts when servers of processes that are gone have ended, since they may hold the memory that it needs.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str], log: Path | None, grace_s: float = GRACE_S
    ) -> None:
        wait_for_orphans()
        self.name = name
        self._grace_s = grace_s
        self._names_log = self._is_stopped = False
        self._keeps_log = log is not None
        if log is None:
            handle, path = tempfile.mkstemp(prefix="selftaught-", suffix=".log")
            os.close(handle)
            log = Path(path)
        self.log = log
        guarded = [sys.executable, "-I", os.fsdecode(_GUARD), str(os.getpid()), str(grace_s), *command]
        try:
            with log.open("ab") as output:
                self._log_start = output.tell()
                self._guard = subprocess.Popen(
                    guarded,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise EngineError(f"{name} cannot be started, with its log in {log}: {error}; make room for it") from error

    @property
    def group(self) -> int:
        """Id of the process group that the server and all its processes belong to."""
        return self._guard.pid

    def wait_until_healthy(self, port: int, *, limit_s: float) -> None:
        """Return once GET /health is answered with 200. Raises EngineError if the server ends or takes too long."""
        deadline = time.monotonic() + limit_s
        while not _is_healthy(port):
            if self._guard.poll() is not None:
                raise EngineError(f"{self.name} ended while it was loading {self.how_it_ended()}; {self._where()}")
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{self.name} was not ready after {limit_s:g} s (its last line: {self.last_words()!r}); raise "
                    f"engine.start_timeout_s, or {self._where()}"
                )
            time.sleep(POLL_S)

    def has_ended(self, *, within_s: float = 0.0) -> bool:
        """Whether the server has ended, or ends within so many seconds."""
        try:
            self._guard.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def how_it_ended(self) -> str:
        """The exit code and the server's last words, in brackets."""
        code = self._guard.returncode
        signal_number = -code if code < 0 else code - 128 if code > 128 else 0
        known = {s.value for s in signal.Signals}
        ended = f"signal {signal.Signals(signal_number).name}" if signal_number in known else f"exit code {code}"
        if signal_number == signal.SIGKILL:
            ended += ", perhaps for want of memory"
        return f"({ended}: {self.last_words()!r})"

    def last_words(self) -> str:
        """What this server has logged last (`last_words_of`)."""
        self._names_log = True
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - LOG_TAIL))
            return last_words_of(file.read().decode("utf-8", "replace"))

    def stop(self) -> None:
        """End the server and every process of its group, and wait until none is left.

        Raises EngineError if one is left, since it still holds its memory.
        """
        if self._is_stopped:
            return  # by now the group's id may belong to other processes
        for number, limit_s in ((signal.SIGTERM, self._grace_s), (signal.SIGKILL, KILL_S)):
            left = self._signal_and_wait(number, limit_s)
            if not left:
                break
        else:
            raise EngineError(
                f"{self.name}: processes {', '.join(map(str, left))} are still there {KILL_S:g} s after SIGKILL and "
                "hold their memory; end them and run the same command again"
            )
        self._guard.wait()
        self._is_stopped = True
        if not self._keeps_log and not self._names_log:
            self.log.unlink(missing_ok=True)

    def _signal_and_wait(self, number: signal.Signals, limit_s: float) -> list[int]:
        """Signal the group; the processes that are left after the limit."""
        with suppress(ProcessLookupError, PermissionError):  # no process is left; macOS reports the second error
            os.killpg(self.group, number)
        deadline = time.monotonic() + limit_s
        while (left := alive_in_group(self.group)) and time.monotonic() < deadline:
            self._guard.poll()  # removes the guard from the process table once it has ended
            time.sleep(POLL_S)
        return left

    def _where(self) -> str:
        return f"read its log {self.log}, and docs/engines.md on vllm"


def last_words_of(log: str) -> str:
    """The last exception in a log, without the exceptions that only report another one; else the last line.

    One printable line of at most 300 characters; empty for an empty log.
    """
    lines = [line for line in (_LOG_PREFIX.sub("", line.strip()).strip() for line in log.splitlines()) if line]
    errors = [line for line in lines if _EXCEPTION.search(line)]
    causes = [line for line in errors if not _FOLLOW_UP.search(line)]
    return "".join(c if c.isprintable() else " " for c in (causes or errors or lines or [""])[-1])[:300]


def free_port() -> int:
    """A TCP port of this machine that no process listens on at this moment."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def alive_in_group(group: int) -> list[int]:
    """Ids of the living processes of a process group; where there is no /proc, the group's id if it has any."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return []
        return [group]
    alive = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended since the folder was listed
        # pid (name) state ppid pgrp …; the name may hold brackets. A zombie holds no memory.
        state, _, process_group = stat.rpartition(")")[2].split()[:3]
        if int(process_group) == group and state not in "ZX":
            alive.append(int(entry.name))
    return sorted(alive)


def orphans_left(limit_s: float) -> list[int]:
    """Ids of the processes of servers whose starter is gone that are still there after so many seconds.

    Their guards end them, which takes a moment. Needs /proc; empty where there is none.
    """
    groups, deadline = _orphans(), time.monotonic() + limit_s
    while (left := [pid for group in groups for pid in alive_in_group(group)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def wait_for_orphans() -> None:
    """Return when no server is left whose starter is gone. Raises EngineError if one does not end."""
    if left := orphans_left(GRACE_S + KILL_S):
        raise EngineError(
            f"processes {', '.join(map(str, left))} of a server are still there {GRACE_S + KILL_S:g} s after the "
            "process that started it, and hold their memory; end them and run the same command again"
        )


def _orphans() -> set[int]:
    """The process groups of servers whose starter is gone, or whose guard is, which leaves its child."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            parent, group = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1:3]
        except (OSError, ValueError):
            continue  # it has ended since the folder was listed
        if command[1:3] == [b"-I", _GUARD] and len(command) > 3:
            starter = command[3] if entry.name == group.decode() else group
            if parent != starter and not _is_in_container(entry):
                found.add(int(group))
    return found


def _is_in_container(process: Path) -> bool:
    """Whether a process knows itself and its parent by other ids than this one does."""
    try:
        lines = (process / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("NSpid:") and len(line.split()) > 2 for line in lines)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

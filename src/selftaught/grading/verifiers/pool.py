"""Run work that may hang in verifier processes with a time limit: a process that exceeds it is killed and replaced.

They are plain child processes that exchange JSON lines with this one. `multiprocessing` is not used: its fork would
copy a process that has torch's threads, and its spawn imports the user's main script again (which may have no main
guard). No signal handler is needed, so calls work outside the main thread and from several threads. A process starts
when it is first needed.
"""

import json
import os
import selectors
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from selftaught.machine.children import environment, last_folders, module_command
from selftaught.records.errors import ConfigError

START_LIMIT_S = 120.0
"""Limit for starting Python and importing the libraries; a cold disk is slow."""


class TimedOutError(Exception):
    """The call exceeded its time limit; its process was killed."""


class ProcessDiedError(Exception):
    """The process ended in the middle of a call; the message says how."""


class Pool:
    """Up to `size` verifier processes of one kind, used from any number of threads."""

    def __init__(self, setup: Mapping[str, Any], *, limit_s: float, size: int = 0) -> None:
        """`setup` is the first line that each process reads (`process.py`); `limit_s` is the wall clock of one call."""
        self._setup = {**setup, "limit_s": limit_s, "folders": last_folders()}
        self._limit_s = limit_s
        self._idle: list[_VerifierProcess] = []
        self._all: set[_VerifierProcess] = set()
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(size or min(4, os.cpu_count() or 1))
        weakref.finalize(self, _kill_all, self._all)  # also when the interpreter exits

    def close(self) -> None:
        """End all processes and wait for them. A call in progress fails; a later call starts a new process."""
        with self._lock:
            _kill_all(self._all)

    def call(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A process's reply. Raises TimedOutError or ProcessDiedError; ConfigError if a process cannot be set up."""
        with self._slots:
            process = self._idle_or_new()
            try:
                reply = process.exchange(request, self._limit_s)
            except BaseException:  # also Ctrl-C: the process would answer the next request with this reply
                self._discard(process)
                raise
            with self._lock:
                self._idle.append(process)
            return reply

    def _idle_or_new(self) -> "_VerifierProcess":
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process in self._all:  # not ended by `close`
                    return process
            process = _VerifierProcess()
            self._all.add(process)
        try:
            ready = process.exchange(self._setup, START_LIMIT_S)
        except TimedOutError as error:
            self._discard(process)
            raise ConfigError(f"verifier {self._setup['kind']}: not loaded within {START_LIMIT_S:.0f} s") from error
        except ProcessDiedError as error:
            self._discard(process)
            raise ConfigError(f"verifier {self._setup['kind']}: its process {error} while it loaded") from error
        except BaseException:
            self._discard(process)
            raise
        if "error" in ready:
            self._discard(process)
            raise ConfigError(f"verifier {self._setup['kind']} cannot be loaded: {ready['error']}")
        return process

    def _discard(self, process: "_VerifierProcess") -> None:
        process.kill()
        with self._lock:
            self._all.discard(process)


class _VerifierProcess:
    """A child process that runs `process.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            module_command("selftaught.grading.verifiers.process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment(),
            start_new_session=True,  # Ctrl-C at the terminal is the parent's; and one kill reaches its children
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)

    def exchange(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """Send a line and wait for a line; together they take no longer than the limit."""
        deadline = time.monotonic() + limit_s
        unsent = memoryview(json.dumps(request).encode() + b"\n")
        reply = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdin, selectors.EVENT_WRITE)
            selector.register(self._stdout, selectors.EVENT_READ)
            while not reply.endswith(b"\n"):
                events = selector.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    raise TimedOutError
                for key, _ in events:
                    if key.fd == self._stdin:
                        unsent = unsent[self._write(unsent) :]
                        if not unsent:
                            selector.unregister(self._stdin)
                    else:
                        piece = os.read(self._stdout, 1 << 16)
                        if not piece:
                            raise ProcessDiedError(self._how_it_ended())
                        reply += piece
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._stdin, data)
        except BrokenPipeError as error:
            raise ProcessDiedError(self._how_it_ended()) from error

    def _how_it_ended(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5)
            return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return "closed its output"

    def kill(self) -> None:
        """End the process and its children, and wait for it, so that no zombie remains."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def _kill_all(processes: set[_VerifierProcess]) -> None:
    for process in list(processes):
        process.kill()
    processes.clear()

"""Run what may hang in worker processes with a hard time limit: a worker that runs over is killed and replaced.

Plain child processes that speak JSON lines, not `multiprocessing`: its fork would copy a process with torch's threads
in it, and its spawn imports the user's main script again (which may have no main guard). There is no signal handler,
so it works off the main thread and from several threads. A worker starts when it is first needed.
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

from selftaught.children import environment, last_folders, module_command
from selftaught.errors import ConfigError

START_LIMIT_S = 120.0
"""To start Python and import what the worker needs; a cold disk is slow."""


class TimedOutError(Exception):
    """The call ran into its time limit; its worker was killed."""


class WorkerDiedError(Exception):
    """The worker ended in the middle of a call; says how."""


class Pool:
    """Up to `size` workers of one kind, used from any number of threads."""

    def __init__(self, setup: Mapping[str, Any], *, limit_s: float, size: int = 0) -> None:
        """`setup` is the first line that each worker reads (`worker.py`); `limit_s` is the wall clock of one call."""
        self._setup = {**setup, "limit_s": limit_s, "folders": last_folders()}
        self._limit_s = limit_s
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()
        self._free = threading.Semaphore(size or min(4, os.cpu_count() or 1))
        weakref.finalize(self, _kill_all, self._all)  # also when the interpreter exits

    def close(self) -> None:
        """End all workers and wait for them. A call in progress fails; a later one starts a new worker."""
        with self._lock:
            _kill_all(self._all)

    def call(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's reply. Raises TimedOutError or WorkerDiedError; ConfigError if a worker cannot be set up."""
        with self._free:
            worker = self._take()
            try:
                reply = worker.ask(request, self._limit_s)
            except BaseException:  # Ctrl-C too: a worker in the middle of a call answers the wrong question next
                self._drop(worker)
                raise
            with self._lock:
                self._idle.append(worker)
            return reply

    def _take(self) -> "_Worker":
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker in self._all:  # not ended by `close`
                    return worker
            worker = _Worker()
            self._all.add(worker)
        try:
            ready = worker.ask(self._setup, START_LIMIT_S)
        except TimedOutError as error:
            self._drop(worker)
            raise ConfigError(f"verifier {self._setup['kind']}: not loaded within {START_LIMIT_S:.0f} s") from error
        except WorkerDiedError as error:
            self._drop(worker)
            raise ConfigError(f"verifier {self._setup['kind']}: its process {error} while it loaded") from error
        except BaseException:
            self._drop(worker)
            raise
        if "error" in ready:
            self._drop(worker)
            raise ConfigError(f"verifier {self._setup['kind']} cannot be loaded: {ready['error']}")
        return worker

    def _drop(self, worker: "_Worker") -> None:
        worker.kill()
        with self._lock:
            self._all.discard(worker)


class _Worker:
    """One child process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            module_command("selftaught.verifiers.worker"),
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

    def ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """Send a line, wait for a line. Neither the sending nor the waiting lasts longer than the limit."""
        deadline = time.monotonic() + limit_s
        waiting = memoryview(json.dumps(request).encode() + b"\n")
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
                        waiting = waiting[self._write(waiting) :]
                        if not waiting:
                            selector.unregister(self._stdin)
                    else:
                        piece = os.read(self._stdout, 1 << 16)
                        if not piece:
                            raise WorkerDiedError(self._ending())
                        reply += piece
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._stdin, data)
        except BrokenPipeError as error:
            raise WorkerDiedError(self._ending()) from error

    def _ending(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5)
            return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return "closed its output"

    def kill(self) -> None:
        """End the process and what it started, and wait for it, so that no zombie stays."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def _kill_all(workers: set[_Worker]) -> None:
    for worker in list(workers):
        worker.kill()
    workers.clear()

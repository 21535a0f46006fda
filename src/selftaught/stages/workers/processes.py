"""Workers that are processes of this machine: one for each GPU, or several on the CPUs.

They are started as those of machine/workers.py: they end when the run does, killed or not, and signals reach the run
alone. Two threads for each, one that sends and one that receives, keep a worker that hangs from making the run hang.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from selftaught.engines.server.process import wait_for_orphans
from selftaught.machine.workers import Worker
from selftaught.records.errors import WorkerDied
from selftaught.records.samples import ModelRef
from selftaught.stages.workers.protocol import Job, Lost, Made, Ready, Refused, WorkerEvent, failure

JOIN_S = 10.0
GRACE_S = 60.0
"""For idle workers to close their engines: a server that one has started needs some seconds to end."""


class LocalProcesses:
    """A `WorkerSource` of processes on this machine."""

    def __init__(
        self, serve: Callable[..., None], run_dir: Path, *, gpus: Sequence[str] = (), log_dir: Path | None = None
    ) -> None:
        """`serve(pipe, worker, run_dir, log_dir, model)` is run in each (commands/chunk_worker.py). `gpus` has for each
        process the GPUs that it sees, as in CUDA_VISIBLE_DEVICES; empty for processes that see what this one sees."""
        self._serve, self._run_dir, self._log_dir = serve, run_dir.absolute(), log_dir and log_dir.absolute()
        self._gpus = list(gpus)
        self._processes: dict[str, _Process] = {}
        self._gpus_of: dict[str, str | None] = {}
        """Of every process that there was."""
        self._messages: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._started = 0

    def start(self, model: ModelRef) -> str:
        self._started += 1
        name = f"worker-{self._started}"
        log_dir = self._log_dir / name if self._log_dir else None
        process = _Process(name, self._free_gpus(), self._messages)
        self._processes[name] = process
        self._gpus_of[name] = process.gpus
        try:
            process.begin(self._serve, name, self._run_dir, log_dir, model)
        except (WorkerDied, OSError) as error:  # such as no memory for one more process
            self._messages.put((name, WorkerDied(f"it could not be started: {error}")))
        return name

    def send(self, worker: str, job: Job) -> None:
        if worker in self._processes:
            self._processes[worker].send(job)

    def kill(self, worker: str) -> None:
        if (process := self._processes.pop(worker, None)) is not None:
            process.kill()

    def avoid(self, worker: str) -> bool:
        if (gpus := self._gpus_of[worker]) in self._gpus:
            self._gpus.remove(gpus)
        return False  # a process for each place

    def wait(self, timeout_s: float) -> Sequence[WorkerEvent]:
        events: list[WorkerEvent] = []
        try:
            message = self._messages.get(timeout=timeout_s)
            while True:
                events += self._events_of(*message)
                message = self._messages.get_nowait()
        except Empty:
            return events

    def close(self) -> None:
        idle = [process for process in self._processes.values() if process.is_idle]
        for process in idle:
            process.send(None)
        deadline = time.monotonic() + GRACE_S
        for process in idle:
            process.has_closed.wait(max(0.0, deadline - time.monotonic()))
        for name in list(self._processes):
            self.kill(name)
        wait_for_orphans()  # servers of those that did not close them
        while not self._messages.empty():
            self._messages.get_nowait()

    def _events_of(self, name: str, message: Any) -> list[WorkerEvent]:
        process = self._processes.get(name)
        if process is None:  # it was killed meanwhile
            return []
        if isinstance(message, Ready | Made):
            process.unanswered -= 1
            return [message]
        if message is None:
            message = Lost(worker=name, why=f"it {process.how_it_ended()}")
        elif isinstance(message, Exception):
            message = failure(name, message)
        if isinstance(message, Lost | Refused):
            self.kill(name)
        return [message]

    def _free_gpus(self) -> str | None:
        """What a new process is to see: what no other process has."""
        taken = [process.gpus for process in self._processes.values()]
        free = list(self._gpus)
        for gpus in taken:
            if gpus in free:
                free.remove(gpus)
        return free[0] if free else None


class _Process:
    """One process, with the threads that send to it and receive from it."""

    def __init__(self, name: str, gpus: str | None, messages: "SimpleQueue[tuple[str, Any]]") -> None:
        self.gpus = gpus
        self.unanswered = 1
        """What it has yet to answer: that it is ready, and jobs."""
        self.has_closed = threading.Event()
        """Whether it has closed its engine, or is gone."""
        self._name, self._messages = name, messages
        self._worker = Worker(environment={} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})
        self._to_send: SimpleQueue[Job | None] = SimpleQueue()
        self._ends = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send_all, self._receive_all)]

    @property
    def is_idle(self) -> bool:
        return not self.unanswered

    def begin(self, function: Callable[..., None], *arguments: Any) -> None:
        self._worker.begin(self, function, *arguments)
        for thread in self._threads:
            thread.start()

    def how_it_ended(self) -> str:
        return self._worker.how_it_ended()

    def send(self, job: Job | None) -> None:
        self.unanswered += job is not None
        self._to_send.put(job)

    def kill(self) -> None:
        """End the process, hung or not; returns when it is gone."""
        self._ends = True
        self._worker.strike()
        self._to_send.put(None)
        for thread in self._threads:  # their pipe is closed at the other end now
            if thread.is_alive():
                thread.join(JOIN_S)
        self._worker.kill()

    def _send_all(self) -> None:
        while True:
            job = self._to_send.get()
            if self._ends:
                return
            try:
                self._worker.pipe.send(job)
            except OSError:
                return  # it is gone, and the other thread says so

    def _receive_all(self) -> None:
        try:
            while True:
                message = self._worker.pipe.recv()
                if message is None:
                    self.has_closed.set()
                else:
                    self._messages.put((self._name, message))
        except (EOFError, OSError):
            self.has_closed.set()
            self._messages.put((self._name, None))


def device_groups(gpus: Sequence[str], per_worker: float) -> list[str]:
    """The GPUs of each process, as CUDA_VISIBLE_DEVICES has them: `per_worker` for each, or below 1 so many processes
    on each GPU as have room. GPUs that are left over are not used."""
    if per_worker < 1:
        return [gpu for gpu in gpus for _ in range(int(1 / per_worker))]
    size = int(per_worker)
    return [",".join(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]

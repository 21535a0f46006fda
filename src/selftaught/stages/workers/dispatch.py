"""Who does what: hands jobs to workers, and gives the same results whatever happens to the workers meanwhile.

Nothing here starts a process or reads a clock: a `WorkerSource` brings the workers, and the clock is handed in. A job
goes to a worker that is ready; a worker has at most two, so that it need not wait for the next one. What a lost worker
had is done by another, what a late one has is done by another as well, and the first result counts.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

from selftaught.records.errors import RefusedError, WorkerDied
from selftaught.records.events import Event, Note, TokensGenerated, WorkersChanged
from selftaught.records.samples import ModelRef
from selftaught.stages.workers.losses import Limits, Losses, error_of, located
from selftaught.stages.workers.protocol import (
    ChunkJob,
    Finished,
    FinishedChunk,
    Job,
    Lost,
    Made,
    Ready,
    Refused,
    Said,
    Told,
    Waits,
    WorkerEvent,
    WorkerSource,
)

IN_FLIGHT = 2
"""Jobs of a worker: the one that it does, and the next."""
START_S = 1800.0
"""Seconds in which a worker must have loaded its model, if a chunk has no more."""
LONGEST_WAIT_S = 60.0
IDLE_WAIT_S = 1.0
"""How often a run in which no worker has anything to do yet looks whether it is to stop."""
LAST_LOOK_S = 0.2
"""For what has come meanwhile to be told, before a worker is taken for late."""


@dataclass(slots=True, eq=False)
class _Task:
    """A job and what has become of it."""

    job: Job
    result: Finished | None = None
    """Kept only while another worker still has the job, for a comparison."""
    is_done: bool = False


@dataclass(slots=True, eq=False)
class _Worker:
    name: str
    since: float
    """When it began what it does now: to start, or its first task."""
    is_ready: bool = False
    is_late: bool = False
    """Whether its first task has taken longer than it may; it gets no more work until it answers."""
    tasks: deque[_Task] = field(default_factory=deque)
    """The first is the one that it does."""


class Dispatcher:
    """The workers of a run, and the jobs that they have. Workers stay between calls, until `close`."""

    def __init__(
        self,
        source: WorkerSource,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[Event], None] = lambda event: None,
        working: Callable[[Literal["sampling", "loading"]], AbstractContextManager[None]] = lambda work: nullcontext(),
        platform: str | None = None,
        keep_platform: Callable[[str], None] = lambda platform: None,
    ) -> None:
        """`working` is entered while workers generate, or while all of them load. `platform` is that of the first
        worker of an earlier start; without one, `keep_platform` is told that of the first worker of this one."""
        self._source, self._limits = source, limits
        self._clock, self._tell, self._working = clock, tell, working
        self._model: ModelRef | None = None
        self._places = limits.workers
        """Workers that there may be: fewer with every place that has turned out to be no good."""
        self._wanted = 0
        """Workers that there are to be: lost ones are replaced."""
        self._workers: dict[str, _Worker] = {}
        self._waiting: deque[_Task] = deque()
        """What has to be done again, before anything new."""
        self._events: deque[WorkerEvent] = deque()
        self._heard = clock()
        """What has happened until then is known."""
        self._platform, self._keep_platform = platform, keep_platform
        self._losses = Losses(limits)
        self._ends_with: Exception | None = None
        """What the run ends with, once all that has come besides is handed on."""
        self._said: set[str] = set()
        self._told: WorkersChanged | None = None

    def start(self, model: ModelRef, *, workers: int | None = None) -> None:
        """Have so many workers, or as many as there may be, start on a model; the model is that of all later jobs."""
        assert self._model in (None, model), "close() comes before another model"
        self._model = model
        number = self._places if workers is None else min(workers, self._places)
        self._wanted = max(self._wanted, number)
        self._replace()

    def finished(
        self, jobs: Iterable[Job], *, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Job, Finished]]:
        """Do jobs, each once; gives their results in the order in which they come. Draws a job when a worker can take
        it.

        When `should_stop` says so after a result, what workers have in hand is finished, and what they have not begun
        is not; as long as no worker has anything in hand, it is asked every second. Raises, after all results that have
        come, what ends the run: what workers were refused for, WorkerFault for a mistake that several have met, and
        WorkerDied if too many were lost.
        """
        left, undone, is_last = iter(jobs), set[_Task](), False
        try:
            while True:
                is_stopped = (is_last or not self._is_busy()) and should_stop()
                if is_stopped:
                    in_hand = {worker.tasks[0] for worker in self._workers.values() if worker.tasks}
                    for task in undone - in_hand:
                        task.is_done = True
                    undone &= in_hand
                    self._waiting.clear()
                else:
                    undone |= set(self._hand_out(left))
                    self._replace()
                if not undone:
                    if is_stopped or (job := next(left, None)) is None:
                        return
                    # No worker is ready yet, and there is work: else nothing would wait for one.
                    undone.add(task := _Task(job))
                    self._waiting.append(task)
                    continue
                self._tell_state()
                for task, result in self._wait():
                    if task in undone:
                        undone.remove(task)
                        is_last = True
                        yield task.job, result
                self._look_for_late_ones()
        finally:
            for task in undone:  # nobody waits for them any more
                task.is_done = True
            self._waiting.clear()

    def do(self, job: Job, *, should_stop: Callable[[], bool] = lambda: False) -> Finished | None:
        """Do one job, by one worker; None if `should_stop` says so before a worker has it."""
        if not self._workers:
            self.start(job.model, workers=1)
        return next((result for _, result in self.finished([job], should_stop=should_stop)), None)

    def close(self) -> None:
        """End all workers; returns when their memory is free."""
        if self._model is not None:
            self._source.close()
        self._model, self._wanted = None, 0
        self._workers, self._events = {}, deque()
        self._tell_state()

    # Handing out.

    def _hand_out(self, left: Iterator[Job]) -> Iterator[_Task]:
        """Give every worker what it can take; yields the tasks that are new."""
        while True:
            free = [w for w in self._workers.values() if w.is_ready and not w.is_late and len(w.tasks) < IN_FLIGHT]
            if not free:
                return
            worker = min(free, key=lambda w: len(w.tasks))
            if self._waiting:
                task = self._waiting.popleft()
            elif (job := next(left, None)) is not None:
                yield (task := _Task(job))
            else:
                return
            if not worker.tasks:
                worker.since = self._clock()
            worker.tasks.append(task)
            self._source.send(worker.name, task.job)

    def _replace(self) -> None:
        while self._ends_with is None and self._model is not None and len(self._workers) < self._wanted:
            name = self._source.start(self._model)
            self._workers[name] = _Worker(name, self._clock())

    def _again(self, tasks: Iterable[_Task]) -> None:
        """Have tasks done once more, if they are not done and no other worker that answers has them."""
        held = {task for worker in self._workers.values() if not worker.is_late for task in worker.tasks}
        again = [task for task in tasks if not task.is_done and task not in held and task not in self._waiting]
        self._waiting.extendleft(reversed(again))

    # What happens.

    def _wait(self) -> Iterator[tuple[_Task, Finished]]:
        """Wait for something to happen; yields the results that came, each of a task that was not done before. Raises
        what ends the run after the last of them."""
        if not self._events and self._ends_with is None:
            self._heard = now = self._clock()
            first = min((self._due(w) for w in self._workers.values()), default=now + LONGEST_WAIT_S)
            longest = LONGEST_WAIT_S if self._is_busy() else IDLE_WAIT_S
            is_loading = not any(worker.is_ready for worker in self._workers.values())
            with self._working("loading" if is_loading else "sampling"):
                self._events += self._source.wait(min(max(first - now, LAST_LOOK_S), longest))
        while self._events:  # one at a time, so that whoever stops listening loses none
            event = self._events.popleft()
            if (worker := self._workers.get(event.worker)) is None:
                continue  # it was ended before
            match event:
                case Ready(platform=platform):
                    self._welcome(worker, platform)
                case Waits():
                    if any(w.is_ready for w in self._workers.values()):  # else none may ever have a place
                        worker.since = self._clock()
                case Told(tokens=tokens):
                    self._tell(TokensGenerated(tokens=tokens))
                case Said(line=line):
                    if line not in self._said:
                        self._said.add(line)
                        self._tell(Note(text=line))
                case Lost() | Refused():
                    self._lose(worker, event)
                case Made(result=result):
                    if (task := self._receive(worker, result)) is not None:
                        yield task, result
        if self._ends_with is not None:
            raise self._ends_with

    def _welcome(self, worker: _Worker, platform: str) -> None:
        if self._platform is None:
            self._platform = platform
            self._keep_platform(platform)
        if platform == self._platform or self._limits.any_machine:
            worker.is_ready = self._losses.was_ready = True
            return
        self._source.kill(worker.name)
        del self._workers[worker.name]
        self._tell(
            Note(
                text=f"worker {worker.name} is not used: it has {platform}, the run's first one {self._platform}; "
                "cluster.any_machine=true would take it, and the run would no longer repeat itself byte for byte"
            )
        )
        self._avoid(
            worker,
            WorkerDied(
                f"no worker is left that is like the run's first one: that had {self._platform}, the last one here has "
                f"{platform}; what was finished is saved. Carry on where there are machines like the first one, or "
                "take all with cluster.any_machine=true, which gives up byte identity"
            ),
        )

    def _avoid(self, worker: _Worker, error: Exception) -> None:
        """Have no worker any more where this one was; the run ends with the error if there is no other place."""
        if not self._source.avoid(worker.name):
            self._places -= 1
            self._wanted = min(self._wanted, self._places)
        if self._places < 1:
            self._ends_with = self._ends_with or error

    def _receive(self, worker: _Worker, result: Finished) -> _Task | None:
        """The task of a result, if it is the first one."""
        if not worker.tasks or worker.tasks[0].job.number != result.number:
            text = f"worker {worker.name} sent the result of a job that it did not have: {result.number}"
            self._ends_with = self._ends_with or RefusedError(text)
            return None
        task = worker.tasks.popleft()
        worker.since, worker.is_late = self._clock(), False
        for other in worker.tasks:  # it answers again, so nobody else need do them
            if other in self._waiting:
                self._waiting.remove(other)
        if task.is_done:
            if task.result is not None and _differ(task.result, result):
                self._tell(
                    Note(
                        text=f"warning: two workers made chunk {result.number} differently; the first one counts, and "
                        "the run may not repeat itself byte for byte"
                    )
                )
            return None
        task.is_done = True
        if task in self._waiting:
            self._waiting.remove(task)
        if any(task in other.tasks for other in self._workers.values()):
            task.result = result
        return task

    def _lose(self, worker: _Worker, loss: Lost | Refused) -> None:
        del self._workers[worker.name]
        self._again(worker.tasks)
        work = worker.tasks[0] if worker.tasks else self._model
        after = self._losses.add(loss, work, was_opening=not worker.is_ready)
        if isinstance(after, Exception):
            self._ends_with = self._ends_with or after
            return
        does = "no other one starts in its place" if after == "avoid" else "another one does its work"
        self._tell(Note(text=f"worker {worker.name} was lost ({located(loss)}); {does}"))
        if after == "avoid":
            self._avoid(worker, error_of(loss, f"no place for a worker is left: {located(loss)}"))

    # Being late.

    def _due(self, worker: _Worker) -> float:
        """When to look at a worker at the latest."""
        timeout = self._limits.chunk_timeout
        if not worker.is_ready:
            return worker.since + max(timeout, START_S)
        if not worker.tasks:
            return self._clock() + LONGEST_WAIT_S
        return worker.since + (2 * timeout if worker.is_late else timeout)

    def _look_for_late_ones(self) -> None:
        now = self._heard  # whoever takes the results may have taken longer than a chunk may
        for worker in [w for w in self._workers.values() if self._due(w) <= now]:
            if not worker.is_ready:
                self._end(worker, f"it has not loaded its model in {now - worker.since:.0f} s")
            elif worker.is_late:
                self._end(worker, f"it has not answered for {now - worker.since:.0f} s")
            elif all(w is worker or w.is_late for w in self._workers.values()):
                waited = f"it has not answered for {now - worker.since:.0f} s, longer than cluster.chunk_timeout"
                self._end(worker, f"{waited}, and there is no other")
            else:
                worker.is_late = True
                self._again(worker.tasks)
                self._tell(
                    Note(
                        text=f"worker {worker.name} has had a chunk for {now - worker.since:.0f} s, longer than "
                        "cluster.chunk_timeout; another one makes it as well, and the first result counts"
                    )
                )

    def _end(self, worker: _Worker, why: str) -> None:
        self._source.kill(worker.name)
        self._lose(worker, Lost(worker=worker.name, why=why))

    def _is_busy(self) -> bool:
        """Whether a worker has anything in hand that is still waited for."""
        return any(not task.is_done for worker in self._workers.values() for task in worker.tasks)

    def _tell_state(self) -> None:
        """Tell how many workers there are and what they have, if that has changed."""
        workers = self._workers.values()
        state = WorkersChanged(
            ready=sum(w.is_ready for w in workers),
            starting=sum(not w.is_ready for w in workers),
            losses=self._losses.number,
            in_flight=len({t for w in workers for t in w.tasks if not t.is_done and isinstance(t.job, ChunkJob)}),
        )
        if state != self._told and (workers or self._told):
            self._told = state
            self._tell(state)


def _differ(first: Finished, second: Finished) -> bool:
    if isinstance(first, FinishedChunk) and isinstance(second, FinishedChunk):
        return (first.lines, first.prompts) != (second.lines, second.prompts)
    return first != second

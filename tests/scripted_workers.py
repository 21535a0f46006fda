"""Workers by a script: no process, no clock. They make the chunks of the toy task, and start, answer, die and hang when
the script says so."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from selftaught.engines.scripted import ScriptedEngine
from selftaught.methods.method import Draw
from selftaught.records.problems import Task, by_id
from selftaught.records.prompts import ChunkPrompts
from selftaught.records.samples import Kind, ModelRef, Sample
from selftaught.runs.lines import dump
from selftaught.runs.prompts import rendered_prompts
from selftaught.stages.sampling import Sampling, generate_chunk, sampling_spec
from selftaught.stages.workers.protocol import (
    ChunkJob,
    Finished,
    FinishedChunk,
    FinishedRenders,
    FinishedScores,
    Job,
    Lost,
    Made,
    Ready,
    ScoreJob,
    Told,
    Waits,
    WorkerEvent,
    failure,
)


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What becomes of one worker."""

    starts_s: float = 1.0
    takes_s: tuple[float, ...] = (1.0,)
    """For one job after the other, and again from the first."""
    dies_after: int | None = None
    """Jobs that it finishes before it dies; None for a worker that lives."""
    is_told: bool = True
    """Whether its death is noticed; else it is never heard of again."""
    platform: str = "a machine"
    waits: bool = False
    """Whether it says that it has no place, until it is ready."""
    raised: Exception | None = None
    """What opening the model raises."""


@dataclass
class _Scripted:
    fate: Fate
    jobs: list[Job] = field(default_factory=list)
    is_ready: bool = False
    done: int = 0


class ScriptedWorkers:
    """A `WorkerSource` whose workers have the fates of a list, in the order of their start, and then live."""

    def __init__(
        self,
        maker: Callable[[Job], Finished],
        fates: Sequence[Fate] = (),
        *,
        alter: Callable[[str, Finished], Finished] = lambda worker, result: result,
    ) -> None:
        self._maker, self._fates, self._alter = maker, list(fates), alter
        self._now = 0.0
        self._workers: dict[str, _Scripted] = {}
        self._due: list[tuple[float, int, str, Callable[[], WorkerEvent | None]]] = []
        self._numbers = count()
        self.started: list[str] = []
        self.made: list[tuple[str, int]] = []
        """Stage and number of every chunk that was finished, also twice."""
        self.closed = 0
        self.avoided: list[str] = []

    def clock(self) -> float:
        return self._now

    def start(self, model: ModelRef) -> str:
        name = f"w{len(self.started)}"
        fate = self._fates[len(self.started)] if len(self.started) < len(self._fates) else Fate()
        self.started.append(name)
        self._workers[name] = _Scripted(fate)
        self._at(fate.starts_s, name, lambda: self._ready(name))
        return name

    def send(self, worker: str, job: Job) -> None:
        if (there := self._workers.get(worker)) is None:
            return  # it has died, and nobody has listened yet
        assert there.is_ready, "work goes to a ready worker"
        there.jobs.append(job)
        assert len(there.jobs) <= 2, "two in flight at most"
        if len(there.jobs) == 1:
            self._begin(worker)

    def kill(self, worker: str) -> None:
        self._workers.pop(worker, None)

    def avoid(self, worker: str) -> bool:
        assert worker not in self._workers, "it has ended"
        self.avoided.append(worker)
        return False

    def wait(self, timeout_s: float) -> Sequence[WorkerEvent]:
        end, events = self._now + timeout_s, list[WorkerEvent]()
        while self._due and self._due[0][0] <= (self._now if events else end):
            at, _, worker, happens = heapq.heappop(self._due)
            self._now = max(self._now, at)
            if worker in self._workers and (event := happens()) is not None:
                events += [Told(worker=worker, tokens=3)] if isinstance(event, Made) else []
                events.append(event)
        if not events:
            self._now = end
        return [*events, *(Waits(worker=name) for name, w in self._workers.items() if w.fate.waits and not w.is_ready)]

    def pass_time(self, seconds: float) -> None:
        """Nobody looks at the workers for so long."""
        self._now += seconds

    def close(self) -> None:
        self._workers.clear()
        self._due.clear()
        self.closed += 1

    def _at(self, after_s: float, worker: str, happens: Callable[[], WorkerEvent | None]) -> None:
        heapq.heappush(self._due, (self._now + after_s, next(self._numbers), worker, happens))

    def _ready(self, worker: str) -> WorkerEvent | None:
        there = self._workers[worker]
        if there.fate.dies_after is not None and there.fate.dies_after < 0:
            return self._die(worker)
        if there.fate.raised is not None:
            del self._workers[worker]
            return failure(worker, there.fate.raised)
        there.is_ready = True
        return Ready(worker=worker, platform=there.fate.platform)

    def _begin(self, worker: str) -> None:
        there = self._workers[worker]
        takes = there.fate.takes_s[there.done % len(there.fate.takes_s)]
        self._at(takes, worker, lambda: self._finish(worker))

    def _finish(self, worker: str) -> WorkerEvent | None:
        there = self._workers[worker]
        if there.fate.dies_after is not None and there.done >= there.fate.dies_after:
            return self._die(worker)
        job = there.jobs.pop(0)
        there.done += 1
        try:
            result = self._alter(worker, self._maker(job))
        except Exception as error:
            del self._workers[worker]
            return failure(worker, error)
        if there.jobs:
            self._begin(worker)
        if isinstance(job, ChunkJob):
            self.made.append((job.stage, job.number))
        return Made(worker=worker, result=result)

    def _die(self, worker: str) -> WorkerEvent | None:
        if not self._workers[worker].fate.is_told:
            return None
        del self._workers[worker]
        return Lost(worker=worker, why="killed by signal 9")


class ToyMaker:
    """What a worker of a run on the toy task makes."""

    def __init__(self, config: Any, task: Task, reply: Callable[[str, int], str]) -> None:
        self._config, self._task, self._engine = config, task, ScriptedEngine(reply)

    def __call__(self, job: Job) -> Finished:
        if isinstance(job, ScoreJob):
            return FinishedScores(number=job.number, scores=tuple(self._engine.score(job.requests, job.completions)))
        if not isinstance(job, ChunkJob):
            return FinishedRenders(number=job.number, rendered=None)
        rendered: list[ChunkPrompts] = []
        samples = generate_chunk(
            self._engine,
            self._sampling(job.kind, job.iteration, job.model, job.num_shots, job.temperature),
            job.planned,
            on_prompts=lambda head, prompts, render: rendered.append(rendered_prompts(head, prompts, render)),
        )
        return FinishedChunk(
            number=job.number,
            lines=tuple(dump(Sample, sample) for sample in samples),
            prompts=rendered[0],
            tokens=sum(sample.num_tokens for sample in samples),
            seconds=1.0,
        )

    def samples(self, draw: Draw) -> list[Sample]:
        """Of a draw in iteration 1."""
        sampling = self._sampling(draw.kind, 1, ModelRef(path="scripted"), 2, self._config.sampling.temperature)
        return generate_chunk(self._engine, sampling, draw.planned)

    def _sampling(self, kind: Kind, iteration: int, model: ModelRef, num_shots: int, temperature: float) -> Sampling:
        spec = sampling_spec(
            self._config,
            self._task,
            num_shots=num_shots,
            temperature=temperature,
            again=kind == "rationalization",
            iteration=iteration,
        )
        return Sampling(
            task=self._task,
            problems=by_id(self._task.examples_and_problems()),
            model=model,
            spec=spec,
            iteration=iteration,
            run_seed=self._config.seed,
        )

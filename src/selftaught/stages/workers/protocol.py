"""What a run and the processes that sample for it tell each other.

A worker opens the engine on the run's model, makes whole chunks, verdicts included, and hands back finished lines. The
run alone decides what is made, and alone writes.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from selftaught.records.errors import EngineError, SelftaughtError, WorkerDied, one_line
from selftaught.records.prompts import ChunkPrompts, Prompt, RenderedPrompt
from selftaught.records.samples import Kind, ModelRef, PlannedSample, Request, TokenScores
from selftaught.runs.shared_chunks import Use


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkJob:
    """One chunk to make. What it asks of a worker is a function of the run folder and these fields alone."""

    number: int
    """Position in the order of the plan, from 0, in the stage; the finished chunk has the same."""
    stage: str
    """`rationale`, `rationalization`, a split, or `passes`."""
    kind: Kind
    iteration: int
    model: ModelRef
    planned: tuple[PlannedSample, ...]
    temperature: float
    num_shots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """Completions to score: the probe of a training, and the proof of a worker's weights."""

    number: int
    model: ModelRef
    requests: tuple[Request, ...]
    completions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderJob:
    """Prompts to render as the model gets them, for a comparison with what was sampled from."""

    number: int
    model: ModelRef
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedChunk:
    number: int
    lines: tuple[bytes, ...]
    """Of the stage's file, one for each planned sample, in their order."""
    prompts: ChunkPrompts
    """What they were generated from."""
    tokens: int
    """That were generated for it."""
    seconds: float
    use: Use | None = None
    """What the run has to note of a chunk that runs of a comparison share; None for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedScores:
    number: int
    scores: tuple[TokenScores, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRenders:
    number: int
    rendered: tuple[RenderedPrompt, ...] | None
    """None if the engine renders no prompts."""


Job = ChunkJob | ScoreJob | RenderJob
Finished = FinishedChunk | FinishedScores | FinishedRenders


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker has loaded the model, and its weights are proven."""

    worker: str
    platform: str
    """What decides the bytes besides the weights: GPU model, driver, versions; equal workers say equal things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    worker: str
    result: Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """New tokens since the worker last told; decides nothing."""

    worker: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the user should know of how a worker does its work; said once for all workers that say the same."""

    worker: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """A worker has no place on a machine yet, so that it cannot have begun to load its model; told again and again."""

    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A worker has ended, or cannot be reached; what it had is to be made elsewhere."""

    worker: str
    why: str
    traceback: str = ""
    """Of an exception that is not for the user to put right; else empty."""
    node: str = ""
    """The name of the machine where it was; empty for this one, or if it had no place yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A worker cannot do its work for a reason that somebody has to put right: everywhere, or at its place."""

    worker: str
    error: Exception
    node: str = ""
    """As of `Lost`."""


WorkerEvent = Ready | Made | Told | Said | Waits | Lost | Refused


def failure(worker: str, error: Exception) -> Lost | Refused:
    """What an exception in a worker means. An engine that died, memory that ran out or a device that failed may go well
    in another worker; what the user has to put right would not, at least at the same place. Any other exception is a
    mistake, whose type and traceback are for whoever mends it."""
    if isinstance(error, EngineError | WorkerDied):
        return Lost(worker=worker, why=one_line(error))
    if isinstance(error, SelftaughtError):
        return Refused(worker=worker, error=error)
    kind = type(error).__name__
    why = kind if (text := one_line(error)) == kind else f"{kind}: {text}"
    return Lost(worker=worker, why=why, traceback="".join(traceback.format_exception(error)))


class WorkerSource(Protocol):
    """Where workers come from. No call but `wait` and `close` blocks; `wait` raises if none can ever have a place."""

    def start(self, model: ModelRef) -> str:
        """Begin to start one more worker on a model, and return its name; `wait` tells when it is ready."""
        ...

    def send(self, worker: str, job: Job) -> None:
        """Give a ready worker one more job; it does its jobs in order. A worker that is gone is told by `wait`."""
        ...

    def kill(self, worker: str) -> None:
        """End a worker at once, hung or not; nothing more is told of it."""
        ...

    def avoid(self, worker: str) -> bool:
        """Start no worker any more where this one was, which has ended: on its GPUs, or its node of a cluster. Returns
        whether there is another place for one."""
        ...

    def wait(self, timeout_s: float) -> Sequence[WorkerEvent]:
        """What has happened since the last call; waits for the first event, at most so long."""
        ...

    def close(self) -> None:
        """End all workers, and return when they are gone with their memory."""
        ...

"""What happens in a run, as frozen records: the loop tells each of them once, and any number of listeners hear it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from selftaught.records.measurements import IterationSummary, Measurement, SamplingCounts
from selftaught.records.problems import Problem
from selftaught.records.prompts import Prompt
from selftaught.records.samples import Kind, Sample
from selftaught.records.training import Checkpoint, StepMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that a person should know, in a sentence."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBegan:
    """A stage of an iteration begins, or is carried on."""

    iteration: int
    stage: str
    """`rationale`, `rationalization`, `train`, or the split that is measured."""
    total: int | None
    """Samples, or optimizer steps; None if the method decides as it goes."""
    done: int = 0
    """Of these, how many were on disk before."""
    correct: int = 0
    """Of the samples on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensGenerated:
    """Tokens that the engine has generated since the last such event, of completions that may not be finished.

    Not every engine tells them; `SampleMade` has those of a finished completion again.
    """

    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleMade:
    """A sample is complete; its chunk is not saved yet."""

    sample: Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSaved:
    """A chunk of samples is on disk; the first one that a stage generated is there to be read in full."""

    iteration: int
    stage: str
    samples: int
    first: Sample
    prompt: Prompt
    """Of `first`."""
    problem: Problem
    """Of `first`."""
    is_first: bool
    """Whether the stage had no samples before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersChanged:
    """The processes that sample for the run, or what they have, are others than before."""

    ready: int
    starting: int
    losses: int
    """Since the run's process started."""
    in_flight: int
    """Chunks that workers have and have not finished."""

    @property
    def has_workers(self) -> bool:
        return self.ready + self.starting > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnded:
    """All samples of a stage are on disk. A method that decides as it goes has several rounds of one stage."""

    iteration: int
    stage: str
    kind: Kind
    counts: SamplingCounts
    tokens: int
    """That this process generated in the stage."""
    seconds: float
    """Wall clock of this process in the stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTaken:
    """An optimizer step."""

    iteration: int
    steps: int
    """Steps of this training in all."""
    metrics: StepMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTrained:
    """A training has ended, and its checkpoint has its final name."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitMeasured:
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationEnded:
    summary: IterationSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """The result is on disk."""

    work_s: Mapping[str, float]
    """Seconds of this process by kind of work."""


Event = (
    Note
    | StageBegan
    | TokensGenerated
    | SampleMade
    | ChunkSaved
    | WorkersChanged
    | StageEnded
    | StepTaken
    | ModelTrained
    | SplitMeasured
    | IterationEnded
    | RunEnded
)


class Listener(Protocol):
    """Whoever is told what happens: the terminal, a file, a tracker. It changes nothing in the run."""

    def tell(self, event: Event) -> None:
        """Must return soon, because the run waits for it. If it raises, it is told nothing more (tracking/)."""

    def close(self) -> None:
        """The process is about to end, whether the run has or not."""

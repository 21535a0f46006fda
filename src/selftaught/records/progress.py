"""What the loop reports while it works. The loop does not know who receives it."""

from collections.abc import Sequence
from typing import Protocol

from selftaught.records.measurements import IterationSummary, Measurement
from selftaught.records.problems import Problem
from selftaught.records.samples import Sample
from selftaught.records.training import Checkpoint, StepMetrics


class Progress(Protocol):
    def stage(self, iteration: int, name: str, total: int, done: Sequence[Sample] = ()) -> None:
        """A stage of `total` samples (or optimizer steps) begins; `done` are already on disk."""

    def sample(self, sample: Sample) -> None:
        """A sample is complete; its chunk is not saved yet."""

    def show(self, prompt: str, problem: Problem, sample: Sample) -> None:
        """The first sample of a stage, for a person to read in full."""

    def stage_done(self, iteration: int, name: str, samples: Sequence[Sample]) -> None: ...

    def step(self, metrics: StepMetrics) -> None: ...

    def trained(self, iteration: int, checkpoint: Checkpoint) -> None: ...

    def measured(self, measurement: Measurement) -> None: ...

    def iteration_done(self, summary: IterationSummary) -> None: ...

    def note(self, text: str) -> None:
        """Something unusual, in a sentence."""


class Silent:
    """Ignores every report."""

    def stage(self, iteration: int, name: str, total: int, done: Sequence[Sample] = ()) -> None:
        pass

    def sample(self, sample: Sample) -> None:
        pass

    def show(self, prompt: str, problem: Problem, sample: Sample) -> None:
        pass

    def stage_done(self, iteration: int, name: str, samples: Sequence[Sample]) -> None:
        pass

    def step(self, metrics: StepMetrics) -> None:
        pass

    def trained(self, iteration: int, checkpoint: Checkpoint) -> None:
        pass

    def measured(self, measurement: Measurement) -> None:
        pass

    def iteration_done(self, summary: IterationSummary) -> None:
        pass

    def note(self, text: str) -> None:
        pass

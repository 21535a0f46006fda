"""The time and the record of an iteration."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from selftaught.methods.health import warnings_for
from selftaught.records.measurements import IterationSummary, Measurement, SamplingCounts
from selftaught.records.training import TrainingExample, TrainingSummary
from selftaught.stages.lineage import WORK, Models
from selftaught.stages.setup import Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """What an iteration trains on, and the counts of its samples; the samples themselves are on disk."""

    rationale: SamplingCounts
    rationalization: SamplingCounts
    examples: Sequence[TrainingExample]
    validation: Sequence[TrainingExample]
    left_out: Mapping[str, int]
    """Reason -> number of samples."""


class Clock:
    """Seconds and tokens of this process since the clock was made; what another process did is not in them."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._began = self._last = time.monotonic()
        self._tokens, self._work_before = models.tokens, dict(models.seconds)
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, int] = {}

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 3)
        self.tokens[stage] = self._models.tokens - self._tokens
        self._last, self._tokens = now, self._models.tokens

    def tokens_per_s(self) -> dict[str, float]:
        return {name: round(self.tokens[name] / max(s, 1e-3), 1) for name, s in self.seconds.items()}

    def work_s(self) -> dict[str, float]:
        """Seconds by kind of work; `other` is everything that is not sampling, training or loading."""
        total = time.monotonic() - self._began
        seconds: dict[str, float] = {work: self._models.seconds[work] - self._work_before[work] for work in WORK}
        seconds["other"] = total - sum(seconds.values())
        return {work: round(s, 3) for work, s in seconds.items()}


def work_text(work_s: Mapping[str, float]) -> str:
    """Seconds by kind of work for people to read, with the share of `other` in the total."""
    share = work_s["other"] / max(sum(work_s.values()), 1e-3)
    return "  ".join(f"{work} {s:.1f} s" for work, s in work_s.items()) + f" ({share:.1%})"


def tally(reasons: Iterable[str]) -> dict[str, int]:
    """Counts, most frequent first."""
    return dict(Counter(reasons).most_common())


def summarize(
    setup: Setup,
    n: int,
    training_set: TrainingSet,
    train: TrainingSummary,
    dev: Measurement,
    dev_before: Measurement,
    clock: Clock,
) -> IterationSummary:
    """The record of a finished iteration, with its warnings."""
    by_source = tally(e.source for e in training_set.examples)
    return IterationSummary(
        iteration=n,
        rationale=training_set.rationale,
        rationalization=training_set.rationalization,
        examples=len(training_set.examples),
        examples_by_source=by_source,
        validation_examples=len(training_set.validation),
        left_out=training_set.left_out,
        train=train,
        dev=dev,
        seconds=clock.seconds,
        work_s=clock.work_s(),
        tokens_per_s=clock.tokens_per_s(),
        warnings=warnings_for(
            rationale=training_set.rationale,
            rationalization=training_set.rationalization,
            examples_by_source=by_source,
            batch_size=setup.config.training.batch_size,
            dev=dev,
            dev_before=dev_before,
        ),
    )

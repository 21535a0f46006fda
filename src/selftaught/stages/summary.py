"""The time and the record of an iteration."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from selftaught.methods.health import warnings_for
from selftaught.methods.training_set import TrainingSet
from selftaught.records.measurements import IterationSummary, Measurement, SamplingCounts
from selftaught.records.training import TrainingSummary
from selftaught.stages.lineage import WORK, Models
from selftaught.stages.setup import Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What an iteration trains on, and the counts of its samples; the samples themselves are on disk."""

    training_set: TrainingSet
    rationale: SamplingCounts
    rationalization: SamplingCounts


class Clock:
    """Seconds and tokens of this process since the clock was made; what another process did is not in them."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._began = self._last = time.monotonic()
        self._tokens, self._work_before = models.tokens, dict(models.seconds)
        self.seconds = {"rationale": 0.0, "rationalization": 0.0}
        self.tokens = {"rationale": 0, "rationalization": 0}

    def lap(self, stage: str) -> None:
        """End a stage, or a round of it."""
        now = time.monotonic()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 3)
        self.tokens[stage] = self.tokens.get(stage, 0) + self._models.tokens - self._tokens
        self._last, self._tokens = now, self._models.tokens

    def tokens_per_s(self) -> dict[str, float]:
        return {name: round(self.tokens[name] / max(s, 1e-3), 1) for name, s in self.seconds.items()}

    def work_s(self) -> dict[str, float]:
        """Seconds by kind of work; `other` is everything that is not sampling, training or loading."""
        total = time.monotonic() - self._began
        seconds: dict[str, float] = {work: self._models.seconds[work] - self._work_before[work] for work in WORK}
        seconds["other"] = total - sum(seconds.values())
        return {work: round(s, 3) for work, s in seconds.items()}


def tally(reasons: Iterable[str]) -> dict[str, int]:
    """Counts, most frequent first."""
    return dict(Counter(reasons).most_common())


def summarize(
    setup: Setup,
    n: int,
    counted: Counted,
    train: TrainingSummary,
    dev_before_and_after: tuple[Measurement, Measurement],
    clock: Clock,
) -> IterationSummary:
    """The record of a finished iteration, with its warnings."""
    chosen = counted.training_set
    by_source = tally(e.source for e in chosen.examples)
    dev_before, dev = dev_before_and_after
    return IterationSummary(
        iteration=n,
        rationale=counted.rationale,
        rationalization=counted.rationalization,
        examples=len(chosen.examples),
        examples_by_source=by_source,
        validation_examples=len(chosen.validation),
        left_out=tally(item.reason for item in chosen.left_out),
        train=train,
        dev=dev,
        seconds=clock.seconds,
        work_s=clock.work_s(),
        tokens_per_s=clock.tokens_per_s(),
        warnings=warnings_for(
            rationale=counted.rationale,
            rationalization=counted.rationalization,
            steps_required="steps" in setup.config.selection.require_hinted,
            examples_by_source=by_source,
            batch_size=setup.config.training.batch_size,
            dev=dev,
            dev_before=dev_before,
        ),
    )

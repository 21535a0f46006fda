"""What an iteration came to: its time and its record."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from selftaught.checks.health import warnings_for
from selftaught.lineage import WORK, Models
from selftaught.records import IterationSummary, Measurement, SamplingCounts, TrainingExample, TrainingSummary
from selftaught.setup import Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What an iteration trains on, and the counts of what it drew; the samples themselves are on disk."""

    rationale: SamplingCounts
    rationalization: SamplingCounts
    examples: Sequence[TrainingExample]
    validation: Sequence[TrainingExample]
    left_out: Mapping[str, int]
    """Reason -> samples."""


class Clock:
    """Seconds and tokens since it was made, of this process: what was on disk already took no time here."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._began = self._last = time.monotonic()
        self._tokens, self._worked = models.tokens, dict(models.seconds)
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
        """Seconds by what was worked on; `other` is everything that is neither sampling nor training nor loading."""
        total = time.monotonic() - self._began
        spent: dict[str, float] = {work: self._models.seconds[work] - self._worked[work] for work in WORK}
        spent["other"] = total - sum(spent.values())
        return {work: round(s, 3) for work, s in spent.items()}


def work_text(work_s: Mapping[str, float]) -> str:
    """Seconds by work for a person, with the share of `other` in the whole."""
    share = work_s["other"] / max(sum(work_s.values()), 1e-3)
    return "  ".join(f"{work} {s:.1f} s" for work, s in work_s.items()) + f" ({share:.1%})"


def tally(reasons: Iterable[str]) -> dict[str, int]:
    """Counts, most frequent first."""
    return dict(Counter(reasons).most_common())


def summarize(
    setup: Setup,
    n: int,
    gathered: Gathered,
    train: TrainingSummary,
    dev: Measurement,
    dev_before: Measurement,
    clock: Clock,
) -> IterationSummary:
    """The record of a finished iteration, with what a user should look at."""
    by_source = tally(e.source for e in gathered.examples)
    return IterationSummary(
        iteration=n,
        rationale=gathered.rationale,
        rationalization=gathered.rationalization,
        examples=len(gathered.examples),
        examples_by_source=by_source,
        validation_examples=len(gathered.validation),
        left_out=gathered.left_out,
        train=train,
        dev=dev,
        seconds=clock.seconds,
        work_s=clock.work_s(),
        tokens_per_s=clock.tokens_per_s(),
        warnings=warnings_for(
            rationale=gathered.rationale,
            rationalization=gathered.rationalization,
            examples_by_source=by_source,
            batch_size=setup.config.training.batch_size,
            dev=dev,
            dev_before=dev_before,
        ),
    )

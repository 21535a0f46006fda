"""The time and the record of an iteration."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from selftaught.methods.health import Iteration, warnings_for
from selftaught.methods.metrics import changes, rate, solved_first
from selftaught.methods.training_set import TrainingSet
from selftaught.records.measurements import IterationSummary, Measurement, Rate, SamplingCounts
from selftaught.records.training import SAMPLED, TrainingSummary
from selftaught.runs.reading import read_passes, read_summaries
from selftaught.stages.lineage import WORK, Models
from selftaught.stages.setup import Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What an iteration trains on, and the counts of its samples; the samples themselves are on disk."""

    training_set: TrainingSet
    rationale: SamplingCounts
    rationalization: SamplingCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured on dev."""

    dev: Measurement
    dev_before: Measurement
    """Of the iteration before."""
    passes: Measurement | None
    """As in `IterationSummary`."""


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
    measured: Measured,
    clock: Clock,
) -> IterationSummary:
    """The record of a finished iteration, with its warnings."""
    chosen = counted.training_set
    by_source = tally(e.source for e in chosen.examples)
    kept_before = _kept_before(setup, n, chosen)
    earlier = read_summaries(setup.store.dir)
    on_dev = {k: solved_first(setup.store.samples(k, "dev")) for k in {n, n - 1, 0}}
    return IterationSummary(
        iteration=n,
        rationale=counted.rationale,
        rationalization=counted.rationalization,
        examples=len(chosen.examples),
        examples_by_source=by_source,
        validation_examples=len(chosen.validation),
        left_out=tally(item.reason for item in chosen.left_out),
        train=train,
        dev=measured.dev,
        dev_changes={name: changes(on_dev[k], on_dev[n]) for name, k in (("previous", n - 1), ("base", 0))},
        passes=measured.passes,
        kept_before=kept_before,
        seconds=clock.seconds,
        work_s=clock.work_s(),
        tokens_per_s=clock.tokens_per_s(),
        warnings=warnings_for(
            Iteration(
                rationale=counted.rationale,
                rationalization=counted.rationalization,
                first=earlier[0].rationale if earlier else None,
                require_hinted=setup.config.selection.require_hinted,
                shows=setup.config.rationalization.shows,
                examples_by_source=by_source,
                batch_size=setup.config.training.batch_size,
                kept_before=kept_before,
                dev=measured.dev,
                dev_before=measured.dev_before,
                passes=measured.passes,
                passes_before=[m for m in read_passes(setup.store.dir) if m.iteration < n],
            )
        ),
    )


def _kept_before(setup: Setup, n: int, chosen: TrainingSet) -> Rate | None:
    """Of the problems that have a sample of iteration n in its training set, those that had one in an earlier one."""
    if n == 1:
        return None
    now = {e.problem_id for e in chosen.examples if e.iteration == n and e.source in SAMPLED}
    before = {id for k in range(1, n) for id in setup.store.trained_on(k)}
    return rate(len(now & before), len(now))

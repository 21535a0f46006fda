"""What an iteration came to: its time and its record."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from selftaught.checks.health import warnings_for
from selftaught.metrics import count_samples
from selftaught.records import IterationSummary, Measurement, Sample, TrainingExample, TrainingSummary
from selftaught.selection import Selection
from selftaught.setup import Setup


class Clock:
    """Seconds and tokens by stage, of this process: what was on disk already took no time here."""

    def __init__(self, tokens: int) -> None:
        self._last, self._last_tokens = time.monotonic(), tokens
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, int] = {}

    def lap(self, stage: str, tokens: int) -> None:
        """End a stage; `tokens` is how many this process has handled so far."""
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 3)
        self.tokens[stage] = tokens - self._last_tokens
        self._last, self._last_tokens = now, tokens

    def tokens_per_s(self) -> dict[str, float]:
        return {name: round(self.tokens[name] / max(s, 1e-3), 1) for name, s in self.seconds.items()}


def tally(reasons: Iterable[str]) -> dict[str, int]:
    """Counts, most frequent first."""
    return dict(Counter(reasons).most_common())


def summarize(
    setup: Setup,
    n: int,
    rationales: Sequence[Sample],
    rationalizations: Sequence[Sample],
    selection: Selection,
    examples: Sequence[TrainingExample],
    train: TrainingSummary,
    dev: Measurement,
    dev_before: Measurement,
    clock: Clock,
) -> IterationSummary:
    """The record of a finished iteration, with what a user should look at."""
    has_steps = setup.task.check_steps is not None
    unhinted = count_samples(rationales, has_step_check=has_steps)
    hinted = count_samples(rationalizations, has_step_check=has_steps)
    by_source = tally(e.source for e in examples)
    return IterationSummary(
        iteration=n,
        rationale=unhinted,
        rationalization=hinted,
        examples=len(examples),
        examples_by_source=by_source,
        validation_examples=len(selection.held_out),
        left_out=tally(item.reason for item in selection.left_out),
        train=train,
        dev=dev,
        seconds=clock.seconds,
        tokens_per_s=clock.tokens_per_s(),
        warnings=warnings_for(
            rationale=unhinted,
            rationalization=hinted,
            examples_by_source=by_source,
            batch_size=setup.config.training.batch_size,
            dev=dev,
            dev_before=dev_before,
        ),
    )

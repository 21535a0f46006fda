"""What was counted and measured, as frozen records: every rate with its count and interval."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from selftaught.records.training import TrainingSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A rate with its count and 95 % Wilson interval."""

    n: int
    correct: int
    accuracy: float
    """correct / n, 0 to 1; 0 if n is 0."""
    interval: tuple[float, float]
    """Lower and upper end, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The accuracy of a model on a split of a task, with what it was measured by."""

    task: str
    split: str
    iteration: int
    """The iteration that trained the measured model; 0 is the base model."""
    num_shots: int
    temperature: float
    num_samples: int
    """Completions per problem, K."""
    n: int
    correct: int
    """Problems whose first completion is correct."""
    accuracy: float
    interval: tuple[float, float]
    by_class: Mapping[str, Rate]
    unparseable: int
    truncated: int
    false_positive: int | None
    """Correct answer, wrong reasoning; None where the task has no step check."""
    pass_at_k: Mapping[str, float] = field(default_factory=dict)
    """k -> chance that at least one of k completions is correct, mean over problems; empty for K = 1."""
    tokens: int = 0
    """Tokens that were generated for the measurement."""
    majority_at_k: float | None = None
    """Share of problems whose most frequent prediction of K is correct; None for K = 1."""
    checks: Mapping[str, Rate] = field(default_factory=dict)
    """As in `SamplingCounts`, over each problem's first completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingCounts:
    """The samples of one stage of one iteration, counted by verdict and by how they ended."""

    samples: int
    correct: int
    incorrect: int
    unparseable: int
    truncated: int
    false_positive: int | None
    checks: Mapping[str, Rate] = field(default_factory=dict)
    """By name, how many of the samples with a correct answer passed a check of the reasoning. `extraction` and
    `label` are over all samples: for how many strict and lenient extraction give the same verdict, and label and text
    of the answer agree."""
    ended: int | None = None
    """Ended by the end token; as the next ones, None where an older version did not count it."""
    complete_tokens: int | None = None
    """Tokens of the completions that were not truncated, the end token included."""
    solved: int | None = None
    """Problems with a correct completion."""
    solutions: int | None = None
    """Different correct solutions, summed over problems: by the task's key of a solution, or by the text with white
    space and case folded."""
    lucky: float | None = None
    """How many of the correct ones are reckoned to be so by luck (`metrics.chance_of_luck`); None without choices, and
    for fewer than LUCK_SAMPLES samples a problem."""

    @property
    def mean_tokens(self) -> float | None:
        """Of the completions that were not truncated; None without any."""
        complete = self.samples - self.truncated
        return None if self.complete_tokens is None or not complete else self.complete_tokens / complete

    @property
    def solutions_per_problem(self) -> float | None:
        """Different correct solutions of a solved problem; None without any."""
        return self.solutions / self.solved if self.solutions is not None and self.solved else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a model solves of a split and another does not."""

    n: int
    """Problems that both were measured on."""
    gained: int
    """Solved now and not before, by the first completion."""
    lost: int
    """Solved before and not now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationSummary:
    """A finished iteration; its line in iterations.jsonl marks it as finished."""

    iteration: int
    rationale: SamplingCounts
    rationalization: SamplingCounts
    examples: int
    examples_by_source: Mapping[str, int]
    validation_examples: int
    left_out: Mapping[str, int]
    train: TrainingSummary
    dev: Measurement
    seconds: Mapping[str, float]
    """By stage, of the process that finished the iteration; of a resumed stage, what this process did of it."""
    tokens_per_s: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    dev_changes: Mapping[str, Changes] = field(default_factory=dict)
    """On dev, against `previous` (the iteration before) and `base`; empty where an older version did not count them."""
    passes: Measurement | None = None
    """Dev in several samples a problem, where `pass_at_k` asks for it after this iteration."""
    kept_before: Rate | None = None
    """Of the problems with a kept sample, those with one in an earlier iteration; None in the first iteration."""
    work_s: Mapping[str, float]
    """The same seconds by kind of work: `sampling`, `training`, `loading`, `other`."""

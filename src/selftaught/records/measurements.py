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
    work_s: Mapping[str, float]
    """The same seconds by kind of work: `sampling`, `training`, `loading`, `other`."""

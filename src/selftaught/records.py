"""The words of the project as frozen records: the only things that travel between modules.

One record is one line on disk (`store.py`). Nothing here does I/O or knows a task, model or library.

`iteration` means the same in every record: the pass of the outer loop, counted from 1, that the record belongs to. 0 is
before the first pass: the base model, what is sampled to measure it, and a fine-tuning that precedes the loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from selftaught.problems import CheckResult, Verdict

Kind = Literal["rationale", "rationalization", "evaluation"]
"""Why a completion was sampled: without a hint, with a hint, or to measure a model on dev or test."""

FinishReason = Literal["end", "stop", "length"]
"""How a completion ended: the end token, a stop string, or the limit on new tokens."""

Source = Literal["rationale", "rationalization", "human", "answer", "rehearsed"]
"""Where a training example comes from; the last three are not sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """A model as data: where its weights are and what they hash to."""

    path: str
    sha256: str | None = None
    """Of the weight files, in name order; None for a model that has no files (the scripted engine)."""
    iteration: int = 0
    """The iteration that trained the model; 0 for the base model and for one trained before the first iteration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    temperature: float
    """0 is greedy."""
    top_p: float = 1.0
    """In (0, 1]; 1 is no limit."""
    top_k: int | None = None
    """None is no limit."""
    max_new_tokens: int = 256
    """Tokens, the end token included."""
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion to generate."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine generated for one request; `request` is its position in the sequence of requests."""

    request: int
    text: str
    """Without the stop string and what follows it."""
    token_ids: tuple[int, ...] | None
    """The ids that decode to `text`, without the end token; None if the engine does not know them."""
    finish_reason: FinishReason
    logprob: float | None
    """Sum over the generated tokens of their log-probability at temperature 1 (nats)."""
    num_tokens: int
    """Generated tokens, with the end token and those that were cut off; tokens/s counts these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """Log-probabilities (nats, temperature 1) of the tokens of one given completion, in order."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSample:
    """One sample to make; with the run seed and the iteration it determines the sample's seed."""

    problem_id: str
    kind: Kind
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A completion with its provenance and verdict: facts, written once and never changed."""

    problem_id: str
    iteration: int
    """The iteration that the sample is made for; 0 is before the first. A rationale or rationalization is sampled from
    the model that the iteration starts with, an evaluation sample from the model that the iteration trained."""
    kind: Kind
    index: int
    seed: int
    prompt_sha256: str
    completion: str
    token_ids: tuple[int, ...] | None
    num_tokens: int
    finish_reason: FinishReason
    logprob: float | None
    prediction: str | None
    verdict: Verdict
    checks: Mapping[str, CheckResult] = field(default_factory=dict)
    """Results of checks by name: `steps` is the task's exact check of the reasoning, `extraction` passes if strict and
    lenient extraction give the same verdict."""

    @property
    def is_false_positive(self) -> bool:
        """Whether the answer is correct and the reasoning wrong; always False without a step check."""
        steps = self.checks.get("steps")
        return self.verdict is Verdict.CORRECT and steps is not None and not steps.passed


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """Exactly what is trained on: loss on the completion (and the end token), none on the prompt."""

    problem_id: str
    prompt: str
    """Never holds the hint of a training problem; only rehearsed few-shot examples may have hints."""
    completion: str
    completion_ids: tuple[int, ...] | None
    """The sampled ids; None if there are none, so that the text has to be encoded."""
    source: Source
    iteration: int
    """The iteration that the example comes from: the one of its sample, or for an example that was not sampled the one
    that adds it to its training set. 0 is before the first."""
    index: int = 0
    """Of its sample; for a rehearsed few-shot example, 1 with a hint and 0 without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A sample that is not trained on, and why."""

    problem_id: str
    iteration: int
    kind: Kind
    index: int
    reason: str


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
    """By name, how many of the samples with a correct answer passed a check of the reasoning. `extraction` is over all
    samples: for how many strict and lenient extraction give the same verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    steps: int
    tokens: int
    """Tokens that went through the model: prompts included, padding not."""
    seconds: float
    """Wall clock, from loading to the last step."""
    first_loss: float | None
    last_loss: float | None
    """Of the first and the last step: mean over the step's loss tokens (nats)."""
    validation_loss: float | None
    """Mean loss per token on the accepted samples that are held out; None if there are none."""
    dev_answer_loss: float | None
    """Mean loss per token on the reference answers of dev; reported only, it decides nothing."""
    noise_scale: float | None = None
    """Gradient noise scale in loss tokens; None if no step had several micro-batches, or the noise hid the gradient."""
    notes: tuple[str, ...] = ()
    """What was unusual, in sentences."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One optimizer step."""

    step: int
    loss: float
    """Mean over the step's loss tokens (nats)."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    seconds: float
    """Since the training started."""
    tokens: int
    """Tokens of all steps so far, without padding; with `seconds` they give the tokens/s between two lines."""
    noise: tuple[float, float] | None = None
    """Unbiased estimates of |G|^2 and tr(S) (training/noise.py); None for a step of one micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRow:
    """A completion whose log-probabilities differ between old and new weights."""

    prompt: str
    completion: str
    old_logprobs: tuple[float, ...]
    """Under the weights that the engine serves before this training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Everything about one fine-tuning except the examples."""

    iteration: int
    steps: int
    seed: int
    examples_sha256: str
    probe: tuple[ProbeRow, ...] = ()
    dev: tuple[TrainingExample, ...] = ()
    """Reference answers of dev, for `TrainingSummary.dev_answer_loss`; never trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A fine-tuned model: checkpoints/<iteration>/checkpoint.json beside the weights."""

    iteration: int
    """The iteration that trained it; 0 for a training before the first iteration."""
    path: str
    """Relative to the run folder."""
    sha256: str
    started_from: str
    started_from_sha256: str | None
    examples: int
    examples_sha256: str
    seed: int
    train: TrainingSummary
    probe: tuple[ProbeRow, ...] = ()
    new_logprobs: tuple[tuple[float, ...], ...] = ()
    """Of the probe under the newly trained weights, as the trainer computes them."""

    def ref(self, run_dir: Path) -> ModelRef:
        return ModelRef(path=str(run_dir / self.path), sha256=self.sha256, iteration=self.iteration)


def sample_key(sample: Sample | LeftOut) -> tuple[str, int, str, int]:
    """What identifies a sample within a run; samples are sorted by it."""
    return (sample.problem_id, sample.iteration, sample.kind, sample.index)

"""Training, as frozen records: what is trained on, how long, and the model that comes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selftaught.records.prompts import Prompt
from selftaught.records.samples import ModelRef

Source = Literal["rationale", "rationalization", "human", "answer", "rehearsed"]
"""Where a training example comes from; the last three are not sampled."""

SAMPLED: tuple[Source, ...] = ("rationale", "rationalization")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """Exactly what is trained on: loss on the completion (and the end token), none on the prompt."""

    problem_id: str
    prompt: Prompt
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
    end_id: int | None = None
    """The end token that was sampled after the completion; None if there was none, so that the codec's is appended."""
    given: str = ""
    """What stands between the prompt and the completion, without loss; encoded together with the completion. Empty for
    a completion that was sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    steps: int
    tokens: int
    """Tokens that went through the model: prompts included, padding not."""
    loss_tokens: int | None = None
    """Of these, how many carried loss; None if the trainer does not say."""
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
    peak_bytes: int | None = None
    """Most memory that the training was seen to take until this step, in all its processes; None if not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRow:
    """A completion whose log-probabilities differ between old and new weights."""

    prompt: Prompt
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
class Training:
    """One fine-tuning: what is learned, from which weights on, how, and where the new weights go."""

    examples: Sequence[TrainingExample]
    validation: Sequence[TrainingExample] = ()
    """Held out, for `TrainingSummary.validation_loss`; never trained on."""
    start: ModelRef
    out_dir: Path
    """An empty folder."""
    plan: TrainingPlan


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
    weights_kept: bool = True
    """Whether the weights are in the folder still; False before they are deleted (`training.keep_weights`)."""

    def ref(self, run_dir: Path) -> ModelRef:
        return ModelRef(
            path=str(run_dir / self.path), sha256=self.sha256, iteration=self.iteration, checkpoint=self.iteration
        )

"""The section [training]: what an iteration trains on, for every trainer, and what the trainer `sft` needs."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field

from selftaught.machine.devices import Machine, NumberType
from selftaught.machine.opening import Opening
from selftaught.models.forecast import BYTES
from selftaught.models.shape import Shape
from selftaught.records.errors import ConfigError
from selftaught.records.sections import Count, OrAuto, Positive, Section, Share, SwitchOrAuto
from selftaught.training.fitting import Fitted, Rows, Switches, fit
from selftaught.training.trainer import Trainer


class TrainingConfig(Section):
    """The settings that decide what is trained on and how long, and all that a run asks of a trainer before it trains.

    A subclass gives `name` as a Literal with a default and a description, its own settings, and `opener`.
    """

    name: str
    may_change: ClassVar[frozenset[str]] = frozenset({"keep_weights"})
    """The settings that may differ when a run is carried on, because they decide nothing but disk, memory and last
    bits."""
    takes_ranks: ClassVar[bool] = False
    """Whether several processes can share a training step (`cluster.train_workers`)."""
    window: Literal["iteration", "all"] = Field(
        "iteration", description="Train on this iteration's samples, or on all so far."
    )
    human_solutions: bool = Field(False, description="Add the training problems' own human solutions.")
    target: Literal["rationale", "answer"] = Field(
        "rationale", description="`answer` trains and prompts without rationales (the direct baseline)."
    )
    start_from: Literal["base", "previous"] = Field(
        "base", description="Weights that an iteration's fine-tuning starts from."
    )
    sft_first: bool = Field(False, description="Fine-tune on the human solutions before the first sampling (RFT).")
    num_rehearsed: Count = Field(
        0,
        description="Few-shot examples added to every training set, for a model too small to learn from a prompt; with hints on, each also in hinted form.",
    )
    steps_first_iteration: Positive = Field(40, description="Optimizer steps of iteration 1.")
    steps_growth: float = Field(1.2, ge=1.0, le=10.0, description="Factor of the steps from one iteration to the next.")
    max_epochs: float = Field(
        3.0,
        gt=0.0,
        le=1000.0,
        description="Cap on the steps of an iteration: passes over its training examples. It protects the iterations that accept few.",
    )
    batch_size: Positive = Field(8, description="Sequences per optimizer step.")
    validation_share: Share = Field(
        0.05, description="Share of the accepted problems held out for the validation loss."
    )
    keep_weights: Literal["best-and-last", "all"] = Field(
        "best-and-last",
        description="Iterations whose weights stay in checkpoints/ when the next one is measured: the best one on dev so far and the last one, or all.",
    )

    def check_values(self) -> None:
        """Raise ConfigError for values that are wrong by themselves or contradict each other. Looks at nothing else."""

    def check(self) -> None:
        """Raise ConfigError if the trainer cannot be opened here; called before anything is sampled."""

    def versions(self) -> Mapping[str, str]:
        """Versions of what the trainer runs on, beyond the libraries that every run names; kept in run.json."""
        return {}

    def fitted(self, rows: Rows, shape: Shape, machine: Machine, *, free: int) -> tuple[Self, Fitted | None]:
        """The same settings with every "auto" replaced, so that a training needs no more than `free` bytes if it can.

        `rows` is what a step is expected to hold at most. run.json keeps the result, and a resume changes none of it.
        With it comes what the training needs; None if that is not known.
        """
        return self, None

    def checkpoint_bytes(self, parameters: int, shape: Callable[[], Shape], dtype: NumberType) -> int:
        """Of the weights that a training of a model saves, about; `shape` is looked at only where it matters."""
        return parameters * BYTES[dtype]

    @abstractmethod
    def opener(self, opening: Opening) -> Callable[[], Trainer]:
        """Of fitted settings: how to get the trainer; a run that trains nothing does not wait seconds for the import of its libraries."""
        ...


class SftSettings(TrainingConfig):
    name: Literal["sft"] = Field("sft", description="AdamW on the tokens of the accepted completions")
    may_change: ClassVar[frozenset[str]] = frozenset({"keep_weights", *Switches._fields})
    takes_ranks: ClassVar[bool] = True
    micro_batch_tokens: OrAuto = Field(
        "auto",
        description="Tokens of a micro-batch; a step is split into as few micro-batches of equal size as keep to it. Fewer need less memory. `auto` takes what about 4 GiB of activations hold, by the model's shape, and fewer where the memory is short.",
    )
    activation_checkpointing: SwitchOrAuto = Field(
        "auto",
        description="Keep only the input of every layer, and run the layer again in the backward pass: the same gradients for about a third more time and a fraction of the activations. `auto` does so where the memory is short.",
    )
    logits_in_pieces: SwitchOrAuto = Field(
        "auto",
        description="Compute the logits for a few loss tokens at a time, and again in the backward pass: the same gradients with no more than 0.5 GiB of logits. `auto` does so where the memory is short.",
    )
    noise_scale: bool = Field(
        False,
        description="Split every step into two micro-batches at least, so that the gradient noise scale can be estimated (in every fourth step); without it that is done where `micro_batch_tokens` splits steps anyway.",
    )
    learning_rate: float = Field(
        gt=0.0,
        le=1.0,
        examples=["1e-5"],
        description="Peak learning rate of AdamW. It depends on the model, so there is no default: 1e-5 suits models of 0.1 to 1 billion parameters, 1e-6 the paper's six billion.",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="Learning rate after the warm-up; `linear` and `cosine` fall to 0."
    )
    warmup_steps: Count = Field(5, description="Steps of linear warm-up; capped at half of an iteration's steps.")
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="Of AdamW.")
    adam_beta2: float = Field(0.999, ge=0.5, lt=1.0, description="Second-moment decay of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0.0, description="Gradients are clipped to this norm.")
    lora_rank: Positive | None = Field(
        None,
        description="Rank of low-rank adapters on every linear layer, which alone are trained and saved (needs `selftaught[lora]`); absent trains all weights.",
    )
    lora_alpha: Positive | None = Field(
        None, description="The adapters' scale times their rank; absent is twice the rank."
    )

    frozen_4bit: bool = Field(
        False,
        description="With `lora_rank`, on a GPU: keep the frozen weights in 4 bits (NF4) while adapters are trained, a quarter of their memory (needs `selftaught[4bit]`). Sampling and merging still take them in the run's number type. Run on no GPU yet.",
    )

    def fitted(self, rows: Rows, shape: Shape, machine: Machine, *, free: int) -> tuple[Self, Fitted | None]:
        if self.frozen_4bit and machine.device != "cuda":
            raise ConfigError(
                f"training.frozen_4bit needs a GPU, and the run computes on {machine.device}; leave it out (the "
                "frozen weights are those of model.dtype)"
            )
        switches = Switches(self.micro_batch_tokens, self.activation_checkpointing, self.logits_in_pieces)
        found = fit(
            switches,
            rows,
            shape,
            machine,
            lora_rank=self.lora_rank,
            frozen_4bit=self.frozen_4bit,
            is_split=self.noise_scale,
            free=free,
        )
        return self.model_copy(update=found.switches._asdict()), found

    def checkpoint_bytes(self, parameters: int, shape: Callable[[], Shape], dtype: NumberType) -> int:
        if self.lora_rank is None:
            return super().checkpoint_bytes(parameters, shape, dtype)
        return self.lora_rank * shape().linear_widths * BYTES["float32"]

    def check_values(self) -> None:
        if self.noise_scale and self.batch_size == 1:
            raise ConfigError(
                "training.noise_scale compares the parts of a step, but training.batch_size = 1 cannot be split; raise "
                "it, or set training.noise_scale=false"
            )
        for key in ("lora_alpha", "frozen_4bit"):
            if getattr(self, key) and self.lora_rank is None:
                raise ConfigError(
                    f"training.{key} = {getattr(self, key)}, but without training.lora_rank all weights are trained; "
                    "set the rank, or remove it"
                )

"""The schema of a run's settings: every key with its default, range, unit and meaning.

docs/config.md is generated from it (a test compares them), and loading.py fills it in. The sections that a room reads
are in that room.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from selftaught.config.choices import CHOICES
from selftaught.engines.engine import EngineConfig
from selftaught.engines.local.settings import LocalConfig
from selftaught.machine.cluster import ClusterConfig
from selftaught.methods.settings import (
    LoopConfig,
    PassAtKConfig,
    RationalizationConfig,
    SamplingConfig,
    SelectionConfig,
)
from selftaught.records.sections import Count, OrAuto, Positive, Section, Text
from selftaught.tasks.settings import TaskConfig
from selftaught.training.settings import TrainingConfig


class ModelConfig(Section):
    path: Text = Field(
        description="The base model: a folder in Hugging Face format, a hub id, or `builtin:adder`.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Number type for sampling and training. `auto` is bfloat16 on a GPU that has it and on a CPU where it is much faster, else float32; training computes in it over float32 master weights.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Off unless you trust this very model."
    )
    prompt_format: Literal["auto", "plain", "chat"] = Field(
        "auto",
        description="`plain` has the model continue a text, `chat` asks it in turns, which its own chat template renders; `auto` is `chat` for a tokenizer that has a template.",
    )
    system: str | None = Field(
        None,
        description='For `chat`: the system\'s turn. Absent is no such turn, so that the template may write its own text there; `""` is a turn without text.',
    )
    thinking: bool | None = Field(
        None,
        description="For `chat`: whether the model thinks first, for a template with such a switch (`enable_thinking`); required for such a template, refused for others. The same for sampling, hinting, training and measuring.",
    )
    template_date: Text | None = Field(
        None,
        description="For `chat`: today's date (YYYY-MM-DD) for a template that reads the clock; absent is the day on which the run is begun.",
    )


Trackers = Annotated[tuple[Literal["wandb", "trackio", "tensorboard"], ...], Field(strict=False)]
Copied = Annotated[tuple[Literal["checkpoints", "training_sets"], ...], Field(strict=False)]
"""Lists: TOML and JSON know no tuples."""


class TrackingConfig(Section):
    """None of these decides anything of a run, so all of them may differ when it is carried on."""

    log_every_steps: Positive = Field(
        10,
        description="Optimizer steps between two lines of metrics.jsonl; the first and the last step always have one.",
    )
    backends: Trackers = Field(
        (), description="Trackers that get the run's points, each an extra of the package (docs/tracking.md)."
    )
    project: Text = Field("selftaught", description="The project of the tracked run, for `wandb` and `trackio`.")
    entity: Text | None = Field(
        None, description="For `wandb`: the user or team that has the project; absent leaves it to wandb."
    )
    id: Text | None = Field(
        None,
        description="The tracked run's id with `wandb`, its name with `trackio`; absent makes one up, which the run folder keeps. One that another run has is refused.",
    )
    table_rows: Count = Field(
        32, description="Samples of each iteration that go out as text, with their questions; 0 sends no text."
    )
    artifacts: Copied = Field((), description="What `wandb` and `trackio` also get a copy of after each iteration.")
    machine_info: bool = Field(
        False,
        description="Also let `wandb` and `trackio` send what they find out about the machine: host name, hardware, its load, the checked out commit.",
    )


class ComputeConfig(Section):
    """What these resolve to decides the last bits of all numbers, so run.json keeps it from the first start on."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes a GPU if there is one.")
    threads: OrAuto = Field("auto", description="CPU threads; `auto` is one per CPU that the process may use.")
    workers: Positive = Field(
        1,
        description="Processes that share the sampling and every training step on a CPU, each with `threads` threads: for models so small that one operation cannot be divided among threads.",
    )
    chunk_completions: OrAuto = Field(
        "auto",
        description="Completions generated and saved as one unit; `auto` is four times as many as are generated at a time, and fewer of a large model: 256 of one of 0.5 B on a CPU, 64 of one of 2 B or more.",
    )


TaskSettings = Annotated[SerializeAsAny[TaskConfig], BeforeValidator(CHOICES["task"].validated)]
TrainingSettings = Annotated[SerializeAsAny[TrainingConfig], BeforeValidator(CHOICES["training"].validated)]
EngineSettings = Annotated[SerializeAsAny[EngineConfig], BeforeValidator(CHOICES["engine"].validated)]


class RunConfig(Section):
    method: str = Field(
        "star", description="Named settings of the loop's knobs; `custom` leaves every knob to the file."
    )
    seed: Count = Field(0, description="Run seed: which problems, which samples, which order of rows.")
    model: ModelConfig
    task: TaskSettings
    sampling: SamplingConfig = SamplingConfig()
    rationalization: RationalizationConfig = RationalizationConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingSettings
    loop: LoopConfig = LoopConfig()
    pass_at_k: PassAtKConfig = PassAtKConfig()
    tracking: TrackingConfig = TrackingConfig()
    compute: ComputeConfig = ComputeConfig()
    cluster: ClusterConfig = ClusterConfig()
    engine: EngineSettings = LocalConfig()

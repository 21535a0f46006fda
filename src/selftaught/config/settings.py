"""The schema of a run's settings: every key with its default, range, unit and meaning.

docs/config.md is generated from it (a test compares them), and loading.py fills it in. The sections that a room reads
are in that room.
"""

from typing import Annotated, Literal

from pydantic import Field

from selftaught.methods.settings import LoopConfig, RationalizationConfig, SamplingConfig, SelectionConfig
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


class TrackingConfig(Section):
    log_every_steps: Positive = Field(
        10,
        description="Optimizer steps between two lines of metrics.jsonl; the first and the last step always have one.",
    )


class ComputeConfig(Section):
    """What these resolve to decides the last bits of all numbers, so run.json keeps it from the first start on."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes a GPU if there is one.")
    threads: OrAuto = Field("auto", description="CPU threads; `auto` is one per CPU that the process may use.")
    workers: Positive = Field(
        1,
        description="Processes that share the sampling and every training step on a CPU, each with `threads` threads: for models so small that one operation cannot be divided among threads.",
    )
    slots: OrAuto = Field("auto", description="Completions that a worker generates at a time.")
    cache_mib: OrAuto = Field(
        "auto",
        description="MiB in each worker for the keys and values of the completions being generated; fewer slots are used if they need more. `auto` is a third of the free memory, shared out among the workers.",
    )
    chunk_completions: OrAuto = Field(
        "auto",
        description="Completions generated and saved as one unit; at least four times the slots of all workers, which is `auto`.",
    )
    compiled: Literal["auto", "off"] = Field(
        "auto",
        description="Operations compiled by numba for this machine's CPU; `auto` takes them on a CPU where numba is installed.",
    )


class EngineConfig(Section):
    name: Literal["local", "openai", "vllm"] = Field(
        "local",
        description="What generates completions: `local` (this process), `openai` (any server with OpenAI's completions API, which you start) or `vllm` (a vLLM server that the run starts). docs/engines.md says which to take.",
    )
    url: Text | None = Field(
        None,
        description="`openai`: where the server is, such as `http://127.0.0.1:8000`; without a user name or a key.",
    )
    model: Text | None = Field(
        None, description="`openai`: the served model's name; absent takes the only one that the server lists."
    )
    api_key_env: Text | None = Field(
        None,
        description="`openai`: the environment variable that holds the server's key, such as `MY_API_KEY`; never the key itself.",
    )
    concurrency: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        "auto",
        description="`openai`, `vllm`: requests that are under way at a time; `auto` is 16 for `openai` and 128 for `vllm`. It takes the place of `compute.slots`.",
    )
    timeout_s: float = Field(
        600.0,
        gt=0.0,
        le=86400.0,
        description="`openai`, `vllm`: seconds until a request without its complete answer fails.",
    )
    max_retries: int = Field(
        5,
        ge=0,
        le=100,
        description="`openai`, `vllm`: further tries of a request that met a busy, failing or silent server.",
    )
    vllm_python: Text | None = Field(
        None, description="`vllm`: the Python interpreter that has vllm; absent is this one."
    )
    vllm_args: Text | None = Field(
        None,
        description="`vllm`: further arguments of `vllm serve`, as on a command line, such as `--max-model-len 2048`.",
    )
    start_timeout_s: float = Field(
        1800.0,
        gt=0.0,
        le=86400.0,
        description="`vllm`: seconds until a server that is not ready fails. Loading and compiling take minutes.",
    )


class RunConfig(Section):
    method: str = Field(
        "star", description="Named settings of the loop's knobs; `custom` leaves every knob to the file."
    )
    seed: Count = Field(0, description="Run seed: which problems, which samples, which order of rows.")
    model: ModelConfig
    task: TaskConfig
    sampling: SamplingConfig = SamplingConfig()
    rationalization: RationalizationConfig = RationalizationConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingConfig
    loop: LoopConfig = LoopConfig()
    tracking: TrackingConfig = TrackingConfig()
    compute: ComputeConfig = ComputeConfig()
    engine: EngineConfig = EngineConfig()

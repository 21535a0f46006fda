"""The schema of a run's settings: every key with its default, range, unit and meaning.

docs/config.md is generated from this file (a test compares them), and `config.py` fills it in. None stands for a
setting that is left out, since TOML has no word for that.
"""

import json
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from selftaught.plan import Choice
from selftaught.problems import Extraction
from selftaught.selection import Accept, UniqueBy

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
TextOrFalse = Text | Literal[False]
OrAll = Positive | Literal["all"]
OrAuto = Positive | Literal["auto"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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


class TaskConfig(Section):
    name: Text = Field(description="A task from `selftaught tasks`.")
    variant: Text | None = Field(
        None, description="Form of the task, of those that `selftaught tasks` lists; absent is the task's first."
    )
    data_seed: Count = Field(0, description="Seed of generated problems and of splits that are cut from train.")
    choose: Choice = Field(
        "random",
        description="Which training problems an iteration takes: `random`, `random-per-class` (the same number of each class, as far as it has them), or `unsolved-first`.",
    )
    problems_per_iteration: OrAll = Field("all", description="Training problems of an iteration, chosen anew for each.")
    dev_problems: OrAll = Field("all", description="Dev problems to measure on, spread over the classes.")
    test_problems: OrAll = Field("all", description="Test problems to measure on, spread over the classes.")
    data: Text | None = Field(
        None,
        description="Where the rows are: a file (jsonl, csv, parquet), a folder with the files as released, or a hub id; absent is the task's own hub id.",
    )
    dev_data: Text | None = Field(None, description="`own`: file of the dev split; absent cuts it from `data`.")
    test_data: Text | None = Field(None, description="`own`: file of the test split; absent cuts it from `data`.")
    dev_rows: Positive | None = Field(
        None, description="Rows cut from train for dev, where dev has no file; absent is the task's own number."
    )
    test_rows: Positive | None = Field(
        None, description="Rows cut for test, where test has no file; absent is the task's own number."
    )
    prompt_file: Text | None = Field(
        None, description="The few-shot examples (text or TOML); absent is the task's own, if it has one."
    )
    question_key: Text = Field(
        "question",
        description="`own`: key of the question; `a.b` goes into nested objects, `a + b` joins columns, `b?` may be empty.",
    )
    answer_key: Text = Field("answer", description="`own`: key of the reference answer.")
    answer_is: Literal["auto", "label", "text", "index0", "index1", "boxed"] = Field(
        "auto",
        description="`own`: what an answer is: a choice's `label`, its `text`, or its number from 0 (`index0`) or 1 (`index1`); `auto` is what all rows together show, and is refused where they show nothing. `boxed`: a complete solution, with the answer in its last `\\boxed{}`.",
    )
    choices_key: TextOrFalse = Field(
        "choices",
        description="`own`: key of the choices, if rows have them; `a + b + c` for a column each; `false` uses none.",
    )
    id_key: TextOrFalse = Field("id", description="`own`: key of the id, if rows have one; `false` uses none.")
    class_key: TextOrFalse = Field(
        "class",
        description="`own`: key of the class that results are reported by, if rows have one; `false` uses none.",
    )
    rationale_key: TextOrFalse = Field(
        "rationale", description="`own`: key of a human solution, if rows have one; `false` uses none."
    )
    verifier: Text | None = Field(
        None,
        description="How answers are compared: `exact`, `numeric`, `choice`, `math`, `regex` or `python`; absent is the task's own.",
    )
    verifier_function: Text | None = Field(
        None, description="`python`: your function, as `module:name` or `file.py:name`."
    )
    answer_marker: Text | None = Field(None, description="Text right before the answer; absent is the task's own.")
    answer_pattern: Text | None = Field(None, description="`regex`: expression whose first group is the answer.")
    extraction: Extraction = Field(
        "strict",
        description="`strict` reads an answer only where the answer format puts it, `lenient` also where a reader would find one. How often the two disagree is reported.",
    )

    @field_validator("choices_key", "id_key", "class_key", "rationale_key", mode="before")
    @classmethod
    def _refuse_a_number(cls, value: object) -> object:
        """For Literal[False] takes 0, too, which equals it."""
        if isinstance(value, int) and not isinstance(value, bool):
            raise ValueError("a number")
        return value


class SamplingConfig(Section):
    num_samples: Count = Field(
        1,
        description="Completions per problem without a hint, K; with 0 nothing is sampled to train on (the baselines).",
    )
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Nucleus: the smallest set of tokens with this probability.")
    top_k: Positive | None = Field(None, description="Only the k likeliest tokens; absent is no limit.")
    max_new_tokens: Positive = Field(
        256, description="Limit on the tokens of a completion; one that reaches it is truncated."
    )
    num_shots: Count = Field(10, description="Few-shot examples in the prompts of the base model.")
    num_shots_fine_tuned: Count | None = Field(
        None,
        description="Few-shot examples in the prompts of a fine-tuned model (iteration 2 on, and its measurements); absent is as many as `num_shots`.",
    )

    def num_shots_for(self, *, fine_tuned: bool) -> int:
        """Few-shot examples in the prompts of the base model, or of a fine-tuned one."""
        number = self.num_shots_fine_tuned if fine_tuned else None
        return self.num_shots if number is None else number


class RationalizationConfig(Section):
    hints: Literal["none", "failed"] = Field(
        "failed", description="Whether problems without a correct answer are sampled again with the answer as a hint."
    )
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 is greedy.")


class SelectionConfig(Section):
    accept: Accept = Field(
        "answer", description="What a sample must pass: `answer`, or `answer+steps` (the task's exact step check)."
    )
    unique_by: UniqueBy = Field(
        "text",
        description="Duplicates within a problem: `none` removed, same `text`, `normalized-text` (white space and case folded), or `equations` (the same list of equations, as in RFT; for tasks that have them).",
    )
    max_per_problem: Positive | None = Field(None, description="Samples kept per problem; absent is no cap.")


class TrainingConfig(Section):
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
    micro_batch_tokens: OrAuto = Field(
        "auto",
        description="Tokens of a micro-batch; a step is split into as few micro-batches of equal size as keep to it. Fewer need less memory. `auto` takes what about 4 GiB of activations hold, by the model's shape.",
    )
    noise_scale: bool = Field(
        False,
        description="Split every step into two micro-batches at least, so that the gradient noise scale can be estimated (in every fourth step); without it that is done where `micro_batch_tokens` splits steps anyway.",
    )
    learning_rate: float = Field(
        gt=0.0,
        le=1.0,
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
        description="Rank of low-rank adapters on every linear layer, merged into the weights at the end (needs `selftaught[lora]`); absent trains all weights.",
    )
    lora_alpha: Positive | None = Field(
        None, description="The adapters' scale times their rank; absent is twice the rank."
    )
    validation_share: Share = Field(
        0.05, description="Share of the accepted problems held out for the validation loss."
    )


class LoopConfig(Section):
    max_iterations: Positive = Field(8, description="Upper limit on the iterations of the loop.")
    patience: Positive = Field(3, description="Stop after this many iterations without a new best on dev.")


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


def expected(field: FieldInfo) -> str:
    """What a setting may be, in words: type and range."""
    kinds = [kind for kind in _alternatives(field) if kind is not NoneType]
    return " or ".join(_in_words(kind, field.metadata) for kind in kinds)


def kinds_of(field: FieldInfo) -> list[Any]:
    """The types that a setting may have; NoneType for one that may be left out."""
    return [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in _alternatives(field)]


def _alternatives(field: FieldInfo) -> tuple[Any, ...]:
    is_union = get_origin(field.annotation) in (Union, UnionType)
    return get_args(field.annotation) if is_union else (field.annotation,)


def _in_words(kind: Any, metadata: Sequence[Any]) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(json.dumps, get_args(kind)))
    if get_origin(kind) is Annotated:
        kind, *annotations = get_args(kind)
        metadata = [*metadata, *(bound for field in annotations for bound in field.metadata)]
    word = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        for bound in metadata
        if hasattr(bound, name)
    ]
    return " ".join([word, ", ".join(bounds)]).strip()

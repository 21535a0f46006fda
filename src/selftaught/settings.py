"""The schema of a run's settings: every key with its default, range, unit and meaning.

docs/config.md is generated from this file (a test compares them). `config.py` fills it in.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from selftaught.plan import Choice
from selftaught.problems import Extraction
from selftaught.selection import Accept, UniqueBy

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelConfig(Section):
    path: str = Field(
        "builtin:adder",
        min_length=1,
        description="The base model: a folder in Hugging Face format, a hub id, or `builtin:adder`.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Number type for drawing and training. `auto` is bfloat16 on a GPU that has it and float32 elsewhere; training computes in it over float32 master weights.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Off unless you trust this very model."
    )


class TaskConfig(Section):
    name: str = Field("arithmetic", min_length=1, description="A task from `selftaught tasks`.")
    variant: str = Field(
        "", description="Task-specific form; empty is the task's default. `selftaught tasks` lists the variants."
    )
    data_seed: Count = Field(0, description="Seed of generated problems and of splits that are cut from train.")
    choose: Choice = Field(
        "random",
        description="Which training problems an iteration takes: `all`, `random`, `random-per-class` (the same number of each class, as far as it has them), or `unsolved-first`.",
    )
    train_problems: Count = Field(0, description="Training problems per iteration; 0 is all.")
    dev_problems: Count = Field(0, description="Dev problems to measure on, spread over the classes; 0 is all.")
    test_problems: Count = Field(0, description="Test problems to measure on, spread over the classes; 0 is all.")
    data: str = Field(
        "",
        description="Where the rows are: a file (jsonl, csv, parquet), a folder with the files as released, or a hub id. Empty is the task's own hub id.",
    )
    dev_data: str = Field("", description="`own`: file of the dev split; empty cuts it from `data`.")
    test_data: str = Field("", description="`own`: file of the test split; empty cuts it from `data`.")
    dev_rows: Count = Field(
        0, description="Rows cut from train for dev, where dev has no file; 0 is the task's default."
    )
    test_rows: Count = Field(0, description="Rows cut for test, where test has no file; 0 is the task's default.")
    prompt: str = Field(
        "", description="Prompt file with the worked examples (text or TOML); empty is the task's own, if it has one."
    )
    question_key: str = Field(
        "question",
        description="`own`: key of the question; `a.b` goes into nested objects, `a + b` joins columns, `b?` may be empty.",
    )
    answer_key: str = Field("answer", description="`own`: key of the reference answer.")
    answer_is: Literal["auto", "label", "text", "index0", "index1", "boxed"] = Field(
        "auto",
        description="`own`: what an answer is: a choice's `label`, its `text`, or its number from 0 (`index0`) or 1 (`index1`); `auto` is what all rows together show, and is refused where they show nothing. `boxed`: a whole solution, with the answer in its last `\\boxed{}`.",
    )
    choices_key: str = Field(
        "choices", description="`own`: key of the choices, if rows have them; `a + b + c` for a column each."
    )
    id_key: str = Field("id", description="`own`: key of the id, if rows have one.")
    class_key: str = Field(
        "class", description="`own`: key of the class that results are reported by, if rows have one."
    )
    rationale_key: str = Field("rationale", description="`own`: key of a worked solution, if rows have one.")
    verifier: str = Field(
        "",
        description="How answers are compared: `exact`, `numeric`, `choice`, `math`, `regex` or `python`; empty is the task's own.",
    )
    verifier_function: str = Field("", description="`python`: your function, as `module:name` or `file.py:name`.")
    answer_marker: str = Field("", description="Text right before the answer; empty is the task's own.")
    answer_pattern: str = Field("", description="`regex`: expression whose first group is the answer.")
    extraction: Extraction = Field(
        "strict",
        description="`strict` reads an answer only where the answer format puts it, `lenient` also where a reader would find one. How often the two disagree is reported.",
    )


class SamplingConfig(Section):
    samples: Count = Field(1, description="Completions per problem without a hint, K. 0 draws none (the baselines).")
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Nucleus: the smallest set of tokens with this probability.")
    top_k: Count = Field(0, description="Only the k likeliest tokens; 0 is no limit.")
    max_new_tokens: Positive = Field(
        256, description="Limit on the tokens of a completion; one that reaches it is truncated."
    )
    shots: Count = Field(10, description="Worked examples in the prompt while the base model draws.")
    shots_after_first: Count = Field(
        10,
        description="Worked examples in the prompt once a fine-tuned model draws (iteration 2 on, and its measurements).",
    )


class RationalizationConfig(Section):
    hints: Literal["none", "failed"] = Field(
        "failed", description="Whether problems without a right answer are asked again with the answer shown."
    )
    probability: Rate = Field(1.0, description="Share of the failed problems that get a hint.")
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 is greedy.")


class SelectionConfig(Section):
    accept: Accept = Field(
        "answer", description="What a sample must pass: `answer`, or `answer+steps` (the task's exact step check)."
    )
    unique_by: UniqueBy = Field(
        "text",
        description="Duplicates within a problem: `none` removed, same `text`, `normalized-text` (white space and case folded), or `equations` (the same list of equations, as in RFT; for tasks that have them).",
    )
    max_per_problem: Count = Field(0, description="Samples kept per problem; 0 is no cap.")


class TrainingConfig(Section):
    window: Literal["iteration", "all"] = Field(
        "iteration", description="Train on this iteration's samples, or on all so far."
    )
    human_solutions: bool = Field(False, description="Add the training problems' own worked solutions.")
    target: Literal["rationale", "answer"] = Field(
        "rationale", description="`answer` trains and prompts without rationales (the direct baseline)."
    )
    start: Literal["base", "previous"] = Field(
        "base", description="Weights that an iteration's fine-tuning starts from."
    )
    sft_first: bool = Field(False, description="Fine-tune on the worked solutions before the first draw (RFT).")
    objective: Literal["nll"] = Field("nll", description="Next-token loss on the completion.")
    warm_start: Count = Field(
        0,
        description="Worked examples rehearsed in every training set, for a model too small to learn from a prompt; with hints on, each also in hinted form.",
    )
    shots: Count = Field(0, description="Worked examples in the prompt that is trained on.")
    first_steps: Positive = Field(40, description="Optimizer steps of iteration 1.")
    growth: float = Field(1.2, ge=1.0, le=10.0, description="Factor of the steps from one iteration to the next.")
    max_epochs: float = Field(
        3.0,
        gt=0.0,
        le=1000.0,
        description="Cap on the steps of an iteration: passes over its training examples. It protects the iterations that accept few.",
    )
    batch_size: Positive = Field(8, description="Sequences per optimizer step.")
    micro_batch_tokens: Count = Field(
        0,
        description="Tokens that go through the model at a time; a step is split into as few parts of equal size as keep to it. Smaller needs less memory. 0 takes what about 4 GiB of activations hold, by the model's shape.",
    )
    noise_scale: bool = Field(
        False,
        description="Split every step into two parts at least, so that the gradient noise scale can be estimated (in every fourth); without it that is done where the budget splits steps anyway.",
    )
    learning_rate: float = Field(1e-6, gt=0.0, le=1.0, description="Peak learning rate of AdamW.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Learning rate after the warm-up."
    )
    warmup_steps: Count = Field(0, description="Steps of linear warm-up; capped at half of an iteration's steps.")
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="Of AdamW.")
    adam_beta2: float = Field(0.999, ge=0.5, lt=1.0, description="Second-moment decay of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0.0, description="Gradients are clipped to this norm.")
    lora_rank: Count = Field(
        0,
        description="Rank of low-rank adapters on every linear layer, merged into the weights at the end (needs `selftaught[lora]`); 0 trains all weights.",
    )
    lora_alpha: Count = Field(0, description="The adapters' scale times their rank; 0 is twice the rank.")
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout before the adapters.")
    validation_share: Rate = Field(0.05, description="Share of the accepted problems held out for the validation loss.")


class LoopConfig(Section):
    max_iterations: Positive = Field(16, description="Upper limit on outer iterations.")
    patience: Positive = Field(3, description="Stop after this many iterations without a new best on dev.")
    min_delta: Rate = Field(0.0, description="Rise in dev accuracy that counts as a new best.")


class TrackingConfig(Section):
    every_steps: Positive = Field(
        10,
        description="Optimizer steps between two lines of metrics.jsonl; the first and the last step always have one.",
    )


class ComputeConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes a GPU if there is one.")
    threads: Count = Field(
        0, description="CPU threads; 0 is one per CPU that the process may use, written down at the first start."
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes that share the drawing and every training step on a CPU, each with `threads` threads: for models so small that one operation cannot be divided among threads. A part of the numbers, like `threads`, and written down at the first start.",
    )
    slots: Count = Field(
        0,
        description="Completions that a process draws at a time; 0 lets the engine choose, written down at the first start.",
    )
    cache_mib: Count = Field(
        0,
        description="MiB in each process for the keys and values of the completions being drawn; fewer slots are used if they need more. 0 is a third of the free memory, shared out among the processes, written down at the first start.",
    )
    pass_tokens: Count = Field(
        0, description="Prompt tokens run at a time; 0 lets the engine choose, written down at the first start."
    )
    chunk: Count = Field(
        0,
        description="Completions drawn and saved as one unit; at least four times the slots of all processes; 0 is four times.",
    )
    compiled: Literal["auto", "off"] = Field(
        "auto",
        description="Operations compiled by numba for this machine's CPU; `auto` takes them on a CPU where numba is installed. A part of the numbers' last bits, so written down at the first start.",
    )


class EngineConfig(Section):
    name: Literal["local", "openai", "vllm"] = Field(
        "local",
        description="What draws completions: `local` (this process), `openai` (any server with OpenAI's completions API, which you start) or `vllm` (a vLLM server that the run starts). docs/engines.md says which to take.",
    )
    url: str = Field(
        "", description="`openai`: where the server is, such as `http://127.0.0.1:8000`; without a user name or a key."
    )
    model: str = Field(
        "", description="`openai`: the served model's name; empty takes the only one that the server lists."
    )
    api_key_env: str = Field(
        "",
        description="`openai`: the environment variable that holds the server's key, such as `MY_API_KEY`; never the key itself.",
    )
    concurrency: int = Field(
        0,
        ge=0,
        le=4096,
        description="`openai`, `vllm`: requests that are on their way at a time; 0 is 16 for `openai` and 128 for `vllm`. It takes the place of `compute.slots`.",
    )
    timeout_s: float = Field(
        600.0,
        gt=0.0,
        le=86400.0,
        description="`openai`, `vllm`: seconds until a request without its whole answer fails.",
    )
    retries: int = Field(
        5,
        ge=0,
        le=100,
        description="`openai`, `vllm`: further tries of a request that met a busy, failing or silent server.",
    )
    vllm_python: str = Field("", description="`vllm`: the Python interpreter that has vllm; empty is this one.")
    vllm_args: str = Field(
        "",
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
    seed: Count = Field(0, description="Run seed: which problems, which draws, which order of rows.")
    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    sampling: SamplingConfig = SamplingConfig()
    rationalization: RationalizationConfig = RationalizationConfig()
    selection: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    loop: LoopConfig = LoopConfig()
    tracking: TrackingConfig = TrackingConfig()
    compute: ComputeConfig = ComputeConfig()
    engine: EngineConfig = EngineConfig()

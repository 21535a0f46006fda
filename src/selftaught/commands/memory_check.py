"""What a run needs of memory and disk, before its first token: made to fit, or refused in one line."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from heapq import nlargest
from itertools import takewhile
from pathlib import Path

from selftaught.config.chat import codec_of
from selftaught.config.cluster import processes_on_cpu
from selftaught.config.resolving import Resolved
from selftaught.config.settings import RunConfig
from selftaught.engines.engine import PromptLengths
from selftaught.machine.memory import free_memory_bytes, used_memory_bytes
from selftaught.methods.training_set import examples_from_solutions
from selftaught.models.forecast import BYTES, Forecast
from selftaught.models.shape import shape_of
from selftaught.models.tokens import Codec
from selftaught.models.weights import num_parameters
from selftaught.records.errors import RefusedError
from selftaught.records.problems import Problem, Task
from selftaught.records.samples import ModelRef
from selftaught.runs.reading import died_in_training, read_run_json, read_summaries
from selftaught.runs.store import free_bytes
from selftaught.stages.sampling import sampling_spec
from selftaught.training.fitting import Fitted, Rows
from selftaught.training.settings import TrainingConfig

TOLERANCE = 1.15
"""The forecast's own error: only what is needed beyond so many times the free memory is refused."""
LONGEST_PROBLEMS = 8
"""Problems with the longest questions, whose prompts are encoded."""
USUAL_RANK = 16
"""Of adapters that a refusal offers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the phases of a run need; None for a phase that is not this program's, or not known."""

    free: int
    """Bytes for the run, with what this process has already."""
    settings: TrainingConfig
    """Of the trainer, fitted to the memory."""
    training: Fitted | None
    sampling: Forecast | None
    with_adapters: Fitted | None
    """A training with adapters, if one of all weights does not fit."""

    @property
    def too_large(self) -> Forecast | None:
        """The first phase that has no room."""
        phases = (self.training.forecast if self.training else None, self.sampling)
        return next((phase for phase in phases if phase and phase.needed > TOLERANCE * self.free), None)


def with_room(
    config: RunConfig, task: Task, base: ModelRef, resolved: Resolved, run_dir: Path, *, trains: bool, samples: bool
) -> tuple[Resolved, tuple[str, ...]]:
    """What a run has resolved, fitted to the memory if it is new, and lines that the user should read.

    `trains` and `samples` say whether the config's own trainer and engine do that. Raises RefusedError for a run that
    has no room in memory or on the disk.
    """
    if (run_dir / "result.json").exists():
        return resolved, ()
    if (run_dir / "run.json").exists():
        checked = check_memory(config, task, base, resolved, run_dir)
    elif trains or samples:
        checked = fit_memory(config, task, base, resolved, trains=trains, samples=samples)
    else:
        checked = resolved, ()
    check_disk(config, base, resolved, run_dir)
    return checked


def fit_memory(
    config: RunConfig, task: Task, base: ModelRef, resolved: Resolved, *, trains: bool = True, samples: bool = True
) -> tuple[Resolved, tuple[str, ...]]:
    """The settings of a new run with those of its trainer fitted to the memory that is free now, and what was done.

    Raises RefusedError if the run needs more than there is, whatever is done.
    """
    needs = needs_of(config, task, base, resolved, trains=trains, samples=samples)
    refuse_too_large(config, resolved, base, needs)
    fitted = needs.training
    changed = {
        "training": needs.settings,
        "training_bytes": fitted.forecast.needed if fitted else None,
        "sampling_bytes": needs.sampling.needed if needs.sampling else None,
    }
    return resolved.model_copy(update=changed), fitted.lines if fitted else ()


def needs_of(
    config: RunConfig, task: Task, base: ModelRef, resolved: Resolved, *, trains: bool = True, samples: bool = True
) -> Needs:
    """What a new run needs, with the settings of its trainer fitted to the memory that is free now."""
    shape = shape_of(base.path, trust_remote_code=config.model.trust_remote_code)
    codec = codec_of(config.model, Path(base.path), resolved.chat)
    free = _free(resolved)
    settings, fitted, with_adapters = config.training, None, None
    if trains:
        rows = _rows(config, task, codec, context=shape.context)
        settings, fitted = config.training.fitted(rows, shape, resolved.machine, free=free)
        if fitted is not None and fitted.forecast.needed > TOLERANCE * free:
            less = config.training.model_copy(update={"lora_rank": USUAL_RANK})
            with_adapters = less.fitted(rows, shape, resolved.machine, free=free)[1]
    sampling = None
    if samples:
        lengths = _prompt_lengths(config, task, codec)
        machine = resolved.machine
        if machine.device == "cpu":
            machine = replace(machine, workers=processes_on_cpu(config))
        sampling = resolved.engine.forecast(lengths, shape, machine)
    return Needs(free=free, settings=settings, training=fitted, sampling=sampling, with_adapters=with_adapters)


def refuse_too_large(config: RunConfig, resolved: Resolved, base: ModelRef, needs: Needs) -> None:
    """Raise RefusedError if a phase has no room, with what would help."""
    if (phase := needs.too_large) is not None:
        adapters = needs.with_adapters if phase.what == "training" else None
        raise RefusedError(_too_large(config, resolved, base, phase, needs.free, adapters))


def check_memory(
    config: RunConfig, task: Task, base: ModelRef, resolved: Resolved, run_dir: Path
) -> tuple[Resolved, tuple[str, ...]]:
    """What a run that is carried on has resolved, with a line if its last training died, and one for every setting of
    memory that has changed since.

    Raises RefusedError if it needs more than is free now, by what its first start reckoned.
    """
    died = last_death(run_dir)
    before = read_run_json(run_dir)["resolved"].get("training") or {}
    now = resolved.training.model_dump() if resolved.training else {}
    changed = {key: value for key, value in now.items() if key in before and before[key] != value}
    lines = [
        f"training.{key} = {value}, before {before[key]}: the run is carried on with it"
        + ("" if key == "keep_weights" else "; the last bits of its numbers change")
        for key, value in changed.items()
    ]
    if changed.keys() - {"keep_weights"}:
        resolved, _ = fit_memory(config.model_copy(update={"training": resolved.training}), task, base, resolved)
        return resolved, (*died, *lines)
    free = _free(resolved)
    for what, needed in (("training", resolved.training_bytes), ("sampling", resolved.sampling_bytes)):
        if needed is not None and needed > TOLERANCE * free:
            raise RefusedError(
                f"{what} of the run in {run_dir} needs about {gib(needed)} of memory and {gib(free)} are free; end "
                "other programs"
                + (
                    ", or carry on with a smaller training.micro_batch_tokens or with "
                    "training.activation_checkpointing=true"
                    if what == "training"
                    else ""
                )
            )
    return (resolved.model_copy() if changed else resolved), (*died, *lines)  # a copy is written to run.json


def last_death(run_dir: Path) -> tuple[str, ...]:
    """A line if the last training of a run ended with its process: killed, or without memory."""
    died = died_in_training(run_dir)
    if died is None:
        return ()
    iteration, step, peak = died
    return (
        f"warning: the last training of iteration {iteration} ended without a clean end, "
        + (f"after step {step}" if step else "before its first step was logged")
        + (f", with {gib(peak)} of memory at its peak" if peak else "")
        + "; if memory was short, carry on with a smaller training.micro_batch_tokens, or with "
        "training.activation_checkpointing=true",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What a run has on its disk at a time, in bytes."""

    checkpoints: int
    """At most so many more than it has now."""
    of_one: int
    served: int
    """Of the merged model that a server is given; 0 if there is none."""
    free: int

    @property
    def bytes(self) -> int:
        return self.checkpoints * self.of_one + self.served


AT_A_TIME = 3
"""Checkpoints with weights, if not all are kept: the best one, the last one, and the one that is being made."""


def disk_of(config: RunConfig, base: ModelRef, resolved: Resolved, run_dir: Path) -> Disk | None:
    """What the checkpoints that a run will have take; None if the size of the model is not known."""
    parameters = num_parameters(base)
    if parameters is None:
        return None
    number = max(0, config.loop.max_iterations - len(read_summaries(run_dir))) + config.training.sft_first
    if config.training.keep_weights != "all":
        now = len({path.parent for path in run_dir.glob("checkpoints/*/*.safetensors")})
        number = min(number, max(1, AT_A_TIME - now)) if number else 0
    place = next(folder for folder in (run_dir, *run_dir.absolute().parents) if folder.is_dir())
    of_one = config.training.checkpoint_bytes(
        parameters, lambda: shape_of(base.path, trust_remote_code=config.model.trust_remote_code), resolved.dtype
    )
    merged = parameters * BYTES[resolved.dtype]
    is_served = number and of_one < merged and config.engine.serves_folders
    return Disk(checkpoints=number, of_one=of_one, served=merged if is_served else 0, free=free_bytes(place))


def check_disk(config: RunConfig, base: ModelRef, resolved: Resolved, run_dir: Path) -> None:
    """Raise RefusedError if the checkpoints that a run will have at a time have no place on its disk."""
    disk = disk_of(config, base, resolved, run_dir)
    if disk is not None and disk.bytes > TOLERANCE * disk.free:
        keeps_all = config.training.keep_weights == "all"
        fewer = int(max(0, disk.free * TOLERANCE - disk.served) // max(1, disk.of_one))
        raise RefusedError(
            f"the run has the weights of up to {disk.checkpoints} more iterations at a time, {gib(disk.of_one)} each, "
            + (f"and those that a server is given, {gib(disk.served)}, " if disk.served else "")
            + f"{gib(disk.bytes)} in all, and {run_dir} has {gib(disk.free)} free; free some space, give a --run-dir "
            "on another disk"
            + (', or set training.keep_weights = "best-and-last"' if keeps_all else "")
            + (f", or set loop.max_iterations = {fewer} or less" if keeps_all and fewer else "")
        )


def _free(resolved: Resolved) -> int:
    """Memory for the run, with what this process has already, because a forecast counts that too."""
    free = free_memory_bytes(resolved.device)
    return free + (used_memory_bytes() or 0) if resolved.device == "cpu" else free


def _rows(config: RunConfig, task: Task, codec: Codec, *, context: int) -> Rows:
    """The longest row that a training can get, by the longest questions: prompt, all new tokens and the end."""
    spec = sampling_spec(config, task, num_shots=0, temperature=0.0)
    problems = _longest(task)
    prompt = max(len(codec.encode_prompt(prompt)) for prompt in spec.prompts(task, problems))
    new = config.sampling.max_new_tokens + 1
    if config.training.human_solutions or config.training.sft_first:
        solved = [problem for problem in problems if problem.rationale]
        examples = examples_from_solutions(solved, task.prompt_format, iteration=1)
        new = max([new, *(len(codec.encode_example(example)[0]) - prompt for example in examples)])
    longest = min(prompt + new, context)
    return Rows(longest=longest, loss_tokens=min(new, longest), batch_size=config.training.batch_size)


def _prompt_lengths(config: RunConfig, task: Task, codec: Codec) -> PromptLengths:
    """Of the longest prompts, with few-shot examples and hints as the config has them."""
    sampling = config.sampling
    attempts = (False, True) if config.rationalization.hints != "none" else (False,)
    lengths = []
    for again in attempts:
        spec = sampling_spec(config, task, num_shots=sampling.num_shots, temperature=sampling.temperature, again=again)
        prompts = [codec.encode_prompt(prompt) for prompt in spec.prompts(task, _longest(task))]
        alike = takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False)) if len(prompts) > 1 else ()
        lengths.append((max(map(len, prompts)), sum(1 for _ in alike)))
    longest, shared = max(lengths)
    return PromptLengths(
        shared=shared,
        own=max(1, longest - shared),
        new=sampling.max_new_tokens,
        is_greedy=sampling.temperature == 0.0,
    )


def _longest(task: Task) -> list[Problem]:
    problems = task.train or task.dev or task.test
    return nlargest(LONGEST_PROBLEMS, problems, key=lambda problem: len(problem.question))


def _too_large(
    config: RunConfig,
    resolved: Resolved,
    base: ModelRef,
    forecast: Forecast,
    free: int,
    with_adapters: Fitted | None,
) -> str:
    parts = ", ".join(f"{part.name} {part.bytes / 2**30:.1f}" for part in forecast.parts if part.bytes >= 50 << 20)
    where = "of the GPU are free" if resolved.device == "cuda" else "are free"
    if resolved.device == "cuda" and resolved.train_workers > 1 and forecast.what == "training":
        where += f" (each of {resolved.train_workers} GPUs holds the whole model; sharing it out is not there yet)"
    needed = f"{forecast.what} with {base.path} needs about {gib(forecast.needed)} of memory ({parts})"
    return f"{needed}, and {gib(free)} {where}; " + ", or ".join(_knobs(config, resolved, forecast.what, with_adapters))


def _knobs(config: RunConfig, resolved: Resolved, what: str, with_adapters: Fitted | None) -> list[str]:
    """What would help, the cheapest first."""
    knobs = []
    if what == "training":
        given: Mapping[str, object] = config.training.model_dump()
        if isinstance(given.get("micro_batch_tokens"), int):
            knobs.append(f"set training.micro_batch_tokens below {given['micro_batch_tokens']}")
        for key in ("activation_checkpointing", "logits_in_pieces"):
            if given.get(key) is False:
                knobs.append(f"set training.{key}=true")
        if given.get("lora_rank") is None and with_adapters is not None:
            knobs.append(
                f"train adapters (training.lora_rank={USUAL_RANK}, about {gib(with_adapters.forecast.needed)})"
            )
        if given.get("frozen_4bit") is False and given.get("lora_rank") and resolved.device == "cuda":
            knobs.append("set training.frozen_4bit=true")
        if resolved.workers > 1:
            knobs.append("set compute.workers=1")
        if resolved.train_workers > 1 and resolved.device == "cpu":
            knobs.append("set cluster.train_workers=1")
    else:
        if resolved.device == "cpu" and processes_on_cpu(config) > 1:
            knobs.append("set fewer cluster.workers" if config.cluster.workers else "set fewer compute.workers")
        knobs.append("set a smaller engine.cache_mib or fewer engine.slots")
        if resolved.dtype == "float32":
            knobs.append("set model.dtype=bfloat16")
    if resolved.device == "cuda":
        knobs.append("set compute.device=cpu")
    return [*knobs, "take a smaller model", "free memory (the batch size does not matter)"]


def gib(number: float) -> str:
    """Bytes for people to read."""
    return f"{number / 2**30:.1f} GiB"

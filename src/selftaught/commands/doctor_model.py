"""The doctor's parts on the device, on the model with its prompts, and on memory and disk."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from selftaught.commands.doctor_text import (
    LONGEST_OTHER,
    LONGEST_TEXT,
    Line,
    Part,
    Span,
    forecast_facts,
    forecast_line,
    plain,
    prompt_lines,
    row_lines,
    size,
)
from selftaught.commands.dry_run import ShownRow, filled_prompts, shown_row, training_rows
from selftaught.commands.memory_check import check_disk, disk_of, needs_of, refuse_too_large
from selftaught.commands.run import check_before_start
from selftaught.commands.stored_run import in_format, task_of
from selftaught.config.chat import ChatResolved, codec_of, resolve_chat
from selftaught.config.resolving import Resolved, resolve
from selftaught.config.settings import RunConfig
from selftaught.engines.local.settings import LocalConfig
from selftaught.machine.devices import available_cpus, has_compiler, resolve_machine
from selftaught.machine.memory import free_memory_bytes
from selftaught.methods.table import METHODS
from selftaught.methods.training_set import examples_from_solutions
from selftaught.models.checking import check_model_and_tokenizer
from selftaught.models.shape import Shape, shape_of
from selftaught.models.tokens import Codec
from selftaught.records.errors import SelftaughtError
from selftaught.records.problems import Task
from selftaught.records.samples import ModelRef
from selftaught.runs.store import free_bytes

BUSY = 0.5
"""Programs from which on times are not those of an idle machine."""


def busy_programs() -> float | None:
    """Running in the last minute, by the system's load average; None where there is none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def device_part(config: RunConfig | None, base: ModelRef | None) -> tuple[Part, Resolved | None]:
    """What `auto` means here, for a config and its model if there are some; and what a run would resolve."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    refusals: list[str] = []
    resolved = None
    device = "cuda" if count else "cpu"
    lines = []
    try:
        if config is not None and base is not None:
            resolved = resolve(config, base, None)
            device = resolved.device
        elif config is not None:
            compute = config.compute
            machine = resolve_machine(
                device=compute.device, dtype="float32", threads=compute.threads, workers=compute.workers, model=Path()
            )
            device = machine.device
    except SelftaughtError as error:
        refusals.append(str(error))
    asked = config.compute.device if config is not None else "auto"
    seen = torch.cuda.get_device_name(0) if count else "torch sees no GPU"
    lines.append(f"device: {device} (compute.device = {asked!r}; {seen})")
    if count > 1 and device == "cuda" and not refusals:
        lines.append(
            f"{count} GPUs are visible: a run samples on all and trains on the first; CUDA_VISIBLE_DEVICES names fewer"
        )
    lines.append(_number_type(config, resolved))
    if resolved is not None:
        lines.append(
            f"threads: {resolved.threads} in {'each of ' * (resolved.workers > 1)}{resolved.workers} "
            f"process{'es' * (resolved.workers > 1)}, {available_cpus()} CPUs"
        )
        lines += _engine_lines(resolved)
    else:
        lines.append(f"threads: {available_cpus()} CPUs")
    busy = busy_programs()
    if busy is not None and busy > BUSY:
        lines.append(
            f"busy: {busy:.1f} programs were running on {available_cpus()} CPUs in the last minute; what is timed "
            "below is slower than on a machine of your own"
        )
    free, disk = free_memory_bytes(device), free_bytes(Path.cwd())
    lines.append(f"free: {size(free)} of memory, {size(disk)} on the disk of this folder")
    facts: dict[str, Any] = {
        "device": device,
        "gpus": count,
        "dtype": resolved.dtype if resolved else None,
        "threads": resolved.threads if resolved else available_cpus(),
        "workers": resolved.workers if resolved else None,
        "running_programs": busy,
        "free_memory_bytes": free,
        "free_disk_bytes": disk,
    }
    part = Part(name="device", title="Device", lines=plain(*lines), facts=facts, refusals=tuple(refusals))
    return part, resolved


def _number_type(config: RunConfig | None, resolved: Resolved | None) -> str:
    if config is None or resolved is None:
        return "number type: depends on the model; name one, or a config"
    if config.model.dtype != "auto":
        return f"number type: {resolved.dtype} (model.dtype)"
    why = {
        ("cpu", "bfloat16"): "products are much faster in it on this CPU",
        ("cpu", "float32"): "a model of a few megabytes, or a CPU on which bfloat16 is not much faster",
        ("cuda", "bfloat16"): "this GPU has it",
        ("cuda", "float32"): "this GPU has no bfloat16",
    }[resolved.device, resolved.dtype]
    return f"number type: {resolved.dtype} (model.dtype = 'auto': {why})"


def _engine_lines(resolved: Resolved) -> Iterator[str]:
    engine = resolved.engine
    if not isinstance(engine, LocalConfig):
        yield f"engine: {engine.name}"
        return
    compiled = "operations compiled by numba" if engine.compiled == "on" else "torch's own operations"
    yield f"engine: local, {engine.slots} completions at a time, {compiled}"
    if resolved.device == "cpu" and not has_compiler():
        yield "numba is not installed: generating on a CPU is faster with it (`pip install numba`)"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedModel:
    config: RunConfig
    base: ModelRef
    resolved: Resolved
    stand_in: Task | None
    """In place of the config's task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFound:
    part: Part
    task: Task | None
    """As the model is asked; None if it, or the model's template, is refused."""
    resolved: Resolved
    """With the chat that prompts are rendered with."""


def model_part(asked: AskedModel) -> ModelFound:
    """The checks of a run's start, and a filled prompt and a training row as the model gets them."""
    config, base = asked.config, asked.base
    trust = config.model.trust_remote_code
    refusals: list[str] = []

    def attempt(check: Callable[[], Any]) -> Any:
        """What a check returns; None if it is refused."""
        try:
            return check()
        except SelftaughtError as error:
            refusals.append(str(error))
            return None

    attempt(config.engine.check)
    attempt(config.training.check)
    shape = attempt(lambda: shape_of(base.path, trust_remote_code=trust))
    task = asked.stand_in or attempt(lambda: task_of(config))
    known = len(refusals)
    chat = attempt(lambda: resolve_chat(config.model, Path(base.path)))
    is_known = len(refusals) == known
    lines: list[Line] = list(plain(*_shape_lines(base, shape)))
    facts: dict[str, Any] = {"path": base.path, "parameters": shape.parameters if shape else None}
    resolved = asked.resolved.model_copy(update={"chat": chat})
    settings = chat.settings if chat else None
    if is_known and shape is not None:
        attempt(lambda: check_model_and_tokenizer(base.path, chat=settings, trust_remote_code=trust))
        if len(refusals) == known:
            lines += plain("checks: tensors, number types and tokenizer fit config.json")
    if task is None or not is_known or len(refusals) > known:
        part = Part(name="model", title="Model and prompts", lines=tuple(lines), facts=facts, refusals=tuple(refusals))
        return ModelFound(part=part, task=None, resolved=resolved)
    task = in_format(task, config, chat)
    attempt(lambda: check_before_start(config, task))
    codec = codec_of(config.model, Path(base.path), chat)
    lines += plain(*_format_lines(config, task, chat, codec), *task.notes)
    facts |= {"prompt_format": "plain" if chat is None else "chat", "end_ids": sorted(codec.end_ids)}
    if len(refusals) == known:
        shown = attempt(lambda: _shown(config, task, codec, facts))
        lines += shown or ()
    part = Part(name="model", title="Model and prompts", lines=tuple(lines), facts=facts, refusals=tuple(refusals))
    return ModelFound(part=part, task=task, resolved=resolved)


def _shape_lines(base: ModelRef, shape: Shape | None) -> Iterator[str]:
    if shape is None:
        yield f"model: {base.path}"
        return
    yield (
        f"model: {base.path}, {shape.parameters:,} parameters, {size(shape.file_bytes)} of files, "
        f"{shape.layers} layers, vocabulary {shape.vocabulary:,}, context {shape.context:,}"
    )


def _format_lines(config: RunConfig, task: Task, chat: ChatResolved | None, codec: Codec) -> Iterator[str]:
    auto = " (model.prompt_format = 'auto')" if config.model.prompt_format == "auto" else ""
    if chat is None or codec.template is None:
        yield f"prompts: a text to continue{auto}; a completion ends at {_stops(task)}or an end token"
    else:
        template = codec.template
        yield f"prompts: turns, rendered by the model's chat template{auto}"
        system = "the template writes its own" if template.default_system else "none"
        if config.model.system is not None:
            system = repr(config.model.system)
        no_place = "" if template.has_system else " (the template has no place for one)"
        thinking = {None: "no switch in the template", True: "on", False: "off"}[chat.thinking]
        date = chat.date or "the template reads no clock"
        yield f"system turn: {system}{no_place}; thinking: {thinking}; date: {date}"
    names = {i: str(codec.tokenizer.convert_ids_to_tokens(i)) for i in sorted(codec.end_ids)}
    taught = names[codec.end_id]
    all_names = ", ".join(f"{name!r} ({i})" for i, name in names.items())
    yield f"end tokens: {all_names}; taught where none was sampled: {taught!r}"


def _stops(task: Task) -> str:
    return "".join(f"{stop!r} " for stop in task.prompt_format.stop)


def _shown(config: RunConfig, task: Task, codec: Codec, facts: dict[str, Any]) -> tuple[Line, ...]:
    """One filled prompt of each kind, and a training row."""
    lines: list[Line] = []
    method = METHODS[config.method].make(config, task)
    method.begin(1)
    facts["prompts"] = {}
    for kind, problem, prompt in filled_prompts(config, task, task.train[:1], codec):
        facts["prompts"][kind] = prompt.text
        title = f"{kind} prompt of problem {problem.id!r}, {len(prompt.ids or ())} tokens"
        longest = LONGEST_OTHER if kind == "rationalization" else LONGEST_TEXT
        lines += [(Span(""),), *prompt_lines(title, prompt.text, longest=longest)]
    without_examples = (_answer_row(task, codec) for _ in range(1))
    row = next(chain(training_rows(config, task, method, codec), without_examples))
    end = row.learned[-1:]
    facts["row"] = {"prompt": row.prompt, "learned": codec.decode(row.learned[:-1]), "end": codec.decode(end)}
    return (*lines, (Span(""),), *row_lines(row, codec.decode(row.learned[:-1]), codec.decode(end)))


def _answer_row(task: Task, codec: Codec) -> ShownRow:
    """Of a task without few-shot examples."""
    (example,) = examples_from_solutions(task.train[:1], task.prompt_format, iteration=1)
    return shown_row("a sample, if it reads like this solution", example, codec)


def memory_part(
    config: RunConfig, task: Task, base: ModelRef, resolved: Resolved, run_dir: Path
) -> tuple[Part, Resolved]:
    """What a run in this folder needs against what is free, part by part; and the settings fitted to it."""
    needs = needs_of(config, task, base, resolved, trains=config.training.name != "none", samples=True)
    refusals: list[str] = []
    lines = []
    forecasts = (needs.sampling, needs.training.forecast if needs.training else None)
    lines += [forecast_line(forecast, needs.free) for forecast in forecasts if forecast is not None]
    if needs.sampling is None:
        lines.append(f"sampling: what the engine {resolved.engine.name!r} needs is not known here")
    if needs.training is None:
        lines.append("training: needs nothing, or it is not known what")
    else:
        lines += needs.training.lines
        lines.append("assumed: rows as long as the longest question and sampling.max_new_tokens can make them")
    disk = disk_of(config, base, resolved, run_dir)
    if disk is not None:
        lines.append(
            f"disk: up to {disk.checkpoints} checkpoints of {size(disk.of_one)} in {run_dir}, which has "
            f"{size(disk.free)} free"
        )
    checks: tuple[Callable[[], None], ...] = (
        lambda: refuse_too_large(config, resolved, base, needs),
        lambda: check_disk(config, base, resolved, run_dir),
    )
    for check in checks:
        try:
            check()
        except SelftaughtError as error:
            refusals.append(str(error))
    facts: dict[str, Any] = {
        "free_memory_bytes": needs.free,
        "sampling": forecast_facts(needs.sampling),
        "training": forecast_facts(needs.training.forecast if needs.training else None),
        "checkpoints": disk.checkpoints if disk else None,
        "checkpoint_bytes": disk.of_one if disk else None,
        "free_disk_bytes": disk.free if disk else None,
    }
    part = Part(name="memory", title="Memory and disk", lines=plain(*lines), facts=facts, refusals=tuple(refusals))
    return part, resolved.model_copy(update={"training": needs.settings})

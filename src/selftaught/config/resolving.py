"""The settings with every `auto` replaced: once, at a run's first start. run.json keeps them for every resume."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from selftaught.config.chat import ChatResolved
from selftaught.config.cluster import processes_on_cpu
from selftaught.config.settings import EngineSettings, RunConfig, TrainingSettings
from selftaught.machine.cluster import THIS_MACHINE, ClusterConfig
from selftaught.machine.devices import Device, Machine, NumberType, given_or, resolve_machine
from selftaught.machine.opening import Opening
from selftaught.machine.workers import Worker
from selftaught.models.adapters import base_folder
from selftaught.models.weights import num_parameters
from selftaught.records.errors import StoreError
from selftaught.records.samples import ModelRef
from selftaught.records.sections import Count, Positive, Section
from selftaught.runs.reading import SERVED

CHUNK_WORK = {"cpu": 128_000_000_000, "cuda": 3_200_000_000_000}
"""Parameters times completions: a chunk of a model of 0.5 B on a CPU has 256."""
SMALLEST_CHUNK = 64
"""Completions. Every step reads all weights once, so few completions at a time cost speed (docs/speed.md)."""
CHUNK_STEP = 16


class Resolved(Section):
    """What a run computes with, as run.json has it."""

    device: Device
    dtype: NumberType
    threads: Positive
    workers: Positive
    train_workers: Positive = 1
    """Ranks of a training."""
    chunk_completions: Positive
    engine: EngineSettings
    chat: ChatResolved | None
    """None if prompts are text."""
    training: TrainingSettings | None = None
    """Fitted to the memory of the first start; None in a run that is older than that."""
    training_bytes: Count | None = None
    sampling_bytes: Count | None = None
    """What these need at their peak by the forecast; None if that is not known."""

    @property
    def machine(self) -> Machine:
        return Machine(
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            workers=self.workers,
            ranks=self.train_workers,
        )

    def opening(
        self,
        workers: Sequence[Worker],
        *,
        trust_remote_code: bool,
        cluster: ClusterConfig = THIS_MACHINE,
        run_dir: Path | None = None,
        note: Callable[[str], None] = lambda line: None,
    ) -> Opening:
        """What opens the run's engine and trainer here; `workers` are the processes beside this one."""
        return Opening(
            machine=self.machine,
            workers=workers,
            cluster=cluster,
            trust_remote_code=trust_remote_code,
            chat=self.chat.settings if self.chat else None,
            log_dir=run_dir / "logs" if run_dir else None,
            served_dir=run_dir / SERVED if run_dir else None,
            note=note,
        )


def machine_lines(resolved: Resolved) -> list[str]:
    """What the user should know of the ranks of a training, and of the run's engine on the machine that it takes."""
    ranks = [] if resolved.train_workers == 1 else _rank_lines(resolved)
    return [*ranks, *resolved.engine.lines(resolved.machine)]


def _rank_lines(resolved: Resolved) -> list[str]:
    number = resolved.train_workers
    each = "a GPU" if resolved.device == "cuda" else f"{max(1, resolved.threads // number)} threads"
    return [f"every training step is shared by {number} train workers, with {each} for each"]


def resolve(config: RunConfig, model: ModelRef, chat: ChatResolved | None) -> Resolved:
    """Resolve every `auto` of the config; that of the prompts is in `chat` (`resolve_chat`).

    Raises ConfigError for a device or number type that is not there.
    """
    compute = config.compute
    machine = resolve_machine(
        device=compute.device,
        dtype=config.model.dtype,
        threads=compute.threads,
        workers=compute.workers,
        sharing=processes_on_cpu(config),
        model=base_folder(Path(model.path)),
    )
    parameters = num_parameters(model)
    weights_bytes = (parameters or 0) * (2 if machine.dtype == "bfloat16" else 4)
    sharing = processes_on_cpu(config) if machine.device == "cpu" else machine.workers
    engine = config.engine.resolved(replace(machine, weights_bytes=weights_bytes, workers=sharing))
    return Resolved(
        device=machine.device,
        dtype=machine.dtype,
        threads=machine.threads,
        workers=machine.workers,
        train_workers=config.cluster.train_workers,
        chunk_completions=chunk_completions(
            compute.chunk_completions,
            engine.completions_at_a_time(machine),
            parameters=parameters if engine.computes_here else None,
            device=machine.device,
        ),
        engine=engine,
        chat=chat,
    )


def chunk_completions(setting: int | Literal["auto"], at_a_time: int, *, parameters: int | None, device: Device) -> int:
    """Completions that are generated and saved as one unit.

    `at_a_time` is how many the engine generates at a time, in all processes, by the config; `parameters` are those of
    the model, None if they are not known or if the model is not run on `device`. `auto` is four times `at_a_time`; of a
    large model it is fewer, as many as are a fixed amount of work, because a kill loses what its chunk has generated.
    """
    most = 4 * at_a_time
    if parameters is not None:
        of_equal_work = CHUNK_WORK[device] // max(1, parameters)
        most = min(most, max(SMALLEST_CHUNK, of_equal_work // CHUNK_STEP * CHUNK_STEP))
    return given_or(setting, most)


def carried_on(held: Mapping[str, Any], config: RunConfig, where: str) -> Resolved:
    """What a run resolved when it was begun, with the settings that may change as the config has them now.

    Raises StoreError, which names the file `where`, for values that no run has written.
    """
    try:
        resolved = Resolved.model_validate(held)
    except ValidationError as error:
        wrong = error.errors()[0]
        if wrong["type"] in ("missing", "extra_forbidden"):
            raise StoreError(f"{where}: resolved is damaged; restore the file or start a new run") from error
        has_parts = wrong["loc"][0] in ("engine", "training")
        path = wrong["loc"][: 2 if has_parts else 1]  # the rest of it names the type that was tried
        key = ".".join(map(str, path))
        raise StoreError(_damaged(where, key, wrong["msg"].lower(), wrong["input"])) from error
    for section, settings in (("engine", resolved.engine), ("training", resolved.training)):
        for key, value in settings.model_dump().items() if settings else ():
            if value == "auto":
                raise StoreError(_damaged(where, f"{section}.{key}", "input should be resolved", value))
    name = config.engine.name
    if resolved.engine.name != name:
        raise StoreError(_damaged(where, "engine.name", f"input should be {name!r}", resolved.engine.name))
    changed = {key: getattr(config.engine, key) for key in config.engine.may_change}
    sections: dict[str, Section] = {"engine": resolved.engine.model_copy(update=changed)}
    if resolved.training is not None and resolved.training.name == config.training.name:
        given = {key: getattr(config.training, key) for key in config.training.may_change}
        asked = {key: value for key, value in given.items() if value != "auto"}  # which leaves it as it was resolved
        sections["training"] = resolved.training.model_copy(update=asked)
    return resolved.model_copy(update=sections)


def _damaged(where: str, key: str, expected: str, got: object) -> str:
    return f"{where}: resolved.{key}: {expected}, got {got!r}; restore the file or start a new run"

"""Start a run or carry one on: resolve everything once, write it down, refuse what cannot succeed, run the loop."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from selftaught.commands.cluster import cluster_workers, in_its_cluster
from selftaught.commands.memory_check import with_room
from selftaught.commands.prompt_check import refuse_long_prompts
from selftaught.commands.run_json import (
    decides_tokens,
    description,
    may_change,
    versions,
    with_changeable,
    with_changes,
)
from selftaught.commands.run_workers import sampling_processes
from selftaught.commands.setting_check import check_settings
from selftaught.commands.stored_run import config_of_run, fitted, in_format, refuse_data, task_of
from selftaught.config.chat import resolve_chat
from selftaught.config.loading import (
    FILES,
    FUNCTIONS,
    differences,
    flat_values,
    with_homes,
)
from selftaught.config.resolving import Resolved, carried_on, machine_lines, resolve
from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine
from selftaught.grading.references import check_reference_answers
from selftaught.loop import Outcome, run
from selftaught.machine.command_lines import command
from selftaught.machine.devices import gpu_line
from selftaught.machine.opening import Opening
from selftaught.machine.paths import refuse_other_encodings
from selftaught.machine.platforms import TrainingPlatform
from selftaught.machine.user_functions import with_absolute_file
from selftaught.machine.workers import Workers
from selftaught.methods.method import Method
from selftaught.methods.settings import Knobs
from selftaught.methods.table import METHODS
from selftaught.models.checking import check_model_and_tokenizer
from selftaught.models.weights import check_model_path, resolve_model
from selftaught.records.errors import (
    ConfigError,
    Interrupted,
    RefusedError,
    StoreError,
)
from selftaught.records.events import Event, Listener, Note, RunEnded, TokensGenerated
from selftaught.records.problems import Task
from selftaught.records.samples import ModelRef
from selftaught.records.sections import Value
from selftaught.runs.reading import dump_measurement, read_run_json, read_summaries
from selftaught.runs.shared_chunks import SharedChunks
from selftaught.runs.store import RunStore
from selftaught.stages.setup import Setup, raise_if
from selftaught.stages.weight_proof import noise_of
from selftaught.tasks.fingerprint import data_sha256
from selftaught.tasks.outside import OBJECT, short_name
from selftaught.tracking import OF_EVERY_RUN, mirrors_of, open_mirrors
from selftaught.tracking.listeners import Listeners
from selftaught.tracking.trackers import check_trackers
from selftaught.training.rank_trainer import end_leftover_ranks
from selftaught.training.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class FromPython:
    """What a program brings in place of what the config names; such a run can only be carried on by the program."""

    task: Task | None = None
    engine: Callable[[ModelRef], Engine] | None = None
    trainer: Callable[[], Trainer] | None = None
    method: Callable[[Knobs, Task], Method] | None = None

    def names(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


NOTHING = FromPython()


def launch(
    config: RunConfig,
    run_dir: Path,
    *,
    listeners: Sequence[Listener] = (),
    should_stop: Callable[[], bool] = lambda: False,
    suspended_by: Callable[[], str] = lambda: "",
    given: FromPython = NOTHING,
    shared: Path | None = None,
) -> Outcome:
    """Run a config in a folder, or carry on the run that the folder holds; at its end result.json is written.

    `listeners` are told what happens, as are those that every run has (tracking/). `shared` is the folder of the chunks
    that the runs of a comparison have in common; None for a run alone.
    """
    began = time.monotonic()
    headline = f"{config.method} on {config.task.name.removeprefix(OBJECT)} with {config.model.path}, folder {run_dir}"
    config = with_absolute_paths(config)
    _check_paths(config, run_dir)
    task = task_of(config) if given.task is None else fitted(config, given.task)
    base = resolve_model(config.model.path)
    _check_packages(config, given)
    data = data_sha256(task)
    held = _held(config, run_dir, base, data, given)
    resolved = held or resolve(config, base, resolve_chat(config.model, Path(base.path)))
    check_before_start(config, task := in_format(task, config, resolved.chat))
    from_python = given.names()
    with (
        Workers(resolved.workers - 1) as workers,
        in_its_cluster(config, resolved, run_dir, from_python=from_python) as cluster,
    ):
        trust = config.model.trust_remote_code
        opening = resolved.opening(workers, cluster=config.cluster, trust_remote_code=trust, run_dir=run_dir)
        if held is None:
            _check_new(config, task, base, resolved, opening, given)
        own = {"trains": given.trainer is None, "samples": given.engine is None}
        resolved, changes = with_room(config, task, base, resolved, run_dir, **own)
        sampling = sampling_processes(config, resolved, run_dir, from_python=from_python, shared=shared)
        open_trainer = given.trainer or (resolved.training or config.training).opener(opening)
        if not read_summaries(run_dir):
            open_trainer()  # a library that it lacks is an error before anything is sampled
        mirrors = mirrors_of(run_dir, config)
        with (
            RunStore(run_dir) as store,
            _begun(store, task, held or description(config, resolved, base, data, from_python)),
            Listeners([*mirrors, *(make(run_dir, config) for make in OF_EVERY_RUN), *listeners]) as tell,
            cluster_workers(config.cluster, resolved, run_dir, tell, shared=shared) as source,
        ):
            opening = _begun_opening(opening, store, tell, partial(raise_if, should_stop, suspended_by, run_dir))
            note = opening.note
            _write_changes(store, config, held, resolved)
            where = cluster.lines or sampling.lines or (gpu_line(resolved.device),)
            first = (headline, *task.notes, *_chat_notes(config, resolved), *where, *machine_lines(resolved), *changes)
            for line in filter(None, (*first, *_other_versions(config, run_dir))):
                note(line)
            store.cut_torn_tails()
            open_mirrors(mirrors, note)
            setup = Setup(
                config=config,
                task=task,
                base=base,
                store=store,
                open_engine=given.engine or resolved.engine.opener(opening),
                open_trainer=given.trainer or (resolved.training or config.training).opener(opening),
                chunk=resolved.chunk_completions,
                dtype=resolved.dtype,
                noise=noise_of(resolved.dtype),
                method=(given.method or METHODS[config.method].make)(config, task),
                shared=_chunks(shared, run_dir, config, resolved) if shared else None,
                source=source or sampling.source,
                num_workers=cluster.number or sampling.number,
                platform=read_run_json(run_dir).get("platform"),
                keep_platform=partial(_keep, store, "platform"),
                tell=tell,
                should_stop=should_stop,
                suspended_by=suspended_by,
            )
            set_up_s = time.monotonic() - began
            return _ended(setup, run(setup), set_up_s)


def _ended(setup: Setup, outcome: Outcome, set_up_s: float) -> Outcome:
    setup.store.remove_unfinished_checkpoints()
    setup.store.write_json("result.json", result_of(outcome, setup))
    setup.tell(RunEnded(work_s={"set-up": set_up_s, **outcome.work_s}))
    return outcome


def _check_new(
    config: RunConfig, task: Task, base: ModelRef, resolved: Resolved, opening: Opening, given: FromPython
) -> None:
    """Raise for a model, a tokenizer or prompts with which a new run cannot succeed: before its folder exists, because
    a corrected command could not use the folder of another config."""
    trust = config.model.trust_remote_code
    if given.engine is None or given.trainer is None:
        check_model_and_tokenizer(base.path, chat=opening.chat, trust_remote_code=trust, workers=opening.workers)
    if given.engine is None:
        refuse_long_prompts(config, task, base, resolved.chat, has_places=given.task is None)


def _begun_opening(
    opening: Opening, store: RunStore, tell: Callable[[Event], None], raise_if_stopped: Callable[[], None]
) -> Opening:
    """What opens the engine and the trainer of a run that is begun, with what they tell and ask while they work."""
    key = "training_platform"
    return replace(
        opening,
        note=lambda line: tell(Note(text=line)),
        on_tokens=lambda tokens: tell(TokensGenerated(tokens=tokens)),
        raise_if_stopped=raise_if_stopped,
        training_platform=TrainingPlatform(read_run_json(store.dir).get(key), partial(_keep, store, key)),
    )


def _chunks(shared: Path, run_dir: Path, config: RunConfig, resolved: Resolved) -> SharedChunks:
    return SharedChunks(shared, user=run_dir.name, conditions=decides_tokens(config, resolved))


def default_run_dir(config: RunConfig) -> Path:
    """The folder of a run that names none: runs/TASK-METHOD."""
    return Path("runs") / f"{short_name(config.task.name)}-{config.method}"


def _chat_notes(config: RunConfig, resolved: Resolved) -> list[str]:
    if resolved.chat is None:
        return []
    parts = ["prompts are turns, rendered by the model's chat template"]
    if resolved.chat.thinking is not None:
        parts.append(f"thinking {'on' if resolved.chat.thinking else 'off'}")
    if resolved.chat.date is not None:
        parts.append(f"its date {resolved.chat.date}")
    off = ' (model.prompt_format = "plain" has it continue a text)' if config.model.prompt_format == "auto" else ""
    return [", ".join(parts) + off]


def _check_paths(config: RunConfig, run_dir: Path) -> None:
    refuse_other_encodings(str(run_dir), "--run-dir")
    refuse_other_encodings(config.model.path, "model.path")
    check_model_path(config.model.path)


def _check_packages(config: RunConfig, given: FromPython) -> None:
    """Raise ConfigError for what the config needs and this machine has not."""
    check_trackers(config.tracking.backends)
    config.cluster.check()
    if given.engine is None:
        config.engine.check()
    if given.trainer is None:
        config.training.check()
    elif config.cluster.train_workers > 1:
        raise ConfigError(
            f"cluster.train_workers = {config.cluster.train_workers}, but the trainer is given from Python, which runs "
            "in one process; remove it"
        )


def _write_changes(store: RunStore, config: RunConfig, held: Resolved | None, resolved: Resolved) -> None:
    """Write what has changed since the last start into run.json, for the next one."""
    if held is None:
        return
    about = read_run_json(store.dir)
    now = with_changeable(about if resolved is held else with_changes(about, resolved), config)
    if now != about:
        store.write_json("run.json", now)


def _keep(store: RunStore, key: str, platform: str) -> None:
    """Write into run.json, for later starts, what the first worker or the first ranks compute with."""
    store.write_json("run.json", {**read_run_json(store.dir), key: platform})


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with the task's files and the model by absolute paths, so that a run can be carried on from any
    folder."""
    config = with_homes(config)
    task = config.task
    changed = {key: os.path.abspath(value) for key in FILES if os.path.exists(value := getattr(task, key, None) or "")}
    changed |= {key: with_absolute_file(value) for key in FUNCTIONS if (value := getattr(task, key, None))}
    model = config.model
    if os.path.isdir(model.path):
        model = model.model_copy(update={"path": os.path.abspath(model.path)})
    return config.model_copy(update={"task": task.model_copy(update=changed), "model": model})


def check_before_start(config: RunConfig, task: Task) -> None:
    """Raise, before the first token, for reference answers that fail and for settings that the task cannot serve."""
    check_reference_answers(task, task.examples_and_problems())
    check_settings(config, task)


def result_of(outcome: Outcome, setup: Setup) -> dict[str, Any]:
    """The content of result.json (docs/run-folder.md)."""
    test = outcome.measured["test"]
    result: dict[str, Any] = {
        "best_iteration": outcome.best,
        "checkpoint": f"checkpoints/{outcome.best:03d}" if outcome.best else setup.config.model.path,
        "iterations": len(outcome.summaries),
        "base": dump_measurement(test[0]),
        "test": dump_measurement(test[-1]),
    }
    if outcome.last is not None:
        result["last"] = dump_measurement(outcome.last)
    if "extrapolation" in outcome.measured:
        both = outcome.measured["extrapolation"]
        result["extrapolation"] = {"base": dump_measurement(both[0]), "best": dump_measurement(both[-1])}
    return result


@contextmanager
def _begun(store: RunStore, task: Task, held: Resolved | dict[str, Any]) -> Iterator[None]:
    """At the first start, write the problems and run.json, with the content that is given then. Delete what a new run
    wrote if it fails before it has sampled anything, so that the corrected command can use the folder."""
    if isinstance(held, Resolved):
        end_leftover_ranks(store.dir / "logs")  # they may hold the memory that sampling needs
        yield
        return
    if (store.dir / "run.json").exists():
        raise StoreError(f"{store.dir} was begun by another process just now; run the same command again")
    if any((store.dir / "samples").iterdir()):
        raise StoreError(f"{store.dir} holds samples but no run.json; restore it, or use another --run-dir")
    try:
        store.begin(task, held)
        yield
    except Interrupted:
        raise  # the run is begun, and the message says how to carry on
    except Exception:
        store.withdraw()
        raise


def _held(config: RunConfig, run_dir: Path, base: ModelRef, data: str, given: FromPython) -> Resolved | None:
    """What was resolved when the folder was begun; None for a new one. Refuses to carry on another run's folder."""
    path = run_dir / "run.json"
    if not path.exists():
        return None
    about = read_run_json(run_dir)
    if "sha256" not in about["model"]:
        raise StoreError(f"{path}: model is damaged; restore the file or start a new run")
    if (then := about.get("from_python", [])) != (now := given.names()):
        raise StoreError(
            f"{run_dir} was started {_from_python(then)}, now {_from_python(now)}; carry it on as it was started, or "
            "use another --run-dir"
        )
    if changed := differences(fixed_settings(config_of_run(run_dir)), fixed_settings(config)):
        raise StoreError(
            f"{run_dir} was started with {'; '.join(changed)}; carry on with "
            f"`{command('run', '--resume', run_dir)}`, or use another --run-dir"
        )
    resolved = carried_on(about["resolved"], config, str(path))
    if about["model"]["sha256"] != base.sha256:
        raise RefusedError(
            f"{run_dir} was started with other weights in {base.path} (sha256 {about['model']['sha256'][:12]}, now "
            f"{(base.sha256 or '')[:12]}); restore the model, or use another --run-dir"
        )
    refuse_data(run_dir, about, data)
    return resolved


def _from_python(names: Sequence[str]) -> str:
    return f"from Python with its own {' and '.join(names)}" if names else "with nothing but its config"


def _other_versions(config: RunConfig, run_dir: Path) -> list[str]:
    """A warning if a run is carried on with other versions of the libraries than it was begun with."""
    then, now = read_run_json(run_dir).get("versions", {}), versions(config)
    other = [f"{name} {then.get(name)}, now {now[name]}" for name in now if then.get(name) != now[name]]
    return (
        [f"warning: the run was begun with {'; '.join(other)}: what is sampled from here on may differ"]
        if other
        else []
    )


def fixed_settings(config: RunConfig) -> dict[str, Value]:
    """The settings that a run keeps: all but those that may change, such as how a server is reached and who is told."""
    of_training = {f"training.{key}" for key in config.training.may_change}
    return {
        key: value
        for key, value in flat_values(config).items()
        if key not in of_training and not may_change(config, key)
    }

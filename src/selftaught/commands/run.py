"""Start a run or carry one on: resolve everything once, write it down, refuse what cannot succeed, run the loop."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from selftaught.commands.opening import (
    Resolved,
    check_engine,
    check_model_and_tokenizer,
    check_trainer,
    engine_opener,
    further_workers,
    resolve,
    trainer_opener,
    versions,
)
from selftaught.config.loading import (
    FILES,
    config_from_values,
    differences,
    flat_values,
    with_homes,
)
from selftaught.config.settings import RunConfig
from selftaught.grading.references import check_reference_answers
from selftaught.loop import Outcome, run
from selftaught.machine.command_lines import command
from selftaught.machine.paths import refuse_other_encodings
from selftaught.methods.table import Value
from selftaught.models.weights import check_model_path, resolve_model
from selftaught.records.errors import (
    ConfigError,
    Interrupted,
    RefusedError,
    StoreError,
)
from selftaught.records.problems import Task
from selftaught.records.progress import Progress
from selftaught.records.samples import ModelRef
from selftaught.runs.reading import FORMAT, dump_measurement, read_run_json, read_summaries
from selftaught.runs.store import RunStore
from selftaught.stages.setup import Setup
from selftaught.stages.summary import work_text
from selftaught.stages.weight_proof import NOISE, NOISE_BFLOAT16
from selftaught.tasks import load_task
from selftaught.tasks.fingerprint import data_sha256

HOW_A_SERVER_IS_REACHED = (
    "engine.url",
    "engine.model",
    "engine.api_key_env",
    "engine.timeout_s",
    "engine.max_retries",
    "engine.vllm_python",
    "engine.start_timeout_s",
)


def launch(
    config: RunConfig, run_dir: Path, *, progress: Progress, should_stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Run a config in a folder, or carry on the run that the folder holds; at its end result.json is written."""
    began = time.monotonic()
    announcement = f"{config.method} on {config.task.name} with {config.model.path}, folder {run_dir}"
    config = with_absolute_paths(config)
    refuse_other_encodings(str(run_dir), "--run-dir")
    refuse_other_encodings(config.model.path, "model.path")
    check_model_path(config.model.path)
    task = task_of(config)
    base = resolve_model(config.model.path)
    check_before_start(config, task)
    check_engine(config)
    check_trainer(config)
    data = data_sha256(task)
    held = _held(config, run_dir, base, data)
    resolved = held or resolve(config, base)
    with further_workers(resolved) as workers:
        open_trainer = trainer_opener(config, resolved, workers)
        # Whatever can be refused is refused before the folder exists: a corrected command could not use the folder of
        # another config.
        if held is None:
            check_model_and_tokenizer(config, base, workers)
        if not read_summaries(run_dir):
            open_trainer()  # a library that it lacks is an error before anything is sampled
        with RunStore(run_dir) as store, _begun(store, task, held or _description(config, resolved, base, data)):
            for line in (announcement, *task.notes, *_other_versions(config, run_dir)):
                progress.note(line)
            store.cut_torn_tails()
            setup = Setup(
                config=config,
                task=task,
                base=base,
                store=store,
                open_engine=engine_opener(config, resolved, workers, log_dir=store.dir / "logs", note=progress.note),
                open_trainer=open_trainer,
                chunk=resolved.chunk_completions,
                noise=NOISE_BFLOAT16 if resolved.dtype == "bfloat16" else NOISE,
                progress=progress,
                should_stop=should_stop,
            )
            set_up_s = time.monotonic() - began
            outcome = run(setup)
            store.write_json("result.json", result_of(outcome, setup))
            progress.note(f"time of this process: {work_text({'set-up': set_up_s, **outcome.work_s})}")
            return outcome


def config_of_run(run_dir: Path) -> RunConfig:
    """The config that a run folder was started with."""
    return config_from_values(read_run_json(run_dir)["config"], lambda key: str(run_dir / "run.json"))


def task_of(config: RunConfig) -> Task:
    task = load_task(config.task)
    # A model that is trained to answer without reasoning writes no reasoning to check.
    return replace(task, check_steps=None, other_checks={}) if config.training.target == "answer" else task


def refuse_other_data(run_dir: Path, task: Task) -> None:
    """Raise RefusedError if a task's problems are not those that the run was started on."""
    _refuse_other_data(run_dir, read_run_json(run_dir), data_sha256(task))


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with the task's files and the model by absolute paths, so that a run can be carried on from any
    folder."""
    config = with_homes(config)
    task = config.task
    changed = {key: os.path.abspath(value) for key in FILES if os.path.exists(value := getattr(task, key) or "")}
    file, colon, function = (task.verifier_function or "").rpartition(":")
    if os.path.isfile(file):
        changed["verifier_function"] = f"{os.path.abspath(file)}{colon}{function}"
    model = config.model
    if os.path.isdir(model.path):
        model = model.model_copy(update={"path": os.path.abspath(model.path)})
    return config.model_copy(update={"task": task.model_copy(update=changed), "model": model})


def check_before_start(config: RunConfig, task: Task) -> None:
    """Raise, before the first token, for reference answers that fail and for settings that the task cannot serve."""
    check_reference_answers(task, task.with_splits())
    check_settings(config, task)


def check_settings(config: RunConfig, task: Task) -> None:
    """Raise ConfigError for settings that the task cannot serve."""
    if config.selection.accept == "answer+steps" and task.check_steps is None:
        raise ConfigError(f"selection.accept = 'answer+steps', but task {task.name!r} has no step check; use 'answer'")
    if config.selection.unique_by == "equations" and task.solution_key is None:
        raise ConfigError(
            f"selection.unique_by = 'equations', but solutions of task {task.name!r} have no equations to compare; "
            "use 'text' or 'normalized-text'"
        )
    numbers = {
        "sampling.num_shots": config.sampling.num_shots,
        "sampling.num_shots_fine_tuned": config.sampling.num_shots_for(fine_tuned=True),
        "training.num_rehearsed": config.training.num_rehearsed,
    }
    for key, number in numbers.items():
        if number > len(task.few_shot):
            raise ConfigError(
                f"{key} = {number}, but task {task.name!r} has {len(task.few_shot)} few-shot examples; use at most that"
                + (
                    ""
                    if task.few_shot
                    else ", or give a prompt file (task.prompt_file); `selftaught init` writes one to fill in"
                )
            )


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
    if "extrapolation" in outcome.measured:
        both = outcome.measured["extrapolation"]
        result["extrapolation"] = {"base": dump_measurement(both[0]), "best": dump_measurement(both[-1])}
    return result


@contextmanager
def _begun(store: RunStore, task: Task, held: Resolved | dict[str, Any]) -> Iterator[None]:
    """At the first start, write the problems and run.json, with the content that is given then. Delete what a new run
    wrote if it fails before it has sampled anything, so that the corrected command can use the folder."""
    if isinstance(held, Resolved):
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


def _held(config: RunConfig, run_dir: Path, base: ModelRef, data: str) -> Resolved | None:
    """What was resolved when the folder was begun; None for a new one. Refuses to carry on another run's folder."""
    path = run_dir / "run.json"
    if not path.exists():
        return None
    about = read_run_json(run_dir)
    if {f.name for f in fields(Resolved)} != about["resolved"].keys() or "sha256" not in about["model"]:
        raise StoreError(f"{path}: resolved or model is damaged; restore the file or start a new run")
    try:
        resolved = TypeAdapter(Resolved).validate_python(about["resolved"])
    except ValidationError as error:
        wrong = error.errors()[0]
        raise StoreError(
            f"{path}: resolved.{wrong['loc'][0]}: {wrong['msg'].lower()}, got {wrong['input']!r}; restore the file or "
            "start a new run"
        ) from error
    if changed := differences(_fixed(config_of_run(run_dir)), _fixed(config)):
        raise StoreError(
            f"{run_dir} was started with {'; '.join(changed)}; carry on with "
            f"`{command('run', '--resume', run_dir)}`, or use another --run-dir"
        )
    if about["model"]["sha256"] != base.sha256:
        raise RefusedError(
            f"{run_dir} was started with other weights in {base.path} (sha256 {about['model']['sha256'][:12]}, now "
            f"{(base.sha256 or '')[:12]}); restore the model, or use another --run-dir"
        )
    _refuse_other_data(run_dir, about, data)
    return resolved


def _other_versions(config: RunConfig, run_dir: Path) -> list[str]:
    """A warning if a run is carried on with other versions of the libraries than it was begun with."""
    then, now = read_run_json(run_dir).get("versions", {}), versions(config)
    other = [f"{name} {then.get(name)}, now {now[name]}" for name in now if then.get(name) != now[name]]
    return (
        [f"warning: the run was begun with {'; '.join(other)}: what is sampled from here on may differ"]
        if other
        else []
    )


def _fixed(config: RunConfig) -> dict[str, Value]:
    """The settings that a run keeps: all but how its server is reached, which changes when the server is restarted."""
    return {key: value for key, value in flat_values(config).items() if key not in HOW_A_SERVER_IS_REACHED}


def _refuse_other_data(run_dir: Path, about: Mapping[str, Any], data: str) -> None:
    then = about.get("data_sha256")
    if then != data:
        raise RefusedError(
            f"{run_dir} was started on other problems (sha256 {str(then)[:12]}, now {data[:12]}): the data or the "
            "prompt file was changed; restore it, or use another --run-dir"
        )


def _description(config: RunConfig, resolved: Resolved, base: ModelRef, data: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "config": flat_values(config),
        "resolved": asdict(resolved),
        "model": {"path": base.path, "sha256": base.sha256},
        "data_sha256": data,
        "versions": versions(config),
        "git_commit": _git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git_commit() -> str | None:
    """The commit that is checked out in the current folder, if it is in a git repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None

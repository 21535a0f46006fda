"""`selftaught.run` and `selftaught.task_from_rows`: what the commands do, called from Python.

Everything is refused as the commands refuse it, as a SelftaughtError whose text is one line.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from selftaught.commands.run import FromPython, default_run_dir, launch
from selftaught.config.loading import config_from_settings, config_without_training, load_config
from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine
from selftaught.grading.verifiers.users import in_this_process
from selftaught.loop import Outcome
from selftaught.machine.paths import given_name, given_path
from selftaught.machine.quiet import quieten_libraries
from selftaught.machine.time_limit import time_limit as limit_of
from selftaught.methods.method import Method
from selftaught.methods.settings import Knobs
from selftaught.records.errors import ConfigError
from selftaught.records.events import Listener
from selftaught.records.measurements import IterationSummary, Measurement
from selftaught.records.problems import Check, Problem, Task
from selftaught.records.samples import ModelRef
from selftaught.tasks.outside import OBJECT, taken
from selftaught.tasks.own import task as own
from selftaught.tasks.own.settings import OwnConfig
from selftaught.tasks.rows.files import Row
from selftaught.tasks.rows.prompt_file import few_shot_examples_of
from selftaught.tasks.settings import TaskConfig
from selftaught.tasks.splits import check_splits
from selftaught.training.trainer import Trainer

OF_FILES = frozenset({"data", "dev_data", "test_data", "prompt_file", "verifier_function"})
"""The settings of `own` that rows given in Python have no use for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a finished run measured."""

    run_dir: Path
    best_iteration: int
    """The iteration whose model is the best on dev; 0 is the base model."""
    model: str
    """The folder of that model; for the base model, its path as the config gives it."""
    base: Measurement
    """The base model on test."""
    test: Measurement
    """The best model on test, measured once."""
    dev: tuple[Measurement, ...]
    """By iteration; the first is the base model's."""
    summaries: tuple[IterationSummary, ...]
    """One for each iteration, from 1 on."""


def run(
    config: str | os.PathLike[str] | Mapping[str, Any],
    *,
    settings: Mapping[str, Any] | None = None,
    task: Task | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    engine: Callable[[ModelRef], Engine] | None = None,
    trainer: Callable[[], Trainer] | None = None,
    method: Callable[[Knobs, Task], Method] | None = None,
    listeners: Sequence[Listener] = (),
    progress: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    time_limit: str | float | None = None,
) -> Result:
    """Run a config, or carry on the run that `run_dir` holds, as `selftaught run` does.

    `config` is a TOML file, a task with a shipped config, or settings by `section.key` or as nested mappings;
    `settings` (of the same form) win over it. `task` takes the place of `task.name`. `engine` opens what generates with
    a model's weights, `trainer` what fine-tunes, and `method` makes what decides what is sampled and trained on, in
    place of the configured ones; a model whose engine and trainer are both given is not loaded. `run_dir` is
    runs/TASK-METHOD by default. `listeners` are told what happens; `progress` prints to stderr what the command prints.
    `should_stop` is asked after every chunk and optimizer step; True ends the run with Interrupted, and everything
    finished is saved. `time_limit` is a time such as "3h", or seconds, from this call on: when it is over the run ends
    with Suspended in the same way.

    Raises SelftaughtError for whatever the command refuses. A run with a task, an engine, a trainer or a method of its
    own is carried on by the same call, and not by the command.
    """
    suspended_by = limit_of(time_limit, "time_limit")
    quieten_libraries()
    checked = None if task is None else checked_task(task)
    given = FromPython(task=checked, engine=engine, trainer=trainer, method=method)
    resolved = config_of(config, dict(settings or {}), task)
    folder = default_run_dir(resolved) if run_dir is None else given_path(os.fspath(run_dir), "run_dir")
    if progress:
        listeners = [*terminal_of(resolved), *listeners]
    outcome = launch(
        resolved, folder, listeners=listeners, should_stop=should_stop, suspended_by=suspended_by, given=given
    )
    return _result(outcome, folder, resolved)


def task_from_rows(
    name: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    dev: Iterable[Mapping[str, Any]] | None = None,
    test: Iterable[Mapping[str, Any]] | None = None,
    few_shot: Iterable[Mapping[str, Any]] = (),
    verifier: str | Callable[[str, Problem], Any] | None = None,
    check_steps: Check | None = None,
    **settings: Any,
) -> Task:
    """A task of questions and answers given as rows, read as the task `own` reads a file's (docs/own-data.md).

    A row has the keys `question` and `answer`, and perhaps `choices`, `id`, `class` and `rationale`; dev and test are
    cut from `rows` unless they are given. `few_shot` rows have `question`, `rationale`, `answer` and perhaps `choices`.
    `verifier` is a name (docs/verifiers.md) or a function of a completion and its problem that returns True or False,
    a verdict, or one of these and the prediction; it runs in this process. `settings` are those of [task] that `own`
    has, such as `question_key`, `answer_marker` or `dev_rows`.

    Raises ConfigError for what cannot be read, with the row's number; RefusedError for a question that occurs twice.
    """
    if unused := sorted(settings.keys() & (OF_FILES | {"name", "variant"})):
        raise ConfigError(f"task_from_rows: {unused[0]} is of no use to rows that are given; leave it out")
    values = {**settings, **({"verifier": verifier} if isinstance(verifier, str) else {})}
    flat = {f"task.{key}": value for key, value in values.items()}
    config = cast(OwnConfig, config_without_training({**flat, "task.name": "own"}, lambda key: "task_from_rows").task)
    splits = {"train": rows, "dev": dev, "test": test}
    given = own.Given(
        source=f"task {name!r}",
        rows={split: _rows(of, "" if split == "train" else split) for split, of in splits.items() if of is not None},
        few_shot=few_shot_examples_of(_rows(few_shot, "few-shot", may_be_empty=True)),
    )
    if verifier is None or isinstance(verifier, str):
        task = own.task_of(name, config, given, check_steps=check_steps)
    else:
        judge = in_this_process(verifier, own.NEXT_QUESTION)
        task = own.task_of(name, config, given, verifier=judge, check_steps=check_steps)
    check_splits(task)
    return task


def terminal_of(config: RunConfig) -> list[Listener]:
    """What prints a run to stderr, as the command does."""
    from rich.console import Console

    from selftaught.tracking.terminal import Terminal

    return [Terminal(Console(stderr=True), config.loop.max_iterations)]


def config_of(given: object, settings: dict[str, Any], task: Task | None) -> RunConfig:
    """A config as a program gives it, with settings over it. Raises ConfigError."""
    if task is not None:
        settings["task.name"] = f"{OBJECT}{task.name}"
    if isinstance(given, Mapping):
        config = config_from_settings(given, settings)
    elif isinstance(given, str | os.PathLike):
        config = load_config(given_name(os.fspath(given), "config"), settings)
    else:
        raise ConfigError(f"config is {type(given).__name__}, expected a path, a task's name or a mapping of settings")
    if task is not None:
        _refuse_ignored_by(task, config.task)
    return config


def _refuse_ignored_by(task: Task, settings: TaskConfig) -> None:
    for key, field in type(settings).model_fields.items():
        if key not in TaskConfig.model_fields and (value := getattr(settings, key)) != field.default:
            raise ConfigError(
                f"task.{key} = {value!r}, but the task {task.name!r} is given as it is and does not use it; remove it"
            )


def checked_task(task: Task) -> Task:
    """A task that a program gives. Raises SelftaughtError for what it must not be."""
    task = taken(task, "task=")
    check_splits(task)
    return task


def _rows(given: Iterable[Mapping[str, Any]], split: str, *, may_be_empty: bool = False) -> list[Row]:
    rows = []
    for number, values in enumerate(given, start=1):
        place = f"{split} row {number}".strip()
        if not isinstance(values, Mapping):
            raise ConfigError(f'{place}: got {values!r:.40}, expected a row such as {{"question": …, "answer": …}}')
        if odd := [key for key in values if not isinstance(key, str)]:
            raise ConfigError(f"{place}: the key {odd[0]!r} is no text; name columns by texts")
        rows.append(Row(place=place, values={key: _listed(value) for key, value in values.items()}))
    if not rows and not may_be_empty:
        raise ConfigError(f"{f'{split} rows' if split else 'rows'}: none are given; expected at least one")
    return rows


def _listed(value: Any) -> Any:
    """Choices may be a tuple, where a file has a list."""
    return list(value) if isinstance(value, tuple) else value


def _result(outcome: Outcome, folder: Path, config: RunConfig) -> Result:
    return Result(
        run_dir=folder,
        best_iteration=outcome.best,
        model=str(folder / f"checkpoints/{outcome.best:03d}") if outcome.best else config.model.path,
        base=outcome.measured["test"][0],
        test=outcome.measured["test"][-1],
        dev=(outcome.base_dev, *(summary.dev for summary in outcome.summaries)),
        summaries=outcome.summaries,
    )

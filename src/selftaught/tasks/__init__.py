"""The tasks by name. A new packaged task is one folder and one entry in TASKS (CONTRIBUTING.md)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from selftaught.records.errors import ConfigError
from selftaught.records.problems import Grader, Problem, Task
from selftaught.tasks import outside
from selftaught.tasks.arithmetic import task as arithmetic
from selftaught.tasks.commonsenseqa import task as commonsenseqa
from selftaught.tasks.gsm8k import task as gsm8k
from selftaught.tasks.own import task as own
from selftaught.tasks.reasoning_gym import task as reasoning_gym
from selftaught.tasks.settings import TaskConfig
from selftaught.tasks.splits import check_splits

__all__ = ["OF_EVERY_TASK", "TASKS", "TaskSource", "load_grader", "load_task", "refuse_ignored", "source_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSource:
    load: Callable[[TaskConfig], Task]
    grader: Callable[[TaskConfig, Iterable[Problem]], Grader]
    """How the task judges completions, from its settings and, where these leave it open, from its few-shot examples and
    training problems; loads no data. Raises ConfigError for settings, or a library, that it lacks."""
    variants: tuple[str, ...]
    """The first one is the default."""
    description: str
    uses: frozenset[str]
    """The settings of [task] that it uses beyond those that every task has; others are refused."""
    places: Callable[[TaskConfig], Mapping[str, str]] | None = None
    """Problem id -> file and line of its row, for a task whose rows are the user's."""


OF_EVERY_TASK = frozenset({"name", "choose", "problems_per_iteration", "dev_problems", "test_problems"})
"""The settings of [task] that the loop uses for every task."""

TASKS: Mapping[str, TaskSource] = MappingProxyType(
    {
        "arithmetic": TaskSource(
            load=arithmetic.load,
            grader=arithmetic.grader,
            variants=arithmetic.VARIANTS,
            uses=frozenset({"variant", "data_seed"}),
            description="d-digit plus d-digit addition with a scratchpad, d in 1..5; generated, works offline",
        ),
        "gsm8k": TaskSource(
            load=gsm8k.load,
            grader=gsm8k.grader,
            variants=(),
            uses=gsm8k.USES,
            description="grade-school word problems; dev is cut from train, test is the official test file",
        ),
        "commonsenseqa": TaskSource(
            load=commonsenseqa.load,
            grader=commonsenseqa.grader,
            variants=(),
            uses=commonsenseqa.USES,
            description="five-way questions; dev is cut from train, test is the official dev file",
        ),
        "reasoning-gym": TaskSource(
            load=reasoning_gym.load,
            grader=reasoning_gym.grader,
            variants=(),
            uses=reasoning_gym.USES,
            description="a generator of reasoning-gym, named by task.variant, with its own scorer; needs the extra",
        ),
        "own": TaskSource(
            load=own.load,
            grader=own.grader,
            variants=(),
            uses=own.USES,
            description="your own questions and answers: task.data is a file or a hub id; start with `selftaught init`",
            places=own.places,
        ),
    }
)


def load_task(settings: TaskConfig) -> Task:
    """The task, after a check that its splits do not overlap. Raises ConfigError for an unknown name or an unused
    setting, RefusedError for an overlap."""
    task = _chosen(settings).load(settings)
    check_splits(task)
    return task


def load_grader(settings: TaskConfig, problems: Iterable[Problem]) -> Grader:
    """How a task judges completions, without its data; `problems` are its few-shot examples and training problems.

    A user's function is the exception: it makes the whole task. Raises as `load_task` does.
    """
    return _chosen(settings).grader(settings, problems)


def _chosen(settings: TaskConfig) -> TaskSource:
    source = source_of(settings.name)
    if settings.name in TASKS:
        refuse_ignored(settings)
    return source


def source_of(name: str) -> TaskSource:
    """Where the task of this name comes from: TASKS, or a user's function. Raises ConfigError if from neither."""
    if name in TASKS:
        return TASKS[name]
    if outside.is_outside(name):
        every = frozenset(TaskConfig.model_fields)
        return TaskSource(
            load=outside.load, grader=outside.grader, variants=(), uses=every, description=f"your function {name}"
        )
    if name.startswith(outside.OBJECT):
        raise ConfigError(
            f"the task {name.removeprefix(outside.OBJECT)!r} was given from Python as a Task object, which only its "
            "program can make; call that program again, with the same run folder to carry the run on"
        )
    if ":" in name:
        raise ConfigError(f"task.name is {name!r}, expected a task, `module:name` or `file.py:name`; correct it")
    raise ConfigError(f"unknown task {name!r}; known: {', '.join(sorted(TASKS))}")


def refuse_ignored(settings: TaskConfig) -> None:
    """Raise ConfigError for a setting that the task would not use."""
    used = OF_EVERY_TASK | TASKS[settings.name].uses
    only_with = {"answer_pattern": "regex", "verifier_function": "python"}
    for key, field in TaskConfig.model_fields.items():
        value = getattr(settings, key)
        if value == field.default:
            continue
        if key not in used:
            users = [name for name, source in TASKS.items() if key in source.uses]
            who = f"; it belongs to {', '.join(users)}" if users else ""
            raise ConfigError(f"task.{key} = {value!r}, but task {settings.name!r} does not use it{who}; remove it")
        if settings.verifier != only_with.get(key, settings.verifier):
            raise ConfigError(f"task.{key} is set, but only task.verifier = {only_with[key]!r} uses it; remove one")

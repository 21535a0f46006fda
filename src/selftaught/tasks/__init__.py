"""The tasks by name. A new packaged task is one folder and one entry in TASKS (CONTRIBUTING.md)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from selftaught.records.errors import ConfigError
from selftaught.records.problems import Grader, Problem, Task
from selftaught.tasks import outside
from selftaught.tasks.arithmetic import task as arithmetic
from selftaught.tasks.commonsenseqa import task as commonsenseqa
from selftaught.tasks.gsm8k import task as gsm8k
from selftaught.tasks.own import task as own
from selftaught.tasks.own.settings import OwnConfig
from selftaught.tasks.reasoning_gym import task as reasoning_gym
from selftaught.tasks.settings import TaskConfig
from selftaught.tasks.splits import check_splits

__all__ = ["TASKS", "DataSet", "TaskSource", "load_grader", "load_task", "source_of"]

_Settings = TypeVar("_Settings", bound=TaskConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The public data set that a task's problems are from, and its licence, as its own page says."""

    hub_id: str | None
    """None for problems that the package generates."""
    licence: str
    """As the hub names it."""
    stated_in: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSource(Generic[_Settings]):
    settings: type[_Settings]
    """The section [task] of this task: its keys and, as the default of `name`, its name. Others are refused."""
    load: Callable[[_Settings], Task]
    grader: Callable[[_Settings, Iterable[Problem]], Grader]
    """How the task judges completions, from its settings and, where these leave it open, from its few-shot examples and
    training problems; loads no data. Raises ConfigError for settings, or a library, that it lacks."""
    variants: tuple[str, ...]
    """The first one is the default."""
    description: str
    places: Callable[[_Settings], Mapping[str, str]] | None = None
    """Problem id -> file and line of its row, for a task whose rows are the user's."""
    reads_new_questions: bool = True
    """Whether the verifier reads the answer to a question that is not one of the task's problems."""
    data_set: DataSet | None = None
    """None for problems that the user gives, and for those whose licence is not known."""


TASKS: Mapping[str, TaskSource[Any]] = MappingProxyType(
    {
        "arithmetic": TaskSource(
            settings=arithmetic.ArithmeticConfig,
            load=arithmetic.load,
            grader=arithmetic.grader,
            variants=arithmetic.VARIANTS,
            description="d-digit plus d-digit addition with a scratchpad, d in 1..5; generated, works offline",
            data_set=DataSet(
                hub_id=None, licence="apache-2.0", stated_in="the licence of selftaught, which generates it"
            ),
        ),
        "gsm8k": TaskSource(
            settings=gsm8k.Gsm8kConfig,
            load=gsm8k.load,
            grader=gsm8k.grader,
            variants=(),
            description="grade-school word problems; dev is cut from train, test is the official test file",
            data_set=DataSet(hub_id=gsm8k.HUB_ID, licence="mit", stated_in="its card on the hub"),
        ),
        "commonsenseqa": TaskSource(
            settings=commonsenseqa.CommonsenseqaConfig,
            load=commonsenseqa.load,
            grader=commonsenseqa.grader,
            variants=(),
            description="five-way questions; dev is cut from train, test is the official dev file",
            data_set=DataSet(hub_id=commonsenseqa.HUB_ID, licence="mit", stated_in="its card on the hub"),
        ),
        "reasoning-gym": TaskSource(
            settings=reasoning_gym.ReasoningGymConfig,
            load=reasoning_gym.load,
            grader=reasoning_gym.grader,
            variants=(),
            description="a generator of reasoning-gym, named by task.variant, with its own scorer; needs the extra",
            reads_new_questions=False,  # the scorer looks its own item up
        ),
        "own": TaskSource(
            settings=OwnConfig,
            load=own.load,
            grader=own.grader,
            variants=(),
            description="your own questions and answers: task.data is a file or a hub id; start with `selftaught init`",
            places=own.places,
        ),
    }
)


def load_task(settings: TaskConfig) -> Task:
    """The task, after a check that its splits do not overlap. Raises ConfigError for an unknown name, RefusedError
    for an overlap."""
    task = source_of(settings.name).load(settings)
    check_splits(task)
    return task


def load_grader(settings: TaskConfig, problems: Iterable[Problem]) -> Grader:
    """How a task judges completions, without its data; `problems` are its few-shot examples and training problems.

    A user's function is the exception: it makes the whole task. Raises as `load_task` does.
    """
    return source_of(settings.name).grader(settings, problems)


def source_of(name: str) -> TaskSource[Any]:
    """Where the task of this name comes from: TASKS, or a user's function. Raises ConfigError if from neither."""
    if name in TASKS:
        return TASKS[name]
    if outside.is_outside(name):
        return TaskSource(
            settings=outside.OutsideConfig,
            load=outside.load,
            grader=outside.grader,
            variants=(),
            description=f"your function {name}",
        )
    if name.startswith(outside.OBJECT):
        raise ConfigError(
            f"the task {name.removeprefix(outside.OBJECT)!r} was given from Python as a Task object, which only its "
            "program can make; call that program again, with the same run folder to carry the run on"
        )
    if ":" in name:
        raise ConfigError(f"task.name is {name!r}, expected a task, `module:name` or `file.py:name`; correct it")
    raise ConfigError(f"unknown task {name!r}; known: {', '.join(sorted(TASKS))}")

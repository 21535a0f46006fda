"""The tasks by name. A new task is one file and one line in TASKS (docs/extend.md)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from selftaught.grading.signs import fold
from selftaught.records.errors import ConfigError, RefusedError
from selftaught.records.problems import SPLITS, Grader, Problem, Task
from selftaught.tasks.arithmetic import task as arithmetic
from selftaught.tasks.commonsenseqa import task as commonsense
from selftaught.tasks.gsm8k import task as gsm8k
from selftaught.tasks.own import task as own
from selftaught.tasks.reasoning_gym import task as gym
from selftaught.tasks.settings import TaskConfig

__all__ = ["TASKS", "TaskSource", "check_splits", "key_of_problem", "load_grader", "load_task"]


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
            load=commonsense.load,
            grader=commonsense.grader,
            variants=(),
            uses=commonsense.USES,
            description="five-way questions; dev is cut from train, test is the official dev file",
        ),
        "reasoning-gym": TaskSource(
            load=gym.load,
            grader=gym.grader,
            variants=(),
            uses=gym.USES,
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
    task = _source(settings).load(settings)
    check_splits(task)
    return task


def load_grader(settings: TaskConfig, problems: Iterable[Problem]) -> Grader:
    """How a task judges completions, without its data; `problems` are its few-shot examples and training problems.
    Raises as `load_task` does."""
    return _source(settings).grader(settings, problems)


def _source(settings: TaskConfig) -> TaskSource:
    name = settings.name
    if name not in TASKS:
        raise ConfigError(f"unknown task {name!r}; known: {', '.join(sorted(TASKS))}")
    _refuse_ignored(settings)
    return TASKS[name]


def _refuse_ignored(settings: TaskConfig) -> None:
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


def check_splits(task: Task) -> None:
    """Raise RefusedError if two problems of the splits share an id, or if a measured problem is also
    trained on.

    The few-shot examples and the problems that a shipped model was trained on count as train. Across splits two
    problems are the same if `task.same_problem` gives them the same key, whatever their ids.
    """
    key_of = key_of_problem(task)
    measured = {name: [key_of(p) for p in task.split(name)] for name in SPLITS if name != "train"}
    measured_keys = {key for keys in measured.values() for key in keys}  # far fewer than the keys of train
    trained_on = {
        key: (place, p.id)
        for place, problems in (("seen", task.seen), ("the few-shot examples", task.few_shot), ("train", task.train))
        for p in problems
        if (key := key_of(p)) in measured_keys
    }
    ids: dict[str, str] = {}
    for name in SPLITS:
        for position, problem in enumerate(task.split(name)):
            if problem.id in ids:
                places = f"in {name} twice" if ids[problem.id] == name else f"in {ids[problem.id]} and in {name}"
                raise RefusedError(f"task {task.name!r}: problem id {problem.id!r} is {places}; make ids unique")
            ids[problem.id] = name
            where = None if name == "train" else trained_on.get(measured[name][position])
            if where is not None:
                raise RefusedError(
                    f"task {task.name!r}: {name} problem {problem.id!r} is also in {where[0]} ({where[1]!r}); "
                    "a measured problem must not be trained on, remove it from one of them"
                )
    dev = {key: p.id for key, p in zip(measured["dev"], task.dev, strict=True)}
    for name in ("test", "extrapolation"):
        for key, problem in zip(measured[name], task.split(name), strict=True):
            if key in dev:
                raise RefusedError(
                    f"task {task.name!r}: test problem {problem.id!r} is also in dev ({dev[key]!r}); "
                    "dev selects the best iteration, so test must not hold its problems"
                )
    for name in ("train", "dev", "test"):
        if not task.split(name):
            raise RefusedError(f"task {task.name!r}: the {name} split is empty; every split needs at least one problem")


def key_of_problem(task: Task) -> Callable[[Problem], str]:
    """The key function of the task: problems with equal keys are the same problem."""
    return task.same_problem or _question_key


def _question_key(problem: Problem) -> str:
    return fold(problem.question)

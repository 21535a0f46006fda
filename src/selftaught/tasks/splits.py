"""What holds across a task's splits: ids are unique, and nothing measured is trained on or selected by."""

from collections.abc import Callable

from selftaught.grading.signs import fold
from selftaught.records.errors import RefusedError
from selftaught.records.problems import SPLITS, Problem, Task


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

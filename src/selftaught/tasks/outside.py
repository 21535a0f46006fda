"""Tasks that a user's program gives: `task.name = "file.py:load"` or `"package.module:load"`, or a Task object.

The function gets the settings of [task] and returns a Task. It runs in this process, as its verifier and checks do: it
is the user's own program. What it returns is looked at before it is used, because a Problem with a number for an answer
would fail much later, and what its functions raise becomes one line with the problem and the line of code.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import Field

from selftaught.machine.children import current_folder
from selftaught.machine.user_functions import (
    folder_beside,
    function_in,
    module_of,
    parts_of,
    what_was_raised,
)
from selftaught.prompts.rendering import render_completion, render_prompt
from selftaught.records.errors import ConfigError, SelftaughtError, VerifierError
from selftaught.records.problems import (
    LABELS,
    SPLITS,
    Check,
    CheckResult,
    Grader,
    Problem,
    PromptFormat,
    Task,
    Verdict,
    Verification,
)
from selftaught.records.sections import Text
from selftaught.tasks.own.settings import ColumnsConfig
from selftaught.tasks.settings import VariantConfig

OBJECT = "object:"
"""`task.name` of a run on a Task object is this and the object's name: only the program that made it can make it."""

OPTIONAL_FUNCTIONS = ("check_steps", "solution_key", "same_problem")

_Given = ParamSpec("_Given")
_Returned = TypeVar("_Returned")


class OutsideConfig(ColumnsConfig, VariantConfig):
    """The section [task] for a name that no task of the package has: every key, none of which is refused."""

    name: Text = Field(
        description="A task from `selftaught tasks`, or your function that returns one, as `file.py:load` or "
        "`module:load` (docs/tasks.md)."
    )

    def check_values(self) -> None:
        """A user's function may use any setting without any other."""


def is_outside(name: str) -> bool:
    """Whether `task.name` names a user's function."""
    return parts_of(name) is not None and not name.startswith(OBJECT)


def short_name(name: str) -> str:
    """`task.name` as part of a folder's name: of a user's function the name of its file or module, and its own if that
    is not `load`."""
    parts = None if name.startswith(OBJECT) else parts_of(name)
    if parts is None:
        return name.removeprefix(OBJECT)
    where, function = parts
    stem = Path(where).stem if where.endswith(".py") else where.rpartition(".")[2]
    return stem if function == "load" else f"{stem}-{function}"


def load(settings: OutsideConfig) -> Task:
    """The task that the user's function returns.

    Raises ConfigError, on one line with file and line of the user's code, for a function that is not there, raises or
    returns something else than a Task.
    """
    name = settings.name
    where = name.rpartition(":")[0]
    if where.endswith(".py") and not os.path.isfile(where):
        raise ConfigError(
            f"task.name = {name!r}: no such file{'' if os.path.isabs(where) else f' in {os.getcwd()}'}; check the path"
        )
    sys.path += [f for f in (*folder_beside(where), *current_folder()) if f not in sys.path]
    try:
        module = module_of(where)
    except ModuleNotFoundError as error:
        if where == error.name or where.startswith(f"{error.name}."):
            raise ConfigError(
                f"task.name = {name!r}: no module {error.name!r} is installed or in {os.getcwd()}; run in the folder "
                "that holds it, or name its file, such as path/file.py:load"
            ) from error
        raise ConfigError(f"task.name = {name!r}: {what_was_raised(error)}; install it, or correct the file") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"task.name = {name!r}: {what_was_raised(error)}; correct the file") from error
    try:
        function = function_in(module, name, expected="a TaskConfig that returns a Task")
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"task.name = {name!r}: {error}; give the name of the function") from error
    try:
        task = function(settings)
    except SelftaughtError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"task.name = {name!r}: {what_was_raised(error)}; correct the function") from error
    return taken(task, f"task.name = {name!r}: what it returned")


def grader(settings: OutsideConfig, problems: Iterable[Problem]) -> Grader:
    """How the user's task judges, which only the whole task knows; raises as `load` does."""
    task = load(settings)
    return Grader(verifier=task.verifier, check_steps=task.check_steps, other_checks=task.other_checks)


def taken(task: object, who: str) -> Task:
    """A user's task, with functions whose failures are one line. `who` begins the messages about its parts.

    Raises ConfigError for what is no Task, and for a part of it that is not what the record says.
    """
    if not isinstance(task, Task):
        raise ConfigError(f"{who} is {type(task).__name__}, expected a Task (selftaught.Task)")
    who = f"{who}, task {task.name!r}"
    _check_parts(task, who)
    for name in ("few_shot", *SPLITS, "seen"):
        problems = getattr(task, name)
        if not isinstance(problems, tuple):
            raise ConfigError(f"{who}: {name} is {type(problems).__name__}, expected a tuple; write tuple(…) around it")
        for number, problem in enumerate(problems, start=1):
            _check_problem(problem, f"{who}: {name}, problem {number}")
    _check_format(task, who)
    return _with_named_failures(task)


def _check_parts(task: Task, who: str) -> None:
    if not isinstance(task.name, str) or not task.name.strip() or not task.name.isprintable():
        raise ConfigError(f"{who}: the name is {task.name!r}, expected a text on one line")
    if not isinstance(task.prompt_format, PromptFormat):
        raise ConfigError(f"{who}: prompt_format is {type(task.prompt_format).__name__}, expected a PromptFormat")
    functions = {
        "verifier": task.verifier,
        **{name: getattr(task, name) for name in OPTIONAL_FUNCTIONS if getattr(task, name) is not None},
        **{f"other_checks[{name!r}]": check for name, check in task.other_checks.items()},
    }
    for name, function in functions.items():
        if not callable(function) and not (
            function is None and name in ("check_steps", "solution_key", "same_problem")
        ):
            raise ConfigError(f"{who}: {name} is {type(function).__name__}, expected a function")


def _check_problem(problem: object, who: str) -> None:
    if not isinstance(problem, Problem):
        raise ConfigError(f"{who} is {type(problem).__name__}, expected a Problem (selftaught.Problem)")
    who = f"{who} ({problem.id!r})"
    texts = {name: getattr(problem, name) for name in ("id", "question", "answer", "class_name", "rationale")}
    if not isinstance(problem.choices, tuple):
        raise ConfigError(f"{who}: choices is {type(problem.choices).__name__}, expected a tuple of texts")
    texts |= {f"choices[{number}]": text for number, text in enumerate(problem.choices)}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ConfigError(f"{who}: {name} is {text!r:.40}, a {type(text).__name__}, expected a text (str)")
        if not text.strip() and name != "rationale":
            raise ConfigError(f"{who}: {name} is empty, expected a text")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError(f"{who}: {name} holds half of a character pair, which is no text; correct it")
    labels = LABELS[: len(problem.choices)]
    if problem.choices and (len(problem.choices) > len(LABELS) or problem.answer not in list(labels)):
        raise ConfigError(f"{who}: the answer is {problem.answer!r}, expected the label of a choice, A to {labels[-1]}")


def _check_format(task: Task, who: str) -> None:
    """Render a problem of each split in every form; templates fail where a field of theirs is unknown."""
    for problem in (*task.few_shot[:1], *(p for name in SPLITS for p in task.split(name)[:1])):
        try:
            render_prompt(task.prompt_format, problem, hint=True)
            render_completion(task.prompt_format, problem)
            render_completion(task.prompt_format, replace(problem, rationale=""))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{who}: prompt_format does not render problem {problem.id!r} ({type(error).__name__}: {error}); its "
                "fields are in the documentation of PromptFormat, and other braces are written twice"
            ) from error


def _with_named_failures(task: Task) -> Task:
    def of(problem: Problem, what: str) -> str:
        return f"task {task.name!r}, problem {problem.id!r}: {what}"

    def check_named(what: str, check: Check) -> Check:
        return _named(check, CheckResult, lambda problem, completion: of(problem, what))

    key, same = task.solution_key, task.same_problem
    return replace(
        task,
        verifier=_named(task.verifier, Verification, lambda completion, problem: of(problem, "the verifier")),
        check_steps=None if task.check_steps is None else check_named("check_steps", task.check_steps),
        other_checks={name: check_named(f"the check {name!r}", check) for name, check in task.other_checks.items()},
        solution_key=None if key is None else _named(key, str, lambda text: f"task {task.name!r}: solution_key"),
        same_problem=None if same is None else _named(same, str, lambda problem: of(problem, "same_problem")),
    )


def _named(
    function: Callable[_Given, _Returned], kind: type[_Returned], who: Callable[_Given, str]
) -> Callable[_Given, _Returned]:
    """The function, with whatever it raises, and a result of another kind, as a VerifierError that says `who`."""

    def named(*given: _Given.args, **by_name: _Given.kwargs) -> _Returned:
        try:
            returned = function(*given, **by_name)
        except SelftaughtError:
            raise
        except Exception as error:
            raise VerifierError(
                f"{who(*given, **by_name)} raised {what_was_raised(error)}; correct the function"
            ) from error
        verdict = returned.verdict if isinstance(returned, Verification) else Verdict.CORRECT
        if not isinstance(returned, kind) or not isinstance(verdict, Verdict):
            wanted = "a Verification with a Verdict" if kind is Verification else f"a {kind.__name__}"
            raise VerifierError(
                f"{who(*given, **by_name)} returned {returned!r:.80}, expected {wanted}; correct the function"
            )
        return returned

    return named

"""The process in which a verifier's slow or foreign part runs: sympy, a user's expression or function.

`python -m selftaught.verifiers.worker` reads one JSON object per line from standard input and answers each with one
line; `pool.py` starts and kills it. The first line says what to load. It imports no torch. What a user's function
prints goes to standard error, and its standard input is empty, so that it cannot disturb the conversation.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from selftaught.children import current_folder
from selftaught.problems import Problem, Verdict
from selftaught.signs import fold_space

Answer = tuple[str, str | None]
"""Verdict and prediction."""
Job = Callable[[dict[str, Any]], Answer]

MATH_MEMORY = 4 << 30
"""Bytes: a power of powers must not take the machine's memory before its time is up."""


def main() -> None:
    questions, answers = _private_pipes()
    setup = json.loads(questions.readline())
    sys.path += _users_folders(setup)
    try:
        job = LOADERS[setup["kind"]](setup)
    except Exception as error:  # whatever a user's module raises while it is imported is the user's to see
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        return
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in questions:
        # The parent kills this process at its limit. If the parent is dead, the kernel does it, even in C code.
        signal.setitimer(signal.ITIMER_REAL, 2 * setup["limit_s"] + 5)
        try:
            verdict, prediction = job(json.loads(line))
            reply: dict[str, Any] = {"verdict": verdict, "prediction": prediction}
        except Exception as error:  # named to the user by the parent, with the problem
            reply = {"error": f"{type(error).__name__}: {error}"}
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(reply) + "\n")


def load_math(_setup: dict[str, Any]) -> Job:
    from selftaught.verifiers.algebra import same_formula

    resource.setrlimit(resource.RLIMIT_AS, (MATH_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def judge(request: dict[str, Any]) -> Answer:
        is_same = same_formula(request["answer"], request["prediction"])
        if is_same is None:
            return Verdict.UNPARSEABLE, None
        return Verdict.CORRECT if is_same else Verdict.INCORRECT, request["prediction"]

    return judge


def load_regex(setup: dict[str, Any]) -> Job:
    pattern = re.compile(setup["pattern"])

    def judge(request: dict[str, Any]) -> Answer:
        found = None
        for match in pattern.finditer(request["text"]):
            found = match[1]
        prediction = fold_space(found or "")
        if not prediction:
            return Verdict.UNPARSEABLE, None
        is_same = prediction == fold_space(request["answer"])
        return Verdict.CORRECT if is_same else Verdict.INCORRECT, prediction

    return judge


def load_python(setup: dict[str, Any]) -> Job:
    function = _imported(setup["function"])

    def judge(request: dict[str, Any]) -> Answer:
        problem = {**request["problem"], "choices": tuple(request["problem"]["choices"])}
        return _as_answer(function(request["text"], Problem(**problem)))

    return judge


LOADERS: dict[str, Callable[[dict[str, Any]], Job]] = {
    "math": load_math,
    "regex": load_regex,
    "python": load_python,
}


def _users_folders(setup: dict[str, Any]) -> list[str]:
    """Where a user's modules lie: behind everything else, or a `logging.py` would be run in place of Python's own."""
    if setup["kind"] != "python":
        return list(setup["folders"])
    where = setup["function"].rpartition(":")[0]
    beside = [os.path.dirname(os.path.abspath(where))] if where.endswith(".py") else []
    return list(dict.fromkeys([*beside, *setup["folders"], *current_folder()]))


def _imported(path: str) -> Callable[[str, Problem], Any]:
    """The function that `module:name` or `file.py:name` names; a file is taken whatever it is called."""
    where, _, name = path.rpartition(":")
    module = _module_of_file(where) if where.endswith(".py") else importlib.import_module(where)
    if not hasattr(module, name):
        own = f"{where.replace('.', '/')}.py"
        way_out = f"; the file in this folder is {own}:{name}" if os.path.isfile(own) else ""
        raise AttributeError(f"{where} ({getattr(module, '__file__', 'built into Python')}) has no {name!r}{way_out}")
    function = getattr(module, name)
    if not callable(function):
        raise TypeError(f"{path} is {type(function).__name__}, expected a function of a completion and a problem")
    return function  # type: ignore[no-any-return]


def _module_of_file(where: str) -> ModuleType:
    """Under a name of its own: as `json` or `re` it would take the place of Python's."""
    spec = importlib.util.spec_from_file_location(f"verifier_function_{Path(where).stem}", where)
    if spec is None or spec.loader is None:
        raise ImportError(f"{where} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _as_answer(returned: Any) -> Answer:
    """What a user's function returned, as verdict and prediction; a bare verdict is its own prediction."""
    verdict, prediction = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if isinstance(verdict, bool):
        verdict = Verdict.CORRECT if verdict else Verdict.INCORRECT
    if verdict not in list(Verdict) or not isinstance(prediction, str | None):
        raise TypeError(
            f"the function returned {returned!r:.80}, expected True or False, 'correct', 'incorrect' or 'unparseable', "
            "or one of these and the prediction (a text)"
        )
    if verdict == Verdict.UNPARSEABLE:
        return verdict, None
    return str(verdict), str(verdict) if prediction is None else prediction


def _private_pipes() -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
    """The two pipes to the parent, out of reach of `print` and `input`."""
    questions = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    with contextlib.suppress(OSError):  # a parent without standard error
        os.dup2(2, 1)
    with open(os.devnull, encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 0)
    return questions, answers


if __name__ == "__main__":
    main()

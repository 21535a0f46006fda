"""The verifier process: it runs what may be slow or belongs to a user: sympy, a regular expression, a function.

`python -m selftaught.grading.verifiers.process` reads one JSON object per line from standard input and replies to each
with one line; `pool.py` starts and kills it. The first line names what to load. It does not import torch. A user's
function prints to standard error and has an empty standard input, so that it cannot disturb the exchange of lines.
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

from selftaught.grading.signs import fold_space
from selftaught.machine.children import current_folder
from selftaught.records.problems import Problem, Verdict

Judgement = tuple[str, str | None]
"""Verdict and prediction."""
Judge = Callable[[dict[str, Any]], Judgement]

MATH_MEMORY = 4 << 30
"""Bytes; a power of powers must not fill the machine's memory before its time limit."""


def main() -> None:
    requests, replies = _private_pipes()
    setup = json.loads(requests.readline())
    sys.path += _users_folders(setup)
    try:
        judge = LOADERS[setup["kind"]](setup)
    except Exception as error:  # the user gets to see whatever the import of their module raises
        replies.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        return
    replies.write(json.dumps({"ready": True}) + "\n")
    for line in requests:
        # The parent kills this process at its limit. If the parent is dead, this timer does it, even in C code.
        signal.setitimer(signal.ITIMER_REAL, 2 * setup["limit_s"] + 5)
        try:
            verdict, prediction = judge(json.loads(line))
            reply: dict[str, Any] = {"verdict": verdict, "prediction": prediction}
        except Exception as error:  # the parent reports it to the user, with the problem
            reply = {"error": f"{type(error).__name__}: {error}"}
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(reply) + "\n")


def load_math(_setup: dict[str, Any]) -> Judge:
    from selftaught.grading.verifiers.algebra import same_formula

    resource.setrlimit(resource.RLIMIT_AS, (MATH_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def judge(request: dict[str, Any]) -> Judgement:
        is_same = same_formula(request["answer"], request["prediction"])
        if is_same is None:
            return Verdict.UNPARSEABLE, None
        return Verdict.CORRECT if is_same else Verdict.INCORRECT, request["prediction"]

    return judge


def load_regex(setup: dict[str, Any]) -> Judge:
    pattern = re.compile(setup["pattern"])

    def judge(request: dict[str, Any]) -> Judgement:
        group = None
        for match in pattern.finditer(request["text"]):
            group = match[1]
        prediction = fold_space(group or "")
        if not prediction:
            return Verdict.UNPARSEABLE, None
        is_same = prediction == fold_space(request["answer"])
        return Verdict.CORRECT if is_same else Verdict.INCORRECT, prediction

    return judge


def load_python(setup: dict[str, Any]) -> Judge:
    function = _import_function(setup["function"])

    def judge(request: dict[str, Any]) -> Judgement:
        problem = {**request["problem"], "choices": tuple(request["problem"]["choices"])}
        return _as_judgement(function(request["text"], Problem(**problem)))

    return judge


LOADERS: dict[str, Callable[[dict[str, Any]], Judge]] = {
    "math": load_math,
    "regex": load_regex,
    "python": load_python,
}


def _users_folders(setup: dict[str, Any]) -> list[str]:
    """The folders of a user's modules. They come last in `sys.path`, or a `logging.py` would replace Python's own."""
    if setup["kind"] != "python":
        return list(setup["folders"])
    where = setup["function"].rpartition(":")[0]
    beside = [os.path.dirname(os.path.abspath(where))] if where.endswith(".py") else []
    return list(dict.fromkeys([*beside, *setup["folders"], *current_folder()]))


def _import_function(path: str) -> Callable[[str, Problem], Any]:
    """The function that `module:name` or `file.py:name` names; a file may have any name."""
    where, _, name = path.rpartition(":")
    module = _import_file(where) if where.endswith(".py") else importlib.import_module(where)
    if not hasattr(module, name):
        own = f"{where.replace('.', '/')}.py"
        way_out = f"; the file in this folder is {own}:{name}" if os.path.isfile(own) else ""
        raise AttributeError(f"{where} ({getattr(module, '__file__', 'built into Python')}) has no {name!r}{way_out}")
    function = getattr(module, name)
    if not callable(function):
        raise TypeError(f"{path} is {type(function).__name__}, expected a function of a completion and a problem")
    return function  # type: ignore[no-any-return]


def _import_file(where: str) -> ModuleType:
    """The module of a file, under a special name: as `json` or `re` it would replace Python's own module."""
    spec = importlib.util.spec_from_file_location(f"verifier_function_{Path(where).stem}", where)
    if spec is None or spec.loader is None:
        raise ImportError(f"{where} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _as_judgement(returned: Any) -> Judgement:
    """The result of a user's function as verdict and prediction; a bare verdict is its own prediction."""
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
    """The two pipes to the parent, which `print` and `input` of a user's function do not reach."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    with contextlib.suppress(OSError):  # a parent without standard error
        os.dup2(2, 1)
    with open(os.devnull, encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 0)
    return requests, replies


if __name__ == "__main__":
    main()

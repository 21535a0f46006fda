"""The verifier process: it runs what may be slow or belongs to a user: sympy, a regular expression, a function.

`python -m selftaught.grading.verifiers.process` reads one JSON object per line from standard input and replies to each
with one line; `pool.py` starts and kills it. The first line names what to load. It does not import torch. A user's
function prints to standard error and has an empty standard input, so that it cannot disturb the exchange of lines.
"""

import contextlib
import io
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from selftaught.grading.signs import fold_space
from selftaught.grading.verifiers.users import judgement_of
from selftaught.machine.children import current_folder
from selftaught.machine.user_functions import folder_beside, function_in, module_of
from selftaught.records.problems import Problem, Verdict

Judgement = tuple[str, str | None]
"""Verdict and prediction."""
Judge = Callable[[dict[str, Any]], Judgement]

MATH_MEMORY = 4 << 30
"""Bytes; a power of powers must not fill the machine's memory before its time limit."""


def main() -> None:
    # A scheduler's SIGTERM may go to every process. It is the run's, whose end closes the pipe.
    signal.signal(signal.SIGTERM, lambda *_: None)
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
    name = setup["function"]
    function = function_in(module_of(name.rpartition(":")[0]), name, expected="a completion and a problem")

    def judge(request: dict[str, Any]) -> Judgement:
        problem = {**request["problem"], "choices": tuple(request["problem"]["choices"])}
        return judgement_of(function(request["text"], Problem(**problem)))

    return judge


LOADERS: dict[str, Callable[[dict[str, Any]], Judge]] = {
    "math": load_math,
    "regex": load_regex,
    "python": load_python,
}


def _users_folders(setup: dict[str, Any]) -> list[str]:
    """The folders of a user's modules; they come last in `sys.path`."""
    if setup["kind"] != "python":
        return list(setup["folders"])
    beside = folder_beside(setup["function"].rpartition(":")[0])
    return list(dict.fromkeys([*beside, *setup["folders"], *current_folder()]))


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

"""Teach a language model to reason from question-answer pairs alone (STaR, arXiv 2203.14465)."""

import os
import sys

# `python -m selftaught` puts the current folder before the standard library, so that a `typing.py` there would be
# imported instead of Python's own. While Python looks for the program, its first argument is `-m`. What Python imports
# before this line may still come from that folder; the command `selftaught` and `python -P -m` do not have the problem.
if (
    sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
    and os.path.isdir(sys.path[0])
    and os.path.samefile(sys.path[0], ".")
    and not os.path.samefile(sys.path[0], os.path.dirname(__path__[0]))
):
    del sys.path[0]

import importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

from selftaught.records.errors import Interrupted, SelftaughtError, Suspended
from selftaught.records.problems import (
    CheckResult,
    Problem,
    PromptFormat,
    Task,
    Verdict,
    Verification,
)
from selftaught.records.prompts import Turn
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    Sample,
    SamplingParams,
)
from selftaught.records.training import TrainingExample

if _TYPE_CHECKING:
    from selftaught.commands.library import Result, run, task_from_rows
    from selftaught.commands.library_compare import Comparison, compare
    from selftaught.engines.engine import Engine
    from selftaught.engines.scripted import ScriptedEngine
    from selftaught.methods.method import Draw, Method, StandardMethod
    from selftaught.methods.training_set import TrainingSet
    from selftaught.prompts.rendering import prompt_text
    from selftaught.records.events import Listener
    from selftaught.training.none import NullTrainer
    from selftaught.training.trainer import Trainer

__all__ = [
    "CheckResult",
    "Comparison",
    "Completion",
    "Draw",
    "Engine",
    "Interrupted",
    "Listener",
    "Method",
    "ModelRef",
    "NullTrainer",
    "Problem",
    "PromptFormat",
    "Request",
    "Result",
    "Sample",
    "SamplingParams",
    "ScriptedEngine",
    "SelftaughtError",
    "StandardMethod",
    "Suspended",
    "Task",
    "Trainer",
    "TrainingExample",
    "TrainingSet",
    "Turn",
    "Verdict",
    "Verification",
    "__version__",
    "compare",
    "prompt_text",
    "run",
    "task_from_rows",
]

__version__ = "0.2.0"

# What belongs to later rooms is imported when it is first asked for, so that no command waits for it.
_LATER = {
    "Comparison": "selftaught.commands.library_compare",
    "Draw": "selftaught.methods.method",
    "Engine": "selftaught.engines.engine",
    "Listener": "selftaught.records.events",
    "Method": "selftaught.methods.method",
    "NullTrainer": "selftaught.training.none",
    "Result": "selftaught.commands.library",
    "ScriptedEngine": "selftaught.engines.scripted",
    "StandardMethod": "selftaught.methods.method",
    "Trainer": "selftaught.training.trainer",
    "TrainingSet": "selftaught.methods.training_set",
    "compare": "selftaught.commands.library_compare",
    "prompt_text": "selftaught.prompts.rendering",
    "run": "selftaught.commands.library",
    "task_from_rows": "selftaught.commands.library",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

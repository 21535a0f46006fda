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

from selftaught.records.errors import SelftaughtError
from selftaught.records.problems import Problem, Task, Verdict
from selftaught.records.samples import (
    Completion,
    Request,
    Sample,
    SamplingParams,
)
from selftaught.records.training import TrainingExample

__all__ = [
    "Completion",
    "Problem",
    "Request",
    "Sample",
    "SamplingParams",
    "SelftaughtError",
    "Task",
    "TrainingExample",
    "Verdict",
    "__version__",
]

__version__ = "0.1.0"

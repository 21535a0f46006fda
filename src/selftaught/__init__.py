"""Teach a language model to reason from question-answer pairs alone (STaR, arXiv 2203.14465)."""

import os
import sys

# `python -m selftaught` has put the current folder before the standard library, so that a `typing.py` there would be
# run in its place; Python shows it by this first argument, as long as it looks for the program. What Python imports
# before this line may still be taken from there; not so with the command `selftaught`, nor with `python -P -m`.
if (
    sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
    and os.path.isdir(sys.path[0])
    and os.path.samefile(sys.path[0], ".")
    and not os.path.samefile(sys.path[0], os.path.dirname(__path__[0]))
):
    del sys.path[0]

from selftaught.errors import SelftaughtError
from selftaught.problems import Problem, Task, Verdict
from selftaught.records import Completion, Request, Sample, SamplingParams, TrainingExample

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

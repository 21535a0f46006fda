"""Teach a language model to reason from question-answer pairs alone (STaR, arXiv 2203.14465)."""

from selftaught.errors import SelftaughtError
from selftaught.records import Completion, Problem, Request, Sample, SamplingParams, Task, TrainingExample, Verdict

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

"""Teach a language model to reason from question-answer pairs alone (STaR, arXiv 2203.14465)."""

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

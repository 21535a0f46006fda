"""Problems, the way they are asked, and the way they are judged, as frozen records.

A task is data and a few functions; nothing here does I/O or knows a task, model or library.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class Verdict(StrEnum):
    """What a verifier says of a completion; a wrong answer and an unreadable one are different things."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNPARSEABLE = "unparseable"


Extraction = Literal["strict", "lenient"]
"""Whether an answer counts only where the answer format puts it, or also where a reader would still find one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One row of a task."""

    id: str
    """Unique within the task."""
    question: str
    answer: str
    """The reference answer, in the form that the task's verifier accepts; with choices, the right one's label."""
    choices: tuple[str, ...] = ()
    """Their texts; the labels are A, B, C, … in this order."""
    class_name: str = "all"
    """Results are reported per class."""
    rationale: str = ""
    """A worked solution by a human (or by the task's generator); empty if there is none."""


LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Of choices, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFormat:
    """How a task's problems are laid out as text. Fields are `str.format` templates."""

    question: str
    """With {question} and {hint}, for problems with choices {choices}; ends where the completion begins."""
    hint: str
    """With {answer}; takes the place of {hint} when the answer is shown, else {hint} is empty."""
    completion: str
    """With {rationale}, {answer} and, for problems with choices, {choice} (the text of the right one): what a worked
    example says after the question."""
    answer_only: str
    """With {answer} and {choice}: what a worked example without a rationale says."""
    choice: str = ""
    """One choice, with {label} and {text}; {choices} is all of them. With {hint} in it, the hint stands beside the
    right choice, and the {hint} of the question stays empty."""
    separator: str = "\n\n"
    """Between worked examples; a completion that writes it has gone on to a next problem."""
    stop: tuple[str, ...] = ("\n\n",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    verdict: Verdict
    prediction: str | None
    """The answer extracted from the completion; None exactly when the verdict is unparseable."""
    other: Verdict | None = None
    """The verdict under the other of strict and lenient extraction; None where the task has one way to extract."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check of the reasoning (not of the answer) found."""

    passed: bool
    share: float
    """Share of the steps that are right before the first wrong one, 0 to 1."""
    detail: str = ""
    """The first thing that is wrong; empty when the check passed."""


Verifier = Callable[[str, Problem], Verification]
"""Judges a completion: total (any text gets a verdict) and bounded in time."""

Check = Callable[[Problem, str], CheckResult]
"""Judges the reasoning of a completion, as exactly as it can be judged without a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Problems, the way they are asked, and the way they are judged."""

    name: str
    prompt_format: PromptFormat
    verifier: Verifier
    few_shot: tuple[Problem, ...]
    """Worked examples (each has a rationale), best first: a prompt with k of them takes the first k."""
    train: tuple[Problem, ...]
    dev: tuple[Problem, ...]
    test: tuple[Problem, ...]
    extrapolation: tuple[Problem, ...] = ()
    """Measured beside test, of a kind that train does not hold; may be empty."""
    seen: tuple[Problem, ...] = ()
    """Problems that a model shipped with the task was trained on: they count as train in the overlap check."""
    check_steps: Check | None = None
    """Recomputes the reasoning of a completion; `selection.accept` can filter by it. None without an exact check."""
    other_checks: Mapping[str, Check] = field(default_factory=dict)
    """Further checks by name; their rates are reported, they have false alarms and decide nothing."""
    solution_key: Callable[[str], str] | None = None
    """Key under which two completions are the same solution, for `selection.unique_by = "equations"`."""
    has_flawed_solutions: bool = False
    """The worked solutions of the splits were written by people and are known to hold errors: one that fails the step
    check is counted by `selftaught tasks check`. Otherwise it is refused, and a worked example always is."""
    same_problem: Callable[[Problem], str] | None = None
    """Key under which two problems are the same one; by default the question with white space folded."""

    notes: tuple[str, ...] = ()
    """What loading left out, and why, in sentences."""
    reading: tuple[str, ...] = ()
    """How loading understood what can be understood in several ways."""

    def split(self, name: str) -> tuple[Problem, ...]:
        return {"train": self.train, "dev": self.dev, "test": self.test, "extrapolation": self.extrapolation}[name]

    def with_splits(self) -> tuple[Problem, ...]:
        """The worked examples and the problems of all splits."""
        return (*self.few_shot, *self.train, *self.dev, *self.test, *self.extrapolation)


SPLITS = ("train", "dev", "test", "extrapolation")


def by_id(problems: Sequence[Problem]) -> dict[str, Problem]:
    return {problem.id: problem for problem in problems}

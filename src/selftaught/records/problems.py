"""Problems, their prompts and their verifiers, as frozen records.

A task is data and a few functions. Nothing here does I/O or knows a task, model or library.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class Verdict(StrEnum):
    """What a verifier says of a completion; an incorrect answer is not the same as an unreadable one."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNPARSEABLE = "unparseable"


Extraction = Literal["strict", "lenient"]
"""Whether an answer counts only where the answer format puts it, or also elsewhere, where a reader would see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One row of a task."""

    id: str
    """Unique within the task."""
    question: str
    answer: str
    """The reference answer, in the form that the task's verifier accepts; with choices, the correct one's label. Empty
    for a question whose answer is not known or must not be used (`predict`): of its verification only the prediction
    counts."""
    choices: tuple[str, ...] = ()
    """Their texts; the labels are A, B, C, … in this order."""
    class_name: str = "all"
    """Results are reported per class."""
    rationale: str = ""
    """The human solution (some tasks generate it); empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredProblem(Problem):
    """A problem as the run folder stores it."""

    split: Literal["few_shot", "train", "dev", "test", "extrapolation"]
    """Where the task has it; few-shot examples may have the ids of problems."""


LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The labels of choices, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFormat:
    """How a task's problems are written as text. The fields are `str.format` templates."""

    question: str
    """With {question}, {hint} and, for problems with choices, {choices}; ends where the completion begins."""
    hint: str
    """With {answer}; replaces {hint} in a prompt with a hint. In a prompt without one, {hint} is empty."""
    completion: str
    """With {rationale}, {answer} and, for problems with choices, {choice} (the text of the correct one): what follows
    the question of a few-shot example."""
    answer_only: str
    """With {answer} and {choice}: what follows the question of a few-shot example without a rationale."""
    choice: str = ""
    """One choice, with {label} and {text}; {choices} is all of them. If it has {hint}, the hint is written beside the
    correct choice, and the {hint} of the question stays empty."""
    separator: str = "\n\n"
    """Between few-shot examples; a model that writes it has begun another problem."""
    stop: tuple[str, ...] = ("\n\n",)
    instruction: str = ""
    """How to answer, in words, for a model that is asked in turns; no template. Without one it is told to think step by
    step and to end as `answer_only` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """How a task's problems are written as the turns of a conversation. Templates as in `PromptFormat`.

    The user's turn is the question with its choices, the hint and the instruction; the assistant's is the completion.
    A few-shot example is a user's and an assistant's turn. The end of the assistant's turn ends a completion.
    """

    question: str
    """With {question}, {hint}, {instruction} and, for problems with choices, {choices}."""
    hint: str
    """With {answer} and {choice}."""
    instruction: str
    """No template."""
    completion: str
    answer_only: str
    choice: str = ""
    opens_thought: bool = False
    """Whether the model's template ends a prompt inside a thought (`grading/thoughts.py`)."""
    system: str | None = None
    """The system's turn. None is no such turn, so that the model's template may put its own text there; "" is a turn
    without text."""
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    verdict: Verdict
    prediction: str | None
    """The answer extracted from the completion; None exactly when the verdict is unparseable."""
    other: Verdict | None = None
    """The verdict under the other kind of extraction (lenient or strict); None if the task has only one kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of a check of the reasoning (not of the answer)."""

    passed: bool
    share: float
    """Share of the steps before the first wrong one, 0 to 1."""
    detail: str = ""
    """The first mistake; empty if the check passed."""
    at: tuple[int, int] | None = None
    """Where the first mistake stands in the completion, in characters (from, up to); None if the check passed, and for
    a mistake that stands nowhere, such as a line that is missing."""


Verifier = Callable[[str, Problem], Verification]
"""Judges the answer of a completion: every text gets a verdict, in bounded time."""

Check = Callable[[Problem, str], CheckResult]
"""Judges the reasoning of a completion, as exactly as is possible without a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grader:
    """How a task judges completions, without its problems."""

    verifier: Verifier
    check_steps: Check | None = None
    """As in `Task`."""
    other_checks: Mapping[str, Check] = field(default_factory=dict)
    """As in `Task`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Problems in splits, the format of their prompts, a verifier and perhaps checks."""

    name: str
    prompt_format: PromptFormat | ChatFormat
    """A task comes with a `PromptFormat`; for a model that is asked in turns, a `ChatFormat` is made of it."""
    verifier: Verifier
    few_shot: tuple[Problem, ...]
    """Few-shot examples, each with a rationale, best first: a prompt with k of them takes the first k."""
    train: tuple[Problem, ...]
    dev: tuple[Problem, ...]
    test: tuple[Problem, ...]
    extrapolation: tuple[Problem, ...] = ()
    """Problems of a kind that train does not have, measured together with test; may be empty."""
    seen: tuple[Problem, ...] = ()
    """Problems that a model shipped with the task was trained on; the overlap check treats them as train."""
    check_steps: Check | None = None
    """Recomputes the reasoning of a completion; `selection.require` can ask for it. None without an exact check."""
    other_checks: Mapping[str, Check] = field(default_factory=dict)
    """Further checks by name. They may reject correct reasoning, so their rates are reported and decide nothing."""
    solution_key: Callable[[str], str] | None = None
    """Two completions with the same key are the same solution, for `selection.unique_by = "equations"`."""
    has_flawed_solutions: bool = False
    """Whether some human solutions of the splits are known to have errors. If so, `selftaught tasks check` counts those
    that fail the step check; if not, they are refused. A few-shot example that fails is always refused."""
    same_problem: Callable[[Problem], str] | None = None
    """Two problems with the same key are the same; by default the question with white space folded."""

    notes: tuple[str, ...] = ()
    """What loading left out and why, in sentences."""
    reading: tuple[str, ...] = ()
    """What loading assumed about data that can be understood in several ways."""

    def split(self, name: str) -> tuple[Problem, ...]:
        return {"train": self.train, "dev": self.dev, "test": self.test, "extrapolation": self.extrapolation}[name]

    def examples_and_problems(self) -> tuple[Problem, ...]:
        """The few-shot examples, then the problems of all splits."""
        return (*self.few_shot, *self.train, *self.dev, *self.test, *self.extrapolation)


SPLITS = ("train", "dev", "test", "extrapolation")


def by_id(problems: Sequence[Problem]) -> dict[str, Problem]:
    return {problem.id: problem for problem in problems}

"""The task `reasoning-gym`: any generator of the library of that name, with its own scorer.

`task.variant` names the generator. The library makes item i of seed s from the number s + i; a task uses each number
once, first for test, then for dev, then for train, and skips a question that it has already. A completion states its
answer after `The answer is`, or in a box; it is correct if the scorer gives it full marks.

Scorers run in this process, on a short text. A generator whose scorer evaluates that text as code is refused.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Literal

from selftaught.grading.answers import block_answer, line_answer
from selftaught.grading.signs import fold, without_marks
from selftaught.grading.statements import AnswerPlace, statement
from selftaught.records.errors import ConfigError
from selftaught.records.problems import (
    Grader,
    Problem,
    PromptFormat,
    Task,
    Verdict,
    Verification,
    Verifier,
)
from selftaught.tasks.released import (
    NEXT_QUESTION,
    STOP,
    as_template,
    few_shot_examples,
)
from selftaught.tasks.settings import PromptConfig, SizedTestConfig, VariantConfig

TRAIN_ROWS, DEV_ROWS, TEST_ROWS = 2_000, 200, 500
MARKER = "The answer is"
MAX_ANSWER = 1_000
"""Limit on the characters of an answer; a longer one is unparseable."""

NUMBERS_PER_SEED = 1_000_000
"""How many of the library's seeds belong to one data seed."""
MAX_REPEATS = 10
"""Items generated per item needed; a generator with fewer different questions than needed is refused."""

NONSENSE = "no answer to any question"
"""A wrong answer to every question: a scorer that gives it full marks checks nothing."""
RUNS_TEXT = re.compile(r"\b(?:eval|exec|compile|parse_expr|sympify|simplify)\s*\(")
"""Calls that a scorer must not make: each runs its argument as Python, and a model may have written the argument."""

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError)
"""What the library's scorers raise for a text that they cannot read."""


class ReasoningGymConfig(SizedTestConfig, PromptConfig, VariantConfig):
    name: Literal["reasoning-gym"] = "reasoning-gym"


def load(settings: ReasoningGymConfig) -> Task:
    """The task. Raises ConfigError if the library or the generator is missing, or the generator cannot serve."""
    dataset = _dataset(settings)
    entries = _entries(dataset, settings)
    splits = {
        split: tuple(
            Problem(id=id, question=entry["question"].strip(), answer=str(entry["answer"]).strip())
            for id, entry in by_id.items()
        )
        for split, by_id in entries.items()
    }
    return Task(
        name="reasoning-gym",
        prompt_format=_prompt_format(settings.answer_marker or MARKER, settings.instruction or ""),
        verifier=_verifier(dataset, _by_id(entries), settings.answer_marker or MARKER),
        few_shot=few_shot_examples(settings, name="reasoning-gym") if settings.prompt_file else (),
        train=splits["train"],
        dev=splits["dev"],
        test=splits["test"],
    )


def grader(settings: ReasoningGymConfig, problems: Iterable[Problem]) -> Grader:
    """The library's scorer, with the items that it scores against, made again. Raises ConfigError as `load` does; the
    verifier raises it for a problem that the installed version of the library makes otherwise."""
    dataset = _dataset(settings)
    entries = _by_id(_entries(dataset, settings))
    verify = _verifier(dataset, entries, settings.answer_marker or MARKER)

    def verify_the_same(completion: str, problem: Problem) -> Verification:
        if problem.id not in entries or entries[problem.id]["question"].strip() != problem.question:
            raise ConfigError(
                f"problem {problem.id!r}: the installed reasoning-gym makes another question of this number, so its "
                "scorer cannot judge this one; install the version that the run was started with"
            )
        return verify(completion, problem)

    return Grader(verifier=verify_the_same)


def _by_id(entries: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {id: entry for of_split in entries.values() for id, entry in of_split.items()}


def _entries(dataset: Any, settings: ReasoningGymConfig) -> dict[str, dict[str, dict[str, Any]]]:
    """Split -> problem id -> item of the dataset."""
    items = _distinct(dataset, str(settings.variant))
    sizes = {"test": settings.test_rows or TEST_ROWS, "dev": settings.dev_rows or DEV_ROWS, "train": TRAIN_ROWS}
    entries: dict[str, dict[str, dict[str, Any]]] = {}
    for split, size in sizes.items():
        by_id = {f"{split}-{number}": entry for number, entry in enumerate(islice(items, size), start=1)}
        if len(by_id) < size:
            raise ConfigError(
                f"task.variant = {settings.variant!r}: the generator has too few different questions for {split} "
                f"({len(by_id)} of {size}); set task.test_rows and task.dev_rows lower, or use another generator"
            )
        entries[split] = by_id
    return entries


def _dataset(settings: ReasoningGymConfig) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ConfigError(
            f"task 'reasoning-gym' needs its library ({error}); run: pip install 'selftaught[reasoning-gym]'"
        ) from error
    name = settings.variant
    if name not in DATASETS:
        problem = f"task.variant = {name!r} is no generator of reasoning-gym" if name else "task.variant must be given"
        raise ConfigError(f"{problem}; generators: {', '.join(sorted(DATASETS))}")
    dataset = reasoning_gym.create_dataset(
        name, seed=settings.data_seed * NUMBERS_PER_SEED, size=MAX_REPEATS * _num_needed(settings)
    )
    if RUNS_TEXT.search(inspect.getsource(type(dataset).score_answer)):
        raise ConfigError(
            f"task.variant = {name!r}: its scorer evaluates the answer as code, and a model's text is never run; "
            "use another generator"
        )
    if any(dataset.score_answer(NONSENSE, dataset[i]) >= 1.0 for i in range(3)):
        raise ConfigError(f"task.variant = {name!r}: its scorer gives {NONSENSE!r} full marks; use another generator")
    return dataset


def _num_needed(settings: ReasoningGymConfig) -> int:
    return TRAIN_ROWS + (settings.dev_rows or DEV_ROWS) + (settings.test_rows or TEST_ROWS)


def _distinct(dataset: Any, name: str) -> Iterator[dict[str, Any]]:
    """The items of a dataset, each question once."""
    questions: set[str] = set()
    for number in range(len(dataset)):
        entry = dataset[number]
        if not (isinstance(entry.get("answer"), str) and entry["answer"].strip()):
            raise ConfigError(f"task.variant = {name!r}: item {number} has no answer as text; use another generator")
        if (key := fold(entry["question"])) not in questions:
            questions.add(key)
            yield entry


def _prompt_format(marker: str, instruction: str) -> PromptFormat:
    end = f"{as_template(marker)} {{answer}}"
    return PromptFormat(
        question="Q: {question}{hint}\nA:",
        hint=" (Hint: the answer is {answer}.)",
        completion=" {rationale}\n" + end,
        answer_only=" " + end,
        stop=STOP,
        instruction=instruction,
    )


def _verifier(dataset: Any, entries: dict[str, dict[str, Any]], marker: str) -> Verifier:
    place = AnswerPlace(marker=marker, next_question=NEXT_QUESTION)

    def verify(completion: str, problem: Problem) -> Verification:
        text = statement(completion, place)
        answer = block_answer(text) if "\n" in problem.answer else line_answer(text, "strict")
        if not answer or len(answer) > MAX_ANSWER:
            return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
        scored: list[tuple[str, bool]] = []
        for reading in without_marks(answer):
            with suppress(*UNREADABLE):
                scored.append((reading, float(dataset.score_answer(reading, entries[problem.id])) >= 1.0))
        if not scored:
            return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
        correct = next((reading for reading, has_full_marks in scored if has_full_marks), None)
        if correct is not None:
            return Verification(verdict=Verdict.CORRECT, prediction=correct)
        return Verification(verdict=Verdict.INCORRECT, prediction=scored[-1][0])

    return verify

"""The verifiers that run in the caller's process: they judge any text in time linear in its length."""

from collections.abc import Callable

from selftaught.grading.amounts import read_quantity
from selftaught.grading.answers import choice_answer, line_answer, number_answer
from selftaught.grading.quantities import number_text, same_number
from selftaught.grading.signs import fold_space, visible, without_marks
from selftaught.grading.statements import AnswerPlace, statement
from selftaught.records.problems import (
    Extraction,
    Problem,
    Verdict,
    Verification,
    Verifier,
)

Judgement = tuple[Verdict, str | None]
"""Verdict and prediction under one extraction."""
UNPARSEABLE: Judgement = (Verdict.UNPARSEABLE, None)


def under_both(judge: Callable[[Extraction], Judgement], extraction: Extraction) -> Verification:
    """Judge under both extractions; the verdict is that of `extraction`, `other` that of the other one."""
    verdict, prediction = judge(extraction)
    other, _ = judge("lenient" if extraction == "strict" else "strict")
    return Verification(verdict=verdict, prediction=prediction, other=other)


def judgement(*, is_correct: bool, prediction: str) -> Judgement:
    return (Verdict.CORRECT if is_correct else Verdict.INCORRECT), prediction


def numeric(place: AnswerPlace, extraction: Extraction) -> Verifier:
    """Equal as numbers, exactly; how they are written does not matter (`quantities.py`)."""

    def verify(completion: str, problem: Problem) -> Verification:
        stated = statement(completion, place)
        reference = read_quantity(problem.answer)

        def judge(extraction: Extraction) -> Judgement:
            number = number_answer(stated, extraction)
            if number is None:
                return UNPARSEABLE
            is_correct = reference is not None and same_number(number, reference)
            return judgement(is_correct=is_correct, prediction=number_text(number))

        return under_both(judge, extraction)

    return verify


def choice(place: AnswerPlace, extraction: Extraction) -> Verifier:
    """The correct choice, named by label, text or both (`choices.py`).

    Where two choices have the same text, the text names both of them, and is correct if one of them is; a label names
    one choice.
    """

    def verify(completion: str, problem: Problem) -> Verification:
        stated = statement(completion, place)

        def judge(extraction: Extraction) -> Judgement:
            labels = choice_answer(stated, problem.choices, extraction)
            if not labels:
                return UNPARSEABLE
            is_correct = problem.answer in labels
            return judgement(is_correct=is_correct, prediction=problem.answer if is_correct else min(labels))

        return under_both(judge, extraction)

    return verify


def exact(place: AnswerPlace, extraction: Extraction) -> Verifier:
    """The same text, except for white space and marks around it; case matters, since names and code differ by case.

    A full stop that the reference answer does not have belongs to the sentence. Emphasis, quotes, tags and formula
    signs around the answer are formatting. For the answers true, false, yes and no, case does not matter.
    """

    def verify(completion: str, problem: Problem) -> Verification:
        stated = statement(completion, place)
        reference = fold_space(visible(problem.answer))

        def judge(extraction: Extraction) -> Judgement:
            line = line_answer(stated, extraction)
            if line is None:
                return UNPARSEABLE
            readings = list(without_marks(line))
            is_correct = any(_same_text(reading, reference) for reading in readings)
            return judgement(is_correct=is_correct, prediction=reference if is_correct else readings[-1])

        return under_both(judge, extraction)

    return verify


def _same_text(reading: str, reference: str) -> bool:
    if reference.lower() in ("true", "false", "yes", "no"):
        return reading.lower() == reference.lower()
    return reading == reference

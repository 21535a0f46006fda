"""The verifiers that run in this process: any text is judged in time linear in its length."""

from collections.abc import Callable

from selftaught.amounts import read_quantity
from selftaught.answers import choice_answer, line_answer, number_answer
from selftaught.problems import Extraction, Problem, Verdict, Verification, Verifier
from selftaught.quantities import number_text, same_number
from selftaught.signs import fold_space, visible, without_marks
from selftaught.statements import AnswerPlace, statement

Finding = tuple[Verdict, str | None]
"""Verdict and prediction under one extraction."""
UNREADABLE: Finding = (Verdict.UNPARSEABLE, None)


def both(judge: Callable[[Extraction], Finding], extraction: Extraction) -> Verification:
    """Judge under both extractions, and report the chosen one's verdict first."""
    verdict, prediction = judge(extraction)
    other, _ = judge("lenient" if extraction == "strict" else "strict")
    return Verification(verdict=verdict, prediction=prediction, other=other)


def finding(*, right: bool, prediction: str) -> Finding:
    return (Verdict.CORRECT if right else Verdict.INCORRECT), prediction


def numeric(place: AnswerPlace, extraction: Extraction) -> Verifier:
    """Equal as numbers, exactly; how they are written does not matter (`quantities.py`)."""

    def verify(completion: str, problem: Problem) -> Verification:
        said = statement(completion, place)
        reference = read_quantity(problem.answer)

        def judge(extraction: Extraction) -> Finding:
            found = number_answer(said, extraction)
            if found is None:
                return UNREADABLE
            right = reference is not None and same_number(found, reference)
            return finding(right=right, prediction=number_text(found))

        return both(judge, extraction)

    return verify


def choice(place: AnswerPlace, extraction: Extraction) -> Verifier:
    """The right choice, named by label, text or both (`choices.py`).

    The text of two choices with the same text names both, so it is right if either is; its label names one.
    """

    def verify(completion: str, problem: Problem) -> Verification:
        said = statement(completion, place)

        def judge(extraction: Extraction) -> Finding:
            labels = choice_answer(said, problem.choices, extraction)
            if not labels:
                return UNREADABLE
            right = problem.answer in labels
            return finding(right=right, prediction=problem.answer if right else min(labels))

        return both(judge, extraction)

    return verify


def exact(place: AnswerPlace, extraction: Extraction) -> Verifier:
    """The same text but for white space and for marks around it; case matters, since names and code differ by case.

    A full stop that the reference answer does not have belongs to the sentence; emphasis, quotes, tags and the signs
    of a formula around the answer belong to the page. Of true, false, yes and no the case does not matter.
    """

    def verify(completion: str, problem: Problem) -> Verification:
        said = statement(completion, place)
        reference = fold_space(visible(problem.answer))

        def judge(extraction: Extraction) -> Finding:
            found = line_answer(said, extraction)
            if found is None:
                return UNREADABLE
            readings = list(without_marks(found))
            right = any(_same_text(reading, reference) for reading in readings)
            return finding(right=right, prediction=reference if right else readings[-1])

        return both(judge, extraction)

    return verify


def _same_text(reading: str, reference: str) -> bool:
    if reference.lower() in ("true", "false", "yes", "no"):
        return reading.lower() == reference.lower()
    return reading == reference

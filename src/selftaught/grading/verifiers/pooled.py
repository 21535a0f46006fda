"""The verifiers whose work may hang or fail: it runs in verifier processes with a time limit (`pool.py`).

A completion that exceeds the limit is unparseable. The limit is wall clock: on a busy machine, a verdict that takes
nearly that long can differ from run to run.
"""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import asdict

from selftaught.grading.answers import formula_answer
from selftaught.grading.formulas import quantity, readings
from selftaught.grading.formulas.notation import same_text, words
from selftaught.grading.formulas.spans import formula_in, labelled
from selftaught.grading.quantities import number_text, same_number
from selftaught.grading.signs import fold_space
from selftaught.grading.statements import AnswerPlace, own_part, statement
from selftaught.grading.verifiers.pool import Pool, ProcessDiedError, TimedOutError
from selftaught.grading.verifiers.text import (
    UNPARSEABLE,
    Judgement,
    judgement,
    under_both,
)
from selftaught.records.errors import ConfigError, VerifierError
from selftaught.records.problems import (
    Extraction,
    Problem,
    Verdict,
    Verification,
    Verifier,
)


def mathematics(place: AnswerPlace, extraction: Extraction, limit_s: float) -> Verifier:
    """Equal as mathematics: the same text, the same number, or proved to be equal by sympy (`algebra.py`)."""
    compare = formula_comparison(limit_s)

    def verify(completion: str, problem: Problem) -> Verification:
        stated = statement(completion, place)
        judgements: dict[str, Judgement] = {}  # strict and lenient extraction usually read the same formula

        def judge(extraction: Extraction) -> Judgement:
            span = formula_answer(stated, extraction)
            if span is None:
                return UNPARSEABLE
            if span not in judgements:
                judgements[span] = compare(span, problem.answer) if problem.answer else _unjudged(span)
            return judgements[span]

        return under_both(judge, extraction)

    return verify


def formula_comparison(limit_s: float) -> Callable[[str, str], Judgement]:
    """A function that judges the span of an answer against the reference answer.

    A formula that cannot be read completely is correct if it is the reference, letter for letter, and else unparseable.
    Unparseable is also a formula that is not decided within the limit.
    """
    if importlib.util.find_spec("sympy") is None:
        raise ConfigError("verifier math: sympy is not installed, expected; run: pip install 'selftaught[math]'")
    pool = Pool({"kind": "math"}, limit_s=limit_s)

    def compare(span: str, reference: str) -> Judgement:
        if span.strip() == reference.strip() != "":
            return Verdict.CORRECT, fold_space(formula_in(span) or span)
        formula, answer = formula_in(span), formula_in(reference)
        if formula is None or answer is None:
            return UNPARSEABLE
        prediction = fold_space(formula)
        if same_text(formula, answer):
            return Verdict.CORRECT, prediction
        label, other_label = labelled(formula), labelled(answer)
        if label and other_label and "" in (label[1], other_label[1]) and readings(label[1] or other_label[1]):
            return judgement(is_correct=label[0] == other_label[0], prediction=prediction)
        trees, answer_trees = readings(formula), readings(answer)
        if not trees or not answer_trees:
            text, answer_text = words(formula), words(answer)
            if text is None or answer_text is None:
                return UNPARSEABLE
            return judgement(is_correct=text == answer_text, prediction=prediction)
        number, other = quantity(trees), quantity(answer_trees)
        if number is not None:
            prediction = number_text(number[0])
        if number is not None and other is not None and (number[1] == other[1] or "" in (number[1], other[1])):
            return judgement(is_correct=same_number(number[0], other[0]), prediction=prediction)
        try:
            reply = pool.call({"prediction": formula, "answer": answer})
        except (TimedOutError, ProcessDiedError):
            return UNPARSEABLE
        if "error" in reply or reply["verdict"] == Verdict.UNPARSEABLE:
            return UNPARSEABLE
        return Verdict(reply["verdict"]), prediction

    return compare


def _unjudged(span: str) -> Judgement:
    """The prediction of an answer that is compared with nothing, written as `formula_comparison` writes it."""
    formula = formula_in(span)
    trees = () if formula is None else readings(formula)
    if formula is None or not (trees or words(formula) is not None or labelled(formula)):
        return UNPARSEABLE
    number = quantity(trees) if trees else None
    return judgement(is_correct=False, prediction=fold_space(formula) if number is None else number_text(number[0]))


def regex(pattern: str, place: AnswerPlace, extraction: Extraction, limit_s: float) -> Verifier:
    """The first group of the last match of the user's expression, compared as text except for white space.

    With a marker, strict extraction searches only after the last one; without one, there is one way to extract.
    """
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(f"task.answer_pattern {pattern!r} is no regular expression: {error}; correct it") from error
    if groups < 1:
        raise ConfigError(
            f"task.answer_pattern {pattern!r} has no group, expected the answer in one; write brackets around it"
        )
    pool = Pool({"kind": "regex", "pattern": pattern}, limit_s=limit_s)

    def search(text: str, answer: str) -> Judgement:
        try:
            reply = pool.call({"text": text, "answer": answer})
        except TimedOutError:
            return UNPARSEABLE
        except ProcessDiedError as error:
            raise VerifierError(f"verifier regex: its process {error}; free memory, or simplify the pattern") from error
        if "error" in reply:
            raise VerifierError(f"verifier regex: {pattern!r} failed with {reply['error']}; simplify the pattern")
        return Verdict(reply["verdict"]), reply["prediction"]

    def verify(completion: str, problem: Problem) -> Verification:
        stated = statement(completion, place)
        if not place.marker:
            verdict, prediction = search(stated.text, problem.answer)
            return Verification(verdict=verdict, prediction=prediction)

        def judge(extraction: Extraction) -> Judgement:
            if extraction == "lenient":
                return search(stated.text, problem.answer)
            return UNPARSEABLE if stated.after is None else search(stated.after, problem.answer)

        return under_both(judge, extraction)

    return verify


def python(function: str, place: AnswerPlace, limit_s: float) -> Verifier:
    """A user's function of a completion and its problem (docs/verifiers.md); it decides how an answer is extracted."""
    where, _, name = function.rpartition(":")
    if not where or not name.isidentifier():
        raise ConfigError(
            f"task.verifier_function is {function!r}, expected `module:name` or `file.py:name`; correct it"
        )
    pool = Pool({"kind": "python", "function": function}, limit_s=limit_s)

    def verify(completion: str, problem: Problem) -> Verification:
        text = own_part(completion, place.next_question)
        try:
            reply = pool.call({"text": text, "problem": asdict(problem)})
        except TimedOutError:
            return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
        except ProcessDiedError as error:
            raise VerifierError(
                f"{function}, problem {problem.id!r}: its process {error}; correct the function"
            ) from error
        if "error" in reply:
            raise VerifierError(f"{function}, problem {problem.id!r}: {reply['error']}; correct the function")
        return Verification(verdict=Verdict(reply["verdict"]), prediction=reply["prediction"])

    return verify

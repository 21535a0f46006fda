"""Judge the reasoning of a solution in words by its equations (checks/equations.py).

The checks take a problem whose answer is a number, a completion, and the place where the verifier looks for the answer
(`statements.py`); the text before the answer is the reasoning. `check_steps` decides which samples are accepted, so it
reports only what is certain: equations that do not hold, and a last one that does not give the answer. The other checks
have false alarms and are for reports.
"""

import re
from fractions import Fraction
from itertools import pairwise

from selftaught.grading.checks.equations import (
    Equation,
    close,
    evaluate,
    find_equations,
)
from selftaught.grading.signs import span_in
from selftaught.grading.statements import AnswerPlace, Statement, statement
from selftaught.records.problems import CheckResult, Problem

NO_EQUATION = "no equation"

CONSTANTS = tuple(map(Fraction, ("0", "0.01", "0.5", "1", "2", "7", "10", "12", "24", "30", "52", "60", "100", "365")))
"""Numbers that a solution may use although the question lacks them: of the calendar, the clock, money and percent."""

_TEENS = ("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS: dict[str, int] = {
    **{"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10},
    **{"eleven": 11, "twelve": 12, "hundred": 100, "thousand": 1000, "million": 1_000_000, "dozen": 12, "dozens": 12},
    **{word: number for number, word in enumerate(_TEENS, start=13)},
    **{word: 10 * number for number, word in enumerate(_TENS, start=2)},
    **{"twice": 2, "double": 2, "doubled": 2, "doubles": 2, "both": 2, "couple": 2, "pair": 2, "pairs": 2, "twins": 2},
    **{"half": 2, "halves": 2, "third": 3, "thirds": 3, "triple": 3, "triples": 3, "tripled": 3, "triplets": 3},
    **{"quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4, "fifth": 5, "fifths": 5, "sixth": 6, "eighth": 8},
    **{"tenth": 10, "tenths": 10, "nickel": 5, "nickels": 5, "dime": 10, "dimes": 10},
}
"""Number word -> number that a solution may use because of it; the reciprocal too, for shares such as `half`."""
_NUMBER = re.compile(r"\d+/\d+|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+")


def check_steps(problem: Problem, completion: str, *, place: AnswerPlace) -> CheckResult:
    """Every equation holds, and the last one gives the reference answer.

    A completion without an equation does not pass: nothing of it is known to be correct, and a filter that accepted it
    would reward bare guesses. `detail` is then NO_EQUATION, unlike for a wrong equation. `share` is the share of
    equations before the first wrong one.
    """
    stated = statement(completion, place)
    equations = find_equations(stated.before)
    for number, equation in enumerate(equations):
        if equation.error:
            at = _place(completion, stated, equation)
            return CheckResult(passed=False, share=number / len(equations), detail=equation.error, at=at)
    if not equations:
        return CheckResult(passed=False, share=0.0, detail=NO_EQUATION)
    if _gives(equations[-1], problem):
        return CheckResult(passed=True, share=1.0)
    detail = f"the last equation, {equations[-1].text}, gives no answer"
    return CheckResult(passed=False, share=1.0, detail=detail, at=_place(completion, stated, equations[-1]))


def check_equations(problem: Problem, completion: str, *, place: AnswerPlace) -> CheckResult:
    """There is an equation, correct or wrong."""
    passed = bool(find_equations(statement(completion, place).before))
    return CheckResult(passed=passed, share=float(passed), detail="" if passed else NO_EQUATION)


def check_grounding(problem: Problem, completion: str, *, place: AnswerPlace) -> CheckResult:
    """Every number that is computed with is in the question, an earlier result, or one of CONSTANTS.

    Numbers of the question also count in words and as a share (3/4) with its parts. A percentage also counts as
    hundredths, and as what remains of 100 % or comes on top of it.
    """
    known = [*CONSTANTS, *numbers_of(problem.question)]
    stated = statement(completion, place)
    equations = find_equations(stated.before)
    for number, equation in enumerate(equations):
        first = equation.sides[0] if equation.sides else None  # the sides after it follow from it
        for operand in first.numbers if first is not None and first.computes else ():
            if not any(close(operand, value) for value in known):
                detail = f"{float(operand):g} in {equation.text} comes from nowhere"
                at = _place(completion, stated, equation)
                return CheckResult(passed=False, share=number / len(equations), detail=detail, at=at)
        known += [value for side in equation.sides for value in (side.value, *side.numbers)]
    if not equations:
        return CheckResult(passed=False, share=0.0, detail=NO_EQUATION)
    return CheckResult(passed=True, share=1.0)


def check_flow(problem: Problem, completion: str, *, place: AnswerPlace) -> CheckResult:
    """Every result but the last is used by a later equation, and the last one is the answer."""
    stated = statement(completion, place)
    equations = find_equations(stated.before)
    for number, equation in enumerate(equations):
        later = [operand for other in equations[number + 1 :] for operand in (*other.operands, *other.results)]
        if not any(close(result, operand) for result in equation.results for operand in later):
            if number == len(equations) - 1 and _gives(equation, problem):
                break
            detail = f"the result of {equation.text} is not used"
            at = _place(completion, stated, equation)
            return CheckResult(passed=False, share=number / len(equations), detail=detail, at=at)
    if not equations:
        return CheckResult(passed=False, share=0.0, detail=NO_EQUATION)
    return CheckResult(passed=True, share=1.0)


def equations_key(completion: str, *, place: AnswerPlace) -> str:
    """The equations of a solution; solutions with the same ones count as the same, as in RFT (Yuan et al. 2023).

    They are those of the calculator annotations if there are any, else those of the text; the order of operands and of
    steps matters. All solutions without an equation have the same key, the empty one.
    """
    equations = find_equations(statement(completion, place).before)
    annotated = [equation.text for equation in equations if equation.annotated]
    return "|".join(annotated or [equation.text for equation in equations])


def _place(completion: str, stated: Statement, equation: Equation) -> tuple[int, int] | None:
    """Where an equation of `stated.before` stands in the completion."""
    return span_in(completion, *(stated.start + position for position in equation.at))


def _gives(equation: Equation, problem: Problem) -> bool:
    answer = evaluate(problem.answer.replace(",", ""))
    return answer is not None and any(close(result, answer) for result in equation.results)


def numbers_of(question: str) -> list[Fraction]:
    """The numbers of a question, in digits and in words, and what a share or a percentage of it may stand for."""
    numbers: list[Fraction] = []
    for match in _NUMBER.finditer(question):
        value = evaluate(match[0].replace(",", ""))
        if value is None:
            continue
        numbers += [value, *(Fraction(part) for part in match[0].split("/") if "/" in match[0])]
        if question[match.end() :].lstrip().startswith(("%", "percent")):
            numbers += [value / 100, 1 - value / 100, 1 + value / 100, 100 - value, 100 + value]
    words = re.findall(r"[a-z]+", question.lower())
    values = [Fraction(_WORDS[word]) for word in words if word in _WORDS]
    compounds = [(a, b) for a, b in pairwise(words) if a in _TENS and 0 < _WORDS.get(b, 0) < 10]
    sums = [Fraction(_WORDS[a] + _WORDS[b]) for a, b in compounds]  # thirty-five
    return [*numbers, *values, *(1 / value for value in values if value), *sums]

"""Equations of solutions: read from any text, computed exactly, never run as code."""

import json
import re
from fractions import Fraction
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import json_case, problem
from selftaught.grading.checks import solutions
from selftaught.grading.checks.equations import ANNOTATION, MAX_SIDE, evaluate, find_equations
from selftaught.grading.checks.solutions import NO_EQUATION
from selftaught.grading.signs import visible
from selftaught.grading.statements import AnswerPlace, statement

PLACE = AnswerPlace(marker="####", next_question=("Q:",))
check_steps, check_equations, check_grounding, check_flow, equations_key = (
    partial(function, place=PLACE)
    for function in (
        solutions.check_steps,
        solutions.check_equations,
        solutions.check_grounding,
        solutions.check_flow,
        solutions.equations_key,
    )
)
CHECKS = (check_steps, check_equations, check_grounding, check_flow)

CASES = json_case("equations.json")
pieces = st.sampled_from(
    [
        "<<",
        ">>",
        "=",
        "==",
        "(",
        ")",
        "[",
        "1",
        "12",
        "1,000",
        ".5",
        "0",
        "/",
        "*",
        "**",
        "-",
        "+",
        "%",
        "$",
        "x",
        "X",
        "of",
        "times",
        "apples",
        "/hour",
        "####",
        "^",
        "−",
        "\\times",
        "²",
        "é",
        "日",
    ]
) | st.sampled_from([" ", "\n", "\u2028", "1 1/2"])
awkward = st.lists(pieces, max_size=60).map("".join) | st.text(max_size=60)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"])
def test_the_equations_of_a_text_are_read_and_judged(case: dict[str, Any]) -> None:
    equations = find_equations(case["text"])
    assert sorted(e.text for e in equations) == sorted(case["equations"])
    wrong = [case["equations"][place] for place in case.get("wrong", [])]
    assert sorted(e.text for e in equations if e.error) == sorted(wrong)


@given(awkward)
def test_no_text_breaks_a_check(text: str) -> None:
    for check in CHECKS:
        result = check(problem(question=text, answer="3"), text)
        assert 0 <= result.share <= 1
        assert result.passed == (result.detail == "")
    assert isinstance(equations_key(text), str)


sides = st.recursive(
    st.integers(0, 9999).map(str) | st.decimals(0, 99, places=2).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=6,
)


@given(sides, st.sampled_from([-1, 0, 1]))
def test_a_generated_equation_holds_exactly_when_its_result_is_correct(side: str, off: int) -> None:
    value = evaluate(side)
    assert value is not None
    assert value == eval(_exact(side), {"F": Fraction})
    stated = value + off
    # Only integers of a size that the relative tolerance does not cover.
    if stated.denominator == 1 and abs(stated) < 100_000:
        (equation,) = find_equations(f"So {side} * 1 = {stated} pens.")
        assert bool(equation.error) == bool(off)


CONVERTIBLE = st.sampled_from(
    [
        *(("hour", "minute", 60), ("foot", "inches", 12), ("kg", "grams", 1000), ("week", "days", 7), ("m", "cm", 100)),
        *(("dollars", "cents", 100), ("year", "months", 12), ("gallons", "quarts", 4), ("day", "hours", 24)),
        *(("minutes", "seconds", 60), ("yards", "feet", 3), ("pounds", "oz", 16), ("km", "meters", 1000)),
    ]
)
SCALES = st.sampled_from(
    [
        ("dozen", 12),
        ("dozens", 12),
        ("hundred", 100),
        ("thousands", 1000),
        ("million", 10**6),
        ("pairs", 2),
        ("k", 1000),
    ]
)
amounts = st.integers(2, 40)


def verdicts(text: str) -> set[bool]:
    """The verdicts on its equations: whether they hold."""
    return {not equation.error for equation in find_equations(text)}


@given(CONVERTIBLE, amounts, amounts, st.integers(-3, 3))
def test_an_equation_that_is_true_in_two_units_is_never_wrong_and_a_false_one_never_holds(
    units: tuple[str, str, int], a: int, b: int, off: int
) -> None:
    big, small, ratio = units
    truths = {
        f"{a} {big} + {b} {small} = {{}} {small}": a * ratio + b,
        f"{a} {big} - {b} {small} = {{}} {small}": a * ratio - b,
        f"{b} {small} + {a} {big} = {{}} {small}": a * ratio + b,
        f"{a * ratio} {small} + {b * ratio} {small} = {{}} {big}": a + b,
        f"{a} {big} * {b} = {{}} {small}": a * b * ratio,
        f"{a * ratio} {small} * {b} = {{}} {big}": a * b,
        f"{a * ratio} {big} / {b * ratio} = {{}} {big}": Fraction(a, b),
        f"{a} {big} + {b} {big} = {{}} {big}": a + b,
    }
    for text, value in truths.items():
        assert False not in verdicts(text.format(value)), text
        if off:
            assert True not in verdicts(text.format(value + off)), text
        for number in (a + b, a * b, a - b):
            # In 5 feet * 12 = 60 inches the 12 lacks its unit, but the equation is true.
            if abs(number - value) > 1 and ratio not in (a, b, a * ratio, b * ratio):
                assert True not in verdicts(text.format(number)), (text, number)


@given(SCALES, amounts, amounts)
def test_a_scale_is_never_ignored_in_an_equation(scale: tuple[str, int], a: int, b: int) -> None:
    word, size = scale
    texts = {
        f"{a} {word} + {b} = {{}}": a * size + b,
        f"{a} {word} * {b} = {{}}": a * size * b,
        f"{a} {word} + {b} {word} = {{}}": (a + b) * size,
        f"{a * size} + {b * size} = {{}} {word}": a + b,
        f"{a * size} / {b} = {{}} {word}": Fraction(a, b),
    }
    for text, value in texts.items():
        assert False not in verdicts(text.format(value)), text
    for text, number in zip(texts, (a + b, a * b, a + b), strict=False):
        if size not in (a, b):  # 3 dozen * 12 = 36
            assert True not in verdicts(text.format(number)), text
    assert verdicts(f"{a} {word} + {b} {word} = {a + b + 1} {word}") <= {False}


@given(st.integers(1, 999), st.integers(100, 999), st.integers(2, 9), st.sampled_from(" \u00a0\u202f\u2009\u2007'’"))
def test_digits_beside_digits_are_never_read_alone(high: int, low: int, by: int, between: str) -> None:
    number, written = high * 1000 + low, f"{high}{between}{low}"
    texts = (
        f"{written} * {by} = {number * by}",
        f"{number} * {by} = {written} * {by}",
        f"{by} + {written} = {number + by}",
        f"{number - by} + {by} = {written}",
        f"{written} = {number - by} + {by}",
    )
    for text in texts:
        assert False not in verdicts(text), text


def _exact(side: str) -> str:
    import re

    return re.sub(r"[\d.]+", lambda match: f"F('{match[0]}')", side)


@pytest.mark.parametrize(
    "text", ["1/0", "2**3", "2//3", "(2", "", "()", "1 2", "--", "1" * (MAX_SIDE + 1), "a", "1..2"]
)
def test_a_text_without_a_value_has_none(text: str) -> None:
    assert evaluate(text) is None


@pytest.mark.parametrize(
    "text",
    ["<<" * 20_000, "(" * 20_000, "1+" * 20_000, "1 = " * 10_000, "a " * 20_000, "1 1/" * 10_000, "<<1=1>>1 " * 2_000],
    ids=lambda text: text[:4],
)
def test_long_texts_are_judged_in_time_that_grows_with_their_length(text: str) -> None:
    began = process_time()
    find_equations(text)
    assert process_time() - began < 20  # seconds of a slow machine; quadratic work would take minutes


def test_a_solution_passes_if_its_equations_hold_and_the_last_one_gives_the_answer() -> None:
    boxes = problem(answer="1,200")
    assert check_steps(boxes, " 3 * 4 = 12 boxes.\nThat is 12 * 100 = 1200.\n#### 1,200").passed
    wrong = check_steps(boxes, " 3 * 4 = 12\n12 * 10 = 1200\n#### 1,200")
    assert (wrong.passed, wrong.share, wrong.detail) == (False, 0.5, "12*10=1200 is wrong")
    other = check_steps(boxes, " 3 * 4 = 12\n#### 1,200")
    assert (other.passed, other.share) == (False, 1.0)
    assert "12" in other.detail
    assert check_steps(boxes, " 12 * 100 = 1200\n#### 1,200\n2 + 2 = 5").passed, (
        "the text after the answer is no reasoning"
    )


def test_the_reasoning_ends_where_the_verifier_reads_the_answer() -> None:
    twelve = problem(answer="12")
    place = AnswerPlace(marker="The answer is", next_question=("Q:",))
    completion = " 3 * 4 = 12\nThe answer is 12.\nCheck: 3 + 4 = 12"
    assert solutions.check_steps(twelve, completion, place=place).passed
    assert solutions.equations_key(completion, place=place) == "3*4=12"
    assert not check_steps(twelve, completion).passed, "with another marker than the task's all text is reasoning"
    assert check_steps(twelve, " 3 * 4 = 12\n#### 12\nQ: What is 1 + 1?\nA: 1 + 1 = 3\n#### 3").passed
    assert not check_steps(twelve, "#### 12\n 3 * 4 = 13\n#### 12").passed, "the last answer counts"


def test_a_solution_without_equations_does_not_pass_and_says_why() -> None:
    result = check_steps(problem(), " I guess.\n#### 3")
    assert (result.passed, result.detail) == (False, NO_EQUATION)
    assert not check_equations(problem(), " I guess.\n#### 3").passed
    assert check_equations(problem(), " 1 + 1 = 3\n#### 3").passed


@pytest.mark.parametrize(
    ("question", "solution", "passed"),
    [
        ("Two hens lay 5 eggs each.", "2 * 5 = 10", True),
        ("Two hens lay 5 eggs each.", "2 * 6 = 12", False),
        ("A coat of $80 is 25% cheaper.", "80 * 0.25 = 20. 80 - 20 = 60.", True),
        ("A coat of $80 is 25% cheaper.", "80 * 0.75 = 60", True),
        ("He walks half of thirty-five miles.", "35 / 2 = 17.5", True),
        ("How many?", "5 weeks * 7 days = 35", False),
    ],
)
def test_numbers_must_come_from_the_question_or_from_earlier_results(
    question: str, solution: str, passed: bool
) -> None:
    assert check_grounding(problem(question=question), solution).passed == passed


def test_every_result_but_the_last_must_be_used() -> None:
    seven = problem(answer="7")
    assert check_flow(seven, "2 + 3 = 5. 5 + 2 = 7.").passed
    unused = check_flow(seven, "2 + 2 = 4. 5 + 2 = 7.")
    assert (unused.passed, unused.detail) == (False, "the result of 2+2=4 is not used")
    assert not check_flow(seven, "2 + 3 = 5. 5 + 3 = 8.").passed


def test_the_key_of_a_solution_is_its_list_of_equations() -> None:
    assert equations_key("First 2 + 3 = 5, then 5 * 2 = 10.\n#### 10") == "2+3=5|5*2=10"
    assert equations_key("So 2+3 = 5 and 5 x 2 = $10.\n#### 10") == "2+3=5|5*2=10"
    assert equations_key("3 + 2 = 5. 5 * 2 = 10.") != equations_key("2 + 3 = 5. 5 * 2 = 10."), "the order matters"
    assert equations_key("48/2 = <<48/2=24>>24") == "48/2=24", "annotations replace the equations around them"
    assert equations_key("It is ten.\n#### 10") == equations_key("") == ""


def digits(text: str) -> str:
    """The digits of a text outside of annotations, or of the annotation that it is."""
    return re.sub(r"\D", "", text if ANNOTATION.fullmatch(text) else ANNOTATION.sub("", text))


hidden = st.sampled_from(["\u200b", "e\u0301", "</think>", "1+1=3", "\nQ: ", "2*2=4"])
hidden_pieces = st.lists(pieces | hidden, max_size=40)


@given(hidden_pieces.map("".join) | awkward)
def test_an_equation_stands_where_it_says(text: str) -> None:
    for equation in find_equations(text):
        start, end = equation.at
        assert 0 <= start < end <= len(text)
        assert digits(text[start:end]) == digits(equation.text) or equation.error.endswith("is no equation")


@given(hidden_pieces.map("".join) | awkward)
def test_the_first_failure_of_a_check_stands_where_the_check_says(text: str) -> None:
    equations = find_equations(statement(text, PLACE).before)
    for check in CHECKS:
        result = check(problem(question="none", answer="3"), text)
        if result.passed or result.detail == NO_EQUATION:
            assert result.at is None
        elif result.at is not None:
            start, end = result.at
            assert 0 <= start < end <= len(text)
            named = [e for e in equations if result.detail == e.error or e.text in result.detail]
            assert visible(text[start:end]) in [statement(text, PLACE).before[slice(*e.at)] for e in named]
        else:
            assert visible(text) != text, "only a text that is read otherwise than it is written may hide its place"


WRONG = "2 + 2 = 5"


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "First 1 + 1 = 2, so {}, and 3 + 3 = 7.",
        "<think>9 + 9 = 1</think>Now {}.",
        "caf\u0065\u0301s, na\u00efve, {}.",
        "\u200bzero\u200b width\ufeff {}\u200b.",
        "\r\n\u2028 {} \n#### 5\nQ: next? 1 + 1 = 3",
    ],
)
def test_the_place_of_a_wrong_equation_is_the_equation(text: str) -> None:
    text = text.format(WRONG)
    result = check_steps(problem(answer="5"), text)
    assert result.at is not None
    assert text[slice(*result.at)].strip("\u200b") == WRONG


def test_the_place_of_an_equation_with_units_has_them_too() -> None:
    text = "He has 2 + 2 = 5 apples."
    assert text[slice(*check_steps(problem(answer="5"), text).at or (0, 0))] == "2 + 2 = 5 apples"


@pytest.mark.parametrize(
    ("check", "detail"),
    [
        (check_steps, "the last equation, 2+2=4, gives no answer"),
        (check_grounding, "9 in 9*2=18 comes from nowhere"),
        (check_flow, "the result of 9*2=18 is not used"),
    ],
)
def test_the_other_failures_stand_at_their_equation_too(check: Any, detail: str) -> None:
    text = "9 * 2 = 18. Now 2 + 2 = 4.\n#### 5"
    result = check(problem(question="2 and 2", answer="5"), text)
    assert result.detail == detail
    assert text[slice(*result.at)] == ("2 + 2 = 4" if "2+2" in detail else "9 * 2 = 18")


def test_a_correct_solution_has_no_place_of_failure() -> None:
    assert check_steps(problem(answer="4"), "2 + 2 = 4\n#### 4").at is None


def test_the_place_of_a_wrong_annotation_is_the_annotation() -> None:
    text = "So it is <<48/2=25>>25 clips."
    assert text[slice(*check_steps(problem(answer="25"), text).at or (0, 0))] == "<<48/2=25>>"


SHARED = Path(__file__).resolve().parents[2] / "shared" / "cases" / "F35_equations.jsonl"


@pytest.mark.skipif(not SHARED.is_file(), reason="the folder of shared cases is not here")
def test_the_shared_equations_are_judged_correctly_or_not_at_all() -> None:
    for line in SHARED.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        for equation in find_equations(case["text"]):
            assert bool(equation.error) == case["expected"].startswith("wrong"), case["text"]

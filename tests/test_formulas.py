"""Formulas are read completely, in any notation, and compared exactly."""

import math
import random
import time
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from builders import json_case
from selftaught.grading.formulas import quantity, readings
from selftaught.grading.formulas.notation import same_text, tokens, words
from selftaught.grading.formulas.spans import formula_in
from selftaught.grading.formulas.units import unit_name
from selftaught.grading.verifiers.pooled import formula_comparison
from selftaught.records.problems import Verdict
from strategies import awkward_texts, texts

CASES = json_case("formulas.json")
comparison = cache(formula_comparison)


def verdict(answer: str, stated: str) -> Verdict:
    pytest.importorskip("sympy")
    return comparison(10.0)(stated, answer)[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " | ".join(case))
def test_a_pair_of_formulas_has_its_verdict_either_way_round(case: tuple[str, str, str]) -> None:
    one, other, expected = case
    assert (verdict(one, other), verdict(other, one)) == (expected, expected)


@pytest.mark.parametrize("formula", sorted({formula for one, other, _ in CASES for formula in (one, other)}))
def test_every_formula_is_correct_against_itself(formula: str) -> None:
    assert verdict(formula, formula) is Verdict.CORRECT
    assert verdict(formula, formula.replace(" ", "  ").replace("-", "−")) is Verdict.CORRECT


def test_there_are_cases_of_every_verdict() -> None:
    assert len(CASES) >= 100
    assert {expected for _, _, expected in CASES} == set(Verdict)


# Expressions with a known value, in several notations


@dataclass(frozen=True)
class Written:
    """An expression in three notations, and its value at x = 7/3, which distinguishes two of them."""

    latex: str
    plain: str
    unicode: str
    value: Fraction

    def joined(
        self, left: str, other: "Written", signs: tuple[str, str, str], value: Fraction, right: str
    ) -> "Written":
        texts = [
            f"{left}{mine}{right}{sign}{left}{its}{right}"
            for mine, sign, its in zip(self.texts(), signs, other.texts(), strict=True)
        ]
        return Written(*texts, value)

    def texts(self) -> tuple[str, str, str]:
        return self.latex, self.plain, self.unicode


POINT = Fraction(7, 3)
SIGNS = {"+": ("+", " + ", " ＋ "), "-": (" - ", "-", " − "), "*": (" \\cdot ", "*", " × ")}
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

numbers = st.integers(1, 99).map(lambda n: Written(str(n), str(n), str(n), Fraction(n)))
decimals = st.integers(1, 999).map(lambda n: Written(*[f"{n // 10}.{n % 10}"] * 3, Fraction(n, 10)))
fractions = st.tuples(st.integers(1, 30), st.integers(2, 30)).map(
    lambda p: Written(f"\\frac{{{p[0]}}}{{{p[1]}}}", f"({p[0]}/{p[1]})", f"\\dfrac {{{p[0]}}} {{{p[1]}}}", Fraction(*p))
)
letters = st.just(Written("x", "x", "𝑥", POINT))
powers = st.tuples(letters | numbers, st.integers(2, 4)).map(
    lambda p: Written(
        f"{p[0].latex}^{{{p[1]}}}",
        f"{p[0].plain}**{p[1]}",
        p[0].unicode + str(p[1]).translate(RAISED),
        p[0].value ** p[1],
    )
)
atoms = numbers | decimals | fractions | letters | powers


@st.composite
def operations(draw: st.DrawFn, inner: st.SearchStrategy[Written]) -> Written:
    one, other, sign = draw(inner), draw(inner), draw(st.sampled_from("+-*"))
    value = {"+": one.value + other.value, "-": one.value - other.value, "*": one.value * other.value}[sign]
    return one.joined("(", other, SIGNS[sign], value, ")")


expressions = st.recursive(atoms, operations, max_leaves=5)


@given(expressions)
def test_a_formula_equals_its_other_notations(written: Written) -> None:
    for one in written.texts():
        for other in written.texts():
            assert verdict(one, other) is Verdict.CORRECT, (one, other)


@given(expressions, atoms, st.sampled_from("+-*"))
def test_a_formula_is_not_equal_to_a_part_of_it(written: Written, more: Written, sign: str) -> None:
    value = {"+": written.value + more.value, "-": written.value - more.value, "*": written.value * more.value}[sign]
    assume(value != written.value)
    for mine, joint, its in zip(written.texts(), SIGNS[sign], more.texts(), strict=True):
        for longer in (f"({mine}){joint}{its}", f"{its}{joint}({mine})"):
            if sign != "-" or longer.startswith("("):
                assert verdict(written.latex, longer) is not Verdict.CORRECT, longer
                assert verdict(longer, written.latex) is not Verdict.CORRECT, longer


@given(expressions, expressions)
def test_formulas_of_other_values_are_never_equal(one: Written, other: Written) -> None:
    assume(one.value != other.value)
    assert verdict(one.unicode, other.latex) is not Verdict.CORRECT


@given(expressions, st.data())
def test_a_changed_digit_is_another_formula(written: Written, data: st.DataObject) -> None:
    places = [place for place, character in enumerate(written.latex) if character.isdigit()]
    assume(places)
    place = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from("0123456789"))
    changed = written.latex[:place] + digit + written.latex[place + 1 :]
    if verdict(written.latex, changed) is Verdict.CORRECT:
        # In a product with 0, or in 1^2 and 1^3, the change has no effect; Python's arithmetic confirms it.
        assert changed == written.latex or _value(changed) == _value(written.latex)


def _value(latex: str) -> Fraction:
    """The values at two points as one number, by Python's arithmetic on text that the test itself wrote."""
    import re

    text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"((\1)/(\2))", latex.replace("\\cdot", "*"))
    text = re.sub(r"\^\{(\d+)\}", r"**\1", text)
    text = re.sub(r"(?<![\d.])(?<!\*\*)\d+(?:\.\d+)?", lambda number: f"F('{number[0]}')", text)
    at = [eval(text, {"F": Fraction, "x": point}) for point in (Fraction(7, 3), Fraction(-11, 5))]
    return at[0] + Fraction(1, 10**40) * at[1]


@given(st.sampled_from([case[0] for case in CASES if readings(case[0])]), st.sampled_from(
    ["squared", "cubed", "thirds", "factorial", "more", "less", "or more", "halves", "times x", "mod 7", "plus one",
     "over 2", "and a half", "tens", "dozenths", "fifths", "to the power 2", "in base 7", "recurring"]
))  # fmt: skip
def test_words_that_may_change_a_number_are_never_dropped(formula: str, after: str) -> None:
    assert verdict(formula, f"{formula} \\text{{ {after}}}") is not Verdict.CORRECT


@given(st.integers(2, 36), st.integers(2, 36), st.text("0123456789", min_size=1, max_size=6))
def test_a_number_to_a_base_equals_itself_alone(base: int, other: int, digits: str) -> None:
    assume(base != other and int(digits) > 9)
    assert verdict(f"{digits}_{{{base}}}", f"{digits}_{{{other}}}") is not Verdict.CORRECT
    assert verdict(f"{digits}_{base}" if base < 10 else f"{digits}_{{{base}}}", f"{digits}_{{{base}}}") == "correct"


@given(st.integers(0, 99), st.text("0123456789", max_size=3), st.text("0123456789", min_size=1, max_size=3))
def test_repeating_digits_equal_their_fraction(integer: int, fixed: str, repeated: str) -> None:
    nines, zeros = 10 ** len(repeated) - 1, 10 ** len(fixed)
    value = integer + Fraction(int(fixed or "0"), zeros) + Fraction(int(repeated), nines * zeros)
    for text in (
        f"{integer}.{fixed}\\overline{{{repeated}}}",
        f"{integer}.{fixed}" + "".join(f"{d}\u0305" for d in repeated),
    ):
        assert verdict(f"\\frac{{{value.numerator}}}{{{value.denominator}}}", text) is Verdict.CORRECT
        if int(repeated):
            assert verdict(f"{integer}.{fixed}{repeated}", text) is not Verdict.CORRECT


# Formulas that look alike and differ in meaning


@given(st.sampled_from(["()", "[]", "(]", "\\{\\}"]), st.integers(1, 999), st.integers(100, 999))
def test_a_comma_in_brackets_separates(brackets: str, one: int, other: int) -> None:
    opening, closing = brackets[: len(brackets) // 2], brackets[len(brackets) // 2 :]
    written = f"{opening}{one},{other}{closing}"
    assert verdict(f"{one}{other}", written) is verdict(written, f"{one}{other}") is Verdict.INCORRECT
    assert verdict(f"{opening}{one}, {other}{closing}", written) is Verdict.CORRECT


@given(
    st.integers(-99, 99),
    st.integers(0, 99),
    st.sampled_from(["\\emptyset", "(1,2)\\cap(3,4)", "x < 1 \\text{ and } x > 3"]),
)
def test_a_point_is_no_empty_interval(high: int, fall: int, empty: str) -> None:
    point = f"({high},{high - fall})"
    assert verdict(empty, point) is not Verdict.CORRECT
    assert verdict(point, empty) is not Verdict.CORRECT


UNITS = ("feet", "in.", "cm", "\\text{ hours}", "\\text{ min}", "\\text{ kg}", "boys", "dollars", "cents")


@given(
    st.integers(1, 99),
    st.integers(1, 99),
    st.permutations(UNITS),
    st.sampled_from([", ", " and ", " ", "\\text{ and }", ". "]),
)
def test_numbers_of_two_units_are_neither_one_number_nor_a_list(
    one: int, other: int, units: list[str], joint: str
) -> None:
    stated = f"{one} {units[0]}{joint}{other} {units[1]}"
    for answer in (str(one), str(other), f"{one}, {other}", f"\\{{{one},{other}\\}}"):
        assert verdict(answer, stated) is not Verdict.CORRECT


@given(
    st.integers(1, 999),
    st.sampled_from(["$", "\\$", "€", ""]),
    st.sampled_from(["k", "K", "M", "MM", "m", "B", "bn", "T", "mn", "mil", "G"]),
    st.sampled_from(["\\text{%s}", "\\text{ %s}", "\\,\\mathrm{%s}", " %s"]),
    st.sampled_from(["", " USD", "\\text{ dollars}"]),
)
def test_letters_of_scale_are_never_dropped(number: int, sign: str, letters: str, face: str, after: str) -> None:
    assume(sign or after or letters not in ("m", "T", "G"))
    assert verdict(str(number), sign + str(number) + face % letters + after) is not Verdict.CORRECT


SURROUNDINGS = (
    *("$%s$", "$$%s$$", "\\(%s\\)", "\\[ %s \\]", "\\boxed{%s}", "**%s**.", "**%s.**", '"%s"', "%s ✅"),
    *("<answer>%s</answer>", "\\begin{align*} %s \\end{align*}", "\\begin{equation} %s. \\end{equation}"),
    *("\\begin{gathered} %s \\end{gathered}", "```latex %s ```", "%s\\ ", "= %s", "{\\bf %s}", "%s\\text{.}"),
    *("%s, since 1 + 1 = 2.", "%s because that is what is left", "\\large %s", "\\phantom{-}%s"),
    *("\\text{Answer: } %s", "\\text{The value is } %s"),
)


@given(expressions, expressions, st.lists(st.sampled_from(SURROUNDINGS), max_size=1))
def test_text_around_a_formula_changes_nothing(one: Written, other: Written, around: list[str]) -> None:
    for surrounding in around:
        assert verdict(one.latex, surrounding % one.latex) is Verdict.CORRECT, surrounding
        if one.value != other.value:
            assert verdict(other.latex, surrounding % one.latex) is not Verdict.CORRECT, surrounding


@given(st.lists(st.integers(0, 7), min_size=2, max_size=4), st.integers(2, 9), st.integers(1, 3))
def test_factorials_and_powers_side_by_side_are_multiplied(numbers: list[int], base: int, power: int) -> None:
    value = math.prod(map(math.factorial, numbers)) * base**power
    written = "".join(f"{number}!" for number in numbers) + f"{base}^{{{power}}}"
    assert verdict(str(value), written) is Verdict.CORRECT
    assert verdict(str(value + 1), written) is not Verdict.CORRECT


@given(st.integers(1, 60), st.integers(2, 60), st.integers(1, 6), st.integers(-9, 9))
def test_a_rounded_value_after_a_number_must_be_its_own(above: int, below: int, places: int, off: int) -> None:
    exact = Fraction(above, below)
    rounded = Fraction(round(exact * 10**places) + off, 10**places)
    text = f"{float(rounded):.{places}f}"
    is_close = abs(Fraction(text) - exact) * 10 ** len(text.rstrip("0").partition(".")[2]) < 1
    result = verdict(f"\\frac{{{above}}}{{{below}}}", f"\\frac{{{above}}}{{{below}}} \\approx {text}")
    assert result is (Verdict.CORRECT if is_close else Verdict.UNPARSEABLE)


@pytest.mark.parametrize(
    "stated",
    ["m+n=29", "a + b + c = 29", "PQ = 29", "|PQ| = 29", "|w| = 29", "[PQR] = 29", "uv=29", "\\frac{u}{v} = 29"],
)
def test_a_combination_of_letters_that_is_given_a_value_is_that_value(stated: str) -> None:
    assert verdict("29", stated) is Verdict.CORRECT
    assert verdict("28", stated) is Verdict.INCORRECT
    assert verdict(stated, "29") is not Verdict.CORRECT, "the equation may be the required answer"


@pytest.mark.parametrize(
    "stated", ["u^2 = 29", "2u = 29", "-u = 29", "\\frac{1}{u} = 29", "u + 1 = 29", "u^2+v^2=29", "uu = 29"]
)
def test_an_unsolved_equation_does_not_equal_its_right_side(stated: str) -> None:
    assert verdict("29", stated) is Verdict.UNPARSEABLE


@pytest.mark.parametrize(
    "text", [":", "=", ",", ".", "_", "x_", "_1 + 2", "\\text{Jan. 5, 2020}", "8" * 2_500, "y+" * 1_400]
)
def test_equal_texts_are_correct_whatever_they_are(text: str) -> None:
    assert verdict(text, text) is Verdict.CORRECT
    assert verdict(text, f" {text}\n") is Verdict.CORRECT


# Reading


@given(awkward_texts | texts)
def test_any_text_is_read_or_not_and_equals_itself(text: str) -> None:
    readings(text)
    assert same_text(text, text)
    formula = formula_in(text)
    assert formula is None or formula_in(formula) == formula
    if formula is not None:
        assert verdict(text, formula) in Verdict


PIECES = (
    *("\\frac", "\\frac{", "{", "}", "(", ")", "[", "]", "\\{", "\\}", "|", "1", "12", "1,234", "x", "e"),
    *("\\pi", "^", "_", "-", "+", "*", "/", "\\sqrt", "\\sin", "\\log", "\\text{", "\\text{cm}", " or "),
    *(",", "=", "<", "\\cup", "\\infty", "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\", "\\overline{"),
    *("0.", "½", "²", "√", "$", "%", "!", "\\pm", ":", "\\binom", "f(", "\\boxed{", "\\left(", "\\right)"),
    *("\\dot", "cm", "dozen", "\u0305", "x^{", "1/", "1*", "\n"),
)


def test_no_text_makes_the_reader_slow_or_recurse_deeply() -> None:
    rng = random.Random(0)
    long = [piece * (100_000 // len(piece)) for piece in PIECES] + [piece * (1_990 // len(piece)) for piece in PIECES]
    short = ["".join(rng.choices(PIECES, k=rng.randint(1, 40))) for _ in range(5_000)]

    def seconds(text: str) -> float:
        start = time.process_time()
        readings(text)
        formula_in(text)
        words(text)
        return time.process_time() - start

    for text in (*long, *short):
        # Other threads of this process and the collector may take their time once; a slow reader takes it every time.
        assert any(seconds(text) < 2 for _ in range(3)), text[:40]


@pytest.mark.parametrize(
    ("span", "formula"),
    [
        *(("**3**.", "3"), ("$x^2$.", "x^2"), ("\n$$\n2\\sqrt{3}\n$$\n", "2\\sqrt{3}"), ("= 5", "5"), ("5!", "5!")),
        *(("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"), ("0.333...", "0.333..."), ("3 * x * y", "3 * x * y")),
        *((" . ", None), ("\\( 7 \\)", "7")),
    ],
)
def test_the_formula_of_a_span_is_read_without_the_text_around_it(span: str, formula: str | None) -> None:
    assert formula_in(span) == formula


def test_a_number_with_a_unit_is_a_quantity_and_an_expression_is_not() -> None:
    result = quantity(readings("$1{,}250 \\text{ dollars}"))
    assert result is not None
    assert (result[0].value, result[1]) == (1250, "dollar")
    assert quantity(readings("2\\pi")) is None
    assert quantity(readings("(1,234)")) is None, "one number or two"


def test_units_have_one_name_and_other_words_have_none() -> None:
    assert unit_name("square centimeters") == unit_name("cm^2") == unit_name("sq. cm") == "cm^2"
    assert unit_name("miles per hour") == unit_name("miles/hour") == unit_name("miles an hour")
    assert unit_name("marbles") == "marble"
    assert [unit_name(word) for word in ("squared", "thirds", "hundredths", "tens", "more", "times", "minus")] == [
        None
    ] * 7


def test_spaces_between_digits_stay() -> None:
    assert tokens("5 6") != tokens("56")
    assert not same_text("\\text{no thing}", "\\text{nothing}")

"""Each kind of answer has cases as data, and its rule is a property of generated texts."""

import json
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from builders import json_case, problem
from selftaught.grading.amounts import parse_number, read_quantity
from selftaught.grading.signs import visible, without_marks
from selftaught.grading.statements import own_part
from selftaught.grading.verifiers import make_verifier
from selftaught.records.problems import LABELS, Verdict

KINDS = json_case("verifier_kinds.json")
PIECES = json_case("answer_pieces.json")
"""The pieces of answers, and of texts that look like answers."""
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "cases"
make = cache(make_verifier)


def verdicts(verifier: str, text: str, *, marker: str, answer: str, choices: tuple[str, ...] = ()) -> list[Verdict]:
    """The verdicts under strict and under lenient extraction."""
    reference = problem(answer=answer, choices=choices)
    return [
        make(verifier, marker=marker, extraction=extraction, next_question=("Q:",))(text, reference).verdict
        for extraction in ("strict", "lenient")
    ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
def test_every_case_of(kind: dict[str, Any]) -> None:
    for case in kind["cases"]:
        choices = tuple(case.get("choices", ()))
        result = verdicts(case["verifier"], case["text"], marker=case["marker"], answer=case["answer"], choices=choices)
        assert result == [case["strict"], case["lenient"]], (case["text"], case["answer"])


def test_every_kind_has_cases_and_a_description() -> None:
    assert len({kind["kind"] for kind in KINDS}) == len(KINDS) >= 15
    for kind in KINDS:
        assert kind["what"].endswith(".")
        assert len(kind["cases"]) >= 10, kind["kind"]


def pieces(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from(PIECES[name])


def shared_cases() -> list[dict[str, Any]]:
    texts = (path.read_text(encoding="utf-8") for path in sorted(SHARED.glob("*.jsonl")))
    rows = [json.loads(line) for text in texts for line in text.split("\n") if line]
    return [row for row in rows if "expected_strict" in row]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the cases from users' reports are not beside this checkout")
@pytest.mark.parametrize("case", shared_cases(), ids=lambda case: f"{case['id']} {case['verifier']}")
def test_the_smallest_case_of_a_report(case: dict[str, Any]) -> None:
    if case["verifier"] == "math":
        pytest.importorskip("sympy")
    result = verdicts(
        case["verifier"],
        case["text"],
        marker=case["marker"],
        answer=case["answer"],
        choices=tuple(case.get("choices", ())),
    )
    expected = [case["expected_strict"], case.get("expected_lenient", case["expected_strict"])]
    # A doubtful answer may be unparseable, also where it is wrong.
    assert all(
        verdict == wanted or (wanted == "incorrect" and verdict == "unparseable")
        for verdict, wanted in zip(result, expected, strict=True)
    ), result


# Numbers --------------------------------------------------------------------------------------------------------------

values = st.integers(0, 10**7) | st.decimals(0, 10**5, allow_nan=False, allow_infinity=False, places=2)
"""Numbers without a sign, with at most two decimal places."""


@st.composite
def written(draw: st.DrawFn) -> tuple[str, Fraction]:
    """A number in one of the forms in which people and models write it, and its value."""
    number = draw(values)
    text = draw(st.sampled_from([f"{number}", f"{number:,}", f"{number:,}".replace(",", "{,}")]))
    sign = draw(st.sampled_from(["", "", "", "-", "−", "‑", "－"]))
    text = sign + draw(st.sampled_from(["", "", "$", "€", "\\$"])) + text
    around = draw(
        st.sampled_from(["{}", "{}", "**{}**", "*{}*", "`{}`", '"{}"', "({})", "\\({}\\)", "“{}”", "<b>{}</b>"])
    )
    if draw(st.booleans()):
        text = text.translate({ord(digit): chr(0xFF10 + int(digit)) for digit in "0123456789"})
    return around.format(text), Fraction(number) * (-1 if sign else 1)


@given(written(), pieces("units"), pieces("tails"))
def test_a_number_is_read_in_any_form_with_any_unit_and_remark(
    number: tuple[str, Fraction], unit: str, tail: str
) -> None:
    text, value = number
    for marked in (f"#### {text}{unit}{tail}", f"####\n{text}{unit}{tail}"):
        assert verdicts("numeric", marked, marker="####", answer=str(value)) == ["correct", "correct"], marked


@given(written(), written(), pieces("joints"), st.sampled_from(["{}", "\\boxed{{{}}}"]))
def test_neither_of_two_numbers_is_the_answer(
    one: tuple[str, Fraction], other: tuple[str, Fraction], joint: str, around: str
) -> None:
    (first, a), (second, b) = one, other
    assume(a != b / 100 and b != a / 100)
    assume(a != b or (" or " not in joint and joint.strip(" ,;(") not in ("or", "")))  # the same number, repeated
    text = "#### " + around.format(first + joint + second)
    for value in (a, b):
        result = verdicts("numeric", text, marker="####", answer=str(value))
        # With a joint, the two may make another number (1 and 2 with a slash), but never one of the two.
        assert "correct" not in result, (text, value)


@given(st.integers(2, 10**6), pieces("parts"), st.sampled_from(["\\boxed{{{}}}", "$\\boxed{{{}}}$"]))
def test_the_beginning_of_an_expression_is_no_answer(number: int, part: str, around: str) -> None:
    text = around.format(f"{number}{part}")
    assert "correct" not in verdicts("numeric", text, marker="####", answer=str(number)), text


@given(st.integers(2, 999), pieces("scales"), st.sampled_from(["", " dollars", "."]))
def test_a_number_with_a_word_of_scale_is_never_the_bare_number(number: int, scale: str, tail: str) -> None:
    for text in (f"#### {number}{scale}{tail}", f"\\boxed{{{number}\\text{{{scale}}}}}"):
        assert "correct" not in verdicts("numeric", text, marker="####", answer=str(number)), text


@given(
    st.integers(1, 999),
    st.sampled_from([("$", "M", 6), ("", "M", 6), ("$", "bn", 9), ("", " millions", 6), ("", "k", 3)]),
)
def test_a_number_is_multiplied_by_its_scale(number: int, scale: tuple[str, str, int]) -> None:
    currency, word, power = scale
    assert parse_number(f"{currency}{number}{word}") == number * 10**power


@given(st.integers(0, 99), st.from_regex(r"\A\d{0,3}\Z"), st.from_regex(r"\A\d{1,4}\Z"))
def test_repeating_digits_have_the_value_of_their_fraction(integer: int, once: str, again: str) -> None:
    value = Fraction(f"{integer}.{once or 0}") + Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))
    for bar in ("overline", "bar"):
        assert parse_number(f"{integer}.{once}\\{bar}{{{again}}}") == value


signs = st.characters(categories=["Sm", "Pd", "Po", "So", "Sk", "Pc"], exclude_characters="'\"*_`.,;:!?%°¢#–—-\\@&")


@given(st.integers(1, 10**6), signs, st.integers(1, 10**6), st.sampled_from(["", " "]))
@example(number=5, sign="±", other=1, space=" ")
def test_no_sign_between_two_numbers_hides_the_second(number: int, sign: str, other: int, space: str) -> None:
    assume(number != other)
    text = f"{number}{space}{sign}{space}{other}"
    quantity = read_quantity(text)
    assert quantity is None or quantity.value not in (number, other), text


def test_a_space_may_follow_a_minus_only_in_a_formula() -> None:
    for text in ("\\boxed{- 7}", "#### $- 7$", "#### \\(- 7\\)", "####\n\\[\n- 7\n\\]"):
        assert verdicts("numeric", text, marker="####", answer="-7") == ["correct", "correct"], text
    assert verdicts("numeric", "#### - 7", marker="####", answer="-7") == ["unparseable", "incorrect"]


# Choices --------------------------------------------------------------------------------------------------------------

choice_lists = st.lists(pieces("choices"), min_size=2, max_size=5, unique=True).map(tuple)


@given(choice_lists, st.data(), pieces("namings"), st.sampled_from(["", "\n\nThat is all.", "</answer>"]))
def test_a_choice_is_named_by_label_or_text_in_any_marks(
    choices: tuple[str, ...], data: st.DataObject, form: str, tail: str
) -> None:
    place = data.draw(st.integers(0, len(choices) - 1))
    name = form.format(label=LABELS[place], text=choices[place])
    result = verdicts(
        "choice", f"So the answer is {name}{tail}", marker="the answer is", answer=LABELS[place], choices=choices
    )
    assert result == ["correct", "correct"], name


@given(choice_lists, st.data(), pieces("continuations"))
def test_a_text_that_continues_is_not_the_choice(
    choices: tuple[str, ...], data: st.DataObject, continuation: str
) -> None:
    place = data.draw(st.integers(0, len(choices) - 1))
    assume(not (continuation == "/8" and choices[place] == "银行"))
    result = verdicts(
        "choice",
        f"the answer is {choices[place]}{continuation}",
        marker="the answer is",
        answer=LABELS[place],
        choices=choices,
    )
    assert result[0] != "correct", choices[place] + continuation


@given(
    choice_lists,
    st.data(),
    st.sampled_from([" or ", ", ", "/", " and ", " & ", ", or "]),
    st.sampled_from(["{}", "**{}**"]),
)
def test_neither_of_two_labels_is_the_answer(
    choices: tuple[str, ...], data: st.DataObject, joint: str, around: str
) -> None:
    one, other = data.draw(st.permutations(LABELS[: len(choices)]))[:2]
    text = f"the answer is {around.format(one)}{joint}{around.format(other)}."
    for label in (one, other):
        assert "correct" not in verdicts("choice", text, marker="the answer is", answer=label, choices=choices), text


# Places ---------------------------------------------------------------------------------------------------------------

INVISIBLE = ("\u200b", "\u200d", "\ufeff", "\u2060", "\u200e", "\u00ad", "\u202a", "\ufe0f")


@given(st.sampled_from(["#### 18 eggs", "#### -1,234.5", "\\boxed{18}"]), st.data(), st.sampled_from(INVISIBLE))
def test_an_invisible_character_changes_nothing(text: str, data: st.DataObject, character: str) -> None:
    place = data.draw(st.integers(0, len(text)))
    changed = text[:place] + character + text[place:]
    answer = "-1234.5" if "1,234" in text else "18"
    assert verdicts("numeric", changed, marker="####", answer=answer) == ["correct", "correct"]


@given(st.text(max_size=60))
def test_removing_invisible_characters_twice_changes_no_more_than_once(text: str) -> None:
    assert visible(visible(text)) == visible(text)


OPENINGS = ("Q:", "**Q:**", "**Q**:", "Question:", "**Question:**", "### Question 2:", "Q2:", "> Q:", "## Q:")


@given(st.sampled_from(OPENINGS), st.sampled_from(["\n", "\n\n", "\r\n"]))
def test_a_next_question_ends_the_part_about_this_one(opening: str, line_end: str) -> None:
    assert own_part(f"#### 18{line_end}{opening} Ann has 3?\n#### 3", ("Q:",)).strip() == "#### 18"
    assert "#### 3" in own_part(f"{opening} Ann has 3?\n#### 3", ("Q:",))
    assert "#### 3" in own_part(f"She said {opening} no.\n#### 3", ("Q:",))


@given(st.integers(0, 99), st.sampled_from(["<think>", "<thinking>", "<reasoning>", "[THINK]"]))
def test_an_answer_within_an_unfinished_thought_does_not_count(number: int, opener: str) -> None:
    closer = opener.replace("<", "</").replace("[", "[/")
    thought = f"{opener}\nmaybe #### {number}"
    assert verdicts("numeric", thought, marker="####", answer=str(number)) == ["unparseable", "unparseable"]
    done = f"{thought}. No.\n{closer}\n#### {number + 1}"
    assert verdicts("numeric", done, marker="####", answer=str(number + 1)) == ["correct", "correct"]
    assert verdicts("numeric", done.partition("\n")[2], marker="####", answer=str(number + 1)) == ["correct", "correct"]


@given(
    st.integers(1, 99), st.integers(1, 99), st.sampled_from([", ", " and ", " or ", "; ", "$, $", ", y = ", "\n y = "])
)
def test_two_boxes_side_by_side_state_nothing(one: int, other: int, joint: str) -> None:
    assume(one != other)
    text = f"x = \\boxed{{{one}}}{joint}\\boxed{{{other}}}"
    for number in (one, other):
        assert verdicts("numeric", text, marker="####", answer=str(number)) == ["unparseable", "unparseable"]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1, max_size=30).filter(str.strip))
def test_an_answer_without_its_marks_is_a_piece_of_it(text: str) -> None:
    readings = list(without_marks(text))
    assert readings[0] == text
    assert all(reading in text and len(reading) < len(text) for reading in readings[1:])


@given(st.sampled_from(["Paris", "f(x)", "U.S.", "a_b", "Dale", "x'", "3.5"]))
def test_an_exact_answer_may_stand_in_marks(answer: str) -> None:
    for around in (
        "{}",
        "**{}**",
        "`{}`",
        '"{}"',
        "**{}**.",
        "<b>{}</b>",
        "\\boxed{{\\text{{{}}}}}",
        "{}</answer>",
        "*{}*",
    ):
        text = "Answer: " + around.format(answer)
        assert verdicts("exact", text, marker="answer:", answer=answer) == ["correct", "correct"], text

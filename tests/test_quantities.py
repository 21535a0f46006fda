"""A number has one exact value, however it is written; a text with two readings is not read."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftaught.grading.amounts import numbers_in, parse_number, read_quantity
from selftaught.grading.quantities import (
    MAX_DIGITS,
    number_at,
    number_text,
    same_number,
)
from selftaught.grading.signs import plain
from strategies import awkward_texts

PIECES = ["1", "23", "4.5", ",", ".", "/", "-", "–", "%", "$", "\\frac{", "}", "{", "e3", "½", "²", "٣", "or", "x"]
pieces = st.lists(st.sampled_from([*PIECES, " ", " ", "\n"]), max_size=12).map("".join)
"""Texts that look like numbers."""

numbers = st.fractions() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=4)


@given(numbers)
def test_a_written_number_is_read_back_exactly(number: Fraction | int | Decimal) -> None:
    assert parse_number(str(number)) == Fraction(number)


@given(st.integers(-(10**30), 10**30))
def test_grouping_currency_and_a_full_stop_change_nothing(number: int) -> None:
    for text in (f"{number:,}", f"${number:,}.", f"{number} dollars", f"**{number:,}**", f"\\({number}\\)"):
        assert parse_number(text) == number, text


@given(pieces | awkward_texts)
def test_the_text_of_a_number_is_read_as_the_same_number(text: str) -> None:
    number = read_quantity(text)
    if number is not None:
        again = read_quantity(number_text(number))
        assert again is not None
        assert (again.value, again.percent) == (number.value, number.percent)


@given(pieces)
def test_the_places_of_numbers_are_true_and_in_order(text: str) -> None:
    end = 0
    for number in numbers_in(text):
        if number is None:
            continue
        assert end <= number.start < number.end <= len(text)
        assert number_at(plain(text), number.start) == number
        end = number.end


@given(pieces, pieces)
def test_being_the_same_number_is_symmetric(one: str, other: str) -> None:
    first, second = read_quantity(one), read_quantity(other)
    if first is not None and second is not None:
        assert same_number(first, second) == same_number(second, first)
        assert same_number(first, first)


@pytest.mark.parametrize(
    ("text", "value"),
    [("9" * MAX_DIGITS, int("9" * MAX_DIGITS)), ("9" * (MAX_DIGITS + 1), None), ("1e1000", 10**1000), ("1e1001", None)],
)
def test_a_number_that_is_too_long_to_be_an_answer_is_not_read(text: str, value: int | None) -> None:
    assert parse_number(text) == value


def test_a_percentage_equals_both_the_number_and_its_hundredth() -> None:
    twenty, fifth, percent = (read_quantity(text) for text in ("20", "0.2", "20%"))
    assert twenty is not None
    assert fifth is not None
    assert percent is not None
    assert same_number(percent, twenty)
    assert same_number(percent, fifth)
    assert not same_number(twenty, fifth)

"""What an answer that names a choice means is decided by its whole column, or not at all."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from selftaught.errors import ConfigError
from selftaught.tasks.choice_answers import READINGS, label_of, labels_of
from selftaught.tasks.columns import Choices, choices_of
from selftaught.tasks.labels import label_beside_text, labelled_list, without_labels
from selftaught.tasks.rows import Row
from strategies import texts

WORDS = ("door", "roof", "wall", "gate", "lamp", "stair")
POSITIONS = st.lists(st.integers(0, 3), min_size=8, max_size=30)


def given_of(*choices: str) -> Choices:
    return Choices(texts=choices, labels=tuple("ABCDEF"[: len(choices)]))


def read(answers: Sequence[str], given: Sequence[Choices], answer_is: str = "auto") -> tuple[list[str], str]:
    places = [f"x.jsonl:{number}" for number in range(1, len(answers) + 1)]
    return labels_of(answers, given, places, answer_is=answer_is)


def answers_for(reading: str, positions: Sequence[int], given: Sequence[Choices]) -> list[str]:
    """How a file would write these positions."""
    if reading == "label":
        return [one.labels[i] for i, one in zip(positions, given, strict=True)]
    if reading == "text":
        return [one.texts[i] for i, one in zip(positions, given, strict=True)]
    return [str(i + int(reading[-1])) for i in positions]


def numeric_choices(rng: random.Random, rows: int, *, small: bool) -> list[Choices]:
    """Four numbers a row; small ones are those that numbers of choices look like."""
    numbers = rng.choice([range(4), range(1, 5), range(5)]) if small else range(10, 99)
    return [given_of(*map(str, rng.sample(numbers, 4))) for _ in range(rows)]


@given(POSITIONS, st.sampled_from(sorted(READINGS)), st.booleans(), st.randoms(use_true_random=False))
def test_a_column_is_read_as_it_was_written_or_refused(
    positions: list[int], reading: str, small: bool, rng: random.Random
) -> None:
    given = numeric_choices(rng, len(positions), small=small)
    answers = answers_for(reading, positions, given)
    wanted = ["ABCD"[i] for i in positions]
    assert read(answers, given, reading)[0] == wanted
    refusal = ""
    try:
        assert read(answers, given)[0] == wanted
    except ConfigError as error:
        refusal = str(error)
    # Beside numbers that cannot be numbers of choices, nothing but the first number can be in doubt.
    proved = not reading.startswith("index") or (positions.count(0) > 1 and positions.count(3) > 1)
    assert not refusal or ("task.answer_is" in refusal and (small or not proved))


@given(POSITIONS, st.integers(0, 29), st.sampled_from(["index0", "index1"]), st.randoms(use_true_random=False))
def test_one_row_with_numeric_choices_turns_no_other(
    positions: list[int], odd: int, reading: str, rng: random.Random
) -> None:
    positions = [0, 3, *positions]  # what proves where the numbers begin
    assume(positions.count(0) > 1 and positions.count(3) > 1)
    given = [given_of(*rng.sample(WORDS, 4)) for _ in positions]
    given[odd % len(given)] = numeric_choices(rng, 1, small=True)[0]
    assert read(answers_for(reading, positions, given), given) == (["ABCD"[i] for i in positions], reading)


@pytest.mark.parametrize("odd", ["9", "-1", "door?", "4", "", "E"])
@pytest.mark.parametrize("reading", ["index0", "label", "text"])
def test_an_odd_row_is_named_and_the_others_are_not_turned(reading: str, odd: str) -> None:
    given = [given_of("door", "roof", "wall", "gate")] * 12
    answers = answers_for(reading, [0, 1, 2, 3] * 3, given)
    answers[7] = odd
    with pytest.raises(ConfigError, match=r"x\.jsonl:8: the answer .* is none of the"):
        read(answers, given)


def test_a_way_of_reading_that_only_an_odd_row_speaks_against_is_not_passed_over() -> None:
    given = [given_of(*row) for row in ("3021", "3102", "0213", "2301", "3210", "1203")] * 2
    answers = ["1", "1", "2", "3", "0", "2"] * 2
    odd = given_of("7", "8", "9", "6")
    with pytest.raises(ConfigError, match=r"task\.answer_is to 'text' or 'index0'"):
        read([*answers, "7"], [*given, odd])


def test_one_zero_among_a_hundred_rows_does_not_say_where_all_of_them_begin() -> None:
    given = [given_of("door", "roof", "wall", "gate")] * 100
    answers = [*["1", "2", "3"] * 33, "0"]
    with pytest.raises(ConfigError, match=r"x\.jsonl:1: .*count from 0 or from 1.*'index0' or 'index1'"):
        read(answers, given)


@pytest.mark.parametrize(
    ("answers", "texts", "reading", "labels"),
    [
        ("012", ("dog", "cat", "cow"), "index0", "ABC"),
        ("123", ("dog", "cat", "cow"), "index1", "ABC"),
        (("0.0", "2.0", "1.0"), ("dog", "cat", "cow"), "index0", "ACB"),
        ((" 1 ", "3", "2"), ("dog", "cat", "cow"), "index1", "ACB"),
        ("abc", ("dog", "cat", "cow"), "label", "ABC"),
        (("(A)", "b.", "[C]"), ("dog", "cat", "cow"), "label", "ABC"),
        (("dog (a)", "(b) cat", "c) cow."), ("dog", "cat", "cow"), "label", "ABC"),
        (("DOG", "cat ", "cow"), ("dog", "cat", "cow"), "text", "ABC"),
        (("A", "cat", "(c) cow"), ("dog", "cat", "cow"), "label or text", "ABC"),
        (("30", "10", "20"), ("10", "20", "30"), "text", "CAB"),
    ],
)
def test_a_column_shows_how_it_is_meant(
    answers: Sequence[str], texts: tuple[str, ...], reading: str, labels: str
) -> None:
    assert read(answers, [given_of(*texts)] * len(answers)) == (list(labels), reading)


@pytest.mark.parametrize(
    ("answers", "texts"),
    [
        ("AB", ("B", "A")),  # a label or the text of the other
        ("12", ("2", "1", "3")),
        ("123", ("3", "1", "2")),
        ("11", ("dog", "cat", "cow")),
    ],
)
def test_a_column_that_shows_nothing_is_refused_with_the_setting_that_decides(
    answers: str, texts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"task\.answer_is to '"):
        read(answers, [given_of(*texts)] * len(answers))


def test_labels_of_the_rows_own_that_are_numbers_are_labels() -> None:
    given = [Choices(texts=("dog", "cat", "cow"), labels=("1", "2", "3"), has_own_labels=True)] * 2
    assert read("12", given) == (["A", "B"], "label")
    clash = [Choices(texts=("2", "1", "7"), labels=("1", "2", "3"), has_own_labels=True)] * 2
    with pytest.raises(ConfigError, match=r"may mean 1: '2' and 2: '1'"):
        read("12", clash)


@pytest.mark.parametrize(
    "answer",
    ["clip (a)", "(a) clip", "clip (A)", "a) clip", "A. clip", "a: clip", "clip, (a).", "[A] clip", "Clip (a)."],
)
def test_a_label_beside_its_text_is_one_answer(answer: str) -> None:
    assert label_of(answer, given_of("clip", "cup"), "x") == "A"


@pytest.mark.parametrize("answer", ["clip (b)", "(b) clip", "b) clip", "clip cup", "clip (c)", "(a) (b)"])
def test_a_label_beside_the_text_of_another_choice_is_none(answer: str) -> None:
    with pytest.raises(ConfigError, match="is none of the choices"):
        label_of(answer, given_of("clip", "cup"), "x")


@given(texts, st.lists(texts, min_size=2, max_size=4))
def test_any_answer_names_one_choice_or_is_refused_in_one_line(answer: str, choices: list[str]) -> None:
    given = given_of(*choices)
    try:
        assert label_of(answer, given, "x") in given.labels
    except ConfigError as error:
        refusal = str(error)
        assert refusal.startswith("x: the answer ")


# Labels that choices carry

FORMS = ("({})", "({}) ", "[{}] ", "{})", "{}) ", "{} ) ", "{}. ", "{}: ")
LABELS = ("ABCDE", "abcde", "12345")
TEXTS = st.lists(st.text("klmnopqrstu ", min_size=1, max_size=8).map(str.strip).filter(bool), min_size=2, max_size=5)


def rows_with(*choices: Sequence[str]) -> list[Row]:
    return [Row(place=f"x:{n}", values={"choices": list(one)}) for n, one in enumerate(choices)]


@given(st.lists(TEXTS, min_size=1, max_size=5), st.sampled_from(FORMS), st.sampled_from(LABELS))
def test_labels_that_all_choices_carry_in_order_are_taken_off(rows: list[list[str]], form: str, labels: str) -> None:
    carried = [[form.format(label) + text for label, text in zip(labels, row, strict=False)] for row in rows]
    found = choices_of(rows_with(*carried), "choices")
    assert [list(one.texts) for one in found] == rows
    assert [list(one.labels) for one in found] == [list(labels[: len(row)]) for row in rows]
    plain = choices_of(rows_with(*carried, ["kl", "mn"]), "choices")
    assert [list(one.texts) for one in plain] == [*carried, ["kl", "mn"]], "one row without them, and they are texts"


@pytest.mark.parametrize(
    "texts",
    [
        ("A.D.", "B.C."),
        ("(a) x", "(c) y"),
        ("A) x", "B. y"),
        ("A)", "B)"),
        ("1.5", "2.5"),
        ("1:30", "2:30"),
        ("(B) x", "(A) y"),
        ("A x", "B y"),
        ("a", "b"),
        ("A: x", "b: y"),
    ],
)
def test_what_only_looks_like_labels_is_left(texts: tuple[str, ...]) -> None:
    assert without_labels(texts) is None
    assert choices_of(rows_with(texts), "choices")[0].texts == texts


@given(TEXTS, st.sampled_from(FORMS), st.sampled_from(LABELS), st.sampled_from([" ", " , ", "; ", "\n", " | "]))
def test_a_list_in_one_text_is_cut_at_its_labels(texts: list[str], form: str, labels: str, between: str) -> None:
    listed = between.join(form.format(label) + text for label, text in zip(labels, texts, strict=False))
    assume(not any(len(word) == 1 for text in texts for word in text.split()))
    assert labelled_list(listed) == (tuple(labels[: len(texts)]), tuple(" ".join([text]) for text in texts))


@pytest.mark.parametrize("text", ["dog or cat", "a) dog", "a) dog c) cat", "a) dog b) cat b) cow", "see a) dog b) cat"])
def test_a_text_that_could_be_cut_otherwise_is_no_list(text: str) -> None:
    assert labelled_list(text) is None


@pytest.mark.parametrize("answer", ["clip", "(a)", "a)", "A", "I am", "(b) ", "about 5"])
def test_a_label_or_a_text_alone_is_not_both(answer: str) -> None:
    assert label_beside_text(answer) is None

"""The meaning of an answer that names a choice is decided by the complete column, or not at all."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from selftaught.records.errors import ConfigError
from selftaught.tasks.rows.choice_answers import READINGS, label_of, labels_of
from selftaught.tasks.rows.columns import Choices, choices_of, note_of_labels
from selftaught.tasks.rows.files import Row
from selftaught.tasks.rows.labels import carried_labels, labelled_list, labels_beside_text
from strategies import texts

WORDS = ("door", "roof", "wall", "gate", "lamp", "stair")
POSITIONS = st.lists(st.integers(0, 3), min_size=8, max_size=30)


def given_of(*choices: str) -> Choices:
    return Choices(texts=choices, labels=tuple("ABCDEF"[: len(choices)]))


def read(answers: Sequence[str], given: Sequence[Choices], answer_is: str = "auto") -> tuple[list[str], str]:
    places = [f"x.jsonl:{number}" for number in range(1, len(answers) + 1)]
    return labels_of(answers, given, places, answer_is=answer_is)


def answers_for(reading: str, positions: Sequence[int], given: Sequence[Choices]) -> list[str]:
    """The answers of a file that means these positions."""
    if reading == "label":
        return [choices.labels[i] for i, choices in zip(positions, given, strict=True)]
    if reading == "text":
        return [choices.texts[i] for i, choices in zip(positions, given, strict=True)]
    return [str(i + int(reading[-1])) for i in positions]


def numeric_choices(rng: random.Random, rows: int, *, small: bool) -> list[Choices]:
    """Four numbers a row; small ones may be taken for the numbers of choices."""
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
    # If the texts cannot be numbers of choices, only the first number can be in doubt.
    proved = not reading.startswith("index") or (positions.count(0) > 1 and positions.count(3) > 1)
    assert not refusal or ("task.answer_is" in refusal and (small or not proved))


@given(POSITIONS, st.integers(0, 29), st.sampled_from(["index0", "index1"]), st.randoms(use_true_random=False))
def test_one_row_with_numeric_choices_does_not_change_how_others_are_read(
    positions: list[int], odd: int, reading: str, rng: random.Random
) -> None:
    positions = [0, 3, *positions]  # these prove where the numbers begin
    assume(positions.count(0) > 1 and positions.count(3) > 1)
    given = [given_of(*rng.sample(WORDS, 4)) for _ in positions]
    given[odd % len(given)] = numeric_choices(rng, 1, small=True)[0]
    assert read(answers_for(reading, positions, given), given) == (["ABCD"[i] for i in positions], reading)


@pytest.mark.parametrize("odd", ["9", "-1", "door?", "4", "", "E"])
@pytest.mark.parametrize("reading", ["index0", "label", "text"])
def test_an_odd_row_is_named_and_does_not_change_how_others_are_read(reading: str, odd: str) -> None:
    given = [given_of("door", "roof", "wall", "gate")] * 12
    answers = answers_for(reading, [0, 1, 2, 3] * 3, given)
    answers[7] = odd
    with pytest.raises(ConfigError, match=r"x\.jsonl:8: the answer .* is none of the"):
        read(answers, given)


def test_a_way_of_reading_that_fails_only_in_an_odd_row_is_not_excluded() -> None:
    given = [given_of(*row) for row in ("3021", "3102", "0213", "2301", "3210", "1203")] * 2
    answers = ["1", "1", "2", "3", "0", "2"] * 2
    odd = given_of("7", "8", "9", "6")
    with pytest.raises(ConfigError, match=r"task\.answer_is to 'text' or 'index0'"):
        read([*answers, "7"], [*given, odd])


def test_one_zero_among_a_hundred_rows_does_not_prove_where_numbers_begin() -> None:
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
    [
        *("clip (a)", "(a) clip", "clip (A)", "a) clip", "A. clip", "a: clip", "clip, (a).", "[A] clip", "Clip (a)."),
        *("a clip (a)", "the clip (a)", "The clip.", '"clip" (a)', "**clip (a)**", "**(a)** clip", "“clip” (a)"),
        *("option (a)", "Option A", "option A: clip", "choice (a)", "A - clip", "（a）clip", "A、clip"),
        *("(a). Because clips hold paper.", "(a) because it is one", "(a), since clips do."),
    ],
)
def test_a_label_beside_its_text_is_one_answer(answer: str) -> None:
    assert label_of(answer, given_of("clip", "cup"), "x") == "A"


@pytest.mark.parametrize("answer", ["clip (b)", "(b) clip", "b) clip", "(b). Clip", "the clip (b)", "Option B: clip"])
def test_a_label_beside_the_text_of_another_choice_is_a_contradiction(answer: str) -> None:
    with pytest.raises(ConfigError, match=r"x: the answer .* contradicts itself: B is 'cup', .* that of A; correct"):
        label_of(answer, given_of("clip", "cup"), "x")


@pytest.mark.parametrize(
    "answer", ["clip cup", "clip (c)", "(a) (b)", "(a) or (b)", "(a). Because of (b).", "(a). Perhaps", "option", "the"]
)
def test_an_answer_that_is_not_certain_names_no_choice(answer: str) -> None:
    with pytest.raises(ConfigError, match="is none of the choices"):
        label_of(answer, given_of("clip", "cup"), "x")


@pytest.mark.parametrize(("yes", "no"), [("yes", "no"), ("Yes", "No"), ("True", "False")])
@pytest.mark.parametrize(("answer", "other"), [("true", "false"), ("yes", "no"), ("Yes.", "No.")])
@pytest.mark.parametrize("no_first", [False, True])
def test_true_and_false_are_yes_and_no(yes: str, no: str, answer: str, other: str, no_first: bool) -> None:
    given = [given_of(*((no, yes) if no_first else (yes, no)))] * 4
    assert read([answer, other, answer, answer], given) == (list("BABB" if no_first else "ABAA"), "text")


def test_true_is_no_yes_beside_a_third_choice() -> None:
    with pytest.raises(ConfigError, match="is none of the choices"):
        label_of("true", given_of("yes", "no", "maybe"), "x")


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
OTHER_FORMS = ("{}）", "（{}）", "【{}】", "{}、", "**{}.** ", "**{})** ", "Option {}: ", "Choice ({}) ", "option {}. ")
LETTER_FORMS = ("{}．", "{}：", "{}.", "{} - ", "{} – ", "{} ", "{}:", "{} | ")
LABELS = ("ABCDE", "abcde", "12345")
TEXTS = st.lists(
    st.text("klmnopqrstu ", min_size=2, max_size=8).map(str.strip).filter(bool), min_size=2, max_size=5, unique=True
)
ROWS = st.lists(TEXTS, min_size=3, max_size=6)
ORDERS = st.randoms(use_true_random=False)


def rows_with(*choices: Sequence[str]) -> list[Row]:
    return [Row(place=f"x:{n}", values={"choices": list(texts)}) for n, texts in enumerate(choices)]


def carrying(form: str, labels: Sequence[str], texts: Sequence[str]) -> list[str]:
    return [form.format(label) + text for label, text in zip(labels, texts, strict=False)]


@given(ROWS, st.sampled_from((*FORMS, *OTHER_FORMS, *LETTER_FORMS)), st.sampled_from(LABELS), st.booleans(), ORDERS)
def test_labels_that_choices_carry_are_removed_and_answers_name_them(
    rows: list[list[str]], form: str, alphabet: str, in_order: bool, rng: random.Random
) -> None:
    assume(alphabet != "12345" or form not in LETTER_FORMS)
    labels = [list(alphabet[: len(row)]) for row in rows]
    if not in_order:
        for row_labels in labels:
            rng.shuffle(row_labels)
    given = choices_of(rows_with(*(carrying(form, own, row) for own, row in zip(labels, rows, strict=True))), "choices")
    assert [list(choices.texts) for choices in given] == rows
    assert [list(choices.labels) for choices in given] == labels
    picked = [rng.randrange(len(row)) for row in rows]
    answers = [own[i] for own, i in zip(labels, picked, strict=True)]
    assert read(answers, given)[0] == ["ABCDE"[i] for i in picked]


@given(ROWS, st.sampled_from(FORMS), st.sampled_from(LABELS), st.integers(0, 99))
def test_a_row_without_labels_changes_no_other_and_is_reported(
    rows: list[list[str]], form: str, alphabet: str, odd: int
) -> None:
    carried = [carrying(form, alphabet, row) for row in rows]
    odd %= len(rows)
    carried[odd] = rows[odd]
    places = rows_with(*carried)
    given = choices_of(places, "choices")
    assert [list(choices.texts) for choices in given] == rows
    (note,) = note_of_labels(places, given)
    assert f"removed from the choices' texts in {len(rows) - 1} of {len(rows)} rows" in note
    assert f"such as x:{odd}" in note


@given(ROWS, st.sampled_from(FORMS), st.sampled_from(LABELS), st.integers(0, 99), st.integers(0, 99))
def test_a_choice_without_a_label_among_others_is_refused_with_its_row(
    rows: list[list[str]], form: str, alphabet: str, odd: int, choice: int
) -> None:
    carried = [carrying(form, alphabet, row) for row in rows]
    odd, choice = odd % len(rows), choice % len(rows[odd % len(rows)])
    carried[odd][choice] = rows[odd][choice]
    with pytest.raises(ConfigError, match=rf"x:{odd}: of the choices .* begins with no label, as others do"):
        choices_of(rows_with(*carried), "choices")


@pytest.mark.parametrize("labels", ["BCD", "FGHJ", "EDCB", "ACD", "MNPQ", "bcd"], ids=lambda labels: f"labels {labels}")
@pytest.mark.parametrize("form", ["({}) ", "{}) ", "{}. ", "{} - ", "{}."])
def test_labels_that_do_not_begin_with_a_are_never_read_by_position(labels: str, form: str) -> None:
    texts = ["kl", "mn", "op", "qr"][: len(labels)]
    given = choices_of(rows_with(*[carrying(form, labels, texts)] * 6), "choices")
    for answers in (labels[:2], labels[-1] * 2, labels[:3]):
        wanted = ["ABCD"[labels.index(answer)] for answer in answers]
        # A point or a dash may also belong to initials, so both readings count, and a column with two is refused.
        may_differ = any(
            answer.upper() in "ABCD"[: len(labels)] and answer.upper() != "ABCD"[labels.index(answer)]
            for answer in answers
        )
        try:
            read_labels = read(answers, given[: len(answers)])[0]
        except ConfigError as error:
            refusal = str(error)
            assert "may mean" in refusal
            assert may_differ
        else:
            assert read_labels == wanted


@given(ROWS, st.integers(0, 99), st.sampled_from(["{} - ", "{} ", "{}.", "{}. ", "**{}** "]), ORDERS)
def test_a_row_with_labels_in_another_form_is_read_by_its_own(
    rows: list[list[str]], odd: int, form: str, rng: random.Random
) -> None:
    carried = [carrying("{}) ", "ABCDE", row) for row in rows]
    odd %= len(rows)
    own = list("ABCDE"[: len(rows[odd])])
    rng.shuffle(own)
    carried[odd] = carrying(form, own, rows[odd])
    given = choices_of(rows_with(*carried), "choices")
    assert [list(choices.texts) for choices in given] == rows
    assert list(given[odd].labels) == own


def test_letters_name_choices_that_are_numbered_in_order() -> None:
    assert read("ABC", choices_of(rows_with(*[("1) kl", "2) mn", "3) op")] * 3), "choices")) == (list("ABC"), "label")
    with pytest.raises(ConfigError, match="none of the choices"):
        read("ABC", choices_of(rows_with(*[("2) kl", "1) mn", "3) op")] * 3), "choices"))


@pytest.mark.parametrize("texts", [("A) x", "B. y"), ("B) x", "A. y"), ("B: x", "a: y"), ("E. coli", "B. subtilis")])
def test_an_answer_is_not_read_by_position_where_the_beginning_of_a_text_contradicts_it(texts: tuple[str, ...]) -> None:
    (given,) = choices_of(rows_with(texts), "choices")
    assert given.texts == texts
    for answer in "AB":
        begun = [i for i, text in enumerate(texts) if text[0].upper() == answer]
        if begun and begun != ["AB".index(answer)]:
            with pytest.raises(ConfigError, match=f"the answer '{answer}' may mean"):
                read([answer], [given])
        else:
            assert label_of(answer, given, "x") == answer


def test_columns_whose_texts_carry_other_labels_are_read_by_neither() -> None:
    rows = [Row(place=f"x:{n}", values={"A": "B) 20", "B": "A) 21", "C": "C) 22"}) for n in range(4)]
    given = choices_of(rows, "A + B + C")
    assert given[0].texts == ("20", "21", "22")
    assert label_of("C", given[0], "x") == "C"
    with pytest.raises(ConfigError, match="may mean B: '20' and A: '21'"):
        read("ABAB", given)


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize(
    "texts",
    [
        *(("A.D.", "B.C."), ("A.M.", "P.M."), ("A)", "B)"), ("1.5", "2.5"), ("1:30", "2:30"), ("1: 30", "2: 30")),
        *(
            ("a", "b"),
            ("A: x", "b: y"),
            ("1 plum", "2 plums"),
            ("1 - x", "2 - x"),
            ("x: 5", "y: 3"),
            ("(3) 5", "(5) 3"),
        ),
        *(("1. 30", "2. 30"), ("C major", "D minor"), ("E. coli", "B. subtilis"), ("A/B", "B/C"), ("A+B", "B+C")),
    ],
)
def test_texts_that_only_look_like_labels_are_left_as_they_are(texts: tuple[str, ...], rows: int) -> None:
    assert [given.texts for given in choices_of(rows_with(*[texts] * rows), "choices")] == [texts] * rows


@pytest.mark.parametrize("texts", [("A x", "B y"), ("A.Lincoln", "B.Obama"), ("A - x", "B - y")])
def test_weak_marks_are_labels_only_in_many_rows(texts: tuple[str, ...]) -> None:
    assert carried_labels(texts) is not None
    assert choices_of(rows_with(texts), "choices")[0].texts == texts
    assert choices_of(rows_with(texts, *[("k", "l")] * 9), "choices")[0].texts == texts


@given(TEXTS, st.sampled_from(FORMS), st.sampled_from(LABELS), st.sampled_from([" ", " , ", "; ", "\n", " | "]))
def test_a_list_in_one_text_is_split_at_its_labels(texts: list[str], form: str, labels: str, between: str) -> None:
    listed = between.join(form.format(label) + text for label, text in zip(labels, texts, strict=False))
    assume(not any(len(word) == 1 for text in texts for word in text.split()))
    assert labelled_list(listed) == (tuple(labels[: len(texts)]), tuple(" ".join([text]) for text in texts))


@pytest.mark.parametrize("text", ["dog or cat", "a) dog", "a) dog c) cat", "a) dog b) cat b) cow", "see a) dog b) cat"])
def test_a_text_that_could_be_split_in_another_way_is_no_list(text: str) -> None:
    assert labelled_list(text) is None


@pytest.mark.parametrize("text", ["(a)clip(b)cup(c)lamp", "[A]clip[B]cup[C]lamp", "（A）clip（B）cup（C）lamp"])
def test_brackets_split_a_list_also_without_white_space(text: str) -> None:
    listed = labelled_list(text)
    assert listed is not None
    assert listed[1] == ("clip", "cup", "lamp")


@pytest.mark.parametrize("answer", ["clip", "(a)", "a)", "A", "(b) ", "about 5"])
def test_a_label_or_a_text_alone_is_not_both(answer: str) -> None:
    assert not list(labels_beside_text(answer))

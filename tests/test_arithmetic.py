"""The addition task: its scratchpads are the paper's, its check is exact, its splits do not overlap."""

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import arithmetic, problem, task_named
from selftaught.grading.references import check_reference_answers
from selftaught.prompts.rendering import render_completion
from selftaught.records.errors import ConfigError, RefusedError
from selftaught.records.problems import CheckResult, Problem, Verdict
from selftaught.tasks import TASKS
from selftaught.tasks.arithmetic.task import (
    PROMPT_FORMAT,
    VARIANTS,
    Variant,
    check_scratchpad,
    scratchpad,
    seen_problems,
    spaced,
)
from selftaught.tasks.splits import check_splits
from toy import TEST, toy_problem, toy_task

PAPER = """\
<scratch>
6 2 4 + 2 5 9 , C: 0
2 + 5 , 3 C: 1
6 + 2 , 8 3 C: 0
, 8 8 3 C: 0
0 8 8 3
</scratch>"""

RESTATED = """\
<scratch>
6 2 4 + 2 5 9 , C: 0
6 2 + 2 5 , 3 C: 1
6 + 2 , 8 3 C: 0
, 8 8 3 C: 0
0 8 8 3
</scratch>"""


def addition(a: int, b: int) -> Problem:
    return problem(f"{a}+{b}", question=f"{spaced(a)} + {spaced(b)}", answer=spaced(a + b))


def correct_lines(a: int, b: int, variant: Variant) -> list[str]:
    """A correct completion, line by line; line 1 is at position 0."""
    return [*scratchpad(a, b, variant).split("\n"), spaced(a + b)]


def check(a: int, b: int, variant: Variant, lines: list[str]) -> CheckResult:
    return check_scratchpad(addition(a, b), "\n".join(lines), variant=variant)


def operands(min_digits: int = 1) -> st.SearchStrategy[tuple[int, int]]:
    def of_length(digits: int) -> st.SearchStrategy[tuple[int, int]]:
        number = st.integers(10 ** (digits - 1), 10**digits - 1)
        return st.tuples(number, number)

    return st.integers(min_digits, 10).flatmap(of_length)


variants = st.sampled_from(VARIANTS)


def other_digit(digit: str, by: int) -> str:
    return str((int(digit) + by) % 10)


# The scratchpad.


def test_the_scratchpad_of_the_paper() -> None:
    assert scratchpad(624, 259, "paper") == PAPER


def test_the_scratchpad_that_restates_all_digits_still_to_add() -> None:
    assert scratchpad(624, 259, "restated") == RESTATED


def test_a_carry_out_of_the_last_column_is_the_first_digit() -> None:
    lines = correct_lines(57, 98, "paper")
    assert lines[1:] == ["5 7 + 9 8 , C: 0", "5 + 9 , 5 C: 1", ", 5 5 C: 1", "1 5 5", "</scratch>", "1 5 5"]


@given(operands(), variants)
def test_a_scratchpad_ends_on_the_sum(pair: tuple[int, int], variant: Variant) -> None:
    a, b = pair
    assert int(correct_lines(a, b, variant)[-3].replace(" ", "")) == a + b


@given(operands(), variants)
def test_the_variants_differ_only_in_the_digits_still_to_add(pair: tuple[int, int], variant: Variant) -> None:
    def states(variant: Variant) -> list[str]:
        return [line.partition(",")[2] for line in scratchpad(*pair, variant).split("\n")]

    assert states("paper") == states("restated")


# The step check.


@given(operands(), variants)
def test_every_generated_scratchpad_passes(pair: tuple[int, int], variant: Variant) -> None:
    assert check(*pair, variant, correct_lines(*pair, variant)) == CheckResult(passed=True, share=1.0)


@given(operands(min_digits=3))
def test_a_scratchpad_of_the_other_variant_does_not_pass(pair: tuple[int, int]) -> None:
    assert not check(*pair, "paper", correct_lines(*pair, "restated")).passed
    assert not check(*pair, "restated", correct_lines(*pair, "paper")).passed


@given(operands(), variants)
def test_white_space_at_the_ends_of_lines_and_between_words_is_no_mistake(
    pair: tuple[int, int], variant: Variant
) -> None:
    lines = [f"  {line.replace(' ', chr(9) + ' ')} \r" for line in correct_lines(*pair, variant)]
    assert check(*pair, variant, lines).passed


@given(operands(), variants, st.data())
def test_a_change_of_any_line_to_any_other_text_is_reported_on_that_line(
    pair: tuple[int, int], variant: Variant, data: st.DataObject
) -> None:
    lines = correct_lines(*pair, variant)
    place = data.draw(st.integers(0, len(lines) - 1))
    other = data.draw(st.one_of(st.sampled_from(lines), st.text("0123456789 +,C:", min_size=1, max_size=12)))
    changed = " ".join(other.split())
    if changed in (lines[place], ""):
        return
    changed_lines = [*lines[:place], other, *lines[place + 1 :]]
    result = check(*pair, variant, changed_lines)
    assert not result.passed
    assert (result.at is None) == result.detail.endswith("missing line")
    if result.at is not None:
        assert "\n".join(changed_lines)[slice(*result.at)] == other.strip()
    assert result.detail.startswith(f"line {place + 1}: ")
    assert result.share == pytest.approx(place / len(lines))


@given(operands(), variants, st.data())
def test_a_completion_without_any_one_line_does_not_pass(
    pair: tuple[int, int], variant: Variant, data: st.DataObject
) -> None:
    lines = correct_lines(*pair, variant)
    place = data.draw(st.integers(0, len(lines) - 1))
    result = check(*pair, variant, lines[:place] + lines[place + 1 :])
    assert not result.passed
    assert result.detail


@given(operands(), variants, st.data())
def test_a_completion_with_any_additional_line_does_not_pass(
    pair: tuple[int, int], variant: Variant, data: st.DataObject
) -> None:
    lines = correct_lines(*pair, variant)
    place = data.draw(st.integers(1, len(lines)))
    result = check(*pair, variant, [*lines[:place], data.draw(st.sampled_from(lines)), *lines[place:]])
    assert not result.passed
    assert result.detail


@given(operands(), variants, st.data())
def test_a_wrong_digit_to_add_is_a_copy_mistake(pair: tuple[int, int], variant: Variant, data: st.DataObject) -> None:
    lines = correct_lines(*pair, variant)
    digits = len(str(pair[0]))
    row = data.draw(st.integers(1, digits))  # the question, then every line with digits still to add
    still_to_add, comma, state = lines[row].partition(",")
    place = data.draw(st.sampled_from([i for i, char in enumerate(still_to_add) if char.isdigit()]))
    wrong = other_digit(still_to_add[place], data.draw(st.integers(1, 9)))
    lines[row] = still_to_add[:place] + wrong + still_to_add[place + 1 :] + comma + state
    assert check(*pair, variant, lines).detail == f"line {row + 1}: copy"


@given(operands(min_digits=2), variants, st.data())
def test_a_wrong_digit_of_the_result_so_far_is_a_copy_mistake(
    pair: tuple[int, int], variant: Variant, data: st.DataObject
) -> None:
    lines = correct_lines(*pair, variant)
    digits = len(str(pair[0]))
    row = data.draw(st.integers(3, digits + 1))  # a line with a digit of an earlier column
    still_to_add, comma, state = lines[row].partition(",")
    done, mark, carry = state.partition("C:")
    column = data.draw(st.integers(1, row - 2))
    result = done.split()
    result[column] = other_digit(result[column], data.draw(st.integers(1, 9)))
    lines[row] = f"{still_to_add}{comma} {' '.join(result)} {mark}{carry}"
    assert check(*pair, variant, lines).detail == f"line {row + 1}: copy"


@given(operands(), variants, st.data())
def test_a_wrong_new_digit_is_a_digit_mistake(pair: tuple[int, int], variant: Variant, data: st.DataObject) -> None:
    lines = correct_lines(*pair, variant)
    row = data.draw(st.integers(2, len(str(pair[0])) + 1))
    still_to_add, _, state = lines[row].partition(", ")
    lines[row] = f"{still_to_add}, {other_digit(state[0], data.draw(st.integers(1, 9)))}{state[1:]}"
    assert check(*pair, variant, lines).detail == f"line {row + 1}: digit"


@given(operands(), variants, st.data())
def test_a_wrong_digit_in_the_line_of_the_sum_is_a_digit_mistake(
    pair: tuple[int, int], variant: Variant, data: st.DataObject
) -> None:
    lines = correct_lines(*pair, variant)
    result = lines[-3].split()
    place = data.draw(st.integers(0, len(result) - 1))
    result[place] = other_digit(result[place], data.draw(st.integers(1, 9)))
    lines[-3] = " ".join(result)
    assert check(*pair, variant, lines).detail == f"line {len(lines) - 2}: digit"


@given(operands(), variants, st.data())
def test_a_wrong_carry_is_a_carry_mistake(pair: tuple[int, int], variant: Variant, data: st.DataObject) -> None:
    lines = correct_lines(*pair, variant)
    row = data.draw(st.integers(1, len(str(pair[0])) + 1))
    lines[row] = lines[row][:-1] + ("1" if lines[row][-1] == "0" else "0")
    assert check(*pair, variant, lines).detail == f"line {row + 1}: carry"


@given(operands(), variants, st.data())
def test_swapped_numbers_are_an_order_mistake(pair: tuple[int, int], variant: Variant, data: st.DataObject) -> None:
    lines = correct_lines(*pair, variant)
    row = data.draw(st.integers(1, len(str(pair[0]))))
    still_to_add, comma, state = lines[row].partition(" ,")
    left, right = still_to_add.split(" + ")
    lines[row] = f"{right} + {left}{comma}{state}"
    result = check(*pair, variant, lines)
    assert result.passed if left == right else result.detail == f"line {row + 1}: order"


@given(operands(), variants, st.data())
def test_words_in_place_of_a_step_are_a_form_mistake(
    pair: tuple[int, int], variant: Variant, data: st.DataObject
) -> None:
    lines = correct_lines(*pair, variant)
    row = data.draw(st.integers(0, len(lines) - 4))
    lines[row] = data.draw(st.sampled_from(["I see", "carry the one", "-"]))
    assert check(*pair, variant, lines).detail == f"line {row + 1}: form"


def test_words_in_place_of_the_sum_are_a_form_mistake() -> None:
    lines = correct_lines(624, 259, "paper")
    lines[5] = "I guess"
    assert len(lines[5]) == len("0 8 8 3")
    assert check(624, 259, "paper", lines).detail == "line 6: form"


@given(operands(), variants, st.integers(1, 10))
def test_a_completion_that_ends_early_misses_its_next_line(
    pair: tuple[int, int], variant: Variant, number: int
) -> None:
    lines = correct_lines(*pair, variant)
    kept = lines[: min(number, len(lines) - 1)]
    assert check(*pair, variant, kept).detail == f"line {len(kept) + 1}: missing line"


@given(operands(), variants, st.integers(1, 10))
def test_a_scratchpad_that_is_closed_early_misses_a_line(pair: tuple[int, int], variant: Variant, number: int) -> None:
    lines = correct_lines(*pair, variant)
    kept = lines[: min(number, len(lines) - 3)]
    result = check(*pair, variant, [*kept, *lines[-2:]])
    assert result.detail == f"line {len(kept) + 1}: missing line"


@given(operands(), variants, st.data())
def test_one_line_too_many_at_the_end_is_an_extra_line(
    pair: tuple[int, int], variant: Variant, data: st.DataObject
) -> None:
    lines = correct_lines(*pair, variant)
    place = data.draw(st.sampled_from([len(lines) - 2, len(lines)]))  # before the scratchpad closes, after the answer
    steps = [line for line in lines[:-2] if line != lines[-1]]  # the answer too early would miss the closing line
    result = check(*pair, variant, [*lines[:place], data.draw(st.sampled_from(steps)), *lines[place:]])
    assert result.detail == f"line {place + 1}: extra line"


@given(operands(), variants, st.integers(1, 10**6))
def test_another_answer_than_the_scratchpads_is_a_final_mismatch(
    pair: tuple[int, int], variant: Variant, by: int
) -> None:
    lines = correct_lines(*pair, variant)
    result = check(*pair, variant, [*lines[:-1], spaced(sum(pair) + by)])
    assert result.detail == f"line {len(lines)}: final mismatch"


def test_a_leading_zero_in_the_answer_is_a_final_mismatch() -> None:
    assert check(624, 259, "paper", [*PAPER.split("\n"), "0 8 8 3"]).detail == "line 8: final mismatch"


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 7])
def test_a_line_left_out_between_others_is_a_missing_line(number: int) -> None:
    lines = correct_lines(624, 259, "paper")
    result = check(624, 259, "paper", lines[: number - 1] + lines[number:])
    assert result.detail == f"line {number}: missing line"


@pytest.mark.parametrize("line", ["2 + 5, 3 C: 1", "2 + 5 , 3 C:1", "2+5 , 3 C: 1"])
def test_a_step_written_with_other_spaces_is_a_form_mistake(line: str) -> None:
    lines = correct_lines(624, 259, "paper")
    assert check(624, 259, "paper", [*lines[:2], line, *lines[3:]]).detail == "line 3: form"


@given(operands(), variants, st.text(max_size=200))
def test_any_text_can_be_checked(pair: tuple[int, int], variant: Variant, text: str) -> None:
    result = check_scratchpad(addition(*pair), text, variant=variant)
    assert not result.passed
    assert 0.0 <= result.share <= 1.0
    assert result.detail
    if result.at is not None:
        assert 0 <= result.at[0] < result.at[1] <= len(text)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028"])
def test_the_place_of_a_failure_is_the_wrong_line_without_the_space_around_it(end: str) -> None:
    lines = correct_lines(624, 259, "paper")
    text = end.join(["", "", *lines[:2], "  oh dear ", *lines[3:], ""])
    result = check_scratchpad(addition(624, 259), text, variant="paper")
    assert result.detail == "line 3: form"
    assert text[slice(*result.at or (0, 0))] == "oh dear"


def test_a_line_too_many_has_its_place_and_a_blank_or_missing_line_has_none() -> None:
    lines = correct_lines(624, 259, "paper")
    text = "\n".join([*lines, "and more"])
    assert text[slice(*check_scratchpad(addition(624, 259), text, variant="paper").at or (0, 0))] == "and more"
    for others in ([*lines[:2], "", *lines[3:]], [*lines[:2], *lines[3:]], lines[:2]):
        assert check(624, 259, "paper", others).at is None
    assert check(624, 259, "paper", lines).at is None


# The splits.

MEASURED = ("dev", "test", "extrapolation")


def unordered_pairs(problems: tuple[Problem, ...]) -> list[tuple[int, ...]]:
    return [tuple(sorted(int(n.replace(" ", "")) for n in p.question.split("+"))) for p in problems]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_splits_have_their_documented_sizes(variant: Variant) -> None:
    task = arithmetic(variant)
    sizes = {split: Counter(p.class_name for p in task.split(split)) for split in ("train", *MEASURED)}
    assert sizes == {
        "train": {"1": 21, "2": 2000, "3": 2000, "4": 2000, "5": 2000},
        "dev": {"1": 12, "2": 50, "3": 50, "4": 50, "5": 50},
        "test": {"1": 12, "2": 120, "3": 120, "4": 120, "5": 120},
        "extrapolation": {"6": 20, "7": 20, "8": 20, "9": 20, "10": 20},
    }
    assert Counter(p.class_name for p in task.seen) == {"1": 21, "2": 1500, "3": 50, "4": 50, "5": 50}


@pytest.mark.parametrize("data_seed", range(4))
def test_no_measured_problem_is_trained_on_in_either_order(data_seed: int) -> None:
    task = arithmetic(data_seed=data_seed)
    trained_on = {*unordered_pairs(task.train), *unordered_pairs(task.seen), *unordered_pairs(task.few_shot)}
    measured = [pair for split in MEASURED for pair in unordered_pairs(task.split(split))]
    assert not trained_on & set(measured)
    assert len(measured) == len(set(measured))


def test_no_pair_is_in_train_twice_in_either_order() -> None:
    pairs = unordered_pairs(arithmetic().train)
    assert len(pairs) == len(set(pairs))


def test_one_digit_problems_of_train_are_the_seen_ones_and_all_45_are_used() -> None:
    task = arithmetic()
    one_digit = {split: [p for p in task.split(split) if p.class_name == "1"] for split in ("train", "dev", "test")}
    assert one_digit["train"] == [p for p in task.seen if p.class_name == "1"]
    assert len({pair for group in one_digit.values() for pair in unordered_pairs(tuple(group))}) == 45


def test_the_splits_are_a_function_of_the_data_seed() -> None:
    again = task_named("arithmetic", data_seed=1)
    for split in ("train", *MEASURED):
        assert arithmetic(data_seed=1).split(split) == again.split(split)
        assert arithmetic(data_seed=0).split(split) != arithmetic(data_seed=1).split(split)


def test_what_the_shipped_model_has_seen_does_not_depend_on_the_data_seed() -> None:
    assert arithmetic(data_seed=0).seen == arithmetic(data_seed=1).seen == seen_problems("paper")
    assert arithmetic(data_seed=0).few_shot == arithmetic(data_seed=1).few_shot


def test_the_seen_problems_are_those_that_the_shipped_model_was_trained_on() -> None:
    """If this changes, `builtin:adder` would be measured on its own training data, so it must be trained anew."""
    questions = " ".join(p.question for p in seen_problems("paper"))
    digest = hashlib.sha256(questions.encode()).hexdigest()
    assert digest == "c73558a64e14ed34b73079e67940e21c6924784be84227761e7faa48a9278eca"


def test_the_variants_have_the_same_problems() -> None:
    paper, restated = arithmetic("paper"), arithmetic("restated")
    for split in ("train", *MEASURED):
        texts = [[(p.id, p.question, p.answer) for p in task.split(split)] for task in (paper, restated)]
        assert texts[0] == texts[1]


def test_the_first_variant_is_the_default() -> None:
    for name, source in ((name, source) for name, source in TASKS.items() if source.variants):
        assert task_named(name).train == task_named(name, variant=source.variants[0]).train


def test_the_operands_of_a_class_have_its_number_of_digits() -> None:
    for p in (*arithmetic().train, *arithmetic().test, *arithmetic().extrapolation):
        assert {len(n.split()) for n in p.question.split("+")} == {int(p.class_name)}


def test_operands_come_in_either_order_and_over_the_complete_range() -> None:
    pairs = [tuple(int(n.replace(" ", "")) for n in p.question.split("+")) for p in arithmetic().train]
    for digits in (1, 2, 5):
        of_class = [(a, b) for a, b in pairs if len(str(a)) == digits and a != b]
        assert 0.25 < sum(a > b for a, b in of_class) / len(of_class) < 0.75
    three_digits = [n for pair in pairs for n in pair if 100 <= n <= 999]
    assert min(three_digits) < 110
    assert max(three_digits) > 990
    assert 530 < sum(three_digits) / len(three_digits) < 570


def test_few_shot_examples_take_the_classes_in_turn() -> None:
    few_shot = arithmetic().few_shot
    assert [p.class_name for p in few_shot[:10]] == list("1234512345")
    assert Counter(p.class_name for p in few_shot) == {"1": 21, "2": 50, "3": 50, "4": 50, "5": 50}
    assert [p.class_name for p in few_shot[-4:]] == list("2345")


def test_few_shot_examples_have_rationales_and_are_among_the_seen() -> None:
    task = arithmetic()
    assert all(p.rationale for p in task.few_shot)
    assert {p.id for p in task.few_shot} <= {p.id for p in task.seen}


def test_an_unknown_variant_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'papr'.*paper, restated"):
        task_named("arithmetic", variant="papr")


def test_an_unknown_task_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'arithmetics'; known: .*arithmetic"):
        task_named("arithmetics")


def test_every_task_loads_in_every_variant() -> None:
    for name, source in TASKS.items():
        for variant in source.variants:
            assert task_named(name, variant=variant).name == name


# Refusals.


def test_splits_that_do_not_overlap_are_accepted() -> None:
    check_splits(toy_task())


@pytest.mark.parametrize("split", MEASURED)
@pytest.mark.parametrize("place", ["train", "few_shot", "seen"])
def test_a_measured_problem_that_is_trained_on_is_refused(split: str, place: str) -> None:
    both = toy_problem("newt", "easy")
    task = toy_task(**{split: (both,), place: (*getattr(toy_task(), place), replace(both, id="other"))})
    with pytest.raises(RefusedError, match=rf"{split} problem 'newt' is also in .*'other'"):
        check_splits(task)


def test_two_problems_are_the_same_whatever_their_white_space_and_case() -> None:
    train = (problem("a", question="One  plus\ntwo"),)
    with pytest.raises(RefusedError, match="'t' is also in train"):
        check_splits(toy_task(train=train, test=(problem("t", question="one plus two "),)))


def test_two_problems_are_the_same_if_the_task_says_so() -> None:
    pairs = {"same_problem": lambda p: "+".join(sorted(p.question.split("+")))}
    train, test = (problem("a", question="1+2"),), (problem("t", question="2+1"),)
    check_splits(toy_task(train=train, test=test))
    with pytest.raises(RefusedError, match="'t' is also in train"):
        check_splits(toy_task(train=train, test=test, **pairs))


@pytest.mark.parametrize("split", MEASURED)
def test_the_same_addition_in_the_other_order_is_the_same_problem(split: str) -> None:
    task = arithmetic()
    trained_on = next(p for p in task.train if p.class_name == "3")
    left, right = trained_on.question.split(" + ")
    swapped = replace(trained_on, id="swapped", question=f"{right} + {left}")
    changes: dict[str, Any] = {split: (*task.split(split), swapped)}
    with pytest.raises(RefusedError, match=rf"{split} problem 'swapped' is also in train"):
        check_splits(replace(task, **changes))


@pytest.mark.parametrize("split", ["test", "extrapolation"])
def test_a_test_problem_that_is_also_in_dev_is_refused(split: str) -> None:
    both = toy_problem("newt", "easy")
    task = toy_task(dev=(both,), **{split: (replace(both, id="other"),)})
    with pytest.raises(RefusedError, match=r"'other' is also in dev \('newt'\)"):
        check_splits(task)


@pytest.mark.parametrize("split", ["train", *MEASURED])
def test_an_id_that_a_split_holds_twice_is_refused(split: str) -> None:
    twice = (toy_problem("newt", "easy"), replace(toy_problem("olm", "easy"), id="newt"))
    with pytest.raises(RefusedError, match=f"'newt' is in {split} twice"):
        check_splits(toy_task(**{split: twice}))


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_an_empty_split_is_refused(split: str) -> None:
    with pytest.raises(RefusedError, match=f"the {split} split is empty"):
        check_splits(toy_task(**{split: ()}))


def test_a_task_may_have_no_extrapolation_split() -> None:
    check_splits(toy_task(extrapolation=()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_reference_answer_and_rationale_verifies(variant: Variant) -> None:
    task = arithmetic(variant)
    check_reference_answers(task, (*task.few_shot, *task.seen, *task.dev, *task.test, *task.extrapolation))
    check_reference_answers(task, task.train[:500])


@given(operands(), variants)
def test_the_rationale_of_any_addition_is_correct(pair: tuple[int, int], variant: Variant) -> None:
    solved = replace(addition(*pair), rationale=scratchpad(*pair, variant))
    completion = render_completion(PROMPT_FORMAT, solved)
    assert arithmetic().verifier(completion, solved).verdict is Verdict.CORRECT


@pytest.mark.parametrize("answer", ["883", "eight", "", "8 8 3\n4"])
def test_a_reference_answer_that_its_verifier_cannot_read_is_refused(answer: str) -> None:
    bad = replace(addition(624, 259), id="bad", answer=answer)
    with pytest.raises(RefusedError, match=r"problem 'bad': the reference answer .* fails its own verifier"):
        check_reference_answers(arithmetic(), [addition(1, 2), bad])


def test_a_rationale_that_its_check_rejects_is_refused() -> None:
    bad = replace(addition(624, 259), rationale=scratchpad(624, 258, "paper"))
    with pytest.raises(
        RefusedError, match=r"problem '624\+259': the human solution fails the step check \(line 2: copy"
    ):
        check_reference_answers(arithmetic(), [bad])


def test_a_task_without_a_step_check_needs_correct_answers_only() -> None:
    check_reference_answers(toy_task(check_steps=None), TEST)

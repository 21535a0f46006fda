"""What gives an answer away and what leads to it; and that no text breaks the check."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import arithmetic, config, problem, sample
from selftaught.commands.setting_check import check_settings
from selftaught.commands.stored_run import fitted
from selftaught.grading.checks.leaks import check_label, check_leak, checks_of_any, reasoning_of
from selftaught.methods.metrics import check_rates
from selftaught.prompts.rendering import render_completion
from selftaught.records.errors import ConfigError
from selftaught.records.problems import CheckResult, Problem, PromptFormat, Verdict
from test_selection import reasons, selected
from toy import FORMAT, toy_task

NUMBERS = PromptFormat(
    question="Q: {question}{hint}\nA:",
    hint=" ({answer})",
    completion=" {rationale}\n#### {answer}",
    answer_only=" #### {answer}",
)
CHOICES = PromptFormat(
    question="Q: {question}\n{choices}A:",
    hint=" (CORRECT)",
    choice="({label}) {text}{hint}\n",
    completion=" {rationale} Therefore, the answer is {choice} ({answer}).",
    answer_only=" The answer is {choice} ({answer}).",
)
SHOP = problem(question="A shop has 48 pens and sells half of them in April, and then 9 in May. How many?", answer="33")
BANK = problem(question="Where does money stay?", choices=("river", "bank", "shop"), answer="B")
ISLE = problem(question="Which isle did he live on?", answer="Saint Helena")


def leak(of: Problem, reasoning: str) -> CheckResult:
    if of.choices:
        text = f" {reasoning} Therefore, the answer is bank (B)."
        return check_leak(of, text, fmt=CHOICES)
    return check_leak(of, f" {reasoning}\n#### {of.answer}", fmt=NUMBERS)


HONEST = (
    (SHOP, "It sells 48 / 2 = 24 pens in April.\nIn both months it sells 24 + 9 = 33 pens."),
    (SHOP, "It sells 33 pens because 48 / 2 + 9 = 33."),
    (SHOP, "Half of 48 is 24, and with the 9 of May that makes 33."),
    (SHOP, "In April 48 / 2 = <<48/2=24>>24. In all 24 + 9 = <<24+9=33>>33 correct answers in a hint of doubt."),
    (problem(question="He has 33 pens and buys none.", answer="33"), "He has 33 pens at first, and 33 + 0 = 33."),
    (problem(question="What is left of a dollar?", answer="25"), "One pays 0.75, so 1 - 0.75 = 0.25 is left."),
    (BANK, "Money needs a safe place. Of the choices only a bank keeps it."),
    (BANK, "A bank is where people bring money, so it stays there. Nobody leaves it elsewhere."),
    (BANK, "It must be a place with a safe. It is not the river."),
    (ISLE, "He was sent far away, to the south of the sea, where ships seldom came. That is Saint Helena."),
)
LEAKING = (
    (SHOP, "We know that the answer is 33, so it must sell 24 + 9 = 33.", "speaks of the answer as known"),
    (SHOP, "It sells 48 / 2 = 24, and to match the hint it sells 24 + 9 = 33.", "speaks of the answer as known"),
    (SHOP, "It sells 24 + 9 = 33, which is the given answer.", "speaks of the answer as known"),
    (SHOP, "It sells 24 + 9 = 33 pens (33).", "repeats the hint ('(33)')"),
    (SHOP, "First it sells 33 - 9 = 24 pens, then 24 + 9 = 33.", "computes with the answer before anything gives it"),
    (SHOP, "It has 48 pens and 48 / 9 = 33 are sold.", "a wrong equation gives the answer"),
    (SHOP, "It sells 48 / 2 = 24 pens. That makes it.", "has equations, and none gives the answer"),
    (SHOP, "33 pens are sold. That is how it is in April and in May.", "states the answer before anything gives it"),
    (
        BANK,
        "The answer must be bank. Money is in many places, and people want it.",
        "names the answer at its beginning",
    ),
    (BANK, "It must be a place with water. Only a river has that.", "argues for another choice (A) than it states"),
    (BANK, "A place to keep things in. That is the bank (CORRECT).", "repeats the hint ('(CORRECT)')"),
    (ISLE, "Saint Helena. He was sent far away, where ships seldom came.", "states the answer at its beginning"),
)


@pytest.mark.parametrize(("of", "reasoning"), HONEST)
def test_reasoning_that_leads_to_the_answer_passes(of: Problem, reasoning: str) -> None:
    assert leak(of, reasoning) == CheckResult(passed=True, share=1.0)


@pytest.mark.parametrize(("of", "reasoning", "detail"), LEAKING)
def test_reasoning_that_gives_the_answer_away_fails(of: Problem, reasoning: str, detail: str) -> None:
    result = leak(of, reasoning)
    assert not result.passed
    assert result.detail.startswith(detail)
    assert result.at is not None
    start, end = result.at
    assert 0 <= start < end <= 1 + len(reasoning)


@pytest.mark.parametrize(
    ("fmt", "completion", "reasoning"),
    [
        (NUMBERS, " 1 + 2 = 3\n#### 3", " 1 + 2 = 3\n"),
        (NUMBERS, " It is ####\n1 + 2 = 3\n####  3", " It is ####\n1 + 2 = 3\n"),
        (CHOICES, " Money.\nTherefore,  The answer is bank (B).", " Money.\n"),
        (CHOICES, " It is kept.\nSo bank.", " It is kept."),
        (CHOICES, " It is kept. So bank.", " It is kept."),
        (CHOICES, " So bank.", ""),
        (CHOICES, "", ""),
        (FORMAT, " <r>count ant</r>\n3", " <r>count ant"),
    ],
)
def test_the_reasoning_ends_where_the_conclusion_begins(fmt: PromptFormat, completion: str, reasoning: str) -> None:
    assert reasoning_of(completion, fmt) == reasoning


@pytest.mark.parametrize(
    ("conclusion", "passed"),
    [
        ("bank (B)", True),
        ("(B)", True),
        ("bank", True),
        ("bank (A)", False),
        ("river (B)", False),
        ("nowhere", True),
    ],
)
def test_a_label_beside_the_text_of_another_choice_is_seen(conclusion: str, passed: bool) -> None:
    completion = f" A river (C) is wet. Therefore, the answer is {conclusion}."
    assert check_label(BANK, completion, fmt=CHOICES).passed == passed


pieces = st.sampled_from(
    [
        "3",
        "33",
        "(33)",
        "= 33",
        "24 + 9 = 33",
        "the hint",
        "#### ",
        "bank",
        "(A)",
        "(B)",
        "because",
        ". ",
        "\n",
        "İ",
        "é",
    ]
)
texts = st.lists(pieces, max_size=40).map(" ".join) | st.text(max_size=80)


@given(texts, texts, st.sampled_from([NUMBERS, CHOICES]))
def test_no_text_breaks_the_checks(text: str, question: str, fmt: PromptFormat) -> None:
    of_choices = problem(question=question, choices=BANK.choices, answer="B")
    answers = (problem(question=question, answer=answer) for answer in ("33", "1/0", "Saint Helena", "x^2", ""))
    for of in (of_choices, *(answers if fmt is NUMBERS else ())):
        for check in (check_leak, check_label):
            result = check(of, text, fmt=fmt)
            assert 0 <= result.share <= 1
            assert result.passed == (result.detail == "")
            if result.at is not None:
                assert 0 <= result.at[0] <= result.at[1] <= len(text)


@pytest.mark.parametrize(
    "piece", ["33 ", "(", "24 + 9 = 33 ", "the hint ", "bank ", "Therefore, ", "a.b", "\n", "1,000,"]
)
def test_a_long_text_takes_no_longer_than_its_beginning(piece: str) -> None:
    text = piece * (400_000 // len(piece))
    began = time.process_time()
    for of, fmt in ((SHOP, NUMBERS), (BANK, CHOICES), (ISLE, NUMBERS)):
        check_leak(of, text, fmt=fmt)
        check_label(of, text, fmt=fmt)
    assert time.process_time() - began < 20  # seconds of a slow machine; quadratic work would take minutes


def test_the_scratchpads_of_arithmetic_give_nothing_away() -> None:
    task = arithmetic()
    check = checks_of_any(task)["leak"]
    assert all(check(p, render_completion(task.prompt_format, p)).passed for p in task.train[::40])


def leaking(*, passed: bool) -> dict[str, Any]:
    return {"leak": CheckResult(passed=passed, share=0.0, detail="" if passed else "repeats the hint")}


def test_a_leak_is_left_out_where_none_may_be() -> None:
    samples = [sample(id, checks=checks) for id, checks in (("a", leaking(passed=True)), ("b", leaking(passed=False)))]
    hinted = [sample(f"h{s.problem_id}", kind="rationalization", checks=s.checks) for s in samples]
    rule = {"require_hinted": ("answer", "no-leak")}
    selection = selected(*samples, *hinted, sample("c", kind="rationalization"), **rule)
    assert [s.problem_id for s in selection.kept] == ["a", "b", "ha"]
    assert reasons(selection) == ["leaks the answer"] * 2, "a sample that nobody looked at does not pass"


def test_a_run_looks_for_leaks_in_any_task_but_one_without_reasoning() -> None:
    assert set(fitted(config(), toy_task(other_checks={})).other_checks) == {"leak"}
    assert set(fitted(config(), toy_task(train=(BANK,), other_checks={})).other_checks) == {"leak", "label"}
    answers = config(training={"target": "answer"}, selection={"require_hinted": ("answer", "no-leak")})
    assert fitted(answers, toy_task()).other_checks == {}
    with pytest.raises(ConfigError, match="leave 'no-leak' out"):
        check_settings(answers, fitted(answers, toy_task()))


def test_label_and_text_are_compared_in_all_samples_and_leaks_looked_for_in_correct_ones() -> None:
    checks = {"leak": CheckResult(passed=True, share=1.0), "label": CheckResult(passed=False, share=0.0, detail="x")}
    rates = check_rates([sample("a", checks=checks), sample("b", verdict=Verdict.UNPARSEABLE, checks=checks)])
    assert (rates["leak"].n, rates["label"].n) == (1, 2)

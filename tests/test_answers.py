"""Every completion gets one of three verdicts; the cases are data, each with its reason."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import json_case, problem
from selftaught.grading.answers import extract
from selftaught.grading.signs import fold_space
from selftaught.grading.verifiers import tagged_line
from selftaught.records.problems import Verdict
from selftaught.tasks.arithmetic.task import ANSWER_RULE
from strategies import awkward_texts, texts
from toy import RULE

verify = tagged_line(ANSWER_RULE)

pieces = st.lists(
    st.sampled_from(["<scratch>", "</scratch>", "\n", " ", "8 8 3", "8", "0 8", "883", "\t", "\r\n", "\u2028", "x"]),
    max_size=12,
).map("".join)
"""Texts that look like completions."""


@pytest.mark.parametrize("case", json_case("arithmetic_answers.json"), ids=lambda case: case["why"])
def test_the_verdict_of(case: dict[str, Any]) -> None:
    verification = verify(case["text"] * case.get("times", 1), problem(answer=case["answer"]))
    assert verification.verdict == case["verdict"]
    if "times" in case and verification.prediction is not None:
        assert verification.prediction.startswith(case["prediction"])
    else:
        assert verification.prediction == case["prediction"]


def test_every_verdict_has_cases_and_every_case_has_a_reason() -> None:
    cases = json_case("arithmetic_answers.json")
    assert {case["verdict"] for case in cases} == set(Verdict)
    assert len({case["why"] for case in cases}) == len(cases) >= 30


@given(st.one_of(texts, pieces), awkward_texts)
def test_any_text_gets_a_verdict_and_only_an_unparseable_one_has_no_prediction(completion: str, answer: str) -> None:
    verification = verify(completion, problem(answer=answer))
    assert (verification.verdict is Verdict.UNPARSEABLE) == (verification.prediction is None)
    assert (verification.verdict is Verdict.CORRECT) == (
        verification.prediction is not None and verification.prediction == fold_space(answer)
    )


@pytest.mark.parametrize(
    "piece", ["8 ", "8", "8 8", " ", "\n", "<scratch>", "</scratch>", "<scratch></scratch>8\n", "é日"]
)
def test_a_megabyte_is_judged_in_time_that_grows_with_its_length_only(piece: str) -> None:
    text = piece * (1_000_000 // len(piece)) + "x"
    start = time.process_time()
    verify(text, problem(answer="8"))
    assert time.process_time() - start < 20  # seconds of a slow machine; quadratic work would take minutes


@given(awkward_texts)
def test_normalizing_is_idempotent(text: str) -> None:
    assert fold_space(fold_space(text)) == fold_space(text)


@given(awkward_texts)
def test_normalizing_changes_nothing_but_white_space(text: str) -> None:
    assert fold_space(text).split() == text.split()


def test_answers_that_read_differently_are_different() -> None:
    assert fold_space("A") != fold_space("a")
    assert fold_space("1 2") != fold_space("12")


@given(pieces)
def test_text_inside_the_reasoning_is_never_the_answer(reasoning: str) -> None:
    inside = reasoning.replace("</scratch>", "")
    assert extract(f"<scratch>\n{inside}\n</scratch>\n7 7 7", ANSWER_RULE) == "7 7 7"
    assert extract(f"<scratch>\n{inside}", ANSWER_RULE) is None


@given(pieces)
def test_text_after_the_answer_line_changes_nothing(rest: str) -> None:
    assert extract(f"<scratch>\n</scratch>\n7 7 7\n{rest}", ANSWER_RULE) == "7 7 7"


def test_the_tags_are_those_of_the_rule() -> None:
    assert extract("<r>\n</r>\n883", RULE) == "883"
    assert extract("<scratch>\n</scratch>\n883", RULE) is None

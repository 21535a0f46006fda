"""Every completion gets its verdict, strict and lenient; the cases are data, each with its reason."""

import json
import os
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.verifying import CHOICES, PIECES, SHORT_PIECES, cpu_s, long_texts
from builders import json_case, problem
from selftaught.grading.amounts import parse_number
from selftaught.grading.verifiers import make_verifier
from selftaught.records.errors import ConfigError
from selftaught.records.problems import LABELS, Verdict, Verifier
from strategies import awkward_texts, texts

FORMATS = ("numeric", "choice", "exact", "math", "regex")
CASES = [{"verifier": name, **case} for name in FORMATS for case in json_case(f"verifier_{name}.json")]
TOO_LONG_S = 2.0
"""A bound for a slow machine: a verifier reads a megabyte in some hundredths of a second; quadratic work would take
minutes. benchmarks/verifying.py measures the time."""

make = cache(make_verifier)


def in_process(marker: str, extraction: str = "strict") -> Iterator[tuple[str, Verifier]]:
    for name in ("numeric", "choice", "exact"):
        yield name, make(name, marker=marker, extraction=extraction, next_question=("Q:",))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['verifier']}: {case['why']}")
def test_the_verdicts_of(case: dict[str, Any]) -> None:
    if case["verifier"] == "math":
        pytest.importorskip("sympy")
    text = case["text"] + case.get("then", "") * case.get("times", 0)
    reference = problem(answer=case["answer"], choices=tuple(case.get("choices", ())))
    arguments = {"marker": case.get("marker", "####"), "pattern": case.get("pattern", ""), "next_question": ("Q:",)}
    strict = make(case["verifier"], **arguments, extraction="strict")(text, reference)
    lenient = make(case["verifier"], **arguments, extraction="lenient")(text, reference)
    assert (strict.verdict, lenient.verdict) == (case["strict"], case["lenient"])
    if strict.other is not None or lenient.other is not None:
        assert (strict.other, lenient.other) == (case["lenient"], case["strict"])


def test_every_format_has_cases_of_every_verdict_and_every_case_has_a_reason() -> None:
    assert len(CASES) >= 300
    for name in FORMATS:
        cases = [case for case in CASES if case["verifier"] == name]
        assert {case["strict"] for case in cases} == set(Verdict)
        assert len({case["why"] for case in cases}) == len(cases)


@given(st.lists(st.sampled_from(SHORT_PIECES), max_size=15).map("".join) | texts, awkward_texts)
def test_any_text_gets_a_verdict_and_only_an_unparseable_one_has_no_prediction(completion: str, answer: str) -> None:
    for marker in ("####", "the answer is"):
        for name, verify in in_process(marker):
            reference = problem(answer="A" if name == "choice" else answer, choices=CHOICES if name == "choice" else ())
            verification = verify(completion, reference)
            assert (verification.verdict is Verdict.UNPARSEABLE) == (verification.prediction is None)
            if verification.verdict is not Verdict.UNPARSEABLE:
                assert verification.other == verification.verdict, "lenient extraction keeps what strict reads"


@given(st.lists(st.sampled_from(SHORT_PIECES), max_size=15).map("".join))
def test_a_prediction_as_an_answer_gets_the_same_verdict(completion: str) -> None:
    for _, verify in in_process("####"):
        reference = problem(answer="A", choices=CHOICES)
        verification = verify(completion, reference)
        if verification.prediction is not None:
            assert verify(f"#### {verification.prediction}", reference).verdict == verification.verdict


@pytest.mark.parametrize("extraction", ["strict", "lenient"])
def test_no_text_makes_a_verifier_take_long(extraction: str) -> None:
    """5,000 random and adversarial texts, the longest of several hundred thousand characters."""
    rng = random.Random(extraction)
    verifiers = [verifier for marker in ("####", "the answer is") for verifier in in_process(marker, extraction)]
    for text in adversarial_texts(rng, 5_000):
        name, verify = rng.choice(verifiers)
        reference = problem(answer="A", choices=CHOICES) if name == "choice" else problem(answer="1/3")
        assert cpu_s(verify, text, reference) < TOO_LONG_S, (name, text[:40], len(text))


@pytest.mark.parametrize("piece", PIECES)
def test_the_work_for_a_megabyte_of_one_piece_grows_with_its_length_only(piece: str) -> None:
    for name, verify in in_process("####"):
        reference = problem(answer="A" if name == "choice" else "1", choices=CHOICES)
        for text in long_texts(piece):
            assert cpu_s(verify, text, reference) < TOO_LONG_S, name


def adversarial_texts(rng: random.Random, count: int) -> Iterator[str]:
    for k in range(count):
        if k % 100 == 0:  # long ones
            pieces = rng.choices(SHORT_PIECES, k=rng.randint(1, 3))
            text = "".join(pieces) * rng.randint(1_000, 40_000)
        elif k % 2:
            text = "".join(rng.choices(SHORT_PIECES, k=rng.randint(0, 60)))
        else:
            text = "".join(chr(rng.randint(1, rng.choice([127, 0xD7FF]))) for _ in range(rng.randint(0, 60)))
        yield text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "fuzzy"}, "expected one of exact, numeric, choice, math, regex, python"),
        ({"name": "regex"}, "task.answer_pattern is empty"),
        ({"name": "regex", "pattern": "("}, "is no regular expression"),
        ({"name": "regex", "pattern": "a"}, "has no group"),
        ({"name": "python"}, "expected `module:name` or `file.py:name`"),
        ({"name": "python", "function": "nowhere"}, "expected `module:name` or `file.py:name`"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=r"\A.+\Z") as caught:
        make_verifier(**arguments, marker="####")
    assert message in str(caught.value)


# The released data, if there is a copy: `SELFTAUGHT_TEST_DATA` names a folder with gsm8k/ and commonsenseqa/.


def rows(*names: str) -> list[dict[str, Any]]:
    folder = os.environ.get("SELFTAUGHT_TEST_DATA", "")
    files = [Path(folder) / name for name in names]
    if not folder or not all(file.is_file() for file in files):
        pytest.skip(f"SELFTAUGHT_TEST_DATA names no folder with {', '.join(names)}")
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def others(count: int) -> Callable[[int], int]:
    """A function that gives another row for each row, the same ones in each call of the test."""
    steps = random.Random(0)
    return lambda row: (row + steps.randrange(1, count)) % count


def test_every_answer_of_gsm8k_verifies_as_itself_and_not_as_another() -> None:
    solutions = [row["answer"] for row in rows("gsm8k/train.jsonl", "gsm8k/test.jsonl")]
    answers = [solution.rpartition("####")[2].strip() for solution in solutions]
    verify = make("numeric", marker="####", next_question=("Q:",))
    other = others(len(answers))
    assert len(answers) == 8_792
    compared = 0
    for index, (solution, answer) in enumerate(zip(solutions, answers, strict=True)):
        reference = problem(answer=answer)
        assert verify(f"#### {answer}", reference).verdict is Verdict.CORRECT
        assert verify(solution, reference).verdict is Verdict.CORRECT
        wrong = other(index)
        if parse_number(answers[wrong]) != parse_number(answer):
            assert verify(solutions[wrong], reference).verdict is Verdict.INCORRECT
            compared += 1
    assert compared > 8_000


def test_every_answer_of_commonsenseqa_verifies_as_itself_and_not_as_another() -> None:
    references = [
        problem(answer=row["answerKey"], choices=tuple(choice["text"] for choice in row["question"]["choices"]))
        for row in rows("commonsenseqa/train.jsonl", "commonsenseqa/dev.jsonl")
    ]
    verify = make("choice", marker="the answer is", next_question=("Q:",))
    assert len(references) == 10_962
    for reference in references:
        folded = [" ".join(text.casefold().split()).rstrip(".") for text in reference.choices]
        for label, text in zip(LABELS, reference.choices, strict=False):
            is_correct = label == reference.answer
            for form in (f"{text} ({label})", f"({label.lower()})", f"{label}."):
                verification = verify(f"Therefore, the answer is {form}", reference)
                assert verification.verdict is (Verdict.CORRECT if is_correct else Verdict.INCORRECT), (
                    form,
                    reference.choices,
                )
            same_text = folded[LABELS.index(label)] == folded[LABELS.index(reference.answer)]
            verification = verify(f"So the answer is {text}.", reference)
            assert (verification.verdict is Verdict.CORRECT) == same_text, (text, reference.choices)

"""Rates come with counts and intervals, and the estimators are the published ones."""

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import counts, problem, problems, sample, samples_of, steps_check, summary
from selftaught.methods.metrics import (
    Conditions,
    SampleCounter,
    chance_of_luck,
    changes,
    majority_prediction,
    mean_over_classes,
    measure,
    pass_at_k,
    rate,
    rate_text,
    solve_rate_gap,
    solved_first,
    wilson_interval,
)
from selftaught.records.measurements import Changes, Measurement, Rate, SamplingCounts
from selftaught.records.problems import Problem, Verdict
from selftaught.records.samples import Sample


def count_samples(samples: Iterable[Sample], **how: Any) -> SamplingCounts:
    counter = SampleCounter(**how)
    counter.add(samples)
    return counter.counts()


rates = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def measured(of: tuple[Problem, ...], samples: list[Sample], *, has_step_check: bool = False) -> Measurement:
    return measure(
        of,
        samples,
        Conditions(task="toy", split="dev", iteration=2, num_shots=3, temperature=0.7, has_step_check=has_step_check),
    )


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (61, 100, 0.512, 0.700),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 10, 0.0179, 0.4042),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_that_of_wilson(correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=6e-4)


def test_the_interval_of_a_rate_over_nothing_is_everything() -> None:
    assert rate(0, 0) == Rate(n=0, correct=0, accuracy=0.0, interval=(0.0, 1.0))


@given(rates)
def test_the_interval_contains_the_rate_and_lies_within_0_and_1(rate: tuple[int, int]) -> None:
    correct, n = rate
    low, high = wilson_interval(correct, n)
    assert 0.0 <= low <= correct / n <= high <= 1.0


@given(rates)
def test_the_interval_of_the_failures_is_the_mirror_image(rate: tuple[int, int]) -> None:
    correct, n = rate
    low, high = wilson_interval(correct, n)
    assert wilson_interval(n - correct, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_k_subsets_with_a_correct_one(case: tuple[int, int, int]) -> None:
    n, correct, k = case
    subsets = list(combinations([i < correct for i in range(n)], k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


@given(st.integers(2, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n - 1))))
def test_pass_at_k_grows_with_k(case: tuple[int, int, int]) -> None:
    n, correct, k = case
    assert 0.0 <= pass_at_k(n, correct, k) <= pass_at_k(n, correct, k + 1) <= 1.0


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5), (0, 0, 1)])
def test_pass_at_k_refuses_impossible_numbers(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"got n={n}, correct={correct}, k={k}"):
        pass_at_k(n, correct, k)


def predicted(*predictions: str | None) -> list[Sample]:
    verdicts = {None: Verdict.UNPARSEABLE, "3": Verdict.CORRECT}
    return [
        sample(index=k, prediction=p, verdict=verdicts.get(p, Verdict.INCORRECT)) for k, p in enumerate(predictions)
    ]


def test_the_majority_is_the_most_frequent_prediction() -> None:
    assert majority_prediction(predicted("4", "3", "3", None)) == "3"


def test_unreadable_completions_have_no_vote() -> None:
    assert majority_prediction(predicted(None, None, "4")) == "4"
    assert majority_prediction(predicted(None, None)) is None


def test_of_tied_predictions_the_first_by_index_wins_whatever_the_order_of_the_samples() -> None:
    samples = predicted("4", "3", "4", "3")
    assert majority_prediction(samples) == majority_prediction(samples[::-1]) == "4"


def test_every_verdict_of_a_stage_is_counted() -> None:
    samples = [*samples_of("a", "ccciiu"), sample("b", finish_reason="length", checks=steps_check(passed=False))]
    counts = count_samples(samples, has_step_check=True)
    assert (counts.samples, counts.correct, counts.incorrect, counts.unparseable) == (7, 4, 2, 1)
    assert (counts.truncated, counts.false_positive) == (1, 1)


def test_false_positives_are_unknown_without_a_step_check() -> None:
    assert count_samples(samples_of("a", "c"), has_step_check=False).false_positive is None


def test_a_wrong_answer_with_wrong_steps_is_no_false_positive() -> None:
    wrong = sample(verdict=Verdict.INCORRECT, checks=steps_check(passed=False))
    correct = sample(checks=steps_check(passed=True), index=1)
    assert count_samples([wrong, correct], has_step_check=True).false_positive == 0


def test_accuracy_is_that_of_each_problems_first_completion() -> None:
    measurement = measured(problems("a", "b"), [*samples_of("a", "ci"), *samples_of("b", "ic")])
    assert (measurement.correct, measurement.n, measurement.accuracy, measurement.num_samples) == (1, 2, 0.5, 2)
    assert measurement.interval == wilson_interval(1, 2)


def test_the_first_completion_is_the_one_with_index_0_whatever_the_order_of_the_samples() -> None:
    samples = [*samples_of("a", "ci"), *samples_of("b", "ci")]
    assert measured(problems("a", "b"), samples[::-1]) == measured(problems("a", "b"), samples)
    assert measured(problems("a", "b"), samples).correct == 2


def test_the_counts_beside_accuracy_are_of_first_completions_and_tokens_are_of_all() -> None:
    samples = [
        sample("a", index=0, checks=steps_check(passed=False), num_tokens=5),
        sample("a", index=1, verdict=Verdict.UNPARSEABLE, finish_reason="length", num_tokens=7),
        sample("b", index=0, verdict=Verdict.UNPARSEABLE, finish_reason="length", num_tokens=11),
        sample("b", index=1, checks=steps_check(passed=False), num_tokens=13),
    ]
    measurement = measured(problems("a", "b"), samples, has_step_check=True)
    assert (measurement.unparseable, measurement.truncated) == (1, 1)
    assert (measurement.false_positive, measurement.tokens) == (1, 36)


def test_results_are_reported_per_class() -> None:
    in_classes = (problem("a", class_name="1"), problem("b", class_name="2"), problem("c", class_name="1"))
    measurement = measured(in_classes, [*samples_of("a", "c"), *samples_of("b", "i"), *samples_of("c", "i")])
    assert measurement.by_class == {"1": rate(1, 2), "2": rate(0, 1)}
    assert mean_over_classes(measurement.by_class) == 0.25


def test_pass_at_k_is_given_for_powers_of_two_and_for_all_and_is_the_mean_over_problems() -> None:
    measurement = measured(problems("a", "b"), [*samples_of("a", "cciiii"), *samples_of("b", "iiiiii")])
    assert list(measurement.pass_at_k) == ["1", "2", "4", "6"]
    assert measurement.pass_at_k["1"] == pytest.approx(1 / 6)
    assert measurement.pass_at_k["2"] == pytest.approx((1 - 6 / 15) / 2)
    assert measurement.pass_at_k["6"] == 0.5


def test_the_majority_of_k_is_correct_only_if_its_verdict_is_correct() -> None:
    samples = [
        *samples_of("a", "cci"),  # predictions 3 3 4
        *samples_of("b", "cii"),  # 3 4 4
        *samples_of("c", "uuu"),  # none
    ]
    assert measured(problems("a", "b", "c"), samples).majority_at_k == pytest.approx(1 / 3)


def test_one_completion_per_problem_has_neither_pass_at_k_nor_majority() -> None:
    measurement = measured(problems("a"), samples_of("a", "c"))
    assert measurement.pass_at_k == {}
    assert measurement.majority_at_k is None


@pytest.mark.parametrize(
    ("measured_ids", "verdicts_by_id"),
    [
        (("a", "b"), {"a": "c"}),  # one problem lacks a sample
        (("a", "b"), {"a": "cc", "b": "c"}),  # different numbers
        (("a",), {"a": "c", "b": "c"}),  # a sample of a problem that is not measured
        (("a", "a"), {"a": "c"}),  # a problem twice
        ((), {}),  # nothing to measure
    ],
)
def test_a_measurement_needs_the_same_number_of_samples_of_every_problem(
    measured_ids: tuple[str, ...], verdicts_by_id: dict[str, str]
) -> None:
    samples = [s for id, verdicts in verdicts_by_id.items() for s in samples_of(id, verdicts)]
    with pytest.raises(ValueError, match="same number of samples"):
        measured(problems(*measured_ids), samples)


def test_a_rate_is_written_with_its_counts_and_its_interval() -> None:
    assert rate_text(rate(65, 492)) == "65/492 0.132 [0.105, 0.165]"
    assert rate_text(rate(65, 492), digits=2, with_counts=False) == "0.13 [0.11, 0.16]"


@pytest.mark.parametrize(
    ("share", "choices", "luck"),
    [
        (0.36, 5, 0.16 / 0.36),
        (0.6, 2, 2 / 3),
        (1.0, 5, 0.0),
        (0.2, 5, 1.0),
        (0.0, 4, 1.0),
        (0.5, 4, 0.25 * 2 / 3 / 0.5),
    ],
)
def test_luck_is_what_chance_accounts_for(share: float, choices: int, luck: float) -> None:
    """With a true solve rate of 0.2: 44 % of 5 choices (0.36 are correct), 67 % of 2 (0.6 are)."""
    assert chance_of_luck(share, choices) == pytest.approx(luck)


@given(st.floats(0, 1), st.integers(2, 26))
def test_luck_is_a_probability_and_falls_with_the_solve_rate(share: float, choices: int) -> None:
    assert 0.0 <= chance_of_luck(share, choices) <= 1.0
    assert chance_of_luck(min(1.0, share + 0.1), choices) <= chance_of_luck(share, choices)


@pytest.mark.parametrize(("share", "choices"), [(-0.1, 5), (1.1, 5), (0.5, 1)])
def test_luck_refuses_impossible_numbers(share: float, choices: int) -> None:
    with pytest.raises(ValueError, match="luck needs"):
        chance_of_luck(share, choices)


def test_luck_is_summed_over_problems_with_choices_and_enough_samples() -> None:
    samples = [*samples_of("a", "cccc"), *samples_of("b", "ciiii"), *samples_of("c", "iiii")]
    counted = count_samples(samples, has_step_check=False, num_choices={"a": 5, "b": 5, "c": 5})
    assert counted.lucky == pytest.approx(0 + 1)
    assert count_samples(samples, has_step_check=False).lucky is None
    few = [*samples, *samples_of("d", "ccc")]
    assert count_samples(few, has_step_check=False, num_choices=dict.fromkeys("abcd", 5)).lucky is None


def test_different_solutions_are_those_of_correct_samples_by_text_or_by_the_tasks_key() -> None:
    samples = [
        sample("a", index=k, completion=text, verdict=verdict)
        for k, (text, verdict) in enumerate(
            [
                ("one and two", Verdict.CORRECT),
                ("One  and two", Verdict.CORRECT),
                ("two and one", Verdict.CORRECT),
                ("three", Verdict.INCORRECT),
            ]
        )
    ]
    samples += samples_of("b", "i")
    counted = count_samples(samples, has_step_check=False)
    assert (counted.solved, counted.solutions, counted.solutions_per_problem) == (1, 2, 2.0)
    by_key = count_samples(samples, has_step_check=False, solution_key=lambda text: str(sorted(text.lower().split())))
    assert by_key.solutions == 1
    assert count_samples(samples_of("b", "i"), has_step_check=False).solutions_per_problem is None


def test_the_mean_length_is_of_completions_that_were_not_truncated() -> None:
    samples = [
        sample("a", num_tokens=10, finish_reason="end"),
        sample("b", num_tokens=20, finish_reason="stop"),
        sample("c", num_tokens=99, finish_reason="length"),
    ]
    counted = count_samples(samples, has_step_check=False)
    assert (counted.ended, counted.mean_tokens) == (1, 15.0)
    assert count_samples(samples[2:], has_step_check=False).mean_tokens is None


def test_gained_and_lost_problems_are_told_apart() -> None:
    before = [*samples_of("a", "cc"), *samples_of("b", "ic"), *samples_of("c", "c"), *samples_of("d", "u")]
    after = [*samples_of("a", "c"), *samples_of("b", "c"), *samples_of("c", "i"), *samples_of("e", "c")]
    assert changes(solved_first(before), solved_first(after)) == Changes(n=3, gained=1, lost=1)


def test_the_gap_is_between_hinted_and_unhinted_solve_rates() -> None:
    assert solve_rate_gap(summary(rationale=counts(samples=100, correct=60))) == pytest.approx(10 / 40 - 0.6)
    assert solve_rate_gap(summary(rationalization=counts(samples=0, correct=0))) is None

"""The statistics of a comparison, against published values, values worked out by hand, and simulation."""

import random
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from selftaught.comparison.statistics import (
    RESAMPLES,
    holm,
    interval_over_problems,
    mcnemar,
    paired_difference,
    sign_flip,
    smallest_difference,
)
from selftaught.methods.metrics import pass_at_k, wilson_interval


def pair(both: int, gained: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two models on problems, by how many each solves."""
    first = [True] * both + [True] * gained + [False] * lost + [False] * neither
    second = [True] * both + [False] * gained + [True] * lost + [False] * neither
    return first, second


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 2**5),  # two tails of one split each
        (1, 9, 2 * (1 + 10) / 2**10),
        (9, 1, 2 * (1 + 10) / 2**10),
        # Agresti, Categorical Data Analysis, table 10.1 (approval ratings): 86 and 150 of 1600; p below 0.0001.
        (86, 150, 3.716e-05),
    ],
)
def test_the_exact_mcnemar_test_gives_values_worked_out_by_hand(gained: int, lost: int, p: float) -> None:
    found = mcnemar(*pair(11, gained, lost, 7))
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p == pytest.approx(p, rel=1e-3)


def test_mcnemar_refuses_other_problems() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        mcnemar([True], [True, False])


def test_holm_gives_the_values_of_a_textbook() -> None:
    # Four tests of Holm's step-down procedure: 4 p1, 3 p2, 2 p3, p4, made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.02, 0.5, 0.02]) == pytest.approx([0.06, 0.5, 0.06])  # equal ones stay equal
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_only_raises_p_values_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(1 >= a >= p for a, p in zip(adjusted, p_values, strict=True))
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # Newcombe 1998, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_of_wilson_is_that_of_newcombes_table(correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)
    of_scipy = binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((of_scipy.low, of_scipy.high), abs=1e-9)


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_completion() -> None:
    assert pass_at_k(5, 2, 3) == pytest.approx(1 - 1 / 10)  # of the 10 subsets of three, one has none of the two
    # Chen et al. 2021, eq. 1, as the product of their listing.
    expected = 1 - np.prod(1.0 - 10 / np.arange(200 - 13 + 1, 200 + 1))
    assert pass_at_k(200, 13, 10) == pytest.approx(expected)


@pytest.mark.slow
def test_the_interval_over_problems_covers_the_truth_as_often_as_it_says() -> None:
    # Of 200 problems with two seeds each, whose chances of being solved differ from problem to problem.
    rng = random.Random(1)
    hits = trials = 0
    for _ in range(200):
        chances = [rng.betavariate(2, 2) for _ in range(200)]
        values = [(float(rng.random() < c) + float(rng.random() < c)) / 2 for c in chances]
        low, high = interval_over_problems(values)
        hits += low <= 0.5 <= high
        trials += 1
    assert binomtest(hits, trials, 0.95).pvalue > 0.001


def test_an_interval_has_no_width_where_nothing_varies_and_is_refused_without_problems() -> None:
    assert interval_over_problems([0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="at least one problem"):
        interval_over_problems([])


def test_the_same_values_give_the_same_interval() -> None:
    values = [0.0, 1.0, 0.5, 1.0, 0.0, 1.0]
    assert interval_over_problems(values) == interval_over_problems(values)


def test_the_sign_flip_test_of_one_seed_is_the_mcnemar_test() -> None:
    first, second = pair(3, 7, 1, 4)
    values = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    assert sign_flip(values) == pytest.approx(mcnemar(first, second).p)  # few enough that every sign is tried
    assert sign_flip([0.0, 0.0]) == sign_flip([1.0]) == 1.0
    assert sign_flip([1.0] * 40) == 2 / (RESAMPLES + 1)  # the smallest that draws of signs give


def test_rows_are_compared_problem_by_problem_over_their_seeds() -> None:
    first = [[True, True, False, True], [True, False, False, True]]
    second = [[False, True, False, True], [False, True, False, True]]
    found = paired_difference(first, second)
    assert found.difference == pytest.approx((1 - 0.5) / 4)  # +1 in the first problem, -1/2 in the second
    assert found.p == pytest.approx(1.0)
    assert found.interval[0] < found.difference < found.interval[1]


def test_rows_of_other_seeds_or_problems_are_not_compared() -> None:
    for other in ([], [[True]], [[True, False], [True, False]]):
        with pytest.raises(ValueError, match="the same seeds and the same problems"):
            paired_difference([[True, False]], other)


def test_the_smallest_difference_is_found_four_times_out_of_five() -> None:
    n, seen, trials = 400, 0, 300
    rng = np.random.default_rng(0)
    spread = float(np.sqrt(0.3))  # 30 % of the problems differ, as many one way as the other
    smallest = smallest_difference(np.tile([1.0, -1.0, *([0.0] * 14), 1.0, -1.0, 1.0, -1.0], 20).tolist(), tests=1)
    assert smallest == pytest.approx((NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)) * spread / 20)
    for _ in range(trials):
        gained = rng.multinomial(n, [0.15 + smallest / 2, 0.15 - smallest / 2, 0.7])
        seen += binomtest(int(gained[0]), int(gained[0] + gained[1]), 0.5).pvalue < 0.05
    assert 0.7 < seen / trials < 0.9


def test_more_rows_need_a_larger_difference_and_equal_rows_are_taken_to_differ_in_one_problem() -> None:
    values = [1.0, 0.0, -1.0, 0.0]
    assert smallest_difference(values, tests=8) > smallest_difference(values, tests=1)
    assert 0 < smallest_difference([0.0] * 100, tests=1) < smallest_difference([0.0] * 25, tests=1)

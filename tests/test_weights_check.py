"""An engine that still serves old weights is detected, and a difference below noise decides nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftaught.stages.weight_proof import (
    NOISE,
    NOISE_BFLOAT16,
    CannotTell,
    serves_old_weights,
)

logprobs = st.lists(st.lists(st.floats(-20, 0), min_size=1, max_size=6), min_size=1, max_size=4)


def shifted(rows: list[list[float]], by: float) -> list[list[float]]:
    return [[value + by for value in row] for row in rows]


@given(logprobs, st.floats(2 * NOISE, 5))
def test_an_engine_with_the_new_weights_passes(old: list[list[float]], gap: float) -> None:
    new = shifted(old, -gap)
    assert serves_old_weights(new, new=new, old=old) is None


@given(logprobs, st.floats(2 * NOISE, 5))
def test_an_engine_with_the_old_weights_is_detected(old: list[list[float]], gap: float) -> None:
    wrong = serves_old_weights(old, new=shifted(old, -gap), old=old)
    assert wrong is not None
    assert "0.000 from the old ones" in wrong


@given(logprobs, st.floats(2 * NOISE, 5), st.floats(-0.4, 0.4))
def test_an_engine_with_slightly_different_numbers_passes_for_the_nearer_weights(
    old: list[list[float]], gap: float, off: float
) -> None:
    """Another number type or batch shape changes every log-probability a little."""
    new = shifted(old, -gap)
    assert serves_old_weights(shifted(new, off * gap), new=new, old=old) is None
    assert serves_old_weights(shifted(old, off * gap), new=new, old=old) is not None


def test_an_engine_half_way_between_old_and_new_is_refused() -> None:
    assert serves_old_weights([[-1.5]], new=[[-1.0]], old=[[-2.0]]) is not None


def test_an_engine_with_other_weights_is_judged_by_the_nearer_ones() -> None:
    assert serves_old_weights([[-9.0]], new=[[-1.0]], old=[[-2.0]]) is not None
    assert serves_old_weights([[-0.1]], new=[[-1.0]], old=[[-2.0]]) is None


@pytest.mark.parametrize("gap", [0.0, NOISE / 2, NOISE * 0.99])
def test_weights_that_differ_by_less_than_noise_cannot_be_distinguished(gap: float) -> None:
    old = [[-1.0, -2.0], [-3.0]]
    with pytest.raises(ValueError, match=r"differ by 0\.0\d+ nats, less than 0\.02"):
        serves_old_weights(old, new=shifted(old, gap), old=old)


def test_the_caller_says_what_noise_is() -> None:
    """In bfloat16, the rounding of the old weights' log-probabilities may be larger than the difference here."""
    old, new = [[-1.0, -2.0], [-3.0]], [[-1.2, -2.2], [-3.2]]
    with pytest.raises(CannotTell, match=r"less than 0\.3"):
        serves_old_weights(old, new=new, old=old, noise=NOISE_BFLOAT16)
    assert serves_old_weights(old, new=new, old=old) is not None


def test_a_difference_beyond_noise_is_enough() -> None:
    old = [[-1.0, -2.0], [-3.0]]
    assert serves_old_weights(shifted(old, NOISE * 1.1), new=shifted(old, NOISE * 1.1), old=old) is None


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
def test_a_probe_without_tokens_decides_nothing(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        serves_old_weights(rows, new=rows, old=rows)


def test_only_the_tenth_of_the_tokens_that_differ_most_is_compared() -> None:
    """Training changes a few tokens much and most hardly at all; the noise of the many would hide the few."""
    old, new = [-1.0] * 100, [-1.0] * 100
    for position in range(0, 100, 10):
        new[position] = -3.0
    noisy_new = [value if value == -3.0 else -1.9 for value in new]
    noisy_old = [-1.0 if position % 10 == 0 else -1.9 for position in range(100)]
    assert serves_old_weights([noisy_new], new=[new], old=[old]) is None
    wrong = serves_old_weights([noisy_old], new=[new], old=[old])
    assert wrong is not None
    assert wrong.startswith("on the 10 tokens where old and new weights differ most (by 2.000 nats)")


def test_tokens_that_became_likelier_and_unlikelier_both_count() -> None:
    old, new = [[-1.0, -3.0]], [[-3.0, -1.0]]
    assert serves_old_weights(new, new=new, old=old) is None
    assert serves_old_weights(old, new=new, old=old) is not None


def test_an_engine_whose_numbers_are_not_finite_is_refused() -> None:
    assert serves_old_weights([[float("nan")]], new=[[-1.0]], old=[[-2.0]]) is not None


def test_an_engine_that_scores_another_number_of_tokens_is_refused() -> None:
    wrong = serves_old_weights([[-1.0]], new=[[-1.0, -2.0]], old=[[-2.0, -3.0]])
    assert wrong is not None
    assert "scored [1] tokens" in wrong

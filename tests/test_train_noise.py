"""The gradient noise scale against gradients whose true mean and covariance are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftaught.training.noise import NoiseEstimate, estimate_noise, noise_scale


def one_step(rng: np.random.Generator, mean: np.ndarray, deviation: float, weights: list[int]) -> NoiseEstimate:
    """Of micro-batches whose gradients are means over independent tokens' gradients."""
    gradients = [n / sum(weights) * (mean + deviation / n**0.5 * rng.standard_normal(mean.size)) for n in weights]
    total = np.sum(gradients, axis=0)
    estimate = estimate_noise([float(g @ g) for g in gradients], weights, float(total @ total))
    assert estimate is not None
    return estimate


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 200), min_size=2, max_size=6),
    st.floats(0.5, 3),
    st.floats(0.5, 5),
    st.integers(0, 2**32 - 1),
)
def test_both_estimates_are_unbiased_for_micro_batches_of_any_size(
    weights: list[int], norm: float, deviation: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mean = np.full(50, norm / 50**0.5)
    steps = [one_step(rng, mean, deviation, weights) for _ in range(400)]
    for values, truth in (
        ([s.squared_norm for s in steps], norm**2),
        ([s.trace for s in steps], 50 * deviation**2),
    ):
        error = np.std(values) / len(values) ** 0.5
        assert abs(np.mean(values) - truth) < 6 * error


def test_the_ratio_of_means_finds_the_scale_where_single_steps_do_not() -> None:
    rng = np.random.default_rng(0)
    steps = [one_step(rng, np.full(50, 0.1), 2.0, [30, 50, 40]) for _ in range(2000)]
    truth = 50 * 2.0**2 / (50 * 0.1**2)
    assert noise_scale(steps) == pytest.approx(truth, rel=0.1)
    ratios = [s.trace / s.squared_norm for s in steps]
    assert min(ratios) < 0
    assert abs(np.mean(ratios) - truth) > 0.1 * truth


def test_one_micro_batch_gives_no_estimate_and_a_gradient_below_its_noise_has_no_scale() -> None:
    assert estimate_noise([1.0], [10], 1.0) is None
    assert noise_scale([]) is None
    assert noise_scale([NoiseEstimate(-1.0, 3.0), NoiseEstimate(0.5, 3.0)]) is None


def test_equal_micro_batches_have_no_noise() -> None:
    # Four equal gradients of squared norm 9; each adds a quarter of itself.
    estimate = estimate_noise([9 / 16] * 4, [5] * 4, 9.0)
    assert estimate == NoiseEstimate(squared_norm=pytest.approx(9.0), trace=pytest.approx(0.0))

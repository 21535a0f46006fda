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


def gradients_of_a_linear_model(
    rng: np.random.Generator, offset: np.ndarray, deviation: float, size: int
) -> np.ndarray:
    """Of (w·x - y)^2 / 2 at weights that are `offset` from the true ones, a row for each of `size` examples.

    x is standard normal and y has noise of `deviation`: then the mean gradient is the offset, and the trace of the
    gradient's covariance is d (|offset|^2 + deviation^2) + |offset|^2 (fourth moments of a normal vector).
    """
    inputs = rng.standard_normal((size, offset.size))
    residuals = inputs @ offset - deviation * rng.standard_normal(size)
    return residuals[:, None] * inputs


def scale_and_error(steps: list[NoiseEstimate]) -> tuple[float, float]:
    """The noise scale of these steps and its standard error, by leaving out one step at a time."""
    scale = noise_scale(steps)
    assert scale is not None
    squared_norms, traces = np.array([(s.squared_norm, s.trace) for s in steps]).T
    without = (traces.sum() - traces) / (squared_norms.sum() - squared_norms)
    return scale, float(np.sqrt((len(steps) - 1) * np.mean((without - without.mean()) ** 2)))


def test_the_noise_scale_of_a_linear_model_is_within_its_interval_of_the_truth() -> None:
    d, deviation, weights = 20, 3.0, [24, 40, 32, 32]
    offset = np.full(d, 0.5)
    squared_norm = float(offset @ offset)
    truth = (d * (squared_norm + deviation**2) + squared_norm) / squared_norm
    rng = np.random.default_rng(0)

    def step() -> NoiseEstimate:
        added = [gradients_of_a_linear_model(rng, offset, deviation, n).sum(axis=0) / sum(weights) for n in weights]
        total = np.sum(added, axis=0)
        estimate = estimate_noise([float(g @ g) for g in added], weights, float(total @ total))
        assert estimate is not None
        return estimate

    within = 0
    for _ in range(100):
        scale, error = scale_and_error([step() for _ in range(50)])
        within += abs(scale - truth) < 1.96 * error
    assert within >= 88, "about 95 % of the intervals hold the truth"
    scale, error = scale_and_error([step() for _ in range(3000)])
    assert error < 0.04 * truth
    assert abs(scale - truth) < 3 * error

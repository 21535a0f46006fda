"""The gradient noise scale: how many loss tokens a step needs before more of them stop helping.

McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1: with G the true gradient and S the covariance of one loss
token's gradient, a mean over n tokens has E|g|^2 = |G|^2 + tr(S) / n. Micro-batches of one step are two such sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoiseEstimate:
    """Unbiased estimates from one step; each alone is noisy, and the first may be below zero."""

    squared_norm: float
    """Of |G|^2."""
    trace: float
    """Of tr(S), per loss token."""


def estimate_noise(squared_norms: Sequence[float], weights: Sequence[int], squared_norm: float) -> NoiseEstimate | None:
    """From m micro-batches with `weights` loss tokens; None for m < 2: one micro-batch does not separate the two.

    `squared_norms` are |c_i|^2 of what each adds to the step's gradient (its mean gradient times its share of the
    tokens), `squared_norm` is that of their sum, before clipping. Squares are averaged, never norms.
    """
    m, total = len(weights), sum(weights)
    if m < 2:
        return None
    # The mean of the micro-batches' own |g_i|^2, each weighed by its share n_i / N, where c_i = g_i * n_i / N.
    mean_of_squares = sum(c * total / n for c, n in zip(squared_norms, weights, strict=True))
    return NoiseEstimate(
        squared_norm=(m * squared_norm - mean_of_squares) / (m - 1),
        trace=(mean_of_squares - squared_norm) * total / (m - 1),
    )


def noise_scale(estimates: Sequence[NoiseEstimate]) -> float | None:
    """tr(S) / |G|^2 in loss tokens: both averaged over the steps first; None where |G|^2 is not above 0."""
    squared_norm, trace = sum(e.squared_norm for e in estimates), sum(e.trace for e in estimates)
    return trace / squared_norm if squared_norm > 0 else None

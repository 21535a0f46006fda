"""What may be said of rates that were measured on the same problems: tests, intervals, the least that would be seen.

Pure, and with fixed random numbers, so that the same samples give the same table. Everything here is about the problems
as a sample of their kind; that a training with another seed would end elsewhere shows in the seeds, which are listed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from scipy.stats import binomtest, bootstrap, permutation_test

RESAMPLES = 9_999
"""Of the bootstrap, and of the sign-flip test; the smallest p of the latter is 2 / (RESAMPLES + 1)."""
POWER = 0.8
LEVEL = 0.05
EPSILON = 1e-12
"""Below it, a difference of means is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discordant:
    """Two models on the same problems: how many only one of them solves, and the exact McNemar test of the two
    numbers."""

    gained: int
    """Problems that the first solves and the second does not."""
    lost: int
    p: float
    """Two-sided: how likely a split as uneven as this is, if each such problem were a throw of a coin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean over problems of differences, each the mean over the seeds."""

    difference: float
    """-1 to 1."""
    interval: tuple[float, float]
    """95 %, over problems."""
    p: float
    """Two-sided; of one seed the exact McNemar test, of several a sign-flip test over problems."""
    smallest: float
    """The smallest true difference that so many problems would have shown (`smallest_difference`)."""


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Discordant:
    """The exact test (McNemar 1947, with binomial probabilities) of two models on the same problems, in one order.

    p is 1 if they solve the same problems. Raises ValueError for other numbers of problems.
    """
    pairs = list(zip(first, second, strict=True))
    gained, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    p = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return Discordant(gained=gained, lost=lost, p=p)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), each at most 1, in the same order: the smallest of m times m, the
    next times m - 1, and so on, but none below the one before it."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def interval_over_problems(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean over problems: the percentile bootstrap, problems drawn anew with replacement.

    Of values that are all the same it has no width. Raises ValueError for no values.
    """
    if not values:
        raise ValueError("an interval over problems needs at least one problem")
    if max(values) - min(values) < EPSILON:
        return (float(values[0]), float(values[0]))
    drawn = bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_batch(len(values)),
        vectorized=True,
        confidence_level=1 - LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return (float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def paired_difference(
    first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]], *, tests: int = 1
) -> Difference:
    """Compare two rows: of each, which problems are solved, seed by seed; the seeds of both are in one order. `tests`
    is how many such comparisons there are.

    Raises ValueError unless both have the same seeds and problems, at least one of each.
    """
    if not first or len(first) != len(second) or len({len(solved) for solved in (*first, *second)}) != 1:
        raise ValueError("two rows are compared on the same seeds and the same problems")
    mean_of = [np.mean(np.asarray(row, dtype=float), axis=0) for row in (first, second)]
    values = mean_of[0] - mean_of[1]
    return Difference(
        difference=float(values.mean()),
        interval=interval_over_problems(values.tolist()),
        p=mcnemar(first[0], second[0]).p if len(first) == 1 else sign_flip(values.tolist()),
        smallest=smallest_difference(values.tolist(), tests=tests),
    )


def sign_flip(values: Sequence[float]) -> float:
    """Two-sided p of a mean over problems of paired differences, if each could as well have the other sign.

    For one seed this is the exact McNemar test, up to the random draws. Problems without a difference change nothing.
    """
    different = np.asarray([value for value in values if abs(value) > EPSILON])
    if len(different) < 2:
        return 1.0  # of one difference, both signs are as far from 0
    found = permutation_test(
        (different,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_batch(len(different)),
        rng=np.random.default_rng(0),
    )
    return min(1.0, float(found.pvalue))


def smallest_difference(values: Sequence[float], *, tests: int) -> float:
    """The true difference that would have been found in four of five such comparisons (power 0.8), at the level 0.05
    divided by the number of tests, as Holm's first step has it.

    From the spread of the paired differences over problems: (z_(1 - 0.05 / (2 tests)) + z_0.8) times their standard
    error (Miller 2024, arXiv 2411.00640, section 5). Rows without a difference are taken to differ in one problem.
    """
    n = len(values)
    spread = float(np.std(np.asarray(values, dtype=float)))
    standard_error = max(spread, 1 / sqrt(n)) / sqrt(n) if spread < EPSILON else spread / sqrt(n)
    normal = NormalDist()
    return min(1.0, (normal.inv_cdf(1 - LEVEL / (2 * tests)) + normal.inv_cdf(POWER)) * standard_error)


def _batch(n: int) -> int:
    """Resamples at a time, so that they take a few MiB."""
    return max(1, 1_000_000 // n)

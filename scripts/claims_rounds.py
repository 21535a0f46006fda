"""What the iterations after the first bring, and what the rows of a comparison have to train on in each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from scipy.stats import ttest_1samp

from claims_verdicts import p_text, says, verdict
from selftaught.comparison.plan import Cell
from selftaught.comparison.rows import ROWS
from selftaught.comparison.statistics import holm
from selftaught.report.cells import DASH, md, table


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """Differences of one row, one of each seed, in points."""

    mean: float
    interval: tuple[float, float] | None
    """95 %, of Student's t; None for one seed, and for seeds that do not differ, which it has nothing to say of."""
    p: float

    @property
    def text(self) -> str:
        around = "" if self.interval is None else " [{:+.1f}, {:+.1f}]".format(*self.interval)
        return f"{self.mean:+.1f}{around}"

    @property
    def p_cell(self) -> str:
        return DASH if self.interval is None else p_text(self.p)


def over_seeds(points: Sequence[float]) -> OverSeeds:
    """The one-sample t-test against 0, over trainings and not over problems."""
    if len(set(points)) < 2:
        return OverSeeds(mean(points), None, 1.0)
    found = ttest_1samp(points, 0.0)
    low, high = found.confidence_interval(0.95)
    return OverSeeds(mean(points), (float(low), float(high)), float(found.pvalue))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What the iterations of a row after the first bring on dev: problems solved, seed by seed."""

    row: str
    seeds: tuple[int, ...]
    n: int
    first: tuple[int, ...]
    best: tuple[tuple[int, int], ...]
    """Of the later iterations: problems, and which iteration."""
    last: tuple[int, ...]
    best_gain: OverSeeds
    last_gain: OverSeeds

    @property
    def verdict(self) -> str:
        if self.best_gain.interval is None or self.last_gain.interval is None:
            return "cannot be said: one seed" if len(self.seeds) == 1 else "cannot be said"
        gains = [says(gain.mean, gain.p) for gain in (self.best_gain, self.last_gain)]
        return verdict(*gains, name="best")


def rounds(cells: Mapping[Cell, Mapping[str, Any]]) -> list[Rounds]:
    """Of every row with several iterations that have the same number of steps behind them; p by Holm's method."""
    by_row: dict[str, dict[int, list[tuple[int, int]]]] = {}
    for cell, of in cells.items():
        trained = of["iterations"][1:]
        if len(trained) > 1 and not ROWS[cell.row].continues:
            counts = [(item["dev"]["correct"], item["iteration"]) for item in trained]
            by_row.setdefault(cell.row, {})[cell.seed] = counts
    n = next((of["iterations"][0]["dev"]["n"] for of in cells.values()), 0)
    found = [_rounds(row, seeds, n) for row, seeds in by_row.items()]
    compared = [i for i, of in enumerate(found) if len(of.seeds) > 1]
    for which in ("best_gain", "last_gain"):
        gains = [getattr(found[i], which) for i in compared]
        for i, gain, p in zip(compared, gains, holm([gain.p for gain in gains]), strict=True):
            found[i] = replace(found[i], **{which: replace(gain, p=p)})
    return found


def _rounds(row: str, seeds: Mapping[int, Sequence[tuple[int, int]]], n: int) -> Rounds:
    first = tuple(counts[0][0] for counts in seeds.values())
    # The earliest of equally good ones, as in a run.
    best = tuple(max(counts[1:], key=lambda count: (count[0], -count[1])) for counts in seeds.values())
    last = tuple(counts[-1][0] for counts in seeds.values())
    gains = [
        over_seeds([100 * (now - then) / n for now, then in zip(later, first, strict=True)])
        for later in ([correct for correct, _ in best], last)
    ]
    return Rounds(
        row=row, seeds=tuple(seeds), n=n, first=first, best=best, last=last, best_gain=gains[0], last_gain=gains[1]
    )


def rounds_table(cells: Mapping[Cell, Mapping[str, Any]]) -> str:
    """Best of the later iterations, and last one, against the first, on dev."""
    found = rounds(cells)
    header = ["row", "seeds", "iteration 1", "best later (iteration)", "last"]
    points = ["best - first, points", "p (Holm)", "last - first, points", "p (Holm)"]
    rows = [
        [
            of.row,
            ", ".join(map(str, of.seeds)),
            ", ".join(map(str, of.first)),
            ", ".join(f"{correct} ({iteration})" for correct, iteration in of.best),
            ", ".join(map(str, of.last)),
            *(of.best_gain.text, of.best_gain.p_cell, of.last_gain.text, of.last_gain.p_cell),
            of.verdict,
        ]
        for of in found
    ]
    return table([*header, *points, "verdict"], [list(map(md, line)) for line in rows])


def tries_table(cells: Mapping[Cell, Mapping[str, Any]]) -> str:
    """What a row has to train on in an iteration, least and most over iterations and seeds."""
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    for cell, of in cells.items():
        if len(of["iterations"]) > 2:
            by_row.setdefault(cell.row, []).extend(of["iterations"][1:])
    rows = [
        [
            md(row),
            _range(item["hinted"]["samples"] for item in items),
            _range(item["hinted"]["correct"] for item in items),
            *(_range(item["examples"].get(of, 0) for item in items) for of in TRAINED_ON),
        ]
        for row, items in by_row.items()
    ]
    return table(["row", "second tries", "of these correct", *TRAINED_ON.values()], rows)


TRAINED_ON = {
    "rationalization": "second tries trained on",
    "rationale": "first tries trained on",
    "rehearsed": "rehearsed",
}
"""Sources of training examples -> columns."""


def _range(counts: Iterable[int]) -> str:
    known = sorted(counts)
    return str(known[0]) if known[0] == known[-1] else f"{known[0]} to {known[-1]}"

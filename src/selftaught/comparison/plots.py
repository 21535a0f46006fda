"""The plots of a comparison: accuracy on dev against iteration, and against the tokens that were spent."""

import io
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from selftaught.comparison.cells import Point, Result
from selftaught.report.report import CLASS_COLORS, MARKERS, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ITERATIONS, TOKENS = "accuracy", "tokens"
"""Names of the pictures, without their endings."""
SHOWN = (f"{ITERATIONS}.svg", f"{TOKENS}.svg")
"""The files that a page shows."""

FORMATS: Mapping[str, Mapping[str, Any]] = {"svg": {"metadata": {"Date": None}}, "png": {"dpi": 160}}
"""Endings of the pictures -> what they are saved with."""


def write_plots(
    results: Sequence[Result], save: Callable[[str, bytes], None], *, formats: Sequence[str] = tuple(FORMATS)
) -> None:
    """Make both pictures, and hand each to `save` with its name.

    Lines are means over the seeds of a row, as far as all of them went; bands reach from the lowest to the highest.
    """
    by_row: dict[str, list[Result]] = {}
    for result in results:
        by_row.setdefault(result.cell.row, []).append(result)
    _write(by_row, ITERATIONS, "iteration (0 = base model)", lambda point: float(point.iteration), save, formats)
    _write(
        by_row, TOKENS, "tokens sampled to train on, and trained on", lambda point: float(point.tokens), save, formats
    )


def _write(
    by_row: Mapping[str, Sequence[Result]],
    name: str,
    label: str,
    place: Callable[[Point], float],
    save: Callable[[str, bytes], None],
    formats: Sequence[str],
) -> None:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, max(4.5, 0.3 * len(by_row) + 1)), layout="constrained")
        ax = figure.subplots()
        ax.set_prop_cycle(color=CLASS_COLORS * len(MARKERS), marker=[m for m in MARKERS for _ in CLASS_COLORS])
        for row, results in by_row.items():
            _plot_row(ax, row, [result.points for result in results], place)
        ax.set(ylim=(0, 1), xlabel=label, ylabel="accuracy on dev")
        if name == ITERATIONS:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
        if by_row:
            figure.legend(ax.get_lines(), list(by_row), title="row", loc="outside right upper")
        for ending in formats:
            picture = io.BytesIO()
            figure.savefig(picture, format=ending, **FORMATS[ending])
            save(f"{name}.{ending}", picture.getvalue())


def _plot_row(ax: "Axes", row: str, seeds: Sequence[Sequence[Point]], place: Callable[[Point], float]) -> None:
    columns = list(zip(*seeds, strict=False))  # as far as all seeds went
    x = [mean(map(place, column)) for column in columns]
    accuracies = [[point.accuracy for point in column] for column in columns]
    (line,) = ax.plot(x, [mean(column) for column in accuracies], label=row, clip_on=False)
    if len(seeds) > 1:
        low, high = [min(column) for column in accuracies], [max(column) for column in accuracies]
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)

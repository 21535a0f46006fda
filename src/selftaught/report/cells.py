"""Cells and tables of Markdown: rates with n and interval, and any text so that Markdown and HTML show it unchanged."""

from collections.abc import Iterable, Sequence

from selftaught.grading.signs import fold_space
from selftaught.methods.metrics import mean_over_classes, rate_text
from selftaught.records.measurements import IterationSummary, Measurement, Rate, SamplingCounts

DASH = "–"
"""Where a run folder does not hold what a cell asks for."""
SPECIAL = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"} | {c: f"\\{c}" for c in "\\`*_[]~$!#"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are already escaped."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def md(text: object) -> str:
    """Any text as one line, escaped so that Markdown and HTML show it unchanged."""
    return "".join(SPECIAL.get(c, c) for c in short(str(text)))


def short(text: str, width: int = 10_000) -> str:
    """Text as one line without control characters, cut to a width."""
    line = fold_space("".join(c if c.isprintable() else " " for c in text))
    return line if len(line) <= width else line[: width - 1] + "…"


def rate(measured: Rate | Measurement | None) -> str:
    """Count, n, share and interval."""
    return rate_text(measured) if measured and measured.n else DASH


def mean(measurement: Measurement) -> str:
    """Of the accuracies of the classes."""
    return f"{mean_over_classes(measurement.by_class):.2f}" if measurement.by_class else DASH


def false_positives(counts: SamplingCounts | Measurement) -> str:
    """Of the correct answers, how many have wrong reasoning."""
    return DASH if counts.false_positive is None else of(counts.false_positive, counts.correct)


def of(count: int, total: int) -> str:
    return f"{count}/{total}" if total else DASH


def losses(summary: IterationSummary, form: str) -> str:
    first, last = summary.train.first_loss, summary.train.last_loss
    return DASH if first is None or last is None else form.format(first, last)

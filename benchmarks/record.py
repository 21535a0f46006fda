"""The result of a benchmark: one row per rival and repeat, one JSON line, one table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

OURS = "selftaught"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One rival, timed once. A rival that could not run has a reason in `failed` and zeros elsewhere."""

    rival: str
    repeat: int
    n: int
    """Questions, problems or sequences that it was given."""
    failed: str = ""
    tokens: int = 0
    """Generated, or trained on with prompts and without padding."""
    seconds: float = 0.0
    """Of the timed work, after the warm-up."""
    tokens_per_s: float = 0.0
    load_s: float = 0.0
    """Everything before the timed work but the warm-up."""
    tokens_per_s_with_loading: float = 0.0
    flop: float = 0.0
    """Operations that the tokens need, by the record's formula."""
    flop_per_s: float = 0.0
    peak_share: float = 0.0
    """FLOP/s over the highest matrix-product rate measured in this run, in any number type; 0 until all have run."""
    peak_memory_bytes: int = 0
    gpu_peak_memory_bytes: int = 0
    load_before: float = 0.0
    load_after: float = 0.0
    own_cpus: float = 0.0
    other_cpus: float = 0.0
    dtype: str = ""
    wrong: str = ""
    """Why this speed does not count; empty if nothing is known against it."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What only this kind of benchmark or rival has: settings, losses, times by stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    benchmark: str
    machine: Mapping[str, Any]
    n: int
    flop_formula: str
    arguments: Mapping[str, Any]
    rows: Sequence[Row]
    outputs: Mapping[str, Any]
    """The results of comparing outputs."""

    def line(self) -> str:
        """The record as one line of JSON."""
        values = {**asdict(self), "summary": summary(self.rows), "when": datetime.now(UTC).isoformat("T", "seconds")}
        return json.dumps(values)


def speed(*, tokens: int, seconds: float, load_s: float, flop: float) -> dict[str, Any]:
    """The fields of a row that follow from a count and a time."""
    return {
        "tokens": tokens,
        "seconds": round(seconds, 4),
        "tokens_per_s": round(tokens / seconds, 2),
        "load_s": round(load_s, 3),
        "tokens_per_s_with_loading": round(tokens / (seconds + load_s), 2),
        "flop": flop,
        "flop_per_s": round(flop / seconds),
    }


def summary(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By rival: median, lowest and highest tokens/s over the repeats, and ours over it."""
    speeds: dict[str, list[float]] = {}
    for row in rows:
        if not row.failed:
            speeds.setdefault(row.rival, []).append(row.tokens_per_s)
    ours = median(speeds[OURS]) if OURS in speeds else None
    return {
        name: {
            "tokens_per_s": round(median(rates), 2),
            "lowest": min(rates),
            "highest": max(rates),
            "repeats": len(rates),
            "ours_over_it": round(ours / median(rates), 2) if ours is not None else None,
        }
        for name, rates in speeds.items()
    }


def show(record: Record, console: Console) -> None:
    """Print the table, the comparison of outputs, and the JSON line."""
    machine = record.machine
    before, after = machine["matmul_flops_per_s_before"], machine["matmul_flops_per_s_after"]
    peak = ", ".join(f"{name} {before[name] / 1e9:.0f} and {after[name] / 1e9:.0f}" for name in before)
    console.print(
        f"{record.benchmark}: n = {record.n}; {machine['device_name']}; {machine['threads']} threads; matrix products "
        f"before and after {peak} GFLOP/s; commit {str(machine['commit'])[:10]}"
        + (" with changes" if machine["dirty"] else "")
    )
    table = Table()
    for name in ("rival", "n", "type", "tokens", "seconds", "tokens/s", "load s", "with loading", "GFLOP/s", "of peak"):
        table.add_column(name, justify="left" if name in ("rival", "type") else "right")
    for name in ("memory", "load", "others", "ours is"):
        table.add_column(name, justify="right")
    summaries = summary(record.rows)
    for row in record.rows:
        table.add_row(*_cells(row, summaries))
    console.print(table)
    for row in record.rows:
        for what, text in (("did not run", row.failed), ("does not count", row.wrong)):
            if text:
                console.print(f"{row.rival} {what}: {text}", markup=False, highlight=False)
    for name, value in record.outputs.items():
        console.print(f"outputs, {name}: {value}", markup=False, highlight=False)
    # Written past rich, which would break the line.
    console.file.write(record.line() + "\n")


def save(record: Record, path: Path) -> None:
    """Append the record's line to a file, so that several benchmarks can share one."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(record.line() + "\n")


def _cells(row: Row, summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if row.failed:
        return [row.rival, str(row.n), *["-"] * 12]
    times = summaries[row.rival]["ours_over_it"]
    return [
        row.rival + (" (!)" if row.wrong else ""),
        str(row.n),
        row.dtype.partition(" ")[0],
        str(row.tokens),
        f"{row.seconds:.1f}",
        f"{row.tokens_per_s:.1f}",
        f"{row.load_s:.1f}",
        f"{row.tokens_per_s_with_loading:.1f}",
        f"{row.flop_per_s / 1e9:.1f}",
        f"{row.peak_share:.1%}",
        f"{(row.gpu_peak_memory_bytes or row.peak_memory_bytes) / 1e9:.2f} GB",
        f"{row.load_before:.1f}-{row.load_after:.1f}",
        f"{row.other_cpus:.2f}",
        f"{times:.2f} x" if times is not None else "-",
    ]

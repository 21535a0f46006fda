#!/usr/bin/env python3
"""Put the finished cells of a comparison into one JSON file, with its two plots, and write docs/claims.md anew.

python scripts/record_comparison.py docs/results/compare-NAME.json --machine "two Intel Xeon cores, no GPU" DIR

To be run after each cell: cells that the file has from before stay, those of the folder win. So cells may come from
several folders, one after another, as long as config, data and base weights are the same. No weights are read.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from claims_page import ROOT, cell_of, claims_page, read_record
from selftaught.commands.compare_table import read_finished
from selftaught.comparison.cells import Result
from selftaught.comparison.folder import ComparisonFolder
from selftaught.comparison.plan import in_order
from selftaught.comparison.plots import ITERATIONS, TOKENS, write_plots
from selftaught.comparison.results import table_of
from selftaught.records.errors import StoreError
from selftaught.records.measurements import IterationSummary, Measurement, SamplingCounts
from selftaught.report.run_tables import read_run
from selftaught.runs.lines import adapter_of

PLOTS = {f"{ITERATIONS}.svg": "iterations.svg", f"{TOKENS}.svg": "tokens.svg"}
"""The plots of a comparison -> how their names end beside the record's."""


def record_of(folder: ComparisonFolder, machine: str) -> dict[str, Any]:
    """The record of the cells that have finished."""
    asked, finished = folder.asked(), read_finished(folder)
    about = finished.about
    return {
        "task": about.task,
        "model": about.model,
        "at": about.at,
        "planned_steps": about.steps,
        "config": without_folders(asked["config"]),
        "rows": without_folders(finished.own),
        "problems": list(finished.results[0].problems) if finished.results else [],
        "sharing": {"generated": about.generated, "shared": about.saving.used, "saved": about.saving.saved},
        "missing": {str(cell): reason for cell, reason in about.missing.items()},
        "cells": {str(r.cell): _cell(r, folder.run_dir(r.cell), machine) for r in finished.results},
    }


def merged(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the cells of both; those of `now` win. Raises StoreError unless both are of one comparison."""
    if before is None:
        return dict(now)
    for key in ("task", "at", "planned_steps", "config"):
        if before[key] != now[key]:
            there, here = _differences(before[key], now[key])
            raise StoreError(f"the record has {key} {there!r}, the folder {here!r}; give the record another name")
    for row in {cell_of(cell).row for cell in before["cells"]} & now["rows"].keys():
        if before["rows"][row] != now["rows"][row]:
            raise StoreError(f"row {row!r} has other settings in the record than in the folder; remove its old cells")
    cells = {**before["cells"], **now["cells"]}
    missing = {**before["missing"], **now["missing"]}
    known = [cell_of(text) for text in cells]
    return {
        **now,
        "rows": {**before["rows"], **now["rows"]},
        "problems": now["problems"] or before["problems"],
        "sharing": now["sharing"] if now["cells"] else before["sharing"],
        "missing": {cell: reason for cell, reason in missing.items() if cell not in cells},
        "cells": {str(cell): cells[str(cell)] for cell in in_order(known)},
    }


def _differences(before: Any, now: Any) -> tuple[Any, Any]:
    """Both, without the settings in which they agree."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return before, now
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key) or (key in before) != (key in now)]
    return {k: before[k] for k in keys if k in before}, {k: now[k] for k in keys if k in now}


def without_folders(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, also nested ones, with the names alone of files that are given by their whole path."""
    return {
        key: without_folders(value)
        if isinstance(value, Mapping)
        else Path(value).name
        if isinstance(value, str) and value.startswith("/")
        else value
        for key, value in values.items()
    }


def text_of(record: Mapping[str, Any]) -> str:
    """One line per fact of a cell and per iteration, so that a diff of two versions of the file can be read."""
    facts = [f" {json.dumps(key)}: {_line(value)}" for key, value in record.items() if key != "cells"]
    cells = []
    for name, cell in record["cells"].items():
        lines = [f"   {json.dumps(key)}: {_line(value)}" for key, value in cell.items() if key != "iterations"]
        iterations = ",\n".join(f"    {_line(item)}" for item in cell["iterations"])
        lines.append(f'   "iterations": [\n{iterations}\n   ]' if iterations else '   "iterations": []')
        cells.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    inner = "{\n" + ",\n".join(cells) + "\n }" if cells else "{}"
    return "{\n" + ",\n".join([*facts, f' "cells": {inner}']) + "\n}\n"


def write(out: Path, record: Mapping[str, Any]) -> None:
    """Write record and plots. Raises StoreError, before anything is written, for cells that cannot be compared."""
    finished = read_record(record).finished
    table_of(finished.results)
    out.parent.mkdir(parents=True, exist_ok=True)

    def save(name: str, picture: bytes) -> None:
        out.with_name(f"{out.stem}-{PLOTS[name]}").write_bytes(picture)

    write_plots(finished.results, save, formats=["svg"])
    out.write_text(text_of(record), encoding="utf-8")


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cell(result: Result, run_dir: Path, machine: str) -> dict[str, Any]:
    run = read_run(run_dir)
    values: dict[str, Any] = adapter_of(Result).dump_python(result, mode="json")
    for which in ("base", "selected", "last"):
        values[which]["solved"] = "".join("1" if solved else "0" for solved in values[which]["solved"])
    return {
        "machine": machine,
        **{key: run.about[key] for key in ("started", "versions", "git_commit")},
        "result": {key: value for key, value in values.items() if key not in ("cell", "problems")},
        "iterations": [{"iteration": 0, "dev": _rates(run.dev[0])}, *map(_iteration, run.summaries)],
    }


def _iteration(summary: IterationSummary) -> dict[str, Any]:
    return {
        "iteration": summary.iteration,
        "dev": _rates(summary.dev),
        "dev_changes": {against: [c.gained, c.lost] for against, c in summary.dev_changes.items()},
        "unhinted": _counts(summary.rationale),
        "hinted": _counts(summary.rationalization),
        "examples": dict(summary.examples_by_source),
        "steps": summary.train.steps,
        "loss_tokens": summary.train.loss_tokens,
        "warnings": list(summary.warnings),
        "seconds": {stage: round(seconds, 1) for stage, seconds in summary.seconds.items()},
    }


def _rates(dev: Measurement) -> dict[str, Any]:
    by_class = {name: [rate.correct, rate.n] for name, rate in dev.by_class.items()}
    return {"correct": dev.correct, "n": dev.n, "by_class": by_class}


def _counts(counts: SamplingCounts) -> dict[str, Any]:
    return {
        "samples": counts.samples,
        "correct": counts.correct,
        "false_positive": counts.false_positive,
        "checks": {name: [rate.correct, rate.n] for name, rate in counts.checks.items()},
        "mean_tokens": None if counts.mean_tokens is None else round(counts.mean_tokens, 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--machine", required=True, help="description of the machine, as the documents show it")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    before = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else None
    try:
        write(given.out, merged(before, record_of(ComparisonFolder(given.folder), given.machine)))
    except StoreError as error:
        raise SystemExit(f"record_comparison: {error}") from error
    page = ROOT / "docs" / "claims.md"
    page.write_text(claims_page(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Put the results of finished runs into one JSON file, from which scripts/make_docs.py writes tables.

python scripts/record_results.py docs/results/arithmetic.json --machine "two Intel Xeon cores, no GPU" RUN_DIR...

The runs that the documents expect are `arithmetic-star` (seed 0), `arithmetic-star-seed1`, `arithmetic-star-seed2`
and the methods it is compared with, `arithmetic-star-no-rationalization`, `arithmetic-direct`, `arithmetic-seeds-only`,
all with `loop.patience` as large as `loop.max_iterations`, so that all train for the same number of steps. It reads no
weights, so `training.keep_weights` may be anything.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftaught.records.measurements import IterationSummary
from selftaught.runs.reading import dump_measurement, read_measurements, read_result, read_run_json, read_summaries


def record_of(run_dir: Path) -> dict[str, Any]:
    """The figures of one finished run that the documents use; rates are counts, [correct, n]."""
    about, result = read_run_json(run_dir), read_result(run_dir)
    if result is None:
        sys.exit(f"{run_dir} has not finished; run `selftaught run --resume {run_dir}` first")
    base_dev = next(m for m in read_measurements(run_dir) if (m.split, m.iteration) == ("dev", 0))
    extrapolation = result.get("extrapolation")
    return {
        "method": about["config"]["method"],
        "seed": about["config"]["seed"],
        "started": about["started"],
        **{key: about[key] for key in ("config", "versions", "git_commit")},
        "best_iteration": result["best_iteration"],
        "test": {"base": _counts(result["base"]), "best": _counts(result["test"])},
        **({"extrapolation": {who: _counts(m) for who, m in extrapolation.items()}} if extrapolation else {}),
        "iterations": [
            {"iteration": 0, "dev": _counts(dump_measurement(base_dev))},
            *(_iteration(summary) for summary in read_summaries(run_dir)),
        ],
    }


def write_record(out: Path, machine: str, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """One line per fact of a run and per iteration, so that a diff of two versions of the file can be read."""
    lines = []
    for name, run in runs.items():
        facts = [f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in run.items() if key != "iterations"]
        iterations = ",\n".join(f"    {json.dumps(item)}" for item in run["iterations"])
        facts.append(f'   "iterations": [\n{iterations}\n   ]')
        lines.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(facts) + "\n  }")
    text = f'{{\n "machine": {json.dumps(machine)},\n "runs": {{\n' + ",\n".join(lines) + "\n }\n}\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def _iteration(summary: IterationSummary) -> dict[str, Any]:
    rationale, rationalization = summary.rationale, summary.rationalization
    return {
        "iteration": summary.iteration,
        "dev": _counts(dump_measurement(summary.dev)),
        "rationales": [rationale.correct, rationale.samples],
        "rationalizations": [rationalization.correct, rationalization.samples],
        "false_positives": [rationale.false_positive, rationalization.false_positive],
        "examples": dict(summary.examples_by_source),
        "steps": summary.train.steps,
        "seconds": dict(summary.seconds),
    }


def _counts(measurement: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of a measurement in the form of its file."""
    return {
        "correct": measurement["correct"],
        "n": measurement["n"],
        "by_class": {name: [rate["correct"], rate["n"]] for name, rate in measurement["by_class"].items()},
        "false_positive": measurement["false_positive"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--machine", required=True, help="description of the machine, as the documents show it")
    parser.add_argument("run_dirs", type=Path, nargs="+")
    given = parser.parse_args()
    write_record(given.out, given.machine, {run_dir.name: record_of(run_dir) for run_dir in given.run_dirs})

#!/usr/bin/env python3
"""Put the results of finished runs into one JSON file, for docs/results/.

python scripts/record_results.py OUT.json RUN_DIR...
"""

import json
import sys
from pathlib import Path

from selftaught.store import dump_measurement, read_measurements, read_result, read_run_json, read_summaries


def main(out: Path, run_dirs: list[Path]) -> None:
    runs = {}
    for run_dir in run_dirs:
        about, result = read_run_json(run_dir), read_result(run_dir)
        if result is None:
            sys.exit(f"{run_dir} has not finished")
        (base_dev,) = [m for m in read_measurements(run_dir) if (m.split, m.iteration) == ("dev", 0)]
        runs[run_dir.name] = {
            **{key: about[key] for key in ("config", "chosen", "versions", "git_commit")},
            **{key: value for key, value in result.items() if key != "checkpoint"},  # a place on one machine
            "base_dev": dump_measurement(base_dev),
            "iterations": [
                {
                    "iteration": s.iteration,
                    "dev": dump_measurement(s.dev),
                    "right": [s.rationale.correct, s.rationale.samples],
                    "hints": [s.rationalization.correct, s.rationalization.samples],
                    "false_positives": [s.rationale.false_positive, s.rationalization.false_positive],
                    "examples": dict(s.examples_by_source),
                    "steps": s.train.steps,
                    "seconds": dict(s.seconds),
                }
                for s in read_summaries(run_dir)
            ],
        }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(arg) for arg in sys.argv[2:]])

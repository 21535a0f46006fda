"""A run without its samples, as the page's first view shows it: plain values, ready for JSON.

What this machine is called, and where on it things are, is left out as in `selftaught export`: a page may be sent on.
"""

import json
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftaught.config.loading import known_keys
from selftaught.config.public import config_text, public_name, public_values, repeating_command
from selftaught.methods.hints import AGAIN
from selftaught.methods.table import METHODS
from selftaught.records.measurements import IterationSummary
from selftaught.report.run_tables import Run, class_names, read_run
from selftaught.runs.lines import adapter_of, complete_lines
from selftaught.runs.reading import dump_measurement, read_steps

MAX_STEPS = 1_000
"""Logged steps of a run that the page draws; of more, every second, third, … is left out."""


def overview(run_dir: Path, *, name: str) -> dict[str, Any]:
    """Raises StoreError if the folder is not a run folder or is damaged."""
    run = read_run(run_dir, name=name)
    config = run.about["config"]
    return {
        "name": name,
        "state": _state(run, run_dir),
        "about": _about(run),
        "settings": _settings(config),
        "repeat": {
            "command": repeating_command(config, file="config.toml", run_dir=f"runs/{run_dir.resolve().name}"),
            "file": config_text(config),
        },
        "classes": class_names(run.measured.values()),
        "measured": [dump_measurement(m) for _, m in sorted(run.measured.items())],
        "iterations": _iterations(run),
        "training": _training(run_dir),
    }


def _state(run: Run, run_dir: Path) -> dict[str, Any]:
    limit = run.about["config"].get("loop.max_iterations")
    state: dict[str, Any] = {"finished": run.result is not None, "iterations": len(run.summaries), "limit": limit}
    if run.result is not None:
        return {**state, "best": run.result["best_iteration"], "checkpoint": run.result["checkpoint"], "now": None}
    best = max(run.dev, key=lambda m: (m.accuracy, -m.iteration), default=None)
    return {**state, "best": None if best is None else best.iteration, "checkpoint": None, "now": _now(run_dir)}


def _now(run_dir: Path) -> str | None:
    """What an unfinished run did last, by its files."""
    steps = run_dir / "metrics.jsonl"
    files = [path for path in (*(run_dir / "samples").glob("*.jsonl"), steps) if path.exists()]
    latest = max(files, key=lambda path: path.stat().st_mtime, default=None)
    if latest is None:
        return None
    count, last = next(iter(deque(enumerate(complete_lines(latest), start=1), maxlen=1)), (0, b""))
    if latest == steps:
        step = json.loads(last) if last else None
        return f"iteration {step['iteration']}, training: step {step['step']} was logged last" if step else "training"
    iteration, _, stage = latest.stem.partition("-")
    return f"iteration {int(iteration)}, {stage}: {count} samples so far"


def _about(run: Run) -> dict[str, Any]:
    about, config = run.about, run.about["config"]
    sha256 = about["model"].get("sha256")
    resolved = {k: v for k, v in about["resolved"].items() if k not in ("engine", "training", "chat")}
    return {
        "method": str(config.get("method")),
        "task": str(config.get("task.name")),
        "variant": config.get("task.variant"),
        "model": public_name(str(config.get("model.path"))),
        "model_sha256": None if sha256 is None else sha256[:12],
        "parameters": about["model"].get("parameters"),
        "chat": about["resolved"].get("chat") is not None,
        "seed": config.get("seed"),
        "shows": run.shows,
        "again": AGAIN[run.shows],
        "started": about.get("started"),
        "git_commit": about.get("git_commit"),
        "resolved": resolved,
        "versions": about.get("versions", {}),
    }


def _settings(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every public setting, with what it would be by default or by the method; `usual` is absent where it has none."""
    defaults = {key: field.default for key, field in known_keys().items() if not field.is_required()}
    method = METHODS.get(str(config.get("method")))
    usual = json.loads(json.dumps({**defaults, **(method.knobs if method else {})}))  # as run.json has them
    return [
        {
            "key": key,
            "value": value,
            **({"usual": usual[key]} if key in usual else {}),
            "differs": key not in usual or value != usual[key],
        }
        for key, value in public_values(config).items()
    ]


def _iterations(run: Run) -> list[dict[str, Any]]:
    """The summaries of finished iterations, each with what was kept of what was seen, and whether that adds up."""
    takes_earlier = run.setting("training.window") == "all"
    rows, seen = [], 0
    for summary in run.summaries:
        seen = (seen if takes_earlier else 0) + summary.rationale.samples + summary.rationalization.samples
        others = Counter(summary.examples_by_source)
        kept = others.pop("rationale", 0) + others.pop("rationalization", 0)
        values: dict[str, Any] = adapter_of(IterationSummary).dump_python(summary, mode="json")
        adds_up = seen == kept + sum(summary.left_out.values()) and summary.examples == kept + others.total()
        rows.append({**values, "seen": seen, "kept": kept, "other_rows": dict(others), "adds_up": adds_up})
    return rows


def _training(run_dir: Path) -> dict[str, Any]:
    """The logged steps as columns; `every` says that only each so-many-th is there, besides the last."""
    steps = read_steps(run_dir)
    every = max(1, -(-len(steps) // MAX_STEPS))
    shown = [step for i, step in enumerate(steps) if i % every == 0 or i == len(steps) - 1]
    names = ("iteration", "step", "loss", "learning_rate", "grad_norm", "tokens", "seconds")
    columns = {name: [getattr(step, name) for step in shown] for name in names}
    return {"every": every, "logged": len(steps), "columns": columns}

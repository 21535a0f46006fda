"""One run as tables of Markdown: what was sampled, trained, left out and measured, each rate with n and interval.

What a folder does not hold is written as `–`, never guessed.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from selftaught.methods.metrics import rate as rate_of
from selftaught.methods.metrics import solve_rate_gap
from selftaught.methods.settings import Shows
from selftaught.records.measurements import Changes, IterationSummary, Measurement
from selftaught.report.cells import DASH, false_positives, losses, md, mean, of, rate, table
from selftaught.runs.reading import read_measurements, read_passes, read_result, read_run_json, read_summaries


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The content of a run folder, as far as the report needs it."""

    name: str
    about: Mapping[str, Any]
    """The content of run.json."""
    summaries: tuple[IterationSummary, ...]
    measured: Mapping[tuple[str, int], Measurement]
    """By split and iteration."""
    passes: tuple[Measurement, ...] = ()
    """Of dev in several samples a problem."""
    result: Mapping[str, Any] | None
    """The content of result.json; None for an unfinished run. Its measurements are in `measured` as well."""

    @property
    def dev(self) -> list[Measurement]:
        """Measurements on dev: of the base model, if there is one yet, and of every finished iteration."""
        base = self.measured.get(("dev", 0))
        return [*([base] if base else []), *(s.dev for s in self.summaries)]

    def setting(self, key: str) -> str:
        return str(self.about.get("config", {}).get(key, DASH))

    @property
    def shows(self) -> Shows:
        """What failed problems were shown in their second attempt; older versions knew the answer alone."""
        return cast(Shows, self.about.get("config", {}).get("rationalization.shows", "answer"))

    @property
    def again(self) -> str:
        """What samples of the second attempt are called."""
        return "hinted" if self.shows == "answer" else "second attempt"


def read_run(run_dir: Path, *, name: str = "") -> Run:
    """Everything that the report needs of a run. Raises StoreError if the folder is not a run folder or is damaged."""
    return Run(
        name=name or run_dir.resolve().name,
        about=read_run_json(run_dir),
        summaries=tuple(read_summaries(run_dir)),
        measured={(m.split, m.iteration): m for m in read_measurements(run_dir)},
        passes=tuple(read_passes(run_dir)),
        result=read_result(run_dir),
    )


def class_names(measurements: Iterable[Measurement]) -> list[str]:
    """Every measured class, sorted with numbers by their value: 2 before 10."""
    names = {name for m in measurements for name in m.by_class}
    return sorted(sorted(names), key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)])


def dev_table(run: Run) -> str:
    classes = class_names(run.dev)
    rows = [[str(m.iteration), *(rate(m.by_class.get(c)) for c in classes), rate(m), mean(m)] for m in run.dev]
    return table(["iteration", *(f"class {md(name)}" for name in classes), "dev", "mean over classes"], rows)


def work_table(run: Run) -> str:
    rows = []
    for s in run.summaries:
        stages, loss = (s.rationale, s.rationalization), s.train.validation_loss
        sampled = [*(of(c.correct, c.samples) for c in stages), *map(false_positives, stages)]
        trained = [str(s.examples), str(s.train.steps), losses(s, "{:.4f} → {:.4f}")]
        validation = DASH if loss is None else f"{loss:.4f}"
        other = f"{s.work_s['other']:.1f}" if "other" in s.work_s else DASH
        rows.append([str(s.iteration), *sampled, *trained, validation, f"{sum(s.seconds.values()):.1f}", other])
    accepted = "hints accepted" if run.shows == "answer" else "second attempts correct"
    header = ["iteration", "rationales correct", accepted, "false positives", f"false positives, {run.again}"]
    return table([*header, "examples", "steps", "loss", "validation loss", "seconds", "of which other"], rows)


def progress_table(run: Run) -> str:
    """What the samples of each iteration are like beside their verdicts, and what changed; empty for a folder of an
    older version."""
    rows = []
    for s in run.summaries:
        r, h = s.rationale, s.rationalization
        gap = solve_rate_gap(s)
        rows.append(
            [
                str(s.iteration),
                *(rate(rate_of(c.correct, c.samples)) if c.samples else DASH for c in (r, h)),
                DASH if gap is None else f"{gap:+.3f}",
                *(_changes(s.dev_changes.get(name)) for name in ("previous", "base")),
                _decimal(r.solutions_per_problem, 2),
                *(_decimal(c.mean_tokens, 1) for c in (r, h)),
                *(DASH if c.ended is None or not c.samples else of(c.ended, c.samples) for c in (r, h)),
                DASH if r.lucky is None or not r.correct else f"{r.lucky:.1f}/{r.correct}",
                DASH if s.kept_before is None else of(s.kept_before.correct, s.kept_before.n),
            ]
        )
    if all(set(row[4:]) == {DASH} for row in rows):
        return ""
    solved = ("solved unhinted", "solved hinted") if run.shows == "answer" else ("solved", f"solved, {run.again}")
    header = ["iteration", *solved, "gap", "dev gained, lost", "against base", "solutions", "tokens"]
    return table(
        [*header, f"tokens, {run.again}", "ended", f"ended, {run.again}", "by luck", "problems kept before"], rows
    )


def passes_table(run: Run) -> str:
    """pass@k on dev of every measured iteration; empty if none was."""
    if not run.passes:
        return ""
    ks = list(dict.fromkeys(k for m in run.passes for k in m.pass_at_k))
    rows = []
    for m in sorted(run.passes, key=lambda m: m.iteration):
        last = rate_of(round(m.pass_at_k[str(m.num_samples)] * m.n), m.n)
        chances = (f"{m.pass_at_k[k]:.3f}" if k in m.pass_at_k else DASH for k in ks)
        rows.append([str(m.iteration), str(m.n), f"{m.num_samples} at {m.temperature}", *chances, rate(last)])
    return table(["iteration", "problems", "samples", *(f"pass@{k}" for k in ks), "solved by any"], rows)


def _changes(changes: Changes | None) -> str:
    return DASH if changes is None else f"+{changes.gained} −{changes.lost} of {changes.n}"


def _decimal(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def checks_table(run: Run) -> str:
    """A row for every stage of an iteration that has checks; empty if none has."""
    stages = [
        (s.iteration, what, counts.checks)
        for s in run.summaries
        for what, counts in (("rationales", s.rationale), (run.again, s.rationalization), ("dev", s.dev))
    ]
    names = list(dict.fromkeys(name for _, _, checks in stages for name in checks))
    rows = [[str(n), what, *(rate(checks.get(k)) for k in names)] for n, what, checks in stages if checks]
    return table(["iteration", "sampled", *map(md, names)], rows) if rows else ""


def left_out_table(run: Run) -> str:
    """How many samples were kept and left out, by reason; says so if the numbers of a row do not add up."""
    reasons = [reason for reason, _ in sum((Counter(s.left_out) for s in run.summaries), Counter()).most_common()]
    takes_earlier = run.setting("training.window") == "all"
    rows, errors, samples = [], [], 0
    for s in run.summaries:
        samples = (samples if takes_earlier else 0) + s.rationale.samples + s.rationalization.samples
        others = Counter(s.examples_by_source)
        kept = others.pop("rationale", 0) + others.pop("rationalization", 0)
        counts = [str(s.left_out.get(reason, 0)) for reason in reasons]
        added = ", ".join(f"{n} {md(source)}" for source, n in others.items()) or "0"
        rows.append([str(s.iteration), str(samples), str(kept), *counts, added, str(s.examples)])
        if samples != kept + sum(s.left_out.values()) or s.examples != kept + others.total():
            errors.append(f"**Iteration {s.iteration} does not add up.**")
    header = ["iteration", "samples so far" if takes_earlier else "samples", "kept", *map(md, reasons)]
    note = "Samples = kept + left out, by reason. Examples = kept + other rows."
    return "\n\n".join([table([*header, "other rows", "examples"], rows), note, *errors])


def result_table(run: Run, best: int) -> str:
    rows: list[list[str]] = []
    for split in ("test", "extrapolation"):
        both = [run.measured[split, n] for n in (0, best) if (split, n) in run.measured]
        if len(both) < 2:
            continue
        rows.append([split, "all classes", *map(rate, both)])
        for name in class_names(both):
            rows.append([split, f"class {md(name)}", *(rate(m.by_class.get(name)) for m in both)])
        rows.append([split, "mean over classes", *map(mean, both)])
        rows.append([split, "unparseable, truncated", *(f"{m.unparseable}, {m.truncated}" for m in both)])
        rows.append([split, "false positives", *map(false_positives, both)])
    return table(["split", "", "base model", f"best (iteration {best})"], rows)

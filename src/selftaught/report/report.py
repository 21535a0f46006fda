"""A report of one or several runs: a Markdown page, and accuracy on dev against iteration as a picture.

A function of run folders and nothing else. What a folder does not hold is written as `–`, never guessed. Text from
data or from a model is escaped. The picture follows the arithmetic figures of Zelikman et al. 2022.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught.config.loading import known_keys
from selftaught.machine.paths import link_to_nothing
from selftaught.methods.hints import AGAIN
from selftaught.methods.metrics import mean_over_classes, rate_text
from selftaught.methods.table import METHODS
from selftaught.records.errors import ConfigError, StoreError
from selftaught.report.cells import DASH, losses, md, of, rate, short, table
from selftaught.report.run_tables import (
    Run,
    checks_table,
    class_names,
    dev_table,
    left_out_table,
    passes_table,
    progress_table,
    read_run,
    result_table,
    work_table,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The colours of Okabe and Ito, which colour-blind readers can distinguish; with 8 markers, 56 classes look different.
CLASS_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
RUN_COLORS = ("#222222", "#8C510A", "#7B3294", "#4D9221", "#2166AC", "#B2182B")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
# With a fixed salt for its ids, an SVG of the same runs has the same bytes; names are text, not formulas.
STYLE: dict[Any, Any] = {"svg.hashsalt": "selftaught", "text.parse_math": False, "font.size": 11} | {
    "axes.titlesize": 11, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 10
}  # fmt: skip
NOTES = f"""Iteration 0 is the base model. Accuracy is over each problem's first, greedy completion, with a 95 % Wilson
interval; `{DASH}` means that there is no number. Rationales and second attempts, which hints are for: correct of
sampled. False positives, correct answers with wrong reasoning: of the correct ones. Seconds are those of the process
that finished the iteration; "of which other" is the time outside of sampling, training and loading."""

HINTED = "Gap: solved with a hint minus without one, where the hinted problems are those that failed."

AGAIN_INSTEAD = "Gap: solved in the second attempt minus in the first; the second is at problems that failed the first."

PROGRESS = """Gained and lost: dev problems that this model solves and the one before, or the base model, does not, and
the reverse. Solutions: different correct ones of a solved problem. Tokens: mean length of the completions, of the first
attempt or of the second, that were not truncated; ended: how many ended by the end token. By luck: how many of the
correct choices chance accounts for."""

CHECKS = """Of the correct answers, how many passed each check of the reasoning; `extraction` is the share of all
completions to which strict and lenient extraction of the answer give the same verdict, `label` the share of all in
whose answer label and text agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    markdown: Path
    svg: Path
    png: Path


def write_report(run_dirs: Sequence[Path], out_dir: Path | None = None) -> Report:
    """Write report.md, accuracy.svg and accuracy.png; by default into the run folder, or into report/ for several.

    Raises ConfigError for a run that is given twice, and StoreError for a folder that is not a run folder or that
    cannot be written.
    """
    assert run_dirs, "a report needs at least one run folder"
    for i, run_dir in enumerate(run_dirs):
        if same := [other for other in run_dirs[:i] if other.resolve() == run_dir.resolve()]:
            raise ConfigError(f"{same[0]} and {run_dir} are one run; give each run once")
    names = [run_dir.resolve().name for run_dir in run_dirs]
    runs = [read_run(d, name=n if names.count(n) == 1 else str(d)) for d, n in zip(run_dirs, names, strict=True)]
    folder = out_dir or (run_dirs[0] if len(run_dirs) == 1 else Path("report"))
    written = Report(markdown=folder / "report.md", svg=folder / "accuracy.svg", png=folder / "accuracy.png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_plot(runs, written)
        written.markdown.write_text(render_markdown(runs, plot=written.svg.name), encoding="utf-8")
    except OSError as error:
        reason = link_to_nothing(folder) or error.strerror or error
        raise StoreError(f"cannot write the report to {folder}: {reason}; choose another folder, --out-dir") from error
    return written


def iteration_table(run_dir: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows for a terminal, at most 120 columns for five short classes; row 0 is the base model.

    `correct`: rationales correct/sampled; `hints`, or `again` where no answer was shown: rationalizations
    correct/sampled; `false +`: false positives among rationales/rationalizations; `s`: seconds.
    """
    run = read_run(run_dir)
    classes = class_names(run.dev)
    rows = []
    for m in run.dev:
        by_class = (f"{m.by_class[name].accuracy:.2f}" if name in m.by_class else DASH for name in classes)
        rows.append([str(m.iteration), *by_class, rate_text(m, digits=2, with_counts=False)])
    work = [[DASH] * 7] * (len(run.dev) - len(run.summaries))
    for s in run.summaries:
        stages = (s.rationale, s.rationalization)
        false = "/".join(DASH if c.false_positive is None else str(c.false_positive) for c in stages)
        trained = [str(s.examples), str(s.train.steps), losses(s, "{:.3f}→{:.3f}")]
        work.append([*(of(c.correct, c.samples) for c in stages), false, *trained, f"{sum(s.seconds.values()):.0f}"])
    second = "hints" if run.shows == "answer" else "again"
    header = ["iter", *map(short, classes), "dev", "correct", second, "false +", "examples", "steps"]
    return [*header, "loss", "s"], [[*left, *right] for left, right in zip(rows, work, strict=True)]


def render_markdown(runs: Sequence[Run], *, plot: str) -> str:
    """The page; `plot` is the path of the picture, relative to the page."""
    title = f"# Report: {md(', '.join(run.name for run in runs))}"
    parts = [title, f"![accuracy on dev per class against iteration]({plot})", NOTES]
    if len(runs) > 1:
        parts.append(_comparison(runs))
    for run in runs:
        parts += [f"## {md(run.name)}", _status(run), "### What was run", _settings(run)]
        parts += ["### Accuracy on dev", dev_table(run)] if run.dev else []
        if run.summaries:
            warnings = [f"- iteration {s.iteration}: {md(text)}" for s in run.summaries for text in s.warnings]
            parts += ["### Sampled and trained", *_second_attempts(run), work_table(run)]
            gap = HINTED if run.shows == "answer" else AGAIN_INSTEAD
            parts += ["### Progress", f"{gap}\n{PROGRESS}", progress] if (progress := progress_table(run)) else []
            parts += ["### pass@k on dev", passes] if (passes := passes_table(run)) else []
            parts += ["### Checks", CHECKS, checks] if (checks := checks_table(run)) else []
            parts += ["### Samples left out", left_out_table(run)]
            parts += ["### Warnings", "\n".join(warnings) or "None."]
        parts += ["### Result", result_table(run, run.result["best_iteration"])] if run.result else []
    return "\n\n".join(parts) + "\n"


def _second_attempts(run: Run) -> list[str]:
    """What they were, where they are not what their name says."""
    return [] if run.shows == "answer" else [f"Second attempts: failed problems, sampled {AGAIN[run.shows]}."]


def _status(run: Run) -> str:
    count = len(run.summaries)
    if run.result:
        best = run.result["best_iteration"]
        which = f"iteration {best}" if best else "the base model, which no iteration beat"
        return f"Finished. Iterations: {count}. Best on dev: {which} ({md(run.result['checkpoint'])})."
    so_far = f"{count} of at most {md(run.setting('loop.max_iterations'))} iterations so far"
    return f"**Unfinished**: {so_far if count else 'no iteration has finished yet'}; there is no result."


def _pairs(values: Mapping[str, Any]) -> Iterator[str]:
    """`key value` of every value; those of a nested mapping as `outer.inner value`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{pair}" for pair in _pairs(value))
        else:
            yield f"{key} {value}"


def _settings(run: Run) -> str:
    """Task, model and machine of a run, and its settings that differ from the defaults and from those of its method."""
    about, config = run.about, run.about.get("config", {})
    variant, sha256 = config.get("task.variant"), about.get("model", {}).get("sha256")
    facts = {
        "method": run.setting("method"),
        "task": run.setting("task.name") + (f" ({variant})" if variant else ""),
        "model": f"{run.setting('model.path')} (sha256 {sha256[:12] if sha256 else DASH})",
        "prompts": _prompts(about),
        "seed": run.setting("seed"),
        **{what: ", ".join(_pairs(about.get(what, {}))) for what in ("resolved", "versions")},
        "git commit": about.get("git_commit"),
        "started": about.get("started"),
    }
    defaults = {key: field.default for key, field in known_keys().items() if not field.is_required()}
    named = METHODS.get(run.setting("method"))
    usual = json.loads(json.dumps({**defaults, **(named.knobs if named else {})}))  # as run.json has them
    different = [
        [md(key), md(json.dumps(value, ensure_ascii=False)), md(json.dumps(usual[key])) if key in usual else DASH]
        for key, value in config.items()
        if key not in ("method", "seed", "model.path", "task.name", "task.variant")
        and (key not in usual or value != usual[key])
    ]
    settings = table(["setting", "this run", "method or default"], different) if different else "All else by default."
    return f"{table(['', ''], [[name, md(value or DASH)] for name, value in facts.items()])}\n\n{settings}"


def _prompts(about: Mapping[str, Any]) -> str | None:
    resolved = about.get("resolved", {})
    if "chat" not in resolved:
        return None
    return "turns, rendered by the model's chat template" if resolved["chat"] else "a text to continue"


def _comparison(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        best = run.result["best_iteration"] if run.result else -1
        facts = [run.name, run.setting("method"), run.setting("seed"), len(run.summaries), best if best >= 0 else DASH]
        dev = {m.iteration: m for m in run.dev}
        test = [run.measured.get(("test", n)) for n in (0, best)]
        rows.append([*map(md, facts), *map(rate, [dev.get(0), dev.get(best), *test])])
    header = ["run", "method", "seed", "iterations", "best", "dev, base", "dev, best", "test, base", "test, best"]
    return table(header, rows)


def _write_plot(runs: Sequence[Run], written: Report) -> None:
    """One panel per run with a line per class; for several runs also one that compares their means over classes."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    several, classes = len(runs) > 1, class_names(m for run in runs for m in run.dev)
    panels, last = len(runs) + several, max([1, *(m.iteration for run in runs for m in run.dev)])
    rows, columns = ceil(panels / 3), ceil(panels / ceil(panels / 3))
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")  # without a font for its script, a name appears as boxes
        height = max(1.2 + 3.6 * rows, 0.26 * (len(classes) + len(runs) + 5))  # one legend is above the other
        figure = Figure(figsize=(10, height), layout="constrained")
        axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for index, ax in enumerate(axes):
            colors = RUN_COLORS if index == len(runs) else CLASS_COLORS
            ax.set_prop_cycle(color=colors * len(MARKERS), marker=MARKERS * len(colors))
            ax.set(xlim=(-0.05 * last, 1.05 * last), ylim=(0, 1), xlabel="iteration (0 = base model)")
            ax.set_ylabel("" if index % columns else "accuracy on dev" if several else "accuracy on dev, 95 % interval")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.spines[["top", "right"]].set_visible(False)
        for run, ax in zip(runs, axes, strict=False):
            _plot_run(ax, run, classes, with_interval=not several)
        names = [short(name, 24) for name in classes]
        figure.legend(axes[0].get_lines(), names, title="class" if classes else "", loc="outside right upper")
        if several:
            axes[len(runs)].set_title("mean over classes\nof each run")
            for run in runs:
                means = {m.iteration: mean_over_classes(m.by_class) for m in run.dev if m.by_class}
                axes[len(runs)].plot(list(means), list(means.values()), clip_on=False, in_layout=False)
            lines, names = axes[len(runs)].get_lines(), [short(run.name, 24) for run in runs]
            figure.legend(lines, names, title="run", loc="outside right lower")
        for ax in axes[panels:]:
            ax.remove()
        figure.savefig(written.svg, metadata={"Date": None})
        figure.savefig(written.png, dpi=160)


def _plot_run(ax: "Axes", run: Run, classes: Sequence[str], *, with_interval: bool) -> None:
    ax.set_title(f"{short(run.name, 28)}\n{short(run.setting('method'), 28) if run.dev else 'not measured yet'}")
    for name in classes:
        rates = {m.iteration: m.by_class[name] for m in run.dev if name in m.by_class}
        # Not in the layout: with an empty line that is not clipped, the layout would leave no space for the rest.
        (line,) = ax.plot(list(rates), [r.accuracy for r in rates.values()], clip_on=False, in_layout=False)
        if with_interval:
            low, high = ([r.interval[side] for r in rates.values()] for side in (0, 1))
            ax.fill_between(list(rates), low, high, color=line.get_color(), alpha=0.12, linewidth=0)
            if len(rates) == 1:  # the band of a single point has no width
                ax.vlines(list(rates), low, high, color=line.get_color(), alpha=0.3)

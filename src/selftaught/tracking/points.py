"""What a tracker gets of a run: points on two axes, tables of texts, and files. Pure: records in, items out.

Live and afterwards the same functions make the same items, so that a tracker can be rebuilt from the run folder.
Steps of the optimizer and iterations are two axes of their own; neither is a tracker's own counter of calls, which
goes wrong when a run is carried on or has several phases.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from selftaught.methods.metrics import mean_over_classes, rate, solve_rate_gap
from selftaught.records.measurements import IterationSummary, Measurement, Rate, SamplingCounts
from selftaught.runs.reading import LoggedStep

STEP: Literal["train/step"] = "train/step"
ITERATION: Literal["iteration"] = "iteration"
Axis = Literal["train/step", "iteration"]

PASSES = "passes"
STEP_GROUP = "train"
ITERATION_GROUPS = (
    "rationale",
    "rationalization",
    "selection",
    "left_out",
    "training",
    "speed",
    "time",
    "dev",
    PASSES,
    "test",
    "extrapolation",
    "result",
    "eval",
)
"""The first part of every name, by the axis that its points are on."""

LONGEST_TEXT = 2_048
"""Characters of a cell of a table; a longer text is cut in its middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Points with one place on one axis: name -> value."""

    key: str
    """What identifies it within a run, so that it is sent once."""
    axis: Axis
    at: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """A table; every column has one type."""

    key: str
    name: str
    """Of this iteration alone: a second table under one name would take the place of the first."""
    iteration: int
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A file, or the files of a folder."""

    key: str
    kind: Literal["checkpoint", "training-set"]
    iteration: int
    path: str
    """Relative to the run folder."""

    @property
    def type(self) -> str:
        """In the trackers' words."""
        return "model" if self.kind == "checkpoint" else "dataset"


Item = Row | Texts | Files


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Floating point operations that a token is reckoned to take; None if the model's size is not known."""

    generated: float | None = None
    trained: float | None = None


def work_of(parameters: int | None, *, is_low_rank: bool) -> Work:
    """2 for each parameter forward, 2 for the gradients of what goes in and, unless it is frozen, 2 for its own.

    Attention over long contexts, prompts, and activations that are computed again are not in it.
    """
    if not parameters:
        return Work()
    return Work(generated=2.0 * parameters, trained=(4.0 if is_low_rank else 6.0) * parameters)


class StepRows:
    """Logged steps as rows, in the order in which they were taken: `train/step` counts over all trainings of a run."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._before = 0
        """Steps of the trainings before this one."""
        self._last: LoggedStep | None = None
        self._noise = [0.0, 0.0]

    def row(self, step: LoggedStep) -> Row:
        last = self._last
        if last is None or last.iteration != step.iteration or last.step >= step.step:
            if last is not None and last.iteration != step.iteration:
                self._before += last.step  # of a finished training the last step is logged
            last, self._noise = None, [0.0, 0.0]
        self._last = step
        values: dict[str, float | None] = {
            "loss": step.loss,
            "learning_rate": step.learning_rate,
            "grad_norm": step.grad_norm,
            "noise_scale": self._noise_scale(step),
            "peak_memory_gib": None if step.peak_bytes is None else step.peak_bytes / 2**30,
            "iteration": step.iteration,
        }
        if last is not None and (seconds := step.seconds - last.seconds) > 0:
            tokens_per_s = (step.tokens - last.tokens) / seconds
            values["steps_per_s"] = (step.step - last.step) / seconds
            values["tokens_per_s"] = tokens_per_s
            values["flop_per_s"] = None if self._work.trained is None else tokens_per_s * self._work.trained
        return Row(
            key=f"step/{step.iteration}/{step.step}",
            axis=STEP,
            at=self._before + step.step,
            values=_known(STEP_GROUP, values),
        )

    def _noise_scale(self, step: LoggedStep) -> float | None:
        """Over the logged steps of this training so far; None for a step without an estimate."""
        if step.noise is None or None in step.noise:
            return None
        for i, value in enumerate(step.noise):
            self._noise[i] += value or 0.0
        squared_norm, trace = self._noise
        return trace / squared_norm if squared_norm > 0 else None


def counts_row(iteration: int, kind: str, counts: SamplingCounts) -> Row:
    """The samples of a stage; `kind` is rationale or rationalization."""
    values: dict[str, float | None] = {"samples": counts.samples}
    if counts.samples:
        values |= {
            "solve_rate": counts.correct / counts.samples,
            "unparseable": counts.unparseable / counts.samples,
            "truncated": counts.truncated / counts.samples,
            "ended": None if counts.ended is None else counts.ended / counts.samples,
            "false_positive": _false_positives(counts.false_positive, counts.correct),
            "solutions_per_problem": counts.solutions_per_problem,
            "lucky": counts.lucky / counts.correct if counts.lucky is not None and counts.correct else None,
            **_checks(counts.checks),
        }
    return Row(key=f"{kind}/{iteration}", axis=ITERATION, at=iteration, values=_known(kind, values))


def counted(before: SamplingCounts | None, more: SamplingCounts) -> SamplingCounts:
    """The counts of several rounds of one stage."""
    if before is None:
        return more
    false = [c.false_positive for c in (before, more) if c.false_positive is not None]
    names = {**before.checks, **more.checks}
    none = Rate(n=0, correct=0, accuracy=0.0, interval=(0.0, 1.0))
    pairs = {name: (before.checks.get(name, none), more.checks.get(name, none)) for name in names}
    return SamplingCounts(
        samples=before.samples + more.samples,
        correct=before.correct + more.correct,
        incorrect=before.incorrect + more.incorrect,
        unparseable=before.unparseable + more.unparseable,
        truncated=before.truncated + more.truncated,
        false_positive=sum(false) if false else None,
        checks={name: rate(a.correct + b.correct, a.n + b.n) for name, (a, b) in pairs.items()},
        ended=_sum(before.ended, more.ended),
        complete_tokens=_sum(before.complete_tokens, more.complete_tokens),
        solved=_sum(before.solved, more.solved),
        solutions=_sum(before.solutions, more.solutions),
        lucky=before.lucky + more.lucky if before.lucky is not None and more.lucky is not None else None,
    )


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def measured_row(m: Measurement) -> Row:
    """A measurement of the loop; one of several samples a problem has names of its own."""
    group = m.split if m.num_samples == 1 else PASSES
    return Row(
        key=f"measured/{group}/{m.iteration}",
        axis=ITERATION,
        at=m.iteration,
        values=_known(group, _measured(m)),
    )


def later_row(m: Measurement, number: int, *, task: str | None) -> Row:
    """The number-th measurement that `eval` made of a run on `task`; of another task its name is in the points'."""
    group = f"eval/{m.split}" if m.task == task else f"eval/{_slug(m.task)}/{m.split}"
    return Row(key=f"eval/{number}", axis=ITERATION, at=m.iteration, values=_known(group, _measured(m)))


def iteration_row(summary: IterationSummary, work: Work) -> Row:
    """Everything of a finished iteration that is neither of its samples nor of a measurement."""
    train = summary.train
    values = {
        **_known(
            "training",
            {
                "loss": train.last_loss,
                "validation_loss": train.validation_loss,
                "dev_answer_loss": train.dev_answer_loss,
                "noise_scale": train.noise_scale,
                "steps": train.steps,
                "examples": summary.examples,
                "validation_examples": summary.validation_examples,
                "warnings": len(summary.warnings),
            },
        ),
        **_known("selection", {"kept_before": summary.kept_before.accuracy if summary.kept_before else None}),
        **_known(
            "dev",
            {
                f"{what}_{name}": getattr(of, what)
                for name, of in summary.dev_changes.items()
                for what in ("gained", "lost")
            },
        ),
        **_known("rationalization", {"solve_rate_gap": solve_rate_gap(summary)}),
        **_known("selection", {f"from_{source}": n for source, n in summary.examples_by_source.items()}),
        **_known("left_out", dict(summary.left_out)),
        **_known("time", {f"{stage}_s": s for stage, s in summary.seconds.items()}),
        **_known("time", {f"work_{kind}_s": s for kind, s in summary.work_s.items()}),
        **_known("speed", {f"{stage}_tokens_per_s": t for stage, t in summary.tokens_per_s.items()}),
    }
    for stage, tokens_per_s in summary.tokens_per_s.items():
        per_token = work.trained if stage == "train" else work.generated
        if per_token is not None:
            values[f"speed/{_slug(stage)}_flop_per_s"] = tokens_per_s * per_token
    return Row(key=f"iteration/{summary.iteration}", axis=ITERATION, at=summary.iteration, values=values)


def result_row(best: int, base: float, test: float) -> Row:
    """How a run ended: its best iteration, and the accuracy on test of the base model and of that one."""
    values = {"result/best_iteration": best, "result/base_accuracy": base, "result/test_accuracy": test}
    return Row(key="result", axis=ITERATION, at=best, values=values)


def warnings_table(summary: IterationSummary) -> Texts | None:
    if not summary.warnings:
        return None
    return Texts(
        key=f"warnings/{summary.iteration}",
        name=f"warnings/iteration-{summary.iteration:03d}",
        iteration=summary.iteration,
        columns=("warning",),
        rows=tuple((warning,) for warning in summary.warnings),
    )


def capped(text: str) -> str:
    """A text of at most about `LONGEST_TEXT` characters."""
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"


def _measured(m: Measurement) -> dict[str, float | None]:
    low, high = m.interval
    return {
        "accuracy": m.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "mean_over_classes": mean_over_classes(m.by_class) if m.by_class else None,
        "n": m.n,
        "unparseable": m.unparseable / m.n if m.n else None,
        "truncated": m.truncated / m.n if m.n else None,
        "false_positive": _false_positives(m.false_positive, m.correct),
        "majority": m.majority_at_k,
        **{f"pass@{k}": chance for k, chance in m.pass_at_k.items()},
        **{f"class/{name}": of.accuracy for name, of in m.by_class.items()},
        **_checks(m.checks),
    }


def _false_positives(number: int | None, correct: int) -> float | None:
    """Share of the correct ones whose reasoning is wrong."""
    return None if number is None or not correct else number / correct


def _checks(checks: Mapping[str, Rate]) -> dict[str, float | None]:
    return {f"check/{name}": of.accuracy if of.n else None for name, of in checks.items()}


def _known(group: str, values: Mapping[str, float | None]) -> dict[str, float]:
    """The values that there are, by their whole names."""
    return {f"{group}/{_slug(name)}": value for name, value in values.items() if value is not None}


def _slug(name: str) -> str:
    """A name without characters that trackers use for themselves."""
    return re.sub(r"[^\w.@/+-]+", "_", name)

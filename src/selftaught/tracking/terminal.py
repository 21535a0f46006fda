"""What a person sees during a run: a live display on a terminal, plain lines elsewhere; always on stderr.

The lines also go to logs/attempt-<n>.log in the run folder, one file per start.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from selftaught.methods.metrics import check_rates, mean_over_classes, rate_text
from selftaught.records.errors import StoreError
from selftaught.records.measurements import IterationSummary, Measurement, Rate
from selftaught.records.problems import Problem, Verdict
from selftaught.records.samples import Sample
from selftaught.records.training import Checkpoint, StepMetrics
from selftaught.report.tables import fitting
from selftaught.stages.summary import work_text

PLAIN_EVERY_S = 30.0
LONGEST_TEXT = 1_500
"""Characters of a prompt or a completion; a longer one is cut in its middle."""
BASE = "base model"
BAR_WIDTH = 24
"""Characters."""


class _Line(ProgressColumn):
    """The stage that is running: name, bar, count, facts and the time left, as far as they fit into the line."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        total, left = int(task.total or 0), task.time_remaining
        is_plain = not self._console.encoding.startswith("utf")
        done = int(BAR_WIDTH * task.completed / total) if total else BAR_WIDTH
        bar = ("#" * done + "-" * (BAR_WIDTH - done)) if is_plain else ("━" * done + "╌" * (BAR_WIDTH - done))
        pieces = [
            task.description,
            bar,
            f"{int(task.completed)}/{total}",
            str(task.fields["facts"]),
            "" if left is None else f"{timedelta(seconds=ceil(left))} left",
        ]
        return Text(fitting(pieces, (2, 0, 3, 4, 1), self._console.width), no_wrap=True, overflow="ignore", end="")


class TerminalProgress:
    """One line per stage, one complete sample per iteration, and in between the progress of the stage that runs."""

    def __init__(self, console: Console, max_iterations: int, log_dir: Path) -> None:
        self._console = console
        self._log_dir = log_dir
        self._log: TextIO | None = None
        self._max_iterations = max_iterations
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._name = ""
        self._total = self._count = self._correct = self._tokens = 0
        self._began = self._last_line = 0.0

    def close(self) -> None:
        """Take the live display off the terminal, and close the log."""
        self._stop_live()
        if self._log is not None:
            with contextlib.suppress(OSError):  # _say has reported what cannot be written
                self._log.close()
            self._log = None

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def stage(self, iteration: int, name: str, total: int, done: Sequence[Sample] = ()) -> None:
        self._stop_live()
        self._name = f"{self._where(iteration)}  {name}"
        self._total, self._count = total, len(done)
        self._correct = sum(s.verdict is Verdict.CORRECT for s in done)
        self._tokens = 0
        self._began = self._last_line = time.monotonic()
        if done and len(done) < total:
            self._say(f"{self._name}: {len(done)} of {total} are on disk, {total - len(done)} are left to do")
        if self._console.is_terminal and len(done) < total:
            self._live = Progress(_Line(self._console), console=self._console, transient=True)
            self._task = self._live.add_task(self._name, total=total, completed=len(done), facts="")
            self._live.start()

    def sample(self, sample: Sample) -> None:
        self._count += 1
        self._correct += sample.verdict is Verdict.CORRECT
        self._tokens += sample.num_tokens
        seconds = max(time.monotonic() - self._began, 1e-3)
        self._now(f"{self._correct} correct  {self._tokens / seconds:.0f} tokens/s")

    def step(self, metrics: StepMetrics) -> None:
        self._count = metrics.step
        rate = metrics.tokens / max(metrics.seconds, 1e-3)
        self._now(f"loss {metrics.loss:.4f}  {rate:.0f} tokens/s")

    def show(self, prompt: str, problem: Problem, sample: Sample) -> None:
        if sample.kind == "evaluation":
            return
        lines = [
            f"{self._where(sample.iteration)}  the first {sample.kind} in full (problem {problem.id}):",
            *_indented("prompt", prompt),
            *_indented("completion", sample.completion),
            f"    prediction {sample.prediction!r}  answer {problem.answer!r}  {sample.verdict}  "
            f"ended by {sample.finish_reason}",
        ]
        self._say("\n".join(lines))

    def stage_done(self, iteration: int, name: str, samples: Sequence[Sample]) -> None:
        self._stop_live()
        if not samples or samples[0].kind == "evaluation":
            return
        correct = sum(s.verdict is Verdict.CORRECT for s in samples)
        parts = [f"{len(samples)} samples", f"{correct} correct ({correct / len(samples):.2f})"]
        for count, what in (
            (sum(s.verdict is Verdict.UNPARSEABLE for s in samples), "unparseable"),
            (sum(s.finish_reason == "length" for s in samples), "truncated"),
            (sum(s.is_false_positive for s in samples), "false positives"),
        ):
            parts += [f"{count} {what}"] if count else []
        parts += _rates(check_rates(samples))
        self._say(f"{self._where(iteration)}  {name:<16}{'  '.join(parts)}{self._rate()}")

    def trained(self, iteration: int, checkpoint: Checkpoint) -> None:
        self._stop_live()
        train = checkpoint.train
        loss = f"loss {_number(train.first_loss)} -> {_number(train.last_loss)}"
        loss += f"  validation {_number(train.validation_loss)}"
        self._say(
            f"{self._where(iteration)}  {'train':<16}{checkpoint.examples} examples  {train.steps} steps  {loss}  "
            f"{train.seconds:.0f} s"
        )

    def measured(self, measurement: Measurement) -> None:
        self._stop_live()
        m = measurement
        classes = "  ".join(f"{name}: {s.accuracy:.2f}" for name, s in m.by_class.items())
        self._say(
            f"{self._where(m.iteration)}  {m.split:<16}accuracy {rate_text(m)}  by class {classes}  "
            + "  ".join([f"mean {mean_over_classes(m.by_class):.3f}", *_rates(m.checks)])
        )

    def iteration_done(self, summary: IterationSummary) -> None:
        self._say(f"{self._where(summary.iteration)}  {'time':<16}{work_text(summary.work_s)}")
        for warning in summary.warnings:
            self._say(f"{self._where(summary.iteration)}  warning: {warning}")

    def note(self, text: str) -> None:
        self._stop_live()
        self._say(text)

    def _where(self, iteration: int) -> str:
        return f"iteration {iteration}/{self._max_iterations}" if iteration else BASE

    def _rate(self) -> str:
        seconds = time.monotonic() - self._began
        return f"  {self._tokens / seconds:.0f} tokens/s" if self._tokens and seconds > 0 else ""

    def _now(self, facts: str) -> None:
        if self._live is not None and self._task is not None:
            rate = self._count / max(time.monotonic() - self._began, 1e-3)
            self._live.update(self._task, completed=self._count, facts=f"{rate:.1f}/s  {facts}")
        elif not self._console.is_terminal and time.monotonic() - self._last_line > PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            self._say(f"{self._name}: {self._count} of {self._total}  {facts}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
        try:
            if self._log is None:
                # Opened at the first line, because the folder exists only once the run has its lock.
                number = 1 + sum(1 for _ in self._log_dir.glob("attempt-*.log"))
                self._log = (self._log_dir / f"attempt-{number:03d}.log").open("a", encoding="utf-8")
            self._log.write(text + "\n")
            self._log.flush()
        except OSError as error:
            raise StoreError(
                f"cannot write the log in {self._log_dir}: {error.strerror}; free some space and run it again"
            ) from error


def _indented(name: str, text: str) -> list[str]:
    """Text that a model may have written: printed as it is, cut in the middle if it is long, never interpreted."""
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2
        text = f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"
    printable = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return [f"    {name}:", *(f"      | {line}" for line in printable.split("\n"))]


def _rates(checks: Mapping[str, Rate]) -> list[str]:
    return [f"{name} {rate.correct}/{rate.n}" for name, rate in checks.items()]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"

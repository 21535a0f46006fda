"""What a person sees during a run: a live display on a terminal, plain lines elsewhere; always on stderr."""

import time
from datetime import timedelta
from math import ceil

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from selftaught.records.events import Event, SampleMade, StageBegan, StepTaken, TokensGenerated, WorkersChanged
from selftaught.records.problems import Verdict
from selftaught.report.tables import fitting
from selftaught.tracking.text import stage_name, text_of, workers_text

PLAIN_EVERY_S = 30.0
BAR_WIDTH = 24
"""Characters."""


class _Line(ProgressColumn):
    """The stage that is running: name, bar, count, facts and the time left, as far as they fit into the line."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        total, left = int(task.total or 0), task.time_remaining
        count = f"{int(task.completed)}/{total}" if total else f"{int(task.completed)}"
        is_plain = not self._console.encoding.startswith("utf")
        done = int(BAR_WIDTH * task.completed / total) if total else BAR_WIDTH
        bar = ("#" * done + "-" * (BAR_WIDTH - done)) if is_plain else ("━" * done + "╌" * (BAR_WIDTH - done))
        pieces = [
            task.description,
            bar,
            count,
            str(task.fields["facts"]),
            "" if left is None else f"{timedelta(seconds=ceil(left))} left",
        ]
        return Text(fitting(pieces, (2, 0, 3, 4, 1), self._console.width), no_wrap=True, overflow="ignore", end="")


class Terminal:
    """One line per stage, one complete sample per iteration, and in between the progress of the stage that runs."""

    def __init__(self, console: Console, max_iterations: int) -> None:
        self._console = console
        self._max_iterations = max_iterations
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._name = ""
        self._total: int | None = 0
        self._workers: WorkersChanged | None = None
        self._count = self._correct = self._told_tokens = self._finished_tokens = 0
        self._began = self._last_line = 0.0

    def tell(self, event: Event) -> None:
        match event:
            case SampleMade(sample=sample):
                self._count += 1
                self._correct += sample.verdict is Verdict.CORRECT
                self._finished_tokens += sample.num_tokens
                self._now(self._sampling())
            case TokensGenerated(tokens=tokens):
                self._told_tokens += tokens
                self._now(self._sampling())
            case WorkersChanged():
                self._workers = event
                self._now(self._sampling())
            case StepTaken(metrics=metrics):
                self._count = metrics.step
                rate = metrics.tokens / max(metrics.seconds, 1e-3)
                self._now(f"loss {metrics.loss:.4f}  {rate:.0f} tokens/s")
        text = text_of(event, self._max_iterations)
        if text is not None or isinstance(event, StageBegan):
            self._stop_live()
        if text is not None:
            self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
        if isinstance(event, StageBegan):
            self._begin(event)

    def close(self) -> None:
        """Take the live display off the terminal."""
        self._stop_live()

    def _begin(self, event: StageBegan) -> None:
        self._name = stage_name(event, self._max_iterations)
        self._total, self._count, self._correct = event.total, event.done, event.correct
        self._told_tokens = self._finished_tokens = 0
        self._began = self._last_line = time.monotonic()
        if self._console.is_terminal and event.done != event.total:
            self._live = Progress(_Line(self._console), console=self._console, transient=True)
            self._task = self._live.add_task(self._name, total=event.total, completed=event.done, facts="")
            self._live.start()

    def _sampling(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-3)
        tokens = max(self._told_tokens, self._finished_tokens)  # not every engine tells its tokens
        workers = f"  {workers_text(self._workers)}" if self._workers and self._workers.has_workers else ""
        return f"{self._correct} correct  {tokens} tokens  {tokens / seconds:.0f} tokens/s{workers}"

    def _now(self, facts: str) -> None:
        if self._live is not None and self._task is not None:
            rate = self._count / max(time.monotonic() - self._began, 1e-3)
            self._live.update(self._task, completed=self._count, facts=f"{rate:.1f}/s  {facts}")
        elif not self._console.is_terminal and time.monotonic() - self._last_line > PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            of = "" if self._total is None else f" of {self._total}"
            self._console.print(f"{self._name}: {self._count}{of}  {facts}", markup=False, soft_wrap=True)

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

"""Listeners that write into the run folder: the log of this start, and metrics.jsonl."""

from pathlib import Path
from typing import TextIO

from selftaught.records.events import Event, StepTaken
from selftaught.runs.store import append_metrics
from selftaught.tracking.text import text_of


class LogFile:
    """logs/attempt-<n>.log: what the terminal shows, one file for each start of the run."""

    def __init__(self, run_dir: Path, max_iterations: int) -> None:
        self._folder = run_dir / "logs"
        self._max_iterations = max_iterations
        self._file: TextIO | None = None

    def tell(self, event: Event) -> None:
        text = text_of(event, self._max_iterations)
        if text is None:
            return
        if self._file is None:
            # Opened at the first line, because the folder exists only once the run has its lock.
            number = 1 + sum(1 for _ in self._folder.glob("attempt-*.log"))
            self._file = (self._folder / f"attempt-{number:03d}.log").open("a", encoding="utf-8")
        self._file.write(text + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class MetricsFile:
    """metrics.jsonl: a line for every n-th optimizer step, for the first and for the last one."""

    def __init__(self, run_dir: Path, every: int) -> None:
        self._run_dir, self._every = run_dir, every

    def tell(self, event: Event) -> None:
        if isinstance(event, StepTaken) and is_logged(event.metrics.step, event.steps, self._every):
            append_metrics(self._run_dir, event.iteration, event.metrics)

    def close(self) -> None:
        pass


def is_logged(step: int, steps: int, every: int) -> bool:
    """Whether a step of so many has a line: the first, every n-th and the last have."""
    return step in (1, steps) or step % every == 0

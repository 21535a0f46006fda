"""Listeners: who is told what a run does; the table of those that every run has."""

from collections.abc import Callable, Sequence
from pathlib import Path

from selftaught.config.settings import RunConfig
from selftaught.records.events import Listener
from selftaught.tracking.files import LogFile, MetricsFile
from selftaught.tracking.mirror import Mirror

OF_EVERY_RUN: tuple[Callable[[Path, RunConfig], Listener], ...] = (
    lambda run_dir, config: LogFile(run_dir, config.loop.max_iterations),
    lambda run_dir, config: MetricsFile(run_dir, config.tracking.log_every_steps),
)
"""How each is made from the run folder, which may not exist yet, and the settings; called at every start of a run."""


def mirrors_of(run_dir: Path, config: RunConfig) -> list[Mirror]:
    """Those that the config asks for (`trackers.TRACKERS`), which are opened when the folder is there. They are told
    before other listeners, which hear how they end."""
    return [Mirror(name, run_dir, config.tracking) for name in dict.fromkeys(config.tracking.backends)]


def open_mirrors(mirrors: Sequence[Mirror], note: Callable[[str], None]) -> None:
    """Open all at the same time. Raises ConfigError for one that cannot be written."""
    for mirror in mirrors:
        mirror.begin(note)
    for mirror in mirrors:
        mirror.wait()

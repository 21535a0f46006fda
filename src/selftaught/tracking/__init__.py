"""Listeners: who is told what a run does; the table of those that every run has."""

from collections.abc import Callable
from pathlib import Path

from selftaught.config.settings import RunConfig
from selftaught.records.events import Listener
from selftaught.tracking.files import LogFile, MetricsFile

OF_EVERY_RUN: tuple[Callable[[Path, RunConfig], Listener], ...] = (
    lambda run_dir, config: LogFile(run_dir, config.loop.max_iterations),
    lambda run_dir, config: MetricsFile(run_dir, config.tracking.log_every_steps),
)
"""How each is made from the run folder, which may not exist yet, and the settings; called at every start of a run."""

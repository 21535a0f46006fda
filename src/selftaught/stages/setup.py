"""Everything that a run needs from outside, as one record: commands/run.py makes it, the loop uses it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine
from selftaught.machine.command_lines import command
from selftaught.machine.devices import NumberType
from selftaught.methods.method import Method
from selftaught.records.errors import Interrupted, Suspended
from selftaught.records.events import Event
from selftaught.records.problems import Task
from selftaught.records.samples import ModelRef
from selftaught.runs.shared_chunks import SharedChunks
from selftaught.runs.store import RunStore
from selftaught.stages.weight_proof import NOISE
from selftaught.stages.workers.protocol import WorkerSource
from selftaught.training.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    config: RunConfig
    task: Task
    base: ModelRef
    store: RunStore
    open_engine: Callable[[ModelRef], Engine]
    open_trainer: Callable[[], Trainer]
    chunk: int
    """Completions that are generated and saved as one unit."""
    dtype: NumberType | None = None
    """What the run computes in; None if it computes nothing here."""
    noise: float = NOISE
    """If two models differ by less than this (nats), the engine's log-probabilities cannot distinguish them."""
    method: Method
    shared: SharedChunks | None = None
    """Chunks of the base model that other runs of a comparison have made; None for a run alone."""
    source: WorkerSource | None = None
    """Where the processes come from that sample for the run; None if it samples by itself."""
    num_workers: int = 0
    """How many of them there are to be."""
    platform: str | None = None
    """What the first of them that was ready said of its machine, in an earlier start; None if none was."""
    keep_platform: Callable[[str], None] = lambda platform: None
    """Told the platform of the first one ever, for later starts."""
    clock: Callable[[], float] = time.monotonic
    """What the time that they take is read from."""
    tell: Callable[[Event], None] = lambda event: None
    """Called with everything that happens; whoever listens changes nothing in the run."""
    should_stop: Callable[[], bool] = lambda: False
    """Called after every chunk and every optimizer step; True stops the run there, with everything finished saved."""
    suspended_by: Callable[[], str] = lambda: ""
    """Called where `should_stop` is: what wants the run to end until a later start, such as SIGTERM; empty for nothing.
    """


def is_stopped(setup: Setup) -> bool:
    """Whether `raise_if_stopped` would raise."""
    return setup.should_stop() or bool(setup.suspended_by())


def raise_if_stopped(setup: Setup, *, lost: str = "") -> None:
    """Raise Interrupted if the user has stopped the run, and Suspended if a scheduler or its time limit has.

    `lost` says what is in hand and will be done again; empty for nothing.
    """
    raise_if(setup.should_stop, setup.suspended_by, setup.store.dir, lost=lost)


def raise_if(
    should_stop: Callable[[], bool], suspended_by: Callable[[], str], run_dir: Path, *, lost: str = ""
) -> None:
    """`raise_if_stopped` for what has no `Setup`."""
    saved = f"{lost}; what is finished is saved. Carry on with: {command('run', '--resume', run_dir)}"
    if should_stop():
        raise Interrupted(f"stopped{saved}")
    if by := suspended_by():
        raise Suspended(f"stopped by {by}{saved}")

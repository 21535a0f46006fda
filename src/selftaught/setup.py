"""Everything that a run needs from outside, as one record: launch.py makes it, the loop uses it."""

from collections.abc import Callable
from dataclasses import dataclass

from selftaught.checks.weights import NOISE
from selftaught.engines import Engine
from selftaught.problems import Task
from selftaught.progress import Progress
from selftaught.records import ModelRef
from selftaught.settings import RunConfig
from selftaught.store import RunStore
from selftaught.training import Trainer


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
    noise: float = NOISE
    """If two models differ by less than this (nats), the engine's log-probabilities cannot distinguish them."""
    progress: Progress
    should_stop: Callable[[], bool] = lambda: False
    """Called after every chunk and every optimizer step; True stops the run there, with everything finished saved."""

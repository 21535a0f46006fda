"""Everything that a run needs from outside, as one record: launch.py makes it, the loop uses it."""

from collections.abc import Callable
from dataclasses import dataclass

from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine
from selftaught.records.problems import Task
from selftaught.records.progress import Progress
from selftaught.records.samples import ModelRef
from selftaught.runs.store import RunStore
from selftaught.stages.weight_proof import NOISE
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
    noise: float = NOISE
    """If two models differ by less than this (nats), the engine's log-probabilities cannot distinguish them."""
    progress: Progress
    should_stop: Callable[[], bool] = lambda: False
    """Called after every chunk and every optimizer step; True stops the run there, with everything finished saved."""

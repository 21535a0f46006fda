"""What a run gives its engine and its trainer when it opens them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selftaught.machine.cluster import THIS_MACHINE, ClusterConfig
from selftaught.machine.devices import Machine
from selftaught.machine.platforms import TrainingPlatform
from selftaught.machine.workers import Worker
from selftaught.records.prompts import ChatSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    machine: Machine
    workers: Sequence[Worker] = ()
    """The processes of the run beside this one; they are started when they first get work."""
    cluster: ClusterConfig = THIS_MACHINE
    training_platform: TrainingPlatform = field(default_factory=TrainingPlatform)
    """What the ranks of all the run's trainings must have, if there are several."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run."""
    chat: ChatSettings | None = None
    """What the model's chat template is given; None for a run whose prompts are text."""
    log_dir: Path | None = None
    """Where a server that is started writes its log; None if nobody keeps it."""
    served_dir: Path | None = None
    """Where a model is written for a server that takes no adapters, for as long as it runs; None is a temporary folder
    of the system."""
    note: Callable[[str], None] = lambda line: None
    """Told what the user should know of how the work is done, a line at a time."""
    on_tokens: Callable[[int], None] = lambda tokens: None
    """Told by the engine while it generates: how many tokens it has generated since it last told."""
    raise_if_stopped: Callable[[], None] = lambda: None
    """Called while something is waited for that may take long; raises if the run is to end."""

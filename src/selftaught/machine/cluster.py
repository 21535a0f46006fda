"""The section [cluster]: the processes that sample and train for a run, on this machine or in a Ray cluster."""

import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from selftaught.machine.devices import Machine
from selftaught.records.errors import ConfigError
from selftaught.records.sections import Count, Positive, Section, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one process that samples or trains needs of a node."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        kinds = ((self.cpus, "CPU"), (self.gpus, "GPU"))
        return " and ".join(counted(count, kind) for count, kind in kinds if count)


def counted(count: float, what: str) -> str:
    """1 GPU, 0.5 GPUs, 8 GPUs."""
    return f"{count:g} {what}{'' if count == 1 else 's'}"


class ClusterConfig(Section):
    """Nothing here but `train_workers` decides a byte of the run folder, so the rest may differ at each start."""

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"address", "workers", "gpus_per_worker", "chunk_timeout", "max_losses", "any_machine"}
    )

    address: Text | None = Field(
        None,
        description="A Ray cluster: `auto` for the one that this machine belongs to, or `HOST:PORT`; absent is this machine alone.",
    )
    workers: Count | None = Field(
        None,
        description="Processes that sample, each with an engine of its own; absent is one for each GPU, and none beside the run itself without several GPUs.",
    )
    gpus_per_worker: float = Field(
        1.0, gt=0.0, le=64.0, description="GPUs of each process that samples; below 1 several share one."
    )
    train_workers: Positive = Field(
        1,
        description="Processes that share every training step; they decide the last bits of the weights, so a run keeps their number.",
    )
    chunk_timeout: Positive = Field(
        3600, description="Seconds after which a chunk that a worker has not finished is made by another one as well."
    )
    max_losses: Count = Field(
        20, description="Workers that a start of the run may lose before it gives up; what was finished is saved."
    )
    any_machine: bool = Field(
        False,
        description="Let workers sample and train whose GPU, driver or versions differ from those of the first; the run then no longer repeats itself byte for byte, and run.json says so.",
    )

    def check(self) -> None:
        """Raise ConfigError if GPUs cannot be given out so, or if this machine lacks what a cluster needs."""
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ConfigError(
                f"cluster.gpus_per_worker = {self.gpus_per_worker:g}: above 1 a worker has whole GPUs; use a whole "
                "number, or one below 1 for several workers on one GPU"
            )
        if self.address is None:
            return
        if find_spec("ray") is None:
            raise ConfigError(
                f"cluster.address = {self.address!r} needs Ray, which is not installed; "
                "run `pip install 'selftaught[cluster]'` here and on every node"
            )

    def needs(self, machine: Machine) -> Needs:
        """What each process that samples needs: on a CPU, its threads."""
        if machine.device == "cuda":
            return Needs(cpus=1, gpus=self.gpus_per_worker)
        return Needs(cpus=machine.threads * machine.workers, gpus=0)


def needs_of_rank(machine: Machine) -> Needs:
    """What each of the processes that share a training needs."""
    if machine.device == "cuda":
        return Needs(cpus=0, gpus=1)
    return Needs(cpus=machine.of_rank.threads, gpus=0)


def comes_to_see(path: Path, content: str, *, within_s: float) -> bool:
    """Whether a file is there, with this content, or will be in time: a network filesystem may show it a little
    later."""
    end = time.monotonic() + within_s
    while True:
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == content:
                return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.5)


THIS_MACHINE = ClusterConfig()
"""No cluster."""

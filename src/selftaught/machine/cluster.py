"""The section [cluster]: the processes that sample and train for a run, on this machine or in a Ray cluster."""

from typing import ClassVar

from pydantic import Field

from selftaught.records.sections import Count, Positive, Section, Text


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
    gpus_per_worker: float = Field(1.0, ge=0.0, le=64.0, description="GPUs of each process that samples.")
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
        description="Let workers sample whose GPU, driver or versions differ from those of the first; the run then no longer repeats itself byte for byte, and run.json says so.",
    )


THIS_MACHINE = ClusterConfig()
"""No cluster."""

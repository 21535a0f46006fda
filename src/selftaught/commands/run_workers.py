"""Where the workers of a run come from: none, or processes of this machine; cluster.py has those of a Ray cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from selftaught.commands.chunk_worker import refuse_program, serve
from selftaught.config.resolving import Resolved
from selftaught.config.settings import RunConfig
from selftaught.machine.devices import visible_gpus
from selftaught.records.errors import ConfigError
from selftaught.stages.workers.processes import LocalProcesses, device_groups
from selftaught.stages.workers.protocol import WorkerSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The processes that sample for a run."""

    source: WorkerSource | None = None
    """None for a run that samples by itself."""
    number: int = 0
    lines: tuple[str, ...] = ()
    """What the user should know of them."""


def sampling_processes(
    config: RunConfig, resolved: Resolved, run_dir: Path, *, from_python: Sequence[str], shared: Path | None = None
) -> Sampling:
    """The workers that a config asks for, or that several GPUs suggest; no process is started yet.

    `from_python` is what came from a program; `shared` is the folder of the chunks that runs of a comparison have in
    common. Raises ConfigError and RefusedError for workers that are asked for and cannot be had.
    """
    asked = config.cluster.workers
    if asked == 0 or config.cluster.address is not None:
        return Sampling()
    if asked is not None:
        refuse_program(from_python)
    groups = device_groups(visible_gpus(), config.cluster.gpus_per_worker) if resolved.device == "cuda" else []
    if asked is None:
        if len(groups) < 2 or not _may_be_split(config, from_python):
            return Sampling()
        asked = len(groups)
    if resolved.device == "cuda" and asked > len(groups):
        raise ConfigError(
            f"cluster.workers = {asked}, but {len(visible_gpus())} GPUs are visible, enough for {len(groups)} with "
            f"cluster.gpus_per_worker = {config.cluster.gpus_per_worker:g}; lower one of the two"
        )
    source = LocalProcesses(
        partial(serve, shared=shared and shared.absolute()), run_dir, gpus=groups[:asked], log_dir=run_dir / "logs"
    )
    where = f"GPU {', '.join(groups[:asked])}" if groups else "the CPUs"
    return Sampling(source=source, number=asked, lines=(f"{asked} worker processes sample, on {where}",))


def _may_be_split(config: RunConfig, from_python: Sequence[str]) -> bool:
    """Whether a run that asks for no workers may have some: not where the engine itself takes several GPUs."""
    parallel = "parallel" in (getattr(config.engine, "vllm_args", None) or "")
    return config.engine.computes_here and not parallel and not {"task", "engine"} & set(from_python)

"""The Ray cluster that a config names: joined, looked at, and refused before anything is written if it will not do."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from selftaught.config.resolving import Resolved
from selftaught.machine.cluster import ClusterConfig
from selftaught.records.errors import ConfigError

if TYPE_CHECKING:
    from selftaught.stages.workers.ray_workers import RayWorkers


@contextmanager
def in_cluster(settings: ClusterConfig, resolved: Resolved, run_dir: Path) -> Iterator[int]:
    """Be in the cluster while the context lasts; gives the number of workers that there are to be.

    Raises ConfigError for a cluster that cannot be joined, a node where no worker could work, and too few GPUs or CPUs.
    """
    from selftaught.machine.ray_cluster import joined, look, nonce_in, refusals, refuse_too_few

    assert settings.address is not None
    settings.check()
    with joined(settings.address):
        with nonce_in(run_dir) as nonce:
            nodes = look(nonce=nonce)
        needs = settings.needs(resolved.machine)
        workers = refuse_too_few(nodes, needs, settings.workers)
        if wrong := refusals(nodes, needs, run_dir):
            more = f" (and {len(wrong) - 1} more: selftaught doctor)" if len(wrong) > 1 else ""
            raise ConfigError(f"cluster.address = {settings.address!r}: {wrong[0]}{more}")
        yield workers


def ray_workers(
    settings: ClusterConfig, resolved: Resolved, run_dir: Path, note: Callable[[str], None]
) -> "AbstractContextManager[RayWorkers]":
    """The source of workers of a run that is in a cluster and holds its folder's lock."""
    from selftaught.stages.workers.ray_workers import RayWorkers

    return RayWorkers(run_dir, settings.needs(resolved.machine), note=note)

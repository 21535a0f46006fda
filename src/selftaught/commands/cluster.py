"""The Ray cluster that a config names: joined, looked at, and refused before anything is written if it will not do."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selftaught.commands.chunk_worker import refuse_program
from selftaught.config.resolving import Resolved
from selftaught.config.settings import RunConfig
from selftaught.machine.cluster import ClusterConfig
from selftaught.records.errors import ConfigError
from selftaught.records.events import Event, Note
from selftaught.stages.workers.protocol import WorkerSource


@contextmanager
def in_its_cluster(
    config: RunConfig, resolved: Resolved, run_dir: Path, *, from_python: Sequence[str], is_shared: bool
) -> Iterator[int]:
    """Be in the cluster that a config names while the context lasts; gives the number of workers that there are to be
    there, 0 without a cluster.

    `from_python` is what came from a program; `is_shared` says whether the run shares chunks with other runs. Raises
    ConfigError for a cluster that cannot be joined, a node where no worker could work, and too few GPUs or CPUs, and
    RefusedError for a run that workers cannot make.
    """
    settings = config.cluster
    if settings.address is None:
        yield 0
        return
    if is_shared:
        raise ConfigError(
            f"cluster.address = {settings.address!r}: the runs of a comparison share chunks, which workers do not; "
            "leave it out of a comparison"
        )
    if settings.workers != 0:
        refuse_program(from_python)
    from selftaught.machine.ray_cluster import joined, look, nonce_in, refusals, refuse_too_few

    with joined(settings.address):
        if settings.workers == 0:
            yield 0
            return
        with nonce_in(run_dir) as nonce:
            nodes = look(nonce=nonce)
        needs = settings.needs(resolved.machine)
        workers = refuse_too_few(nodes, needs, settings.workers)
        if wrong := refusals(nodes, needs, run_dir):
            more = f" (and {len(wrong) - 1} more: selftaught doctor)" if len(wrong) > 1 else ""
            raise ConfigError(f"cluster.address = {settings.address!r}: {wrong[0]}{more}")
        yield workers


@contextmanager
def cluster_workers(
    settings: ClusterConfig, resolved: Resolved, run_dir: Path, tell: Callable[[Event], None]
) -> Iterator[WorkerSource | None]:
    """The source of workers of a run that is in its cluster and holds its folder's lock; None without a cluster."""
    if settings.address is None or settings.workers == 0:
        yield None
        return
    from selftaught.stages.workers.ray_workers import RayWorkers

    def note(line: str) -> None:
        tell(Note(text=line))

    needs = settings.needs(resolved.machine)
    with RayWorkers(run_dir, needs, note=note) as source:
        note(f"the workers of the Ray cluster at {settings.address} sample, with {needs} each")
        yield source

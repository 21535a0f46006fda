"""The Ray cluster that a config names: joined, looked at, and refused before anything is written if it will not do."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selftaught.commands.chunk_worker import refuse_program
from selftaught.commands.run_workers import Sampling
from selftaught.config.resolving import Resolved
from selftaught.config.settings import RunConfig
from selftaught.machine.cluster import ClusterConfig, counted, needs_of_rank
from selftaught.records.errors import ConfigError
from selftaught.records.events import Event, Note
from selftaught.stages.workers.protocol import WorkerSource


@contextmanager
def in_its_cluster(
    config: RunConfig, resolved: Resolved, run_dir: Path, *, from_python: Sequence[str]
) -> Iterator[Sampling]:
    """Be in the cluster that a config names while the context lasts; gives how many workers there are to be there.

    `from_python` is what came from a program. Raises ConfigError for a cluster that cannot be joined, a node where no
    worker or rank could work, and too few GPUs or CPUs for either, and RefusedError for a run that workers cannot make.
    """
    settings = config.cluster
    if settings.address is None:
        yield Sampling()
        return
    from selftaught.machine.ray_cluster import joined, unused_gpus

    if settings.workers != 0:
        refuse_program(from_python)
    with joined(settings.address):
        unused = tuple(filter(None, [unused_gpus(resolved.device)]))
        workers = _workers_with_room(settings, resolved, run_dir)
        if not workers:
            yield Sampling(lines=unused)
            return
        each = f", with {settings.needs(resolved.machine)}{' each' if workers > 1 else ''}"
        yield Sampling(number=workers, lines=(f"{counted(workers, 'worker')} of the Ray cluster sample{each}", *unused))


def _workers_with_room(settings: ClusterConfig, resolved: Resolved, run_dir: Path) -> int:
    """How many workers sample in the cluster that this process is in. Raises ConfigError for what would end the run
    later, in a training too, which may be hours of sampling away."""
    from selftaught.machine.ray_cluster import look, nonce_in, refusals, refuse_too_few, refuse_too_few_for_ranks

    of_worker = [] if settings.workers == 0 else [settings.needs(resolved.machine)]
    of_rank = [] if settings.train_workers == 1 else [needs_of_rank(resolved.machine)]
    if not (of_worker or of_rank):
        return 0
    with nonce_in(run_dir) as nonce:
        nodes = look(nonce=nonce)
    workers = sum(refuse_too_few(nodes, needs, settings.workers) for needs in of_worker)
    for needs in of_rank:
        refuse_too_few_for_ranks(nodes, needs, settings.train_workers)
    if wrong := refusals(nodes, [*of_worker, *of_rank], run_dir):
        more = f" (and {len(wrong) - 1} more: selftaught doctor)" if len(wrong) > 1 else ""
        raise ConfigError(f"cluster.address = {settings.address!r}: {wrong[0]}{more}")
    return workers


@contextmanager
def cluster_workers(
    settings: ClusterConfig,
    resolved: Resolved,
    run_dir: Path,
    tell: Callable[[Event], None],
    *,
    shared: Path | None = None,
) -> Iterator[WorkerSource | None]:
    """The source of workers of a run that is in its cluster and holds its folder's lock; None without a cluster.

    `shared` is the folder of the chunks that runs of a comparison have in common.
    """
    if settings.address is None or settings.workers == 0:
        yield None
        return
    from selftaught.stages.workers.ray_workers import RayWorkers

    def note(line: str) -> None:
        tell(Note(text=line))

    with RayWorkers(run_dir, settings.needs(resolved.machine), note=note, shared=shared) as source:
        yield source

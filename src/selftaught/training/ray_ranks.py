"""The trainer `sft` on ranks of a Ray cluster: an actor for each, in one placement group, which is their room.

All of it belongs to the run's process, so that it ends with that, however it ends. Ranks leave their messages with one
more actor, on the run's machine.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from selftaught.machine.children import current_folder, last_folders
from selftaught.machine.cluster import counted
from selftaught.machine.quiet import quieten_libraries
from selftaught.machine.ray_cluster import end_leftovers, first_line, free_now, namespace_of
from selftaught.records.errors import ConfigError, SelftaughtError, TrainingError, WorkerDied
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.training.rank_process import RankJob, train_as_rank
from selftaught.training.rank_trainer import JobOf, raise_if_unconnected, redone

POLL_S = 0.2
QUIET_WAIT_S = 5.0
"""Waited for room before the user is told."""
ROOM_S = 900.0
START_S = 600.0
"""In which Ray must have started all ranks; one takes seconds, on a busy machine a minute."""
END_S = 30.0
"""In which Ray tells that ranks which it kills are gone."""
CAUSE_S = 20.0
"""In which Ray tells that a rank is gone, after the others have noticed."""


class RayRankTrainer:
    """Fine-tunes on `size` ranks somewhere in the cluster; rank 0 writes the model to the run folder, which all see."""

    def __init__(
        self,
        job_of: JobOf,
        size: int,
        *,
        run_dir: Path | None = None,
        note: Callable[[str], None] = lambda line: None,
        raise_if_stopped: Callable[[], None] = lambda: None,
    ) -> None:
        """`run_dir` is that of the run, whose killed starts may have left ranks in the cluster; None for none.
        `raise_if_stopped` is called until all ranks have started. The process is in the cluster already."""
        self._job_of, self._size, self._run_dir = job_of, size, run_dir
        self._note, self._raise_if_stopped = note, raise_if_stopped

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        job = self._job_of(_with_absolute_paths(training))
        self._refuse_small_cluster(job)
        if self._run_dir is not None and (number := end_leftovers(self._run_dir)):
            self._note(f"ended {number} ranks that an earlier start of this run had left in the cluster")
        return redone(training, self._size, self._note, lambda: self._once(job, on_step))

    def _once(self, job: RankJob, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        of_rank = resources_of(job)
        room = placement_group([of_rank] * self._size, strategy="PACK")
        actors, trained = list[Any](), list[Any]()
        try:
            self._wait_for(room, of_rank)
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
            ranks = [self._rank(room, number, of_rank) for number in range(self._size)]
            actors += [mailbox, *ranks]
            place = ranks[0].meeting_place.remote()
            trained = [actor.train.remote(job, rank, self._size, place, mailbox) for rank, actor in enumerate(ranks)]
            return _attend(mailbox, trained, on_step, self._raise_if_stopped)
        finally:
            for actor in actors:
                ray.kill(actor)
            # Until they are gone they may write to the folder that the next attempt clears.
            ray.wait(trained, num_returns=len(trained), timeout=END_S)
            remove_placement_group(room)

    def _rank(self, room: Any, number: int, of_rank: Mapping[str, float]) -> Any:
        options: dict[str, Any] = {
            "num_cpus": of_rank.get("CPU", 0),
            "num_gpus": of_rank.get("GPU", 0),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=number),
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        if self._run_dir is not None:
            options |= {"name": f"rank-{number}-{secrets.token_hex(4)}", "namespace": namespace_of(self._run_dir)}
        return ray.remote(_rank_class()).options(**options).remote([*current_folder(), *last_folders()])

    def _refuse_small_cluster(self, job: RankJob) -> None:
        """Raise ConfigError if even the whole cluster has no room; one that has lost a node may get another."""
        of_rank = resources_of(job)
        places = [
            min(int(node["Resources"].get(name, 0) // number) for name, number in of_rank.items())
            for node in ray.nodes()
            if node["Alive"]
        ]
        if sum(places) < self._size:
            raise ConfigError(
                f"cluster.train_workers = {self._size} needs {_words(of_rank)} for each, and the Ray cluster has that "
                f"{sum(places)} times on {len(places)} nodes; add nodes, or begin a new run with fewer train workers"
            )

    def _wait_for(self, room: Any, of_rank: Mapping[str, float]) -> None:
        needed = f"{_words(of_rank)} for each of {self._size} ranks"
        began, is_told = time.monotonic(), False
        while not room.wait(1):
            self._raise_if_stopped()
            waited = time.monotonic() - began
            if waited > ROOM_S:
                raise TrainingError(
                    f"the training has waited {waited:.0f} s for {needed}, and of the Ray cluster {free_now()} are "
                    "free; end other jobs or add nodes, and run the same command again"
                )
            if waited > QUIET_WAIT_S and not is_told:
                self._note(f"the training waits for {needed}; free in the cluster: {free_now()}")
                is_told = True


def resources_of(job: RankJob) -> dict[str, float]:
    """Of the cluster, for one rank."""
    return {"GPU": 1.0} if job.machine.device == "cuda" else {"CPU": float(job.machine.threads)}


@dataclass(frozen=True, slots=True)
class Started:
    rank: int


class Mailbox:
    """Messages of the ranks, until the run takes them."""

    def __init__(self) -> None:
        self._messages: list[Any] = []

    def put(self, message: Any) -> None:
        self._messages.append(message)

    def take(self) -> list[Any]:
        taken, self._messages = self._messages, []
        return taken

    def has_all(self) -> None:
        """Returns when all that its caller has put before is there: calls of one caller are done in order."""


def be_rank(
    job: RankJob, rank: int, size: int, host: str, meet: Callable[[], Any], mailbox: Any
) -> Checkpoint | SelftaughtError | None:
    """In an actor: train as one of the ranks. `meet` gives the Store of torch.distributed where they meet, at `host`.
    Returns what the trainer raises, too."""
    quieten_libraries()
    import torch

    from selftaught.training.ranks import hide_from_libraries, join, refused_connections

    hide_from_libraries()
    mailbox.put.remote(Started(rank))
    try:
        with refused_connections(host):
            ranks = join(rank, size, meet(), torch.device(job.machine.device))
        return train_as_rank(job, ranks, partial(_tell, mailbox))
    except SelftaughtError as error:
        return error
    finally:
        ray.get(mailbox.has_all.remote())


def _tell(mailbox: Any, metrics: StepMetrics) -> None:
    mailbox.put.remote(metrics)


def _rank_class() -> type:
    """The class of an actor. Ray carries it to nodes whole, since it has no name in a module."""

    class SelftaughtRank:
        def __init__(self, last: list[str]) -> None:
            import sys

            # Ray puts the run's folders first, where a file of the user's would replace a library's; they come last.
            for path in last:
                if path in sys.path:
                    sys.path.remove(path)
                    sys.path.append(path)

        def meeting_place(self) -> tuple[str, int]:
            from ray.util import get_node_ip_address
            from torch.distributed import TCPStore  # type: ignore[attr-defined]

            host = get_node_ip_address()
            self.store = TCPStore(host, 0, is_master=True, wait_for_workers=False)  # at a port that is free
            return host, self.store.port

        def train(self, job: Any, rank: int, size: int, place: tuple[str, int], mailbox: Any) -> Any:
            from torch.distributed import TCPStore  # type: ignore[attr-defined]

            from selftaught.training.ray_ranks import be_rank

            def meet() -> Any:
                return self.store if rank == 0 else TCPStore(*place, is_master=False)

            return be_rank(job, rank, size, place[0], meet, mailbox)

    return SelftaughtRank


def _attend(
    mailbox: Any,
    trained: Sequence[Any],
    on_step: Callable[[StepMetrics], None],
    raise_if_stopped: Callable[[], None],
) -> Checkpoint:
    """Pass on what the ranks tell until the first has saved the model.

    Raises what a rank raised, and WorkerDied for one that is gone.
    """
    size, started, began = len(trained), set[int](), time.monotonic()
    at_work = {ref: rank for rank, ref in enumerate(trained)}
    while True:
        ended, _ = ray.wait(list(at_work), timeout=POLL_S)
        for message in _messages(mailbox):
            if isinstance(message, Started):
                started.add(message.rank)
            else:
                on_step(message)
        for ref in ended:
            answer = _answer(ref, at_work.pop(ref), size)
            if isinstance(answer, Checkpoint):
                return answer
            if answer is not None:
                raise _cause(answer, at_work, size)
        if len(started) < size:
            raise_if_stopped()
            if time.monotonic() - began > START_S:
                raise TrainingError(
                    f"Ray has started {len(started)} of {size} ranks in {START_S:.0f} s; see `ray status` and Ray's "
                    "logs, and run the same command again"
                )


def _messages(mailbox: Any) -> list[Any]:
    try:
        taken: list[Any] = ray.get(mailbox.take.remote())
        return taken
    except RayError as error:  # such as for want of memory on the run's machine
        raise WorkerDied(f"what carries the ranks' messages: {first_line(error)}") from error


def _answer(ref: Any, rank: int, size: int) -> Checkpoint | SelftaughtError | None:
    """What a rank has returned; WorkerDied, with the words why, for one that is gone. Raises what is a fault of ours:
    another attempt would end like the first."""
    try:
        answer: Checkpoint | SelftaughtError | None = ray.get(ref)
        return answer
    except RayError as error:
        if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
            raise
        return WorkerDied(f"rank {rank} of {size}: {first_line(error)}")


def _cause(first: SelftaughtError, at_work: Mapping[Any, int], size: int) -> SelftaughtError:
    """What a rank raised first; if that is that it cannot reach another one, what has become of that one."""
    from selftaught.training.ranks import RankLost

    others, deadline = list(at_work), time.monotonic() + CAUSE_S
    while isinstance(first, RankLost) and others and time.monotonic() < deadline:
        ended, others = ray.wait(others, timeout=1)
        for ref in ended:
            answer = _answer(ref, at_work[ref], size)
            if isinstance(answer, SelftaughtError) and not isinstance(answer, RankLost):
                return answer
    if isinstance(first, WorkerDied):
        raise_if_unconnected(first)
    return first


def _with_absolute_paths(training: Training) -> Training:
    """Ranks have other current folders."""
    path = training.start.path
    start = replace(training.start, path=str(Path(path).absolute()) if Path(path).is_dir() else path)
    return replace(training, start=start, out_dir=training.out_dir.absolute())


def _words(resources: Mapping[str, float]) -> str:
    return " and ".join(counted(number, name) for name, number in resources.items())

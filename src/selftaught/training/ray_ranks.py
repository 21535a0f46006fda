"""The trainer `sft` on ranks of a Ray cluster: an actor for each, in one placement group, which is their room.

All of it belongs to the run's process, so that it ends with that, however it ends. Ranks leave their messages with one
more actor, on the run's machine.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from selftaught import __version__
from selftaught.machine.children import current_folder, last_folders
from selftaught.machine.cluster import Needs
from selftaught.machine.ray_actors import end_leftovers, namespace_of
from selftaught.machine.ray_cluster import alive, first_line, free_now, nonce_in, refuse_too_few_for_ranks
from selftaught.models.places import hub_id
from selftaught.records.errors import RefusedError, SelftaughtError, StoreError, TrainingError, WorkerDied
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.training.rank_process import RankJob
from selftaught.training.rank_trainer import Admit, Hearing, JobOf, raise_if_unconnected, redone
from selftaught.training.ray_rank_process import Mailbox, Saved, Started, rank_class, sizes_in

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
APPEARS_S = 60.0
"""A network filesystem may show another machine's new files only so much later."""


class RayRankTrainer:
    """Fine-tunes on `size` ranks somewhere in the cluster; rank 0 writes the model to the run folder, which all see."""

    def __init__(
        self,
        job_of: JobOf,
        size: int,
        needs: Needs,
        *,
        admit: Admit,
        run_dir: Path | None = None,
        note: Callable[[str], None] = lambda line: None,
        raise_if_stopped: Callable[[], None] = lambda: None,
    ) -> None:
        """`needs` are those of one rank. `run_dir` is that of the run, whose killed starts may have left ranks in the
        cluster; None for none. `raise_if_stopped` is called until the first step, and when none comes. The process is
        in the cluster already."""
        self._job_of, self._size, self._needs = job_of, size, needs
        self._run_dir, self._admit = run_dir, admit
        self._note, self._raise_if_stopped = note, raise_if_stopped

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        job = replace(self._job_of(_with_absolute_paths(training)), start_name=hub_id(Path(training.start.path)))
        # Even the whole cluster may have lost room; what others use now is waited for.
        refuse_too_few_for_ranks(alive(), self._needs, self._size)
        if self._run_dir is not None and (number := end_leftovers(self._run_dir)):
            self._note(f"ended {number} ranks that an earlier start of this run had left in the cluster")
        checkpoint = redone(training, self._size, self._note, lambda: self._once(job, on_step))
        return replace(checkpoint, started_from=training.start.path)  # a rank's may be another

    def _once(self, job: RankJob, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        of_rank = {name: n for name, n in (("CPU", self._needs.cpus), ("GPU", self._needs.gpus)) if n}
        room = placement_group([of_rank] * self._size, strategy="PACK")
        actors, trained = list[Any](), list[Any]()
        try:
            self._wait_for(room)
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
            ranks = [self._rank(room, number) for number in range(self._size)]
            actors += [mailbox, *ranks]
            self._refuse_machines(ranks, job)
            place = ranks[0].meeting_place.remote()
            trained = [actor.train.remote(job, rank, self._size, place, mailbox) for rank, actor in enumerate(ranks)]
            saved = _attend(mailbox, trained, Hearing(job.training.plan, on_step, self._raise_if_stopped))
            _wait_for_files(job.training.out_dir, saved)
            return saved.checkpoint
        finally:
            for actor in actors:
                ray.kill(actor)
            # Until they are gone they may write to the folder that the next attempt clears.
            ray.wait(trained, num_returns=len(trained), timeout=END_S)
            remove_placement_group(room)

    def _rank(self, room: Any, number: int) -> Any:
        options: dict[str, Any] = {
            "num_cpus": self._needs.cpus,
            "num_gpus": self._needs.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=number),
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        if self._run_dir is not None:
            options |= {"name": f"rank-{number}-{secrets.token_hex(4)}", "namespace": namespace_of(self._run_dir)}
        last = [*current_folder(), *last_folders()]
        return ray.remote(rank_class()).options(**options).remote(last, __version__)

    def _refuse_machines(self, ranks: Sequence[Any], job: RankJob) -> None:
        """Raise RefusedError for a rank that does not see the run's folder, cannot compute what the others do, or has
        another version of this package."""
        began, platforms = time.monotonic(), dict[int, tuple[str, str]]()
        with nonce_in(job.training.out_dir) as (path, content):  # a new folder, which the next attempt clears
            asked = {
                actor.look.remote(str(path), content, APPEARS_S, job.machine.device): rank
                for rank, actor in enumerate(ranks)
            }
            while asked:
                ended, _ = ray.wait(list(asked), timeout=POLL_S)
                self._raise_if_stopped()
                for ref in ended:
                    rank = asked.pop(ref)
                    answer = _answer(ref, rank, self._size)
                    if isinstance(answer, SelftaughtError):
                        raise answer
                    where = f"rank {rank} of {self._size} on node {answer['node']}"
                    if answer["problem"]:
                        raise RefusedError(f"{where}: {answer['problem']}")
                    platforms[rank] = where, answer["platform"]
                _refuse_late(len(platforms), self._size, began)
        self._admit(dict(platforms[rank] for rank in range(self._size)))

    def _wait_for(self, room: Any) -> None:
        needed = f"{self._needs} for each of {self._size} ranks"
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


def _attend(mailbox: Any, trained: Sequence[Any], hearing: Hearing) -> Saved:
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
                hearing.tell(message)
        hearing.listen()
        for ref in ended:
            answer = _answer(ref, at_work.pop(ref), size)
            if isinstance(answer, Saved):
                return answer
            if answer is not None:
                raise _cause(answer, at_work, size)
        _refuse_late(len(started), size, began)


def _refuse_late(started: int, size: int, began: float) -> None:
    if started < size and time.monotonic() - began > START_S:
        raise TrainingError(
            f"Ray has started {started} of {size} ranks in {START_S:.0f} s; see `ray status` and Ray's logs, and run "
            "the same command again"
        )


def _wait_for_files(folder: Path, saved: Saved) -> None:
    """Until this machine sees what the first rank has saved on another one. Raises StoreError if it does not."""
    end = time.monotonic() + APPEARS_S
    while missing := sorted(saved.sizes.items() - sizes_in(folder).items()):
        if time.monotonic() >= end:
            name, size = missing[0]
            raise StoreError(
                f"{folder}: rank 0 has saved {name} with {size:,} bytes, which is not there after {APPEARS_S:.0f} s; "
                "put the run folder on a filesystem that all nodes have under the same path, and run the same command "
                "again; the samples are kept and the training is redone"
            )
        time.sleep(POLL_S)


def _messages(mailbox: Any) -> list[Any]:
    try:
        taken: list[Any] = ray.get(mailbox.take.remote())
        return taken
    except RayError as error:  # such as for want of memory on the run's machine
        raise WorkerDied(f"what carries the ranks' messages: {first_line(error)}") from error


def _answer(ref: Any, rank: int, size: int) -> Any:
    """What a rank has returned; WorkerDied, with the words why, for one that is gone. Raises what is a fault of ours:
    another attempt would end like the first."""
    try:
        return ray.get(ref)
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

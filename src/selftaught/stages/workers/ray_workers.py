"""Workers in a Ray cluster: one actor for each engine.

Ray starts them where their GPUs and CPUs are, and carries calls and results. It restarts and repeats nothing: what a
dead actor had is sent to another by the run, which alone knows what is on disk. Actors end with the run's process,
however it ends.
"""

import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, NodeLabelSchedulingStrategy, NotIn

from selftaught import __version__
from selftaught.machine.children import current_folder, last_folders
from selftaught.machine.cluster import Needs
from selftaught.machine.ray_actors import end_leftovers, namespace_of, starter
from selftaught.machine.ray_cluster import NONCE, alive, first_line, free_now, nonce_in
from selftaught.records.errors import EngineError, RefusedError
from selftaught.records.samples import ModelRef
from selftaught.stages.workers.protocol import Job, Lost, Ready, Refused, Waits, WorkerEvent

MAKER = "selftaught.commands.chunk_worker:ChunkMaker"
WAITS_S = 15.0
"""After so long without a place, the run says what a worker waits for."""
LOOKS_S = 5.0
"""How often it looks whether they have one."""
SAYS_AGAIN_S = 600.0
NO_ROOM_S = 300.0
"""So long a cluster in which no worker has room any more may take to get a node back."""
GONE_S = 60.0
"""So long a worker may take to be gone. Ray kills one that does not answer after five seconds."""
ANSWERS_S = 600.0
"""So long a node may take to start a process that says so; a busy one takes its time."""
TELLS_PER_S = 100.0
"""Of all workers together."""


@dataclass(slots=True)
class _Actor:
    handle: Any
    model: ModelRef
    began: float
    node: str = ""
    """The name of its node; empty until it has a place."""
    node_id: str = ""
    pid: int = 0
    waiting_for: dict[Any, str] = field(default_factory=dict)
    """By reference, the method that was called."""

    @property
    def is_idle(self) -> bool:
        """Whether it is ready and has done all that it was given."""
        return bool(self.node) and not {"open", "do"} & set(self.waiting_for.values())

    def next_answers(self) -> Iterator[Any]:
        """The references to wait for: of several jobs the one that was sent first, since Ray may show two results
        that come at nearly the same time in either order."""
        jobs = (ref for ref, method in self.waiting_for.items() if method == "do")
        yield from islice(jobs, 1)
        yield from (ref for ref, method in self.waiting_for.items() if method != "do")


class RayWorkers:
    """A `WorkerSource` of Ray actors; this process must be in the cluster (`machine.ray_cluster.joined`).

    What a killed start of the same run has left in the cluster ends first. Use as a context manager: it holds the file
    by which workers see that the run folder is theirs.
    """

    def __init__(
        self,
        run_dir: Path,
        needs: Needs,
        *,
        note: Callable[[str], None] = lambda line: None,
        shared: Path | None = None,
        maker: str = MAKER,
    ) -> None:
        """`note` is told what the user should know, such as what workers wait for. `shared` is the folder of the chunks
        that runs of a comparison have in common."""
        self._run_dir, self._needs, self._note, self._maker = run_dir.absolute(), needs, note, maker
        self._shared = None if shared is None else str(shared.absolute())
        self._namespace = namespace_of(run_dir)
        self._start = secrets.token_hex(4)
        self._nonce = nonce_in(self._run_dir)
        self._actor_class = ray.remote(concurrency_groups={"told": 1})(_actor_class())
        self._actors: dict[str, _Actor] = {}
        self._node_of: dict[str, str] = {}
        """The ids of the nodes where workers are or were."""
        self._avoided = set[str]()
        """Of those where none may start any more."""
        self._ended: dict[str, list[int]] = {}
        """Ids of processes that were told to end, by node."""
        self._number = 0
        self._said: tuple[str, float] = ("", 0.0)
        self._no_room_since: float | None = None
        if number := end_leftovers(run_dir):
            note(f"ended {number} workers that an earlier start of this run had left in the cluster")
        for left in self._run_dir.glob(f"{NONCE}-*"):
            left.unlink()
        self._seen = self._nonce.__enter__()

    def start(self, model: ModelRef) -> str:
        self._number += 1
        worker = str(self._number)
        about = {
            "worker": worker,
            "run_dir": str(self._run_dir),
            "nonce": (str(self._seen[0]), self._seen[1]),
            "shared": self._shared,
            "maker": self._maker,
            "version": __version__,
            "last": [*current_folder(), *last_folders()],
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }
        handle = self._actor_class.options(
            name=f"worker-{worker}-{self._start}",
            namespace=self._namespace,
            num_cpus=self._needs.cpus,
            num_gpus=self._needs.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=_elsewhere(self._avoided),
        ).remote(about)
        actor = _Actor(handle, model, time.monotonic())
        actor.waiting_for[handle.place.remote()] = "place"
        self._actors[worker] = actor
        return worker

    def send(self, worker: str, job: Job) -> None:
        if (actor := self._actors.get(worker)) is not None:
            actor.waiting_for[actor.handle.do.remote(job)] = "do"

    def kill(self, worker: str) -> None:
        if (actor := self._actors.pop(worker, None)) is None:
            return
        if actor.pid:
            self._ended.setdefault(actor.node_id, []).append(actor.pid)
        ray.kill(actor.handle, no_restart=True)

    def avoid(self, worker: str) -> bool:
        if worker in self._node_of:  # else it was lost before it had a place
            self._avoided.add(self._node_of[worker])
        others = sum(actor.node_id not in self._avoided for actor in self._actors.values())
        return room_for(self._needs, but=self._avoided) > others

    def wait(self, timeout_s: float) -> Sequence[WorkerEvent]:
        owner = {ref: worker for worker, actor in self._actors.items() for ref in actor.next_answers()}
        if not owner:
            time.sleep(timeout_s)
            return []
        if not all(actor.node for actor in self._actors.values()):
            timeout_s = min(timeout_s, LOOKS_S)
        ready, rest = ray.wait(list(owner), timeout=timeout_s)
        if ready and rest:
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        events: list[WorkerEvent] = []
        for ref in ready:
            if (actor := self._actors.get(owner[ref])) is not None:  # else it was lost a moment ago
                events += self._told_by(owner[ref], actor, ref)
        events += self._look_at_waiting()
        return events

    def close(self) -> None:
        """End all workers, and return when their processes are gone, and with them what they held of GPUs.

        Those that have nothing to do close their engines first. Raises EngineError for processes that do not end.
        """
        idle = [actor for actor in self._actors.values() if actor.is_idle]
        closing = [actor.handle.close.remote() for actor in idle]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=GONE_S)
        for worker in list(self._actors):
            self.kill(worker)
        ended, self._ended = self._ended, {}
        remaining = ray.remote(num_cpus=0, max_retries=0)(_remaining())
        asked = [
            remaining.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(pids, GONE_S)
            for node, pids in ended.items()
        ]
        done, late = ray.wait(asked, num_returns=len(asked), timeout=GONE_S + ANSWERS_S) if asked else ([], [])
        left: list[str] = [f"{len(late)} nodes do not answer"] if late else []
        for ref in done:
            with suppress(RayError):  # its node is gone, and so are they
                left += ray.get(ref)
        if left:
            raise EngineError(f"workers have not ended: {', '.join(left)}; end them there, and start the run again")

    def __enter__(self) -> "RayWorkers":
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self.close()
        except (EngineError, RayError):
            if error[0] is None:
                raise  # else what ends the run is another error
        finally:
            self._nonce.__exit__(*error)

    def _told_by(self, worker: str, actor: _Actor, ref: Any) -> Sequence[WorkerEvent]:
        """What an answer of an actor means; the next call where one follows."""
        method = actor.waiting_for.pop(ref)
        try:
            answer = ray.get(ref)
        except RayError as error:
            self.kill(worker)
            ours = str(error) if isinstance(error, RayTaskError) else ""
            return [Lost(worker=worker, why=first_line(error), traceback=ours, node=actor.node)]
        if method == "place":
            return self._placed(worker, actor, answer)
        if method == "told":
            self._ask_for_news(actor)
            return list(answer)
        if isinstance(answer, Lost | Refused):
            self.kill(worker)
            return [replace(answer, node=actor.node)]
        if isinstance(answer, Ready):
            self._ask_for_news(actor)
        return [answer]

    def _placed(self, worker: str, actor: _Actor, answer: dict[str, Any]) -> Sequence[WorkerEvent]:
        actor.node, actor.node_id, actor.pid = answer["node"], answer["node_id"], answer["pid"]
        self._node_of[worker] = actor.node_id
        if answer["problem"]:
            self.kill(worker)
            return [Refused(worker=worker, error=RefusedError(answer["problem"]), node=actor.node)]
        actor.waiting_for[actor.handle.open_model.remote(actor.model)] = "open"
        return []

    def _ask_for_news(self, actor: _Actor) -> None:
        every_s = max(1.0, len(self._actors) / TELLS_PER_S)
        actor.waiting_for[actor.handle.told.remote(every_s)] = "told"

    def _look_at_waiting(self) -> Sequence[WorkerEvent]:
        """Say what workers without a place wait for. Raises RefusedError if none has one, and none can get one."""
        now = time.monotonic()
        waiting = [name for name, actor in self._actors.items() if not actor.node and now > actor.began + WAITS_S]
        if not waiting:
            self._no_room_since = None
            return []
        if now < self._said[1] + WAITS_S:
            return []
        what = f"{len(waiting)} workers have" if len(waiting) > 1 else "a worker has"
        line = f"{what} no place yet, with {self._needs} for each; free in the cluster: {free_now()}"
        if line != self._said[0] or now > self._said[1] + SAYS_AGAIN_S:
            self._note(line)
        self._said = (line, now)
        waits = [Waits(worker=name) for name in waiting]
        if len(waiting) < len(self._actors) or room_for(self._needs, but=self._avoided):
            self._no_room_since = None
            return waits
        self._no_room_since = self._no_room_since or now
        if now < self._no_room_since + NO_ROOM_S:
            return waits
        raise RefusedError(
            f"the cluster has had no node with {self._needs} for {NO_ROOM_S:.0f} s; bring nodes back, and carry on"
        )


def room_for(needs: Needs, *, but: Collection[str]) -> int:
    """How many workers have room in the cluster, whoever uses it now, without the nodes with these ids."""
    return sum(node.fits(needs) for node in alive() if node.id not in but)


def _elsewhere(avoided: Collection[str]) -> Any:
    """Where a worker may start: on any node but these."""
    return NodeLabelSchedulingStrategy(hard={"ray.io/node-id": NotIn(*sorted(avoided))}) if avoided else "DEFAULT"


def _actor_class() -> type:
    """The class of an actor. Ray carries it to nodes whole, since it has no name in a module; its annotations name
    nothing of this package, so that a node without it can say so."""

    start = starter()

    class SelftaughtWorker:
        def __init__(self, about: dict[str, Any]) -> None:
            import os

            self.problem = start(about["last"], about["version"])
            # Ray sets one thread for an actor; how many a worker has is for the run to say.
            os.environ.pop("OMP_NUM_THREADS", None)
            if about["threads"] is not None:
                os.environ["OMP_NUM_THREADS"] = about["threads"]
            self.about = about

        def place(self) -> dict[str, Any]:
            import os
            import socket

            import ray

            node_id = ray.get_runtime_context().get_node_id()
            return {"node": socket.gethostname(), "node_id": node_id, "pid": os.getpid(), "problem": self.problem}

        def open_model(self, model: Any) -> Any:
            from selftaught.stages.workers.remote import RemoteWorker

            names = ("worker", "run_dir", "nonce", "shared", "maker")
            self.worker = RemoteWorker(**{name: self.about[name] for name in names})
            return self.worker.open_model(model)

        def do(self, job: Any) -> Any:
            return self.worker.do(job)

        def close(self) -> None:
            self.worker.close()

        @ray.method(concurrency_group="told")
        def told(self, every_s: float) -> Any:
            return self.worker.told(every_s)

    return SelftaughtWorker


def _remaining() -> Callable[[list[int], float], list[str]]:
    """A function for a node: waits until Ray's workers of these ids have ended, and the servers that they started, and
    returns those that have not.

    Ray kills a worker that does not end after five seconds. Once, on a busy machine, one was still there after a
    minute, so what is there after a quarter of the time is killed by this function.
    """

    def remaining(pids: list[int], timeout_s: float) -> list[str]:
        import contextlib
        import os
        import signal
        import socket
        import time

        from selftaught.engines.server.process import orphans_left

        def is_there(pid: int) -> bool:
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    return b"SelftaughtWorker" in file.read()  # another process may have got its id
            except OSError:
                return False

        now = time.monotonic()
        patience, end = now + timeout_s / 4, now + timeout_s
        while (there := [pid for pid in pids if is_there(pid)]) and time.monotonic() < end:
            for pid in there if time.monotonic() > patience else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        left = [pid for pid in pids if is_there(pid)] + orphans_left(max(0.0, end - time.monotonic()))
        return [f"process {pid} on {socket.gethostname()}" for pid in left]

    return remaining

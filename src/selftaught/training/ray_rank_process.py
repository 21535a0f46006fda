"""What a rank does in a Ray cluster as an actor: it says what its machine is, and trains with the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray

from selftaught.machine.cluster import comes_to_see
from selftaught.machine.devices import Device
from selftaught.machine.platforms import platform_of
from selftaught.machine.quiet import quieten_libraries
from selftaught.machine.ray_actors import starter
from selftaught.machine.ray_cluster import NONCE
from selftaught.models.places import folder_of
from selftaught.records.errors import SelftaughtError
from selftaught.records.training import Checkpoint, StepMetrics
from selftaught.training.rank_process import RankJob, train_as_rank


@dataclass(frozen=True, slots=True)
class Started:
    rank: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What the first rank has saved, and the files' sizes by name, as it sees them."""

    checkpoint: Checkpoint
    sizes: Mapping[str, int]


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
) -> Saved | SelftaughtError | None:
    """In an actor: train as one of the ranks. `meet` gives the Store of torch.distributed where they meet, at `host`.
    Returns what the trainer raises, too."""
    quieten_libraries()
    import torch

    from selftaught.training.ranks import hide_from_libraries, join, refused_connections

    hide_from_libraries()
    mailbox.put.remote(Started(rank))
    try:
        start = replace(job.training.start, path=folder_of(job.training.start.path, job.start_name))
        with refused_connections(host):
            ranks = join(rank, size, meet(), torch.device(job.machine.device))
        here = replace(job, training=replace(job.training, start=start))
        checkpoint = train_as_rank(here, ranks, partial(_tell, mailbox))
        return None if checkpoint is None else Saved(checkpoint, sizes_in(job.training.out_dir))
    except SelftaughtError as error:
        return error
    finally:
        ray.get(mailbox.has_all.remote())


def sizes_in(folder: Path) -> dict[str, int]:
    """Of the files that make a model."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith(NONCE))
    return {path.name: path.stat().st_size for path in files}


def look_around(path: str, content: str, appears_s: float, device: Device) -> dict[str, str]:
    """In an actor: what decides the numbers that its machine computes, and why it cannot train; `path` is a file that
    the run has written where the model will be saved, and `content` what is in it."""
    if not comes_to_see(Path(path), content, within_s=appears_s):
        return {
            "problem": f"it does not see {Path(path).parent}, or sees another folder there; put the run folder on a "
            "filesystem that all nodes have under the same path (--run-dir)"
        }
    try:
        return {"platform": platform_of(device)}
    except SelftaughtError as error:
        return {"problem": str(error)}


def _tell(mailbox: Any, metrics: StepMetrics) -> None:
    mailbox.put.remote(metrics)


def rank_class() -> type:
    """The class of an actor. Ray carries it to nodes whole, since it has no name in a module."""

    start = starter()

    class SelftaughtRank:
        def __init__(self, last: list[str], version: str) -> None:
            self.problem = start(last, version)

        def look(self, path: str, content: str, appears_s: float, device: Any) -> dict[str, str]:
            import socket

            about = {"node": socket.gethostname(), "problem": self.problem, "platform": ""}
            if self.problem:
                return about
            from selftaught.training.ray_rank_process import look_around

            return {**about, **look_around(path, content, appears_s, device)}

        def meeting_place(self) -> tuple[str, int]:
            from ray.util import get_node_ip_address
            from torch.distributed import TCPStore  # type: ignore[attr-defined]

            host = get_node_ip_address()
            self.store = TCPStore(host, 0, is_master=True, wait_for_workers=False)  # at a port that is free
            return host, self.store.port

        def train(self, job: Any, rank: int, size: int, place: tuple[str, int], mailbox: Any) -> Any:
            from torch.distributed import TCPStore  # type: ignore[attr-defined]

            from selftaught.training.ray_rank_process import be_rank

            def meet() -> Any:
                return self.store if rank == 0 else TCPStore(*place, is_master=False)

            return be_rank(job, rank, size, place[0], meet, mailbox)

    return SelftaughtRank

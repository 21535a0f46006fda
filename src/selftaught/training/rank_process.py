"""What a rank does: it trains with the others, and the first one measures and saves. torch is imported only then."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from selftaught.machine.devices import Machine
from selftaught.machine.platforms import platform_of
from selftaught.records.errors import TrainingError
from selftaught.records.prompts import ChatSettings
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.training.settings import SftSettings

if TYPE_CHECKING:
    from selftaught.training.ranks import Ranks

HOST = "127.0.0.1"
LOOPBACK = "lo"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankJob:
    """One training, the same for all its ranks."""

    settings: SftSettings
    machine: Machine
    """Of the run; `threads` are those of one rank."""
    trust_remote_code: bool
    chat: ChatSettings | None
    training: Training
    start_name: tuple[str, str | None] | None = None
    """The name of the model that it starts from, for a machine where that has another path (`models.places`)."""


@dataclass(frozen=True, slots=True)
class Here:
    """A rank has started; the first one tells the others where they meet only when the run has admitted them all."""

    platform: str


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the ranks of one machine meet: the first one says so to the run, and the run to the others."""

    port: int


@dataclass(frozen=True, slots=True)
class Done:
    """A rank that is not the first has done its part: what becomes of its process does not matter any more."""


def train_as_rank(job: RankJob, ranks: "Ranks", tell: Callable[[StepMetrics], None]) -> Checkpoint | None:
    """Train as one of the ranks that have joined; the first tells the steps and returns what has come of them.

    Raises TrainingError for a rank without memory, RankLost if another rank is gone.
    """
    from selftaught.training.sft import SftTrainer

    with _out_of_memory(ranks, job.machine.device):
        trainer = SftTrainer(
            job.settings,
            dtype=job.machine.dtype,
            device=job.machine.device,
            threads=job.machine.threads,
            ranks=ranks,
            trust_remote_code=job.trust_remote_code,
            chat=job.chat,
        )
        if ranks.rank:
            trainer.take_part(job.training)
            return None
        return trainer.fine_tune(job.training, tell)


def serve_rank(pipe: Connection, job: RankJob, rank: int, size: int) -> None:
    """In a process of its own on the run's machine (machine/workers.py): be rank `rank` of `size`.

    Ends with the run, even if that is killed in the middle of a step.
    """
    if job.machine.device == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = _gpu(rank)  # before torch looks
    if "GLOO_SOCKET_IFNAME" not in os.environ and any(name == LOOPBACK for _, name in socket.if_nameindex()):
        os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK  # Gloo would listen where other machines can reach it
    import torch

    from selftaught.training.ranks import hide_from_libraries, join, refused_connections

    hide_from_libraries()
    device = torch.device(job.machine.device)
    pipe.send(Here(platform_of(job.machine.device)))
    with refused_connections(HOST):
        store = _meet(pipe, is_first=rank == 0)
        threading.Thread(target=_end_with_run, args=(pipe,), daemon=True).start()
        ranks = join(rank, size, store, device)
    result = train_as_rank(job, ranks, pipe.send)
    pipe.send(Done() if result is None else result)
    threading.Event().wait()  # the run ends this process when it has what it needs


def _meet(pipe: Connection, *, is_first: bool) -> Any:
    """The store of torch.distributed where the ranks meet."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    if is_first:
        store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)  # the system chooses a port that is free
        pipe.send(Meeting(store.port))
        return store
    return TCPStore(HOST, pipe.recv().port, is_master=False)


def _end_with_run(pipe: Connection) -> None:
    """The run sends nothing more, so that the pipe ends only with the run; the main thread may be waiting for ranks."""
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)


def _gpu(rank: int) -> str:
    """The GPU of a rank, as CUDA_VISIBLE_DEVICES names it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[rank].strip() if visible else str(rank)


@contextmanager
def _out_of_memory(ranks: "Ranks", device: str) -> Iterator[None]:
    """Raise TrainingError with what would help if a rank gets no more memory."""
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error)
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in text:
            raise
        first = (text.splitlines() or ["no memory"])[0]
        raise TrainingError(
            f"rank {ranks.rank} of {ranks.size} ran out of memory on the {'GPU' if device == 'cuda' else 'CPU'} "
            f"({first}); carry on with a smaller training.micro_batch_tokens or training.activation_checkpointing=true"
        ) from error

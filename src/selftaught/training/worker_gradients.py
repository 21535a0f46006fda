"""Gradients of micro-batches computed in further processes of the run.

Weights and gradients lie in memory that all these processes see, each as one line of numbers: the weights are written
once per optimizer step, a gradient by each worker for its micro-batch.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO

import torch
from torch.nn.utils import vector_to_parameters

from selftaught.allocator import return_freed_memory
from selftaught.errors import TrainingError
from selftaught.settings import TrainingConfig
from selftaught.tokens import IGNORED
from selftaught.training.micro_batches import collator_of, loss_of
from selftaught.training.models import load_float32, prepare
from selftaught.workers import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """What a worker must know to train the same model in the same way."""

    path: str
    settings: TrainingConfig
    compute: torch.dtype
    longest: int
    seed: int
    threads: int
    trust_remote_code: bool


@dataclass(frozen=True, slots=True)
class RemoteMicroBatch:
    """A micro-batch that another process computes: an element of the data set, not yet collated."""

    feature: dict[str, list[int]]

    @property
    def num_targets(self) -> int:
        return sum(label != IGNORED for label in self.feature["labels"])


@dataclass(frozen=True, slots=True)
class MicroBatchGradient:
    """What the backward pass of one micro-batch gave."""

    loss: float
    """Its share of the step's loss."""
    num_targets: int
    gradients: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """Of the parameters that have one."""


class WorkerGradients:
    """The workers of one training, each with the model of the same lesson."""

    def __init__(self, workers: Sequence[Worker], lesson: TrainingJob) -> None:
        self._workers = workers
        self._lines: tuple[torch.Tensor, ...] = ()
        for rank, worker in enumerate(workers, start=1):
            worker.begin(self, serve_gradients, lesson, rank)

    def ask(
        self,
        trained: Sequence[torch.Tensor],
        parts: Sequence[RemoteMicroBatch],
        share: float,
        *,
        router_weight: float,
        is_new: bool,
    ) -> None:
        """Start one part in every worker. The loss of a part is `share` times the sum over its loss tokens.

        `is_new` says that the weights of `trained` have changed since the last call.
        """
        if not self._lines:
            self._lines = self._share(trained)
        if is_new:
            torch.cat([p.detach().reshape(-1) for p in trained], out=self._lines[0])
        for worker, part in zip(self._workers, parts, strict=True):
            worker.send((part, share, router_weight))

    def _share(self, trained: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The lines of weights and of every worker's gradients."""
        for worker in self._workers:
            worker.receive()  # that it has loaded the model, or why it could not
        numel = sum(p.numel() for p in trained)
        number = 1 + len(self._workers)
        with open_memory(number * numel * trained[0].element_size()) as file:
            for worker in self._workers:
                worker.send(number)
                worker.send_file(file.fileno())
            return lines_of(file.fileno(), number, trained[0].dtype)

    def answers(self, trained: Sequence[torch.Tensor]) -> Iterator[MicroBatchGradient]:
        """What the workers found, in their order, so that sums are the same whoever is first.

        Gradients stay what they are until the next question is asked.
        """
        for worker, line in zip(self._workers, self._lines[1:], strict=True):
            loss, num_targets, has_gradient = worker.receive()
            pieces = torch.split(line, [p.numel() for p in trained])
            yield MicroBatchGradient(
                loss,
                num_targets,
                tuple(
                    (p, piece.view_as(p)) for p, piece, has in zip(trained, pieces, has_gradient, strict=True) if has
                ),
            )

    def __enter__(self) -> "WorkerGradients":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            if kind is None and self._lines:
                worker.end(self)
            else:
                worker.kill()  # it may be in the middle of an answer that nobody will read


def serve_gradients(pipe: Connection, lesson: TrainingJob, rank: int) -> None:
    """In a worker: load the model, say so, and compute gradients until None comes."""
    _serve(pipe, lesson, rank)
    return_freed_memory()


def _serve(pipe: Connection, lesson: TrainingJob, rank: int) -> None:
    torch.set_num_threads(lesson.threads)
    prepared = prepare(
        load_float32(lesson.path, trust_remote_code=lesson.trust_remote_code),
        lesson.settings,
        compute=lesson.compute,
        longest=lesson.longest,
        seed=lesson.seed,
    )
    model, collate = prepared.model.train(), collator_of(prepared)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not lesson.settings.lora_rank:
        for parameter in trained:
            parameter.data = parameter.data.to(lesson.compute)
    torch.manual_seed(lesson.seed + rank)  # dropout
    pipe.send("loaded")
    lines: tuple[torch.Tensor, ...] = ()
    while (job := pipe.recv()) is not None:
        if not lines:
            with os.fdopen(recv_handle(pipe), "r+b") as file:
                lines = lines_of(file.fileno(), job, trained[0].dtype)
            vector_to_parameters(lines[0], trained)  # from here on they are what the run has written there
            continue
        part, share, router_weight = job
        inputs = collate([part.feature])
        num_targets = len(inputs["targets"])
        loss = loss_of(model, inputs, share, router_weight=router_weight)
        torch.autograd.backward(loss)
        torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in trained], out=lines[rank])
        pipe.send((float(loss.detach()), num_targets, [p.grad is not None for p in trained]))
        for parameter in trained:
            parameter.grad = None


def open_memory(num_bytes: int) -> IO[bytes]:
    """A file without a name, in memory where the system can, that ends with the last process that holds it.

    Raises TrainingError where the system refuses that many bytes, as under a limit of file sizes.
    """
    has_memfd = hasattr(os, "memfd_create")
    file = os.fdopen(os.memfd_create("selftaught"), "r+b") if has_memfd else TemporaryFile()  # noqa: SIM115
    try:
        file.truncate(num_bytes)
    except OSError as error:
        file.close()
        raise TrainingError(
            f"the memory that the processes of a training share ({num_bytes} bytes) cannot be had: {error.strerror}; "
            "free memory, raise the limit of file sizes (ulimit -f), or set compute.workers = 1"
        ) from error
    return file


def lines_of(descriptor: int, number: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """The numbers in a file of memory, as so many lines of equal length; the file may be closed."""
    return tuple(torch.frombuffer(mmap.mmap(descriptor, 0), dtype=dtype).view(number, -1))

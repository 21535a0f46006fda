"""Gradients of micro-batches, computed by the workers of a run.

Weights and gradients are in memory that all these processes share, each in a buffer of its own. The run writes the
weights once per optimizer step; each worker writes the gradient of its micro-batch.
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

from selftaught.machine.memory import return_freed_memory
from selftaught.machine.workers import Worker
from selftaught.records.errors import TrainingError
from selftaught.training.micro_batches import collator_of, loss_of
from selftaught.training.models import load_for_training, prepare
from selftaught.training.settings import SftSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """What a worker needs to train the same model in the same way."""

    path: str
    settings: SftSettings
    compute: torch.dtype
    longest: int
    seed: int
    threads: int
    trust_remote_code: bool


@dataclass(frozen=True, slots=True)
class RemoteMicroBatch:
    """A micro-batch for a worker: an element of the data set that is not collated yet."""

    feature: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class MicroBatchGradient:
    """The result of one micro-batch's backward pass."""

    loss: float
    """The micro-batch's share of the step's loss."""
    num_targets: int
    gradients: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """(parameter, its gradient) for the parameters that have one."""


class WorkerGradients:
    """The workers of one training, each with the same model."""

    def __init__(self, workers: Sequence[Worker], job: TrainingJob) -> None:
        self._workers = workers
        self._buffers: tuple[torch.Tensor, ...] = ()
        for rank, worker in enumerate(workers, start=1):
            worker.begin(self, serve_gradients, job, rank)

    @property
    def pids(self) -> list[int]:
        """Of the processes that have been started."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def start(
        self,
        trained: Sequence[torch.Tensor],
        micro_batches: Sequence[RemoteMicroBatch],
        *,
        share: float,
        router_weight: float,
        weights_changed: bool,
    ) -> None:
        """Start one micro-batch in every worker. Its loss is `share` times the sum over its loss tokens.

        `weights_changed` says whether those of `trained` have changed since the last call.
        """
        if not self._buffers:
            self._buffers = self._open_buffers(trained)
        if weights_changed:
            torch.cat([p.detach().reshape(-1) for p in trained], out=self._buffers[0])
        for worker, micro_batch in zip(self._workers, micro_batches, strict=True):
            worker.send((micro_batch, share, router_weight))

    def _open_buffers(self, trained: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Share buffers with the workers: one for the weights, then one for the gradient of each worker."""
        for worker in self._workers:
            worker.receive()  # that it has loaded the model, or why it could not
        numel = sum(p.numel() for p in trained)
        number = 1 + len(self._workers)
        with open_shared_memory(number * numel * trained[0].element_size()) as file:
            for worker in self._workers:
                worker.send(number)
                worker.send_file(file.fileno())
            return buffers_in(file.fileno(), number, trained[0].dtype)

    def results(self, trained: Sequence[torch.Tensor]) -> Iterator[MicroBatchGradient]:
        """The workers' results in the order of the workers, so that sums do not depend on which is first.

        Their gradients are valid until the next call of `start`.
        """
        for worker, buffer in zip(self._workers, self._buffers[1:], strict=True):
            loss, num_targets, has_gradient = worker.receive()
            pieces = torch.split(buffer, [p.numel() for p in trained])
            gradients = tuple(
                (p, piece.view_as(p)) for p, piece, has in zip(trained, pieces, has_gradient, strict=True) if has
            )
            yield MicroBatchGradient(loss, num_targets, gradients)

    def __enter__(self) -> "WorkerGradients":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            if kind is None and self._buffers:
                worker.end(self)
            else:
                worker.kill()  # it may be sending a result that nobody will read


def serve_gradients(pipe: Connection, job: TrainingJob, rank: int) -> None:
    """In a worker: load the model, report that, and compute gradients until None comes."""
    _serve(pipe, job, rank)
    return_freed_memory()


def _serve(pipe: Connection, job: TrainingJob, rank: int) -> None:
    torch.set_num_threads(job.threads)
    prepared = prepare(
        load_for_training(job.path, job.settings, compute=job.compute, trust_remote_code=job.trust_remote_code),
        job.settings,
        compute=job.compute,
        longest=job.longest,
        seed=job.seed,
    )
    model, collate = prepared.model.train(), collator_of(prepared)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not job.settings.lora_rank:
        for parameter in trained:
            parameter.data = parameter.data.to(job.compute)
    torch.manual_seed(job.seed + rank)  # for dropout
    pipe.send("loaded")
    buffers: tuple[torch.Tensor, ...] = ()
    while (message := pipe.recv()) is not None:
        if not buffers:
            with os.fdopen(recv_handle(pipe), "r+b") as file:
                buffers = buffers_in(file.fileno(), message, trained[0].dtype)
            vector_to_parameters(buffers[0], trained)  # the model reads its weights from the shared buffer now
            continue
        micro_batch, share, router_weight = message
        inputs = collate([micro_batch.feature])
        num_targets = len(inputs["targets"])
        loss = loss_of(model, inputs, share, router_weight=router_weight, in_pieces=prepared.in_pieces)
        torch.autograd.backward(loss)
        torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in trained], out=buffers[rank])
        pipe.send((float(loss.detach()), num_targets, [p.grad is not None for p in trained]))
        for parameter in trained:
            parameter.grad = None


def open_shared_memory(num_bytes: int) -> IO[bytes]:
    """A file without a name, in memory where the system can do that; it is gone when no process holds it any more.

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


def buffers_in(descriptor: int, number: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """The shared memory as `number` buffers of equal length; the file may be closed after that."""
    return tuple(torch.frombuffer(mmap.mmap(descriptor, 0), dtype=dtype).view(number, -1))

"""Ranks: the processes that share every step of one training, each with the whole model.

Each computes its micro-batches of a step; their gradients are summed over all ranks before the optimizer sees them. The
libraries that train must not notice: a wrapped model (DDP) reduces the gradients that the masters have taken away.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from selftaught.records.errors import RefusedError, WorkerDied

TIMEOUT = timedelta(minutes=30)
"""Until a rank that waits for another one gives up: one may have much longer rows than the others."""
BUCKET = 1 << 24
"""Numbers that are summed at a time: small tensors share a bucket, a larger tensor is one."""
SAMPLED = 256
"""Numbers of each tensor that are compared between ranks."""
LAUNCHERS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
)
"""What launchers of ranks set. By these variables accelerate decides that it is to distribute a training."""


class RankLost(WorkerDied):
    """Another rank of a training is gone, or cannot be reached any more."""


class Unconnected(RankLost):
    """The ranks of a training have not found each other: connections are not allowed, or one was lost before."""


class Ranks:
    """The ranks of one training as one of them sees them. All of them make the same calls in the same order."""

    def __init__(self, device: torch.device) -> None:
        """torch.distributed must have been set up: with NCCL for a GPU, with Gloo for the CPU."""
        assert dist.is_initialized(), "the ranks have not joined"
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = device

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace contiguous tensors of one number type by their sums over all ranks: the same bits in all of them."""
        for bucket in _buckets(tensors):
            if len(bucket) == 1:
                self._sum(bucket[0])
                continue
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self._sum(flat)
            for tensor, piece in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                tensor.copy_(piece.view_as(tensor))

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The values of every rank, by rank; each gives as many."""
        table = torch.zeros(self.size, len(values), dtype=torch.float64, device=self._device)
        table[self.rank] = torch.tensor(values, dtype=torch.float64)
        self._sum(table)
        rows: list[list[float]] = table.tolist()
        return rows

    def refuse_other_weights(self, weights: Sequence[torch.Tensor]) -> None:
        """Raise RefusedError if the ranks do not have the same weights, by a sample of each tensor's numbers."""
        digest = hashlib.sha256()
        for weight in weights:
            flat = weight.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // SAMPLED)].contiguous().cpu()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
        seen = self.gather([float(int.from_bytes(digest.digest()[i : i + 4], "big")) for i in (0, 4, 8, 12)])
        if other := [rank for rank, of_rank in enumerate(seen) if of_rank != seen[0]]:
            raise RefusedError(
                f"after the training, rank {other[0]} of {self.size} has other weights than rank 0, so the weights are "
                "not those of this training; run the same command again, and if it happens again, train with "
                "cluster.train_workers = 1 in a new run and report it"
            )

    def part(self) -> None:
        """End the group; every rank calls it when nothing is to be summed any more."""
        dist.destroy_process_group()

    def _sum(self, tensor: torch.Tensor) -> None:
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:  # of every backend, whatever has happened to the connection
            first = str(error).splitlines()[0]
            raise RankLost(f"rank {self.rank} of {self.size} cannot reach another rank any more: {first}") from error


def join(rank: int, size: int, store: Any, device: torch.device) -> Ranks:
    """Wait for all ranks, which meet at `store` (a Store of torch.distributed), and be one of them."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    return Ranks(device)


@contextmanager
def refused_connections(where: str) -> Iterator[None]:
    """Raise Unconnected, with what would help, if the ranks cannot meet at a host."""
    try:
        yield
    except (dist.DistError, OSError) as error:
        raise Unconnected(
            f"the ranks of a training cannot connect to each other at {where} ({str(error).splitlines()[0]}); allow "
            "such connections, or set cluster.train_workers = 1 in a new run"
        ) from error


def hide_from_libraries() -> None:
    """Take what says that this process is one of several out of its environment."""
    for name in LAUNCHERS:
        os.environ.pop(name, None)


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket

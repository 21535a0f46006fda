"""Gradients of micro-batches computed in further processes of the run.

The weights go to every peer once per optimizer step, a gradient comes back from each for its micro-batch, both as one
line of numbers: for the few megabytes of the models that this is for, a few milliseconds of a step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from selftaught.allocator import keep_freed_memory, return_freed_memory
from selftaught.peers import Peer
from selftaught.settings import TrainingConfig
from selftaught.tokens import IGNORED
from selftaught.training.models import load_float32, set_up

Collate = Callable[[Sequence[dict[str, list[int]]]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a peer must know to train the same model in the same way."""

    path: str
    settings: TrainingConfig
    compute: torch.dtype
    longest: int
    seed: int
    threads: int
    trust_remote_code: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A micro-batch that another process computes: an element of the data set, not yet collated."""

    feature: dict[str, list[int]]

    @property
    def num_targets(self) -> int:
        return sum(label != IGNORED for label in self.feature["labels"])


@dataclass(frozen=True, slots=True)
class PartGradient:
    """What the backward pass of one micro-batch gave."""

    loss: float
    """Its share of the step's loss."""
    num_targets: int
    gradients: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """Of the parameters that have one."""


class PeerGradients:
    """The peers of one training, each with the model of the same lesson."""

    def __init__(self, peers: Sequence[Peer], lesson: Lesson) -> None:
        self._peers = peers
        for rank, peer in enumerate(peers, start=1):
            peer.begin(self, serve_gradients, lesson, rank)

    def ask(
        self,
        trained: Sequence[torch.Tensor],
        parts: Sequence[Part],
        share: float,
        *,
        router_weight: float,
        is_new: bool,
    ) -> None:
        """Start one part in every peer. The loss of a part is `share` times the sum over its loss tokens.

        `is_new` says that the weights of `trained` have changed since the last call.
        """
        weights = _as_bytes(parameters_to_vector([p.detach() for p in trained])) if is_new else None
        for peer, part in zip(self._peers, parts, strict=True):
            peer.send((part, share, router_weight, is_new))
            if weights is not None:
                peer.send_bytes(weights)

    def answers(self, trained: Sequence[torch.Tensor]) -> Iterator[PartGradient]:
        """What the peers found, in their order, so that sums are the same whoever is first."""
        for peer in self._peers:
            loss, num_targets, has_gradient = peer.receive()
            line = torch.empty(sum(p.numel() for p in trained), dtype=trained[0].dtype)
            peer.receive_into(_as_bytes(line))
            pieces = torch.split(line, [p.numel() for p in trained])
            yield PartGradient(
                loss,
                num_targets,
                tuple(
                    (p, piece.view_as(p)) for p, piece, has in zip(trained, pieces, has_gradient, strict=True) if has
                ),
            )

    def __enter__(self) -> "PeerGradients":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self._peers:
            if kind is None:
                peer.end(self)
            else:
                peer.kill()  # it may be in the middle of an answer that nobody will read


def serve_gradients(pipe: Connection, lesson: Lesson, rank: int) -> None:
    """In a peer: compute gradients until None comes."""
    # The trainer's module holds TRL, which the engine of a peer never needs.
    from selftaught.training.trl_trainer import loss_of, packed, padded

    keep_freed_memory()
    torch.set_num_threads(lesson.threads)
    model, reason = set_up(
        load_float32(lesson.path, trust_remote_code=lesson.trust_remote_code),
        lesson.settings,
        compute=lesson.compute,
        longest=lesson.longest,
        seed=lesson.seed,
    )
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    if not lesson.settings.lora_rank:
        for parameter in trained:
            parameter.data = parameter.data.to(lesson.compute)
    collate: Collate = padded if reason else packed
    weights = parameters_to_vector([p.detach() for p in trained])
    vector_to_parameters(weights, trained)  # from here on parts of one line, which is overwritten
    torch.manual_seed(lesson.seed + rank)  # dropout
    while (job := pipe.recv()) is not None:
        part, share, router_weight, is_new = job
        if is_new:
            pipe.recv_bytes_into(_as_bytes(weights))
        inputs = collate([part.feature])
        targets = inputs.pop("targets")
        loss = loss_of(model, inputs, targets, torch.tensor(share), router_weight=router_weight)
        torch.autograd.backward(loss)
        line = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in trained])
        pipe.send((float(loss.detach()), len(targets), [p.grad is not None for p in trained]))
        pipe.send_bytes(_as_bytes(line))
        for parameter in trained:
            parameter.grad = None
    del model, trained, weights
    return_freed_memory()


def _as_bytes(line: torch.Tensor) -> Any:
    return line.view(torch.uint8).numpy()

"""Next-token loss over a large vocabulary, in float32 and a few positions at a time, together with its gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from selftaught.models.forecast import PIECE_BYTES

CHUNK_BYTES = 2 << 20
"""Of float32 probabilities in one chunk on a CPU: they fit its cache, and memory does not grow with the positions."""
GPU_CHUNK_BYTES = 256 << 20


class _WeightedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        exact = torch.promote_types(logits.dtype, torch.float32)
        gradient = torch.empty_like(logits)
        total = torch.zeros((), dtype=exact, device=logits.device)
        chunk = CHUNK_BYTES if logits.device.type == "cpu" else GPU_CHUNK_BYTES
        positions = max(1, chunk // (4 * logits.shape[-1]))
        for start in range(0, logits.shape[0], positions):
            values, target = logits[start : start + positions], targets[start : start + positions, None]
            highest, likeliest = values.max(-1, keepdim=True)
            probabilities = values.softmax(-1, dtype=exact)
            # log(sum(exp)) through the likeliest token, whose probability is never so small that its log is lost.
            normalizer = highest.to(exact) - probabilities.gather(1, likeliest).log()
            total += (normalizer - values.gather(1, target).to(exact)).sum()
            probabilities.scatter_add_(1, target, torch.full_like(target, -1, dtype=exact))
            gradient[start : start + positions] = probabilities.mul_(weight)
        ctx.save_for_backward(gradient)
        return total * weight

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        (outer,) = gradients
        # Usually the loss itself is differentiated; a pass over all logits is saved then. A GPU would have to wait for
        # the comparison.
        if outer.device.type != "cpu" or outer != 1.0:
            gradient = gradient * outer.to(gradient.dtype)
        return gradient, None, None


def weighted_loss(logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`weight` times the sum of -log p(target) in nats; logits [n, V], targets [n] token ids, weight [].

    Sums are float32 or better, and so is the weight when it meets the gradient, which has the logits' number type.
    """
    loss: torch.Tensor = _WeightedLoss.apply(logits, targets, weight)  # type: ignore[no-untyped-call]
    return loss


def loss_in_pieces(head: Any, hidden: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`weighted_loss` of the logits `head(hidden)`, hidden [n, H], without ever holding all of them.

    The logits of a piece are dropped after the forward pass and computed again in the backward pass.
    """
    positions = max(1, PIECE_BYTES // (hidden.element_size() * head.weight.shape[0]))

    def piece_loss(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return weighted_loss(head(hidden), targets, weight)

    pieces = zip(torch.split(hidden, positions), torch.split(targets, positions), strict=True)
    losses = [checkpoint(piece_loss, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    return torch.stack(losses).sum()


@contextmanager
def without_head(model: Any) -> Iterator[Any]:
    """Let the model give the output layer's inputs in place of logits; the output layer, which works as ever."""
    head = model.get_output_embeddings()
    head.forward = lambda hidden: hidden
    try:
        yield head
    finally:
        del head.forward


@torch.no_grad()
def ends_with_head(model: Any) -> bool:
    """Whether the logits of a model are what its output layer gives, with nothing done to them after it."""
    config = model.config.get_text_config()
    ids = (torch.arange(8, device=model.device)[None] * 5 + 3) % config.vocab_size
    training = model.training
    model.eval()
    logits = model(input_ids=ids, use_cache=False).logits
    with without_head(model) as head:
        hidden = model(input_ids=ids, use_cache=False).logits
    same = hidden.shape[-1] == head.weight.shape[1] and torch.equal(head(hidden), logits)
    model.train(training)
    return bool(same)

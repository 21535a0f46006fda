"""Round trained float32 weights to bfloat16 without losing what a training added to them.

Rounding to the nearest removes a step smaller than half the spacing of bfloat16 (2^-8 of a weight) wherever the old
weight lies on that grid, as the weights of most released models do: generation in bfloat16 would see nothing of a short
training with a small learning rate. Rounding at random, up or down with the probability that keeps the mean, keeps the
step in the sum over many weights (stochastic rounding; Gupta et al. 2015, arXiv 1502.02551).
"""

from typing import Any

import torch

_DROPPED = 16
"""Bits of a float32 that bfloat16 does not have."""
ROUNDED_AT_A_TIME = 1 << 22
"""Numbers, because three copies of them are made; an embedding may have gigabytes."""


def round_at_random(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each finite weight rounded up or down to a float32 number that bfloat16 has; the expected value is the weight.

    A weight that is on the grid stays as it is, so weights that were not trained do not change.
    """
    noise = torch.randint(
        0, 1 << _DROPPED, weights.shape, generator=generator, dtype=torch.int32, device=weights.device
    )
    # The bits of a float are ordered like its size: a carry out of the dropped bits rounds away from zero, with the
    # probability that these bits state.
    return ((weights.view(torch.int32) + noise) & -(1 << _DROPPED)).view(torch.float32)


def round_in_pieces(weights: torch.Tensor, generator: torch.Generator) -> None:
    """`round_at_random` of float32 weights in place, with the memory of a piece of them."""
    for piece in torch.split(weights.view(-1), ROUNDED_AT_A_TIME):
        piece.copy_(round_at_random(piece, generator))


@torch.no_grad()
def round_model(model: Any, *, seed: int) -> None:
    """Round all float32 parameters in place; a function of the weights, the seed and the kind of device."""
    for place, parameter in enumerate(model.parameters()):  # tied weights are one parameter
        if parameter.dtype == torch.float32:
            round_in_pieces(parameter.data, torch.Generator(parameter.device).manual_seed((seed + place) % 2**63))

"""One token per row from logits: temperature, top-k, top-p, by inverse distribution function."""

import torch
from torch import Tensor

from selftaught.records import SamplingParams

CANDIDATES = 512
"""Likeliest tokens that are sorted first when top-p is on; the whole vocabulary is sorted only if they are too few."""

BLOCK = 256
"""Tokens whose probabilities are summed together before a search among them."""


@torch.inference_mode()
def sample_tokens(logits: Tensor, params: SamplingParams, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids [B] and their log-probabilities [B] (nats, temperature 1, nothing ruled out).

    `logits` is [B, V]; `numbers` [B], float64 in [0, 1), decide the draw. Temperature first, then top-k, then top-p on
    what is left. Temperature 0 takes the likeliest, the first among equals, and needs no numbers. A row's result does
    not depend on the other rows. A log-probability that is not finite means that the row's logits were not.
    """
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logprobs = logits.log_softmax(-1, dtype=wide)
    if params.temperature == 0.0:
        best = logprobs.max(-1)
        return best.indices, best.values
    if params.top_k or params.top_p < 1.0:
        found = _draw_of_sorted(logits.to(wide) / params.temperature, params, numbers)
    else:
        scaled = logprobs if params.temperature == 1.0 else (logits.to(wide) / params.temperature).log_softmax(-1)
        found = _draw_of_all(scaled.exp(), numbers)
    return found, logprobs.gather(-1, found[:, None])[:, 0]


def _draw_of_all(probs: Tensor, numbers: Tensor) -> Tensor:
    """Tokens in the order of the vocabulary; first the block, then the token in it, so that no long sum is needed."""
    num_rows, size = probs.shape
    blocks = torch.nn.functional.pad(probs, (0, -size % BLOCK)).view(num_rows, -1, BLOCK)
    block, rest = _search(blocks.sum(-1), numbers)
    within = blocks[torch.arange(num_rows, device=probs.device), block]
    token, _ = _search(within, rest)
    return (block * BLOCK + token).clamp(max=size - 1)  # weights that are no numbers lead into the padding


def _search(weights: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Where each number in [0, 1) falls in its row's weights [B, n], and how far into that weight, in [0, 1)."""
    weights = weights.double()
    cumulative = weights.cumsum(-1)
    aims = numbers * cumulative[:, -1]
    found = torch.searchsorted(cumulative, aims[:, None], right=True)
    # Rounding must not pick a weight of zero at the end.
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).to(torch.uint8).argmax(-1, keepdim=True)
    found = found.minimum(last)
    weight = weights.gather(-1, found)[:, 0]
    rest = (aims - (cumulative.gather(-1, found)[:, 0] - weight)) / weight
    return found[:, 0], rest.clamp(0.0, 1.0 - 2**-53)


def _draw_of_sorted(scaled: Tensor, params: SamplingParams, numbers: Tensor, candidates: int = CANDIDATES) -> Tensor:
    """Tokens from the likeliest down; a token stays if those before it do not yet make up top_p of what top-k left."""
    number = min(params.top_k or candidates, scaled.shape[-1])
    top, order = scaled.topk(number, dim=-1)
    probs = (top - scaled.logsumexp(-1, keepdim=True)).exp().double()
    cumulative = probs.cumsum(-1)
    whole = cumulative[:, -1:] if params.top_k else torch.ones_like(cumulative[:, -1:])
    token, _ = _search(probs.masked_fill(cumulative - probs >= params.top_p * whole, 0.0), numbers)
    found = order.gather(-1, token[:, None])[:, 0]
    if not params.top_k and number < scaled.shape[-1]:
        # Rows whose candidates do not make up top_p are drawn again among more; by themselves, so that no row's
        # result depends on another's.
        short = cumulative[:, -1] < params.top_p
        if bool(short.any()):
            found[short] = _draw_of_sorted(scaled[short], params, numbers[short], 8 * candidates)
    return found

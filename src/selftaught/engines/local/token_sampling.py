"""One token per row from logits: temperature, top-k, top-p, by the inverse of the distribution function."""

import torch
from torch import Tensor

from selftaught.records.samples import SamplingParams

CANDIDATES = 512
"""Likeliest tokens that are sorted first for top-p; more are sorted only if these are too few."""

BLOCK = 256
"""Tokens whose probabilities are added up before a search among them."""


@torch.inference_mode()
def sample_tokens(logits: Tensor, params: SamplingParams, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids [B] and their log-probabilities [B] (nats, temperature 1, nothing ruled out).

    `logits` is [B, V]; `numbers` [B], float64 in [0, 1), decide the tokens. Temperature comes first, then top-k, then
    top-p on what is left. Temperature 0 takes the likeliest, the first among equals, and needs no numbers. A row's
    result does not depend on the other rows. A log-probability that is not finite means that the row's logits were not.
    """
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logprobs = logits.log_softmax(-1, dtype=wide)
    if params.temperature == 0.0:
        best = logprobs.max(-1)
        return best.indices, best.values
    if params.top_k or params.top_p < 1.0:
        tokens = _sample_sorted(logits.to(wide) / params.temperature, params, numbers)
    else:
        scaled = logprobs if params.temperature == 1.0 else (logits.to(wide) / params.temperature).log_softmax(-1)
        tokens = _sample_unsorted(scaled.exp(), numbers)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _sample_unsorted(probs: Tensor, numbers: Tensor) -> Tensor:
    """Tokens in the order of the vocabulary: first the block, then the token in it, so that no long sum is needed."""
    num_rows, size = probs.shape
    blocks = torch.nn.functional.pad(probs, (0, -size % BLOCK)).view(num_rows, -1, BLOCK)
    block, rest = _search(blocks.sum(-1), numbers)
    within = blocks[torch.arange(num_rows, device=probs.device), block]
    token, _ = _search(within, rest)
    return (block * BLOCK + token).clamp(max=size - 1)  # weights that are not numbers can point into the padding


def _search(weights: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Where each number in [0, 1) falls in its row's weights [B, n], and how far into that weight, in [0, 1)."""
    weights = weights.double()
    cumulative = weights.cumsum(-1)
    targets = numbers * cumulative[:, -1]
    places = torch.searchsorted(cumulative, targets[:, None], right=True)
    # Rounding must not pick a weight of zero at the end.
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).to(torch.uint8).argmax(-1, keepdim=True)
    places = places.minimum(last)
    weight = weights.gather(-1, places)[:, 0]
    rest = (targets - (cumulative.gather(-1, places)[:, 0] - weight)) / weight
    return places[:, 0], rest.clamp(0.0, 1.0 - 2**-53)


def _sample_sorted(scaled: Tensor, params: SamplingParams, numbers: Tensor, candidates: int = CANDIDATES) -> Tensor:
    """Tokens from the likeliest down; a token stays if those before it have less than top_p of what top-k left."""
    number = min(params.top_k or candidates, scaled.shape[-1])
    top, order = scaled.topk(number, dim=-1)
    probs = (top - scaled.logsumexp(-1, keepdim=True)).exp().double()
    cumulative = probs.cumsum(-1)
    total = cumulative[:, -1:] if params.top_k else torch.ones_like(cumulative[:, -1:])
    place, _ = _search(probs.masked_fill(cumulative - probs >= params.top_p * total, 0.0), numbers)
    tokens = order.gather(-1, place[:, None])[:, 0]
    if not params.top_k and number < scaled.shape[-1]:
        # A row whose candidates have less than top_p is sampled again from more of them, apart from the other rows, so
        # that no row's result depends on another's.
        short = cumulative[:, -1] < params.top_p
        if bool(short.any()):
            tokens[short] = _sample_sorted(scaled[short], params, numbers[short], 8 * candidates)
    return tokens

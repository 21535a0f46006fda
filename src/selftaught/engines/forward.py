"""One forward pass of a model over tokens in slots, and whether a model can be run so."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from selftaught.attention_kinds import why_not_exchanged, window_of
from selftaught.engines.slots import (
    ATTENTION,
    Kernels,
    NotServed,
    PrefixTokens,
    PromptTokens,
    SlotCache,
    StepTokens,
    Tokens,
)
from selftaught.errors import one_line


class Runner:
    """Runs a model whose attention is `slots.attention`. Logits come back as [sequences, V]."""

    def __init__(self, model: Any, device: torch.device, kernels: Kernels | None = None) -> None:
        self.model, self.device, self.kernels = model, device, kernels
        self._decoder = kernels.decoder(model) if kernels else None

    def prefix(self, cache: SlotCache, ids: Sequence[int]) -> None:
        """Run the prefix that all sequences share, and keep it."""
        self._run(ids, torch.arange(len(ids), device=self.device), PrefixTokens(cache), keep=torch.tensor([0]))

    def prompts(self, cache: SlotCache, shared: int, tails: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        """Run what follows the first `shared` tokens of some prompts, keep it in slots; logits after each prompt."""
        tokens = PromptTokens(cache, [len(t) for t in tails], slots, self.device)
        return self._run([i for t in tails for i in t], tokens.own_positions + shared, tokens, keep=tokens.last)

    def step(self, cache: SlotCache, shared: int, ids: Sequence[int], own_positions: Sequence[int]) -> Tensor:
        """Run one token for each of the first slots; logits after it."""
        tokens = StepTokens(cache, own_positions, self.model.dtype, self.device)
        keep = torch.arange(len(ids), device=self.device)
        return self._run(ids, tokens.own_positions + shared, tokens, keep=keep)

    def sequences(self, cache: SlotCache, shared: int, tails: Sequence[Sequence[int]], keep: Sequence[int]) -> Tensor:
        """Run what follows the first `shared` tokens of some sequences, keep nothing; logits at the places `keep`."""
        tokens = PromptTokens(cache, [len(t) for t in tails], None, self.device)
        at = torch.tensor(keep, device=self.device)
        return self._run([i for t in tails for i in t], tokens.own_positions + shared, tokens, keep=at)

    def _run(self, ids: Sequence[int], positions: Tensor, tokens: Tokens, keep: Tensor) -> Tensor:
        with torch.inference_mode():
            if self._decoder:
                return self._decoder(torch.tensor(ids, device=self.device), positions, tokens, keep.to(self.device))
            logits = self.model(
                input_ids=torch.tensor([ids], device=self.device),
                position_ids=positions[None],
                use_cache=False,
                logits_to_keep=keep.to(self.device),
                slot_tokens=tokens,
            ).logits
        return cast(Tensor, logits[0])


def prepare(model: Any, device: torch.device, kernels: Kernels | None = None) -> str | None:
    """Set a model up to be run in slots. Returns None, or why it cannot be (the model is then as it was before).

    Decided by what the model is, then by a check of its logits against those of a plain forward pass.
    """
    if reason := why_not_exchanged(model.config.get_text_config()):
        return reason
    before = model.config._attn_implementation
    plain = _plain_logits(model, device)
    if not model._can_set_attn_implementation():
        return "it has an attention of its own that cannot be replaced"
    model.set_attn_implementation(ATTENTION)
    if model.config._attn_implementation != ATTENTION:
        return "it has an attention of its own that cannot be replaced"
    # Models with a window are drawn by `generate` where it is too short, which needs their own attention.
    with_attention = window_of(model.config.get_text_config()) is None
    replaced = kernels.fuse(model, with_attention=with_attention) if kernels else []
    reason = _other_logits(Runner(model, device, kernels), plain)
    if reason and replaced:
        for parent, name, layer in reversed(replaced):
            setattr(parent, name, layer)
        reason = _other_logits(Runner(model, device, kernels), plain)
    if reason:
        model.set_attn_implementation(before)
    return reason


def _check_ids(model: Any) -> list[list[int]]:
    """Five sequences of 4 to 7 tokens that begin with the same two, from all over the vocabulary.

    Not the lowest ids: those are special tokens, on which bfloat16 alone can be off by a third of the logits.
    """
    size = model.config.get_text_config().vocab_size
    spread = [(1 + i) * 2_654_435_761 % 2**32 % size for i in range(30)]  # Knuth's multiplicative hash
    return [spread[:2] + spread[5 * k + 2 : 5 * k + 4 + (k * 3) % 5 % 4] for k in range(5)]


def _plain_logits(model: Any, device: torch.device) -> list[Tensor]:
    """Logits after the sequences of the check, each by itself."""
    with torch.inference_mode():
        return [
            model(torch.tensor([ids], device=device), use_cache=False).logits[0, -1].float()
            for ids in _check_ids(model)
        ]


def _other_logits(runner: Runner, plain: Sequence[Tensor]) -> str | None:
    """None if logits agree, with and without a shared prefix."""
    return _other_logits_behind(2, runner, plain) or _other_logits_behind(0, runner, plain)


def _other_logits_behind(shared: int, runner: Runner, plain: Sequence[Tensor]) -> str | None:
    """Run the check's sequences in slots: prefix, if any, prompts of unequal length, a step. None if logits agree."""
    ids = _check_ids(runner.model)
    cache = SlotCache(len(ids), max(map(len, ids)), runner.kernels)
    try:
        if shared:
            runner.prefix(cache, ids[0][:shared])
        first = runner.prompts(cache, shared, [row[shared:-1] for row in ids], range(len(ids)))
        ours = runner.step(cache, shared, [row[-1] for row in ids], [len(row) - 1 - shared for row in ids])
    except NotServed as error:
        return str(error)
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError, KeyError) as error:
        # Models raise what they like when they are called in a way that they were not written for.
        return f"its forward pass does not take slots ({type(error).__name__}: {one_line(error)})"
    if first.shape != ours.shape or ours.shape[0] != len(plain):
        return "it does not give the logits of chosen positions"
    gaps = sorted(
        float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
        for found, expected in zip(ours.float(), plain, strict=True)
    )
    # In half precision a single sequence can be far off by rounding alone; a wrong pass is off on most of them.
    is_half = runner.model.dtype in (torch.bfloat16, torch.float16)
    gap, limit = (gaps[len(gaps) // 2], 0.1) if is_half else (gaps[-1], 1e-3)
    if not all(map(math.isfinite, gaps)) or not gap < limit:
        return f"its logits in slots differ from those of a plain forward pass (relative difference {gap:.2g})"
    return None

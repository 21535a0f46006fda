"""Forward passes of a model over tokens in slots, and whether a model can be run in slots."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from selftaught.engines.local.slots import (
    ATTENTION,
    Kernels,
    PrefillPass,
    PrefixPass,
    SlotCache,
    SlotPass,
    StepPass,
    UnsupportedInSlots,
)
from selftaught.models.attention_kinds import why_not_exchanged, window_of
from selftaught.records.errors import one_line


class Runner:
    """Runs a model whose attention is `slots.attention`. Logits come back as [sequences, V]."""

    def __init__(self, model: Any, device: torch.device, kernels: Kernels | None = None) -> None:
        self.model, self.device, self.kernels = model, device, kernels
        self._decoder = kernels.decoder(model) if kernels else None

    def prefill_prefix(self, cache: SlotCache, ids: Sequence[int]) -> None:
        """Run the prefix that all sequences share, and keep its keys and values."""
        self._run(ids, torch.arange(len(ids), device=self.device), PrefixPass(cache), keep=torch.tensor([0]))

    def prefill(self, cache: SlotCache, shared: int, tails: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        """Run what follows the first `shared` tokens of several prompts, each into its slot; logits after each."""
        slot_pass = PrefillPass(cache, [len(t) for t in tails], slots, self.device)
        return self._run(
            [i for t in tails for i in t], slot_pass.own_positions + shared, slot_pass, keep=slot_pass.last
        )

    def step(self, cache: SlotCache, shared: int, ids: Sequence[int], own_positions: Sequence[int]) -> Tensor:
        """Run one token for each of the first slots; logits after each."""
        slot_pass = StepPass(cache, own_positions, self.model.dtype, self.device)
        keep = torch.arange(len(ids), device=self.device)
        return self._run(ids, slot_pass.own_positions + shared, slot_pass, keep=keep)

    def logits(self, cache: SlotCache, shared: int, tails: Sequence[Sequence[int]], keep: Sequence[int]) -> Tensor:
        """Run what follows the first `shared` tokens of several sequences, without slots; logits at the places `keep`.

        Places count through all tails, one after the other.
        """
        slot_pass = PrefillPass(cache, [len(t) for t in tails], None, self.device)
        at = torch.tensor(keep, device=self.device)
        return self._run([i for t in tails for i in t], slot_pass.own_positions + shared, slot_pass, keep=at)

    def _run(self, ids: Sequence[int], positions: Tensor, slot_pass: SlotPass, keep: Tensor) -> Tensor:
        with torch.inference_mode():
            if self._decoder:
                return self._decoder(torch.tensor(ids, device=self.device), positions, slot_pass, keep.to(self.device))
            logits = self.model(
                input_ids=torch.tensor([ids], device=self.device),
                position_ids=positions[None],
                use_cache=False,
                logits_to_keep=keep.to(self.device),
                slot_pass=slot_pass,
            ).logits
        return cast(Tensor, logits[0])


def use_slots(model: Any, device: torch.device, kernels: Kernels | None = None) -> str | None:
    """Switch a model to attention in slots, and to fused layers of the kernels. Returns why that cannot be, or None.

    The model's config decides first, then a comparison of its logits with those of a plain forward pass. A model that
    cannot be run in slots keeps its own layers and attention.
    """
    if reason := why_not_exchanged(model.config.get_text_config()):
        return reason
    own_attention = model.config._attn_implementation
    plain = _plain_logits(model, device)
    if not model._can_set_attn_implementation():
        return "it has an attention of its own that cannot be replaced"
    model.set_attn_implementation(ATTENTION)
    if model.config._attn_implementation != ATTENTION:
        return "it has an attention of its own that cannot be replaced"
    # Where a sliding window is too short for slots, `generate` runs the model, and needs its own attention.
    with_attention = window_of(model.config.get_text_config()) is None
    replaced = kernels.fuse(model, with_attention=with_attention) if kernels else []
    reason = _why_logits_differ(Runner(model, device, kernels), plain)
    if reason and replaced:
        for parent, name, layer in reversed(replaced):
            setattr(parent, name, layer)
        reason = _why_logits_differ(Runner(model, device, kernels), plain)
    if reason:
        model.set_attn_implementation(own_attention)
    return reason


def _check_ids(model: Any) -> list[list[int]]:
    """Five sequences of 4 to 7 tokens from all over the vocabulary; all begin with the same two.

    The lowest ids are avoided: they are special tokens, for which bfloat16 alone can change logits by a third.
    """
    size = model.config.get_text_config().vocab_size
    spread = [(1 + i) * 2_654_435_761 % 2**32 % size for i in range(30)]  # Knuth's multiplicative hash
    return [spread[:2] + spread[5 * k + 2 : 5 * k + 4 + (k * 3) % 5 % 4] for k in range(5)]


def _plain_logits(model: Any, device: torch.device) -> list[Tensor]:
    """Logits after each sequence of the check, run alone."""
    with torch.inference_mode():
        return [
            model(torch.tensor([ids], device=device), use_cache=False).logits[0, -1].float()
            for ids in _check_ids(model)
        ]


def _why_logits_differ(runner: Runner, plain: Sequence[Tensor]) -> str | None:
    """None if the logits in slots are the plain ones, with and without a shared prefix; else the reason."""
    return _why_logits_differ_after(2, runner, plain) or _why_logits_differ_after(0, runner, plain)


def _why_logits_differ_after(shared: int, runner: Runner, plain: Sequence[Tensor]) -> str | None:
    """The same with a prefix of so many tokens: it is run, then prompts of unequal length, then a step."""
    ids = _check_ids(runner.model)
    cache = SlotCache(len(ids), max(map(len, ids)), runner.kernels)
    try:
        if shared:
            runner.prefill_prefix(cache, ids[0][:shared])
        first = runner.prefill(cache, shared, [row[shared:-1] for row in ids], range(len(ids)))
        ours = runner.step(cache, shared, [row[-1] for row in ids], [len(row) - 1 - shared for row in ids])
    except UnsupportedInSlots as error:
        return str(error)
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError, KeyError) as error:
        # Models raise all kinds of errors when they are called in a way that they were not written for.
        return f"its forward pass does not take slots ({type(error).__name__}: {one_line(error)})"
    if first.shape != ours.shape or ours.shape[0] != len(plain):
        return "it does not give the logits of chosen positions"
    gaps = sorted(
        float((actual - expected).abs().max() / expected.abs().max().clamp(min=1.0))
        for actual, expected in zip(ours.float(), plain, strict=True)
    )
    # In half precision rounding alone can change one sequence much; a wrong pass changes most of them.
    is_half = runner.model.dtype in (torch.bfloat16, torch.float16)
    gap, limit = (gaps[len(gaps) // 2], 0.1) if is_half else (gaps[-1], 1e-3)
    if not all(map(math.isfinite, gaps)) or not gap < limit:
        return f"its logits in slots differ from those of a plain forward pass (relative difference {gap:.2g})"
    return None

"""A shorter forward pass for Llama and similar models with fused layers, without what generation does not need.

transformers' own pass builds masks, cache objects and output records, and looks for hooks at every layer; with few rows
or a small model that is a large part of a step. The operations are the same, in the same order.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from selftaught.engines.local.cpu.fused import FusedAttention, FusedMlp, FusedNorm
from selftaught.engines.local.slots import SlotPass

KNOWN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
"""Models of an embedding, layers (two norms, attention, a gated layer, two residual sums), a norm and a head."""
TABLE_STEP = 1024
"""Positions by which the rotary tables grow."""


class Decoder:
    """Runs a model all of whose layers are fused (`decoder_of`)."""

    def __init__(self, model: Any) -> None:
        inner = model.model
        self._model = model  # its linear layers may yet be replaced by packed ones
        self._embedding, self._rotary = inner.embed_tokens.weight, inner.rotary_emb
        self._norm: Callable[[Tensor], Tensor] = inner.norm.forward
        self._layers: list[tuple[Callable[[Tensor], Tensor], FusedAttention, Callable[..., Tensor], FusedMlp]] = [
            (layer.input_layernorm.forward, layer.self_attn, layer.post_attention_layernorm.forward, layer.mlp)
            for layer in inner.layers
        ]
        self._tables: tuple[Tensor, Tensor] | None = None

    def __call__(self, ids: Tensor, positions: Tensor, slot_pass: SlotPass, keep: Tensor) -> Tensor:
        """Logits [len(keep), V] at the places `keep` of ids [N] at these positions [N]."""
        x = nn.functional.embedding(ids, self._embedding)[None]
        cos, sin = (table[positions] for table in self.rotary_tables(positions))
        for norm_before, attention, norm_between, mlp in self._layers:
            x += attention.attend(norm_before(x), cos, sin, slot_pass)
            x += mlp.forward(norm_between(x))
        return cast(Tensor, self._model.lm_head(self._norm(x[:, keep])))[0]

    def rotary_tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [at least last + 1, D] of all positions up to the last of these.

        They are the same in every sequence, because models whose rotary positions depend on the length are not run in
        slots (`attention_kinds.FIXED_ROPE`). So the tables only grow with the longest sequence.
        """
        last = int(positions.max())
        if self._tables is None or last >= self._tables[0].shape[0]:
            all_positions = torch.arange((last // TABLE_STEP + 1) * TABLE_STEP, device=positions.device)
            cos, sin = self._rotary(self._embedding, all_positions[None])
            self._tables = cos[0].contiguous(), sin[0].contiguous()
        return self._tables


def decoder_of(model: Any) -> Decoder | None:
    """The shorter forward pass of a model, or None for an unknown class of model or a layer that is not fused."""
    if type(model) not in KNOWN:
        return None
    inner = model.model
    are_fused = isinstance(inner.norm, FusedNorm) and all(
        isinstance(layer.input_layernorm, FusedNorm)
        and isinstance(layer.post_attention_layernorm, FusedNorm)
        and isinstance(layer.self_attn, FusedAttention)
        and isinstance(layer.mlp, FusedMlp)
        for layer in inner.layers
    )
    return Decoder(model) if are_fused else None

"""The forward pass of Llama and its kin over fused layers, without what drawing has no use for.

transformers' own pass builds masks, cache objects and output records and looks for hooks at every layer; with a few
rows, or a small model, that is a good part of a step. The operations are the same, in the same order.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from selftaught.engines.cpu.fused import FusedAttention, FusedMlp, FusedNorm
from selftaught.engines.slots import Tokens

KNOWN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
"""Embedding, layers of two norms, attention and gated layer with residual sums, norm, head: and nothing else."""
TURNS = 1024
"""Positions by which the tables of rotary positions grow."""


class Decoder:
    """Runs a model all of whose layers are fused (`decoder_of`)."""

    def __init__(self, model: Any) -> None:
        inner = model.model
        self._model = model  # its linear layers may still be exchanged for packed ones
        self._embedding, self._rotary = inner.embed_tokens.weight, inner.rotary_emb
        self._norm: Callable[[Tensor], Tensor] = inner.norm.forward
        self._layers: list[tuple[Callable[[Tensor], Tensor], FusedAttention, Callable[..., Tensor], FusedMlp]] = [
            (layer.input_layernorm.forward, layer.self_attn, layer.post_attention_layernorm.forward, layer.mlp)
            for layer in inner.layers
        ]
        self._turns: tuple[Tensor, Tensor] | None = None

    def __call__(self, ids: Tensor, positions: Tensor, tokens: Tokens, keep: Tensor) -> Tensor:
        """Logits [len(keep), V] at the places `keep` of ids [N] at these positions [N]."""
        x = nn.functional.embedding(ids, self._embedding)[None]
        cos, sin = (table[positions] for table in self.turns(positions))
        for norm_before, attention, norm_between, mlp in self._layers:
            x += attention.attend(norm_before(x), cos, sin, tokens)
            x += mlp.forward(norm_between(x))
        return cast(Tensor, self._model.lm_head(self._norm(x[:, keep])))[0]

    def turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [positions, D] of all positions up to the last of these, and more.

        A position's are the same in every sequence: models whose rotary positions depend on the length are not run in
        slots at all (`attention_kinds.FIXED_ROPE`), so the tables are made once and grow with the longest sequence.
        """
        last = int(positions.max())
        if self._turns is None or last >= self._turns[0].shape[0]:
            table = torch.arange((last // TURNS + 1) * TURNS, device=positions.device)
            cos, sin = self._rotary(self._embedding, table[None])
            self._turns = cos[0].contiguous(), sin[0].contiguous()
        return self._turns


def decoder_of(model: Any) -> Decoder | None:
    """The lean pass of a model, or None if it has a layer that is not fused or is built in another way."""
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

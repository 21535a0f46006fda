"""The forward pass of a small model as one compiled call, for drawing on one thread of a CPU.

A step of some hundred tokens of a small model takes a few milliseconds, and half of that went into handing tensors from
one operation to the next and into products of matrices too small for the library's best.
Here tokens go through all layers in blocks, whose activations stay in the cache. A token's numbers do not depend on
which others share its pass.

Letters as in slots.py.
"""

from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor, nn

from selftaught.engines.decoder import Decoder
from selftaught.engines.fused import FusedAttention, norm_of_line, rotation_of_head, silu_of_line
from selftaught.engines.kernel_cache import kept_on_disk
from selftaught.engines.kernels import NO_LSE, OPTIONS, attend_kernel
from selftaught.engines.packing import WORTH_PACKING
from selftaught.engines.slots import PromptTokens, StepTokens, Tokens
from selftaught.engines.vectors import BYTE, CHUNK, Rows, products

PANEL = 16
"""Outputs of a linear layer whose weights lie together, input by input."""
TALL = 6
"""Tokens that are multiplied with a panel at a time: their sums and a row of the panel fill the registers of AVX2."""
BLOCK = 96
"""Tokens that go through the layers together."""


class WholePass:
    """Runs a model that `is_small`, token by token in slots; a shared prefix and what is behind one go by layers."""

    def __init__(self, model: Any, by_layers: Decoder) -> None:
        layers, config = model.model.layers, model.config.get_text_config()
        attention: FusedAttention = layers[0].self_attn
        self._by_layers = by_layers
        self._kv_heads, self._size = attention.kv_heads, attention.size
        self._hidden, self._inner = config.hidden_size, config.intermediate_size
        self._scale, self._epsilon = np.float32(attention.scale), np.float32(config.rms_norm_eps)
        self._weights = [  # referred to as long as their addresses are in use
            [
                layer.input_layernorm.weight,
                in_panels(layer.self_attn.qkv_proj),
                in_panels(layer.self_attn.o_proj),
                layer.post_attention_layernorm.weight,
                in_panels(layer.mlp.gate_up_proj),
                in_panels(layer.mlp.down_proj),
            ]
            for layer in layers
        ]
        self._ends = [model.model.embed_tokens.weight.detach(), model.model.norm.weight, in_panels(model.lm_head)]
        self._vocabulary = model.lm_head.out_features
        width = attention.heads * attention.size
        # Held here, not by the kernel: numba frees an array after the last use of its name, its address does not count.
        widths = self._hidden, self._hidden, layers[0].self_attn.qkv_proj.out_features, width, width, 3 * self._inner
        self._blocks = [torch.empty(BLOCK, width) for width in widths]
        self._kernel = _kernel(self._size, attention.heads // attention.kv_heads)

    def __call__(self, ids: Tensor, positions: Tensor, tokens: Tokens, keep: Tensor) -> Tensor:
        """Logits [len(keep), V] at the places `keep`, in ascending order, of ids [N] at these positions [N]."""
        if not isinstance(tokens, PromptTokens | StepTokens) or tokens.slots is None or tokens.cache.prefix:
            return self._by_layers(ids, positions, tokens, keep)
        if int(ids.max()) >= len(self._ends[0]):
            raise IndexError(f"token {int(ids.max())} is not among the {len(self._ends[0])} that the model knows")
        cache, like = tokens.cache, torch.empty(1, self._kv_heads, 0, self._size)
        held = [cache.held(layer, like, like) for layer in range(len(self._weights))]
        addresses = [
            [x.data_ptr() for x in (*weights, *kept)] for weights, kept in zip(self._weights, held, strict=True)
        ]
        cos, sin = self._by_layers.turns(positions)
        # Products are of TALL tokens: some rows behind the last one are written, too.
        logits = torch.empty(len(keep) + TALL, -(-self._vocabulary // PANEL) * PANEL)
        self._kernel(
            *(x.numpy() for x in (ids, tokens.slots, tokens.own_positions, keep)),
            cos.data_ptr(), sin.data_ptr(), np.array(addresses), *(x.data_ptr() for x in self._ends),
            *(x.data_ptr() for x in self._blocks), self._kv_heads, cache.length, self._hidden, self._inner,
            self._scale, self._epsilon, logits.data_ptr(), logits.shape[1],
        )  # fmt: skip
        return logits[: len(keep), : self._vocabulary]


def is_small(model: Any) -> bool:
    """Whether a model with a `Decoder` is one for `WholePass`: float32, ordinary linear layers without biases and with
    few weights each, no norms of heads, widths that are whole vectors."""
    config, layers = model.config.get_text_config(), model.model.layers
    linears = [model.lm_head]
    for layer in layers:
        linears += [layer.self_attn.qkv_proj, layer.self_attn.o_proj, layer.mlp.gate_up_proj, layer.mlp.down_proj]
    return (
        model.dtype == torch.float32
        # By type: a packed layer, or one with an adapter, computes something else than its weight says.
        and all(type(x) is nn.Linear and x.bias is None and x.weight.numel() < WORTH_PACKING for x in linears)
        and all(layer.self_attn.q_norm is None for layer in layers)
        and layers[0].self_attn.qkv_proj.out_features % PANEL == 0
        and config.hidden_size % CHUNK == config.intermediate_size % CHUNK == 0
    )


def in_panels(linear: nn.Linear) -> Tensor:
    """Its weight [out, in] as [out / PANEL, in, PANEL], filled up with zeros."""
    weight = linear.weight.detach()
    whole = nn.functional.pad(weight, (0, 0, 0, -weight.shape[0] % PANEL))
    return whole.view(-1, PANEL, weight.shape[1]).transpose(1, 2).contiguous()


def multiplier(tall: int, adds: bool) -> Any:
    """`vectors.products` of `tall` rows of x and a panel: x, stride, step, panel, depth, out, stride of out."""
    row = Rows(PANEL, is_half=False)

    @intrinsic
    def multiply(
        context: Any, x: Any, stride: Any, step: Any, panel: Any, depth: Any, out: Any, out_stride: Any
    ) -> Any:
        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            products(b, row, tall, *arguments, adds=adds)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), code

    return multiply


@cache
def linear_of_panels(adds: bool) -> Any:
    """out [number, width] = x [number, depth] times panels, or added to out; numbers of TALL, widths of PANEL."""
    multiply = multiplier(TALL, adds)

    @kept_on_disk(adds)
    @numba.njit(**OPTIONS)
    def linear(x: int, panels: int, out: int, number: int, depth: int, width: int) -> None:
        for first in range(0, width, PANEL):
            for n in range(0, number, TALL):
                place = out + 4 * (n * width + first)
                multiply(x + 4 * n * depth, 4 * depth, 4, panels + 4 * first * depth, depth, place, 4 * width)

    return linear


@intrinsic
def copy(context: Any, source: Any, target: Any, num_bytes: Any) -> Any:
    """Copy bytes from one address to another."""

    def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        source, target, num_bytes = arguments
        places = [b.inttoptr(place, BYTE.as_pointer()) for place in (target, source)]
        cgutils.raw_memcpy(b, *places, num_bytes, 1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code


@cache
def _kernel(size: int, group: int) -> Any:
    """The pass for heads of `size` numbers, `group` query heads to a key head."""
    attend = attend_kernel(size, group, False, False)
    linear, add_linear = linear_of_panels(False), linear_of_panels(True)
    norm, silu, rotate = norm_of_line(False), silu_of_line(False), rotation_of_head(size, False)
    head_bytes = 4 * size

    @kept_on_disk(size, group)
    @numba.njit(**OPTIONS)
    def keep_and_turn(
        qkv: int, queries: int, held_k: int, held_v: int, cos: int, sin: int, kv_heads: int, length: int, slots: Any,
        positions: Any,
    ) -> None:  # fmt: skip
        """Queries, rotated, in a table of their own; keys, rotated, and values [tokens, K, D] to their slots."""
        heads = kv_heads * group
        for n in range(len(slots)):
            line, turn = qkv + n * (heads + 2 * kv_heads) * head_bytes, positions[n] * head_bytes
            for h in range(heads):
                rotate(line + h * head_bytes, cos + turn, sin + turn, queries + (n * heads + h) * head_bytes)
            for h in range(kv_heads):
                place = ((slots[n] * kv_heads + h) * length + positions[n]) * head_bytes
                key = line + (heads + h) * head_bytes
                rotate(key, cos + turn, sin + turn, held_k + place)
                copy(key + kv_heads * head_bytes, held_v + place, head_bytes)

    @kept_on_disk(size, group)
    @numba.njit(**OPTIONS)
    def whole_pass(
        ids: Any, slots: Any, positions: Any, keep: Any, cos: int, sin: int, layers: Any, embedding: int,
        last_norm: int, head: int, x: int, normed: int, qkv: int, queries: int, mixed: int, both: int, kv_heads: int,
        length: int, hidden: int, inner: int, scale: Any, epsilon: Any, logits: int, vocabulary: int,
    ) -> None:  # fmt: skip
        """`layers` are the addresses of a layer's weights, keys and values (`WholePass`), `x` to `both` of BLOCK rows
        each; `both` has room for gates, inputs and their products. `vocabulary` is in panels.

        What lies behind a block's last token is multiplied, too, and never read.
        """
        width, gated = kv_heads * group * size, both + 8 * BLOCK * inner
        kept = 0
        for first in range(0, len(ids), BLOCK):
            last = min(first + BLOCK, len(ids))
            number = last - first
            tall = -(-number // TALL) * TALL
            own_slots, own_positions = slots[first:last], positions[first:last]
            for n in range(number):
                copy(embedding + 4 * ids[first + n] * hidden, x + 4 * n * hidden, 4 * hidden)
            for i in range(len(layers)):
                norm_before, qkv_panels, o_panels, norm_between, gate_up_panels, down_panels, held_k, held_v = layers[i]
                for n in range(number):
                    norm(x + 4 * n * hidden, norm_before, normed + 4 * n * hidden, hidden // CHUNK, epsilon)
                linear(normed, qkv_panels, qkv, tall, hidden, width + 2 * kv_heads * size)
                keep_and_turn(
                    qkv, queries, held_k, held_v, cos, sin, kv_heads, length, own_slots, own_positions
                )  # fmt: skip
                attend(
                    queries, 0, 0, held_k, held_v, kv_heads, length, own_slots, own_positions, scale, 0, NO_LSE,
                    mixed, 0, number,
                )  # fmt: skip
                add_linear(mixed, o_panels, x, tall, width, hidden)
                for n in range(number):
                    norm(x + 4 * n * hidden, norm_between, normed + 4 * n * hidden, hidden // CHUNK, epsilon)
                linear(normed, gate_up_panels, both, tall, hidden, 2 * inner)
                for n in range(number):
                    gate = both + 8 * n * inner
                    silu(gate, gate + 4 * inner, gated + 4 * n * inner, inner // CHUNK)
                add_linear(gated, down_panels, x, tall, inner, hidden)
            begun = kept
            while kept < len(keep) and keep[kept] < last:
                place = x + 4 * (keep[kept] - first) * hidden
                norm(place, last_norm, normed + 4 * (kept - begun) * hidden, hidden // CHUNK, epsilon)
                kept += 1
            tall = -(-(kept - begun) // TALL) * TALL
            linear(normed, head, logits + 4 * begun * vocabulary, tall, hidden, vocabulary)

    return whole_pass

"""Norms, gated layers and rotations of a decoder, each one operation compiled by numba; for generation on a CPU.

transformers computes a norm in seven operations and a gated layer in five, and each of them reads and writes all
activations. A layer's own structure decides whether it is replaced, not the name of its model, and a norm or gated
layer must first give the same numbers as the layer that it replaces.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import numba
import numpy as np
import torch
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor, nn

from selftaught.engines.local.cpu.attention import OPTIONS
from selftaught.engines.local.cpu.cache import kept_on_disk
from selftaught.engines.local.cpu.vectors import (
    CHUNK,
    Rows,
    rms_norm,
    rotated,
    silu_product,
)
from selftaught.engines.local.slots import SlotPass, slot_pass_of


class FusedNorm(nn.Module):
    """The root mean square norm of Llama (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, norm: Any, threads: int) -> None:
        super().__init__()
        self.weight, self._epsilon = norm.weight.detach().contiguous(), np.float32(norm.variance_epsilon)
        self._kernel, self._parts = _norm_lines(self.weight.dtype == torch.bfloat16, threads > 1), threads

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        out, width = torch.empty_like(x), x.shape[-1]
        addresses = x.data_ptr(), self.weight.data_ptr(), out.data_ptr()
        self._kernel(*addresses, x.numel() // width, width, self._epsilon, self._parts)
        return out


class FusedAttention(nn.Module):
    """Attention of Llama and similar models in slots: one product for queries, keys and values, and one rotation."""

    def __init__(self, attention: Any, threads: int) -> None:
        super().__init__()
        self.layer_idx, self.size, self.scale = attention.layer_idx, attention.head_dim, attention.scaling
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.heads, self.kv_heads, _ = (part.out_features // self.size for part in parts)
        self.qkv_proj, self.o_proj = _joined(parts), attention.o_proj
        self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        is_half = self.o_proj.weight.dtype == torch.bfloat16
        self._kernel, self._parts = _rotation(self.size, is_half, threads > 1), threads

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **keywords: Any,
    ) -> tuple[Tensor, None]:
        slot_pass = slot_pass_of(attention_mask, keywords)
        cos, sin = (x.contiguous() for x in position_embeddings)
        return self.attend(hidden_states, cos, sin, slot_pass), None

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, slot_pass: SlotPass) -> Tensor:
        """What the layer adds to x [1, N, hidden]; cosines and sines [N, D] are those of its positions, contiguous."""
        size, number = self.size, x.shape[1]
        heads = self.qkv_proj(x)[0].view(number, -1, size)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)  # [N, heads, D]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        rotated_q, rotated_k = (x.new_empty(x.shape) for x in (q, k))
        for x, out in ((q, rotated_q), (k, rotated_k)):
            step = x.stride(0) * x.element_size()
            addresses = x.data_ptr(), cos.data_ptr(), sin.data_ptr(), out.data_ptr()
            self._kernel(*addresses, number, x.shape[1], step, self._parts)
        q, k, v = (x.transpose(0, 1)[None] for x in (rotated_q, rotated_k, v))
        return cast(Tensor, self.o_proj(slot_pass.attend(self.layer_idx, q, k, v, self.scale).flatten(2)))


class FusedMlp(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, mlp: Any, threads: int) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = _joined([mlp.gate_proj, mlp.up_proj]), mlp.down_proj
        self._kernel, self._parts = _silu_lines(mlp.up_proj.weight.dtype == torch.bfloat16, threads > 1), threads

    def forward(self, x: Tensor) -> Tensor:
        both = self.gate_up_proj(x)
        out = both.new_empty(*both.shape[:-1], both.shape[-1] // 2)
        width = out.shape[-1]
        self._kernel(both.data_ptr(), out.data_ptr(), out.numel() // width, width, self._parts)
        return cast(Tensor, self.down_proj(out))


def fuse_layers(model: Any, *, threads: int, with_attention: bool) -> list[tuple[nn.Module, str, nn.Module]]:
    """Replace the layers that have a fused form; returns parent, name and layer of what it replaced.

    Afterwards the model can be run in slots but not be trained; without fused attention `generate` can run it, too.
    """
    replaced = []
    with torch.no_grad():
        # Inner layers come first, because fused attention takes over the norms of its heads.
        for parent in reversed(list(model.modules())):
            for name, plain in list(parent.named_children()):
                fused: nn.Module | None = None
                if is_norm(plain):
                    fused = _if_same(plain, FusedNorm(plain, threads), plain.weight.shape[0])
                elif is_gated(plain):
                    fused = _if_same(plain, FusedMlp(plain, threads), plain.up_proj.in_features)
                elif with_attention and is_attention(plain):
                    fused = FusedAttention(plain, threads)
                if fused is not None:
                    setattr(parent, name, fused)
                    replaced.append((parent, name, plain))
    return replaced


def is_norm(layer: Any) -> bool:
    weight = getattr(layer, "weight", None)
    return (
        type(layer).__name__.endswith("RMSNorm")
        and hasattr(layer, "variance_epsilon")
        and weight is not None
        and weight.dim() == 1
        and weight.shape[0] % CHUNK == 0
    )


ATTENTIONS = frozenset({"LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention"})
"""Classes of transformers that compute the same: projections, norms of heads or none, rotation, attention, projection.

The layers of an attention do not show how they are connected, so these are known by name; besides, `forward.use_slots`
compares the logits of the model."""


def is_attention(layer: Any) -> bool:
    return type(layer).__name__ in ATTENTIONS and type(layer.q_proj) is nn.Linear and layer.head_dim % 4 == 0


def is_gated(layer: Any) -> bool:
    parts = [getattr(layer, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    return (
        all(type(part) is nn.Linear for part in parts)
        and (layer.gate_proj.bias is None) == (layer.up_proj.bias is None)
        and {name for name, _ in layer.named_children()} <= {"gate_proj", "up_proj", "down_proj", "act_fn"}
        and cast(nn.Linear, parts[1]).out_features % CHUNK == 0
    )


def _if_same(plain: nn.Module, fused: nn.Module, width: int) -> nn.Module | None:
    """The fused layer, if it gives the plain one's numbers but for rounding; else None."""
    dtype = next(plain.parameters()).dtype
    x = torch.linspace(-3.0, 3.0, 5 * width).mul(1.7).sin().mul(4.0).view(1, 5, width).to(dtype)
    expected, actual = plain(x).float(), fused(x).float()
    largest = expected.abs().max()  # a comparison of zeros shows nothing
    return fused if largest > 0 and (expected - actual).abs().max() <= 8 * torch.finfo(dtype).eps * largest else None


def norm_of_line(is_half: bool) -> Any:
    """`vectors.rms_norm` of a line: x, weight, out, number of chunks, epsilon."""
    rows = Rows(CHUNK, is_half=is_half)

    @intrinsic
    def norm(context: Any, x: Any, weight: Any, out: Any, number: Any, epsilon: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            rms_norm(b, rows, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4, types.float32), code

    return norm


def silu_of_line(is_half: bool) -> Any:
    """`vectors.silu_product` of lines: gate, up, out, number of chunks."""
    rows = Rows(CHUNK, is_half=is_half)

    @intrinsic
    def silu(context: Any, gate: Any, up: Any, out: Any, number: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            silu_product(b, rows, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), code

    return silu


def rotation_of_head(size: int, is_half: bool) -> Any:
    """`vectors.rotated` of a head: x, cosines, sines, out."""
    rows = Rows(size // 2, is_half=is_half)

    @intrinsic
    def rotate(context: Any, x: Any, cos: Any, sin: Any, out: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            rotated(b, rows, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), code

    return rotate


@cache
def _norm_lines(is_half: bool, is_parallel: bool) -> Any:
    rows = Rows(CHUNK, is_half=is_half)
    rows_bytes = rows.num_bytes

    norm = norm_of_line(is_half)

    @kept_on_disk(is_half, is_parallel)
    @numba.njit(parallel=is_parallel, **OPTIONS)
    def lines(x: int, weight: int, out: int, number: int, width: int, epsilon: Any, parts: int) -> None:
        step = rows_bytes * (width // CHUNK)
        for part in numba.prange(parts):
            for n in range(number * part // parts, number * (part + 1) // parts):
                norm(x + n * step, weight, out + n * step, width // CHUNK, epsilon)

    return lines


@cache
def _silu_lines(is_half: bool, is_parallel: bool) -> Any:
    rows = Rows(CHUNK, is_half=is_half)
    rows_bytes = rows.num_bytes

    silu = silu_of_line(is_half)

    @kept_on_disk(is_half, is_parallel)
    @numba.njit(parallel=is_parallel, **OPTIONS)
    def lines(both: int, out: int, number: int, width: int, parts: int) -> None:
        step = rows_bytes * (width // CHUNK)
        for part in numba.prange(parts):
            for n in range(number * part // parts, number * (part + 1) // parts):
                silu(both + 2 * n * step, both + (2 * n + 1) * step, out + n * step, width // CHUNK)

    return lines


@cache
def _rotation(size: int, is_half: bool, is_parallel: bool) -> Any:
    rows = Rows(size // 2, is_half=is_half)
    head_bytes = 2 * rows.num_bytes

    rotate = rotation_of_head(size, is_half)

    @kept_on_disk(size, is_half, is_parallel)
    @numba.njit(parallel=is_parallel, **OPTIONS)
    def lines(x: int, cos: int, sin: int, out: int, number: int, heads: int, step: int, parts: int) -> None:
        for part in numba.prange(parts):
            for n in range(number * part // parts, number * (part + 1) // parts):
                for h in range(heads):
                    place = out + (n * heads + h) * head_bytes
                    rotate(x + n * step + h * head_bytes, cos + n * head_bytes, sin + n * head_bytes, place)

    return lines


def _joined(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One layer whose output is theirs, concatenated; their weights become views of its weight."""
    weight = torch.cat([linear.weight.data for linear in linears])
    parts = torch.split(weight, [linear.out_features for linear in linears])
    for linear, part in zip(linears, parts, strict=True):
        linear.weight = nn.Parameter(part, requires_grad=False)
    has_bias = linears[0].bias is not None
    joined = nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias, device="meta")
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if has_bias:
        joined.bias = nn.Parameter(torch.cat([linear.bias.data for linear in linears]), requires_grad=False)
    return joined

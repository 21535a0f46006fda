"""Layers of Llama and its kin whose forward and backward passes read their numbers once; for float32 on a CPU.

transformers spells a norm out in seven operations, a gated layer in two and a rotation in five, and autograd runs
more of them backwards, each of which reads and writes all activations. Here each is one compiled pass forwards and
one backwards, tokens are turned on their way to the rows that attention takes together, and layers with the same input
are one product. Parameters stay where they are: only the `forward` of a layer is exchanged (`models.own_forward`).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from selftaught.engines.compiled import Compiled
from selftaught.engines.fused import is_attention, is_gated, is_norm, is_same, norm_lines, silu_lines
from selftaught.engines.packing import WORTH_PACKING
from selftaught.training.gradient_kernels import mover, norm_gradient, silu_gradient
from selftaught.training.models import Exchanged, own_forward
from selftaught.training.packed_attention import (
    Group,
    are_near,
    attend,
    attend_gradients,
    is_taken_whole,
    packed_logits,
)


class _Norm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon), over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, parts: int) -> Tensor:
        x, width = x.contiguous(), x.shape[-1]
        out = torch.empty_like(x)
        norm_lines(False, parts > 1)(
            x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.numel() // width, width, np.float32(epsilon), parts
        )
        ctx.save_for_backward(x, weight)
        ctx.epsilon, ctx.parts = epsilon, parts
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), d_out = ctx.saved_tensors, gradients[0].contiguous()
        d_x, d_weight, width = torch.empty_like(x), torch.zeros(ctx.parts, x.shape[-1]), x.shape[-1]
        norm_gradient(ctx.parts > 1)(
            *(t.data_ptr() for t in (x, weight, d_out, d_x, d_weight)), x.numel() // width, width,
            np.float32(ctx.epsilon), ctx.parts,
        )  # fmt: skip
        return d_x, d_weight.sum(0), None, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up of [..., gate and up]."""

    @staticmethod
    def forward(ctx: Any, both: Tensor, parts: int) -> Tensor:
        both, width = both.contiguous(), both.shape[-1] // 2
        out = both.new_empty(*both.shape[:-1], width)
        silu_lines(False, parts > 1)(both.data_ptr(), out.data_ptr(), out.numel() // width, width, parts)
        ctx.save_for_backward(both)
        ctx.parts = parts
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (both,), d_out = ctx.saved_tensors, gradients[0].contiguous()
        d_both, width = torch.empty_like(both), d_out.shape[-1]
        addresses = (t.data_ptr() for t in (both, d_out, d_both))
        silu_gradient(ctx.parts > 1)(*addresses, d_out.numel() // width, width, ctx.parts)
        return d_both, None


class _Attention(torch.autograd.Function):
    """Rotary positions and causal attention of a micro-batch's rows; out [N, H * D].

    `line` [N, (H + 2 * KV) * D] holds queries, keys and values; cosines and sines are [N, D].
    """

    @staticmethod
    def forward(
        ctx: Any, line: Tensor, turns: tuple[Tensor, Tensor], heads: tuple[int, int], scale: float,
        layout: tuple[Group, ...], parts: int,
    ) -> Tensor:  # fmt: skip
        cos, sin = turns
        size, (query_heads, kv_heads) = cos.shape[1], heads
        out, kept = torch.empty(line.shape[0], query_heads * size), []
        for group in layout:
            q, k, v = (torch.zeros(group.rows, h, group.width, size) for h in (query_heads, kv_heads, kv_heads))
            first = 0
            for grouped, rotation in ((q, (cos, sin)), (k, (cos, sin)), (v, None)):
                _move(line, first, grouped, group, rotation, parts, to_line=False)
                first += grouped.shape[1]
            q, k, v = (x.view(group.rows * kv_heads, -1, size) for x in (q, k, v))
            found, weights = attend(q, k, v, group.width, scale)
            _move(out, 0, found.view(group.rows, query_heads, group.width, size), group, None, parts, to_line=True)
            kept += [q, k, v, weights]
        ctx.save_for_backward(cos, -sin, *kept)
        ctx.heads, ctx.scale, ctx.layout, ctx.parts = heads, scale, layout, parts
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_out = gradients[0].contiguous()
        cos, minus_sin, *kept = ctx.saved_tensors
        size, (query_heads, kv_heads) = cos.shape[1], ctx.heads
        d_line = torch.empty(d_out.shape[0], (query_heads + 2 * kv_heads) * size)
        for i, group in enumerate(ctx.layout):
            q, k, v, weights = kept[4 * i : 4 * i + 4]
            # Padding has no gradient: zeros there, so that padded queries add nothing to real keys.
            d = torch.zeros(group.rows, query_heads, group.width, size)
            _move(d_out, 0, d, group, None, ctx.parts, to_line=False)
            found = attend_gradients(d.view(q.shape), q, k, v, weights, ctx.scale)
            first = 0
            for x, rotation in zip(found, ((cos, minus_sin), (cos, minus_sin), None), strict=True):
                grouped = x.view(group.rows, -1, group.width, size)
                _move(d_line, first, grouped, group, rotation, ctx.parts, to_line=True)
                first += grouped.shape[1]
        return d_line, None, None, None, None, None


def _move(
    line: Tensor, first: int, grouped: Tensor, group: Group, turns: tuple[Tensor, Tensor] | None, parts: int,
    *, to_line: bool,
) -> None:  # fmt: skip
    """Between the heads of `line` [N, heads * D] from number `first` on and those of `grouped` [rows, heads, T, D]."""
    size = grouped.shape[-1]
    cos, sin = (x.data_ptr() for x in turns) if turns else (0, 0)
    mover(size, turns is not None, to_line, parts > 1)(
        line.data_ptr() + 4 * first * size, 4 * line.shape[1], grouped.data_ptr(), grouped.shape[1], group.width,
        group.scatter.numpy(), group.within.numpy(), cos, sin, parts,
    )  # fmt: skip


@torch.no_grad()
def fuse(model: Any, *, longest: int, threads: int) -> None:
    """Exchange the `forward` of the layers that have a fused one, if they give the same numbers.

    The model is float32 on a CPU and has packed attention, for rows of up to `longest` tokens.
    """
    Compiled(threads)  # numba's threads; into how many parts the sums fall is decided by `threads` alone
    expected = packed_logits(model, longest)
    training = model.training
    model.train()  # a layer that drops numbers out is never the same
    try:
        for layer in model.modules():
            fused = None if "forward" in vars(layer) else _fused_forward(layer, threads)
            if fused is not None:
                layer.forward = fused
        is_right = are_near(packed_logits(model, longest), expected)
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError, KeyError):
        # Models raise what they like when their layers are called in a way that they were not written for.
        is_right = False
    model.train(training)
    if not is_right:
        own_forward(model)


def _fused_forward(layer: Any, parts: int) -> Exchanged | None:
    if is_norm(layer):
        fused, width = Exchanged(_norm_forward, layer, parts=parts), layer.weight.shape[0]
    elif is_gated(layer):
        fused, width = Exchanged(_gated_forward, layer, parts=parts), layer.up_proj.in_features
    elif is_attention(layer) and getattr(layer, "q_norm", None) is None and not layer.attention_dropout:
        return Exchanged(_attention_forward, layer, plain=layer.forward, parts=parts)
    else:
        return None
    return fused if is_same(layer, fused, width) else None


def _norm_forward(norm: Any, x: Tensor, *, parts: int) -> Tensor:
    return _Norm.apply(x, norm.weight, norm.variance_epsilon, parts)  # type: ignore[no-any-return, no-untyped-call]


def _gated_forward(mlp: Any, x: Tensor, *, parts: int) -> Tensor:
    both = _beside(x, mlp.gate_proj, mlp.up_proj)
    return mlp.down_proj(_Gated.apply(both, parts))  # type: ignore[no-any-return, no-untyped-call]


def _attention_forward(
    attention: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    packed_layout: tuple[Group, ...] = (),
    *,
    plain: Any,
    parts: int,
    **more: Any,
) -> tuple[Tensor, None]:
    if not packed_layout or not is_taken_whole(packed_layout):
        return plain(  # type: ignore[no-any-return]
            hidden_states, position_embeddings=position_embeddings, packed_layout=packed_layout, **more
        )
    line = _beside(hidden_states[0], attention.q_proj, attention.k_proj, attention.v_proj)
    turns = tuple(x[0].contiguous() for x in position_embeddings)
    size = attention.head_dim
    heads = attention.q_proj.out_features // size, attention.k_proj.out_features // size
    out = _Attention.apply(  # type: ignore[no-untyped-call]
        line, turns, heads, attention.scaling, packed_layout, parts
    )
    return attention.o_proj(out)[None], None


def _beside(x: Tensor, *linears: nn.Linear) -> Tensor:
    """The outputs of linear layers of one input, one after the other.

    Small ones are one product, whose weights are put together anew and kept until the backward pass.
    """
    if sum(part.weight.numel() for part in linears) >= WORTH_PACKING:
        return torch.cat([part(x) for part in linears], -1)
    bias = None if linears[0].bias is None else torch.cat([part.bias for part in linears])
    return linear(x, torch.cat([part.weight for part in linears]), bias)

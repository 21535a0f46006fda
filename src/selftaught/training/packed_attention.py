"""Attention for rows that are laid end to end in one line: every row sees itself and nothing else, without a mask.

A micro-batch is one line of N tokens, so that no matrix product runs over padding. Attention alone needs the rows
apart: rows of like length are gathered into groups, padded on the right, attended causally (which makes the padding
invisible to real tokens), and scattered back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from selftaught.attention_kinds import why_not_exchanged, window_of
from selftaught.errors import one_line
from selftaught.training.batches import like_lengths

NAME = "selftaught_packed"
WASTE = 0.15
LONGEST_SQUARE = 1024
"""Up to this length the whole matrix of attention weights is kept; beyond it memory would grow with the square."""

CHECKED = 12
"""Tokens of the longest row whose logits are compared before a training."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of like length, `rows` of them padded to `width` tokens."""

    rows: int
    width: int
    gather: torch.Tensor
    """[rows * width] places in the line; padding repeats the row's last token."""
    within: torch.Tensor
    """[tokens of the group] places in the padded group, of its real tokens."""
    scatter: torch.Tensor
    """[tokens of the group] places in the line, of the same tokens."""

    def to(self, device: Any, **_: Any) -> "Group":
        moved = (t.to(device) for t in (self.gather, self.within, self.scatter))
        return Group(self.rows, self.width, *moved)


def layout_of(lengths: Sequence[int]) -> tuple[Group, ...]:
    """How the rows of a line, given by their lengths in order, are attended."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    groups = []
    for members in like_lengths(lengths, waste=WASTE):
        sizes = torch.tensor([lengths[i] for i in members])[:, None]  # [rows, 1]
        t = torch.arange(int(sizes.max()))
        gather = (starts[members][:, None] + torch.minimum(t, sizes - 1)).flatten()
        within = (t < sizes).flatten().nonzero()[:, 0]
        groups.append(Group(len(members), len(t), gather, within, gather[within]))
    return tuple(groups)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_layout: tuple[Group, ...] = (),
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, H, N, D], key and value [1, KV, N, D] -> ([1, N, H, D], None); called by the model's layers."""
    if not packed_layout or mask is not None:
        raise ValueError("packed attention needs its layout and takes no mask")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, heads, D]
    if q.device.type == "cpu" and _is_square_kept(packed_layout) and not dropout and q.dtype == v.dtype:
        return _Squares.apply(q, k, v, scale, packed_layout)[None], None  # type: ignore[no-untyped-call]
    out = q.new_zeros(q.shape[0], q.shape[1], v.shape[-1])
    for group in packed_layout:
        shape = (group.rows, group.width)
        q_g, k_g, v_g = (x[group.gather].view(*shape, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        found = scaled_dot_product_attention(
            q_g, k_g, v_g, is_causal=True, dropout_p=dropout, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        out = out.index_copy(0, group.scatter, found.transpose(1, 2).flatten(0, 1)[group.within])
    return out[None], None


def _is_square_kept(layout: Sequence[Group]) -> bool:
    """Whether attention goes by plain matrix products on a CPU, whole weights kept for the backward pass.

    PyTorch's flash attention for CPUs spends ten times the time of the matrix products in its backward pass.
    """
    return max(group.width for group in layout) <= LONGEST_SQUARE


class _Squares(torch.autograd.Function):
    """`_attend` for queries, keys and values [N, heads, D] of a line."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, layout: tuple[Group, ...]
    ) -> torch.Tensor:
        heads, kv_heads = q.shape[1], k.shape[1]
        out = q.new_empty(q.shape[0], heads, v.shape[-1])
        kept: list[torch.Tensor] = []
        for group in layout:
            q_g, k_g, v_g = (_apart(x.index_select(0, group.gather), group, kv_heads) for x in (q, k, v))
            mixed, weights = _attend(q_g, k_g, v_g, group.width, scale)
            out.index_copy_(0, group.scatter, _together(mixed, group, heads).index_select(0, group.within))
            kept += (q_g, k_g, v_g, weights)
        ctx.save_for_backward(*kept)
        ctx.scale, ctx.layout, ctx.heads, ctx.kv_heads = scale, layout, heads, kv_heads
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (d_out,) = gradients
        kept = ctx.saved_tensors
        tokens = d_out.shape[0]
        d_q, d_k, d_v = (d_out.new_empty(0) for _ in range(3))
        for i, group in enumerate(ctx.layout):
            q_g, k_g, v_g, weights = kept[4 * i : 4 * i + 4]
            # Padding has no gradient: zeros there, so that padded queries add nothing to real keys.
            d_padded = d_out.new_zeros(group.rows * group.width, *d_out.shape[1:])
            d_padded.index_copy_(0, group.within, d_out.index_select(0, group.scatter))
            d_g = _apart(d_padded, group, ctx.kv_heads)
            found = [
                _together(x, group, h)
                for x, h in zip(
                    _attend_gradients(d_g, q_g, k_g, v_g, weights, ctx.scale),
                    (ctx.heads, ctx.kv_heads, ctx.kv_heads),
                    strict=True,
                )
            ]
            if not i:
                d_q, d_k, d_v = (f.new_empty(tokens, *f.shape[1:]) for f in found)
            for total, part in zip((d_q, d_k, d_v), found, strict=True):
                total.index_copy_(0, group.scatter, part.index_select(0, group.within))
        return d_q, d_k, d_v, None, None


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, width: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention in rows of `width` T: outputs [B, G * T, D] and weights [B, G * T, T].

    Queries [B, G * T, D] of the G heads that share a key head are one matrix with T queries of each head, so that keys
    and values [B, T, D] are not repeated. Softmax in float32 at least.
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    later = torch.full((width, width), -torch.inf, dtype=exact).triu_(1).repeat(q.shape[1] // width, 1)[None]
    weights = torch.baddbmm(later, q.to(exact), k.to(exact).transpose(1, 2), alpha=scale).softmax(-1).to(q.dtype)
    return torch.bmm(weights, v), weights


def _attend_gradients(
    d_out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, weights: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of q, k and v of `_attend`, for the gradient of its outputs."""
    d_scores = torch.ops.aten._softmax_backward_data(torch.bmm(d_out, v.transpose(1, 2)), weights, -1, weights.dtype)
    return (
        torch.bmm(d_scores, k).mul_(scale),
        torch.bmm(d_scores.transpose(1, 2), q).mul_(scale),
        torch.bmm(weights.transpose(1, 2), d_out),
    )


def _apart(flat: torch.Tensor, group: Group, kv_heads: int) -> torch.Tensor:
    """[rows * width, heads, D] -> [rows * kv_heads, heads / kv_heads * width, D]."""
    split = flat.view(group.rows, group.width, kv_heads, -1, flat.shape[-1])
    return split.permute(0, 2, 3, 1, 4).reshape(group.rows * kv_heads, -1, flat.shape[-1])


def _together(apart: torch.Tensor, group: Group, heads: int) -> torch.Tensor:
    """The inverse of `_apart`: [rows * kv_heads, heads / kv_heads * width, D] -> [rows * width, heads, D]."""
    split = apart.view(group.rows, heads, group.width, apart.shape[-1])
    return split.transpose(1, 2).reshape(group.rows * group.width, heads, apart.shape[-1])


def use_packed_attention(model: Any, *, longest: int) -> str | None:
    """Switch a model to packed attention; None, or the reason why it keeps its own and must get padded rows."""
    config = model.config.get_text_config()
    if reason := why_not_exchanged(config):
        return reason
    window = window_of(config)
    if window is not None and window < longest:
        return f"its sliding window of {window} tokens is shorter than the longest row of {longest}"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "it caps attention scores"
    before = config._attn_implementation
    model.set_attn_implementation(NAME)
    if config._attn_implementation != NAME:
        return "its attention cannot be exchanged"
    try:
        same = _same_logits(model, min(longest, CHECKED), before)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        same = False
        reason = f"its layers do not take packed rows ({one_line(error)})"
    else:
        reason = "its logits for packed rows are not those of the rows alone"
    if not same:
        model.set_attn_implementation(before)
        return reason
    return None


@torch.no_grad()
def _same_logits(model: Any, longest: int, plain: str) -> bool:
    """Whether three rows in one line get the logits that they get alone under the model's own attention."""
    rows, training = some_rows(model, longest), model.training
    layout = tuple(group.to(model.device) for group in layout_of([row.shape[1] for row in rows]))
    positions = torch.cat([torch.arange(row.shape[1], device=model.device)[None] for row in rows], 1)
    model.eval()
    packed = model(input_ids=torch.cat(rows, 1), position_ids=positions, use_cache=False, packed_layout=layout).logits
    model.set_attn_implementation(plain)
    alone = torch.cat([model(input_ids=row, use_cache=False).logits[0] for row in rows])
    model.set_attn_implementation(NAME)
    model.train(training)
    return bool((packed[0] - alone).abs().max() <= 1e-3 * alone.abs().max().clamp(min=1.0))


def some_rows(model: Any, longest: int) -> list[torch.Tensor]:
    """Three rows [1, T] of token ids."""
    lengths = [longest, max(1, longest // 2), longest]
    size = model.config.get_text_config().vocab_size
    return [(torch.arange(n, device=model.device)[None] * (k + 3) + k) % size for k, n in enumerate(lengths)]


AttentionInterface.register(NAME, attention)

"""Attention for rows that are concatenated into one sequence: every row sees only itself, without a mask.

A micro-batch is one sequence of N tokens, so that no matrix product runs over padding. Only attention needs separate
rows: rows of similar length are gathered into groups and padded on the right, attention is causal (real tokens do not
see padding that comes after them), and the results are scattered back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from selftaught.models.attention_kinds import why_not_exchanged, window_of
from selftaught.records.errors import one_line
from selftaught.training.batches import group_by_length

NAME = "selftaught_packed"
WASTE = 0.15
LONGEST_SQUARE = 1024
"""Up to this row length the attention weights are kept for the backward pass; their memory grows with its square."""
CHECKED_TOKENS = 12
"""Length of the longest row whose logits are compared before a training."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of similar length: `rows` of them, padded to `width` tokens."""

    rows: int
    width: int
    gather: torch.Tensor
    """[rows * width] places in the sequence; padding repeats the row's last token."""
    within: torch.Tensor
    """[tokens of the group] places of its real tokens in the padded group."""
    scatter: torch.Tensor
    """[tokens of the group] places of the same tokens in the sequence."""

    def to(self, device: Any, **_: Any) -> "Group":
        moved = (t.to(device) for t in (self.gather, self.within, self.scatter))
        return Group(self.rows, self.width, *moved)


def layout_of(lengths: Sequence[int]) -> tuple[Group, ...]:
    """The groups in which attention runs for concatenated rows of these lengths."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    groups = []
    for members in group_by_length(lengths, waste=WASTE):
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
    if q.device.type == "cpu" and _keeps_weights(packed_layout) and not dropout and q.dtype == v.dtype:
        return _PlainAttention.apply(q, k, v, scale, packed_layout)[None], None  # type: ignore[no-untyped-call]
    out = q.new_zeros(q.shape[0], q.shape[1], v.shape[-1])
    for group in packed_layout:
        shape = (group.rows, group.width)
        q_g, k_g, v_g = (x[group.gather].view(*shape, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        attended = scaled_dot_product_attention(
            q_g, k_g, v_g, is_causal=True, dropout_p=dropout, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        out = out.index_copy(0, group.scatter, attended.transpose(1, 2).flatten(0, 1)[group.within])
    return out[None], None


def _keeps_weights(layout: Sequence[Group]) -> bool:
    """Whether attention on a CPU is plain matrix products, with all weights kept for the backward pass.

    The backward pass of PyTorch's flash attention for CPUs takes ten times as long as these matrix products.
    """
    return max(group.width for group in layout) <= LONGEST_SQUARE


class _PlainAttention(torch.autograd.Function):
    """`_attend` for queries, keys and values [N, heads, D] of a sequence."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, layout: tuple[Group, ...]
    ) -> torch.Tensor:
        heads, kv_heads = q.shape[1], k.shape[1]
        out = q.new_empty(q.shape[0], heads, v.shape[-1])
        kept: list[torch.Tensor] = []
        for group in layout:
            q_g, k_g, v_g = (_split_heads(x.index_select(0, group.gather), group, kv_heads) for x in (q, k, v))
            mixed, weights = _attend(q_g, k_g, v_g, group.width, scale)
            out.index_copy_(0, group.scatter, _merge_heads(mixed, group, heads).index_select(0, group.within))
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
            # The gradient is zero at padding, so that padded queries add nothing to real keys.
            d_padded = d_out.new_zeros(group.rows * group.width, *d_out.shape[1:])
            d_padded.index_copy_(0, group.within, d_out.index_select(0, group.scatter))
            d_g = _split_heads(d_padded, group, ctx.kv_heads)
            gradients_g = [
                _merge_heads(x, group, h)
                for x, h in zip(
                    _attend_gradients(d_g, q_g, k_g, v_g, weights, ctx.scale),
                    (ctx.heads, ctx.kv_heads, ctx.kv_heads),
                    strict=True,
                )
            ]
            if not i:
                d_q, d_k, d_v = (d.new_empty(tokens, *d.shape[1:]) for d in gradients_g)
            for total, of_group in zip((d_q, d_k, d_v), gradients_g, strict=True):
                total.index_copy_(0, group.scatter, of_group.index_select(0, group.within))
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
    """The gradients of q, k and v of `_attend`, from the gradient of its outputs."""
    d_scores = torch.ops.aten._softmax_backward_data(torch.bmm(d_out, v.transpose(1, 2)), weights, -1, weights.dtype)
    return (
        torch.bmm(d_scores, k).mul_(scale),
        torch.bmm(d_scores.transpose(1, 2), q).mul_(scale),
        torch.bmm(weights.transpose(1, 2), d_out),
    )


def _split_heads(flat: torch.Tensor, group: Group, kv_heads: int) -> torch.Tensor:
    """[rows * width, heads, D] -> [rows * kv_heads, heads / kv_heads * width, D]."""
    split = flat.view(group.rows, group.width, kv_heads, -1, flat.shape[-1])
    return split.permute(0, 2, 3, 1, 4).reshape(group.rows * kv_heads, -1, flat.shape[-1])


def _merge_heads(split: torch.Tensor, group: Group, heads: int) -> torch.Tensor:
    """The inverse of `_split_heads`: [rows * kv_heads, heads / kv_heads * width, D] -> [rows * width, heads, D]."""
    by_head = split.view(group.rows, heads, group.width, split.shape[-1])
    return by_head.transpose(1, 2).reshape(group.rows * group.width, heads, split.shape[-1])


def use_packed_attention(model: Any, *, longest: int) -> str | None:
    """Switch a model to packed attention. Return None, or why it keeps its own attention and must get padded rows."""
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
        same = _same_logits(model, min(longest, CHECKED_TOKENS), before)
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
    """Whether three concatenated rows get the logits that each gets alone under the model's own attention."""
    rows, training = _rows_to_compare(model, longest), model.training
    layout = tuple(group.to(model.device) for group in layout_of([row.shape[1] for row in rows]))
    positions = torch.cat([torch.arange(row.shape[1], device=model.device)[None] for row in rows], 1)
    model.eval()
    packed = model(input_ids=torch.cat(rows, 1), position_ids=positions, use_cache=False, packed_layout=layout).logits
    model.set_attn_implementation(plain)
    alone = torch.cat([model(input_ids=row, use_cache=False).logits[0] for row in rows])
    model.set_attn_implementation(NAME)
    model.train(training)
    limit = 1e-3 if model.dtype == torch.float32 else 0.1  # rounding alone reaches percents in half precision
    return bool((packed[0] - alone).abs().max() <= limit * alone.abs().max().clamp(min=1.0))


def _rows_to_compare(model: Any, longest: int) -> list[torch.Tensor]:
    """Three rows [1, T] of different token ids."""
    lengths = [longest, max(1, longest // 2), longest]
    size = model.config.get_text_config().vocab_size
    return [(torch.arange(n, device=model.device)[None] * (k + 3) + k) % size for k, n in enumerate(lengths)]


AttentionInterface.register(NAME, attention)

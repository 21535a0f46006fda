"""The loss of a small model and its gradient in compiled layers, for training on one thread of a CPU.

Half of the time of a small model's micro-batch went into handing the activations of all its tokens from one operation
to the next, through memory. Here a few rows at a time go forwards and backwards through the whole model, and what they
need stays in the cache.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selftaught.engines.decoder import KNOWN
from selftaught.engines.fused import is_attention, is_gated, is_norm
from selftaught.engines.packing import WORTH_PACKING
from selftaught.engines.whole_pass import PANEL, TALL
from selftaught.tokens import IGNORED
from selftaught.training.gradient_kernels import layouts, up_to
from selftaught.training.micro_batches import end_to_end, loss_of, packed
from selftaught.training.packed_attention import CHECKED, LONGEST_SQUARE, some_rows
from selftaught.training.whole_kernels import Head, Rooms, Shape, backwards_kernel, forwards_kernel, head_kernel

ENOUGH = 128
"""Tokens that are enough for a block of rows: with more of them less stays in the cache, with fewer each weight's
gradient is read and written more often."""
NEAR = 1e-3
"""By how much of its largest number a gradient may differ from autograd's, before a training; it differs by 1e-5."""


def whole_gradient_of(model: Any, *, longest: int) -> "WholeGradient | None":
    """The pass of a model with packed attention for rows of up to `longest` tokens; None if it is not for this model,
    or does not give the loss and the gradients that autograd gives."""
    if type(model) not in KNOWN or longest > LONGEST_SQUARE or not _is_small(model):
        return None
    whole = WholeGradient(model)
    return whole if _is_same(model, whole) else None


def _is_small(model: Any) -> bool:
    """Whether all its layers are those of Llama, plain, in float32 on a CPU, and all of it trained; widths are whole
    vectors, and weights those that `whole_pass.py` multiplies."""
    layers, config, weights = model.model.layers, model.config.get_text_config(), list(model.parameters())
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    norms = [layer.input_layernorm for layer in layers] + [layer.post_attention_layernorm for layer in layers]
    attentions = [layer.self_attn for layer in layers]
    return (
        all(map(_is_plain, model.modules()))
        and all(w.dtype == torch.float32 and w.device.type == "cpu" and w.requires_grad for w in weights)
        and len(layers) > 0
        and len(weights) == 9 * len(layers) + (2 if model.lm_head.weight is weights[0] else 3)
        and all(type(x) is nn.Linear and x.bias is None and x.weight.numel() < WORTH_PACKING for x in linears)
        and all(is_norm(x) and x.variance_epsilon == config.rms_norm_eps for x in (*norms, model.model.norm))
        and all(is_gated(layer.mlp) for layer in layers)
        and all(
            is_attention(x)
            and x.head_dim % PANEL == 0
            and x.scaling == attentions[0].scaling
            and not x.attention_dropout
            for x in attentions
        )
    )


def _is_plain(module: nn.Module) -> bool:
    """Whether a module computes what its class says, and nobody listens to it."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    is_known = type(module).__module__.partition(".")[0] in ("torch", "transformers")
    return is_known and "forward" not in vars(module) and not any(hooks)


def _is_same(model: Any, whole: "WholeGradient") -> bool:
    """Whether the loss and all gradients are those of autograd for three short rows."""
    rows = [row[0].tolist() for row in some_rows(model, CHECKED)]
    ids = [i for row in rows for i in row]
    labels = [label for row in rows for label in (IGNORED, *row[1:])]
    feature, share = {"input_ids": ids, "labels": labels, "seq_lengths": [len(row) for row in rows]}, 1 / len(ids)
    losses = loss_of(model, packed([feature]), share), loss_of(model, end_to_end([feature]), share, whole=whole)
    expected, found = (torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) for loss in losses)
    pairs = [*zip(expected, found, strict=True), tuple(loss.detach() for loss in losses)]
    return all(
        # Zeros would say nothing.
        e is not None and f is not None and e.abs().max() > 0 and (f - e).abs().max() <= NEAR * e.abs().max()
        for e, f in pairs
    )


class WholeGradient:
    """Loss and gradient of a model on rows that are laid end to end."""

    def __init__(self, model: Any) -> None:
        """`model` is one that `whole_gradient_of` takes."""
        inner, config = model.model, model.config.get_text_config()
        attention = inner.layers[0].self_attn
        size = attention.head_dim
        heads, kv_heads = (x.out_features // size for x in (attention.q_proj, attention.k_proj))
        self.embedding, self.rotary, self.size = inner.embed_tokens, inner.rotary_emb, size
        self.shape = Shape(config.hidden_size, config.intermediate_size, heads, kv_heads, config.vocab_size)
        self.numbers = np.float32(attention.scaling), np.float32(config.rms_norm_eps)
        self.forwards, self.backwards, self.at_the_head = (
            kernel(size) for kernel in (forwards_kernel, backwards_kernel, head_kernel)
        )
        # The weights as one line; what is one piece of it is one product. The kernels know the order.
        pieces: list[list[Tensor]] = [[inner.embed_tokens.weight]]
        for layer in inner.layers:
            own, mlp = layer.self_attn, layer.mlp
            pieces += [
                [layer.input_layernorm.weight],
                [own.q_proj.weight, own.k_proj.weight, own.v_proj.weight],
                [own.o_proj.weight],
                [layer.post_attention_layernorm.weight],
                [mlp.gate_proj.weight, mlp.up_proj.weight],
                [mlp.down_proj.weight],
            ]
        pieces += [[inner.norm.weight], [model.lm_head.weight]]
        self.weights = [weight for piece in pieces for weight in piece]
        self._is_tied = model.lm_head.weight is inner.embed_tokens.weight
        sizes = [sum(weight.numel() for weight in piece) for piece in pieces]
        self.starts = np.array([0, *accumulate(sizes)])
        """Where each piece begins in the line, and the end."""
        shapes = [(n // piece[0].shape[-1], piece[0].shape[-1]) for n, piece in zip(sizes, pieces, strict=True)]
        shapes[-1] = up_to(config.vocab_size, PANEL), config.hidden_size  # zeros fill the head's last panel
        self.linears = [(i, *shapes[i]) for i in range(1, len(pieces)) if pieces[i][0].dim() > 1]
        """Piece, height and width of every linear layer; the head is the last."""
        self.filling = (shapes[-1][0] - config.vocab_size) * config.hidden_size
        """Numbers of the line behind the head."""

    def loss(self, inputs: dict[str, Any], targets: Tensor, share: float) -> Tensor:
        """`share` times the summed loss of a micro-batch (`micro_batches.end_to_end`), ready for `backward`.

        Raises IndexError where torch would.
        """
        weights = self.weights[:-1] if self._is_tied else self.weights
        return _Loss.apply(self, inputs, targets, share, *weights)  # type: ignore[no-any-return, no-untyped-call]

    def run(self, inputs: dict[str, Any], targets: Tensor, share: float) -> tuple[float, list[Tensor]]:
        """`share` times the summed loss, and its gradients for the weights."""
        ids, keep = inputs["input_ids"][0], inputs["logits_to_keep"]
        for some, end in ((ids, self.shape.vocabulary), (targets, self.shape.vocabulary), (keep, len(ids))):
            if len(some) and not 0 <= int(some.min()) <= int(some.max()) < end:
                raise IndexError(f"{int(some.min())} to {int(some.max())} are not all in [0, {end})")
        blocks = _blocks(inputs["lengths"].tolist())
        room = _Room(self, blocks)
        x = self.embedding(ids).detach()
        d_x = torch.empty_like(x)
        total = 0.0
        for rows in blocks:
            first, last = int(rows[0]), int(rows[-1])
            room.x[0, : last - first] = x[first:last]
            for i in range(room.layers):
                self.forwards(*room.forwards(i), rows, *room.turns, self.shape, room.rooms, *self.numbers)
            begin, end = np.searchsorted(keep.numpy(), (first, last))
            total += self.at_the_head(
                room.outputs, last - first, keep[begin:end].numpy() - first, targets[begin:end].numpy(), room.head,
                self.shape, room.rooms, self.numbers[1], np.float32(share),
            )  # fmt: skip
            for i in reversed(range(room.layers)):
                self.backwards(*room.backwards(i), rows, *room.back_turns, self.shape, room.rooms, *self.numbers)
            d_x[first:last] = room.d_x[: last - first]
        pieces = torch.split(room.gradient[: self.starts[-1]], [w.numel() for w in self.weights])
        found = [piece.view_as(w) for piece, w in zip(pieces, self.weights, strict=True)]
        padding = self.embedding.padding_idx  # has no gradient
        found[0] += torch.ops.aten.embedding_dense_backward(
            d_x, ids, self.shape.vocabulary, -1 if padding is None else padding, False
        )
        if self._is_tied:
            found[0] += found.pop()
        return total * share, found


class _Room:
    """The memory of one micro-batch, and the addresses in it that the kernels take; they are good as long as it is."""

    def __init__(self, whole: WholeGradient, blocks: Sequence[Any]) -> None:
        weights = [*(w.detach().reshape(-1) for w in whole.weights), torch.zeros(whole.filling)]
        self._line = torch.cat(weights)
        self.gradient = torch.zeros_like(self._line)
        self._panels = torch.empty(2 * len(self._line))
        places, d_places = (whole.starts[:-1] * 4 + x.data_ptr() for x in (self._line, self.gradient))
        self._weights, self._gradients = (x[1:-2].reshape(-1, 6) for x in (places, d_places))
        self.layers = len(self._weights)
        panels = self._lay_out(whole, places)
        self._of_layers, (of_head, of_head_back) = np.array(panels[:-1]).reshape(-1, 8), panels[-1]
        self.head = Head(int(places[-2]), int(d_places[-2]), of_head, of_head_back, int(d_places[-1]))
        longest = max(int(np.diff(rows).max()) for rows in blocks)
        cos, sin = (x[0].contiguous() for x in whole.rotary(self._line, torch.arange(longest)[None]))
        self._tables = cos, sin, -sin
        self.turns, self.back_turns = ((cos.data_ptr(), x.data_ptr()) for x in self._tables[1:])
        self._make_room(whole, blocks, longest)

    def _lay_out(self, whole: WholeGradient, places: Any) -> list[tuple[int, int]]:
        """Lay the linear layers out in panels: the addresses of each, forwards and back."""
        in_columns, across = layouts()
        at, found = self._panels.data_ptr(), []
        for piece, height, width in whole.linears:
            forwards, back = at, at + 4 * height * width
            across(int(places[piece]), 4 * width, height, width, forwards)
            in_columns(int(places[piece]), 4 * width, height, width, back)
            found.append((forwards, back))
            at += 8 * height * width
        return found

    def _make_room(self, whole: WholeGradient, blocks: Sequence[Any], longest: int) -> None:
        shape, size, layers = whole.shape, whole.size, self.layers
        mixed, row = shape.heads * size, up_to(shape.vocabulary, PANEL)
        qkv = mixed + 2 * shape.kv_heads * size
        rows = max(int(block[-1] - block[0]) for block in blocks) + TALL  # products write behind the last one
        scores = max(
            sum(shape.heads * up_to(n, TALL) * up_to(n, PANEL) for n in np.diff(block).tolist()) for block in blocks
        )
        self.x = torch.empty(layers + 1, rows, shape.hidden)
        widths = shape.hidden, qkv, mixed, 2 * shape.inner
        self._saved = [self.x, *(torch.empty(layers, rows, width) for width in widths), torch.empty(layers, scores)]
        self._places = [
            np.array([*(x[i].data_ptr() for x in self._saved), self.x[i + 1].data_ptr()]) for i in range(layers)
        ]
        self.outputs = self.x[-1].data_ptr()
        self.d_x = torch.empty(rows, shape.hidden)
        wide = max(shape.hidden, 2 * shape.inner, qkv, row)
        normed, gated, d_some = (
            torch.empty(rows, width) for width in (shape.hidden, max(shape.inner, mixed), shape.hidden)
        )
        self._rooms = [
            normed, gated, self.d_x, d_some, *(torch.empty(rows, wide) for _ in range(3)), torch.empty(rows, row),
            *(torch.empty(up_to(longest, PANEL), size) for _ in range(4)),
            torch.empty(up_to(longest, TALL), up_to(longest, PANEL)),
        ]  # fmt: skip
        self.rooms = Rooms(*(x.data_ptr() for x in self._rooms))

    def forwards(self, i: int) -> tuple[Any, ...]:
        """Of layer i: weights, their panels, what is saved."""
        return self._weights[i], self._of_layers[i], self._places[i]

    def backwards(self, i: int) -> tuple[Any, ...]:
        """The same, with gradients."""
        return self._weights[i], self._gradients[i], self._of_layers[i], self._places[i]


class _Loss(torch.autograd.Function):
    """The gradient is made on the way, as in `loss.py`."""

    @staticmethod
    def forward(
        ctx: Any, whole: WholeGradient, inputs: dict[str, Any], targets: Tensor, share: float, *weights: Tensor
    ) -> Tensor:
        loss, gradients = whole.run(inputs, targets, share)
        ctx.save_for_backward(*gradients)
        return torch.tensor(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = gradients
        found = ctx.saved_tensors if outer == 1.0 else [x * outer for x in ctx.saved_tensors]
        return None, None, None, None, *found


def _blocks(lengths: Sequence[int]) -> list[Any]:
    """Where the rows of each block begin in the line of tokens, and where its last one ends."""
    blocks, starts = [], [0]
    for length in lengths:
        if starts[-1] - starts[0] >= ENOUGH:
            blocks.append(np.array(starts))
            starts = starts[-1:]
        starts.append(starts[-1] + length)
    return [*blocks, np.array(starts)]

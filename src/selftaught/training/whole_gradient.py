"""The loss of a small model and its gradient as one compiled call, for training on one thread of a CPU.

Half of the time of a small model's micro-batch went into handing the activations of all its tokens from one operation
to the next, through memory. Here a few rows at a time go forwards and backwards through the whole model, and what they
need stays in the cache (`whole_kernels.py`).
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selftaught.engines.decoder import KNOWN
from selftaught.engines.fused import is_attention, is_gated, is_norm
from selftaught.engines.packing import WORTH_PACKING
from selftaught.engines.whole_pass import PANEL, TALL
from selftaught.tokens import IGNORED
from selftaught.training.gradient_kernels import up_to
from selftaught.training.micro_batches import end_to_end, loss_of, packed
from selftaught.training.packed_attention import CHECKED, LONGEST_WHOLE, some_rows
from selftaught.training.whole_kernels import Head, Rooms, Shape, loss_and_gradient

BLOCK = 128
"""Tokens that are enough for a block of rows: with more of them less stays in the cache, with fewer each weight's
gradient is read and written more often."""
NEAR = 1e-3
"""By how much of its largest number a gradient may differ from autograd's, before a training; it differs by 1e-5."""


def whole_gradient_of(model: Any, *, longest: int) -> "WholeGradient | None":
    """The pass of a model with packed attention for rows of up to `longest` tokens; None if it is not for this model,
    or does not give the loss and the gradients that autograd gives."""
    if type(model) not in KNOWN or longest > LONGEST_WHOLE or not _is_small(model):
        return None
    whole = WholeGradient(model)
    return whole if _is_same(model, whole, min(longest, CHECKED)) else None


def _is_small(model: Any) -> bool:
    """Whether all its layers are those of Llama, plain, in float32 on a CPU, and all of it trained; widths are whole
    vectors, and weights those that `whole_pass.py` multiplies."""
    layers, weights = model.model.layers, list(model.parameters())
    linears = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    return (
        all(w.dtype == torch.float32 and w.device.type == "cpu" and w.requires_grad for w in weights)
        and all(type(x) is nn.Linear and x.bias is None and x.weight.numel() < WORTH_PACKING for x in linears)
        and len(weights) == 9 * len(layers) + (2 if model.lm_head.weight is weights[0] else 3)
        and is_norm(model.model.norm)
        and all(
            is_norm(layer.input_layernorm)
            and is_norm(layer.post_attention_layernorm)
            and is_gated(layer.mlp)
            and is_attention(layer.self_attn)
            and layer.self_attn.head_dim % PANEL == 0
            for layer in layers
        )
    )


def _is_same(model: Any, whole: "WholeGradient", longest: int) -> bool:
    rows = [row[0].tolist() for row in some_rows(model, longest)]
    ids = [i for row in rows for i in row]
    labels = [label for row in rows for label in (IGNORED, *row[1:])]
    feature = {"input_ids": ids, "labels": labels, "seq_lengths": [len(row) for row in rows]}
    share, training = 1 / len(ids), model.training
    model.train()  # a layer that drops numbers out is never the same
    losses = loss_of(model, packed([feature]), share), loss_of(model, end_to_end([feature]), share, whole=whole)
    weights = list(model.parameters())
    expected, found = (torch.autograd.grad(loss, weights, allow_unused=True) for loss in losses)
    model.train(training)
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
        self._size, self._rotary = size, inner.rotary_emb
        padding = inner.embed_tokens.padding_idx
        self._shape = Shape(
            config.hidden_size,
            config.intermediate_size,
            heads,
            kv_heads,
            config.vocab_size,
            -1 if padding is None else padding,
        )
        self._scale, self._epsilon = np.float32(attention.scaling), np.float32(config.rms_norm_eps)
        self._lay_out, self._kernel = loss_and_gradient(size)
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
        self._is_tied = model.lm_head.weight is inner.embed_tokens.weight
        self._weights = [weight for piece in pieces for weight in piece]
        self._filling = (up_to(config.vocab_size, PANEL) - config.vocab_size) * config.hidden_size
        """Zeros behind the head, whose rows must be whole panels."""
        sizes = [sum(weight.numel() for weight in piece) for piece in pieces]
        self._starts = np.array([0, *accumulate(sizes)])
        """Where each piece begins in the line of all weights, and the end."""
        self._matrices = [
            (place, sizes[place] // width, width)
            for place, width in ((i, piece[0].shape[-1]) for i, piece in enumerate(pieces) if piece[0].dim() > 1)
        ][1:]
        """Piece, height and width of every linear layer; the head is the last."""
        place, *_, width = self._matrices[-1]
        self._matrices[-1] = place, up_to(config.vocab_size, PANEL), width

    def loss(self, inputs: dict[str, Any], targets: Tensor, share: float) -> Tensor:
        """`share` times the summed loss of a micro-batch (`micro_batches.end_to_end`), ready for `backward`."""
        weights = self._weights[:-1] if self._is_tied else self._weights
        return _Loss.apply(self, inputs, targets, share, *weights)  # type: ignore[no-any-return, no-untyped-call]

    def run(self, inputs: dict[str, Any], targets: Tensor, share: float) -> tuple[float, list[Tensor]]:
        """`share` times the summed loss, and its gradients for the weights."""
        lengths = inputs["lengths"].tolist()
        starts, blocks = np.array([0, *accumulate(lengths)]), _blocks(lengths)
        line = torch.cat([*(w.detach().reshape(-1) for w in self._weights), torch.zeros(self._filling)])
        gradient = torch.zeros_like(line)
        tables, panels = self._turns(max(lengths)), torch.empty(2 * line.numel())
        saved, rooms = self._saved(starts, blocks), self._rooms(starts, blocks)
        places, d_places = (self._starts[:-1] * 4 + x.data_ptr() for x in (line, gradient))
        in_panels = self._in_panels(places, panels.data_ptr())
        layers, (norm, d_norm, d_head) = slice(1, -2), map(int, (places[-2], d_places[-2], d_places[-1]))
        forwards, back = in_panels[-1].tolist()
        # The tensors are named until the kernel is done: it knows their addresses only.
        total = self._kernel(
            inputs["input_ids"][0].numpy(), starts, np.array(blocks), inputs["logits_to_keep"].numpy(),
            targets.numpy(), np.array([x.data_ptr() for x in tables]), places[layers].reshape(-1, 6),
            d_places[layers].reshape(-1, 6), in_panels[:-1].reshape(-1, 8), _addresses_by_layer(saved),
            int(places[0]), int(d_places[0]), Head(norm, d_norm, forwards, back, d_head), self._shape,
            Rooms(*(x.data_ptr() for x in rooms)), self._scale, self._epsilon, np.float32(share),
        )  # fmt: skip
        pieces = torch.split(gradient[: self._starts[-1]], [w.numel() for w in self._weights])
        found = [piece.view_as(w) for piece, w in zip(pieces, self._weights, strict=True)]
        if self._is_tied:
            found[0] += found.pop()
        return total * share, found

    def _turns(self, longest: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines, sines and -sines [T, D] of the first positions."""
        cos, sin = (x[0].contiguous() for x in self._rotary(self._weights[0], torch.arange(longest)[None]))
        return cos, sin, -sin

    def _in_panels(self, places: Any, at: int) -> Any:
        """Lay all linear layers out in panels behind the address `at`: where, [layers, forwards and back]."""
        found = []
        for place, height, width in self._matrices:
            found.append((at, at + 4 * height * width))
            self._lay_out(int(places[place]), height, width, *found[-1])
            at += 8 * height * width
        return np.array(found)

    def _saved(self, starts: Any, blocks: Sequence[int]) -> list[Tensor]:
        """Room for what the backward pass needs of a block: by layer, but for the one more line of inputs."""
        shape, number = self._shape, len(self._matrices) // 4
        lengths = np.diff(starts)
        weights = max(
            sum(shape.heads * up_to(n, TALL) * up_to(n, PANEL) for n in lengths[a:b].tolist())
            for a, b in pairwise(blocks)
        )
        rows, mixed = _longest(starts, blocks), shape.heads * self._size
        qkv = mixed + 2 * shape.kv_heads * self._size
        widths = shape.hidden, shape.hidden, qkv, mixed, 2 * shape.inner
        return [*(torch.empty(number + (i == 0), rows, w) for i, w in enumerate(widths)), torch.empty(number, weights)]

    def _rooms(self, starts: Any, blocks: Sequence[int]) -> list[Tensor]:
        """The rooms of `whole_kernels.Rooms`."""
        shape, rows = self._shape, _longest(starts, blocks)
        mixed, row = shape.heads * self._size, up_to(shape.vocabulary, PANEL)
        gated = max(shape.inner, mixed)
        wide = max(2 * shape.inner, mixed + 2 * shape.kv_heads * self._size, row)
        longest = int(np.diff(starts).max())
        widths = shape.hidden, gated, shape.hidden, shape.hidden, wide, wide, wide, row
        head = up_to(longest, PANEL), self._size
        return [
            *(torch.empty(rows, width) for width in widths),
            *(torch.empty(head) for _ in range(4)),
            torch.empty(up_to(longest, TALL), up_to(longest, PANEL)),
        ]


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


def _addresses_by_layer(saved: Sequence[Tensor]) -> Any:
    """Of what is saved of each layer, and of the next one's inputs: [layers, 7]."""
    number = len(saved[-1])
    return np.array([[*(x[i].data_ptr() for x in saved), saved[0][i + 1].data_ptr()] for i in range(number)])


def _blocks(lengths: Sequence[int]) -> list[int]:
    """The first row of every block, and the number of rows."""
    blocks, tokens = [0], 0
    for r, length in enumerate(lengths):
        if tokens >= BLOCK:
            blocks.append(r)
            tokens = 0
        tokens += length
    return [*blocks, len(lengths)]


def _longest(starts: Any, blocks: Sequence[int]) -> int:
    """Tokens of the longest block, and those that products of TALL of them write behind it."""
    return int(np.diff(starts[blocks]).max()) + TALL

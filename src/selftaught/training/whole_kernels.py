"""A small decoder's layer and its head, forwards and backwards, for a block of rows; compiled by numba, float32.

Everything is an address of float32 numbers, on one thread. Letters: n tokens of the block, T of one row, V token ids,
H query and KV key heads of D numbers.
"""

from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np

from selftaught.engines.fused import norm_of_line, rotation_of_head, silu_of_line
from selftaught.engines.kernel_cache import kept_on_disk
from selftaught.engines.kernels import OPTIONS
from selftaught.engines.vectors import CHUNK
from selftaught.engines.whole_pass import PANEL, TALL, copy, linear_of_panels
from selftaught.training.gradient_kernels import (
    QUAD,
    add_line,
    attention,
    attention_back,
    clear,
    growth,
    layouts,
    norm_gradient_of_line,
    number_at,
    put,
    silu_gradient_of_line,
    up_to,
)


class Shape(NamedTuple):
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int


class Rooms(NamedTuple):
    """Addresses of what a block's tokens need for a while; lines of the widths of what they are named after."""

    normed: int
    gated: int
    """Wide enough for mixed heads, too."""
    d_x: int
    d_some: int
    d_wide: int
    """Wide enough for gates and inputs, and for queries, keys and values; so are the columns."""
    x_columns: int
    d_columns: int
    logits: int
    """[n, V], V filled up to whole panels."""
    turned: int
    """This and the next three hold a head of one row."""
    columns: int
    query_columns: int
    mixed_columns: int
    d_scores: int
    """[T, T], filled up as the weights are."""


class Head(NamedTuple):
    """Addresses; V is filled up to whole panels."""

    norm: int
    d_norm: int
    panels: int
    back: int
    d_weight: int
    """[V, hidden]."""


@cache
def _lines(size: int) -> Any:
    """What is done line by line: `norms`, `norms_back`, `gates`, `gates_back` and `rotate_heads`."""
    norm, silu, rotate = norm_of_line(False), silu_of_line(False), rotation_of_head(size, False)

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def norms(x: int, weight: int, out: int, number: int, hidden: int, epsilon: Any) -> None:
        for n in range(number):
            norm(x + 4 * n * hidden, weight, out + 4 * n * hidden, hidden // CHUNK, epsilon)

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def norms_back(
        x: int, weight: int, d_out: int, room: int, d_x: int, d_weight: int, number: int, hidden: int, epsilon: Any
    ) -> None:
        """d_x += the gradient of the norms' inputs, and d_weight += that of their weight."""
        for n in range(number):
            at = 4 * n * hidden
            norm_gradient_of_line(x + at, weight, d_out + at, room, d_weight, hidden // CHUNK, epsilon)
            add_line(d_x + at, room, hidden // CHUNK)

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def gates(both: int, out: int, number: int, inner: int) -> None:
        for n in range(number):
            gate = both + 8 * n * inner
            silu(gate, gate + 4 * inner, out + 4 * n * inner, inner // CHUNK)

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def gates_back(both: int, d_out: int, d_both: int, number: int, inner: int) -> None:
        for n in range(number):
            gate, d_gate = both + 8 * n * inner, d_both + 8 * n * inner
            silu_gradient_of_line(
                gate, gate + 4 * inner, d_out + 4 * n * inner, d_gate, d_gate + 4 * inner, inner // CHUNK
            )  # fmt: skip

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def rotate_heads(qkv: int, starts: Any, shape: Any, cos: int, sin: int) -> None:
        """Queries and keys of the block's rows, in place."""
        turned = shape.heads + shape.kv_heads
        for r in range(len(starts) - 1):
            for t in range(starts[r + 1] - starts[r]):
                line = qkv + 4 * (starts[r] - starts[0] + t) * (turned + shape.kv_heads) * size
                for h in range(turned):
                    place = line + 4 * h * size
                    rotate(place, cos + 4 * t * size, sin + 4 * t * size, place)

    return norms, norms_back, gates, gates_back, rotate_heads


@cache
def forwards_kernel(size: int) -> Any:
    """A layer with heads of `size` numbers.

    `weights` are the addresses of norm, queries to values, output, norm, gates and inputs, and down; `panels` those of
    its four linear layers, forwards and back; `saved` those of the layer's inputs x, x behind attention, queries to
    values, mixed heads, gates and inputs, attention's weights, and of the next layer's x. The block's rows begin at
    `starts` of some line; one more is the end. Cosines and sines are [T, D].
    """
    attend, linear, add_linear = attention(size), linear_of_panels(False), linear_of_panels(True)
    norms, _, gates, _, rotate_heads = _lines(size)

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def forwards(
        weights: Any, panels: Any, saved: Any, starts: Any, cos: int, sin: int, shape: Any, rooms: Any, scale: Any,
        epsilon: Any,
    ) -> None:  # fmt: skip
        norm_before, _, _, norm_between, _, _ = weights
        of_qkv, _, of_o, _, of_both, _, of_down, _ = panels
        x, middle, qkv, mixed, both, scores, after = saved
        hidden, inner, mixed_width = shape.hidden, shape.inner, shape.heads * size
        qkv_width = mixed_width + 2 * shape.kv_heads * size
        number = starts[-1] - starts[0]
        tall = up_to(number, TALL)
        norms(x, norm_before, rooms.normed, number, hidden, epsilon)
        linear(rooms.normed, of_qkv, qkv, tall, hidden, qkv_width)
        rotate_heads(qkv, starts, shape, cos, sin)
        for r in range(len(starts) - 1):
            n, length = starts[r] - starts[0], starts[r + 1] - starts[r]
            attend(qkv + 4 * n * qkv_width, mixed + 4 * n * mixed_width, scores, length, shape, rooms, scale)
            scores += 4 * shape.heads * up_to(length, TALL) * up_to(length, PANEL)
        copy(x, middle, 4 * number * hidden)
        add_linear(mixed, of_o, middle, tall, mixed_width, hidden)
        norms(middle, norm_between, rooms.normed, number, hidden, epsilon)
        linear(rooms.normed, of_both, both, tall, hidden, 2 * inner)
        gates(both, rooms.gated, number, inner)
        copy(middle, after, 4 * number * hidden)
        add_linear(rooms.gated, of_down, after, tall, inner, hidden)

    return forwards


@cache
def backwards_kernel(size: int) -> Any:
    """The gradient of such a layer; `gradients` are those of its weights, and grow."""
    attend_back, (in_columns, _), grow, linear = attention_back(size), layouts(), growth(), linear_of_panels(False)
    norms, norms_back, gates, gates_back, rotate_heads = _lines(size)

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def learn(x: int, d_out: int, number: int, width: int, height: int, gradient: int, rooms: Any) -> None:
        """A linear layer's `gradient` [height, width] for inputs and gradients of outputs of `number` tokens."""
        in_columns(x, 4 * width, number, width, rooms.x_columns)
        in_columns(d_out, 4 * height, number, height, rooms.d_columns)
        grow(rooms.d_columns, rooms.x_columns, number, height, width, gradient)

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def backwards(
        weights: Any, gradients: Any, panels: Any, saved: Any, starts: Any, cos: int, minus_sin: int, shape: Any,
        rooms: Any, scale: Any, epsilon: Any,
    ) -> None:  # fmt: skip
        """rooms.d_x is the gradient of the layer's outputs, and then of its inputs."""
        norm_before, _, _, norm_between, _, _ = weights
        d_norm_before, d_qkv_weight, d_o, d_norm_between, d_both, d_down = gradients
        _, qkv_back, _, o_back, _, both_back, _, down_back = panels
        x, middle, qkv, mixed, both, scores, _ = saved
        hidden, inner, mixed_width = shape.hidden, shape.inner, shape.heads * size
        qkv_width = mixed_width + 2 * shape.kv_heads * size
        normed, gated, d_x, d_some, d_wide = rooms.normed, rooms.gated, rooms.d_x, rooms.d_some, rooms.d_wide
        number = starts[-1] - starts[0]
        tall = up_to(number, TALL)

        gates(both, gated, number, inner)
        learn(gated, d_x, number, inner, hidden, d_down, rooms)
        linear(d_x, down_back, gated, tall, hidden, inner)
        gates_back(both, gated, d_wide, number, inner)
        norms(middle, norm_between, normed, number, hidden, epsilon)
        learn(normed, d_wide, number, hidden, 2 * inner, d_both, rooms)
        linear(d_wide, both_back, d_some, tall, 2 * inner, hidden)
        norms_back(middle, norm_between, d_some, normed, d_x, d_norm_between, number, hidden, epsilon)

        learn(mixed, d_x, number, mixed_width, hidden, d_o, rooms)
        d_mixed, d_qkv = gated, d_wide
        linear(d_x, o_back, d_mixed, tall, hidden, mixed_width)
        clear(d_qkv, tall * qkv_width)
        for r in range(len(starts) - 1):
            n, length = starts[r] - starts[0], starts[r + 1] - starts[r]
            attend_back(
                qkv + 4 * n * qkv_width, d_mixed + 4 * n * mixed_width, scores, d_qkv + 4 * n * qkv_width, length,
                shape, rooms, scale,
            )  # fmt: skip
            scores += 4 * shape.heads * up_to(length, TALL) * up_to(length, PANEL)
        rotate_heads(d_qkv, starts, shape, cos, minus_sin)
        norms(x, norm_before, normed, number, hidden, epsilon)
        learn(normed, d_qkv, number, hidden, qkv_width, d_qkv_weight, rooms)
        linear(d_qkv, qkv_back, d_some, tall, qkv_width, hidden)
        norms_back(x, norm_before, d_some, normed, d_x, d_norm_before, number, hidden, epsilon)

    return backwards


@cache
def head_kernel(size: int) -> Any:
    """The loss, and the gradient of what the last layer gave."""
    (in_columns, _), grow, linear = layouts(), growth(), linear_of_panels(False)
    norms, norms_back, _, _, _ = _lines(size)

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def losses(logits: int, targets: Any, vocabulary: int, share: Any) -> float:
        """-log p of the targets, summed up; logits become `share` times their gradient."""
        total = 0.0
        for k in range(len(targets)):
            line = logits + 4 * k * up_to(vocabulary, PANEL)
            largest, all_of_it = number_at(line), np.float32(0.0)
            for j in range(1, vocabulary):
                largest = max(largest, number_at(line + 4 * j))
            total += largest - number_at(line + 4 * targets[k])
            for j in range(vocabulary):
                p = np.exp(number_at(line + 4 * j) - largest)
                put(line + 4 * j, p)
                all_of_it += p
            total += np.log(all_of_it)
            for j in range(vocabulary):
                put(line + 4 * j, number_at(line + 4 * j) / all_of_it * share)
            place = line + 4 * targets[k]
            put(place, number_at(place) - share)
        return total

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def at_the_head(
        x: int, number: int, keep: Any, targets: Any, head: Any, shape: Any, rooms: Any, epsilon: Any, share: Any
    ) -> float:
        """The summed loss of x [number, hidden], of which those at `keep` are learned from. The gradients grow by
        `share` times its own, and rooms.d_x becomes that of x."""
        hidden, learned, row = shape.hidden, len(keep), up_to(shape.vocabulary, PANEL)
        one = min(learned, 1)  # a variable: for a constant numba would compile the functions again
        for k in range(learned):
            norms(x + 4 * keep[k] * hidden, head.norm, rooms.normed + 4 * k * hidden, one, hidden, epsilon)
        linear(rooms.normed, head.panels, rooms.logits, up_to(learned, TALL), hidden, row)
        total: float = losses(rooms.logits, targets, shape.vocabulary, share)
        in_columns(rooms.normed, 4 * hidden, learned, hidden, rooms.x_columns)
        in_columns(rooms.logits, 4 * row, learned, row, rooms.d_columns)
        grow(rooms.d_columns, rooms.x_columns, learned, up_to(shape.vocabulary, QUAD), hidden, head.d_weight)
        linear(rooms.logits, head.back, rooms.d_some, up_to(learned, TALL), row, hidden)
        clear(rooms.d_x, number * hidden)
        for k in range(learned):
            at = 4 * keep[k] * hidden
            d_out, d_x = rooms.d_some + 4 * k * hidden, rooms.d_x + at
            norms_back(x + at, head.norm, d_out, rooms.normed, d_x, head.d_norm, one, hidden, epsilon)
        return total

    return at_the_head

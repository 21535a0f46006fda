"""What the pass of whole_kernels.py is made of, forwards and backwards; compiled by numba, float32, one thread.

Written like engines/vectors.py, for the same reasons. Everything is an address of float32 numbers; products are those
of `whole_pass.py`, of panels.
"""

from functools import cache
from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from selftaught.engines.kernel_cache import kept_on_disk
from selftaught.engines.kernels import OPTIONS
from selftaught.engines.vectors import (
    ADDRESS,
    BYTE,
    CHUNK,
    FLOAT,
    TOGETHER,
    Rows,
    inverse_root,
    mean_of,
    over_rows,
    softmax,
)
from selftaught.engines.whole_pass import PANEL, TALL, copy, multiplier

LINES = Rows(CHUNK, is_half=False)
QUAD = 4
"""Rows of a weight's gradient that are summed up at a time: widths are multiples of it, which they are not of TALL."""


def _norm_gradient(
    b: Any, rows: Rows, x: Any, weight: Any, d_out: Any, d_x: Any, d_weight: Any, number: Any, epsilon: Any
) -> None:
    """For a line of `vectors.rms_norm`, with r = 1 / sqrt(mean(x^2) + epsilon) and g = weight * d_out:
    d_x = r * g - x * r^3 * mean(g * x), and d_weight grows by d_out * x * r."""
    squares, along = ([cgutils.alloca_once(b, rows.vector) for _ in range(rows.number)] for _ in range(2))
    for place in (*squares, *along):
        b.store(rows.all(0.0), place)
    with over_rows(b, rows, number) as offset:
        lines = (rows.load(b, b.add(start, offset)) for start in (x, weight, d_out))
        for u, w, d, square, product in zip(*lines, squares, along, strict=True):
            b.store(rows.plus_product(b, b.load(square), u, u), square)
            b.store(rows.plus_product(b, b.load(product), b.fmul(w, d), u), product)
    mean_square, mean_product = (mean_of(b, rows, places, number) for places in (squares, along))
    r = inverse_root(b, mean_square, epsilon)
    cube = b.fmul(b.fmul(r, r), b.fmul(r, mean_product))
    scale, pull = rows.repeated(b, r), rows.repeated(b, cube)
    with over_rows(b, rows, number) as offset:
        lines = (rows.load(b, b.add(start, offset)) for start in (x, weight, d_out, d_weight))
        parts = list(zip(*lines, strict=True))
        found = [b.fsub(b.fmul(b.fmul(w, d), scale), b.fmul(u, pull)) for u, w, d, _ in parts]
        rows.store(b, b.add(d_x, offset), found)
        grown = [rows.plus_product(b, before, d, b.fmul(u, scale)) for u, _, d, before in parts]
        rows.store(b, b.add(d_weight, offset), grown)


def _silu_gradient(b: Any, rows: Rows, gate: Any, up: Any, d_out: Any, d_gate: Any, d_up: Any, number: Any) -> None:
    """For lines of `vectors.silu_product`, with s = 1 / (1 + exp(-gate)):
    d_up = d_out * gate * s and d_gate = d_out * up * s * (1 + gate * (1 - s))."""
    one = rows.all(1.0)
    with over_rows(b, rows, number) as offset:
        lines = (rows.load(b, b.add(start, offset)) for start in (gate, up, d_out))
        d_gates, d_ups = [], []
        for g, u, d in zip(*lines, strict=True):
            s = b.fdiv(one, b.fadd(one, rows.exp(b, b.fsub(rows.all(0.0), g))))
            d_ups.append(b.fmul(d, b.fmul(g, s)))
            slope = b.fmul(s, rows.plus_product(b, one, g, b.fsub(one, s)))
            d_gates.append(b.fmul(b.fmul(d, u), slope))
        rows.store(b, b.add(d_gate, offset), d_gates)
        rows.store(b, b.add(d_up, offset), d_ups)


@intrinsic
def norm_gradient_of_line(
    context: Any, x: Any, weight: Any, d_out: Any, d_x: Any, d_weight: Any, number: Any, epsilon: Any
) -> Any:
    def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _norm_gradient(b, LINES, *arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6, types.float32), code


@intrinsic
def silu_gradient_of_line(context: Any, gate: Any, up: Any, d_out: Any, d_gate: Any, d_up: Any, number: Any) -> Any:
    def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _silu_gradient(b, LINES, *arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), code


@intrinsic
def number_at(context: Any, place: Any) -> Any:
    def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.load(b.inttoptr(arguments[0], FLOAT.as_pointer()))

    return types.float32(types.int64), code


@intrinsic
def put(context: Any, place: Any, number: Any) -> Any:
    def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        b.store(arguments[1], b.inttoptr(arguments[0], FLOAT.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), code


@intrinsic
def add_line(context: Any, total: Any, x: Any, number: Any) -> Any:
    """total += x, for lines of `number` chunks."""

    def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        total, x, number = arguments
        with over_rows(b, LINES, number) as offset:
            place = b.add(total, offset)
            both = zip(LINES.load(b, place), LINES.load(b, b.add(x, offset)), strict=True)
            LINES.store(b, place, [b.fadd(u, v) for u, v in both])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code


@intrinsic
def weigh(context: Any, scores: Any, number: Any, scale: Any) -> Any:
    """`vectors.softmax` of `number` times TOGETHER scores: the sum of what they are turned into."""

    def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return softmax(b, Rows(TOGETHER, is_half=False), *arguments)[1]

    return types.float32(types.int64, types.int64, types.float32), code


@intrinsic
def clear(context: Any, x: Any, number: Any) -> Any:
    """Write zeros over a line."""

    def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, number = arguments
        cgutils.memset(b, b.inttoptr(x, BYTE.as_pointer()), b.mul(number, ADDRESS(4)), 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@register_jitable(inline="always")
def up_to(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


@cache
def layouts() -> tuple[Any, Any]:
    """`in_columns`, `across`: the panels of a table and of the same table turned over.

    A weight [out, in] is multiplied with inputs as it is `across`, and with the gradient of its outputs `in_columns`.
    """

    @kept_on_disk()
    @numba.njit(**OPTIONS)
    def in_columns(x: int, stride: int, number: int, width: int, out: int) -> None:
        """x [number, width], `stride` bytes from row to row, as [width / PANEL, number, PANEL]."""
        for first in range(0, width, PANEL):
            for n in range(number):
                copy(x + n * stride + 4 * first, out + 4 * (first * number + n * PANEL), 4 * PANEL)

    @kept_on_disk()
    @numba.njit(**OPTIONS)
    def across(x: int, stride: int, number: int, width: int, out: int) -> None:
        """The same x as [number / PANEL, width, PANEL], filled up with zeros."""
        for first in range(0, number, PANEL):
            for c in range(PANEL):
                line, target = x + (first + c) * stride, out + 4 * (first * width + c)
                for j in range(width):
                    put(target + 4 * j * PANEL, number_at(line + 4 * j) if first + c < number else np.float32(0.0))

    return in_columns, across


@cache
def growth() -> Any:
    multiply = multiplier(QUAD, True)

    @kept_on_disk()
    @numba.njit(**OPTIONS)
    def grow(d_out: int, x: int, number: int, height: int, width: int, d_weight: int) -> None:
        """d_weight [height, width] += d_out^T x, for d_out [number, height] and x [number, width] in columns."""
        for j in range(0, width, PANEL):
            for i in range(0, height, QUAD):
                column = d_out + 4 * ((i // PANEL) * PANEL * number + i % PANEL)
                multiply(
                    column, 4, 4 * PANEL, x + 4 * j * number, number, d_weight + 4 * (i * width + j), 4 * width
                )  # fmt: skip

    return grow


@cache
def attention(size: int) -> Any:
    """Causal attention of one row for heads of `size` numbers."""
    multiply, (in_columns, across) = multiplier(TALL, False), layouts()

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def attend(qkv: int, mixed: int, weights: int, length: int, shape: Any, rooms: Any, scale: Any) -> None:
        """qkv [T, (H + 2 KV) D], rotated -> mixed [T, H D] and weights [H, T, T], their rows filled up to panels.

        Some rows behind the last of mixed are written, too.
        """
        heads, kv_heads = shape.heads, shape.kv_heads
        stride, out_stride = 4 * (heads + 2 * kv_heads) * size, 4 * heads * size
        tall, row, group = up_to(length, TALL), up_to(length, PANEL), heads // kv_heads
        turned, columns = rooms.turned, rooms.columns
        for h in range(heads):
            key = qkv + 4 * (heads + h // group) * size
            if h % group == 0:
                across(key, stride, length, size, turned)
                in_columns(key + 4 * kv_heads * size, stride, length, size, columns)
            own = weights + 4 * h * tall * row
            for n in range(0, tall, TALL):
                for first in range(0, min(n + TALL, length), PANEL):
                    multiply(
                        qkv + n * stride + 4 * h * size, stride, 4, turned + 4 * first * size, size,
                        own + 4 * (n * row + first), 4 * row,
                    )  # fmt: skip
                for t in range(n, min(n + TALL, length)):
                    line, vectors = own + 4 * t * row, -(-(t + 1) // TOGETHER)
                    for j in range(t + 1, TOGETHER * vectors):
                        put(line + 4 * j, np.float32(-np.inf))
                    total = weigh(line, vectors, scale)
                    for j in range(t + 1):
                        put(line + 4 * j, number_at(line + 4 * j) / total)
                    for j in range(t + 1, row):
                        put(line + 4 * j, np.float32(0.0))
                for first in range(0, size, PANEL):
                    multiply(
                        own + 4 * n * row, 4 * row, 4, columns + 4 * first * length, min(n + TALL, length),
                        mixed + n * out_stride + 4 * (h * size + first), out_stride,
                    )  # fmt: skip

    return attend


@cache
def attention_back(size: int) -> Any:
    """Its gradient."""
    multiply, add_product, (in_columns, across) = multiplier(TALL, False), multiplier(QUAD, True), layouts()

    @kept_on_disk(size)
    @numba.njit(**OPTIONS)
    def attend_back(
        qkv: int, d_mixed: int, weights: int, d_qkv: int, length: int, shape: Any, rooms: Any, scale: Any
    ) -> None:
        """The gradient of qkv for that of mixed; d_qkv holds zeros for keys and values. Behind the last row, queries
        are written and zeros are added to keys and values."""
        heads, kv_heads = shape.heads, shape.kv_heads
        stride, out_stride = 4 * (heads + 2 * kv_heads) * size, 4 * heads * size
        tall, row, group = up_to(length, TALL), up_to(length, PANEL), heads // kv_heads
        turned, columns, query_columns, d_scores = rooms.turned, rooms.columns, rooms.query_columns, rooms.d_scores
        d_columns = rooms.mixed_columns
        for h in range(heads):
            key = 4 * (heads + h // group) * size
            value = key + 4 * kv_heads * size
            if h % group == 0:
                across(qkv + value, stride, length, size, turned)
                in_columns(qkv + key, stride, length, size, columns)
            in_columns(qkv + 4 * h * size, stride, length, size, query_columns)
            in_columns(d_mixed + 4 * h * size, out_stride, length, size, d_columns)
            own = weights + 4 * h * tall * row
            for n in range(0, tall, TALL):
                for first in range(0, min(n + TALL, length), PANEL):
                    multiply(
                        d_mixed + n * out_stride + 4 * h * size, out_stride, 4, turned + 4 * first * size, size,
                        d_scores + 4 * (n * row + first), 4 * row,
                    )  # fmt: skip
                for t in range(n, min(n + TALL, length)):
                    line, of_line = d_scores + 4 * t * row, own + 4 * t * row
                    mean = np.float32(0.0)
                    for j in range(t + 1):
                        mean += number_at(line + 4 * j) * number_at(of_line + 4 * j)
                    for j in range(t + 1):
                        place = line + 4 * j
                        put(place, number_at(of_line + 4 * j) * (number_at(place) - mean) * scale)
                    for j in range(t + 1, row):
                        put(line + 4 * j, np.float32(0.0))
                for first in range(0, size, PANEL):
                    multiply(
                        d_scores + 4 * n * row, 4 * row, 4, columns + 4 * first * length, min(n + TALL, length),
                        d_qkv + n * stride + 4 * (h * size + first), stride,
                    )  # fmt: skip
            for j in range(0, length, QUAD):  # only queries from key j on have seen it
                for first in range(0, size, PANEL):
                    behind, place = 4 * (first * length + j * PANEL), d_qkv + j * stride + 4 * first
                    corner = 4 * (j * row + j)
                    add_product(
                        d_scores + corner, 4, 4 * row, query_columns + behind, length - j, place + key, stride
                    )  # fmt: skip
                    add_product(own + corner, 4, 4 * row, d_columns + behind, length - j, place + value, stride)

    return attend_back

"""Backward passes of norms and gated layers, and the dealing of heads to rows, compiled by numba; float32 on a CPU.

Written like the forward passes in engines/vectors.py, for the same reasons. Addresses are those of contiguous tensors.
"""

from functools import cache
from typing import Any

import numba
from numba.core import cgutils, types
from numba.extending import intrinsic

from selftaught.engines.fused import rotation_of_head
from selftaught.engines.kernel_cache import kept_on_disk
from selftaught.engines.kernels import OPTIONS
from selftaught.engines.vectors import CHUNK, Rows, inverse_root, mean_of, over_rows
from selftaught.engines.whole_pass import copy

LINES = Rows(CHUNK, is_half=False)


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
def _norm_line(
    context: Any, x: Any, weight: Any, d_out: Any, d_x: Any, d_weight: Any, number: Any, epsilon: Any
) -> Any:
    def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _norm_gradient(b, LINES, *arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6, types.float32), code


@intrinsic
def _silu_line(context: Any, gate: Any, up: Any, d_out: Any, d_gate: Any, d_up: Any, number: Any) -> Any:
    def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _silu_gradient(b, LINES, *arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), code


@cache
def norm_gradient(is_parallel: bool) -> Any:
    """x, weight, d_out [number, width] -> d_x, and d_weight [parts, width] with a part's share added to each."""

    @kept_on_disk(is_parallel)
    @numba.njit(parallel=is_parallel, **OPTIONS)
    def lines(
        x: int, weight: int, d_out: int, d_x: int, d_weight: int, number: int, width: int, epsilon: Any, parts: int
    ) -> None:
        for part in numba.prange(parts):
            own = d_weight + 4 * part * width
            for n in range(number * part // parts, number * (part + 1) // parts):
                at = 4 * n * width
                _norm_line(x + at, weight, d_out + at, d_x + at, own, width // CHUNK, epsilon)

    return lines


@cache
def silu_gradient(is_parallel: bool) -> Any:
    """both [number, 2 * width], gates before inputs, and d_out [number, width] -> d_both."""

    @kept_on_disk(is_parallel)
    @numba.njit(parallel=is_parallel, **OPTIONS)
    def lines(both: int, d_out: int, d_both: int, number: int, width: int, parts: int) -> None:
        for part in numba.prange(parts):
            for n in range(number * part // parts, number * (part + 1) // parts):
                at, up = 8 * n * width, 4 * width
                gate, d_gate = both + at, d_both + at
                _silu_line(gate, gate + up, d_out + 4 * n * width, d_gate, d_gate + up, width // CHUNK)

    return lines


@cache
def mover(size: int, rotates: bool, to_line: bool, is_parallel: bool) -> Any:
    """Copy heads of a line [N, step bytes] into those of a padded group [rows, heads, width, size], or back.

    Token `line_places[i]` of the line belongs at `group_places[i]`, counted in tokens of the padded group. Heads are
    rotated on the way by cosines and sines [N, size], if wanted.
    """
    num_bytes = 4 * size
    rotate = rotation_of_head(size, False)

    @kept_on_disk(size, rotates, to_line, is_parallel)
    @numba.njit(parallel=is_parallel, **OPTIONS)
    def move(
        line: int, step: int, grouped: int, heads: int, width: int, line_places: Any, group_places: Any, cos: int,
        sin: int, parts: int,
    ) -> None:  # fmt: skip
        number = len(line_places)
        for part in numba.prange(parts):
            for i in range(number * part // parts, number * (part + 1) // parts):
                n, row, t = line_places[i], group_places[i] // width, group_places[i] % width
                turn = n * num_bytes
                for h in range(heads):
                    here = line + n * step + h * num_bytes
                    there = grouped + ((row * heads + h) * width + t) * num_bytes
                    source, target = (there, here) if to_line else (here, there)
                    if rotates:
                        rotate(source, cos + turn, sin + turn, target)
                    else:
                        copy(source, target, num_bytes)

    return move

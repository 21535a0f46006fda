"""Attention of new tokens to what their slots hold, compiled by numba at its first use on a machine.

torch's attention for CPUs reads a slot's keys at half the speed of the memory, and merging its results with those of
the shared prefix takes several more operations. Here a key and a value are read once for all heads that share them, and
the prefix's part is merged at the same time. Sums are float32. The same machine gives the same bits: how tokens are
split among threads changes no sum.
"""

from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba.core import types
from numba.core.types.containers import UniTuple
from numba.extending import intrinsic
from torch import Tensor

from selftaught.engines.local.cpu.cache import kept_on_disk
from selftaught.engines.local.cpu.vectors import (
    ADDRESS,
    FLOAT,
    TOGETHER,
    Rows,
    dot_products,
    softmax,
    weighted_sums,
)
from selftaught.engines.local.slots import SlotAttention

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
"""The compiler may not reorder or merge arithmetic. The code of a kernel that another kernel calls can depend on
whether both are compiled or both are read from disk, and then a resumed run differs in its last bits. Sums over a
vector in no fixed order do that, so `vectors.Rows.sum` fixes their order."""
PARTS_PER_THREAD = 4
"""Tokens are split into more parts than threads, because some tokens attend to more than others."""


def _instructions(rows: Rows, group: int, has_prefix: bool) -> tuple[Any, Any, Any, Any]:
    """The steps of `attend_kernel`: write a row, score keys, turn scores into weights, mix values."""
    lines = Rows(TOGETHER, is_half=False)

    @intrinsic
    def write(context: Any, source: Any, target: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            rows.copy(b, *arguments)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), code

    @intrinsic
    def score(context: Any, keys: Any, queries: Any, scores: Any, number: Any, stride: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            dot_products(b, rows, group, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), code

    @intrinsic
    def weigh(context: Any, scores: Any, number: Any, scale: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            return context.make_tuple(b, signature.return_type, softmax(b, lines, *arguments))

        return UniTuple(types.float32, 2)(types.int64, types.int64, types.float32), code

    @intrinsic
    def mix(
        context: Any, values: Any, weights: Any, number: Any, stride: Any, out: Any, shared: Any, gap: Any, shares: Any
    ) -> Any:
        """out[g] = shares[g, 0] times the weighted sum of the values, plus shares[g, 1] times shared[g * gap]."""

        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            *of_sums, out, shared, gap, shares = arguments

            def share(g: int, part: int) -> Any:
                place = b.inttoptr(b.add(shares, ADDRESS(8 * g + 4 * part)), FLOAT.as_pointer())
                return rows.repeated(b, b.load(place))

            for g, sums in enumerate(weighted_sums(b, rows, group, *of_sums)):
                mixed = [b.fmul(x, share(g, 0)) for x in sums]
                if has_prefix:
                    prefix = rows.load(b, b.add(shared, b.mul(ADDRESS(g), gap)))
                    mixed = [rows.plus_product(b, x, share(g, 1), y) for x, y in zip(mixed, prefix, strict=True)]
                rows.store(b, b.add(out, ADDRESS(g * rows.num_bytes)), mixed)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), code

    return write, score, weigh, mix


@cache
def attend_kernel(size: int, group: int, is_half: bool, has_prefix: bool) -> Any:
    """The kernel for heads of `size` numbers, `group` query heads to a key head."""
    rows = Rows(size, is_half=is_half)
    num_bytes = rows.num_bytes
    write, score, weigh, mix = _instructions(rows, group, has_prefix)

    @kept_on_disk(size, group, is_half, has_prefix)
    @numba.njit(**OPTIONS)
    def attend(
        q: int, k: int, v: int, held_k: int, held_v: int, kv_heads: int, length: int, slots: Any, positions: Any,
        scale: Any, shared: int, shared_lse: Any, out: int, first: int, last: int,
    ) -> None:  # fmt: skip
        """Tokens `first` to `last`. Addresses are q, out [N, K, G, size], k, v [N, K, size] or 0 if they are
        written already, held_k, held_v [S, K, length, size] and shared [G, N, K, size]."""
        stride = -(-length // TOGETHER) * TOGETHER
        scores = np.empty((group, stride), np.float32)
        shares = np.empty((group, 2), np.float32)
        number = slots.shape[0]
        for n in range(first, last):
            visible = positions[n] + 1
            vectors = -(-visible // TOGETHER)
            for h in range(kv_heads):
                head = n * kv_heads + h
                held = (slots[n] * kv_heads + h) * length * num_bytes
                if k:
                    place = held + positions[n] * num_bytes
                    write(k + head * num_bytes, held_k + place)
                    write(v + head * num_bytes, held_v + place)
                score(held_k + held, q + head * group * num_bytes, scores.ctypes.data, visible, stride)
                for g in range(group):
                    for j in range(visible, TOGETHER * vectors):
                        scores[g, j] = -np.inf
                    largest, total = weigh(scores.ctypes.data + 4 * g * stride, vectors, scale)
                    own = np.float32(1.0)
                    if has_prefix:
                        lse = largest * scale + np.log(total)
                        own /= np.float32(1.0) + np.exp(shared_lse[g * number + n, h] - lse)
                    shares[g, 0], shares[g, 1] = own / total, np.float32(1.0) - own
                mix(
                    held_v + held, scores.ctypes.data, visible, stride, out + head * group * num_bytes,
                    shared + head * num_bytes, number * kv_heads * num_bytes, shares.ctypes.data,
                )  # fmt: skip

    return attend


@cache
def _in_parallel(size: int, group: int, is_half: bool, has_prefix: bool) -> Any:
    attend = attend_kernel(size, group, is_half, has_prefix)

    @kept_on_disk(size, group, is_half, has_prefix)
    @numba.njit(parallel=True, **OPTIONS)
    def attend_parts(
        q: int, k: int, v: int, held_k: int, held_v: int, kv_heads: int, length: int, slots: Any, positions: Any,
        scale: Any, shared: int, shared_lse: Any, out: int, parts: int,
    ) -> None:  # fmt: skip
        number = slots.shape[0]
        for part in numba.prange(parts):
            first, last = number * part // parts, number * (part + 1) // parts
            attend(
                q, k, v, held_k, held_v, kv_heads, length, slots, positions, scale, shared, shared_lse, out, first, last
            )  # fmt: skip

    return attend_parts


NO_LSE = np.empty((0, 0), np.float32)


def attend_in_slots(call: SlotAttention, *, threads: int) -> Tensor:
    """Attention [1, N, H, D] of N tokens to what their slots hold; numbers are bfloat16 or float32, all of one type.

    Writes what is new into the slots.
    """
    q, new, held, slots, positions, scale, shared = call
    kv_heads, length, size = held[0].shape[1:]
    new_rows = [x.transpose(0, 1).contiguous() for x in new or ()]  # must live until the kernel is done
    k, v = (x.data_ptr() for x in new_rows) if new_rows else (0, 0)
    queries = q.transpose(0, 1).contiguous()
    out = torch.empty_like(queries)
    prefix = shared[0][0].transpose(0, 1).contiguous() if shared else out
    prefix_lse = shared[1][0].t().contiguous().numpy() if shared else NO_LSE
    kind = size, q.shape[0] // kv_heads, q.dtype == torch.bfloat16, shared is not None
    arguments = (
        queries.data_ptr(), k, v, held[0].data_ptr(), held[1].data_ptr(), kv_heads, length, slots.numpy(),
        positions.numpy(), np.float32(scale), prefix.data_ptr(), prefix_lse, out.data_ptr(),
    )  # fmt: skip
    if threads > 1:
        _in_parallel(*kind)(*arguments, PARTS_PER_THREAD * threads)
    else:
        attend_kernel(*kind)(*arguments, 0, len(slots))
    return out[None]

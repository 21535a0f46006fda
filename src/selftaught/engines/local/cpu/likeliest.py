"""The likeliest token of every row, compiled by numba: it reads the logits twice, torch's operations five times."""

from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from selftaught.engines.local.cpu.attention import OPTIONS, PARTS_PER_THREAD
from selftaught.engines.local.cpu.cache import kept_on_disk
from selftaught.engines.local.cpu.vectors import (
    CHUNK,
    FLOAT,
    INT,
    Rows,
    highest,
    sum_of_exp,
)


def likeliest(logits: Tensor, threads: int) -> tuple[Tensor, Tensor]:
    """Token ids [B], the first among equals, and their log-probabilities [B], of contiguous logits [B, V] on a CPU.

    The numbers are bfloat16 or float32. A log-probability is not finite if a logit of its row is not a number or
    is plus infinity.
    """
    number, size = logits.shape
    if size % CHUNK:
        logits = torch.nn.functional.pad(logits, (0, -size % CHUNK), value=float("-inf"))
        size = logits.shape[1]
    is_half = logits.dtype == torch.bfloat16
    tokens, logprobs = np.empty(number, np.int64), np.empty(number, np.float32)
    values = logits.view(torch.int16).numpy() if is_half else logits.numpy()
    parts = PARTS_PER_THREAD * threads if threads > 1 else 1
    _kernel(is_half, threads > 1)(logits.data_ptr(), values, tokens, logprobs, number, size, parts)
    return torch.from_numpy(tokens), torch.from_numpy(logprobs)


@cache
def _kernel(is_half: bool, is_parallel: bool) -> Any:
    rows = Rows(CHUNK, is_half=is_half)
    rows_bytes = rows.num_bytes

    @intrinsic
    def highest_of(context: Any, x: Any, number: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            return highest(b, rows, *arguments)

        return types.float32(types.int64, types.int64), code

    @intrinsic
    def sum_of(context: Any, x: Any, number: Any, origin: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            return sum_of_exp(b, rows, *arguments)

        return types.float32(types.int64, types.int64, types.float32), code

    @intrinsic
    def as_number(context: Any, bits: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            return b.bitcast(b.shl(b.zext(arguments[0], INT), INT(16)), FLOAT)

        return types.float32(types.int16), code

    @numba.njit(**OPTIONS)
    def number_at(values: Any, n: int, token: int) -> Any:
        return as_number(values[n, token]) if is_half else values[n, token]

    @kept_on_disk(is_half, is_parallel)
    @numba.njit(parallel=is_parallel, **OPTIONS)
    def find_best(logits: int, values: Any, tokens: Any, logprobs: Any, number: int, size: int, parts: int) -> None:
        chunks = size // CHUNK
        for part in numba.prange(parts):
            for n in range(number * part // parts, number * (part + 1) // parts):
                row = logits + n * chunks * rows_bytes
                best = highest_of(row, chunks)
                logprobs[n] = -np.log(sum_of(row, chunks, best)) if best < np.inf else np.nan
                chunk = 0
                while chunk < chunks - 1 and highest_of(row + chunk * rows_bytes, 1) != best:
                    chunk += 1
                token = chunk * CHUNK
                while token < chunk * CHUNK + CHUNK - 1 and number_at(values, n, token) != best:
                    token += 1
                tokens[n] = token

    return find_best

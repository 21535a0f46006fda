"""What of drawing is compiled for the machine, in one place: for bfloat16 and float32 on a CPU that numba knows."""

from typing import Any

import numba
import torch
from torch import Tensor, nn

from selftaught.engines.fused import fuse_layers
from selftaught.engines.kernels import attend_in_slots
from selftaught.engines.likeliest import CHUNK, likeliest

Replaced = list[tuple[nn.Module, str, nn.Module]]
"""Parent, name and layer of what was replaced."""


class Compiled:
    """The compiled operations on so many threads; they share torch's pool of threads where both use GNU OpenMP."""

    def __init__(self, threads: int) -> None:
        self._threads = min(threads, numba.config.NUMBA_NUM_THREADS)
        if self._threads > 1:
            numba.set_num_threads(self._threads)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        held: tuple[Tensor, Tensor],
        slots: Any,
        positions: Any,
        scale: float,
        shared: tuple[Tensor, Tensor] | None,
        *,
        one_each: bool,
    ) -> Tensor:
        """`kernels.attend_in_slots`."""
        arguments = q, k, v, held, slots, positions, scale, shared
        return attend_in_slots(*arguments, one_each=one_each, threads=self._threads)

    def likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """`likeliest.likeliest`, or None for a vocabulary that it cannot read."""
        return None if logits.shape[-1] % CHUNK else likeliest(logits.contiguous(), self._threads)

    def fuse(self, model: Any, *, with_attention: bool) -> Replaced:
        """Replace layers of the model by fused ones (`fused.py`); what was there before."""
        return fuse_layers(model, threads=self._threads, with_attention=with_attention)


def compiled_for(model: Any, threads: int) -> Compiled | None:
    """The compiled operations, or None for a model that they are not for."""
    is_known = model.dtype in (torch.bfloat16, torch.float32) and model.device.type == "cpu"
    return Compiled(threads) if is_known else None

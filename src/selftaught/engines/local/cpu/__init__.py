"""Faster generation on a CPU: operations that numba compiles, and weights arranged for its matrix products.

One object, `CpuKernels`, is all that an engine knows of this folder: attention to slots (`attention.py`), fused layers
(`fused.py`), the likeliest token (`likeliest.py`), packed weights (`packing.py`) and a shorter forward pass
(`decoder.py`). Machine code is kept on disk (`cache.py`). An engine without `CpuKernels` runs torch's own operations.
"""

from typing import Any

import numba
import torch
from torch import Tensor

from selftaught.engines.local.cpu.attention import attend_in_slots
from selftaught.engines.local.cpu.decoder import Decoder, decoder_of
from selftaught.engines.local.cpu.fused import fuse_layers
from selftaught.engines.local.cpu.likeliest import likeliest
from selftaught.engines.local.cpu.packing import pack_linears
from selftaught.engines.local.slots import Replaced, SlotAttention


class CpuKernels:
    """The compiled operations on so many threads; they use torch's own threads where both have GNU OpenMP."""

    def __init__(self, threads: int) -> None:
        self._threads = min(threads, numba.config.NUMBA_NUM_THREADS)
        if self._threads > 1:
            numba.set_num_threads(self._threads)
            # The start of numba's threads resets torch's number of threads to that of all CPUs, as they share a pool.
            torch.set_num_threads(threads)

    def suits(self, model: Any) -> bool:
        """Whether they can be used: for float32, and for bfloat16 with heads of an even size, on a CPU."""
        config = model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 0)
        size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 1)
        is_known_type = model.dtype == torch.float32 or (model.dtype == torch.bfloat16 and size % 2 == 0)
        return is_known_type and bool(model.device.type == "cpu")

    def attend(self, call: SlotAttention) -> Tensor:
        """`attention.attend_in_slots`, on these threads."""
        return attend_in_slots(call, threads=self._threads)

    def likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """`likeliest.likeliest`, on these threads."""
        return likeliest(logits.contiguous(), self._threads)

    def fuse(self, model: Any, *, with_attention: bool) -> Replaced:
        """Replace layers of the model by fused ones; returns what it replaced."""
        return fuse_layers(model, threads=self._threads, with_attention=with_attention)

    def pack(self, model: Any, *, rows: int) -> None:
        """Replace linear layers of the model by packed ones, for products with about so many rows."""
        pack_linears(model, rows=rows)

    def decoder(self, model: Any) -> Decoder | None:
        """The shorter forward pass of a model all of whose layers are fused."""
        return decoder_of(model)

"""What of drawing is compiled for the machine, in one place: for bfloat16 and float32 on a CPU that numba knows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import torch
from torch import Tensor, nn

from selftaught.engines.decoder import Decoder, decoder_of
from selftaught.engines.fused import fuse_layers
from selftaught.engines.kernels import attend_in_slots
from selftaught.engines.likeliest import likeliest
from selftaught.engines.whole_pass import WholePass, is_small

Replaced = list[tuple[nn.Module, str, nn.Module]]
"""Parent, name and layer of what was replaced."""


class Compiled:
    """The compiled operations on so many threads; they share torch's pool of threads where both use GNU OpenMP."""

    def __init__(self, threads: int) -> None:
        self._threads = min(threads, numba.config.NUMBA_NUM_THREADS)
        if self._threads > 1:
            numba.set_num_threads(self._threads)
            # Starting numba's threads sets the number of the pool that torch shares to that of all CPUs.
            torch.set_num_threads(threads)

    @property
    def attend(self) -> Callable[..., Tensor]:
        """`kernels.attend_in_slots`, on these threads."""
        return partial(attend_in_slots, threads=self._threads)

    def likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """`likeliest.likeliest`, on these threads."""
        return likeliest(logits.contiguous(), self._threads)

    def decoder(self, model: Any) -> Decoder | WholePass | None:
        """The lean pass of a model all of whose layers are fused: as one call if the model is small, else by layers."""
        by_layers = decoder_of(model)
        if by_layers is not None and self._threads == 1 and is_small(model):
            return WholePass(model, by_layers)
        return by_layers

    def fuse(self, model: Any, *, with_attention: bool) -> Replaced:
        """Replace layers of the model by fused ones (`fused.py`); what was there before."""
        return fuse_layers(model, threads=self._threads, with_attention=with_attention)


def compiled_for(model: Any, threads: int) -> Compiled | None:
    """The compiled operations, or None for a model that they are not for."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 1)
    is_known = model.dtype == torch.float32 or (model.dtype == torch.bfloat16 and size % 2 == 0)  # words of two numbers
    return Compiled(threads) if is_known and model.device.type == "cpu" else None

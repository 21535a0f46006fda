"""A model loaded and made ready to be trained; alike in every process of a run."""

from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, set_seed

from selftaught.errors import ModelError
from selftaught.settings import TrainingConfig
from selftaught.training.lora import with_adapters
from selftaught.training.packed_attention import CHECKED, why_not_packed


def set_up(
    model: Any, settings: TrainingConfig, *, compute: torch.dtype, longest: int, seed: int, threads: int
) -> tuple[Any, str | None]:
    """A loaded model with packed attention, and adapters if wanted; or with the reason why its rows are padded.

    Its layers may have got another `forward` (`own_forward`).

    `longest` is the number of tokens of the longest row; on `threads` threads of a CPU, or 0 if not on one.
    """
    reason = why_not_packed(model, longest=longest)
    if threads and reason is None and compute == torch.float32 and not settings.lora_rank:
        try:
            from selftaught.training.fused_layers import fuse
        except ImportError:
            pass  # a new Python has torch before numba; layers stay as they are then
        else:
            fuse(model, longest=min(longest, CHECKED), threads=threads)
    set_seed(seed % 2**32)  # adapters start at random
    if settings.lora_rank:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(compute)  # frozen, so it needs no float32 master
        model = with_adapters(model, settings)
    return model, reason


class Exchanged(partial[Any]):
    """A `forward` that stands in for a layer's own during a training."""


def own_forward(model: Any) -> None:
    """Give the layers of a model their own `forward` back."""
    for layer in model.modules():
        if isinstance(vars(layer).get("forward"), Exchanged):
            del layer.forward


def load_float32(path: str, *, trust_remote_code: bool = False) -> Any:
    """The model of a folder with float32 master weights (from_pretrained would keep the file's number type)."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except Exception as error:
        # transformers and safetensors raise many kinds here, and each of them means the same to the user.
        raise ModelError(
            f"model {path} cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    wrong = [name for name, weight in model.named_parameters() if weight.dtype != torch.float32]
    assert not wrong, f"master weights must be float32, these are not: {wrong[:3]}"
    return model

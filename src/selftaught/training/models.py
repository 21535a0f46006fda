"""A model loaded and made ready to be trained; alike in every process of a run."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, set_seed

from selftaught.errors import ModelError, one_line
from selftaught.settings import TrainingConfig
from selftaught.training.lora import with_adapters
from selftaught.training.packed_attention import why_not_packed


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that can be trained on micro-batches (`micro_batches.py`)."""

    model: Any
    why_padded: str | None
    """None if its rows are packed."""
    whole: Any
    """Its `WholeGradient`, or None."""


def set_up(
    model: Any, settings: TrainingConfig, *, compute: torch.dtype, longest: int, seed: int, threads: int
) -> Ready:
    """Give a loaded model packed attention if it can have it, and adapters if wanted.

    `longest` is the number of tokens of the longest row; on `threads` threads of a CPU, or 0 if not on one.
    """
    why_padded, whole = why_not_packed(model, longest=longest), None
    if threads == 1 and why_padded is None and compute == torch.float32 and not settings.lora_rank:
        try:
            from selftaught.training.whole_gradient import whole_gradient_of
        except ImportError:
            pass  # a new Python has torch before numba
        else:
            whole = whole_gradient_of(model, longest=longest)
    set_seed(seed % 2**32)  # adapters start at random
    if settings.lora_rank:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(compute)  # frozen, so it needs no float32 master
        model = with_adapters(model, settings)
    return Ready(model, why_padded, whole)


def load_float32(path: str, *, trust_remote_code: bool = False) -> Any:
    """The model of a folder with float32 master weights (from_pretrained would keep the file's number type)."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except Exception as error:
        # transformers and safetensors raise many kinds here, and each of them means the same to the user.
        raise ModelError(f"model {path} cannot be loaded: {type(error).__name__}: {one_line(error)}") from error
    wrong = [name for name, weight in model.named_parameters() if weight.dtype != torch.float32]
    assert not wrong, f"master weights must be float32, these are not: {wrong[:3]}"
    return model

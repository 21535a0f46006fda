"""Load a model and prepare it for training, in the same way in every process of a run."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import set_seed

from selftaught.models.loading import load_model
from selftaught.training.lora import with_adapters
from selftaught.training.packed_attention import use_packed_attention
from selftaught.training.settings import SftSettings


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that can be trained on micro-batches (`micro_batches.py`)."""

    model: Any
    why_padded: str | None
    """Why rows are padded and not packed; None if they are packed."""


def prepare(model: Any, settings: SftSettings, *, compute: torch.dtype, longest: int, seed: int) -> Prepared:
    """Switch a loaded model to packed attention if it can use it, and add adapters if the settings give a rank.

    `longest` is the number of tokens of the longest row.
    """
    why_padded = use_packed_attention(model, longest=longest)
    set_seed(seed % 2**32)  # adapters start at random
    if settings.lora_rank:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(compute)  # frozen, so it needs no float32 master
        model = with_adapters(model, settings)
    return Prepared(model, why_padded)


def load_float32(path: str, *, trust_remote_code: bool = False) -> Any:
    """The model of a folder with float32 master weights (from_pretrained would keep the file's number type)."""
    model = load_model(path, dtype=torch.float32, trust_remote_code=trust_remote_code)
    wrong = [name for name, weight in model.named_parameters() if weight.dtype != torch.float32]
    assert not wrong, f"master weights must be float32, these are not: {wrong[:3]}"
    return model

"""Load a model and prepare it for training, in the same way in every process of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from selftaught.models.adapters import is_adapter, read_adapter
from selftaught.models.loading import load_in_4bit, load_model
from selftaught.records.samples import ModelRef
from selftaught.training.lora import with_adapters
from selftaught.training.loss import ends_with_head
from selftaught.training.packed_attention import use_packed_attention
from selftaught.training.settings import SftSettings


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that can be trained on micro-batches (`micro_batches.py`)."""

    model: Any
    why_padded: str | None
    """Why rows are padded and not packed; None if they are packed."""
    in_pieces: bool = False
    """Whether logits are computed for a few loss tokens at a time."""
    notes: tuple[str, ...] = ()
    """What is unusual about it, in sentences."""


def prepare(model: Any, settings: SftSettings, *, compute: torch.dtype, longest: int, seed: int) -> Prepared:
    """Switch a loaded model to packed attention if it can use it, and add adapters if the settings give a rank.

    `longest` is the number of tokens of the longest row.
    """
    in_pieces = settings.logits_in_pieces is True and ends_with_head(model)
    notes = []
    if settings.logits_in_pieces is True and not in_pieces:
        notes.append("logits are not computed in pieces: the model changes them after its output layer")
    why_padded = use_packed_attention(model, longest=longest)
    if why_padded:
        notes.append(f"the rows of a training step are padded, not packed: {why_padded}")
    if settings.activation_checkpointing is True:
        # transformers 5.20 has renamed it. Only without reentrance do layers get keywords and frozen inputs.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    set_seed(seed % 2**32)  # adapters start at random
    if settings.lora_rank:
        model = with_adapters(model, settings)
    return Prepared(model, why_padded, in_pieces, tuple(notes))


def frozen_folder(start: ModelRef, settings: SftSettings) -> str:
    """The folder of the model whose weights are loaded for a training: that of the start; if this is a checkpoint of
    adapters, which are trained on, that of their base."""
    folder = Path(start.path)
    goes_on = settings.lora_rank and start.checkpoint is not None and is_adapter(folder)
    return str(read_adapter(folder, named=start.path).base) if goes_on else start.path


def load_for_training(
    path: str, settings: SftSettings, *, compute: torch.dtype, trust_remote_code: bool = False
) -> Any:
    """The model of a folder as its training begins: float32 masters, or with adapters frozen weights, as
    `compute` or in 4 bits."""
    if settings.frozen_4bit:
        return load_in_4bit(path, compute=compute, trust_remote_code=trust_remote_code)
    if settings.lora_rank:
        return load_model(path, dtype=compute, trust_remote_code=trust_remote_code)
    return load_float32(path, trust_remote_code=trust_remote_code)


def load_float32(path: str, *, trust_remote_code: bool = False) -> Any:
    """The model of a folder with float32 master weights (from_pretrained would keep the file's number type)."""
    model = load_model(path, dtype=torch.float32, trust_remote_code=trust_remote_code)
    wrong = [name for name, weight in model.named_parameters() if weight.dtype != torch.float32]
    assert not wrong, f"master weights must be float32, these are not: {wrong[:3]}"
    return model

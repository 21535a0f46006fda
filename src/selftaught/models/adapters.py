"""A folder with adapters in PEFT's format (LoRA, Hu et al. 2021, arXiv 2106.09685): what is in it, and the base model
that it is for. No weight is read here; `merging.py` adds adapters to their base.

Such a folder has no config.json. Everything that asks for a model's config or its complete weights gets them from
`base_folder`; tokenizer and generation config are the folder's own where it has them (`folder_of_file`).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.models.folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    json_object,
    refuse_link_to_nothing,
    refuse_not_kept,
    refuse_pointer,
)
from selftaught.models.places import hub_id, local_folder
from selftaught.records.errors import ModelError

READ = {"r", "lora_alpha", "use_rslora", "peft_type", "init_lora_weights", "base_model_name_or_path", "revision"}
WITHOUT_EFFECT = {
    *("auto_mapping", "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform"),
    *("lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "target_modules", "task_type"),
}
"""Keys of adapter_config.json that say how adapters were trained, or what the names of their tensors say, too."""
STARTS_FROM_THE_BASE = (None, True, False, "gaussian")
"""Values of init_lora_weights with which the base model's weights stay as they are (PiSSA and its kin change them)."""
DEEPEST = 8
"""Adapters on adapters."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapters in a folder, by its adapter_config.json."""

    folder: Path
    base: Path
    """The folder of the model that they are for, which may hold adapters itself."""
    rank: int
    alpha: float
    scales_by_root: bool
    """Whether the scale is alpha / sqrt(rank), in place of alpha / rank (rsLoRA)."""

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.scales_by_root else self.rank)

    @property
    def weights(self) -> Path:
        return self.folder / ADAPTER_WEIGHTS


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def base_folder(folder: Path, *, named: str | None = None) -> Path:
    """The folder with the config.json and the complete weights of a model: the folder itself, or the base model's if it
    holds adapters. Raises ModelError for adapters that cannot be merged, or whose base is not on this machine."""
    adapters = list(adapters_in(folder, named=named))
    return adapters[-1].base if adapters else folder


def adapters_in(folder: Path, *, named: str | None = None) -> Iterator[Adapter]:
    """The adapters that make the model in a folder of its base, the last trained first; none for a complete model."""
    for _ in range(DEEPEST):
        if not is_adapter(folder):
            return
        adapter = read_adapter(folder, named=named or str(folder))
        yield adapter
        folder = adapter.base
    raise ModelError(f"model {named or str(folder)!r} is over {DEEPEST} adapters on each other; merge some of them")


def folder_of_file(folder: Path, name: str) -> Path:
    """Where a file of a model's tokenizer or generation is: in its folder, or with its base if adapters lack it."""
    while not (folder / name).is_file() and is_adapter(folder):
        folder = read_adapter(folder, named=str(folder)).base
    return folder


def tokenizer_folder(folder: Path) -> Path:
    """Where a model's tokenizer is, with its chat template."""
    return folder_of_file(folder, "tokenizer_config.json")


def read_adapter(folder: Path, *, named: str) -> Adapter:
    """Raises ModelError for adapters of a kind that cannot be merged, or whose base is not on this machine."""
    path = folder / ADAPTER_CONFIG
    refuse_pointer(path, named)
    values = json_object(path, named)
    if reason := _why_not_merged(values):
        raise ModelError(
            f"model {named!r}: {folder} holds adapters {reason}, which are not merged here; merge them with peft "
            "(merge_and_unload), and give the folder that this makes"
        )
    refuse_not_kept(folder, named)
    refuse_link_to_nothing(folder / ADAPTER_WEIGHTS, named)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"model {named!r}: {folder} has {ADAPTER_CONFIG}, but no {ADAPTER_WEIGHTS}; fetch or save the adapters "
            "again"
        )
    refuse_pointer(folder / ADAPTER_WEIGHTS, named)
    return Adapter(
        folder=folder,
        base=_base(values, folder, named),
        rank=int(values["r"]),
        alpha=float(values.get("lora_alpha") or 8),
        scales_by_root=bool(values.get("use_rslora")),
    )


def base_named(folder: Path) -> tuple[str, str | None]:
    """How adapters name the model in a folder, their base: by hub id and commit where it is in the hub's cache, else by
    path."""
    return hub_id(folder) or (str(folder), None)


def _base(values: Mapping[str, Any], folder: Path, named: str) -> Path:
    name, revision = values.get("base_model_name_or_path"), values.get("revision")
    base = local_folder(name, revision if isinstance(revision, str) else None) if isinstance(name, str) else None
    if base is None:
        raise ModelError(
            f"model {named!r}: {folder} holds adapters for the model {name or 'that their author names'}"
            + (f" (revision {revision})" if revision else "")
            + ", which is neither a folder here nor in the hub's cache; fetch it, or correct base_model_name_or_path "
            f"in {folder / ADAPTER_CONFIG}"
        )
    return base


def _why_not_merged(values: Mapping[str, Any]) -> str:
    """What adapters are or have that is not merged here; empty for LoRA as it is trained here."""
    kind, rank, start = values.get("peft_type", "LORA"), values.get("r"), values.get("init_lora_weights")
    if kind != "LORA":
        return f"of the kind {kind}"
    if not isinstance(rank, int) or rank < 1:
        return f"of rank {rank!r}"
    if start not in STARTS_FROM_THE_BASE:
        return f"with init_lora_weights = {start!r}"
    unset: tuple[Any, ...] = (None, False, "none", [], {})
    others = [key for key in sorted(values.keys() - READ - WITHOUT_EFFECT) if values[key] not in unset]
    return f"with {others[0]} = {str(values[others[0]])[:80]}" if others else ""

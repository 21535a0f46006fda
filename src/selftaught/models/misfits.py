"""How a model's files do not fit its config, and the most likely cause, as a message: names only, no tensors."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LISTED = 3
ADAPTER_MARKS = ("lora_", ".base_layer.", "base_model.model.", "modules_to_save")
QUANTISED_ENDS = (
    ".qweight", ".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_scale_inv", ".weight_packed", ".absmax",
    ".quant_map", ".SCB", ".input_scale", "_scale_inv", "_blocks", "_scales",
)  # fmt: skip
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")


@dataclass(frozen=True, slots=True)
class Misfits:
    """Names of tensors, in natural order."""

    missing: tuple[str, ...]
    """The config asks for them, and no file has them."""
    unexpected: tuple[str, ...]
    """A file has them, and the config knows no place for them."""
    of_other_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """(name, shape in the file, shape by the config)."""


def misfit_text(misfits: Misfits, *, is_tied: bool) -> str:
    """One line: the first few names of each kind with their number, the likely cause, the next step."""
    parts = []
    if misfits.missing:
        parts.append(f"{_number(misfits.missing)} missing ({_first(misfits.missing)})")
    if misfits.unexpected:
        parts.append(f"{_number(misfits.unexpected)} that config.json has no place for ({_first(misfits.unexpected)})")
    if misfits.of_other_shape:
        shapes = [
            f"{name}: {list(in_file)} in the file, {list(by_config)} by config.json"
            for name, in_file, by_config in misfits.of_other_shape
        ]
        parts.append(f"{_number(shapes)} of another shape ({_first(shapes)})")
    return f"its weights are not those of its config.json: {'; '.join(parts)}. {_cause(misfits, is_tied=is_tied)}"


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 10 behind layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _cause(misfits: Misfits, *, is_tied: bool) -> str:
    unexpected, missing = misfits.unexpected, misfits.missing
    if any(mark in name for name in unexpected for mark in ADAPTER_MARKS):
        return (
            "The names are those of a PEFT adapter or of a model inside one: merge it with peft "
            "(merge_and_unload()), save the merged model and give that folder"
        )
    if any(name.endswith(QUANTISED_ENDS) for name in unexpected):
        return "The weights are quantised: give the model in bfloat16, float16 or float32"
    if missing and (prefix := _prefix(missing, unexpected)):
        return f"Every name begins with {prefix!r}, as of a wrapped model: save the model inside the wrapper"
    if not unexpected and not misfits.of_other_shape and set(missing) <= set(HEADS) and not is_tied:
        return (
            "The file has no output layer: set tie_word_embeddings to true in config.json if the model uses its "
            "embedding for that, else save the complete model again"
        )
    if layers := _layers(missing, unexpected):
        return layers
    if misfits.of_other_shape and not missing and not unexpected:
        return "A number in config.json is not that of these weights: restore the config.json that belongs to them"
    return "Fetch or save the model again, or restore the config.json that belongs to these weights"


def _prefix(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """The prefix with which every missing name is among the unexpected ones; "" if there is none."""
    names = set(unexpected)
    prefixes = {name[: -len(missing[0])] for name in unexpected if name.endswith(missing[0])}
    return next((p for p in sorted(prefixes) if p and all(p + name in names for name in missing)), "")


def _layers(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """More or fewer layers in the file than the config has."""
    names, what = (unexpected, "more") if unexpected else (missing, "fewer")
    if (missing and unexpected) or not names:
        return ""
    numbers = [int(match.group(1)) if (match := LAYER.search(name)) else -1 for name in names]
    per_layer = len(numbers) / len(set(numbers))
    if -1 in numbers or per_layer < 4:  # where few tensors of a layer are concerned, the cause is another one
        return ""
    return (
        f"The file has {what} layers than config.json: restore the config.json that belongs to these weights, or fetch "
        "or save the model again"
    )


def _number(names: Sequence[object]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")

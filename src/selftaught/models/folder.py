"""Check a model folder by its small files, before anything is loaded and without torch.

`weights.py` finds the folder; `loading.py` compares its tensors with its config and loads them.
"""

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftaught.machine.paths import LFS_POINTER
from selftaught.records.errors import ModelError, one_line

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_PARTS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "merges.txt")
"""The files of a tokenizer without tokenizer.json."""
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
CHAT_TEMPLATE = "chat_template.jinja"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SMALL_SETTINGS = ("generation_config.json", *TOKENIZER_SETTINGS[:-1])
"""Those that this check reads; tokenizer.json and vocab.json have megabytes."""


def check_folder(folder: Path, *, named: str) -> None:
    """Raise ModelError if a folder holds no complete model that can be loaded and trained, as far as its small files
    show. Of adapters, the folder of their base is checked (`adapters.base_folder`)."""
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"model {named!r} has no config.json in {folder}{_instead_of_config(folder, named)}")
    for path in _read_files(folder):
        refuse_link_to_nothing(path, named)
        refuse_pointer(path, named)
    for name in SMALL_SETTINGS:
        if (folder / name).is_file():
            json_object(folder / name, named)
    values = json_object(config, named)
    if (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"model {named!r}: {folder} holds a model and an adapter for it ({ADAPTER_CONFIG}); merge the adapter "
            "into the model, or move its two files away"
        )
    if quantised := _quantisation(values):
        raise ModelError(
            f"model {named!r} is quantised ({quantised}, by its config.json) and cannot be trained; give the model "
            "it was made from, in bfloat16, float16 or float32"
        )


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer in a folder has a chat template, by its small files."""
    return (folder / CHAT_TEMPLATE).is_file() or bool(_template_in_config(folder))


def has_thinking_switch(folder: Path) -> bool:
    """Whether the chat template in a folder asks for `enable_thinking`, by its small files."""
    path = folder / CHAT_TEMPLATE
    text = path.read_text(encoding="utf-8") if path.is_file() else json.dumps(_template_in_config(folder))
    return "enable_thinking" in text


def _template_in_config(folder: Path) -> object:
    path = folder / "tokenizer_config.json"
    return json_object(path, str(folder)).get("chat_template") if path.is_file() else None


def weight_files(folder: Path, *, named: str) -> tuple[Path, ...]:
    """The files that a model's weights are read from. Raises ModelError if that is ambiguous or if one is missing."""
    refuse_not_kept(folder, named)
    single, index = folder / WEIGHTS, folder / INDEX
    if not index.is_file():
        files = [path for path in (single,) if _exists(path, named)]
        if not files:
            raise ModelError(_no_weights(folder, named))
    else:
        places = json_object(index, named).get("weight_map")
        if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
            raise ModelError(f"model {named!r}: {index} has no weight_map; fetch or save the model again")
        names = sorted(set(places.values()))
        if single.exists() and names != [WEIGHTS]:
            raise ModelError(
                f"model {named!r} has its weights twice, in {WEIGHTS} and in the files of {INDEX} ({names[0]}, …); "
                "programs differ in which they read: move the one or the other away"
            )
        files = [folder / name for name in names]
        if missing := [path.name for path in files if not _exists(path, named)]:
            raise ModelError(
                f"model {named!r}: {len(missing)} of the {len(files)} weight files that {INDEX} names are not in "
                f"{folder} (first {missing[0]}); fetch the model again"
            )
    for path in files:
        refuse_pointer(path, named)
    return tuple(files)


def refuse_not_kept(folder: Path, named: str) -> None:
    """Raise ModelError for the folder of an iteration whose run has deleted its weights."""
    record = folder / "checkpoint.json"
    if record.is_file() and json_object(record, named).get("weights_kept") is False:
        raise ModelError(
            f"model {named!r}: the weights of this iteration were not kept, because it is neither the best one of its "
            'run on dev nor the last; take one of those, or start a run with training.keep_weights = "all"'
        )


def incomplete(file: Path, error: Exception, *, named: str) -> ModelError:
    """The error for a file of weights whose header cannot be read."""
    return ModelError(
        f"model {named} cannot be loaded: {file} is not a complete safetensors file ({one_line(error)}); fetch or save "
        "the model again"
    )


def what_file_it_is(path: Path) -> str:
    """Why a file is no model folder, and what to give instead."""
    if path.suffix == ".gguf":
        return "a GGUF file, the format of llama.cpp; " + _unpack(path)
    return f"a file; give the folder that holds the model, such as {path.parent}"


def no_tokenizer(folder: Path, error: Exception) -> str:
    """The end of a message that begins with "its tokenizer": what is missing or broken, and the next step."""
    if "trust_remote_code" in str(error):
        return "has code of its own; set model.trust_remote_code = true if you trust it"
    if (folder / TOKENIZER).is_file():
        for name in (TOKENIZER, *TOKENIZER_SETTINGS):
            if (folder / name).is_file():
                json_object(folder / name, str(folder))
        reason = f"cannot be loaded from {folder / TOKENIZER} ({type(error).__name__}: {one_line(error)})"
    elif any((folder / name).is_file() for name in (*TOKENIZER_PARTS, "vocab.json")):
        reason = f"cannot be loaded ({one_line(error)})"
    else:
        reason = f"is not there: {folder} has no {TOKENIZER}, nor one of {', '.join(TOKENIZER_PARTS)}"
    return (
        f"{reason}; fetch the model's tokenizer files again, or save them there with tokenizer.save_pretrained(folder)"
    )


def _exists(path: Path, named: str) -> bool:
    """Whether a file exists. Raises ModelError for a link to a file that does not."""
    refuse_link_to_nothing(path, named)
    return path.is_file()


def refuse_link_to_nothing(path: Path, named: str) -> None:
    """Raise ModelError for a link to a file that does not exist."""
    if path.is_symlink() and not path.exists():
        raise ModelError(
            f"model {named!r}: {path} is a link to {path.readlink()}, which is not there; fetch the model again"
        )


def _read_files(folder: Path) -> list[Path]:
    """The small files that a model and its tokenizer are read from."""
    parts = () if (folder / TOKENIZER).is_file() else TOKENIZER_PARTS
    return [
        path
        for path in (*sorted(folder.glob("*.json")), *(folder / name for name in parts))
        if path.is_file() or path.is_symlink()
    ]


def refuse_pointer(path: Path, named: str) -> None:
    """Raise ModelError for the few lines that Git LFS leaves in place of a file."""
    with open(path, "rb") as file:
        is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    if is_pointer:
        raise ModelError(
            f"model {named!r}: {path} is a Git LFS pointer, not the file itself; run `git lfs pull` in {path.parent}"
        )


def json_object(path: Path, named: str) -> dict[str, Any]:
    """The object in a JSON file of a model. Raises ModelError for what transformers could not read."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ModelError(
            f"model {named!r}: {path} begins with a byte order mark, which transformers does not read; save the file "
            "as UTF-8 without it"
        )
    try:
        values = json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        what = "empty" if not content.strip() else f"not JSON ({one_line(error)})"
        raise ModelError(f"model {named!r}: {path} is {what}; fetch or save the model again") from error
    if not isinstance(values, dict):
        raise ModelError(f"model {named!r}: {path} holds no JSON object; fetch or save the model again")
    return values


def _quantisation(config: Mapping[str, Any]) -> str:
    """How a config says that its weights are quantised; empty if it does not."""
    inner = [value for value in config.values() if isinstance(value, dict)]  # text_config and its like
    for values in (config, *inner):
        for key in ("quantization_config", "compression_config", "quantization"):
            if settings := values.get(key):
                return _method(settings) if isinstance(settings, dict) else str(settings)
    return ""


def _method(settings: Mapping[str, Any]) -> str:
    method = settings.get("quant_method") or settings.get("quant_algo")
    if method is None and any(str(key).startswith(("load_in_", "bnb_")) for key in settings):
        return "bitsandbytes"
    if method is None and "bits" in settings:
        return f"{settings['bits']} bits"
    return str(method or "a method without a name")


def _instead_of_config(folder: Path, named: str) -> str:
    """The end of the message "has no config.json": what the folder holds instead, and the next step."""
    if (folder / "config.json").is_symlink():
        return f": it is a link to {(folder / 'config.json').readlink()}, which is not there; fetch the model again"
    if files := sorted(folder.glob("*.gguf")):
        return f": it holds a GGUF file, the format of llama.cpp; {_unpack(files[0])}"
    if files := sorted([*folder.glob("*.pth"), *folder.glob("params.json")]):
        return f": it holds {files[0].name}, weights as their authors released them; give them in Hugging Face format"
    nested = sorted([*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")])
    if nested:
        return f"; {nested[0].parent} has one: give that folder"
    return "; give a folder in Hugging Face format"


def _no_weights(folder: Path, named: str) -> str:
    head = f"model {named!r} has no *.safetensors weights in {folder}"
    if others := sorted(folder.glob("*.safetensors")):
        return (
            f"model {named!r}: {folder} has {others[0].name}, but neither {WEIGHTS} nor {INDEX}, which says what is in "
            "which file; fetch or save the model again"
        )
    if files := sorted(folder.glob("*.gguf")):
        return f"{head}, but a GGUF file, the format of llama.cpp; {_unpack(files[0])}"
    pickled = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    what = f", but {pickled[0].name}" if pickled else ""
    return (
        f"{head}{what}; pickled weights are not read, because reading them can run code: save them as safetensors with "
        f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained('new folder'), the tokenizer likewise, "
        "if you trust them"
    )


def _unpack(path: Path) -> str:
    name = path.name
    return (
        "give the model it was made from, or unpack it with transformers, with what it loses by its 4 or 8 bits: "
        f"AutoModelForCausalLM.from_pretrained({str(path.parent)!r}, gguf_file={name!r}, "
        "quantization_config=GgufConfig(dequantize=True)).save_pretrained('unpacked'); "
        f"AutoTokenizer.from_pretrained({str(path.parent)!r}, gguf_file={name!r}).save_pretrained('unpacked')"
    )

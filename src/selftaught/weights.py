"""Find a model's files, without loading them: shipped models, folders, hub ids; and hash them."""

import hashlib
import json
import os
import re
from importlib import resources
from pathlib import Path

from selftaught.errors import ModelError
from selftaught.records import ModelRef

BUILTIN = {"builtin:adder": "adder"}


def resolve_model(path: str) -> ModelRef:
    """The base model that a config names, as a local folder with its hash.

    Raises ModelError if there is no such model, or if it has no safetensors weights (pickled ones are never read).
    """
    return model_in_folder(_folder(path), named=path)


def model_in_folder(folder: Path, *, named: str | None = None) -> ModelRef:
    """A model folder, checked to be readable as far as that is possible without loading it."""
    name = named or str(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"model {name!r} has no config.json in {folder}; give a folder in Hugging Face format")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"model {name!r}: {config} is not JSON ({error}); fetch or save the model again") from error
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model {name!r} has no *.safetensors weights in {folder}; save it with "
            "model.save_pretrained(folder) (pickled weights are not read)"
        )
    return ModelRef(path=str(folder), sha256=weights_sha256(folder))


def weights_sha256(folder: Path) -> str:
    """One hash over the safetensors files of a model folder, names and contents, in name order."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def expected_checkpoint_bytes(model: ModelRef) -> int:
    """Upper estimate of a checkpoint's size: twice the base's files, which are at least half precision."""
    return 2 * sum(path.stat().st_size for path in Path(model.path).glob("*.safetensors")) + (16 << 20)


def _folder(path: str) -> Path:
    if path in BUILTIN:
        return Path(str(resources.files("selftaught") / "builtin" / BUILTIN[path]))
    if path.startswith("builtin:"):
        raise ModelError(f"model {path!r}: the shipped models are {', '.join(BUILTIN)}")
    if os.path.isdir(path):
        return Path(path)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path) or len(path) > 200:
        raise ModelError(
            f"model {path[:200]!r}: no such folder; give a model folder, a hub id (owner/name) or builtin:adder"
        )
    return _from_hub(path)


def _from_hub(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(repo_id, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"model {repo_id!r} is neither a folder nor to be had from the hub ({type(error).__name__}); "
            "check the name and the network, or give the path of a folder that holds the model"
        ) from error

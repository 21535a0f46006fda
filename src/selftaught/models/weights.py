"""Find a model's files, without loading them: shipped models, folders, hub ids; and hash them."""

import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from selftaught.models.folder import check_folder, incomplete, weight_files, what_file_it_is
from selftaught.records.errors import ModelError
from selftaught.records.samples import ModelRef

BUILTIN = {"builtin:adder": "adder"}
SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
"""The files of a model on the hub that a first check fetches."""
ALL_FILES = ("*.safetensors", *SMALL_FILES)


def resolve_model(path: str) -> ModelRef:
    """The base model that a config names, as a local folder with its hash.

    Raises ModelError if there is no such model, or if it has no safetensors weights (pickled ones are never read).
    """
    return model_in_folder(_folder(path), named=path)


def check_model_path(path: str) -> Path:
    """The folder of the base model that a config names; of a model on the hub, its small files.

    Raises ModelError for what `resolve_model` would refuse, as far as that can be seen without reading weights: quick
    enough to be done before anything else is read.
    """
    is_on_hub = _is_hub_id(path) and not os.path.lexists(path)
    folder = _from_hub(path, SMALL_FILES) if is_on_hub else _folder(path)
    with _readable(path):
        check_folder(folder, named=path)
        if not is_on_hub:
            weight_files(folder, named=path)
    return folder


def model_in_folder(folder: Path, *, named: str | None = None) -> ModelRef:
    """The model in a folder. Raises ModelError if it cannot be read, as far as that can be seen without loading it."""
    name = named or str(folder)
    with _readable(name):
        check_folder(folder, named=name)
        weight_files(folder, named=name)
        return ModelRef(path=str(folder), sha256=weights_sha256(folder))


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"model {name!r} cannot be read: {error}; look at the folder's files and rights") from error


def weights_sha256(folder: Path) -> str:
    """One hash over the safetensors files of a model folder, names and contents, in name order."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.glob("*.safetensors") if path.is_file()):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def num_parameters(model: ModelRef) -> int | None:
    """How many numbers a model's files hold, by their headers alone; None for a folder without safetensors files.

    Raises ModelError for a file whose header cannot be read.
    """
    folder = Path(model.path)
    if not any(folder.glob("*.safetensors")):
        return None
    return sum(math.prod(shape) for shape in tensor_shapes(folder).values())


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in a model folder, by the headers of its files alone.

    Raises ModelError for a folder without safetensors files, or for a file whose header cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder, named=str(folder)):
        try:
            with safe_open(file, framework="np") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise incomplete(file, error, named=str(folder)) from error
    return shapes


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
    if os.path.isfile(path):
        raise ModelError(f"model {path!r} is {what_file_it_is(Path(path))}")
    if os.path.islink(path):
        raise ModelError(f"model {path!r} is a link to {os.readlink(path)}, which is not there; give another folder")
    if not _is_hub_id(path):
        raise ModelError(
            f"model {path[:200]!r}: no such folder; give a model folder, a hub id (owner/name) or builtin:adder"
        )
    return _from_hub(path, ALL_FILES)


def _is_hub_id(path: str) -> bool:
    return len(path) <= 200 and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path) is not None


def _from_hub(repo_id: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"model {repo_id!r} is neither a folder nor available from the hub ({type(error).__name__}); "
            "check the name and the network, or give the path of a folder that holds the model"
        ) from error

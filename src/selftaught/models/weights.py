"""Find a model's files, without loading them: shipped models, folders, hub ids; and hash them."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from selftaught.models.adapters import adapters_in, base_folder, is_adapter
from selftaught.models.folder import check_folder, incomplete, weight_files
from selftaught.models.places import SMALL_FILES, folder_named, from_hub, is_hub_id
from selftaught.records.errors import ModelError
from selftaught.records.samples import ModelRef


def resolve_model(path: str) -> ModelRef:
    """The base model that a config names, as a local folder with its hash.

    Raises ModelError if there is no such model, or if it has no safetensors weights (pickled ones are never read).
    """
    return model_in_folder(folder_named(path), named=path)


def check_model_path(path: str) -> Path:
    """The folder of the base model that a config names; of a model on the hub, its small files.

    Raises ModelError for what `resolve_model` would refuse, as far as that can be seen without reading weights: quick
    enough to be done before anything else is read.
    """
    is_on_hub = is_hub_id(path) and not os.path.lexists(path)
    folder = from_hub(path, SMALL_FILES) if is_on_hub else folder_named(path)
    if is_on_hub and is_adapter(folder):
        folder = folder_named(path)  # with their few weights; their base must be on this machine
    with _readable(path):
        base = base_folder(folder, named=path)
        check_folder(base, named=path if base == folder else str(base))
        if not is_on_hub:
            weight_files(base, named=path if base == folder else str(base))
    return folder


def model_in_folder(folder: Path, *, named: str | None = None) -> ModelRef:
    """The model in a folder. Raises ModelError if it cannot be read, as far as that can be seen without loading it."""
    name = named or str(folder)
    with _readable(name):
        base = base_folder(folder, named=name)
        check_folder(base, named=name if base == folder else str(base))
        weight_files(base, named=name if base == folder else str(base))
        return ModelRef(path=str(folder), sha256=weights_sha256(folder))


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"model {name!r} cannot be read: {error}; look at the folder's files and rights") from error


def weights_sha256(folder: Path) -> str:
    """One hash over the safetensors files of a model folder, names and contents, in name order.

    Of adapters it is over their scale and the hash of their base model besides: all that makes the merged weights.
    """
    files = _safetensors_in(folder)
    adapter = next(adapters_in(folder), None)
    if adapter is None:
        return _sha256_of(files)
    of_base = _sha256_by_time(str(adapter.base), *(path.stat().st_mtime_ns for path in _safetensors_in(adapter.base)))
    return hashlib.sha256(json.dumps([_sha256_of(files), adapter.scale, of_base]).encode()).hexdigest()


@cache
def _sha256_by_time(folder: str, *times: int) -> str:
    """Of a base model that many adapters are for, read once for these times of change (ns) of its files."""
    return weights_sha256(Path(folder))


def _safetensors_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.safetensors")) if path.is_file()]


def _sha256_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def num_parameters(model: ModelRef) -> int | None:
    """How many numbers a model's files hold, by their headers alone (of adapters, those of their base); None for a
    folder without safetensors files.

    Raises ModelError for a file whose header cannot be read.
    """
    folder = base_folder(Path(model.path))
    if not any(folder.glob("*.safetensors")):
        return None
    return sum(math.prod(shape) for shape in tensor_shapes(folder).values())


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in the folder of a complete model, by the headers of its files alone.

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

"""Write a model as a complete folder: for servers, which take no adapters, and for whom a run's model is given to."""

import gc
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selftaught.machine.memory import return_freed_memory
from selftaught.models.adapters import base_folder, folder_of_file, is_adapter
from selftaught.models.folder import weight_files
from selftaught.records.errors import StoreError

NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
"""Number types, as safetensors and as torch names them."""


def write_merged(folder: Path, out_dir: Path, *, dtype: str | None = None, trust_remote_code: bool = False) -> None:
    """Write the model in `folder`, with its adapters merged into their base, to the new folder `out_dir`: safetensors,
    config, tokenizer and generation config. Deterministic, and the weights that an engine gets which loads `folder`.

    `dtype` is a number type as torch names it; None is that of the base model's files. Needs the memory of the model in
    that type. Raises ModelError for a model that cannot be loaded, StoreError if there is no room.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import GenerationConfig

    from selftaught.models.loading import load_model
    from selftaught.models.tokens import Codec

    number_type = getattr(torch, dtype or stored_as(base_folder(folder)))
    model = load_model(str(folder), dtype=number_type, trust_remote_code=trust_remote_code)
    unfinished = out_dir.with_name(out_dir.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    generation = folder_of_file(folder, "generation_config.json")
    if (generation / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(generation)
    try:
        unfinished.mkdir(parents=True)
        model.save_pretrained(unfinished)
        Codec(str(folder), trust_remote_code=trust_remote_code).tokenizer.save_pretrained(unfinished)
        os.replace(unfinished, out_dir)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise StoreError(f"cannot write the model to {out_dir}: {error}; free some space and run it again") from error
    del model
    gc.collect()
    return_freed_memory()


@contextmanager
def complete_folder(
    folder: Path, *, within: Path | None, dtype: str, trust_remote_code: bool = False
) -> Iterator[Path]:
    """The folder of a complete model: the one given, or for adapters a new one in `within` (None is a temporary folder
    of the system), which is removed at the end, together with what a run that was killed has left there."""
    if not is_adapter(folder):
        yield folder
        return
    parent = within or Path(tempfile.mkdtemp(prefix="selftaught-served-"))
    shutil.rmtree(parent, ignore_errors=True)
    try:
        write_merged(folder, parent / folder.name, dtype=dtype, trust_remote_code=trust_remote_code)
        yield parent / folder.name
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def stored_as(folder: Path) -> str:
    """The number type of most numbers of a complete model's files, as torch names it."""
    from safetensors import safe_open

    numbers: Counter[str] = Counter()
    for path in weight_files(folder, named=str(folder)):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                view = file.get_slice(name)
                numbers[view.get_dtype()] += math.prod(view.get_shape())
    return NAMES[max(numbers, key=lambda kind: numbers[kind])]

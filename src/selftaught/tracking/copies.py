"""The files that a tracker gets a copy of, as they go out: none of them says where on this machine something is."""

import json
from collections.abc import Mapping
from pathlib import Path

from selftaught.tracking.folder import without_places

OF_THE_RUN = "checkpoint.json"
"""What a run keeps beside a model: the place of the weights that it started from, and texts of samples."""
WITH_PLACES = ("adapter_config.json", "config.json", "tokenizer_config.json")
"""Files of a model that may name the folder of its base."""


def files_to_send(path: Path, scratch: Path) -> Mapping[str, Path]:
    """Name -> file, of a file or of a folder with a model. What would name a place is written anew to `scratch`."""
    if path.is_file():
        return {path.name: path}
    files = {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.is_file()}
    files.pop(OF_THE_RUN, None)
    for name in WITH_PLACES:
        if name in files and (text := _without_places(files[name])) is not None:
            (scratch / name).write_text(text, encoding="utf-8")
            files[name] = scratch / name
    return files


def _without_places(file: Path) -> str | None:
    """A JSON file's text with the last part of each path; None if it has none."""
    values = json.loads(file.read_text(encoding="utf-8"))
    names = [key for key in values if key.endswith(("path", "file"))]
    changed = {**values, **{key: without_places(key, values[key]) for key in names}}
    return None if changed == values else json.dumps(changed, indent=2, ensure_ascii=False) + "\n"

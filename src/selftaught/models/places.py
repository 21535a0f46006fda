"""Where the name of a model leads: to a shipped model, a folder, or the hub and its cache on this machine."""

import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from selftaught.models.folder import what_file_it_is
from selftaught.records.errors import ModelError

BUILTIN = {"builtin:adder": "adder"}
SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
"""The files of a model on the hub that a first check fetches."""
ALL_FILES = ("*.safetensors", *SMALL_FILES)


def folder_named(path: str) -> Path:
    """The folder of a name that a user gives; a model on the hub is fetched. Raises ModelError if there is none."""
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
    if not is_hub_id(path):
        raise ModelError(
            f"model {path[:200]!r}: no such folder; give a model folder, a hub id (owner/name) or builtin:adder"
        )
    return from_hub(path, ALL_FILES)


def local_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a name, if it is on this machine; of a hub id, what the cache has of that revision."""
    if name in BUILTIN or os.path.isdir(name):
        return folder_named(name)
    if not is_hub_id(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(ALL_FILES), local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None


def hub_id(folder: Path) -> tuple[str, str | None] | None:
    """The name, other than its path, that leads to a folder from anywhere: that of a shipped model, or hub id and
    commit of a folder in the hub's cache."""
    for name in BUILTIN:
        if folder_named(name) == folder:
            return name, None
    cached = re.fullmatch(r"models--([^/]+?)--([^/]+)", folder.parent.parent.name)
    if folder.parent.name == "snapshots" and cached:
        return f"{cached[1]}/{cached[2]}", folder.name
    return None


def folder_of(path: str, name: tuple[str, str | None] | None) -> str:
    """The folder of a model that has this path on another machine, and the name that `hub_id` gave there.

    Raises ModelError if this machine has neither.
    """
    if os.path.isdir(path) or name is None:
        return path
    folder = local_folder(*name)
    if folder is None:
        at = f" at commit {name[1]}" if name[1] else ""
        raise ModelError(
            f"model {path!r}: this machine sees no such folder, and has no {name[0]}{at} in the hub's cache; fetch it "
            "here, or give the path of a folder that all machines see"
        )
    return str(folder)


def is_hub_id(path: str) -> bool:
    return len(path) <= 200 and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path) is not None


def from_hub(repo_id: str, patterns: Sequence[str]) -> Path:
    """The folder of the hub's cache with the files of a model that match, fetched if they are not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"model {repo_id!r} is neither a folder nor available from the hub ({type(error).__name__}); "
            "check the name and the network, or give the path of a folder that holds the model"
        ) from error

"""Paths as people give them: `~` is a home, an empty path is a mistake, and a link may lead nowhere."""

import os
import sys
from pathlib import Path

from selftaught.machine.command_lines import command
from selftaught.records.errors import ConfigError


def given_path(text: str, what: str) -> Path:
    """The path that an argument gives. Raises ConfigError for an empty one: it would mean the current folder."""
    return Path(given_name(text, what))


def given_name(text: str, what: str) -> str:
    """The same for what may also be a name (of a task, of a model on the hub): only a path can begin with `~`."""
    if not text.strip():
        raise ConfigError(f"{what} is {text!r}, expected a path or a name; give one (the current folder is `.`)")
    return with_home(text, what)


def with_home(text: str, what: str) -> str:
    """A path with the home that `~` or `~user` stands for.

    A file such as `~draft.csv` keeps its name if it exists. Raises ConfigError for the home of an unknown user: the
    path would become a folder of that name.
    """
    first = text.partition(os.sep)[0]
    if not first.startswith("~") or (first != "~" and os.path.lexists(first)):
        return text
    path = os.path.expanduser(text)
    if not os.path.isabs(path):
        raise ConfigError(
            f"{what} = {text!r}: no home is known for {first!r}; give the path in full, or ./{text} for a name that "
            "begins with ~"
        )
    return path


def refuse_other_encodings(path: str, what: str) -> None:
    """Raise ConfigError for a path that is not UTF-8 on disk: the libraries that save models take no other."""
    if os.fsencode(path) != path.encode("utf-8", "replace"):
        raise ConfigError(
            f"{what} = {path!r}: not UTF-8 with the file names of this locale ({sys.getfilesystemencoding()}), which "
            "the libraries that save models need; use another name, or set the environment variable PYTHONUTF8=1"
        )


LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The beginning of the small file that Git LFS keeps in place of a large one."""


def link_to_nothing(path: Path) -> str:
    """The part of a message that names a symbolic link at or above a path whose target does not exist; else ""."""
    for place in (path, *path.parents):
        if os.path.islink(place) and not os.path.exists(place):
            return f"{place} is a symbolic link to {os.readlink(place)}, which is not there"
    return ""


def what_is_there_of_a_run(run_dir: Path) -> str:
    """The end of the message "is not a run folder": what the path is instead, and the next step."""
    if link := link_to_nothing(run_dir):
        return f": {link}; restore the folder or correct the link"
    above = [*run_dir.parents, *Path(os.path.abspath(run_dir)).parents]
    if run := next((place for place in above if os.path.isfile(place / "run.json")), None):
        return f", but something of the run {run}: give that folder"
    if os.path.isfile(run_dir):
        return ", but a file; give the folder of a run"
    if os.path.isdir(run_dir) and (inside := sorted(run_dir.glob("*/run.json"))):
        return f", but holds {len(inside)} of them: give one, such as {inside[0].parent}"
    return f" (no run.json); start one with `{command('run', 'TASK', '--run-dir', run_dir)}`"

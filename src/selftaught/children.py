"""Python processes of our own: they import what this process would, and nothing that merely lies in a user's folder.

`python -m` and `python script.py` look into the current folder, or the script's, before the standard library, so that
a `logging.py` there is run in its place. Our processes look there last.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

_HOLDS_US = os.path.realpath(Path(__file__).parent.parent)


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line of a module of ours in a process of its own, to be run in `environment()`."""
    return [sys.executable, "-P", "-m", module, *arguments]  # -P: not the current folder first


def environment() -> dict[str, str]:
    """This process's environment, with what it imports from before the users' folders."""
    first = [path for path in _search_path() if not _comes_last(path)]
    if _HOLDS_US not in map(os.path.realpath, first):
        first.append(_HOLDS_US)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(first)}


def last_folders() -> list[str]:
    """The users' folders that this process imports from, for the end of the other's `sys.path`.

    Not in its PYTHONPATH, since a `sitecustomize.py` is run from anywhere on that.
    """
    return [path for path in _search_path() if _comes_last(path)]


def current_folder() -> list[str]:
    """The current folder, if it is still there."""
    try:
        return [os.getcwd()]
    except FileNotFoundError:
        return []


def _search_path() -> list[str]:
    here = current_folder()
    if not here:  # then a relative path leads nowhere either
        return [path for path in sys.path if os.path.isabs(path)]
    return [os.path.join(here[0], path).rstrip(os.sep) or os.sep for path in sys.path]


def _comes_last(path: str) -> bool:
    """Whether it is the current folder, the script's, or a folder that PYTHONPATH cannot name."""
    place = os.path.realpath(path)
    script = getattr(sys.modules["__main__"], "__file__", None)
    users: Sequence[str] = [*current_folder(), *([os.path.dirname(os.path.abspath(script))] if script else [])]
    return (place in map(os.path.realpath, users) and place != _HOLDS_US) or os.pathsep in path

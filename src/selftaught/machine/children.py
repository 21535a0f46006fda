"""Start Python processes of this package that import the same modules as this process, and none of a user's folder.

`python -m` and `python script.py` search the current folder, or the script's, before the standard library, so that a
`logging.py` there replaces Python's own. The processes of this package search these folders last.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGE_PARENT = os.path.realpath(Path(__file__).parents[2])


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this package in a process of its own, for use with `environment()`."""
    return [sys.executable, "-P", "-m", module, *arguments]  # -P: do not search the current folder first


def environment() -> dict[str, str]:
    """This process's environment, with PYTHONPATH set to the folders that it imports from, without the user's."""
    first = [path for path in _search_path() if not _comes_last(path)]
    if _PACKAGE_PARENT not in map(os.path.realpath, first):
        first.append(_PACKAGE_PARENT)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(first)}


def last_folders() -> list[str]:
    """The user's folders that this process imports from, for the end of the new process's `sys.path`.

    They must not stand in its PYTHONPATH: Python runs a `sitecustomize.py` from any folder there.
    """
    return [path for path in _search_path() if _comes_last(path)]


def current_folder() -> list[str]:
    """The current folder, if it still exists."""
    try:
        return [os.getcwd()]
    except FileNotFoundError:
        return []


def _search_path() -> list[str]:
    here = current_folder()
    if not here:  # without it, relative paths lead nowhere
        return [path for path in sys.path if os.path.isabs(path)]
    return [os.path.join(here[0], path).rstrip(os.sep) or os.sep for path in sys.path]


def _comes_last(path: str) -> bool:
    """Whether it is the current folder, the script's, or a folder that PYTHONPATH cannot name."""
    place = os.path.realpath(path)
    script = getattr(sys.modules["__main__"], "__file__", None)
    of_user: Sequence[str] = [*current_folder(), *([os.path.dirname(os.path.abspath(script))] if script else [])]
    return (place in map(os.path.realpath, of_user) and place != _PACKAGE_PARENT) or os.pathsep in path

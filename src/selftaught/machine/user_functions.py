"""Functions of the user, by the names that settings give them: `module:name` or `file.py:name`.

They are imported into the process that calls this, so what the file or module does when it is imported is done here.
"""

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from selftaught.machine.paths import with_home
from selftaught.records.errors import one_line

_NOT_OF_USER = (
    "<frozen",
    f"{Path(__file__).parents[1]}{os.sep}",
    *(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)
"""How the files of this package, of Python and of installed libraries begin."""


def parts_of(function: str) -> tuple[str, str] | None:
    """The module or file and the name in it; None for a text of another form."""
    where, _, name = function.rpartition(":")
    return (where, name) if where and name.isidentifier() else None


def with_home_of(function: str, what: str) -> str:
    """`~/file.py:name` with the home in full. Raises ConfigError for an unknown user's home."""
    where, colon, name = function.rpartition(":")
    return f"{with_home(where, what)}{colon}{name}"


def with_absolute_file(function: str) -> str:
    """`file.py:name` with the absolute path of a file that exists; any other text unchanged."""
    where, colon, name = function.rpartition(":")
    return f"{os.path.abspath(where)}{colon}{name}" if os.path.isfile(where) else function


def folder_beside(where: str) -> list[str]:
    """The folder of a file, whose modules it imports; empty for a module.

    It belongs at the end of `sys.path`, or a `logging.py` of the user would replace Python's own.
    """
    return [os.path.dirname(os.path.abspath(where))] if where.endswith(".py") else []


def module_of(where: str) -> ModuleType:
    """The module, or the file as a module, whatever the file is called. Raises whatever the import raises."""
    return _file_as_module(where) if where.endswith(".py") else importlib.import_module(where)


def function_in(module: ModuleType, function: str, *, expected: str) -> Callable[..., Any]:
    """The function that a name of the right form (`parts_of`) stands for, in the module that it names.

    Raises AttributeError if there is none, TypeError for what is no function; `expected` says what it should be of.
    """
    where, _, name = function.rpartition(":")
    if not hasattr(module, name):
        own = f"{where.replace('.', '/')}.py"
        way_out = f"; the file in this folder is {own}:{name}" if os.path.isfile(own) else ""
        raise AttributeError(f"{where} ({getattr(module, '__file__', 'built into Python')}) has no {name!r}{way_out}")
    found = getattr(module, name)
    if not callable(found):
        raise TypeError(f"{function} is {type(found).__name__}, expected a function of {expected}")
    return found  # type: ignore[no-any-return]


def what_was_raised(error: BaseException) -> str:
    """An exception of a user's code on one line: its type, its message, and the file and line of that code."""
    message = one_line(error)
    kind = type(error).__name__
    return f"{kind if message == kind else f'{kind}: {message}'} ({_place_of(error)})"


def _place_of(error: BaseException) -> str:
    """File and line of the last of the user's lines that were running, else of the last of all."""
    if isinstance(error, SyntaxError) and error.filename and os.path.isfile(error.filename):
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    of_user = [frame for frame in frames if not frame.filename.startswith(_NOT_OF_USER)]
    last = (of_user or frames)[-1]
    return f"{last.filename}:{last.lineno}"


def _file_as_module(where: str) -> ModuleType:
    """The module of a file, under a special name: as `json` or `re` it would replace Python's own module."""
    spec = importlib.util.spec_from_file_location(f"user_file_{Path(where).stem}", where)
    if spec is None or spec.loader is None:
        raise ImportError(f"{where} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

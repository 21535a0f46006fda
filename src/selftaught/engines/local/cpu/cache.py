"""Compiled kernels kept on disk, so that only the first process on a machine waits for the compiler.

numba's own cache cannot hold these kernels: it names an entry by what a function refers to, and an intrinsic is another
object in every process. Here an entry is named by all that decides the machine code: the kernel's parameters,
its argument types, the source of the kernels, versions and settings of numba and LLVM, and the processor. One entry is
one file, so that processes that compile at the same time cannot mix up their entries.
"""

import hashlib
import itertools
import os
import pickle
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import llvmlite
import numba
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

SOURCES = ("vectors.py", "attention.py", "fused.py", "likeliest.py", "cache.py")
"""Files of this folder that decide what a kernel computes."""
SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "USING_SVML")
"""Settings of numba that change machine code; NUMBA_* environment variables and other packages set them."""

# numba tells functions of one name and signature apart by a number that every process counts from 1. Here one process
# can load kernels that different processes compiled, and would link one kernel to the code of another.
FunctionIdentity._unique_ids = itertools.count(secrets.randbits(62))


def kept_on_disk(*parameters: object) -> Callable[[Any], Any]:
    """Decorator of a numba function: its machine code is kept under the function's name and these parameters.

    A cache that cannot be written or read only costs time. Entries are never removed; a user may delete the folder.
    """

    def set_cache(dispatcher: Any) -> Any:
        function = dispatcher.py_func
        dispatcher._cache = KernelCache(f"{function.__module__}.{function.__qualname__}{parameters!r}")
        return dispatcher

    return set_cache


def cache_dir() -> Path | None:
    """NUMBA_CACHE_DIR, or selftaught's folder in the user's cache; need not exist. None for a user without a home."""
    if folder := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(folder)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return caches / "selftaught" / "kernels" if caches.is_absolute() else None


class KernelCache(NullCache):  # type: ignore[misc]  # from a library without types
    """What numba calls before it compiles a function, and after."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for these argument types, or None if it has to be compiled."""
        target_context.refresh()
        try:
            path = self._path(sig, target_context.codegen())
            if path is None:
                return None
            entry = path.read_bytes()
        except OSError:
            return None
        digest, content = entry[:32], entry[32:]
        if hashlib.sha256(content).digest() != digest:
            return None  # damaged: it will be compiled and written again
        return CompileResult._rebuild(target_context, *pickle.loads(content))

    def save_overload(self, sig: Any, data: Any) -> None:
        if data.lifted or data.library.has_dynamic_globals:
            return  # it refers to objects of this process
        content = dumps(data._reduce())
        with suppress(OSError):  # no folder, no permission, no space: the next process compiles again
            path = self._path(sig, data.codegen)
            if path is None:
                return
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=path.parent, delete=False) as file:
                try:
                    file.write(hashlib.sha256(content).digest() + content)
                    file.close()
                    os.replace(file.name, path)
                except OSError:
                    os.unlink(file.name)
                    raise

    def _path(self, sig: Any, codegen: Any) -> Path | None:
        """Raises OSError if the sources cannot be read."""
        folder = cache_dir()
        settings = tuple(getattr(numba.config, name, None) for name in SETTINGS)
        key = repr((self._name, str(sig), codegen.magic_tuple(), settings, _build()))
        return folder / f"{hashlib.sha256(key.encode()).hexdigest()}.kernel" if folder else None


@cache
def _build() -> tuple[str, ...]:
    """Sources and versions that machine code depends on."""
    here = Path(__file__).parent
    source = hashlib.sha256(b"".join((here / name).read_bytes() for name in SOURCES)).hexdigest()
    return source, numba.__version__, llvmlite.__version__, sys.version

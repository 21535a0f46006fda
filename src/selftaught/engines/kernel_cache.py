"""Compiled kernels kept on disk, so that only the first process on a machine waits for the compiler.

numba's own cache cannot take these kernels: it names an entry by what a function closes over, and an intrinsic is
another object in every process. Here an entry is named by all that decides the machine code: the kernel's parameters,
its argument types, the source of the kernels, the versions of numba and LLVM, and the processor. One entry is one
file, so processes that compile at the same time cannot mix their entries up.
"""

import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import llvmlite
import numba
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

SOURCES = ("vectors.py", "kernels.py", "fused.py", "likeliest.py", "kernel_cache.py")
"""Files beside this one that decide what a kernel computes."""


def kept_on_disk(*parameters: object) -> Callable[[Any], Any]:
    """Decorator of a numba function: its machine code is kept under the function's name and these parameters.

    A cache that cannot be written or read costs time and nothing else.
    """

    def keep(dispatcher: Any) -> Any:
        dispatcher._cache = KernelCache(f"{dispatcher.py_func.__qualname__}{parameters!r}")
        return dispatcher

    return keep


def cache_dir() -> Path:
    """NUMBA_CACHE_DIR, or selftaught's folder in the user's cache; need not exist."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selftaught" / "kernels"


class KernelCache(NullCache):  # type: ignore[misc]  # from a library without types
    """What numba asks before it compiles, and tells afterwards."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for these argument types, or None if it has to be compiled."""
        target_context.refresh()
        path = self._path(sig, target_context.codegen())
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        digest, content = entry[:32], entry[32:]
        if hashlib.sha256(content).digest() != digest:
            return None  # damaged; it is compiled and written again
        return CompileResult._rebuild(target_context, *pickle.loads(content))

    def save_overload(self, sig: Any, data: Any) -> None:
        path = self._path(sig, data.codegen)
        content = dumps(data._reduce())
        with suppress(OSError):  # no such folder, no right to write, no space: the next process compiles again
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=path.parent, delete=False) as file:
                try:
                    file.write(hashlib.sha256(content).digest() + content)
                    file.close()
                    os.replace(file.name, path)
                except OSError:
                    os.unlink(file.name)
                    raise

    def _path(self, sig: Any, codegen: Any) -> Path:
        key = repr((self._name, str(sig), codegen.magic_tuple(), _build()))
        return cache_dir() / f"{hashlib.sha256(key.encode()).hexdigest()}.kernel"


@cache
def _build() -> tuple[str, ...]:
    """What machine code depends on beside the kernel, its types and the processor."""
    here = Path(__file__).parent
    source = hashlib.sha256(b"".join((here / name).read_bytes() for name in SOURCES)).hexdigest()
    return source, numba.__version__, llvmlite.__version__, sys.version

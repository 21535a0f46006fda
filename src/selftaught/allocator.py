"""When memory goes back to the system, and when Python looks for cycles.

A run's records refer to nothing that refers back to them; Python's collector would walk through all of them, again and
again, and find nothing.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def return_freed_memory() -> None:
    """Give what glibc holds free back to the system: a training that follows a generation needs it, and the reverse."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Within the block Python looks for cycles after 200,000 new objects, if at all.

    Whoever lets go of large things in cycles calls `gc.collect`.
    """
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(200_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def collecting_what_is_new() -> Iterator[None]:
    """Within the block Python looks for cycles among what was made in it: one look at all modules takes half a second.

    Whoever has set objects apart from the collector keeps them so.
    """
    is_free = gc.get_freeze_count() == 0
    if is_free:
        gc.freeze()
    try:
        yield
    finally:
        if is_free:
            gc.unfreeze()

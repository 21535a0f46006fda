"""Keep freed memory, and seldom look for what could be freed: both cost more in a run than the memory is worth.

Tensors of a few megabytes come and go by the thousand, and every return to the system costs. A run's records refer to
nothing that refers back to them; Python's collector walks through all of them, again and again, and finds nothing.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # from malloc.h


def keep_freed_memory() -> None:
    """Tell glibc to serve large blocks from a heap that it keeps, and PyTorch to ask for huge pages.

    Without it a training step spends more than a third of its time in page faults. Elsewhere than on Linux with
    glibc this does nothing. A value that the user has set in the environment stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by PyTorch at its first large allocation
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 64 << 20)


def return_freed_memory() -> None:
    """Give what is free now back to the system, for whoever needs it next; the setting above stays."""
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

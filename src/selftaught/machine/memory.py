"""Give freed memory back to the system."""

import ctypes
import sys


def return_freed_memory() -> None:
    """Return what glibc keeps of freed memory: the training after a generation needs it, and the reverse."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

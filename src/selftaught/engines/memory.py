"""How this process holds its memory while it draws on a CPU."""

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # names of options in glibc's malloc.h
_LARGEST = 32 << 20


def keep_freed_memory() -> None:
    """Let the C library keep what tensors give back, in place of handing it to the system and asking for it again.

    Every large result of an operation is new memory otherwise, and its first touch costs more than writing it. Only
    glibc has these options; elsewhere nothing happens.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 30)

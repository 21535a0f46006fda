"""Memory of this machine and of the run's processes: what is free, what is used, and freed memory given back."""

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

UNKNOWN_FREE_BYTES = 3 << 30
"""Taken as free where the system does not say."""
UNLIMITED = 1 << 60
"""From here on, a limit of a control group is none."""

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def return_freed_memory() -> None:
    """Return what glibc and torch keep of freed memory: the training after a generation needs it, and the reverse, also
    where the one is in another process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def free_memory_bytes(device: str) -> int:
    """Memory that a program may still take: of the GPU, or of the machine within the limits of its control groups."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    return min([_available_bytes(), *_left_in_groups()])


def used_memory_bytes(pids: Iterable[int] = ()) -> int | None:
    """Anonymous memory of these processes (of this one if none is given) in RAM and in swap; None without /proc.

    A process that has ended counts as nothing.
    """
    found = [used for pid in list(pids) or [os.getpid()] if (used := _anonymous_bytes(pid)) is not None]
    return sum(found) if found else None


class Peak:
    """The most memory that is seen whenever `look` is called; of a GPU, the most that was ever allocated."""

    def __init__(self, device: str, pids: Iterable[int] = ()) -> None:
        """`pids` are processes beside this one."""
        self._device, self._pids = device, [os.getpid(), *pids]
        self.bytes: int | None = None

    def look(self) -> None:
        if self._device == "cuda":
            import torch

            used: int | None = int(torch.cuda.max_memory_allocated())
        else:
            used = used_memory_bytes(self._pids)
        if used is not None:
            self.bytes = max(used, self.bytes or 0)


def _anonymous_bytes(pid: int) -> int | None:
    try:
        status = (_PROC / str(pid) / "status").read_text(encoding="utf-8")
    except (OSError, ValueError):  # there is no /proc, or the process has just ended
        return None
    values = _kib_values(status)
    return sum(values.get(name, 0) for name in ("RssAnon", "VmSwap")) if "RssAnon" in values else None


def _available_bytes() -> int:
    try:
        values = _kib_values((_PROC / "meminfo").read_text(encoding="utf-8"))
    except OSError:
        values = {}
    if "MemAvailable" in values:
        return values["MemAvailable"]
    names = ("SC_AVPHYS_PAGES", "SC_PAGE_SIZE")
    if all(name in os.sysconf_names for name in names):
        pages, size = map(os.sysconf, names)
        return pages * size
    return UNKNOWN_FREE_BYTES


def _kib_values(text: str) -> dict[str, int]:
    """The lines "Name: number kB" of a file in /proc, in bytes."""
    values = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            values[name] = int(words[0]) * 1024
    return values


def _left_in_groups() -> Iterator[int]:
    """What is left under each limit of the control groups that this process is in, versions 1 and 2 of the system."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            for top in (_GROUPS, _GROUPS / "unified"):
                yield from _left_above(top, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left_above(_GROUPS / "memory", path, *names)


def _left_above(top: Path, path: str, limit: str, usage: str, inactive: str) -> Iterator[int]:
    """What is left in a group and in those above it; cached files that the kernel would drop count as free."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for number in range(len(parts), -1, -1):
        folder = top.joinpath(*parts[:number])  # in a container, the group may be mounted as the top one
        allowed, used = _number_in(folder / limit), _number_in(folder / usage)
        if allowed is not None and used is not None and allowed < UNLIMITED:
            yield max(0, allowed - used + _line_in(folder / "memory.stat", inactive))


def _number_in(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit


def _line_in(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    values = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
    return int(values[0]) if values else 0

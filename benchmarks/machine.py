"""Where a figure was measured: device, versions, commit, and how fast this machine multiplies matrices."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
VERSIONS_OF = ("selftaught", "torch", "transformers", "trl", "accelerate", "datasets", "tokenizers")


def versions() -> dict[str, str]:
    result = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            result[name] = "not installed"
    return result


def commit() -> dict[str, str | bool | None]:
    """The commit checked out in this repository, and whether the working tree differs from it; None without git."""
    try:
        head = _git("rev-parse", "HEAD")
        return {"commit": head, "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def processor() -> str:
    """The processor's name and the number of CPUs that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux: the platform names it
    return f"{name}, {available_cpus()} CPUs"


def available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def description(
    *,
    device: str,
    threads: int,
    device_name: str,
    peak_before: Mapping[str, float],
    peak_after: Mapping[str, float],
) -> dict[str, object]:
    """What a record says of the machine; the peaks are in FLOP/s by number type."""
    return {
        "device": device,
        "device_name": device_name if device == "cuda" else processor(),
        "threads": threads,
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "versions": versions(),
        **commit(),
        "matmul_flops_per_s_before": {name: round(value) for name, value in peak_before.items()},
        "matmul_flops_per_s_after": {name: round(value) for name, value in peak_after.items()},
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()

"""What every rival's process does: read a job, run it, and write its result, time and memory.

Imports the standard library and psutil only, since one of the rivals runs in another interpreter.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

Job = dict[str, Any]
"""What a rival must do; made by the benchmark, read from JSON."""

HOPELESS = 8
"""If matrix products in bfloat16 are more than this many times slower than in float32, nothing is timed in it."""


def serve(run: Callable[[Job], dict[str, Any]]) -> None:
    """Entry point of a rival: `python -m benchmarks.rivals.NAME JOB.json RESULT.json`."""
    job_path, result_path = map(Path, sys.argv[1:3])
    result = run(json.loads(job_path.read_text(encoding="utf-8")))
    result_path.write_text(json.dumps(result), encoding="utf-8")


@dataclass(slots=True)
class Clock:
    """Measures a piece of work, and what else the machine did in that time. Use as a context manager."""

    seconds: float = 0.0
    load_before: float = 0.0
    """One-minute load average when the clock started."""
    load_after: float = 0.0
    own_cpus: float = 0.0
    """CPUs kept busy by this process and its children, mean over the window."""
    other_cpus: float = 0.0
    """CPUs kept busy by anything else, with the time that the host of a virtual machine took away."""
    _began: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), repr=False)

    def __enter__(self) -> "Clock":
        self.load_before = psutil.getloadavg()[0]
        synchronize()
        self._began = (_busy_seconds(), _own_seconds(), time.perf_counter())
        return self

    def __exit__(self, *_: object) -> None:
        synchronize()
        busy, own, began = self._began
        self.seconds = time.perf_counter() - began
        own_used = _own_seconds() - own
        self.own_cpus = own_used / self.seconds
        self.other_cpus = max(0.0, _busy_seconds() - busy - own_used) / self.seconds
        self.load_after = psutil.getloadavg()[0]

    def record(self) -> dict[str, float | int]:
        """The measurements for a result, with the highest memory of the process until now."""
        return {
            "seconds": round(self.seconds, 4),
            "load_before": round(self.load_before, 2),
            "load_after": round(self.load_after, 2),
            "own_cpus": round(self.own_cpus, 2),
            "other_cpus": round(self.other_cpus, 2),
            "peak_memory_bytes": peak_memory_bytes(),
            "gpu_peak_memory_bytes": _gpu_peak(),
        }


class Laps:
    """Seconds between one call and the next, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._began, 4)
        self._began = now

    def laps(self, seconds: Mapping[str, float]) -> None:
        """Laps since the last call, timed by others."""
        self.seconds |= {name: round(s, 4) for name, s in seconds.items()}
        self._began = time.perf_counter()


def generated(clock: Clock, completions: list[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    """The result of a generation: completions in the order of the prompts, each with `ids`, `text` and `tokens`."""
    return {**clock.record(), "completions": completions, **facts}


def work_of(
    encode: Callable[[str], list[int]],
    generations: Sequence[tuple[Sequence[str], Sequence[int]]],
    rows: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """The work of an iteration, in the numbers that the formulas of `flops` need.

    `generations` are (prompts, generated tokens of each), one for each group with its own shared prefix; `rows` are the
    (prompt, completion) pairs that were kept.
    """
    return {
        "generations": [
            {"prompts": [encode(prompt) for prompt in prompts], "generated_tokens": list(counts)}
            for prompts, counts in generations
        ],
        "row_tokens": [len(encode(prompt + completion)) + 1 for prompt, completion in rows],
        "loss_tokens": [len(encode(prompt + completion)) + 1 - len(encode(prompt)) for prompt, completion in rows],
    }


def synchronize() -> None:
    """Wait for a GPU that this process uses; nothing on a CPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_memory_bytes() -> int:
    """Sum of the highest resident memory of this process and its living children (shared pages count twice)."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    highest = [_high_water(process.pid) for process in processes]
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(own, sum(highest))


def _high_water(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0  # it has ended, or there is no /proc: the figure of this process counts
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def _gpu_peak() -> int:
    torch = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return int(torch.cuda.max_memory_allocated()) if torch is not None and used else 0


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))


def _own_seconds() -> float:
    total = sum(os.times()[:4])  # user and system, of this process and of its ended children
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return float(total)

"""What this machine offers: device, number type, threads, memory. Measured once, at a run's first start.

Batches, and with them the last bits of every sum, depend on these values; measuring them again on resume could change
a sample, so a run keeps them in run.json.
"""

import contextlib
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from selftaught.records.errors import ConfigError

SMALL_MODEL_BYTES = 64 << 20
MUCH_FASTER = 1.5
MUCH_SLOWER = 4
"""Factor of time behind which no further measurement can change the decision."""

Device = Literal["cpu", "cuda"]
NumberType = Literal["float32", "bfloat16"]
OrAuto = int | Literal["auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the processes of a run compute on and in."""

    device: Device
    dtype: NumberType
    """Of sampling and training."""
    threads: int
    """CPU threads of each process."""
    workers: int = 1
    """Processes, this one among them."""
    ranks: int = 1
    """Processes beside it that share every training step, each with the whole model: of several GPUs each has one."""
    weights_bytes: int = 0
    """Of the run's model in `dtype`, where something is sized by what its weights leave free; else 0."""

    @property
    def of_rank(self) -> "Machine":
        """What one of the ranks computes in: on a CPU, they share the threads."""
        return replace(self, threads=max(1, self.threads // self.ranks))


def resolve_machine(
    *,
    device: Device | Literal["auto"],
    dtype: NumberType | Literal["auto"],
    threads: OrAuto,
    workers: int,
    model: Path,
    sharing: int = 1,
) -> Machine:
    """The machine for a model's folder; `device`, `dtype` and `threads` may be "auto".

    On a CPU, `workers` processes share every call of the engine and every step; `sharing` is how many share the CPUs.

    Of several GPUs it is the first. Raises ConfigError for a device that is not there.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    if device == "cuda" and not has_gpu:
        raise ConfigError("compute.device = 'cuda', but torch sees no GPU here; use --set compute.device=cpu")
    workers = workers if device == "cpu" else 1
    threads = given_or(threads, max(1, available_cpus() // (max(workers, sharing) if device == "cpu" else 1)))
    if dtype == "auto":
        dtype = "bfloat16" if is_bfloat16_fast(device, threads, model) else "float32"
    return Machine(device=device, dtype=dtype, threads=threads, workers=workers)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; their number is torch's."""
    import torch

    number = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:number] if len(named) >= number else [str(i) for i in range(number)]


def gpu_line(device: Device) -> str:
    """What the user should know of the GPU that a run without workers takes; empty for none, and for the only one."""
    if device != "cuda":
        return ""
    import torch

    number = torch.cuda.device_count()
    if number < 2:
        return ""
    first = torch.cuda.get_device_name(0)
    return f"{number} GPUs are visible, and this run uses one: the first, {first}; CUDA_VISIBLE_DEVICES names another"


def hardware(device: Device) -> dict[str, str]:
    """What of this machine's hardware may decide the last bits of a number: equal machines say equal things.

    Raises ConfigError if the device is not there.
    """
    import torch

    if device == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return {"CPU": f"{_first_of('/proc/cpuinfo', 'model name') or platform.machine()} ({capability})"}
    if not torch.cuda.is_available():
        raise ConfigError("the run computes on a GPU, and torch sees none here; give every worker a GPU")
    driver = _first_of("/proc/driver/nvidia/version", "NVRM version") or "unknown"
    return {"GPU": torch.cuda.get_device_name(0), "driver": driver, "CUDA": str(torch.version.cuda)}


def _first_of(file: str, name: str) -> str | None:
    """The value of the first line `name: value` of a file of the system; None without such a line."""
    with contextlib.suppress(OSError):
        for line in Path(file).read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return " ".join(value.split())
    return None


def refuse_too_few_gpus(device: Device, ranks: int) -> None:
    """Raise ConfigError if there is not a GPU here for each rank of a training."""
    if device != "cuda":
        return
    import torch

    if (number := torch.cuda.device_count()) < ranks:
        raise ConfigError(
            f"cluster.train_workers = {ranks} needs as many GPUs, and torch sees {number} here; set it to {number} or "
            "less in a new run, or give cluster.address (docs/cluster.md)"
        )


def given_or(value: OrAuto, otherwise: int) -> int:
    """A number that is given, or what `auto` stands for."""
    return otherwise if isinstance(value, str) else value


def has_compiler() -> bool:
    """Whether numba, which compiles operations for a CPU, is installed: for a new Python it comes later than torch."""
    return find_spec("numba") is not None


def available_cpus() -> int:
    """CPUs that this process may use; sched_getaffinity is Linux only."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_bfloat16_fast(device: str, threads: int, model: Path) -> bool:
    """Whether the model's matrix products are much faster in bfloat16; measured on a CPU, where some have units for it.

    A model of a few megabytes is bound by other things than its products, and stays in float32.
    """
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if sum(path.stat().st_size for path in model.glob("*.safetensors")) <= SMALL_MODEL_BYTES:
        return False
    torch.set_num_threads(threads)
    operands = {
        name: (torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype))
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }

    def seconds_of(name: str) -> float:
        a, b = operands[name]
        began = time.perf_counter()
        a @ b
        return time.perf_counter() - began

    return bfloat16_is_faster(seconds_of)


def bfloat16_is_faster(seconds_of: Callable[[str], float]) -> bool:
    """Whether a product in bfloat16 takes much less than one in float32, by the best of ten of each.

    Without units for it a product takes a hundred times as long, so the second one can be the last.
    """
    single = min(seconds_of("float32") for _ in range(10))
    half = math.inf
    for attempt in range(10):
        half = min(half, seconds_of("bfloat16"))
        if attempt and half > MUCH_SLOWER * single:
            break
    return single > MUCH_FASTER * half

"""Not a rival: measures the rate of square matrix products, and reads the shape of the model."""

import time
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.child import HOPELESS, Job, serve, synchronize
from benchmarks.flops import shape_of

DTYPES = ("bfloat16", "float32")
PROBE = 256
"""Size of the product that decides whether bfloat16 is measured in full size."""


def run(job: Job) -> dict[str, Any]:
    """job: model, device, threads, sizes (of the square matrices), repeats.

    Where bfloat16 is hopeless its rate is that of the smallest product, since the others would take minutes.
    """
    torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    probed = {name: _rate(PROBE, getattr(torch, name), device, job["repeats"]) for name in DTYPES}
    is_hopeless = probed["bfloat16"] * HOPELESS < probed["float32"]
    sizes = {"float32": job["sizes"], "bfloat16": [PROBE] if is_hopeless else job["sizes"]}
    peak = {
        name: max(_rate(size, getattr(torch, name), device, job["repeats"]) for size in sizes[name]) for name in DTYPES
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"peak": peak, "device_name": name, "shape": asdict(shape_of(job["model"]))}


def _rate(size: int, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """Best FLOP/s of several products of two size x size matrices, after one that is not counted."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for attempt in range(repeats + 1):
        synchronize()
        began = time.perf_counter()
        left @ right
        synchronize()
        if attempt:
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    serve(run)

"""Add adapters to the weights that they were trained beside: the same bits in every process of the same machine.

The sum is made in float32, a tensor at a time, and rounded to bfloat16 at random (rounding.py) with a seed from the
adapters' own file: rounding to the nearest would lose most of a short training. Products take one thread, because
their last bits may depend on the number of threads.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.pytorch_utils import Conv1D

from selftaught.models.adapters import Adapter
from selftaught.models.folder import ADAPTER_CONFIG, incomplete
from selftaught.models.rounding import round_in_pieces
from selftaught.records.errors import ModelError

PREFIX, FACTORS = "base_model.model.", (".lora_A.weight", ".lora_B.weight")
"""PEFT's names: prefix, the module's name, factor."""


def check_adapter(adapter: Adapter, model: Any) -> None:
    """Raise ModelError unless every tensor of the adapters belongs to a linear layer of the model; reads no weight. The
    model may be an empty one."""
    with _opened(adapter) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    modules = dict(model.named_modules())
    for name in sorted(shapes):
        layer = next((name[len(PREFIX) : -len(end)] for end in FACTORS if name.endswith(end)), None)
        if layer is None or not name.startswith(PREFIX):
            raise _no_fit(adapter, f"{name} is no factor of an adapter of a linear layer")
        module = modules.get(layer)
        if not isinstance(module, torch.nn.Linear | Conv1D):
            raise _no_fit(adapter, f"it adapts {layer}, which is no linear layer of its base model")
        if f"{layer}.weight" in tied:
            raise _no_fit(adapter, f"it adapts {layer}, whose weight its base model shares with another layer")
        width_in, width_out = _widths(module)
        expected = (adapter.rank, width_in), (width_out, adapter.rank)
        found = tuple(shapes.get(f"{PREFIX}{layer}{factor}") for factor in FACTORS)
        if found != expected:
            raise _no_fit(
                adapter,
                f"the factors of {layer} are {found[0]} and {found[1]}, expected {expected[0]} and {expected[1]}",
            )
    if not shapes:
        raise _no_fit(adapter, f"{adapter.weights.name} is empty")


def _no_fit(adapter: Adapter, what: str) -> ModelError:
    return ModelError(
        f"model {adapter.folder}: {what}; give the base model that the adapters were trained on "
        f"(base_model_name_or_path in {ADAPTER_CONFIG}, now {adapter.base}), or fetch or save them again"
    )


@torch.no_grad()
def merge(adapter: Adapter, model: Any) -> None:
    """Add adapters to a loaded model on a CPU, in place and in its number type; `check_adapter` has passed.

    Needs the memory of about three copies of the largest linear layer in float32.
    """
    digest = hashlib.sha256(adapter.weights.read_bytes()).hexdigest()
    with _opened(adapter) as file, _one_thread():
        names = sorted(name.removesuffix(FACTORS[0]) for name in file.keys() if name.endswith(FACTORS[0]))  # noqa: SIM118
        for name in names:
            # Clones, because tensors of a file are not aligned, and a product's last bits may depend on that.
            a, b = (file.get_tensor(name + factor).float().clone() for factor in FACTORS)
            module = model.get_submodule(name.removeprefix(PREFIX))
            change = (b @ a).mul_(adapter.scale)
            total = (change.T if isinstance(module, Conv1D) else change) + module.weight  # float32 at least
            if module.weight.dtype == torch.bfloat16:
                seed = int.from_bytes(hashlib.sha256(f"{digest} {name}".encode()).digest()[:7])
                round_in_pieces(total, torch.Generator().manual_seed(seed))
            module.weight.data = total.to(module.weight.dtype)


def _widths(module: Any) -> tuple[int, int]:
    """In and out of a linear layer."""
    rows, columns = module.weight.shape
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


@contextmanager
def _opened(adapter: Adapter) -> Iterator[Any]:
    try:
        with safe_open(adapter.weights, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise incomplete(adapter.weights, error, named=str(adapter.folder)) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

"""Weights that are arranged once in the layout that the CPU's matrix products use.

Otherwise every product arranges the weight again, and with the few rows of a step that costs as much as the product
itself, or more. torch means these operations for its compiler, so their names are private, and a check looks for them.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

WORTH_PACKING = 1 << 18
"""Numbers of a float32 weight from which oneDNN's product is faster than torch's default."""


class PackedLinear(nn.Module):
    """A linear layer that cannot be trained; its weight is in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], ""))


def pack_linears(model: Any, *, rows: int) -> None:
    """Replace the linear layers of a model, for products with about so many rows, where this CPU and torch can.

    Afterwards the model can generate, but it can neither be trained nor saved.
    """
    if model.device.type != "cpu" or not _can_pack(model.dtype):
        return
    least = WORTH_PACKING if model.dtype == torch.float32 else 0
    with torch.no_grad():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and child.weight.numel() >= least:
                    setattr(parent, name, PackedLinear(child, rows))


def _can_pack(dtype: torch.dtype) -> bool:
    operations = torch.ops.mkldnn
    if not all(hasattr(operations, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return False
    if dtype == torch.bfloat16:  # slow on a processor without units for it, but a run may set it
        is_supported = getattr(operations, "_is_mkldnn_bf16_supported", None)
        return is_supported is not None and bool(is_supported())
    return dtype == torch.float32

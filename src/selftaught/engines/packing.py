"""Weights laid out once the way the CPU's bfloat16 matrix products want them.

oneDNN lays a weight out anew at every product otherwise; with the few rows of a drawing step that costs more than the
product itself. torch keeps the operations for this to its compiler, hence the private names; they are looked for.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear layer that cannot be trained; its weight is in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], ""))


def pack_linears(model: Any, *, rows: int) -> None:
    """Replace the linear layers of a bfloat16 model on the CPU, for products with about so many rows; else do nothing.

    The model can draw afterwards, but neither train nor be saved.
    """
    operations = torch.ops.mkldnn
    if (
        model.dtype != torch.bfloat16
        or model.device.type != "cpu"
        or not hasattr(operations, "_reorder_linear_weight")
        or not hasattr(operations, "_linear_pointwise")
        or not hasattr(operations, "_is_mkldnn_bf16_supported")
        or not operations._is_mkldnn_bf16_supported()  # bfloat16 is slow there, but a run may ask for it
    ):
        return
    with torch.no_grad():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, PackedLinear(child, rows))

"""How much of a training survives when its weights are rounded to bfloat16 to draw with them."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


def share_seen_in_bfloat16(model: Any, start_dir: Path) -> float | None:
    """Share of the update (its projection on itself) that is left after rounding old and new weights to bfloat16.

    1 is all of it. A step that is small against the spacing of bfloat16 (2^-8 of a weight) is rounded away where the
    old weights are on that grid already, as those of most released models are. None if no weight has moved.
    """
    new = dict(model.named_parameters())
    seen = whole = 0.0
    with torch.no_grad():
        for file in sorted(start_dir.glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys() & new.keys():
                    old, now = weights.get_tensor(name).float(), new[name].detach().cpu().float()
                    update = now - old
                    rounded = now.bfloat16().float() - old.bfloat16().float()
                    seen += float((rounded * update).sum(dtype=torch.float64))
                    whole += float((update * update).sum(dtype=torch.float64))
    return seen / whole if whole else None

"""Which models' attention may be exchanged for ours, by their config; drawing and training ask alike."""

from typing import Any

FIXED_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary positions that do not depend on how long the sequence is."""

LAYERS = frozenset({"full_attention", "sliding_attention"})


def why_not_exchanged(config: Any) -> str | None:
    """None, or why a model of this (text) config keeps its own attention; completes "since …"."""
    if other := sorted(set(getattr(config, "layer_types", None) or ()) - LAYERS):
        return f"it has layers of the kind {', '.join(other)}"
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        kind = parameters.get("rope_type", "default")
        if kind not in FIXED_ROPE:
            return f"its rotary positions ({kind}) depend on the length of the sequence"
    return None


def window_of(config: Any) -> int | None:
    """The sliding window of a model's layers, in tokens, or None."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    is_used = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return int(window) if window and is_used else None

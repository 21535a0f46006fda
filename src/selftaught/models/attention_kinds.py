"""Which models may run with our attention in place of their own, by their config; for generation and training."""

from typing import Any

FIXED_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rotary positions that do not depend on the length of the sequence."""

KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})


def why_not_exchanged(config: Any) -> str | None:
    """Why a model with this (text) config must keep its own attention, as the end of "since …"; None if it need not."""
    if other := sorted(set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS):
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

"""The shape of a model: the numbers that decide its memory, from its config.json and the headers of its files."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selftaught.models.adapters import base_folder
from selftaught.models.attention_kinds import why_not_exchanged, window_of
from selftaught.models.configuration import config_of
from selftaught.models.folder import weight_files
from selftaught.models.weights import tensor_shapes

Norm = Literal["rms", "rms-in-float32", "layer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of one model; all numbers are counts, not bytes."""

    parameters: int
    """Tied weights counted once."""
    largest: int
    """Numbers of the largest tensor."""
    vocabulary: int
    hidden: int
    layers: int
    inner: int
    """Width of the feed-forward layers that one token goes through."""
    queries: int
    """Width of all query heads together."""
    keys: int
    """Width of all key heads together; that of the values is the same."""
    heads: int
    gated: bool
    """Whether the feed-forward layers have a gate."""
    tied: bool
    """Whether the output layer is the embedding."""
    norm: Norm
    """`rms-in-float32` also multiplies by its weight in float32, as Gemma does."""
    norms_after: int
    """Norms of a layer whose result is added to the residual stream."""
    head_norms: bool
    """Whether queries and keys have norms of their own."""
    linear_widths: int
    """Sum of the widths in and out over all linear layers but the output layer: what adapters of rank 1 hold."""
    window: int | None
    """Tokens of a sliding window, if the model has one."""
    exchangeable: bool
    """Whether the model can run with our attention, as far as its config says."""
    context: int
    """Tokens of the longest sequence that it is built for."""
    file_bytes: int
    """Of its weights on disk."""


def shape_of(path: str, *, trust_remote_code: bool = False) -> Shape:
    """The shape of the model in a folder; of adapters, that of their base. Raises ModelError for a config or a header
    that cannot be read."""
    folder = base_folder(Path(path))
    tensors = tensor_shapes(folder)
    config = config_of(path, trust_remote_code=trust_remote_code).get_text_config()
    files = weight_files(folder, named=str(folder))
    return shape_from(config, tensors, file_bytes=sum(file.stat().st_size for file in files))


def shape_from(config: Any, tensors: Mapping[str, tuple[int, ...]], *, file_bytes: int) -> Shape:
    """The shape from a config of transformers and the names and shapes of the tensors."""
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or hidden // heads)
    is_tied = bool(getattr(config, "tie_word_embeddings", False))
    table = (int(config.vocab_size), hidden)
    tables = [name for name, shape in tensors.items() if tuple(shape) == table]
    numbers = {name: math.prod(shape) for name, shape in tensors.items()}
    in_first = [name for name in tensors if re.search(r"(^|\.)(layers|h|blocks)\.0\.", name)]
    linear = [shape for name, shape in tensors.items() if len(shape) == 2 and name not in tables]
    after = [
        name for name in in_first if re.search(r"post_(attention|feedforward|self_attn|mlp)_layernorm\.weight", name)
    ]
    before = [name for name in in_first if re.search(r"(input|pre_feedforward)_layernorm\.weight", name)]
    return Shape(
        parameters=sum(numbers.values()) - (numbers[tables[-1]] * (len(tables) - 1) if is_tied and tables else 0),
        largest=max(numbers.values()),
        vocabulary=table[0],
        hidden=hidden,
        layers=int(config.num_hidden_layers),
        inner=_inner(config, hidden),
        queries=heads * size,
        keys=int(getattr(config, "num_key_value_heads", None) or heads) * size,
        heads=heads,
        gated=any("gate_proj" in name or "gate_up" in name for name in tensors),
        tied=is_tied,
        norm=_norm(str(config.model_type), in_first),
        norms_after=len(after) if any("pre_feedforward" in name for name in before) else 0,
        head_norms=any(re.search(r"[qk]_norm\.weight", name) for name in in_first),
        linear_widths=sum(sum(shape) for shape in linear),
        window=window_of(config),
        exchangeable=why_not_exchanged(config) is None and getattr(config, "attn_logit_softcapping", None) is None,
        context=int(getattr(config, "max_position_embeddings", 0) or 1 << 30),
        file_bytes=file_bytes,
    )


def _inner(config: Any, hidden: int) -> int:
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    chosen = getattr(config, "num_experts_per_tok", None)
    return int((getattr(config, "moe_intermediate_size", None) or inner) * chosen if chosen else inner)


def _norm(model_type: str, in_first_layer: list[str]) -> Norm:
    if any(re.search(r"(norm|ln_[0-9])\w*\.bias$", name) for name in in_first_layer):
        return "layer"
    return "rms-in-float32" if model_type.startswith("gemma") else "rms"

"""Read a model's config.json as transformers does, and say in one line why it refuses one."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftaught.models.adapters import base_folder
from selftaught.models.causal import why_not_causal
from selftaught.models.folder import json_object
from selftaught.records.errors import ModelError, one_line

TRIALS_S = 10.0
"""Limit on the search for the number that makes a config unusable."""


def config_of(path: str, *, trust_remote_code: bool = False) -> Any:
    """The config of a causal language model of text; of adapters, that of their base.

    Raises ModelError for any other kind of model, and for one that needs code of its own without `trust_remote_code`.
    """
    import transformers
    from transformers import CONFIG_MAPPING, AutoConfig

    path = str(base_folder(Path(path)))
    values = json_object(Path(path) / "config.json", path)
    model_type, own_code = values.get("model_type"), values.get("auto_map")
    runs_own_code = bool(own_code) and trust_remote_code
    if not runs_own_code and (not isinstance(model_type, str) or model_type not in CONFIG_MAPPING):
        raise ModelError(
            f"model {path}: its config.json has "
            + ("no model_type" if model_type is None else f"model_type {str(model_type)[:80]!r}")
            + f", which transformers {transformers.__version__} does not know; "
            + (
                "it brings code of its own: set model.trust_remote_code = true if you trust it"
                if own_code
                else "install a newer transformers if the model is a new one, else correct the model_type"
            )
        )
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:
        # transformers raises errors of many kinds, and to the user all of them mean the same.
        raise _useless(path, error, {} if runs_own_code else values, trust_remote_code) from error
    if not runs_own_code and (reason := why_not_causal(config, values)):
        raise ModelError(
            f"model {path} {reason}; give one that continues text, such as a model of the kind "
            "llama, qwen3 or gemma3_text"
        )
    return config


def context_of(path: str, *, trust_remote_code: bool = False) -> int | None:
    """The longest sequence that the model in a folder is built for, in tokens; None if its config names no limit."""
    config = config_of(path, trust_remote_code=trust_remote_code).get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    return None if limit is None else int(limit)


def empty_model(path: str, config: Any, *, trust_remote_code: bool = False) -> Any:
    """The model of a config without memory for its weights. Raises ModelError for a config that no model fits."""
    try:
        return _without_weights(config, trust_remote_code)
    except Exception as error:
        # The errors are of many kinds: each model class checks its numbers in its own way, if at all.
        raise _useless(path, error, config.to_diff_dict(), trust_remote_code) from error


def _useless(path: str, error: Exception, values: Mapping[str, Any], trust_remote_code: bool) -> ModelError:
    numbers = _wrong_numbers(values, trust_remote_code)
    hint = f"; look at {' or '.join(numbers)}" if numbers else ""
    return ModelError(
        f"model {path}: no model can be made of its config.json ({type(error).__name__}: {one_line(error)}){hint}; "
        "restore the config.json that belongs to these weights, or fetch or save the model again"
    )


def _without_weights(config: Any, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _wrong_numbers(values: Mapping[str, Any], trust_remote_code: bool) -> list[str]:
    """`key = value` of every number that is the only obstacle: with the default of its class in its place, a model can
    be made."""
    from transformers import CONFIG_MAPPING

    until = time.monotonic() + TRIALS_S
    wrong = []
    for key, value in values.items():
        if not isinstance(value, int | float) or time.monotonic() > until:
            continue
        try:
            others = {name: other for name, other in values.items() if name != key}
            _without_weights(CONFIG_MAPPING[values["model_type"]](**others), trust_remote_code)
        except Exception:
            continue  # it is not this number, or not this one alone
        wrong.append(f"{key} = {value}")
    return wrong

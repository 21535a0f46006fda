"""Whether a config is that of a causal language model of text: one that can be sampled from token by token."""

from collections.abc import Mapping
from typing import Any

OTHER_HEADS = (
    "ForMaskedLM",
    "ForPreTraining",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
)
"""Ends of the names of model classes that do something else than continue text."""
SENSES = {"vision": "images", "vq": "images", "audio": "sound"}
"""How the name of a config's part begins -> what that part is for."""


def why_not_causal(config: Any, values: Mapping[str, Any]) -> str:
    """Why a model cannot continue text, as the end of a sentence that begins with its name; "" if it can.

    `config` is the config as transformers has read it, `values` what stands in its config.json.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    kind = f"is of the type {values.get('model_type')!r} (config.json), which "
    causal = "continues text (a causal language model)"
    if getattr(config, "is_encoder_decoder", False):
        return f"{kind}transformers has no model for that {causal}: it is an encoder with a decoder"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return f"{kind}transformers has no model for that {causal}"
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        return f"{kind}is an encoder: its tokens see those behind them, so that it is no model that {causal}"
    if senses := _other_senses(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]):
        return f"{kind}reads {' and '.join(senses)} besides text, and none of that can be trained here"
    names = [str(name) for name in values.get("architectures") or ()]
    if names and all(name.endswith(OTHER_HEADS) for name in names):
        return f"was saved as a {names[0]} (config.json), whose output layer is not that of a model that {causal}"
    return ""


def _other_senses(model_class: Any) -> list[str]:
    """What a model class reads besides text. One that takes the text part of a larger config alone has no such part."""
    parts = getattr(getattr(model_class, "config_class", None), "sub_configs", {})
    return sorted({sense for part in parts for prefix, sense in SENSES.items() if part.startswith(prefix)})

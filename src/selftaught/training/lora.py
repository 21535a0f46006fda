"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by PEFT: trained beside frozen weights, merged at the end."""

import warnings
from typing import Any

from selftaught.training.settings import SftSettings


def with_adapters(model: Any, settings: SftSettings) -> Any:
    """PEFT's model around `model`: new adapters on every linear layer but the output head, all else frozen."""
    from peft import LoraConfig, get_peft_model

    rank = settings.lora_rank
    assert rank is not None, "adapters are made only where a rank is given"
    adapters = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if settings.lora_alpha is None else settings.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT asks the model by a name that transformers is about to drop.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return get_peft_model(model, adapters)


def adapter_weights(trained: Any) -> dict[str, Any]:
    """The weights of the adapters alone, by PEFT's names."""
    from peft import get_peft_model_state_dict

    weights: dict[str, Any] = get_peft_model_state_dict(trained)
    return weights


def merged(adapters: dict[str, Any], fresh: Any, settings: SftSettings) -> Any:
    """The model `fresh` (float32 weights from before the training) with these adapters added to them."""
    from peft import set_peft_model_state_dict

    model = with_adapters(fresh, settings)
    loaded = set_peft_model_state_dict(model, adapters)
    assert not loaded.unexpected_keys, f"adapters without a place: {loaded.unexpected_keys[:3]}"
    return model.merge_and_unload(safe_merge=True)

"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by PEFT: trained beside frozen weights, and saved alone."""

import json
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from selftaught.models.adapters import base_named, read_adapter
from selftaught.models.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from selftaught.records.errors import TrainingError
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
        # It sets itself right for layers whose weights are the other way round, as GPT-2's are.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        return get_peft_model(model, adapters)


def save_adapters(trained: Any, out_dir: Path, *, base: Path) -> None:
    """Write the adapters of PEFT's model, which are for the model in `base`: the same bytes for the same adapters."""
    from peft import get_peft_model_state_dict

    config = trained.peft_config["default"]
    config.base_model_name_or_path, config.revision = base_named(base)
    config.inference_mode = True
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    (out_dir / ADAPTER_CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = get_peft_model_state_dict(trained, save_embedding_layers=False)
    save_file(
        {name: weight.detach().cpu().contiguous() for name, weight in weights.items()},
        out_dir / ADAPTER_WEIGHTS,
        metadata={"format": "pt"},
    )


def load_adapters(model: Any, folder: Path) -> None:
    """Give PEFT's model the adapters of a folder, to go on training them. Raises TrainingError if it has others."""
    from peft import set_peft_model_state_dict

    adapter, config = read_adapter(folder, named=str(folder)), model.peft_config["default"]
    now = (config.r, float(config.lora_alpha))
    if (adapter.rank, adapter.alpha) != now:
        raise TrainingError(
            f"{folder} holds adapters of rank {adapter.rank} and alpha {adapter.alpha:g}, and training.lora_rank and "
            f"training.lora_alpha ask for {now[0]} and {now[1]:g}; set those"
        )
    loaded = set_peft_model_state_dict(model, load_file(adapter.weights))
    missing = [name for name in loaded.missing_keys if "lora_" in name]
    if loaded.unexpected_keys or missing:
        raise TrainingError(
            f"{folder} holds adapters of other layers than those that are trained "
            f"({[*loaded.unexpected_keys, *missing][0]}); start from the base model"
        )

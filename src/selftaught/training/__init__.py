"""Fine-tuning: the table of trainers, each with its settings."""

from collections.abc import Mapping
from types import MappingProxyType

from selftaught.training.none import NullConfig
from selftaught.training.settings import TrainingConfig
from selftaught.training.sft_config import SftConfig

TRAINERS: Mapping[str, type[TrainingConfig]] = MappingProxyType(
    {
        "sft": SftConfig,
        "none": NullConfig,
    }
)
"""The values of `training.name`."""

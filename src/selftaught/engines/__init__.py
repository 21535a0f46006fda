"""What generates completions: the table of engines, each with its settings."""

from collections.abc import Mapping
from types import MappingProxyType

from selftaught.engines.engine import EngineConfig
from selftaught.engines.local.settings import LocalConfig
from selftaught.engines.server.openai_settings import OpenAIConfig
from selftaught.engines.server.vllm_settings import VllmConfig

ENGINES: Mapping[str, type[EngineConfig]] = MappingProxyType(
    {
        "local": LocalConfig,
        "openai": OpenAIConfig,
        "vllm": VllmConfig,
    }
)
"""The values of `engine.name`."""

"""Whether a run's prompts are turns, and what the model's chat template is given: resolved once, at the first start."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from selftaught.config.settings import ModelConfig
from selftaught.models.adapters import tokenizer_folder
from selftaught.models.folder import has_chat_template
from selftaught.records.errors import ConfigError
from selftaught.records.prompts import ChatSettings
from selftaught.records.sections import Section, Text

if TYPE_CHECKING:
    from selftaught.models.tokens import Codec


class ChatResolved(Section):
    """As run.json has it; None there for a run whose prompts are text."""

    thinking: bool | None
    """What the template is given as `enable_thinking`."""
    date: Text | None
    """Of today (YYYY-MM-DD) for the template; None for one that does not read the clock."""
    opens_thought: bool
    """Whether its prompts end inside a thought."""

    @property
    def settings(self) -> ChatSettings:
        return ChatSettings(thinking=self.thinking, date=self.date)


def resolve_chat(model: ModelConfig, folder: Path) -> ChatResolved | None:
    """What a config's prompts are rendered with; None for text. `folder` is the model's.

    Raises ConfigError for settings that the template cannot serve, ModelError for a template that cannot be read.
    """
    has_template = has_chat_template(tokenizer_folder(folder))
    if model.prompt_format == "plain" or (model.prompt_format == "auto" and not has_template):
        _refuse_chat_settings(model)
        return None
    day = _date(model) or datetime.now(UTC).date().isoformat()
    codec = _codec(model, folder, ChatSettings(thinking=model.thinking, date=day))
    template = codec.template
    assert template is not None, "a codec that is given chat settings has a template"
    if not template.reads_clock and model.template_date is not None:
        raise ConfigError(
            f"model.template_date is set, but the chat template of {model.path} does not read the clock; leave it out"
        )
    if model.thinking is not None and not template.has_thinking_switch:
        raise ConfigError(
            f"model.thinking is set, but the chat template of {model.path} has no such switch (enable_thinking); leave "
            "it out"
        )
    if model.thinking is None and template.has_thinking_switch:
        raise ConfigError(
            f"the chat template of {model.path} has a switch for thinking (enable_thinking), and model.thinking is not "
            "set; set model.thinking=false, with which few-shot examples can be shown, or model.thinking=true with "
            "sampling.num_shots=0 and a larger sampling.max_new_tokens"
        )
    if model.system and not template.has_system:
        raise ConfigError(
            f"model.system is set, but the chat template of {model.path} has no place for a system's turn; put the "
            "text into task.instruction"
        )
    return ChatResolved(
        thinking=model.thinking, date=day if template.reads_clock else None, opens_thought=template.opens_thought
    )


def codec_of(model: ModelConfig, folder: Path, chat: ChatResolved | None) -> "Codec":
    """The codec of a config's model, which is in `folder`."""
    return _codec(model, folder, chat.settings if chat else None)


def _codec(model: ModelConfig, folder: Path, chat: ChatSettings | None) -> "Codec":
    from selftaught.models.tokens import Codec  # it imports transformers

    return Codec(str(folder), chat=chat, trust_remote_code=model.trust_remote_code)


def _refuse_chat_settings(model: ModelConfig) -> None:
    for key in ("system", "thinking", "template_date"):
        if getattr(model, key) is not None:
            why = (
                'model.prompt_format is "plain"'
                if model.prompt_format == "plain"
                else f"{model.path} has no chat template, so that its prompts are text"
            )
            raise ConfigError(f"model.{key} is set, but {why}; leave it out")


def _date(model: ModelConfig) -> str | None:
    if model.template_date is None:
        return None
    try:
        return date.fromisoformat(model.template_date).isoformat()
    except ValueError as error:
        raise ConfigError(
            f"model.template_date = {model.template_date!r}, expected a date such as 2026-07-26; correct it"
        ) from error

"""Prompts as frozen records: turns until a model's codec renders them, and as the run folder stores them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[Turn, ...]
"""Text that a model continues, or the turns of a conversation that it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """What a chat template is given beside the turns; the same for sampling, training and measuring."""

    thinking: bool | None = None
    """The template's `enable_thinking`; None gives it nothing, so that the template decides."""
    date: str | None = None
    """Of today (ISO), for a template that reads the clock; None for one that does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrompt:
    """A prompt, or a text that prompts begin with, as one line of the run folder.

    The complete text is that of the prefix, then `text`; the complete ids are the first `num_shared_ids` of the
    prefix, then `ids`.
    """

    sha256: str
    """First 16 hex digits of the SHA-256 of the prompt, as samples name it; of a prefix, that of its text."""
    prefix: str | None
    """`sha256` of the record, earlier in the file, that this one continues; None for a complete text."""
    text: str
    num_shared_ids: int
    """How many of the prefix's ids the complete ids begin with: not all, where a token spans the prefix's end."""
    ids: tuple[int, ...] | None
    """Token ids, as the engine's tokenizer gives them for the complete text; None for an engine without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """A complete prompt as the model gets it."""

    text: str
    ids: tuple[int, ...] | None
    """None if the engine knows none."""

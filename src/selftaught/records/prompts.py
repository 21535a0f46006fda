"""Prompts as frozen records: as text or as turns, as a model reads them, and as the run folder stores them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation. A system turn that is absent and one that is empty are not the same."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[Turn, ...]
"""A text that a model continues, or the turns of a conversation that it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """What a model's chat template is told besides the turns."""

    thinking: bool | None = None
    """Given to the template as `enable_thinking`; None gives nothing, so that the template's own default holds."""
    date: str | None = None
    """The day, as YYYY-MM-DD, for templates that read the clock; None lets them read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """A complete prompt as a model reads it."""

    text: str
    ids: tuple[int, ...] | None
    """None if the engine knows none."""


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
class ChunkPrompts:
    """The prompts of a chunk as the run folder stores them."""

    head: StoredPrompt | None
    """What all of them begin with; None if that is nothing."""
    own: tuple[StoredPrompt, ...]
    """Each prompt once, in the order of first use."""

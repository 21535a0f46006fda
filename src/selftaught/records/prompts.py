"""Rendered prompts as frozen records: the few-shot block that many prompts begin with is stored once."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrompt:
    """A prompt, or a text that prompts begin with, as one line of the run folder.

    The complete text is that of the prefix, then `text`; the complete ids are the first `num_shared_ids` of the
    prefix, then `ids`.
    """

    sha256: str
    """First 16 hex digits of the SHA-256 of the complete text, as samples name it."""
    prefix: str | None
    """`sha256` of the record, earlier in the file, that this one continues; None for a complete text."""
    text: str
    num_shared_ids: int
    """How many of the prefix's ids the complete ids begin with: not all, where a token spans the prefix's end."""
    ids: tuple[int, ...] | None
    """Token ids, as the engine's tokenizer gives them for the complete text; None for an engine without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A complete prompt."""

    text: str
    ids: tuple[int, ...] | None
    """None if the engine knows none."""

"""Write the prompts of a run, each once: what is stored already is known by its hash."""

from collections.abc import Callable, Sequence
from pathlib import Path

from selftaught.prompts.rendering import prompt_sha256
from selftaught.records.prompts import StoredPrompt
from selftaught.runs.lines import append, complete_lines, dump
from selftaught.runs.reading import sha256_of_line

Encode = Callable[[str], Sequence[int]]
"""The token ids of a complete prompt."""


class PromptFile:
    """prompts.jsonl, whose last line is complete (`lines.cut_torn_tail`), for appending. In memory are the hashes of
    the prompts that it holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored: set[str] | None = None  # read when the first prompt is due: a finished run has none to store

    def append(self, prefix: str, prompts: Sequence[str], encode: Encode | None) -> None:
        """Store the prompts that are not stored yet, each once and in their order, after the prefix that all of them
        begin with, if it is not empty.

        `encode` gives their ids; without it they have none. A run that is killed and started again asks for the same
        prompts in the same order, so its file ends with the same bytes as that of an undisturbed run.
        """
        if self._stored is None:
            self._stored = self._hashes()
        texts = {prompt_sha256(prompt): prompt for prompt in prompts}
        new = {sha256: prompt for sha256, prompt in texts.items() if sha256 not in self._stored}
        if not new:
            return
        head = _record(None, prefix, encode) if prefix else None
        records = [head] if head and head.sha256 not in self._stored else []
        records += [_record(head, prompt, encode) for prompt in new.values() if head is None or prompt != prefix]
        append(self._path, b"".join(dump(StoredPrompt, record) for record in records))
        self._stored.update(record.sha256 for record in records)

    def _hashes(self) -> set[str]:
        if not self._path.exists():
            return set()
        return {sha256_of_line(line, self._path) for line in complete_lines(self._path)}


def _record(head: StoredPrompt | None, text: str, encode: Encode | None) -> StoredPrompt:
    """The record of a text; of one that begins with the text of `head`, what comes after it."""
    start = head.text if head else ""
    assert text.startswith(start), "the prompts of a stage begin with its few-shot examples"
    ids = None if encode is None else tuple(encode(text))
    shared = _num_equal((head.ids if head else None) or (), ids or ())
    return StoredPrompt(
        sha256=prompt_sha256(text),
        prefix=head.sha256 if head else None,
        text=text[len(start) :],
        num_shared_ids=shared,
        ids=None if ids is None else ids[shared:],
    )


def _num_equal(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids both begin with."""
    differences = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differences, min(len(first), len(second)))

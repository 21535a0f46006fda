"""Write the prompts of a run, each once: what is stored already is known by its hash."""

from collections.abc import Callable, Sequence
from pathlib import Path

from selftaught.prompts.rendering import prompt_sha256
from selftaught.records.prompts import ChunkPrompts, Prompt, RenderedPrompt, StoredPrompt, Turn
from selftaught.runs.lines import append, complete_lines, dump
from selftaught.runs.reading import sha256_of_line

Render = Callable[[Prompt], RenderedPrompt]
"""A complete prompt as the model gets it."""


class PromptFile:
    """prompts.jsonl, whose last line is complete (`lines.cut_torn_tail`), for appending. In memory are the hashes of
    the prompts that it holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored: set[str] | None = None  # read when the first prompt is due: a finished run has none to store

    def append(self, few_shot: Prompt, prompts: Sequence[Prompt], render: Render) -> None:
        """Store the prompts that are not stored yet, each once and in their order, after the text that all of them
        begin with: `few_shot`.

        A run that is killed and started again asks for the same prompts in the same order, so its file ends with the
        same bytes as that of an undisturbed run.
        """
        stored = self._hashes()
        new = [prompt for prompt in prompts if prompt_sha256(prompt) not in stored]
        if new:
            self.append_rendered(rendered_prompts(few_shot, new, render))

    def append_rendered(self, prompts: ChunkPrompts) -> None:
        """The same for prompts that are rendered already."""
        stored, head = self._hashes(), prompts.head
        new = [record for record in prompts.own if record.sha256 not in stored]
        if not new:
            return
        records = [head] if head and head.sha256 not in stored else []
        records += [record for record in new if head is None or record.sha256 != head.sha256]
        append(self._path, b"".join(dump(StoredPrompt, record) for record in records))
        stored.update(record.sha256 for record in records)

    def _hashes(self) -> set[str]:
        if self._stored is None:
            lines = complete_lines(self._path) if self._path.exists() else ()
            self._stored = {sha256_of_line(line, self._path) for line in lines}
        return self._stored


def rendered_prompts(few_shot: Prompt, prompts: Sequence[Prompt], render: Render) -> ChunkPrompts:
    """Prompts as the run folder stores them; `few_shot` is what all of them begin with."""
    head = _head(few_shot, render)
    by_hash = {prompt_sha256(prompt): prompt for prompt in prompts}
    return ChunkPrompts(
        head=head, own=tuple(_record(sha256, head, render(prompt)) for sha256, prompt in by_hash.items())
    )


def _head(few_shot: Prompt, render: Render) -> StoredPrompt | None:
    """What all prompts with these few-shot examples begin with; None if that is nothing."""
    if isinstance(few_shot, str):
        return _record(prompt_sha256(few_shot), None, render(few_shot)) if few_shot else None
    # A template writes before and behind a turn, so it is what two questions that begin differently have in common.
    one, other = (render((*few_shot, Turn("user", question))) for question in ("0", "x"))
    text = one.text[: _num_equal(one.text, other.text)]
    ids = None if one.ids is None else one.ids[: _num_equal(one.ids, other.ids or ())]
    return _record(prompt_sha256(text), None, RenderedPrompt(text=text, ids=ids)) if text else None


def _record(sha256: str, head: StoredPrompt | None, rendered: RenderedPrompt) -> StoredPrompt:
    """The record of a prompt; of one that begins with the text of `head`, what comes after it."""
    if head is not None and not rendered.text.startswith(head.text):
        head = None
    shared = _num_equal((head.ids if head else None) or (), rendered.ids or ())
    return StoredPrompt(
        sha256=sha256,
        prefix=head.sha256 if head else None,
        text=rendered.text[len(head.text) if head else 0 :],
        num_shared_ids=shared,
        ids=None if rendered.ids is None else rendered.ids[shared:],
    )


def _num_equal(first: Sequence[object], second: Sequence[object]) -> int:
    """How many elements both begin with."""
    differences = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differences, min(len(first), len(second)))

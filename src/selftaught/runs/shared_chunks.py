"""Completions of the base model that several runs have in common, kept as whole chunks.

A chunk's tokens are a function of weights, prompts, sampling settings and what the machine resolved (docs/design.md,
section 5), so a chunk with the same of all these is the same chunk. Greedy sampling reads no seed. The runs store what
they get from here as if they had generated it: their folders are those of runs alone.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selftaught.records.errors import StoreError
from selftaught.records.prompts import RenderedPrompt
from selftaught.records.samples import Completion, ModelRef, Request, SamplingParams
from selftaught.runs.lines import append, as_store_error, cut_torn_tail, dump, read_lines, replace_file

USES = "uses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """That a run has sampled a chunk that may be shared."""

    key: str
    tokens: int
    """Of the chunk's completions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """What sharing saves runs that come one after the other: generated once, used by several of them.

    Runs at the same time may each generate a chunk that neither has found; how often that was, nobody notes.
    """

    used: int
    """Tokens of shared chunks, counted in every run that has them."""
    saved: int
    """Of these, tokens that another run has, too, and that need not be generated again."""


class SharedChunks:
    """The chunks of a folder, for one run: it takes those that are there, and leaves those that it generates."""

    def __init__(self, folder: Path, *, user: str | None, conditions: Mapping[str, Any]) -> None:
        """`user` is the run's name, which is noted with what it uses; None for a worker, whose run notes `last_use`.
        `conditions` is all that decides the tokens
        beside weights, prompts, seeds and sampling settings: what the machine resolved, and versions."""
        self._folder, self._conditions = folder, dict(conditions)
        self._uses = folder / USES / f"{user}.jsonl" if user else None
        self._noted: set[str] = set()
        self.reused = 0
        """Tokens that this object has taken from the folder instead of generating them."""
        self.last_use: Use | None = None
        """Of the last chunk, if it is one that may be shared."""
        with as_store_error(folder, "create"):
            (folder / USES).mkdir(parents=True, exist_ok=True)
        if self._uses and self._uses.exists():
            cut_torn_tail(self._uses)
            self._noted = {use.key for use in read_lines(Use, self._uses)}

    def sample(
        self,
        model: ModelRef,
        requests: Sequence[Request],
        params: SamplingParams,
        render: Callable[[Any], RenderedPrompt],
        generate: Callable[[], Iterable[Completion]],
    ) -> Iterator[Completion]:
        """The completions of a chunk, from the folder or generated and left there; one for each request.

        Models that a run has trained, and those without weights to hash, are not shared: `generate` alone answers.
        """
        if model.checkpoint is not None or model.sha256 is None:
            self.last_use = None
            yield from generate()
            return
        key = self.key(model.sha256, [(render(r.prompt), r.seed) for r in requests], params)
        path = self._folder / f"{key}.jsonl"
        is_there = path.exists()
        if is_there:
            completions = list(read_lines(Completion, path))
            if len(completions) != len(requests):
                raise StoreError(f"{path}: {len(completions)} of {len(requests)} completions; delete the file")
        else:
            completions = list(generate())
            if sorted(c.request for c in completions) == list(range(len(requests))):
                # Whoever asks says what is wrong with any others.
                replace_file(path, (dump(Completion, c) for c in completions), by_many=True)
        tokens = sum(c.num_tokens for c in completions)
        self.reused += tokens if is_there else 0
        self.last_use = Use(key=key, tokens=tokens)
        self.note(self.last_use)
        yield from completions

    def key(self, weights: str, prompts: Sequence[tuple[RenderedPrompt, int]], params: SamplingParams) -> str:
        """The name of a chunk: the hash of everything that decides its tokens; greedy sampling reads no seeds."""
        is_greedy = params.temperature == 0.0
        decides = {
            "weights": weights,
            "prompts": [(prompt.text, prompt.ids) for prompt, _ in prompts],
            "seeds": None if is_greedy else [seed for _, seed in prompts],
            "params": asdict(params),
            "conditions": self._conditions,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def note(self, use: Use) -> None:
        """Note that the run has a chunk, once."""
        if self._uses and use.key not in self._noted:
            append(self._uses, dump(Use, use))
            self._noted.add(use.key)


def saving_of(folder: Path, users: Iterable[str]) -> Saving:
    """What sharing among these runs saves; the same whatever was killed, and in whatever order the runs came."""
    used = 0
    once: dict[str, int] = {}
    for user in users:
        of_run = {use.key: use.tokens for use in read_lines(Use, folder / USES / f"{user}.jsonl")}
        used += sum(of_run.values())
        once |= of_run
    return Saving(used=used, saved=used - sum(once.values()))

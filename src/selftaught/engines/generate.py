"""Draws with transformers' own `generate`: for models that cannot be run in slots.

The tokens are chosen by the same function as in slots: a logits processor draws them and rules out all others.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from selftaught.engines.rows import Endings, Row
from selftaught.records import Completion

Choose = Callable[[Tensor, Sequence[Row]], None]
"""Appends one token to every row, given logits [B, V]."""


def generate(
    model: Any,
    rows: Sequence[Row],
    *,
    batch_size: int,
    max_new_tokens: int,
    draw: Choose,
    endings: Endings,
    device: torch.device,
) -> Iterator[Completion]:
    """Completions of the rows, longest prompts first, in left-padded batches; a batch ends with its last row."""
    ordered = sorted(rows, key=lambda row: -len(row.prompt_ids))
    for first in range(0, len(ordered), batch_size):
        batch = ordered[first : first + batch_size]
        width = len(batch[0].prompt_ids)
        pads = [width - len(row.prompt_ids) for row in batch]
        ids = torch.tensor([[0] * pad + row.prompt_ids for pad, row in zip(pads, batch, strict=True)], device=device)
        mask = (torch.arange(width, device=device) >= torch.tensor(pads, device=device)[:, None]).long()
        found: dict[int, Completion] = {}
        model.generate(
            ids,
            attention_mask=mask,
            generation_config=GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=0),
            logits_processor=[_Draw(batch, draw, found)],
            stopping_criteria=[_Ended(batch, endings, found)],
        )
        yield from (found[row.request] for row in batch)


class _Draw(LogitsProcessor):
    """Leaves one token per row: the one that was drawn. Rows that have ended are left as they are."""

    def __init__(self, rows: Sequence[Row], draw: Choose, found: dict[int, Completion]) -> None:
        self._rows, self._draw, self._found = rows, draw, found

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        active = [i for i, row in enumerate(self._rows) if row.request not in self._found]
        self._draw(scores[active], [self._rows[i] for i in active])
        chosen = torch.full_like(scores, float("-inf"))
        chosen[:, 0] = 0.0
        for i in active:
            chosen[i, 0] = float("-inf")
            chosen[i, self._rows[i].ids[-1]] = 0.0
        return chosen


class _Ended(StoppingCriteria):
    """True for every row that has ended; keeps its completion."""

    def __init__(self, rows: Sequence[Row], endings: Endings, found: dict[int, Completion]) -> None:
        self._rows, self._endings, self._found = rows, endings, found

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        for row in self._rows:
            if row.request not in self._found and (completion := self._endings.completion(row)):
                self._found[row.request] = completion
        return torch.tensor([row.request in self._found for row in self._rows], device=input_ids.device)

"""Generation with transformers' own `generate`, for models that cannot be run in slots.

The same function as in slots samples the tokens: a logits processor calls it and rules out all other tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from selftaught.engines.local.rows import Endings, Row
from selftaught.records.samples import Completion

AppendTokens = Callable[[Tensor, Sequence[Row]], None]
"""Appends one token to every row, given logits [B, V]."""


def generate(
    model: Any,
    rows: Sequence[Row],
    *,
    batch_size: int,
    max_new_tokens: int,
    append_tokens: AppendTokens,
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
        finished: dict[int, Completion] = {}  # by request
        model.generate(
            ids,
            attention_mask=mask,
            generation_config=GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=0),
            logits_processor=[_OnlySampledTokens(batch, append_tokens, finished)],
            stopping_criteria=[_RowsEnded(batch, endings, finished)],
        )
        yield from (finished[row.request] for row in batch)


class _OnlySampledTokens(LogitsProcessor):
    """Samples a token for every row that has not ended, and rules out all others."""

    def __init__(self, rows: Sequence[Row], append_tokens: AppendTokens, finished: dict[int, Completion]) -> None:
        self._rows, self._append_tokens, self._finished = rows, append_tokens, finished

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        active = [i for i, row in enumerate(self._rows) if row.request not in self._finished]
        self._append_tokens(scores[active], [self._rows[i] for i in active])
        allowed = torch.full_like(scores, float("-inf"))
        allowed[:, 0] = 0.0
        for i in active:
            allowed[i, 0] = float("-inf")
            allowed[i, self._rows[i].ids[-1]] = 0.0
        return allowed


class _RowsEnded(StoppingCriteria):
    """True for every row that has ended; adds its completion to `finished`."""

    def __init__(self, rows: Sequence[Row], endings: Endings, finished: dict[int, Completion]) -> None:
        self._rows, self._endings, self._finished = rows, endings, finished

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        for row in self._rows:
            if row.request not in self._finished and (completion := self._endings.completion(row)):
                self._finished[row.request] = completion
        return torch.tensor([row.request in self._finished for row in self._rows], device=input_ids.device)

"""Draws completions of prompts that share a prefix, in slots that are refilled as rows end."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from selftaught.engines.forward import Runner
from selftaught.engines.rows import Endings, Row
from selftaught.engines.slots import SlotCache
from selftaught.records import Completion

REFILL_TOKENS = 512
"""Prompt tokens that make a refill worth a pass of its own."""


class SlotBatch:
    """The rows of one prefix. A slot is an index; `self._slots[i]` is the row in it, or None once that has ended."""

    def __init__(
        self,
        runner: Runner,
        rows: Sequence[Row],
        *,
        shared: int,
        num_slots: int,
        length: int,
        prefill_tokens: int,
        draw: Callable[[Tensor, Sequence[Row]], None],
        endings: Endings,
    ) -> None:
        """`length` is what a slot must hold after the prefix; `prefill_tokens` bounds the prompt tokens of one pass."""
        self._runner, self._shared, self._pass_tokens = runner, shared, prefill_tokens
        self._draw, self._endings = draw, endings
        # Longest first: prompts of like length share a pass, and a lack of memory shows at once.
        self._waiting = deque(sorted(rows, key=lambda row: -len(row.prompt_ids)))
        self._cache = SlotCache(num_slots, length, runner.kernels)
        self._slots: list[Row | None] = [None] * num_slots
        if shared:
            runner.prefix(self._cache, rows[0].prompt_ids[:shared])

    def run(self) -> Iterator[Completion]:
        """Completions in the order in which they end."""
        while self._waiting or any(self._slots):
            if self._is_refill_due():
                drawn = self._refill()
            else:
                self._compact()
                drawn = self._step()
            for slot in drawn:
                row = self._slots[slot]
                assert row is not None
                if completion := self._endings.completion(row):
                    self._slots[slot] = None
                    yield completion

    def _is_refill_due(self) -> bool:
        """Refill in groups: a pass for one prompt costs about as much as one for many."""
        free = self._slots.count(None)
        if not self._waiting or not free:
            return False
        if free >= max(1, len(self._slots) // 8) or free >= len(self._waiting):
            return True
        return sum(len(self._waiting[i].prompt_ids) - self._shared for i in range(free)) >= REFILL_TOKENS

    def _refill(self) -> list[int]:
        """Give free slots to waiting rows, as many as one pass may hold, and draw their first tokens."""
        free = [slot for slot, row in enumerate(self._slots) if row is None]
        filled: list[int] = []
        rows: list[Row] = []
        budget = self._pass_tokens
        while self._waiting and len(filled) < len(free):
            budget -= len(self._waiting[0].prompt_ids) - self._shared
            if filled and budget < 0:
                break
            rows.append(self._waiting.popleft())
            filled.append(free[len(filled)])
            self._slots[filled[-1]] = rows[-1]
        tails = [row.prompt_ids[self._shared :] for row in rows]
        self._draw(self._runner.prompts(self._cache, self._shared, tails, filled), rows)
        return filled

    def _step(self) -> list[int]:
        """One token for every row. An empty slot takes part at its position 0, which its next prompt overwrites."""
        ids = [row.ids[-1] if row else 0 for row in self._slots]
        own = [len(row.prompt_ids) + len(row.ids) - 1 - self._shared if row else 0 for row in self._slots]
        logits = self._runner.step(self._cache, self._shared, ids, own)
        active = [slot for slot, row in enumerate(self._slots) if row]
        self._draw(logits if len(active) == len(ids) else logits[active], [row for row in self._slots if row])
        return active

    def _compact(self) -> None:
        """Once nothing waits, move the last rows into the slots of ended ones, so that none of those is run."""
        num_active = len(self._slots) - self._slots.count(None)
        if self._waiting or len(self._slots) - num_active < max(1, len(self._slots) // 16):
            return
        targets = [slot for slot in range(num_active) if self._slots[slot] is None]
        sources = [slot for slot in range(num_active, len(self._slots)) if self._slots[slot] is not None]
        if targets:
            self._cache.move(sources, targets)
        for source, target in zip(sources, targets, strict=True):
            self._slots[target] = self._slots[source]
        del self._slots[num_active:]

"""Generates completions of prompts that share a prefix, in slots that are refilled as rows end."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from selftaught.engines.local.forward import Runner
from selftaught.engines.local.rows import Endings, Row
from selftaught.engines.local.slots import SlotCache
from selftaught.records.samples import Completion

REFILL_TOKENS = 512
"""Prompt tokens that are worth a prefill of their own."""


class SlotBatch:
    """The rows of one prefix. A slot is an index; `self._slots[i]` is the row in it, or None once the row has ended."""

    def __init__(
        self,
        runner: Runner,
        rows: Sequence[Row],
        *,
        shared: int,
        num_slots: int,
        length: int,
        prefill_tokens: int,
        append_tokens: Callable[[Tensor, Sequence[Row]], None],
        endings: Endings,
    ) -> None:
        """`length` is the tokens of a slot, without the prefix; `prefill_tokens` limits the tokens of one prefill."""
        self._runner, self._shared, self._prefill_tokens = runner, shared, prefill_tokens
        self._append_tokens, self._endings = append_tokens, endings
        # Longest first: prompts of similar length share a prefill, and a lack of memory shows at once.
        self._waiting = deque(sorted(rows, key=lambda row: -len(row.prompt_ids)))
        self._cache = SlotCache(num_slots, length, runner.kernels)
        self._slots: list[Row | None] = [None] * num_slots
        if shared:
            runner.prefill_prefix(self._cache, rows[0].prompt_ids[:shared])

    def run(self) -> Iterator[Completion]:
        """Completions in the order in which they end."""
        while self._waiting or any(self._slots):
            if self._is_refill_due():
                slots = self._refill()
            else:
                self._compact()
                slots = self._step()
            for slot in slots:
                row = self._slots[slot]
                assert row is not None
                if completion := self._endings.completion(row):
                    self._slots[slot] = None
                    yield completion

    def _is_refill_due(self) -> bool:
        """Whether enough slots are free: a prefill of one prompt costs about as much as a prefill of many."""
        free = self._slots.count(None)
        if not self._waiting or not free:
            return False
        if free >= max(1, len(self._slots) // 8) or free >= len(self._waiting):
            return True
        return sum(len(self._waiting[i].prompt_ids) - self._shared for i in range(free)) >= REFILL_TOKENS

    def _refill(self) -> list[int]:
        """Give free slots to as many waiting rows as one prefill may hold, and sample their first tokens."""
        free = [slot for slot, row in enumerate(self._slots) if row is None]
        filled: list[int] = []
        rows: list[Row] = []
        budget = self._prefill_tokens
        while self._waiting and len(filled) < len(free):
            budget -= len(self._waiting[0].prompt_ids) - self._shared
            if filled and budget < 0:
                break
            rows.append(self._waiting.popleft())
            filled.append(free[len(filled)])
            self._slots[filled[-1]] = rows[-1]
        tails = [row.prompt_ids[self._shared :] for row in rows]
        self._append_tokens(self._runner.prefill(self._cache, self._shared, tails, filled), rows)
        return filled

    def _step(self) -> list[int]:
        """One token for every row. An empty slot is run too, at position 0, which its next prompt overwrites."""
        ids = [row.ids[-1] if row else 0 for row in self._slots]
        own = [len(row.prompt_ids) + len(row.ids) - 1 - self._shared if row else 0 for row in self._slots]
        logits = self._runner.step(self._cache, self._shared, ids, own)
        active = [slot for slot, row in enumerate(self._slots) if row]
        self._append_tokens(logits if len(active) == len(ids) else logits[active], [row for row in self._slots if row])
        return active

    def _compact(self) -> None:
        """Once no row waits, move the last rows into the slots of ended ones, so that empty slots are not run."""
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

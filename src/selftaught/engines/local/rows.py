"""A completion while it is generated, and how it ends; used in slots and with transformers' `generate`."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from selftaught.models.tokens import Codec, cut_at_stop
from selftaught.records.samples import Completion, FinishReason, SamplingParams
from selftaught.records.seeds import uniform

TELL_EVERY_S = 0.5


@dataclass(slots=True)
class Row:
    """A completion while it is generated."""

    request: int
    seed: int
    prompt_ids: list[int]
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0

    def next_number(self) -> float:
        """The number in [0, 1) that decides the next token."""
        return uniform(self.seed, len(self.ids))

    def append(self, token: int, logprob: float) -> None:
        self.ids.append(token)
        self.logprob += logprob


class Endings:
    """Decides when rows end: at an end token, a stop string, or the limit of new tokens."""

    def __init__(self, codec: Codec, params: SamplingParams) -> None:
        self._codec, self._params = codec, params
        # Only a token whose text holds a stop string's last character can complete one.
        self._may_stop = codec.ids_holding("".join(sorted({s[-1] for s in params.stop})))
        self._may_end = codec.end_ids | self._may_stop
        # A character has up to four bytes, and a token at least one.
        self._tail = 4 * max(map(len, params.stop), default=0)

    def completion(self, row: Row) -> Completion | None:
        """The completion of a row whose last token ended it, or None."""
        ids = row.ids
        if ids[-1] not in self._may_end and len(ids) < self._params.max_new_tokens:
            return None
        codec, stop = self._codec, self._params.stop
        reason: FinishReason
        end_id: int | None = None
        if ids[-1] in codec.end_ids:
            reason, end_id, ids = "end", ids[-1], ids[:-1]
        elif ids[-1] in self._may_stop and self._stops(row):
            reason = "stop"
        elif len(ids) >= self._params.max_new_tokens:
            reason = "length"
        else:
            return None
        text, kept, was_cut = codec.cut(ids, stop, after=row.prompt_ids)
        if codec.decode(kept, after=row.prompt_ids) != text:
            kept = []  # part of a split token has no ids of its own; the text counts
        return Completion(
            request=row.request,
            text=text,
            token_ids=tuple(kept) if kept or not text else None,
            finish_reason="stop" if was_cut else reason,
            logprob=round(row.logprob, 6),
            num_tokens=len(row.ids),
            end_id=None if was_cut else end_id,
        )

    def _stops(self, row: Row) -> bool:
        """Whether a stop string ends in the last token; only the last few tokens are read."""
        before, tail = row.ids[: -self._tail], row.ids[-self._tail :]
        text = self._codec.decode(tail, after=before or row.prompt_ids)
        return cut_at_stop(text, self._params.stop)[1]


class TokenCount:
    """Counts the tokens of one call, and tells those that are new: at most every TELL_EVERY_S seconds, and at its end.

    The clock decides when they are told, and nothing else.
    """

    def __init__(self, on_tokens: Callable[[int], None]) -> None:
        self._on_tokens = on_tokens
        self._new = 0
        self._told_at = time.monotonic()

    def add(self, tokens: int) -> None:
        self._new += tokens
        if time.monotonic() - self._told_at >= TELL_EVERY_S:
            self.tell()

    def tell(self) -> None:
        new, self._new, self._told_at = self._new, 0, time.monotonic()
        if new:
            self._on_tokens(new)

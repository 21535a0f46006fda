"""Which rows share a forward pass: every optimizer step is split into micro-batches under a token budget. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

MicroBatch = tuple[int, ...]
"""Positions of the rows that go through the model together."""


@dataclass(frozen=True, slots=True)
class Batches:
    """The micro-batches of a whole training, in the order in which they are run."""

    steps: tuple[tuple[MicroBatch, ...], ...]
    """By optimizer step; every step has the same number of micro-batches."""
    tokens: tuple[int, ...]
    """Of each step, padding not counted."""

    @property
    def per_step(self) -> int:
        return len(self.steps[0])

    @property
    def flat(self) -> list[MicroBatch]:
        return [micro_batch for step in self.steps for micro_batch in step]


def plan_batches(
    lengths: Sequence[int],
    order: Sequence[int],
    *,
    batch_size: int,
    max_tokens: int,
    padded: bool = False,
    at_least: int = 1,
    multiple_of: int = 1,
) -> Batches:
    """Split `order` (positions of rows, `batch_size` to a step) into micro-batches of at most `max_tokens` tokens.

    All steps have the same number of micro-batches: the smallest that serves, `at_least` that many, and a multiple of
    `multiple_of`, of which the batch size is one too. A row longer than the budget is a micro-batch of its own.
    `padded` counts the padding that rows of unequal length would need, and puts rows of like length together; without
    it the micro-batches of a step have as even a number of tokens as a greedy split gives. The step with the largest
    micro-batch comes first, so that a lack of memory shows at once.
    """
    if not order or len(order) % batch_size:
        raise ValueError(f"{len(order)} rows do not fill steps of {batch_size}")
    if batch_size % multiple_of:
        raise ValueError(f"a step of {batch_size} rows cannot be split evenly among {multiple_of}")
    steps = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    split = _by_length if padded else _evenly

    def cost(rows: Sequence[int]) -> int:
        of_rows = [lengths[i] for i in rows]
        return max(of_rows) * len(rows) if padded else sum(of_rows)

    number = min(-(-at_least // multiple_of) * multiple_of, batch_size)
    planned: list[list[MicroBatch]] = []
    for step in steps:
        while number < batch_size and max(map(cost, split(step, lengths, number))) > max_tokens:
            number += multiple_of
    planned = [split(step, lengths, number) for step in steps]
    largest = max(range(len(planned)), key=lambda s: (max(map(cost, planned[s])), -s))
    planned = [planned[largest], *planned[:largest], *planned[largest + 1 :]]
    planned = [sorted(step, key=cost, reverse=True) for step in planned]
    tokens = [sum(lengths[i] for micro_batch in step for i in micro_batch) for step in planned]
    return Batches(tuple(tuple(step) for step in planned), tuple(tokens))


def like_lengths(lengths: Sequence[int], *, waste: float) -> list[list[int]]:
    """Positions in groups of like length, longest first: padding a group adds at most `waste` of its area.

    Area is the sum of squared lengths, what attention costs.
    """
    groups: list[list[int]] = []
    area = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        own = lengths[i] ** 2
        if groups and lengths[groups[-1][0]] ** 2 * (len(groups[-1]) + 1) <= (1 + waste) * (area + own):
            groups[-1].append(i)
            area += own
        else:
            groups.append([i])
            area = own
    return groups


def _evenly(rows: Sequence[int], lengths: Sequence[int], number: int) -> list[MicroBatch]:
    """Longest row first, each to the micro-batch with the fewest tokens so far; none stays empty."""
    filled: list[list[int]] = [[] for _ in range(number)]
    tokens = [0] * number
    for i in sorted(rows, key=lambda i: -lengths[i]):
        k = min(range(number), key=lambda k: (tokens[k], k))
        filled[k].append(i)
        tokens[k] += lengths[i]
    return [tuple(micro_batch) for micro_batch in filled]


def _by_length(rows: Sequence[int], lengths: Sequence[int], number: int) -> list[MicroBatch]:
    """Rows sorted by length and cut where the padded area is largest, again and again."""
    parts = [sorted(rows, key=lambda i: -lengths[i])]
    while len(parts) < number:
        widest = max((p for p in parts if len(p) > 1), key=lambda p: lengths[p[0]] * len(p))
        half = (len(widest) + 1) // 2
        at = parts.index(widest)
        parts[at : at + 1] = [widest[:half], widest[half:]]
    return [tuple(part) for part in parts]

"""Which rows share a forward pass: every optimizer step is split into micro-batches under a token budget. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

MicroBatch = tuple[int, ...]
"""Positions of the rows that go through the model together."""


@dataclass(frozen=True, slots=True)
class Batches:
    """The micro-batches of one training, in the order in which they are run."""

    steps: tuple[tuple[MicroBatch, ...], ...]
    """By optimizer step; every step has the same number of micro-batches."""
    tokens: tuple[int, ...]
    """Of each step, padding not counted."""

    @property
    def per_step(self) -> int:
        return len(self.steps[0])

    @property
    def flat(self) -> list[MicroBatch]:
        return self.share(0, 1)

    def share(self, rank: int, size: int) -> list[MicroBatch]:
        """The micro-batches of one of `size` ranks: every so-manieth of each step, so that all have about the same."""
        return [micro_batch for step in self.steps for micro_batch in step[rank::size]]


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

    All steps have the same number of micro-batches: the smallest number that keeps the budget, is no less than
    `at_least`, and is a multiple of `multiple_of`. The batch size must be a multiple of `multiple_of`, too. A row
    longer than the budget is a micro-batch of its own. With `padded`, the padding of rows of unequal length counts as
    tokens, and rows of similar length share a micro-batch. Without it, a greedy split makes the micro-batches of a step
    about equal in tokens. The step with the largest micro-batch comes first, so that a lack of memory shows at once.
    """
    if not order or len(order) % batch_size:
        raise ValueError(f"{len(order)} rows do not fill steps of {batch_size}")
    if batch_size % multiple_of:
        raise ValueError(f"a step of {batch_size} rows cannot be split evenly among {multiple_of}")
    steps = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    split = _split_by_length if padded else _split_evenly

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


def group_by_length(lengths: Sequence[int], *, waste: float) -> list[list[int]]:
    """Positions of rows in groups of similar length, longest first: padding adds at most `waste` to a group's area.

    The area is the sum of squared lengths, which is what attention costs.
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


def _split_evenly(rows: Sequence[int], lengths: Sequence[int], number: int) -> list[MicroBatch]:
    """Assign the rows, longest first, each to the micro-batch with the fewest tokens so far; none stays empty."""
    micro_batches: list[list[int]] = [[] for _ in range(number)]
    tokens = [0] * number
    for i in sorted(rows, key=lambda i: -lengths[i]):
        k = min(range(number), key=lambda k: (tokens[k], k))
        micro_batches[k].append(i)
        tokens[k] += lengths[i]
    return [tuple(micro_batch) for micro_batch in micro_batches]


def _split_by_length(rows: Sequence[int], lengths: Sequence[int], number: int) -> list[MicroBatch]:
    """Sort the rows by length, then halve the micro-batch with the most padded tokens until there are enough."""
    micro_batches = [sorted(rows, key=lambda i: -lengths[i])]
    while len(micro_batches) < number:
        largest = max((rows for rows in micro_batches if len(rows) > 1), key=lambda rows: lengths[rows[0]] * len(rows))
        half = (len(largest) + 1) // 2
        place = micro_batches.index(largest)
        micro_batches[place : place + 1] = [largest[:half], largest[half:]]
    return [tuple(rows) for rows in micro_batches]

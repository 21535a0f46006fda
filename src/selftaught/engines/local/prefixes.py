"""Which prompts begin alike: pure functions on token ids."""

from collections.abc import Sequence
from itertools import pairwise

SHARED_AT_LEAST = 16
"""Tokens; a forward pass for a shorter prefix costs more than it saves."""

GROUP_AT_LEAST = 16
"""Prompts; for a smaller group a forward pass for the prefix costs more than it saves."""


def shared_length(prompts: Sequence[list[int]]) -> int:
    """Number of tokens that all prompts begin with, less than the shortest has; 0 if too few to be worth sharing."""
    if len(prompts) < 2:
        return 0
    shared = min(_common(min(prompts), max(prompts)), min(map(len, prompts)) - 1)
    return shared if shared >= SHARED_AT_LEAST else 0


def prefix_groups(prompts: Sequence[list[int]]) -> list[list[int]]:
    """Positions of the prompts in groups; a group is split if each part shares a longer prefix than the group does.

    So prompts with a hint and prompts without one become two groups.

    Every position is in exactly one group; groups and positions are in the order of `prompts`.
    """
    if not prompts:
        return []
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    return sorted(sorted(group) for group in _split(prompts, order))


def _split(prompts: Sequence[list[int]], order: list[int]) -> list[list[int]]:
    """Split sorted positions where neighbours share least, as long as every part is worth a prefix of its own."""
    if len(order) < 2 * GROUP_AT_LEAST:
        return [order]
    shared = [_common(prompts[a], prompts[b]) for a, b in pairwise(order)]
    least = min(shared)
    cuts = [place + 1 for place, length in enumerate(shared) if length == least]
    parts = [order[a:b] for a, b in pairwise([0, *cuts, len(order)])]
    if any(
        len(part) < GROUP_AT_LEAST or shared_length([prompts[i] for i in part]) < least + SHARED_AT_LEAST
        for part in parts
    ):
        return [order]
    return [group for part in parts for group in _split(prompts, part)]


def _common(a: list[int], b: list[int]) -> int:
    """Number of tokens that both begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # by halves, because comparing slices is much faster than comparing tokens
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low

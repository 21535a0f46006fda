"""Find problems of the measured splits that nearly repeat a problem of another split, without comparing all pairs.

Two texts are near if their sets of word triples have a Jaccard index of at least THRESHOLD (Broder 1997, "On the
resemblance and containment of documents"). Two such sets share at least one of their rarest triples, so only pairs that
share one are compared (the prefix filter of Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search").
The result is exact, and the search is quick even where thousands of questions share a template.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from selftaught.records.problems import Problem

THRESHOLD = 0.7
WORDS = 3
"""Words in a shingle; a shorter text is one shingle."""

_WORD = re.compile(r"\w+|[^\w\s]")

Shingles = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    split: str
    """The measured split."""
    problem: Problem
    other_split: str
    other: Problem
    likeness: float
    """Jaccard index, THRESHOLD to 1."""


def near_duplicates(splits: Mapping[str, Sequence[Problem]], measured: Sequence[str]) -> list[NearPair]:
    """Pairs of a problem of a measured split and a problem of another split, the most alike first.

    `splits` are by name, in order; a pair of two measured splits is listed once.
    """
    candidates = [(name, problem, shingles(problem)) for name in measured for problem in splits.get(name, ())]
    frequency = Counter(shingle for _, _, members in candidates for shingle in members)
    by_shingle: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, (_, _, members) in enumerate(candidates):
        for shingle in _rarest(members, frequency):
            by_shingle[shingle].append(position)
    pairs: list[NearPair] = []
    for other_split, others in splits.items():
        for other in others:
            members = shingles(other)
            near = {i for shingle in _rarest(members, frequency) for i in by_shingle.get(shingle, ())}
            for i in sorted(near):
                split, problem, candidate = candidates[i]
                if not _is_other(split, other_split, measured):
                    continue
                likeness = len(members & candidate) / len(members | candidate)
                if likeness >= THRESHOLD:
                    pairs.append(
                        NearPair(split=split, problem=problem, other_split=other_split, other=other, likeness=likeness)
                    )
    return sorted(pairs, key=lambda pair: -pair.likeness)


def shingles(problem: Problem) -> Shingles:
    """The word triples of a question and its choices, case folded; signs count as words."""
    words = _WORD.findall(" ".join([problem.question, *problem.choices]).casefold())
    return frozenset(_windows(words))


def _windows(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for start in range(max(1, len(words) - WORDS + 1)):
        yield tuple(words[start : start + WORDS])


def _rarest(members: Shingles, frequency: Mapping[tuple[str, ...], int]) -> list[tuple[str, ...]]:
    """The rarest shingles of a set, as many as it takes that two sets which are near share one of them."""
    ordered = sorted(members, key=lambda shingle: (frequency.get(shingle, 0), shingle))
    return ordered[: len(ordered) - math.ceil(THRESHOLD * len(ordered)) + 1]


def _is_other(split: str, other_split: str, measured: Sequence[str]) -> bool:
    """Whether the pair counts: it is of two splits, and two measured splits count in one order only."""
    if other_split in measured:
        return measured.index(split) < measured.index(other_split)
    return True

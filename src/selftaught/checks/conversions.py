"""Whether the units of an equation leave its numbers as they are written.

`1 hour + 30 minutes = 90 minutes` and `2 dozen + 1 = 25` are true and their numbers do not add up; `2 hours * 3 =
6 minutes` is false and its numbers do. Where one amount could be written in the unit of another, or has a word of
scale, an equation is only judged if its numbers are those of one unit: `3 hours + 2 hours = 5 hours`, `5 feet * 12 =
60 inches`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from selftaught.formulas.units import FAMILY, SCALES, ratios, singular

SCALE = {
    **SCALES,
    **{"pair": 2, "couple": 2, "score": 20, "gross": 144, "lakh": 10**5, "crore": 10**7, "mil": 10**6, "mln": 10**6},
    **{"mn": 10**6, "bn": 10**9, "tn": 10**12, "percent": 0, "half": 0, "halve": 0, "third": 0, "quarter": 0},
}
"""0 for a part of one. Ordinal numbers are parts, too: 3 fifths."""
ORDINAL = re.compile(r"(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?")
SUM = re.compile(r"(?<=[\d)%])[-+]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """A number and the words behind it."""

    number: Fraction
    words: bool
    """Whether anything stands beside it."""
    units: frozenset[str]
    per: frozenset[str]
    """What it is counted for: `5 dollars per hour`."""
    scales: frozenset[str]


def amount(text: str, number: Fraction) -> Amount:
    """Of an operand as it is written."""
    above, *below = re.split(r"/|\b(?:per|an?|each|every)\b", text)
    units = _names(above) | ({"dollar"} if "$" in text else set())
    return Amount(
        number=number,
        words=bool(units),
        units=frozenset(name for name in units if name in FAMILY),
        per=frozenset(name for name in _names(" ".join(below)) if name in FAMILY),
        scales=frozenset(name for name in units if name in SCALE or ORDINAL.fullmatch(name)),
    )


def in_doubt(computed: Sequence[Amount], other: Sequence[Amount], *, normal: str, holds: bool) -> bool:
    """Whether the units of a side that computes (`normal`, in normal form) and of the one beside it count.

    `holds` says whether the numbers are equal as they are written.
    """
    is_sum = SUM.search(normal) is not None
    if holds and not any(one.words for one in computed):
        return False  # 96 + 9 = 105 pairs: the unit of the result is that of all
    return _scale_counts(computed, other, is_sum=is_sum, holds=holds) or any(
        _unit_counts(family, computed, other, is_sum=is_sum, is_quotient="/" in normal, holds=holds)
        for family in {FAMILY[name] for one in (*computed, *other) for name in one.units | one.per}
    )


# ---------------------------------------------------------------------------------------------------------------------


def _names(text: str) -> set[str]:
    return {singular(word) for word in re.findall(r"[^\W\d_]+", text)}


def _unit_counts(
    family: int, computed: Sequence[Amount], other: Sequence[Amount], *, is_sum: bool, is_quotient: bool, holds: bool
) -> bool:
    def of(names: frozenset[str]) -> set[str]:
        return {name for name in names if FAMILY[name] == family}

    above = set[str]().union(*(of(one.units) for one in computed))
    result = set[str]().union(*(of(one.units) for one in other))
    converting = set[str]()
    rates = set[str]().union(*(of(one.per) for one in computed))
    for one in computed:
        if of(one.units):
            converting |= of(one.per)  # 60 minutes per hour
        elif of(one.per) and (above | result) - of(one.per):
            return True  # $12 per hour * 30 minutes
    if any(not of(one.per) <= rates for one in other):
        return True
    if len(above | result) < 2:
        return False
    if is_sum:
        return True
    if result <= above | converting and (len(above) == 1 or not is_quotient):
        return False
    factors = {factor for name in above for unit in above | result for factor in ratios(name, unit) if name != unit}
    return not (holds and any(one.number in factors for one in computed))  # 5 feet * 12 = 60 inches


def _scale_counts(computed: Sequence[Amount], other: Sequence[Amount], *, is_sum: bool, holds: bool) -> bool:
    """2 million * 3 = 6 million and 2 dozen * 12 = 24 are read as they stand."""
    scales = [one.scales for one in (*computed, *other)]
    if not any(scales):
        return False
    if is_sum:
        return len(set(scales)) > 1
    scaled = [one.scales for one in computed if one.scales]
    if len(scaled) == 1 and all(one.scales == scaled[0] for one in other):
        return False
    sizes = {SCALE.get(name, 0) for one in computed for name in one.scales}
    has_factor = any(one.number in sizes and not one.scales for one in computed)
    return any(one.scales for one in other) or not (holds and has_factor)

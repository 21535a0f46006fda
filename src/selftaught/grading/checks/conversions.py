"""Whether an equation can be judged by its numbers alone, without its units.

`1 hour + 30 minutes = 90 minutes` and `2 dozen + 1 = 25` are true although their numbers do not add up; `2 hours * 3 =
6 minutes` is false although its numbers do. Where an amount could be given in the unit of another, or has a word of
scale such as `dozen`, an equation is judged only if its numbers agree in unit: `3 hours + 2 hours = 5 hours`, `5 feet *
12 = 60 inches`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from selftaught.grading.formulas.units import (
    FAMILY,
    SCALES,
    ratios,
    singular,
)

SCALE = {
    **SCALES,
    **{"pair": 2, "couple": 2, "score": 20, "gross": 144, "lakh": 10**5, "crore": 10**7, "mil": 10**6, "mln": 10**6},
    **{"mn": 10**6, "bn": 10**9, "tn": 10**12, "percent": 0, "half": 0, "halve": 0, "third": 0, "quarter": 0},
}
"""Word -> factor; 0 for a part of one. Ordinal numbers are parts too: 3 fifths."""
ORDINAL = re.compile(r"(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?")
SUM = re.compile(r"(?<=[\d)%])[-+]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """A number and the words after it."""

    number: Fraction
    has_unit: bool
    """Whether there is any word or a dollar sign beside the number."""
    units: frozenset[str]
    per: frozenset[str]
    """The units after `per`: `5 dollars per hour`."""
    scales: frozenset[str]


def amount(text: str, number: Fraction) -> Amount:
    """The amount of an operand as it is written."""
    above, *below = re.split(r"/|\b(?:per|an?|each|every)\b", text)
    units = _names(above) | ({"dollar"} if "$" in text else set())
    return Amount(
        number=number,
        has_unit=bool(units),
        units=frozenset(name for name in units if name in FAMILY),
        per=frozenset(name for name in _names(" ".join(below)) if name in FAMILY),
        scales=frozenset(name for name in units if name in SCALE or ORDINAL.fullmatch(name)),
    )


def in_doubt(computed: Sequence[Amount], other: Sequence[Amount], *, normal: str, holds: bool) -> bool:
    """Whether units may change the verdict on a side that computes and on the side beside it.

    `normal` is the normal form of the side that computes; `holds` says whether the numbers are equal as written.
    """
    is_sum = SUM.search(normal) is not None
    if holds and not any(part.has_unit for part in computed):
        return False  # 96 + 9 = 105 pairs: all numbers have the unit of the result
    return _scale_counts(computed, other, is_sum=is_sum, holds=holds) or any(
        _unit_counts(family, computed, other, is_sum=is_sum, is_quotient="/" in normal, holds=holds)
        for family in {FAMILY[name] for part in (*computed, *other) for name in part.units | part.per}
    )


def _names(text: str) -> set[str]:
    return {singular(word) for word in re.findall(r"[^\W\d_]+", text)}


def _unit_counts(
    family: int, computed: Sequence[Amount], other: Sequence[Amount], *, is_sum: bool, is_quotient: bool, holds: bool
) -> bool:
    def of(names: frozenset[str]) -> set[str]:
        return {name for name in names if FAMILY[name] == family}

    above = set[str]().union(*(of(part.units) for part in computed))
    result = set[str]().union(*(of(part.units) for part in other))
    converting = set[str]()
    rates = set[str]().union(*(of(part.per) for part in computed))
    for part in computed:
        if of(part.units):
            converting |= of(part.per)  # 60 minutes per hour
        elif of(part.per) and (above | result) - of(part.per):
            return True  # $12 per hour * 30 minutes
    if any(not of(part.per) <= rates for part in other):
        return True
    if len(above | result) < 2:
        return False
    if is_sum:
        return True
    if result <= above | converting and (len(above) == 1 or not is_quotient):
        return False
    factors = {factor for name in above for unit in above | result for factor in ratios(name, unit) if name != unit}
    return not (holds and any(part.number in factors for part in computed))  # 5 feet * 12 = 60 inches


def _scale_counts(computed: Sequence[Amount], other: Sequence[Amount], *, is_sum: bool, holds: bool) -> bool:
    """Whether scales may change the verdict; not in `2 million * 3 = 6 million` and `2 dozen * 12 = 24`."""
    scales = [part.scales for part in (*computed, *other)]
    if not any(scales):
        return False
    if is_sum:
        return len(set(scales)) > 1
    scaled = [part.scales for part in computed if part.scales]
    if len(scaled) == 1 and all(part.scales == scaled[0] for part in other):
        return False
    sizes = {SCALE.get(name, 0) for part in computed for name in part.scales}
    has_factor = any(part.number in sizes and not part.scales for part in computed)
    return any(part.scales for part in other) or not (holds and has_factor)

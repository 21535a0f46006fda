"""The words after an amount: units of measure, counted things, scales, and everything else.

A unit says what is counted and does not change the number ("18 dollars a day"). A word of scale multiplies it
("5 million", "3 dozen"). All other words may change it ("5 squared", "5 thirds", "5 more"), so that no reader of
numbers may drop them. Number words are a closed class, which is listed here, and nouns are an open one: a plural that
is not listed is a noun and counts things.
"""

import re

SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

# The names of one unit are separated by spaces; the first is the name that this file returns.
_LENGTH = "mm millimeter millimetre|cm centimeter centimetre|m meter metre|km kilometer kilometre|inch in inches|\
foot ft feet|yard yd|mile mi"
_TIME = "millisecond ms|second sec|minute min|hour hr h|day|week wk|month|year yr|decade|century centuries"
_MASS = "mg milligram|g gram gramme|kg kilogram kilos|ounce oz|pound lb|ton tonne"
_VOLUME = "ml milliliter millilitre|l liter litre|teaspoon tsp|tablespoon tbsp|cup|pint pt|quart qt|gallon gal"
_MONEY = "cent|dollar buck usd|penny pennies pence|nickel|dime|quarter"
FAMILIES = tuple(
    tuple(tuple(row.split()) for row in family.split("|")) for family in (_LENGTH, _TIME, _MASS, _VOLUME, _MONEY)
)
"""Families of units; a unit of a family is a multiple of another one."""
FAMILY = {name: index for index, family in enumerate(FAMILIES) for row in family for name in row}
_SIZES = (
    {"mm": 1, "cm": 10, "m": 1_000, "km": 1_000_000},
    {"inch": 1, "foot": 12, "yard": 36, "mile": 63_360},
    {"millisecond": 1, "second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000, "week": 604_800_000},
    {"month": 1, "year": 12, "decade": 120, "century": 1_200},
    {"mg": 1, "g": 1_000, "kg": 1_000_000, "ton": 1_000_000_000},
    {"ounce": 1, "pound": 16, "ton": 32_000},
    {"ml": 1, "l": 1_000},
    {"teaspoon": 1, "tablespoon": 3, "cup": 48, "pint": 96, "quart": 192, "gallon": 768},
    {"cent": 1, "penny": 1, "nickel": 5, "dime": 10, "quarter": 25, "dollar": 100},
)
_ALMOST = {
    ("day", "month"): {28, 29, 30, 31},
    ("day", "year"): {365, 366},
    ("week", "month"): {4},
    ("week", "year"): {52},
}


def ratios(one: str, other: str) -> frozenset[int]:
    """How many of the smaller of two units of a family make the larger one; empty if there is no usual number."""
    factors = {
        max(sizes[one], sizes[other]) // min(sizes[one], sizes[other])
        for sizes in _SIZES
        if one in sizes and other in sizes
    }
    return frozenset(factors | _ALMOST.get((one, other), set()) | _ALMOST.get((other, one), set()))


_OTHER = "degree deg|unit|point pt|euro eur|rupee|peso|yen|yuan|radian rad|mph|kph|kmh|acre|hectare|joule|\
newton|watt|volt|ampere amp|kelvin|celsius|fahrenheit|mole mol|hertz hz|calorie cal|person people|\
child children|man men|woman women|mouse mice|goose geese|fish|sheep|deer|half halves|total|altogether|\
o'clock|am|pm|ml"
_NAME = {
    name: row.split()[0]
    for text in (_OTHER, _LENGTH, _TIME, _MASS, _VOLUME, _MONEY)
    for row in text.split("|")
    for name in row.split()
}
del _NAME["half"], _NAME["halves"], _NAME["quarter"]  # they are fractions, too

_SYMBOLS = {**{letter: letter for letter in "mghl"}, "L": "l", "s": "second", "J": "joule", "N": "newton"}
_SYMBOLS |= {"W": "watt", "V": "volt", "C": "celsius", "F": "fahrenheit"}
"""Units of one letter; case matters. k, K, M, B and G may be scales, and other letters variables."""
_COUNTED = frozenset(("way", "solution", "integer", "value"))
_KINDS = frozenset(
    (
        *("real", "complex", "rational", "integer", "positive", "negative", "nonnegative", "non-negative", "nonzero"),
        *("distinct", "different", "possible", "unique", "valid", "prime", "odd", "even", "whole", "ordered", "total"),
        *("consecutive", "two-digit", "three-digit", "four-digit", "five-digit", "intersection", "lattice"),
    )
)
"""Words that say which things are counted; they do not change the number."""
_REMARKS = frozenset(("old", "long", "tall", "wide", "high", "deep", "away", "left", "remaining"))
"""Words that say what is measured; they do not change the number."""
_NO_NOUN = re.compile(
    r".*[isu]s|.*(?:illion|thousand|hundred|dozen|lakh|crore|score|pair|couple|half|halve|third|quarter|th|double|triple)s"
    r"|(?:one|two|three|four|five|sixe|seven|eight|nine|ten|eleven|twelve|.*teen|.*tie|ace|trio|duo|power|log|mil|mill|grand|thou|meg|giga|mega|kilo|lac|bil"
    r"|factorial|percent|permille|mod|base|prime|inverse|time|ye|a|wa|ha|it|equal|make|give|mean"
    r"|divide|exceed|doe|perhap|alway|radical|exponent|square|cube|recurring|repeat|decimal)s"
)
"""Plurals that are numbers, operations or verbs."""


def singular(word: str) -> str:
    """One name for a word and its plural, without grammar: `hours` -> `hour`."""
    word = word.casefold().strip(".")
    if word in _NAME:
        return _NAME[word]
    stem = word.removesuffix("s")
    return _NAME.get(stem, stem)


def unit_name(phrase: str) -> str | None:
    """One name for the unit after a number; None if one of its words may be more than a unit.

    `square centimeters` and `cm^2` are the same, and so are `miles per hour`, `miles an hour` and `miles/hour`.
    """
    text = re.sub(r"\b(?:per|an?|each|every)\b|/", " / ", phrase)
    text = re.sub(r"\s*\^\s*(\d)", r"^\1", text)
    names: list[str] = []
    power = ""
    pieces = re.findall(r"/|[^\s/]+", text)
    if len(pieces) > 1 and pieces[-1] in _REMARKS:
        pieces.pop()
    while len(pieces) > 1 and pieces[0] in _KINDS and (len(pieces) > 2 or pieces[1].removesuffix("s") not in _NAME):
        kind = pieces.pop(0)
        if (kind, pieces) == ("ordered", ["pairs"]):
            return "pair"
    for index, piece in enumerate(pieces):
        word, _, exponent = piece.partition("^")
        word = word.strip(".")
        if piece == "/":
            names.append("/")
        elif word in ("square", "sq", "cubic", "cu") and index + 1 < len(pieces) and _measures(pieces[index + 1]):
            power = "^2" if word.startswith("sq") else "^3"
        elif exponent not in ("", "2", "3") or (exponent and power) or not _is_unit(word):
            return None
        elif not power and index > 0 and pieces[index - 1] != "/" and (len(word) <= 2) != (len(pieces[index - 1]) <= 2):
            return None  # the m of "m dollars" is not a metre
        else:
            names.append(_SYMBOLS.get(word) or singular(word))
            names[-1] += f"^{exponent}" if exponent else power
            power = ""
    if power or not names or names[0] == "/" or (names[-1] == "/" and "each" not in phrase) or "/ /" in " ".join(names):
        return None
    return " ".join(names)


def _measures(word: str) -> bool:
    """Whether a word is a unit that can be squared, unlike the roots of "square roots"."""
    return word in _SYMBOLS or singular(word) in _NAME.values()


def _is_unit(word: str) -> bool:
    if len(word) == 1 or word == "MM":
        return word in _SYMBOLS
    word = word.casefold()
    if word in _NAME or word.removesuffix("s") in _NAME or word in _COUNTED:
        return True
    return re.fullmatch(r"[a-z][a-z'-]{2,}s", word) is not None and _NO_NOUN.fullmatch(word) is None

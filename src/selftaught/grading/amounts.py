"""Read a number only if the text states one number and nothing else. Pure text.

All the text after a number is read, up to the end of its line or sentence or to the beginning of a remark. It may
contain closing marks, words and signs of a unit, the same number again, and a remark. Anything else makes the number a
part of a longer expression (5 or 6, 5-6, 3*(4+5), 5 feet 6 inches, 5 and a half), and then no number is read.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from fractions import Fraction

from selftaught.grading.lexicon import (
    ABBREVIATION,
    ADDS,
    ADDS_LATER,
    CHANGES,
    CLAUSE,
    HEDGES,
    JOINS,
    LETTERS,
    NUMBER_WORD,
    PLACE,
    REASON,
    SCALES,
)
from selftaught.grading.quantities import (
    CURRENCY,
    VULGAR,
    Quantity,
    match_end,
    number_at,
    same_number,
)
from selftaught.grading.signs import (
    CLOSING,
    LETTER,
    OPENING,
    SENTENCE_END,
    SPACE,
    WORD,
    plain,
)


class Following(Enum):
    """What follows a number, where it is not another number."""

    NOTHING = auto()
    """A unit, the end of the text or a remark: the number is complete."""
    MORE = auto()
    """Text that makes the number a part of a longer expression."""


MAX_REPEATS = 20
"""How often a text may repeat its number ("1/2 = 0.5")."""
MAX_WORDS = 12
"""Words after a number that may be its unit; later words are a remark."""


def parse_number(text: str) -> Fraction | None:
    """The value of a text that states exactly one number, perhaps with currency before and words after it, or None.

    The percent sign is a unit like any other: "20%" is 20. `read_quantity` reports whether there was one.
    """
    number = read_quantity(text)
    return None if number is None else number.value


def read_quantity(text: str, *, in_formula: bool = False) -> Quantity | None:
    """The one number that `text` begins with; None if it begins with no number, or the number is a part of more.

    White space, opening brackets, quotes and emphasis before the number are skipped. Words after it are units or
    remarks: "18 dollars a day" is 18. The number may be repeated ("1/2 = 0.5"). `in_formula`: the text is a formula,
    in which "- 7" is a number and "5!" is not.
    """
    text = plain(text)
    start = match_end(_OPENINGS, text, 0)
    first = number_at(text, start, in_formula=in_formula or _opens_formula(text, start))
    number = first
    for _ in range(MAX_REPEATS):
        if number is None or first is None:
            return None
        after = _what_follows(text, number, in_formula=in_formula)
        if not isinstance(after, Quantity):
            return None if after is Following.MORE else first
        if not _is_repeated(text, number, after):
            return None
        number = after
    return None


def continues(after: str) -> bool:
    """Whether the text after an answer continues it, so that the answer is a part of a longer expression.

    A percent sign or a word of scale does not count: it belongs to the number, and the number's reader reads it.
    """
    number = _seven_with(after)
    return number is None or not (number.percent or number.value / 7 in _FACTORS)


def stands_alone(after: str) -> bool:
    """Whether the text after an answer adds at most a unit to it."""
    number = _seven_with(after)
    return number is not None and number.value == 7 and not number.percent


def _seven_with(after: str) -> Quantity | None:
    """The number that is read where this text follows a seven; it shows what the text does to any number."""
    if _IN_MATHEMATICS.match(after):
        return None
    return read_quantity(("7 " if after[:1].isdigit() else "7") + after)


_FACTORS = frozenset({1, 12, *(10**power for power in range(2, 16))})
_IN_MATHEMATICS = re.compile(r"!\s*(?:\$|\\[)\]])")
"""A factorial sign: one that comes right before the end of the formula."""


def begins_with_number(text: str, *, in_formula: bool = False) -> bool:
    """Whether `text` begins with a number, complete or a part of a longer expression."""
    text = plain(text)
    start = match_end(_OPENINGS, text, 0)
    in_formula = in_formula or _opens_formula(text, start)
    return _CANDIDATE.match(text, start) is not None or (in_formula and _SIGNED.match(text, start) is not None)


_SIGNED = re.compile(r"\{?[-+](?:[\s{}(]|\\[,;:! (]|\\left)*[-+]?\\?[\d.$fdtc]")


def numbers_in(text: str) -> Iterator[Quantity | None]:
    """The numbers in `text`, in order; None in place of each that is a part of a longer expression.

    Times (12:30), names (B12), operands (3 * 4), multiples (3x) and each of several (5 or 6) are such parts.
    """
    text = plain(text)
    position, before = 0, None
    while (candidate := _CANDIDATE.search(text, position)) is not None:
        start = candidate.start()
        number = number_at(text, start)
        if number is None:
            position = max(match_end(_TOKEN, text, candidate.end()), candidate.end())
            yield None
            continue
        position = number.end
        is_offered = before is not None and not same_number(before, number) and _LIST.fullmatch(text, before.end, start)
        is_operand = _OPERATOR_BEFORE.search(text[max(0, start - 16) : start]) is not None
        yield None if is_offered or is_operand or not _is_complete(text, number) else number
        before = number


# ---------------------------------------------------------------------------------------------------------------------

_VARIABLE = (
    r"(?:(?-i:[b-zB-HJ-Z])(?![\w'.-])|[α-ωΑ-Ω∞](?!\w)|\.\.\.?|…"
    r"|\\(?:infty|pi|theta|alpha|beta|lambda|mu|sqrt|frac|dots|ldots|cdots)\b)"
)
_A_NUMBER = rf"(?:[-+]?{CURRENCY}?[-+]?(?:\.?\d|[{''.join(VULGAR)}])|\\[dtc]?frac\b)"
_OPENINGS = re.compile(rf"(?:{OPENING}|[:=≈]|\$(?=\s*(?:\\|\$|[-+]\s)|\s\s))*+")
_CLOSINGS = re.compile(rf"{CLOSING}*+")
_END = re.compile(rf"\Z|{SENTENCE_END}")
_EQUAL = re.compile(rf"\s*=\s*(?={OPENING}*+{_A_NUMBER})")
_MARKS = rf"(?:{OPENING}|{CLOSING})*+"
_NEXT = re.compile(rf"{_MARKS}{HEDGES}{_MARKS}(?P<number>(?={_A_NUMBER})|{NUMBER_WORD})", re.IGNORECASE)
"""A number in digits or in words, perhaps after marks and hedging words."""
_NEXT_OPERAND = re.compile(
    rf"{_MARKS}{HEDGES}{_MARKS}(?P<number>(?={_A_NUMBER})|{NUMBER_WORD}|{_VARIABLE})", re.IGNORECASE
)
"""A number or a variable, perhaps after marks and hedging words."""
_REMARK = re.compile(rf"(?:[,;:](?!\d)|(?<=[\s*_)])-(?=\s)|—++)(?={_MARKS}(?:{LETTER}|[-+]?[\d$]|\\|…|\.\.|[α-ω∞]|\Z))")
"""The beginning of a remark. A number, a variable or a dot after it is examined before it counts as one."""
_BRACKET = re.compile(r"[(\[](?P<inside>[^()\[\]\n]{0,200})[)\]]?")
_CALCULATION = re.compile(r"[\d.,\s]+[-+*/×÷x·=][-+*/×÷x·=\d.,\s$]+|.*(?<![^\W_])[a-z]\s*[-+*/^=(].*")
_UNIT_SIGN = re.compile(
    r"[°€£¥₹₽₩₺₫฿¢]\s?[CFK]?(?!\w)|[℃℉\u3300-\u33ff]|\^\s*\{?\s*\\?(?:circ|degree)\b\s*\}?\s?[CFK]?(?!\w)"
    r"|\\(?:circ|degree|pounds|euro|cent)\b"
)
_RAISED = (
    r"(?:(?<=[\s\d}]m)|(?<=м)|(?<=[cdkmnµ]m)|(?<=ft)|(?<=in)|(?<=yd)|(?<=mi)|(?<=\w{4}))"
    r"\.?\}?(?:\^\s*\{?[23]\}?|[²³](?!\w))"
)
"""The power of a unit of length; after other letters it may be the power of a variable."""
_UNIT = re.compile(rf"(?:-(?={LETTER}))?(?P<word>[μµ]?{WORD}|Ω)(?:{_RAISED}|\.(?!\s+[A-Z]|\s*\Z))?")
_PER = re.compile(
    rf"\s?[/·⋅]\s?(?:{WORD}(?<={LETTER}{{2}})|[hsdlLgm\u0400-\u04ff\u3040-\u30ff\u3400-\u9fff](?!{LETTER}|\d))"
    rf"(?:{_RAISED}|(?<=s)[²]|\.(?=\S))?(?![\d(])"
)
_LISTED_LATER = re.compile(rf"(?:[,;&]|\b(?:and|or)\b)\s*(?:and\s+|or\s+)?{_A_NUMBER}")
"""After "5 for Tom": the next of several numbers."""
_CANDIDATE = re.compile(rf"(?<![\w.,^])(?<!\^\{{)[-+]?{CURRENCY}?[-+]?(?:\.?\d|[{''.join(VULGAR)}])|\\[dtc]?frac\b")
_TOKEN = re.compile(r"[\w.,:/^'–—-]*")
_OPERATOR_BEFORE = re.compile(
    r"(?:[/|^×÷·⋅<>≤≥≠±√]|(?<!\*)\*\s+|[\w)]\*+|(?<=[\w)}$])\s*[-+]\s+|(?<=[\w)}$])\s+[-+]|[\w)]\s*\+"
    r"|~|→|\\(?!boxed|fbox|left|[\s,;:!(\[])[A-Za-z]+\s*\{?)\s*\Z"
)
_LIST = re.compile(rf"{SPACE}(?:[,;/&–—-]|\bto\b|(?:{WORD}\s++){{0,3}}(?:or|and)\b){SPACE}")


def _opens_formula(text: str, start: int) -> bool:
    """Whether the marks before the number begin a formula, in which "$- 7$" is minus seven."""
    return re.search(r"\$\s*\Z|\\[(\[]\s*\Z", text[:start]) is not None


def _is_complete(text: str, number: Quantity) -> bool:
    """Whether no text after a number makes it a part of a longer expression."""
    after = _what_follows(text, number, in_formula=False)
    return _is_repeated(text, number, after) if isinstance(after, Quantity) else after is Following.NOTHING


def _is_repeated(text: str, number: Quantity, after: Quantity) -> bool:
    """Whether the number after another one repeats it; the inches of "5 feet 5" do not."""
    return same_number(number, after) and _AGAIN.fullmatch(text, number.end, after.start) is not None


_AGAIN = re.compile(rf"{CLOSING}*+(?:=|≈|[,;]\s*(?:or\b)?|or\b|i\.e\.,?|[(\[])(?:{OPENING}|{CLOSING})*+", re.IGNORECASE)


def _what_follows(text: str, number: Quantity, *, in_formula: bool) -> Quantity | Following:
    """What follows a number, up to the end of its line or sentence: nothing, more of it, or another number."""
    position, words = number.end, 0
    if in_formula and _FACTOR.match(text, position):
        return Following.MORE
    if ADDS_LATER.search(text[position : position + 80].partition("\n")[0]) or _ENUMERATES.match(text):
        return Following.MORE
    while words < MAX_WORDS:
        closed = match_end(_CLOSINGS, text, position)
        touches, position = closed == position, closed
        if ADDS.match(text, position) or (in_formula and text[position : position + 1] == "!"):
            return Following.MORE
        if _OPERATOR.match(text, position):
            return Following.MORE
        end = _END.match(text, position)
        if end:
            return _number_next(text, end.end(), default=Following.NOTHING)
        equal = _EQUAL.match(text, position)
        if equal:
            return _number_next(text, equal.end(), default=Following.MORE)
        bracket = _BRACKET.match(text, position)
        if bracket:
            if not _is_remark(bracket["inside"].strip(), number, touches=touches or in_formula):
                return Following.MORE
            position, words = bracket.end(), words + 1
            continue
        remark = _REMARK.match(text, position)
        if remark:
            return _number_next(text, remark.end(), default=Following.NOTHING)
        sign = _UNIT_SIGN.match(text, position) or _PER.match(text, position)
        if sign:
            position, words = sign.end(), words + 1
            continue
        if _NEXT.match(text, position):
            return _number_next(text, position, default=Following.MORE)
        unit = _UNIT.match(text, position)
        if unit is None:
            return Following.MORE
        after = _word(text, unit, words=words, touches=touches)
        if after is not None:
            return after
        position, words = unit.end(), words + 1
    return Following.NOTHING


_OPERATOR = re.compile(rf"(?!(?<=\s)\*{{1,3}}(?=\S))\*|-\s*(?={_A_NUMBER})")
"""A star that does not open emphasis, or a minus before a number."""
_FACTOR = re.compile(r"[(\[{]|\\[({]|\s*!")
_ENUMERATES = re.compile(rf"[\s*_`>]*+\d{{1,2}}\)\s+[*_`]*+{LETTER}")
"""A numbered step: 1) Count the apples."""


def _word(text: str, unit: re.Match[str], *, words: int, touches: bool) -> Quantity | Following | None:
    """What a word after a number means for it; None for a unit, after which reading continues."""
    word = unit["word"]
    if CHANGES.match(word) or (words == 0 and SCALES.match(word)):
        return Following.MORE
    if (word.isascii() or _GREEK.match(word)) and not _may_be_unit(
        text, unit, touches=touches and words == 0, is_first=words == 0
    ):
        return Following.MORE
    if REASON.match(word):
        return Following.NOTHING
    is_place = PLACE.match(word) is not None
    if is_place or CLAUSE.match(word) or word.lower() in ("if", "when"):
        rest = text[unit.end() : unit.end() + 200]
        is_listed = _LISTED_LATER.search(_END.split(rest, maxsplit=1)[0])
        beside = Following.NOTHING if is_place and words else _number_next(text, unit.end(), default=Following.NOTHING)
        return Following.MORE if is_listed else beside
    if JOINS.match(word) and _NEXT_OPERAND.match(text, unit.end()):
        return Following.MORE
    return None


def _may_be_unit(text: str, unit: re.Match[str], *, touches: bool, is_first: bool) -> bool:
    """Whether a word cannot be a variable: 3n, 3ab and "3 times x" are multiples, 5m and "18 a day" are not."""
    word = unit["word"]
    if len(word) > 1:
        return not touches or len(word) > 3 or unit[0].startswith("-") or ABBREVIATION.match(word) is not None
    if _WORD_NEXT.match(text, unit.end()):
        return word in "aAI" or (is_first and word in LETTERS)
    return is_first and word in LETTERS


_GREEK = re.compile(r"[α-ωΑ-Ω]\Z")
_WORD_NEXT = re.compile(r"\s+[^\W\d_]{2}")


def _number_next(text: str, position: int, *, default: Following) -> Quantity | Following:
    """The number at `position`; MORE if it cannot be read; `default` if there is none."""
    following = _NEXT_OPERAND.match(text, position)
    if following is None:
        return default
    if following.end("number") > following.start("number"):
        return Following.MORE  # a number in words
    return number_at(text, following.start("number")) or Following.MORE


def _is_remark(inside: str, before: Quantity, *, touches: bool) -> bool:
    """Whether a bracket after a number neither states another number nor is a factor of it."""
    if re.match(r"(?:or|and)\b", inside) or ADDS.match(f"({inside}"):
        return False
    if _CALCULATION.fullmatch(inside):
        return not touches and _result(inside) == before.value
    if re.search(rf"{LETTER}{{2}}|[^\x00-\u024f]", inside) is None or _NEXT_OPERAND.match(inside):
        number = read_quantity(inside)
        has_words = re.search(rf"{LETTER}{{2}}", inside) is not None
        return not touches and (has_words if number is None else same_number(before, number))
    return not touches or re.search(r"\d", inside) is None


def _result(calculation: str) -> Fraction | None:
    """The result of a calculation with two numbers and one sign; None for any other text."""
    left = number_at(calculation)
    if left is None:
        return None
    sign = _SIGN.match(calculation, left.end)
    right = sign and number_at(calculation, sign.end())
    if not sign or not right or calculation[right.end :].strip():
        return None
    a, b = left.value, right.value
    match sign[1]:
        case "+":
            return a + b
        case "-":
            return a - b
        case "/" | "÷":
            return a / b if b else None
    return a * b


_SIGN = re.compile(r"\s*([-+*/×÷x·])\s*")

"""Whether a text says one number and nothing else. Pure text.

The whole of what stands behind a number is read, up to the end of its line or sentence or to where a remark begins.
It may be closing marks, words and signs of a unit, the same number again, and a remark; anything else makes the number
a part of something longer (5 or 6, 5-6, 3*(4+5), 5 feet 6 inches, 5 and a half), and then no number is read.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

from selftaught.quantities import CURRENCY, VULGAR, Quantity, matched, number_at, same_number
from selftaught.signs import CLOSING, LETTER, OPENING, SENTENCE_END, SPACE, WORD, plain

MAX_REPEATS = 20
"""How often a text may say its number again ("1/2 = 0.5")."""
MAX_WORDS = 12
"""Words behind a number that may be its unit; what comes later is a remark."""


def parse_number(text: str) -> Fraction | None:
    """The value of a text that says exactly one number, perhaps with currency before and words after it, or None.

    The percent sign is a unit like any other: "20%" is 20. `read_quantity` tells whether there was one.
    """
    found = read_quantity(text)
    return None if found is None else found.value


def read_quantity(text: str, *, in_formula: bool = False) -> Quantity | None:
    """The one number that `text` says right at its beginning; None if it begins with none, or goes on to more.

    White space, opening brackets, quotes and emphasis before the number are passed over. Words after it are units or
    remarks: "18 dollars a day" is 18. The same number may be said again ("1/2 = 0.5"). `in_formula`: the text is a
    formula, in which "- 7" is a number and "5!" is none.
    """
    text = plain(text)
    start = matched(_OPENINGS, text, 0)
    first = number_at(text, start, in_formula=in_formula or _opens_formula(text, start))
    found = first
    for _ in range(MAX_REPEATS):
        if found is None or first is None:
            return None
        after = _what_follows(text, found, in_formula=in_formula)
        if not isinstance(after, Quantity):
            return None if after == "more" else first
        if not same_number(found, after):
            return None
        found = after
    return None


def begins_with_number(text: str, *, in_formula: bool = False) -> bool:
    """Whether the first thing that `text` says is a number, be it a part of something longer or not."""
    text = plain(text)
    start = matched(_OPENINGS, text, 0)
    in_formula = in_formula or _opens_formula(text, start)
    return _CANDIDATE.match(text, start) is not None or (in_formula and _SIGNED.match(text, start) is not None)


_SIGNED = re.compile(r"\{?[-+](?:[\s{}(]|\\[,;:! (]|\\left)*[-+]?\\?[\d.$fdtc]")


def numbers_in(text: str) -> Iterator[Quantity | None]:
    """What looks like a number in `text`, in order: the number, or None for one that is a part of something longer.

    Times (12:30), names (B12), operands (3 * 4), multiples (3x) and each of several (5 or 6) are such parts.
    """
    text = plain(text)
    position, before = 0, None
    while (candidate := _CANDIDATE.search(text, position)) is not None:
        start = candidate.start()
        found = number_at(text, start)
        if found is None:
            position = max(matched(_TOKEN, text, candidate.end()), candidate.end())
            yield None
            continue
        position = found.end
        is_offered = before is not None and not same_number(before, found) and _LIST.fullmatch(text, before.end, start)
        is_operand = _OPERATOR_BEFORE.search(text[max(0, start - 16) : start]) is not None
        yield None if is_offered or is_operand or not _is_whole(text, found) else found
        before = found


# ---------------------------------------------------------------------------------------------------------------------

_NUMBER_WORD = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
    r"|(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore)s?"
    r"|half|an?\s++(?:half|quarter|third|dozen|hundred|thousand|million))\b"
    r"(?!-(?!(?:one|two|three|four|five|six|seven|eight|nine)\b)[^\W\d_])"
)
_VARIABLE = (
    r"(?:(?-i:[b-zB-HJ-Z])(?![\w'.-])|[α-ωΑ-Ω∞](?!\w)|\.\.\.?|…"
    r"|\\(?:infty|pi|theta|alpha|beta|lambda|mu|sqrt|frac|dots|ldots|cdots)\b)"
)
_A_NUMBER = rf"(?:[-+]?{CURRENCY}?[-+]?(?:\.?\d|[{''.join(VULGAR)}])|\\[dtc]?frac\b)"
_HEDGE = (
    r"(?:(?:about|maybe|perhaps|possibly|even|only|also|then|another|exactly|approximately|around|roughly|nearly|almost"
    r"|plus|and|or|just|probably|remaining|additional|extra|further|more|less|of|to|with)\b\s*+){0,3}"
)
_OPENINGS = re.compile(rf"(?:{OPENING}|[:=≈]|\$(?=\s*(?:\\|\$|[-+]\s)|\s\s))*+")
_CLOSINGS = re.compile(rf"{CLOSING}*+")
_END = re.compile(rf"\Z|{SENTENCE_END}")
_EQUAL = re.compile(rf"\s*=\s*(?={OPENING}*+{_A_NUMBER})")
_MARKS = rf"(?:{OPENING}|{CLOSING})*+"
_NEXT = re.compile(rf"{_MARKS}{_HEDGE}{_MARKS}(?P<number>(?={_A_NUMBER})|{_NUMBER_WORD})", re.IGNORECASE)
"""A number comes next, in digits or in words, perhaps after marks and words of doubt."""
_NEXT_OPERAND = re.compile(
    rf"{_MARKS}{_HEDGE}{_MARKS}(?P<number>(?={_A_NUMBER})|{_NUMBER_WORD}|{_VARIABLE})", re.IGNORECASE
)
"""A number or a variable comes next."""
_REMARK = re.compile(rf"(?:[,;:](?!\d)|(?<=[\s*_)])-(?=\s)|—++)(?={_MARKS}(?:{LETTER}|[-+]?[\d$]|\\|…|\.\.|[α-ω∞]|\Z))")
"""Where a remark begins; a number, a variable or a dot behind it is looked at before."""
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
"""The power of a unit of length; of other letters it may be a variable's."""
_UNIT = re.compile(rf"(?:-(?={LETTER}))?(?P<word>[μµ]?{WORD}|Ω)(?:{_RAISED}|\.(?!\s+[A-Z]|\s*\Z))?")
_PER = re.compile(
    rf"\s?[/·⋅]\s?(?:{WORD}(?<={LETTER}{{2}})|[hsdlLgm\u0400-\u04ff\u3040-\u30ff\u3400-\u9fff](?!{LETTER}|\d))"
    rf"(?:{_RAISED}|(?<=s)[²]|\.(?=\S))?(?![\d(])"
)
_LETTERS = "mgshlLWVJCFc"
"""Single letters that are units where they touch a number; any other may be a variable (3n)."""
_ABBREVIATION = re.compile(
    r"(?:[kcmnd]m|[km]g|lbs?|oz|ft|in|yds?|mi|[mk]ph|kmh|hrs?|min|m?sec|ms|[ap]m|st|nd|rd|th|[mcd][lL]|[kKMGT]B"
    r"|[kMG]?Wh?|[kMG]?Hz|k?Pa|cc|pts?|qt|gal|tsp|cal|pcs|yrs?|wks?|mo|px|rpm|USD|EUR|GBP|deg|rad|mol|sq|ha|hp|dB"
    r"|ppm|bps|cts)\Z"
)
"""Units of two or three letters that may touch a number; other letters may be variables (3ab)."""
_ALTERNATIVE = re.compile(
    r"(?:or|nor|to|through|thru|versus|vs|plus|minus|squared|cubed|factorial|choose|mod|modulo|divided|multiplied|point"
    r"|repeating|recurring|periodic|sin|cos|tan|log|ln|exp|sqrt|score|gross|grand"
    r"|oder|und|ou|et|bis|y|e|og|och|или|и|또는"
    r"|dx|dy|dt|arab|kharab|kk|mm|mill|tril|thous|ten-thousands|googols?"
    r"|половин\w*|demie?|rưỡi|buçuk|setengah|ครึ่ง|halv|halb\w*|einhalb|medi[oa]|mezz[oa]|mei[oa]|ونصف|نصف|וחצי"
    r"|\w*(?:[半几幾多余餘或到至]|分之|次方|阶乘|階乘|一半|的平方|的立方|제곱(?!미터)|절반).*"
    r"|(?:点|點|块|元|角|时|時|分)[零一二两三四五六七八九十].*|반(?:입니다|이다)?|[兆十십조块](?:[一-九]\w*)?)\Z"
    rf"|.*{LETTER}(?:[兆]).*",
    re.IGNORECASE,
)
"""Words that make a number one of several, or a part of a calculation or of an amount."""
_ALSO = re.compile(
    r"(?:as\s+well\s+as|along\s+with|together\s+with|followed\s+by|and/or|and\s+an?\s"
    r"|with\s+(?:a\s+)?(?:remainder|rest)|in\s+(?:hundred|thousand|million|billion|dozen|lakh|crore)s"
    r"|\(\s*(?:in\s+)?(?:hundred|thousand|million|billion|dozen)s?\b)\b",
    re.IGNORECASE,
)
"""Words behind a number that add to it."""
_ADDED_LATER = re.compile(
    r"\b(?:remainder|rem|r)\b[.:]?\s*(?:of|is|=)?\s*\d|(?:余|ост\.?)\s*\d|\b(?:repeating|recurring|rep|bar)\b"
    r"|\bin\s+(?:hundred|thousand|million|billion|dozen|lakh|crore)s\b",
    re.IGNORECASE,
)
"""Anywhere in the sentence behind a number: what is left over, repeats, or is counted in thousands."""
_PARTS = re.compile(
    r"(?:half|halves|quarters?|thirds|fourths|fifths|sixths|sevenths|eighths|ninths|\w*tenths?|\w*hundredths?"
    r"|\w*thousandths?|\w*illionths?|\w*illions?|mil|mille|mn|bil|mii|bin|thou|couple|myriads?|tens|twelves|kilos?"
    r"|tá|cent|mega|giga|umpteen|[MK]USD|[GK]'?s|crs?|десят\w+|сот\w+"
    r"|(?:dozen|hundred|thousand|lakh|crore)-\w+)(?:-\w+)*\Z",
    re.IGNORECASE,
)
"""Words of scale that are not read: the number by itself is none."""
_REASON_WORD = re.compile(r"(?:because|since|as|so|which|while|where|who|whose|that|therefore|thus|hence)\Z", re.I)
"""Words with which a reason begins: its numbers say something else."""
_CLAUSE_WORD = re.compile(
    r"(?:is|are|was|were|will|would|has|have|had|can|could|should|she|he|they|it|we|i|you|there|this|not|but|and)\Z",
    re.I,
)
"""Words with which a clause begins."""
_PLACE_WORD = re.compile(r"(?:for|in|on|at|after|before|from|within|during|every)\Z", re.IGNORECASE)
"""Words that say of how much the number is, behind a unit: 18 dollars for 3 days."""
_JOINING_WORD = re.compile(r"(?:with|by|until|till|out|times|over|of|per|than)\Z", re.IGNORECASE)
"""Words that join a number behind them to the one before."""
_LISTED_LATER = re.compile(rf"(?:[,;&]|\b(?:and|or)\b)\s*(?:and\s+|or\s+)?{_A_NUMBER}")
"""Behind "5 for Tom": the next of several."""
_CANDIDATE = re.compile(rf"(?<![\w.,^])(?<!\^\{{)[-+]?{CURRENCY}?[-+]?(?:\.?\d|[{''.join(VULGAR)}])|\\[dtc]?frac\b")
_TOKEN = re.compile(r"[\w.,:/^'–—-]*")
_OPERATOR_BEFORE = re.compile(
    r"(?:[/|^×÷·⋅<>≤≥≠±√]|(?<!\*)\*\s+|[\w)]\*+|(?<=[\w)}$])\s*[-+]\s+|(?<=[\w)}$])\s+[-+]|[\w)]\s*\+"
    r"|~|→|\\(?!boxed|fbox|left|[\s,;:!(\[])[A-Za-z]+\s*\{?)\s*\Z"
)
_LIST = re.compile(rf"{SPACE}(?:[,;/&–—-]|\bto\b|(?:{WORD}\s++){{0,3}}(?:or|and)\b){SPACE}")


def _opens_formula(text: str, start: int) -> bool:
    """Whether the marks before the number begin a formula, so that "$- 7$" is minus seven."""
    return re.search(r"\$\s*\Z|\\[(\[]\s*\Z", text[:start]) is not None


def _is_whole(text: str, found: Quantity) -> bool:
    """Whether nothing behind a number makes it a part of something longer."""
    after = _what_follows(text, found, in_formula=False)
    return same_number(found, after) if isinstance(after, Quantity) else after == "nothing"


def _what_follows(text: str, found: Quantity, *, in_formula: bool) -> Quantity | str:
    """What stands behind a number: "nothing" of importance, "more" that it is a part of, or a number said beside it."""
    position, words = found.end, 0
    if in_formula and _FACTOR.match(text, position):
        return "more"
    if _ADDED_LATER.search(text[position : position + 80].partition("\n")[0]) or _ENUMERATES.match(text):
        return "more"
    while words < MAX_WORDS:
        closed = matched(_CLOSINGS, text, position)
        touches, position = closed == position, closed
        if _ALSO.match(text, position) or (in_formula and text[position : position + 1] == "!"):
            return "more"
        end = _END.match(text, position)
        if end:
            return _beside(text, end.end(), default="nothing")
        equal = _EQUAL.match(text, position)
        if equal:
            return _beside(text, equal.end(), default="more")
        bracket = _BRACKET.match(text, position)
        if bracket:
            if not _is_remark(bracket["inside"].strip(), found, touches=touches):
                return "more"
            position, words = bracket.end(), words + 1
            continue
        remark = _REMARK.match(text, position)
        if remark:
            return _beside(text, remark.end(), default="nothing")
        sign = _UNIT_SIGN.match(text, position) or _PER.match(text, position)
        if sign:
            position, words = sign.end(), words + 1
            continue
        if _NEXT.match(text, position):
            return _beside(text, position, default="more")
        unit = _UNIT.match(text, position)
        if unit is None:
            return "more"
        after = _word(text, unit, words=words, touches=touches)
        if after != "unit":
            return after
        position, words = unit.end(), words + 1
    return "nothing"


_FACTOR = re.compile(r"[(\[{]|\\[({]|\s*!")
_ENUMERATES = re.compile(rf"[\s*_`>]*+\d{{1,2}}\)\s+[*_`]*+{LETTER}")
"""1) Count the apples."""


def _word(text: str, unit: re.Match[str], *, words: int, touches: bool) -> Quantity | str:
    """What a word behind a number makes of it; "unit" if it goes on."""
    word = unit["word"]
    if _ALTERNATIVE.match(word) or (words == 0 and _PARTS.match(word)):
        return "more"
    if (word.isascii() or _GREEK.match(word)) and not _may_be_unit(
        text, unit, touches=touches and words == 0, is_first=words == 0
    ):
        return "more"
    if _REASON_WORD.match(word):
        return "nothing"
    is_place = _PLACE_WORD.match(word) is not None
    if is_place or _CLAUSE_WORD.match(word) or word.lower() in ("if", "when"):
        rest = text[unit.end() : unit.end() + 200]
        is_listed = _LISTED_LATER.search(_END.split(rest, maxsplit=1)[0])
        beside = "nothing" if is_place and words else _beside(text, unit.end(), default="nothing")
        return "more" if is_listed else beside
    if _JOINING_WORD.match(word) and _NEXT_OPERAND.match(text, unit.end()):
        return "more"
    return "unit"


def _may_be_unit(text: str, unit: re.Match[str], *, touches: bool, is_first: bool) -> bool:
    """Whether a word is none of a formula's names: 3n, 3ab and "3 times x" are multiples, 5m and "18 a day" are not."""
    word = unit["word"]
    if len(word) > 1:
        return not touches or len(word) > 3 or unit[0].startswith("-") or _ABBREVIATION.match(word) is not None
    if _WORD_NEXT.match(text, unit.end()):
        return word in "aAI" or (is_first and word in _LETTERS)
    return is_first and word in _LETTERS


_GREEK = re.compile(r"[α-ωΑ-Ω]\Z")
_WORD_NEXT = re.compile(r"\s+[^\W\d_]{2}")


def _beside(text: str, position: int, *, default: str) -> Quantity | str:
    """The number that comes next; "more" if it cannot be read; `default` if none comes."""
    following = _NEXT_OPERAND.match(text, position)
    if following is None:
        return default
    if following.end("number") > following.start("number"):
        return "more"  # in words
    return number_at(text, following.start("number")) or "more"


def _is_remark(inside: str, found: Quantity, *, touches: bool) -> bool:
    """Whether a bracket behind a number says no other number, and is no factor of it."""
    if re.match(r"(?:or|and)\b", inside) or _ALSO.match(f"({inside}"):
        return False
    if _CALCULATION.fullmatch(inside):
        return not touches and _result(inside) == found.value
    if re.search(rf"{LETTER}{{2}}|[^\x00-\u024f]", inside) is None or _NEXT_OPERAND.match(inside):
        number = read_quantity(inside)
        has_words = re.search(rf"{LETTER}{{2}}", inside) is not None
        return not touches and (has_words if number is None else same_number(found, number))
    return not touches or re.search(r"\d", inside) is None


def _result(calculation: str) -> Fraction | None:
    """What two numbers and a sign between them come to; None for anything else."""
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

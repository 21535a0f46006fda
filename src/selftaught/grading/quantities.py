"""Read the exact value of a number as people and models write it. Pure text: no float, nothing is evaluated.

What is read: groups of digits (1,000 · 1,00,000 · 1{,}000 · 1 234 567), decimals (also 0.\\overline{3}), fractions
(3/4 · \\frac{3}{4} · ½), mixed numbers (1 1/2), powers of ten (1e3 · 1.5 x 10^3), signs (ASCII and typographic),
currency before the number, percent, and words and letters of scale (5 million · $1.5M · 3 dozen · 18万). `amounts.py`
decides whether a text states one number and nothing else. Work is bounded: a number has at most `MAX_DIGITS` digits,
its power of ten is at most `MAX_DIGITS`, and at most `MAX_DEPTH` fractions are nested.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from selftaught.grading.scales import POWERS_OF_TEN, TOUCHING
from selftaught.grading.signs import SPACE

MAX_DIGITS = 1_000
"""Digits of a number, and the largest power of ten: a longer number is no answer, and computing it would take long."""
MAX_DEPTH = 8
"""How deep fractions may be nested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number and its place in a text."""

    value: Fraction
    """Without its percent sign: 20 for 20%."""
    percent: bool
    start: int
    end: int
    """Right after the number and its percent sign or word of scale (5 million); units come later."""


def number_at(text: str, start: int = 0, *, in_formula: bool = False) -> Quantity | None:
    """The number at the beginning of `text[start:]`, after white space and currency; None if there is none.

    `text` is in plain spelling (`signs.plain`). In a formula there may be a space between a minus and its number.
    """
    return _number(text, start, MAX_DEPTH, in_formula)


def same_number(one: Quantity, other: Quantity) -> bool:
    """Whether two quantities are equal; where only one has a percent sign, 20% equals both 20 and 0.2.

    Some data sets answer "What percent …" with 20 and others with 0.2, and a reader understands both as 20%.
    """
    if one.value == other.value:
        return True
    if one.percent == other.percent:
        return False
    return (one.value / 100 == other.value) if one.percent else (other.value / 100 == one.value)


def number_text(quantity: Quantity) -> str:
    """The number in one form: an integer or a finite decimal, else a fraction; with "%" if it had one."""
    value = quantity.value
    denominator = value.denominator
    twos = (denominator & -denominator).bit_length() - 1
    fives, rest = 0, denominator >> twos
    while rest % 5 == 0:
        fives, rest = fives + 1, rest // 5
    places = max(twos, fives)
    if rest != 1 or places > MAX_DIGITS:
        text = f"{value.numerator}/{denominator}"
    elif places == 0:
        text = str(value.numerator)
    else:
        digits = str(abs(value.numerator) * 10**places // denominator).zfill(places + 1)
        text = f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return text + ("%" if quantity.percent else "")


# ---------------------------------------------------------------------------------------------------------------------

VULGAR = {
    chr(code): Fraction(*(int(part) for part in unicodedata.normalize("NFKC", chr(code)).split("⁄")))
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189)
}
"""The characters for fractions, such as ½, and their values."""
_SIGNS_OF_FRACTIONS = "".join(VULGAR)

CURRENCY = (
    r"(?:(?:US|CA|AU|NZ|HK|NT|[ACRS])?\\?\$|[€£¥₹₽₩₺₫฿]|\\(?:pounds|euro)\b"
    r"|(?:USD|EUR|GBP|INR|CHF|JPY|CNY|RMB|AUD|CAD|SEK|NOK|DKK|PLN|BRL|KRW|Rs\.?|Rp|RM|kr)(?=\s*[-+.\d]))"
)
_GROUP = r"(?:,|\{,\}|,\\! ?|\\[,;:]|\{\\[,;:]\}|\u00a0)"
_DIGITS = (
    rf"(?:\d{{1,3}}(?:{_GROUP}\d{{3}})+(?!\d)"  # 1,000,000
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)"  # 10,00,000: grouped as in India; it cannot be read in another way
    r"|\d{1,2}(?:[ ~]\d{3}){2,}(?!\d|[ ,]\d)"  # 1 234 567; one group (1 000) may be two numbers
    r"|\d+)"
)
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_SIGNED_INTEGER = r"[-+]?\d+"
_TO_THE = (
    rf"(?:\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<braced>{_SIGNED_INTEGER})\s*\}}|(?P<bare>{_SIGNED_INTEGER}))"
    r"|(?P<raised>[⁺⁻]?[⁰¹²³⁴-⁹]+))"
)
_RAISED = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")

_SIGN_AND_CURRENCY = re.compile(
    rf"\s*+(?P<sign>[-+]?)(?P<currency>{CURRENCY})\s?(?P<later>[-+]?)(?=[.\d\\{_SIGNS_OF_FRACTIONS}])"
)
_PLAIN_SIGN = re.compile(r"\s*+(?P<sign>[-+]?)(?P<currency>)(?P<later>)(?=[.\d\\" + _SIGNS_OF_FRACTIONS + "])")
_SPACED_SIGN = re.compile(
    rf"\s*+\{{?(?P<sign>[-+])(?:[\s{{}}]|\\[,;:! ])*+(?P<currency>{CURRENCY}?)(?P<later>)"
    rf"(?=[.\d\\{_SIGNS_OF_FRACTIONS}])"
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*")
_ONE_DIGIT = re.compile(r"\d")
_MANTISSA = re.compile(rf"(?P<mantissa>{_DECIMAL})")
_REPEATING = re.compile(
    r"(?P<integer>\d*)\.(?P<once>\d*)"
    r"(?:\\(?:overline|bar|dot)\s*(?:\{\s*(?P<barred>\d+)\s*\}|(?P<digit>\d))|(?<=\.)\((?P<round>\d+)\))"
)
_EXPONENT = re.compile(r"[eE](?P<power>[-+]?\d+)(?!\w|\.\d)")
_TIMES_TEN = re.compile(rf"{SPACE}(?:[xX×*·⋅]|\\times|\\cdot){SPACE}10{_TO_THE}")
_POWER_OF_TEN = re.compile(rf"10{_TO_THE}")
_OVER = re.compile(rf"\s?/\s?(?P<below>{_DECIMAL})")
_PROPER = re.compile(r"[ \t\u00a0]+(?P<above>\d+)/(?P<below>\d+)(?![\d/])")
_CLOSED = r"(?:[$*_`\"')]{1,3}|\\\)|</\w{1,8}>)?"
"""Closing marks between a number and its percent sign or word of scale: **5**%."""
_PERCENT = re.compile(_CLOSED + r"(?:\s|[{}~]|\\[,;:! ])*+(?:\\?%|(?:percent|per cent|pct)\b)")

_SCALE_WORDS = "|".join(sorted(POWERS_OF_TEN, key=len, reverse=True))
_SCALE = re.compile(
    rf"(?:{_CLOSED}{SPACE}-?(?P<word>{_SCALE_WORDS})(?!\w|-[^\W\d_])"
    rf"|{SPACE}(?P<sign>{'|'.join(TOUCHING)})(?![米克瓦卡赫焦伏帕])"  # 18千米 are kilometres
    r"|(?P<letter>[kmbt])(?!\w))",
    re.IGNORECASE,
)
_MONEY_SCALE = re.compile(rf"{SPACE}(?P<letter>k|mm|mn|m|mil|bn|b|tn|t)(?![\w-])", re.IGNORECASE)
_LETTER_POWERS = {"k": 3, "m": 6, "mm": 6, "mn": 6, "mil": 6, "b": 9, "bn": 9, "t": 12, "tn": 12}
MAX_SCALES = 3
"""Words of scale in a row: 5 hundred thousand million."""

_CONTINUES = re.compile(
    r"[.,:/'_\-–—]\d|\^\s*\{?\s*[-+]?\d|[A-Za-z]++\d|[²³¹⁰-⁹√π\u0300-\u036f]|[xyz](?![^\W_])|\(\d"
    r"|\s*+\\(?!text|mathrm|mbox|textbf|circ|degree|[,;!: ]|quad|qquad|right|[)\]}$%\\]|n\b"
    r"|checkmark|blacksquare|square|qed|Box)"  # 2\pi, 2\times 3
)
"""Text right after a number that makes it a part of a longer expression."""


def _number(text: str, start: int, depth: int, in_formula: bool = False) -> Quantity | None:
    opening = _SIGN_AND_CURRENCY.match(text, start) or _PLAIN_SIGN.match(text, start)
    if opening is None and in_formula:
        opening = _SPACED_SIGN.match(text, start)
    if opening is None or (opening["sign"] and opening["later"]):
        return None
    body = _unsigned(text, opening.end(), depth)
    if body is None:
        return None
    value, end = body
    percent = _PERCENT.match(text, end)
    if percent:
        end = percent.end()
    else:
        value, end = _scaled(text, value, end, is_money=bool(opening["currency"]))
    if _CONTINUES.match(text, end):
        return None
    negative = "-" in (opening["sign"], opening["later"])
    return Quantity(value=-value if negative else value, percent=bool(percent), start=opening.start(), end=end)


def _scaled(text: str, value: Fraction, end: int, *, is_money: bool) -> tuple[Fraction, int]:
    """The value times the words of scale after the number; letters of scale are capitals, or belong to money."""
    for _ in range(MAX_SCALES):
        scale = _SCALE.match(text, end) or (_MONEY_SCALE.match(text, end) if is_money else None)
        if scale is None:
            break
        name = next(group for group in scale.groups() if group)
        if scale.groupdict().get("letter") and name not in "kKMB" and not is_money:
            break  # 5m means five metres
        folded = name.lower()
        power = _LETTER_POWERS[folded] if scale.groupdict().get("letter") else (POWERS_OF_TEN | TOUCHING).get(folded)
        value, end = value * (12 if power is None else 10**power), scale.end()
    return value, end


def _unsigned(text: str, start: int, depth: int) -> tuple[Fraction, int] | None:
    """The value of a number without sign and unit, and where it ends."""
    if _FRACTION.match(text, start):
        return _latex_fraction(text, start, depth)
    if start < len(text) and text[start] in VULGAR:
        return VULGAR[text[start]], start + 1
    power = _POWER_OF_TEN.match(text, start)
    if power:
        value = _exact("1", _exponent(power))
        return None if value is None else (value, power.end())
    repeating = _REPEATING.match(text, start)
    if repeating:
        return _repeating(repeating)
    digits = _MANTISSA.match(text, start)
    if digits is None:
        return None
    scientific = _EXPONENT.match(text, digits.end()) or _TIMES_TEN.match(text, digits.end())
    value = _exact(digits["mantissa"], _exponent(scientific) if scientific else "0")
    if value is None or scientific:
        return None if value is None else (value, scientific.end() if scientific else digits.end())
    return _with_fraction(text, value, digits.end(), depth)


def _exponent(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).translate(_RAISED)


def _repeating(match: re.Match[str]) -> tuple[Fraction, int] | None:
    """The value of a repeating decimal, and where it ends: 0.1\\overline{6} is 1/6."""
    once, again = match["once"], match["barred"] or match["digit"] or match["round"]
    if len(match[0]) > MAX_DIGITS:
        return None
    period = Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))
    return Fraction(f"{match['integer'] or 0}.{once or 0}") + period, match.end()


def _with_fraction(text: str, value: Fraction, end: int, depth: int) -> tuple[Fraction, int] | None:
    """The number that `value` begins: it may be the integer of a mixed number or the numerator of a fraction."""
    if value.denominator == 1:
        proper = _PROPER.match(text, end)
        if proper:
            above, below = _exact(proper["above"]), _exact(proper["below"])
            if below and above is not None and above < below:
                return value + above / below, proper.end()
            return value, end  # not a mixed number, but two numbers side by side
        after = end + 1 if text[end : end + 1] == " " else end
        if text[after : after + 1] in VULGAR and after < len(text):
            return value + VULGAR[text[after]], after + 1
        if _FRACTION.match(text, after):
            part = _latex_fraction(text, after, depth)
            return None if part is None or not 0 < part[0] < 1 else (value + part[0], part[1])
    over = _OVER.match(text, end)
    if over:
        below = _exact(over["below"])
        return None if not below else (value / below, over.end())
    # "18." ends after its digits: the point ends the sentence, and the caller examines it.
    return value, end


def _latex_fraction(text: str, start: int, depth: int) -> tuple[Fraction, int] | None:
    """The value of \\frac{a}{b} or \\frac12, and where it ends; a and b may be any numbers."""
    parts: list[Fraction] = []
    position = match_end(_FRACTION, text, start)
    for _ in range(2):
        position = match_end(_BLANKS, text, position)
        if text[position : position + 1] == "{" and depth > 0:
            inside = _number(text, position + 1, depth - 1, in_formula=True)
            if inside is None or inside.percent:
                return None
            position = match_end(_BLANKS, text, inside.end)
            if text[position : position + 1] != "}":
                return None
            parts.append(inside.value)
            position += 1
        elif _ONE_DIGIT.match(text, position):
            parts.append(Fraction(int(text[position])))
            position += 1
        else:
            return None
    above, below = parts
    return None if below == 0 or _is_too_long(above / below) else (above / below, position)


_BLANKS = re.compile(r"\s*")


def match_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where a match of `pattern` at `start` ends; `start` if there is none."""
    match = pattern.match(text, start)
    return start if match is None else match.end()


def _exact(digits: str, exponent: str = "0") -> Fraction | None:
    digits = re.sub(r"[^\d.]", "", digits)
    if len(digits) > MAX_DIGITS or len(exponent) > 6 or abs(int(exponent)) > MAX_DIGITS:
        return None
    return Fraction(digits if digits[-1] != "." else digits[:-1]) * Fraction(10) ** int(exponent)


def _is_too_long(value: Fraction) -> bool:
    """Whether nested fractions, which multiply their lengths, became too long; 8 bits are more than two digits."""
    return max(value.numerator.bit_length(), value.denominator.bit_length()) > 8 * MAX_DIGITS

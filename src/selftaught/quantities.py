"""Read a number where it stands, as people and models write it, exactly. Pure text: no float, nothing is evaluated.

Read: groups of digits (1,000 · 1,00,000 · 1{,}000 · 1 234 567), decimals (also 0.\\overline{3}), fractions (3/4 ·
\\frac{3}{4} · ½), mixed numbers (1 1/2), powers of ten (1e3 · 1.5 x 10^3), signs (ASCII and typographic), currency
before the number, percent, and words and letters of scale (5 million · $1.5M · 3 dozen · 18万). Whether a text says one
number and nothing else is for `amounts.py`. Work is bounded: at most `MAX_DIGITS` digits and powers of ten,
`MAX_DEPTH` nested fractions.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from selftaught.scales import POWERS_OF_TEN, TOUCHING
from selftaught.signs import SPACE

MAX_DIGITS = 1_000
"""Of a number, and the largest power of ten: what is longer is no answer, and its exact value would take long."""
MAX_DEPTH = 8
"""Fractions within fractions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number where it stands in a text."""

    value: Fraction
    """Without its percent sign: 20 for 20%."""
    percent: bool
    start: int
    end: int
    """Just after the number, its percent sign or its word of scale (5 million); units come after it."""


def number_at(text: str, start: int = 0, *, in_formula: bool = False) -> Quantity | None:
    """The number that begins at `text[start:]`, after white space and currency; None if none begins there.

    `text` is in plain spelling (`signs.plain`). In a formula a space may stand between a minus and its number.
    """
    return _number(text, start, MAX_DEPTH, in_formula)


def same_number(one: Quantity, other: Quantity) -> bool:
    """Whether two quantities are equal; where one alone has a percent sign, 20% is both 20 and 0.2.

    "What percent" is answered by 20 in some data sets and by 0.2 in others, and a reader takes either for 20%.
    """
    if one.value == other.value:
        return True
    if one.percent == other.percent:
        return False
    return (one.value / 100 == other.value) if one.percent else (other.value / 100 == one.value)


def number_text(quantity: Quantity) -> str:
    """The number in one form: digits, a decimal point where it ends, else a fraction; "%" where it had one."""
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
"""½ and its siblings."""
_SIGNS_OF_FRACTIONS = "".join(VULGAR)

CURRENCY = (
    r"(?:(?:US|CA|AU|NZ|HK|NT|[ACRS])?\\?\$|[€£¥₹₽₩₺₫฿]|\\(?:pounds|euro)\b"
    r"|(?:USD|EUR|GBP|INR|CHF|JPY|CNY|RMB|AUD|CAD|SEK|NOK|DKK|PLN|BRL|KRW|Rs\.?|Rp|RM|kr)(?=\s*[-+.\d]))"
)
_GROUP = r"(?:,|\{,\}|,\\! ?|\\[,;:]|\{\\[,;:]\}|\u00a0)"
_WHOLE = (
    rf"(?:\d{{1,3}}(?:{_GROUP}\d{{3}})+(?!\d)"  # 1,000,000
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)"  # 10,00,000: the same signs, grouped as in India, and no other reading
    r"|\d{1,2}(?:[ ~]\d{3}){2,}(?!\d|[ ,]\d)"  # 1 234 567; one group (1 000) may be two numbers
    r"|\d+)"
)
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d+)?|\.\d+)"
_INTEGER = r"[-+]?\d+"
_TO_THE = (
    rf"(?:\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<braced>{_INTEGER})\s*\}}|(?P<bare>{_INTEGER}))|(?P<raised>[⁺⁻]?[⁰¹²³⁴-⁹]+))"
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
_SOME_DIGITS = re.compile(rf"(?P<mantissa>{_DECIMAL})")
_REPEATING = re.compile(
    r"(?P<whole>\d*)\.(?P<once>\d*)"
    r"(?:\\(?:overline|bar|dot)\s*(?:\{\s*(?P<barred>\d+)\s*\}|(?P<digit>\d))|(?<=\.)\((?P<round>\d+)\))"
)
_EXPONENT = re.compile(r"[eE](?P<power>[-+]?\d+)(?!\w|\.\d)")
_TIMES_TEN = re.compile(rf"{SPACE}(?:[xX×*·⋅]|\\times|\\cdot){SPACE}10{_TO_THE}")
_POWER_OF_TEN = re.compile(rf"10{_TO_THE}")
_OVER = re.compile(rf"\s?/\s?(?P<below>{_DECIMAL})")
_PROPER = re.compile(r"[ \t\u00a0]+(?P<above>\d+)/(?P<below>\d+)(?![\d/])")
_SHUT = r"(?:[$*_`\"')]{1,3}|\\\)|</\w{1,8}>)?"
"""What may close between a number and its percent sign or word of scale: **5**%."""
_PERCENT = re.compile(_SHUT + r"(?:\s|[{}~]|\\[,;:! ])*+(?:\\?%|(?:percent|per cent|pct)\b)")

_SCALE_WORDS = "|".join(sorted(POWERS_OF_TEN, key=len, reverse=True))
_SCALE = re.compile(
    rf"(?:{_SHUT}{SPACE}-?(?P<word>{_SCALE_WORDS})(?!\w|-[^\W\d_])"
    rf"|{SPACE}(?P<sign>{'|'.join(TOUCHING)})(?![米克瓦卡赫焦伏帕])"  # 18千米 are kilometres
    r"|(?P<letter>[kmbt])(?!\w))",
    re.IGNORECASE,
)
_OF_MONEY = re.compile(rf"{SPACE}(?P<letter>k|mm|mn|m|mil|bn|b|tn|t)(?![\w-])", re.IGNORECASE)
_LETTERS = {"k": 3, "m": 6, "mm": 6, "mn": 6, "mil": 6, "b": 9, "bn": 9, "t": 12, "tn": 12}
MAX_SCALES = 3
"""Words of scale in a row: 5 hundred thousand million."""

_CONTINUES = re.compile(
    r"[.,:/'_\-–—]\d|\^\s*\{?\s*[-+]?\d|[A-Za-z]++\d|[²³¹⁰-⁹√π\u0300-\u036f]|[xyz](?![^\W_])|\(\d"
    r"|\s*+\\(?!text|mathrm|mbox|textbf|circ|degree|[,;!: ]|quad|qquad|right|[)\]}$%\\]|n\b"
    r"|checkmark|blacksquare|square|qed|Box)"  # 2\pi, 2\times 3
)
"""Right after a number: it was part of something else."""


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
    """With the words of scale behind the number; letters of scale are capitals, or belong to money."""
    for _ in range(MAX_SCALES):
        scale = _SCALE.match(text, end) or (_OF_MONEY.match(text, end) if is_money else None)
        if scale is None:
            break
        name = next(group for group in scale.groups() if group)
        if scale.groupdict().get("letter") and name not in "kKMB" and not is_money:
            break  # 5m are five metres
        folded = name.lower()
        power = _LETTERS[folded] if scale.groupdict().get("letter") else (POWERS_OF_TEN | TOUCHING).get(folded)
        value, end = value * (12 if power is None else 10**power), scale.end()
    return value, end


def _unsigned(text: str, start: int, depth: int) -> tuple[Fraction, int] | None:
    """A number without sign and unit, and where it ends."""
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
    digits = _SOME_DIGITS.match(text, start)
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
    """0.1\\overline{6} is 1/6."""
    once, again = match["once"], match["barred"] or match["digit"] or match["round"]
    if len(match[0]) > MAX_DIGITS:
        return None
    period = Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))
    return Fraction(f"{match['whole'] or 0}.{once or 0}") + period, match.end()


def _with_fraction(text: str, value: Fraction, end: int, depth: int) -> tuple[Fraction, int] | None:
    """`value` may be the whole part of a mixed number or the upper part of a fraction."""
    if value.denominator == 1:
        proper = _PROPER.match(text, end)
        if proper:
            above, below = _exact(proper["above"]), _exact(proper["below"])
            if below and above is not None and above < below:
                return value + above / below, proper.end()
            return value, end  # not a mixed number; the two numbers stand beside each other
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
    # A point at the end of a sentence: "18." ends after the digits, so that the point is seen as what follows.
    return value, end


def _latex_fraction(text: str, start: int, depth: int) -> tuple[Fraction, int] | None:
    """\\frac{a}{b}, \\frac12 and the like; a and b are numbers themselves."""
    parts: list[Fraction] = []
    position = matched(_FRACTION, text, start)
    for _ in range(2):
        position = matched(_BLANKS, text, position)
        if text[position : position + 1] == "{" and depth > 0:
            inside = _number(text, position + 1, depth - 1, in_formula=True)
            if inside is None or inside.percent:
                return None
            position = matched(_BLANKS, text, inside.end)
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
    return None if below == 0 or _too_long(above / below) else (above / below, position)


_BLANKS = re.compile(r"\s*")


def matched(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where a match of `pattern` at `start` ends; `start` if there is none."""
    match = pattern.match(text, start)
    return start if match is None else match.end()


def _exact(digits: str, exponent: str = "0") -> Fraction | None:
    digits = re.sub(r"[^\d.]", "", digits)
    if len(digits) > MAX_DIGITS or len(exponent) > 6 or abs(int(exponent)) > MAX_DIGITS:
        return None
    return Fraction(digits if digits[-1] != "." else digits[:-1]) * Fraction(10) ** int(exponent)


def _too_long(value: Fraction) -> bool:
    """Nested fractions multiply their lengths: 4 bits are more than a digit."""
    return max(value.numerator.bit_length(), value.denominator.bit_length()) > 8 * MAX_DIGITS

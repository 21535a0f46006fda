"""Read a number as people and models write it, exactly. Pure text: nothing is evaluated, no float is involved.

Read: groups of digits (1,000 · 1,00,000 · 1{,}000), decimals, fractions (3/4 · \\frac{3}{4} · ½), mixed numbers
(1 1/2), powers of ten (1e3 · 1.5 x 10^3), signs (ASCII and typographic), currency before the number, percent and
words after it. Not read, because two people could read it in two ways: 1,5 (a decimal comma or a list), 5-6, 12:30,
1 and 1/2, 5 feet 6 inches, 3 - 2. Work is bounded: at most `MAX_DIGITS` digits and powers of ten, `MAX_DEPTH` nested
fractions.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 1_000
"""Of a number, and the largest power of ten: what is longer is no answer, and its exact value would take long."""
MAX_DEPTH = 8
"""Fractions within fractions."""
MAX_REPEATS = 20
"""How often a text may say its number again ("1/2 = 0.5")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number where it stands in a text."""

    value: Fraction
    """Without its percent sign: 20 for 20%."""
    percent: bool
    start: int
    end: int
    """Just after the number, its percent sign or its word for a power of ten (5 million); units come after it."""


def parse_number(text: str) -> Fraction | None:
    """The value of a text that says exactly one number, perhaps with currency before and words after it, or None.

    The percent sign is a unit like any other: "20%" is 20. `read_quantity` tells whether there was one.
    """
    found = read_quantity(text)
    return None if found is None else found.value


def read_quantity(text: str) -> Quantity | None:
    """The one number that `text` begins with; None if it begins with none, or goes on to a different one.

    White space, opening brackets, quotes and emphasis before the number are passed over. Words after it are units or
    remarks: "18 dollars a day" is 18. A second number that offers a choice ("5 or 6"), makes a range, a calculation
    or a compound ("5 feet 6 inches") makes the text unreadable, unless it is the same number ("1/2 = 0.5").
    """
    text = _plain(text)
    first = _number(text, _matched(_OPENING, text, 0), MAX_DEPTH)
    found = first
    for _ in range(MAX_REPEATS):
        if found is None:
            return None
        after = _number_beside(text, found.end)
        if after is None:
            return first
        if not isinstance(after, Quantity) or not same_number(found, after):
            return None
        found = after
    return None


def number_at(text: str, start: int = 0) -> Quantity | None:
    """The number that begins at `text[start:]`, after white space and currency; None if none begins there."""
    return _number(_plain(text), start, MAX_DEPTH)


def numbers_in(text: str) -> Iterator[Quantity]:
    """The numbers of a text in order. What looks like one but is none (12:30, 1,5, B12) is passed over whole."""
    text = _plain(text)
    position = 0
    while (candidate := _CANDIDATE.search(text, position)) is not None:
        found = _number(text, candidate.start(), MAX_DEPTH)
        if found is None:
            position = max(_matched(_TOKEN, text, candidate.end()), candidate.end())
        else:
            yield found
            position = found.end


def offers_another(text: str, first: Quantity, second: Quantity) -> bool:
    """Whether `text` names the two numbers as a choice, a range or a list, so that neither is the one meant."""
    between = _plain(text)[first.end : second.start]
    return not same_number(first, second) and _CHOICE.fullmatch(between) is not None


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

_VULGAR = {
    chr(code): Fraction(*(int(part) for part in unicodedata.normalize("NFKC", chr(code)).split("⁄")))
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189)
}
"""½ and its siblings."""

_SAME_LENGTH = {
    **{ord(sign): "-" for sign in "−‒–﹣－"},  # an em dash only separates
    **{ord(space): " " for space in "\u00a0\u2007\u2009\u202f"},
    ord("＋"): "+",
    ord("⁄"): "/",
    ord("％"): "%",
    ord("’"): "'",
}
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{")


def _plain(text: str) -> str:
    """With one spelling per sign and digit, and no \\text{; every character stays where it is.

    Decimal digits of all scripts are read: their readers agree on their values (unlike ², which is an exponent).
    """
    if not text.isascii():
        text = re.sub(r"[^\D0-9]", lambda digit: str(unicodedata.decimal(digit[0])), text.translate(_SAME_LENGTH))
    return _TEXT_COMMAND.sub(lambda command: " " * len(command[0]), text)


# Possessive quantifiers (*+, ++) never give back what they took, so no text makes a search quadratic.
_SPACE = r"(?:[\s{}~]|\\[,;!: ])*+"
_CURRENCY = r"(?:(?:US|CA|AU|NZ|HK|[AC])?\\?\$|[€£¥₹₽₩₺₫฿]|\\(?:pounds|euro)\b|(?:USD|EUR|GBP|INR|Rs\.?)(?=\s*[-+.\d]))"
_GROUP = r"(?:,|\{,\}|,\\!|\\,)"
_WHOLE = (
    rf"(?:\d{{1,3}}(?:{_GROUP}\d{{3}})+(?!\d)"  # 1,000,000
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)"  # 10,00,000: the same signs, grouped as in India, and no other reading
    r"|\d+)"
)
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d+)?|\.\d+)"

_OPENING = re.compile(r"(?:\s|[*_`\"'“‘«(\[{:=≈]|\\[(\[{]|\$(?=\s*(?:\\|\$))|\\(?:text|mathrm|mathbf|textbf|left)\b)*")
_SIGN_AND_CURRENCY = re.compile(rf"\s*+(?P<sign>[-+]?){_CURRENCY}\s?(?P<later>[-+]?)(?=[.\d\\{''.join(_VULGAR)}])")
_PLAIN_SIGN = re.compile(r"\s*+(?P<sign>[-+]?)(?P<later>)(?=[.\d\\" + "".join(_VULGAR) + "])")
_FRACTION = re.compile(r"\\[dtc]?frac\s*")
_ONE_DIGIT = re.compile(r"\d")
_SOME_DIGITS = re.compile(rf"(?P<mantissa>{_DECIMAL})")
_EXPONENT = re.compile(r"[eE](?P<power>[-+]?\d+)(?![\w.])")
_TIMES_TEN = re.compile(
    rf"{_SPACE}(?:[xX×*·⋅]|\\times|\\cdot){_SPACE}10\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<braced>[-+]?\d+)\s*\}}|(?P<bare>[-+]?\d+))"
)
_POWER_OF_TEN = re.compile(r"10\s*(?:\^|\*\*)\s*(?:\{\s*(?P<braced>[-+]?\d+)\s*\}|(?P<bare>[-+]?\d+))")
_OVER = re.compile(rf"\s?/\s?(?P<below>{_DECIMAL})")
_PROPER = re.compile(r"[ \t]+(?P<above>\d+)/(?P<below>\d+)(?![\d/])")
_PERCENT = re.compile(rf"{_SPACE}(?:\\?%|(?:percent|per cent|pct)\b)")
_SCALE = re.compile(r"(?:\s++(?P<word>hundred|thousand|million|billion|trillion)\b|(?P<k>[kK])\b)", re.IGNORECASE)
_POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_CONTINUES = re.compile(
    r"[.,:/'_\-–—]\d|\^\s*\{?\s*[-+]?\d|[A-Za-z]++\d|[²³¹⁰-⁹√π]|[xyz](?![^\W_])"
    r"|\s*+\\(?!text|mathrm|mbox|textbf|circ|degree|[,;!: ]|quad|qquad|right|[)\]}$%\\]|n\b)"  # 2\pi, 2\times 3
)
"""Right after a number: it was part of something else."""

_WORD = r"[^\W\d]++"
_JOINT = re.compile(
    rf"{_SPACE}(?:"
    r"(?:[,;/&+*×÷=<>≈~·⋅x^–—-]|\.\.\.?|\bto\b|\bthrough\b|\bminus\b|\bplus\b|\btimes\b)"  # 5, 6 · 5 - 6 · 5 to 6
    rf"|(?:{_WORD}\s++){{0,3}}(?:or|and)\b"  # 5 or 6 · 5 dollars or 6
    r"|[,;]?[ ]?\(?or\b"  # 5, or 6 · 5 (or 6)
    rf"|(?:{_WORD})?"  # 5 6 · 5 feet 6 inches
    rf"){_SPACE}(?:(?:about|maybe|perhaps|possibly|even|only)\s++)?(?=[-+.\d\\$€£¥₹{''.join(_VULGAR)}])"
)
"""Between a number and another one that makes the reading of the first uncertain."""
_CHOICE = re.compile(rf"{_SPACE}(?:[,;/&–—-]|\bto\b|(?:{_WORD}\s++){{0,3}}(?:or|and)\b){_SPACE}")
_CANDIDATE = re.compile(rf"(?<![\w.,^])(?<!\^\{{)[-+]?{_CURRENCY}?[-+]?(?:\.?\d|[{''.join(_VULGAR)}])|\\[dtc]?frac\b")
_TOKEN = re.compile(r"[\w.,:/^'–—-]*")


def _matched(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where a match of `pattern` at `start` ends; `start` if there is none."""
    match = pattern.match(text, start)
    return start if match is None else match.end()


def _number(text: str, start: int, depth: int) -> Quantity | None:
    opening = _SIGN_AND_CURRENCY.match(text, start) or _PLAIN_SIGN.match(text, start)
    if opening is None or (opening["sign"] and opening["later"]):
        return None
    body = _unsigned(text, opening.end(), depth)
    if body is None:
        return None
    value, end = body
    percent = _PERCENT.match(text, end)
    scale = None if percent else _SCALE.match(text, end)
    if percent:
        end = percent.end()
    elif scale:
        value, end = value * 10 ** (_POWERS[scale["word"].lower()] if scale["word"] else 3), scale.end()
    if _CONTINUES.match(text, end):
        return None
    negative = "-" in (opening["sign"], opening["later"])
    return Quantity(value=-value if negative else value, percent=bool(percent), start=opening.start(), end=end)


def _unsigned(text: str, start: int, depth: int) -> tuple[Fraction, int] | None:
    """A number without sign and unit, and where it ends."""
    if _FRACTION.match(text, start):
        return _latex_fraction(text, start, depth)
    if start < len(text) and text[start] in _VULGAR:
        return _VULGAR[text[start]], start + 1
    power = _POWER_OF_TEN.match(text, start)
    if power:
        value = _exact("1", power["braced"] or power["bare"])
        return None if value is None else (value, power.end())
    digits = _SOME_DIGITS.match(text, start)
    if digits is None:
        return None
    scientific = _EXPONENT.match(text, digits.end()) or _TIMES_TEN.match(text, digits.end())
    exponent = next((group for group in scientific.groups() if group), "0") if scientific else "0"
    value = _exact(digits["mantissa"], exponent)
    if value is None or scientific:
        return None if value is None else (value, scientific.end() if scientific else digits.end())
    return _with_fraction(text, value, digits.end(), depth)


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
        if text[after : after + 1] in _VULGAR and after < len(text):
            return value + _VULGAR[text[after]], after + 1
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
    position = _matched(_FRACTION, text, start)
    for _ in range(2):
        position = _matched(re.compile(r"\s*"), text, position)
        if text[position : position + 1] == "{" and depth > 0:
            inside = _number(text, position + 1, depth - 1)
            if inside is None or inside.percent:
                return None
            position = _matched(re.compile(r"\s*"), text, inside.end)
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


def _exact(digits: str, exponent: str = "0") -> Fraction | None:
    digits = re.sub(r"[^\d.]", "", digits)
    if len(digits) > MAX_DIGITS or len(exponent) > 6 or abs(int(exponent)) > MAX_DIGITS:
        return None
    return Fraction(digits if digits[-1] != "." else digits[:-1]) * Fraction(10) ** int(exponent)


def _too_long(value: Fraction) -> bool:
    """Nested fractions multiply their lengths: 4 bits are more than a digit."""
    return max(value.numerator.bit_length(), value.denominator.bit_length()) > 8 * MAX_DIGITS


def _number_beside(text: str, end: int) -> Quantity | bool | None:
    """The number that stands so close after `end` that the one before it is in doubt; None if there is none.

    True where something stands there that looks like a number and cannot be read.
    """
    joint = _JOINT.match(text, end)
    if joint is None:
        return None
    after = _number(text, joint.end(), MAX_DEPTH)
    if after is not None:
        return after
    return True if _CANDIDATE.match(text, joint.end()) else None

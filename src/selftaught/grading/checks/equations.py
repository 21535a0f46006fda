"""Find the equations of a solution and check them, exactly and without ever running text that a model wrote.

Two notations are read: the calculator annotations of GSM8K (Cobbe et al. 2021, arXiv 2110.14168), as in `48/2 =
<<48/2=24>>24`, and bare equations in running text, as in `5 apples x $2 = $10`. Every annotation must be well-formed,
as in the filter of RFT (Yuan et al. 2023, arXiv 2308.01825). In running text, only what is certainly an equation is
judged: not one beside a variable, a power or a missing operator.

Numbers are exact fractions. Time is linear in the text, and the size of an expression is bounded.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby, pairwise

from selftaught.grading.checks.conversions import amount, in_doubt

MAX_SIDE = 200
"""Characters of one side of an equation in normal form; this bounds its depth and its digits too."""

ABSOLUTE = Fraction(1, 1_000)
"""The tolerance of RFT's filter. RELATIVE allows large results to be written rounded."""
RELATIVE = Fraction(1, 1_000_000)

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_MIXED = r"\d+ \d+/\d+(?![\d/.])"
_CURRENCY = r"\\?[$€£¥]"
_OPERATOR_WORD = r"(?:of|times|plus|minus|divided by|multiplied by)\b"
_UNIT_WORD = rf"(?!{_OPERATOR_WORD})[^\W\d_]{{2,}}(?!\w)"
_UNIT = rf"(?:[ ]?{_UNIT_WORD}(?:[ ]{_UNIT_WORD}){{0,2}})?(?:/[ ]?{_UNIT_WORD})?"
_OPEN, _CLOSE = r"(?:[(\[][ ]?){0,8}", r"(?:[ ]?[)\]]){0,8}"  # bounded, because a search begins at every bracket
_OPERAND = (
    rf"(?:{_CURRENCY})?{_OPEN}(?:[-−](?=[$€£¥\d.]))?(?:{_CURRENCY}[ ]?)?(?:{_MIXED}|{_NUMBER})(?:[ ]?%)?{_UNIT}{_CLOSE}"
)
_OPERATOR = (
    rf"[ ]?(?:[-+*/×÷·−–]|[xX](?=[ ]?[($€£¥.\d])|(?<=[\d%)] )of\b|{_OPERATOR_WORD}(?<!of)|\\times|\\cdot|\\div)[ ]?"
    r"|(?<=[\d)])(?=\()"
)
SIDE = re.compile(rf"(?<![\w.])(?>{_OPERAND})(?:(?>{_OPERATOR})(?>{_OPERAND}))*")
"""A number or an expression with its units."""
OPERAND = re.compile(_OPERAND)
TOKEN = re.compile(
    rf"(?P<mixed>{_MIXED})|(?P<fraction>(?<=/ )\d+/\d+(?![\d/.]))|(?P<number>{_NUMBER})|(?P<drop>/[ ]?{_UNIT_WORD})"
    r"|(?P<operator>[-+*/×÷·−–%()\[\]]|\b[xX](?=[ ]?[(\[$€£¥.\d])|(?<=[\d)%])[xX](?=[ ]?[(\[$€£¥.\d])"
    r"|\\?\b(?:of|times|cdot|plus|minus|divided|div|multiplied)\b)"
)
"""The parts of a SIDE that count; the rest of it is units."""
NORMAL = {"×": "*", "·": "*", "x": "*", "X": "*", "of": "*", "times": "*", "\\times": "*", "\\cdot": "*"} | {
    "multiplied": "*", "÷": "/", "divided": "/", "\\div": "/", "plus": "+", "minus": "-", "−": "-", "–": "-"
} | {"[": "(", "]": ")"}  # fmt: skip
JOIN = re.compile(r"[ \t]*=[ \t]*")
_BLANK = r"[^\S\n\r]"
UNREAD_BEFORE = re.compile(
    r"(?:[\w)\]%][ ]*[-+*/^×÷·−–]{1,2}|[√_^]|\\(?![(\[])|\bof)[ (]*\Z"
    rf"|\d(?:[.,:'’]|{_BLANK}+)\Z|\b[kKMB]{_BLANK}*\Z"
)
"""Before a side: parts of variables, powers, times of day or 1 200. They belong to the side and cannot be read."""
UNREAD_BEHIND = re.compile(
    rf"\w|[.,:'’]\d|[²³°¢]|(?<=\d){_BLANK}+\d\d|[ ](?![aAI]\b|[xX][ ]?[$\d(.])[^\W\d_]\b|[′″]"
    r"|[ ]*(?:[*/^×÷·]{1,2}[ ]*[\w($.]|[-+−–][ ]*(?:[^\W\d_]\b|\()|\([ ]?[-$€£¥.\d])"
)

BOLD = re.compile(r"(?<![\d)])(?<![\d)] )\*{2,}(?=[-$€£¥.\d(])|(?<=[\d%).])\*{2,}(?![ ]?[-$€£¥.\d(])")
"""Markdown around a number or an equation; between two operands `**` is a power."""
ANNOTATION = re.compile(r"<<([^<>\n]*)>>")
PRINTED = re.compile(rf"[ ]*(-?)(?:{_CURRENCY})?[ ]*(-?(?:{_NUMBER}))((?:{_BLANK}\d{{3}})*(?!\d))")
"""The last group holds further digits, which belong to the number if blanks group its digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of an equation."""

    text: str
    """In normal form: numbers without commas and `+-*/()%`, nothing else."""
    value: Fraction
    """`%` counts as hundredths."""

    @property
    def computes(self) -> bool:
        """Whether it has an operation, so that it is more than a number."""
        return re.search(r"[\d%)][-+*/]", self.text) is not None

    @property
    def numbers(self) -> tuple[Fraction, ...]:
        """The numbers as they are written, without `%`."""
        return tuple(Fraction(number) for number in re.findall(r"[\d.]+", self.text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Equation:
    """An equation, or a chain a = b = c, of a text."""

    text: str
    """In normal form; as written if it cannot be read as an equation."""
    sides: tuple[Side, ...]
    annotated: bool
    at: tuple[int, int]
    """Where it stands in the text, in characters (from, up to)."""
    error: str = ""
    """What is wrong; empty if the equation holds."""

    @property
    def operands(self) -> tuple[Fraction, ...]:
        return tuple(number for side in self.sides if side.computes for number in side.numbers)

    @property
    def results(self) -> tuple[Fraction, ...]:
        """The value of the last side, with `%` as hundredths, and its numbers as they are written."""
        return (self.sides[-1].value, *self.sides[-1].numbers) if self.sides else ()


def find_equations(text: str) -> list[Equation]:
    """The equations of a text in order; an annotation and the text around it are judged separately.

    An equation of running text has a side that computes something: `1 hour = 60 minutes` has none.
    """
    return list(_found(text))


@lru_cache(maxsize=16)
def _found(text: str) -> tuple[Equation, ...]:
    """Kept for the last few texts, because the checks of a completion look at one text, one after the other."""
    equations = [_annotated(match, PRINTED.match(text, match.end())) for match in ANNOTATION.finditer(text)]
    # Blanks replace annotations, so that positions stay.
    running = ANNOTATION.sub(lambda match: " " * len(match[0]), text)
    running = BOLD.sub(lambda match: " " * len(match[0]), running)
    for match in re.finditer("<<|>>", running):
        at, error = match.span(), "open annotation"
        equations.append(Equation(text=match[0], sides=(), annotated=True, at=at, error=error))
    for at, sides in _chains(running):
        if any(side.computes for side in sides):
            error = _first_difference(sides)
            equations.append(Equation(text=_text(sides), sides=sides, annotated=False, at=at, error=error))
    return tuple(sorted(equations, key=lambda equation: equation.at[0]))


def evaluate(text: str) -> Fraction | None:
    """The value of a side in normal form; None for a text that has none (`1/0`, `2**3`, `(2`, over MAX_SIDE)."""
    if len(text) > MAX_SIDE or not re.fullmatch(r"[0-9+\-*/().%]+", text) or "**" in text or "//" in text:
        return None
    plain = re.sub(r"([\d.]+)%", r"(\1/100)", text)
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", plain)  # Python does not read numbers with leading zeros
    try:
        return _value(ast.parse(plain, mode="eval").body, plain)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def close(a: Fraction, b: Fraction) -> bool:
    """Whether two numbers are equal within the tolerance."""
    return abs(a - b) <= ABSOLUTE + RELATIVE * max(abs(a), abs(b))


def _value(node: ast.expr, source: str) -> Fraction | None:
    """The value of a tree of numbers and the four operations; None for any other tree."""
    match node:
        case ast.Constant():
            return Fraction(source[node.col_offset : node.end_col_offset])
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
            value = _value(inner, source)
            return -value if value is not None and isinstance(sign, ast.USub) else value
        case ast.BinOp(left=first, op=operator, right=second):
            left, right = _value(first, source), _value(second, source)
            if left is None or right is None:
                return None
            match operator:
                case ast.Add():
                    return left + right
                case ast.Sub():
                    return left - right
                case ast.Mult():
                    return left * right
                case ast.Div():
                    return left / right
    return None


def _annotated(annotation: re.Match[str], printed: re.Match[str] | None) -> Equation:
    at = annotation.span()
    text = re.sub(r"[ ,]", "", annotation[1])
    sides = tuple(_side(part) for part in text.split("="))
    known = tuple(side for side in sides if side is not None)
    if len(sides) < 2 or len(known) < len(sides):
        return Equation(text=text, sides=(), annotated=True, at=at, error=f"<<{text[:MAX_SIDE]}>> is no equation")
    error = _first_difference(known)
    if not error and not any(close(number, known[-1].value) for number in _printed_numbers(printed)):
        error = f"<<{text}>> is followed by another number"
    return Equation(text=text, sides=known, annotated=True, at=at, error=error)


def _printed_numbers(printed: re.Match[str] | None) -> Iterator[Fraction]:
    """The number after an annotation, without and with the groups of digits that follow it."""
    if printed is not None:
        sign, number, groups = (group.replace(",", "") for group in printed.groups())
        yield Fraction(sign + number)
        if groups and "." not in number:
            yield Fraction(sign + number + "".join(groups.split()))


def _chains(text: str) -> Iterator[tuple[tuple[int, int], tuple[Side, ...]]]:
    """Runs of two or more sides joined by `=`, each with where it stands in the text."""
    group: list[tuple[int, int, Side | None]] = []
    for match in SIDE.finditer(text):
        first, last = _balanced(match[0])
        start, end = match.start() + first, match.start() + last
        if group and JOIN.fullmatch(text, group[-1][1], start) is None:
            yield from _readable(text, group)
            group = []
        group.append((start, end, _side(_normal(text[start:end]))))
    yield from _readable(text, group)


def _readable(
    text: str, group: list[tuple[int, int, Side | None]]
) -> Iterator[tuple[tuple[int, int], tuple[Side, ...]]]:
    """The runs of sides of a group that have a value and to which no text beside them belongs."""
    if not group:
        return
    (start, _, _), (_, end, _) = group[0], group[-1]
    sides = [side for _, _, side in group]
    before = text[max(0, start - 8) : start]
    if UNREAD_BEFORE.search(before) or _is_part_of_an_amount(text, group[0], before):
        sides[0] = None
    if UNREAD_BEHIND.match(text, end) or re.search(r"\bof\b", text[group[-1][0] : end]):
        sides[-1] = None  # "= 1/3 of the $60" gives the share; the product may be meant
    for is_known, run in groupby(zip(group, sides, strict=True), key=lambda item: item[1] is not None):
        known = [(span, side) for span, side in run if side is not None]
        if is_known and len(known) > 1 and not _depends_on_units(text, known):
            (first, _, _), (_, last, _) = known[0][0], known[-1][0]
            yield (first, last), tuple(side for _, side in known)


def _depends_on_units(text: str, known: list[tuple[tuple[int, int, Side | None], Side]]) -> bool:
    """Whether two neighbours of a chain have units that could be converted, a percentage of something, or a scale."""
    amounts = [
        [amount(operand[0], _first_number(operand[0])) for operand in OPERAND.finditer(text, start, end)]
        for (start, end, _), _ in known
    ]
    for i, ((_, left), (_, right)) in enumerate(pairwise(known)):
        left_amounts, right_amounts = amounts[i : i + 2]
        holds = _equal(left, right)
        if left.computes and in_doubt(left_amounts, right_amounts, normal=left.text, holds=holds):
            return True
        if right.computes and in_doubt(right_amounts, left_amounts, normal=right.text, holds=holds):
            return True
        if _adds_percent(left, right) and not holds:
            return True
    return False


def _first_number(operand: str) -> Fraction:
    match = re.search(_NUMBER, operand)
    return Fraction(match[0].replace(",", "")) if match else Fraction(0)


def _adds_percent(left: Side, right: Side) -> bool:
    """Whether a percentage is added or subtracted, as in `$50 - 20% = $40`: many people mean a share of the amount
    before it."""
    return any(len({"%" in term for term in re.split(r"(?<=[\d%)])[-+]", side.text)}) > 1 for side in (left, right))


def _is_part_of_an_amount(text: str, first: tuple[int, int, Side | None], before: str) -> bool:
    """Whether the first side is only a part, as in `5 (2 + 3)` and `2 hours 20 minutes`, or is an amount in one unit
    that the next side may give in another, as in `14 hours = 14 * 60`."""
    start, end, side = first
    if text[start : start + 1] in "([" and re.search(r"[\d%)][ ]?\Z", before):
        return True
    return side is not None and not side.computes and re.search(r"[^\W\d_]\Z", text[start:end]) is not None


def _balanced(text: str) -> tuple[int, int]:
    """Start and end of the part of a side in which every bracket has its partner."""
    open_at: list[int] = []
    for position, character in enumerate(text):
        if character in "([":
            open_at.append(position)
        elif character in ")]":
            if not open_at:
                return 0, position
            open_at.pop()
    return (open_at[-1] + 1 if open_at else 0), len(text)


def _normal(text: str) -> str:
    pieces: list[str] = []
    for match in TOKEN.finditer(text):
        if match["mixed"]:
            integer, _, part = match[0].partition(" ")
            pieces.append(f"({integer}+{part})")
        elif match["fraction"]:
            pieces.append(f"({match[0]})")  # 1 / 2/3 is 1 divided by two thirds
        elif match["number"]:
            pieces.append(match[0].replace(",", ""))
        elif match["operator"]:
            pieces.append(NORMAL.get(match[0], match[0]))
    return re.sub(r"(?<=[\d)%])(?=\()", "*", "".join(pieces))


def _side(text: str) -> Side | None:
    value = evaluate(text)
    return None if value is None else Side(text=text, value=value)


def _text(sides: tuple[Side, ...]) -> str:
    return "=".join(side.text for side in sides)


def _first_difference(sides: tuple[Side, ...]) -> str:
    """The first neighbours of a chain that differ; "" if none do. Two plain numbers may be one amount in two units, so
    they are not compared."""
    for left, right in pairwise(sides):
        if (left.computes or right.computes) and not _equal(left, right):
            return f"{left.text}={right.text} is wrong"
    return ""


def _equal(left: Side, right: Side) -> bool:
    """Whether two sides are equal. A share may be in percent on one side, with or without the sign: 3/4=75%,
    100%-30%=70, 3/4*100%=75.

    A part of something may not: 10%*200 is 20, never 2000.
    """
    if close(left.value, right.value):
        return True
    if ("%" in left.text) == ("%" in right.text):
        return False
    in_percent, other = (left, right) if "%" in left.text else (right, left)
    is_share = "*100%" in in_percent.text or re.search(r"[*/]", in_percent.text) is None
    return is_share and close(100 * in_percent.value, other.value)

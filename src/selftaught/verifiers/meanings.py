"""What the tree of a formula means, in sympy's terms: an amount, an equation, a set, several of these.

What has no meaning here, or would be too large to compute, raises UndecidedError.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import sympy

from selftaught.formulas.trees import Node
from selftaught.verifiers.identity import equal

MAX_BITS = 100_000
"""Of a power of numbers."""
MAX_ARGUMENT = 3_000
"""Of a factorial."""

DEGREE = sympy.Symbol("degree", positive=True)
LOG_BASE = sympy.Symbol("base of log", positive=True)
"""\\log without a base is to any one: what is said of it must hold for all."""
SETS = {
    "R": sympy.S.Reals,
    "Q": sympy.S.Rationals,
    "Z": sympy.S.Integers,
    "N": sympy.S.Naturals,
    "C": sympy.S.Complexes,
}
CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}
FUNCTIONS: dict[Node | str, Callable[..., Any]] = {
    **{name: getattr(sympy, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{"arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "exp": sympy.exp, "ln": sympy.log},
    **{"abs": sympy.Abs, "floor": sympy.floor, "ceiling": sympy.ceiling},
}


class UndecidedError(Exception):
    """The formula has no meaning here, or is too large to be computed."""


@dataclass(frozen=True)
class Amount:
    """A number, an expression or a matrix."""

    value: Any
    unit: str = ""
    percent: bool = False


@dataclass(frozen=True)
class Several:
    """`1, 2`, `x = 1 or x = 2`, `\\pm 1`: in any order."""

    items: tuple[Any, ...]
    joint: str = ","


@dataclass(frozen=True)
class Braces:
    """A finite set."""

    items: tuple[Any, ...]


@dataclass(frozen=True)
class Row:
    """Things in brackets, in order; of two things perhaps an interval."""

    items: tuple[Any, ...]
    brackets: str


@dataclass(frozen=True)
class Region:
    """A set of sympy's; of a solved inequality with its variable."""

    set: Any
    variable: Any = None


@dataclass(frozen=True)
class Equation:
    left: Any
    right: Any


@dataclass(frozen=True)
class Named:
    """`A = \\{1, 2\\}`."""

    name: Any
    meaning: Any


@dataclass(frozen=True)
class Inequality:
    """`difference sign 0` in several variables, or of a higher degree."""

    difference: Any
    sign: str


@dataclass(frozen=True)
class Ratio:
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Based:
    digits: str
    base: int

    @property
    def value(self) -> Any:
        return sympy.Integer(int(self.digits, self.base))


# From trees to meanings


def meaning(tree: Node) -> Any:
    signs = _count(tree, ("pm",)), _count(tree, ("mp",))
    if tree.op not in ("list", "set") and signs != (0, 0):
        if signs[0] != 1:
            raise UndecidedError  # \pm 1 \pm 2 may be two numbers or four
        return Several(_flat(meaning(_with_sign(tree, upper=upper)) for upper in (True, False)))
    match tree.op:
        case "list":
            return _listed([meaning(part) for part in tree.parts], str(tree.value))
        case "set":
            return Braces(_flat(meaning(part) for part in tree.parts))
        case "seq":
            return Row(tuple(meaning(part) for part in tree.parts), str(tree.value))
        case "relation":
            return _related(tree)
        case "builder":
            return _built(*tree.parts)
        case "cup" | "cap" | "setminus":
            sets = [as_set(meaning(part)) for part in tree.parts]
            join = {"cup": sympy.Union, "cap": sympy.Intersection, "setminus": sympy.Complement}[tree.op]
            return Region(join(*sets))
        case "constant" if tree.value in SETS:
            return Region(SETS[str(tree.value)])
        case "constant" if tree.value == "empty":
            return Region(sympy.S.EmptySet)
        case "ratio":
            return Ratio(tuple(_value(part) for part in tree.parts))
        case "based" if isinstance(tree.value, tuple):
            return Based(tree.value[0], int(tree.value[1]))
        case "percent":
            return Amount(_value(tree.parts[0]), percent=True)
        case "unit":
            return Amount(_value(tree.parts[0]), unit=str(tree.value))
    return Amount(_value(tree))


def _count(tree: Node, ops: tuple[str, ...]) -> int:
    return (tree.op in ops) + sum(_count(part, ops) for part in tree.parts)


def _with_sign(tree: Node, *, upper: bool) -> Node:
    parts = tuple(_with_sign(part, upper=upper) for part in tree.parts)
    if tree.op in ("pm", "mp"):
        return parts[0] if (tree.op == "pm") == upper else Node("neg", parts)
    return Node(tree.op, parts, tree.value)


def _flat(items: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(part for item in items for part in (item.items if isinstance(item, Several) else (item,)))


def _listed(items: list[Any], joint: str) -> Any:
    """Inequalities of one variable are one set; everything else is several things."""
    if joint in ("or", "and") and all(isinstance(item, Region) and item.variable is not None for item in items):
        if len({item.variable for item in items}) > 1:
            raise UndecidedError
        join = sympy.Union if joint == "or" else sympy.Intersection
        return Region(join(*(item.set for item in items)), items[0].variable)
    return Several(_flat(items), joint)


def _related(tree: Node) -> Any:
    signs = tree.value if isinstance(tree.value, tuple) else ()
    if set(signs) == {"="}:
        return _equated([meaning(part) for part in tree.parts])
    if signs == ("\\in",):
        return Region(as_set(meaning(tree.parts[1])), _value(tree.parts[0]))
    if not (set(signs) <= {"<", "\\le"} or set(signs) <= {">", "\\ge"} or signs == ("\\ne",)):
        raise UndecidedError
    sides = [_value(part) for part in tree.parts]
    pieces = [_inequality(left, sign, right) for left, sign, right in zip(sides, signs, sides[1:], strict=False)]
    if len(pieces) == 1:
        return pieces[0]
    return _listed(pieces, "and")


def _equated(sides: list[Any]) -> Any:
    """`x = 5` as an equation; `1/2 = 0.5` as its number, and `x = 10/2 = 5` as its ends, where they are equal."""
    first, last = sides[0], sides[-1]
    for left, right in pairwise(sides[1:]):
        if not (isinstance(left, Amount) and isinstance(right, Amount) and equal(left.value, right.value)):
            raise UndecidedError
    if isinstance(first, Row) and isinstance(last, Row) and first.brackets == last.brackets == "()":
        names = [item.value for item in first.items if isinstance(item, Amount)]
        if len(names) == len(last.items) and all(map(is_name, names)) and names == sorted(names, key=str):
            return last
        raise UndecidedError
    if not isinstance(first, Amount) or first.unit or first.percent:
        raise UndecidedError
    if not isinstance(last, Amount) or isinstance(last.value, sympy.MatrixBase):
        if not is_name(first.value):
            raise UndecidedError
        return Named(first.value, last)
    if not first.value.free_symbols and not last.value.free_symbols and not is_name(first.value):
        if not equal(first.value, last.value):
            raise UndecidedError
        return last
    if (last.unit or last.percent) and not is_name(first.value):
        raise UndecidedError
    return Named(first.value, last) if _is_named(first.value, last.value) else Equation(first.value, last.value)


def is_name(value: Any) -> bool:
    return isinstance(value, sympy.Symbol | sympy.core.function.AppliedUndef)


def _is_named(name: Any, value: Any) -> bool:
    return is_name(name) and not value.has(name)


def _inequality(left: Any, sign: str, right: Any) -> Any:
    """Solved where it is linear in one variable; the sign is then one of `<`, `\\le`, `\\ne`."""
    if sign in (">", "\\ge"):
        left, right, sign = right, left, {">": "<", "\\ge": "\\le"}[sign]
    if sympy.oo in (left, right) or -sympy.oo in (left, right):
        raise UndecidedError
    difference = sympy.expand(left - right)
    symbols = difference.free_symbols
    if not symbols:
        raise UndecidedError  # 1 < 2 is true, and so is 3 < 4
    if len(symbols) == 1:
        (variable,) = symbols
        slope, rest = difference.coeff(variable, 1), difference.coeff(variable, 0)
        if sympy.expand(slope * variable + rest - difference) == 0 and slope.is_real and rest.is_real and slope != 0:
            bound = sympy.simplify(-rest / slope)
            if sign == "\\ne":
                return Region(sympy.Complement(sympy.S.Reals, sympy.FiniteSet(bound)), variable)
            is_open = sign == "<"
            if slope > 0:
                return Region(sympy.Interval(-sympy.oo, bound, True, is_open), variable)
            return Region(sympy.Interval(bound, sympy.oo, is_open, True), variable)
    return Inequality(difference, sign)


def _built(first: Node, condition: Node) -> Any:
    """`\\{x \\mid x > 3\\}`, `\\{x \\in \\mathbb{R} : x > 3\\}`."""
    head: Any = meaning(first)
    region = meaning(condition)
    within = sympy.S.Reals
    if isinstance(head, Region) and head.variable is not None:
        within, head = head.set, Amount(head.variable)
    if not isinstance(head, Amount) or not isinstance(region, Region) or region.variable != head.value:
        raise UndecidedError
    return Region(sympy.Intersection(within, region.set))


def as_set(found: Any) -> Any:
    if isinstance(found, Region) and found.variable is None:
        return found.set
    if isinstance(found, Braces) and all(isinstance(item, Amount) and not item.percent for item in found.items):
        return sympy.FiniteSet(*(item.value for item in found.items))
    if isinstance(found, Row) and len(found.items) == 2 and found.brackets in ("()", "[]", "(]", "[)"):
        ends = [item.value for item in found.items if isinstance(item, Amount) and not item.percent]
        if (
            len(ends) == 2
            and all(end.is_extended_real and not end.free_symbols for end in ends)
            and _rises(ends, found.brackets)
        ):
            return sympy.Interval(*ends, found.brackets[0] == "(", found.brackets[1] == ")")
    raise UndecidedError


def _rises(ends: list[Any], brackets: str) -> bool:
    """(2, 1) and (1, 1) are points: nobody writes an empty interval so."""
    return bool(ends[0] < ends[1]) or (brackets == "[]" and ends[0] == ends[1])


def _value(tree: Node) -> Any:
    """Of an expression, by sympy's own operators."""
    parts = [_value(part) for part in tree.parts] if tree.op != "matrix" else []
    match tree.op:
        case "number" if isinstance(tree.value, Fraction):
            found = sympy.Rational(tree.value.numerator, tree.value.denominator)
        case "symbol":
            found = sympy.Symbol(str(tree.value))
        case "constant" if tree.value in CONSTANTS:
            found = CONSTANTS[str(tree.value)]
        case "based" if isinstance(tree.value, tuple):
            found = sympy.Integer(int(tree.value[0], int(tree.value[1])))
        case "neg":
            found = -parts[0]
        case "add":
            found = sum(parts[1:], start=parts[0])
        case "mul":
            found = math.prod(parts[1:], start=parts[0])
        case "div":
            found = parts[0] / parts[1]
        case "pow":
            found = _power(*parts)
        case "root":
            found = _power(parts[0], 1 / parts[1])
        case "fact" | "binom":
            if any(part.is_number and not abs(part) <= MAX_ARGUMENT for part in parts):
                raise UndecidedError
            found = sympy.factorial(*parts) if tree.op == "fact" else sympy.binomial(*parts)
        case "degree":
            found = parts[0] * DEGREE
        case "matrix" if isinstance(tree.value, int):
            cells = [_value(part) for part in tree.parts]
            found = sympy.ImmutableMatrix(tree.value, len(cells) // tree.value, cells)
        case "call":
            found = _called(str(tree.value), parts)
        case _:
            raise UndecidedError
    if not isinstance(found, sympy.Expr | sympy.MatrixBase) or found.has(sympy.nan, sympy.zoo):
        raise UndecidedError
    return found


def _power(base: Any, exponent: Any) -> Any:
    if base.is_number and exponent.is_number:
        bits = max(abs(base.p), base.q).bit_length() if base.is_Rational else 64
        if not exponent.is_finite or (exponent.is_Rational and abs(exponent) * bits > MAX_BITS):
            raise UndecidedError
    return base**exponent


def _called(name: str, arguments: list[Any]) -> Any:
    if name.startswith("apply "):
        return sympy.Function(name.removeprefix("apply "))(*arguments)
    arguments = [argument.subs(DEGREE, sympy.pi / 180) for argument in arguments]
    if name == "log":
        return sympy.log(arguments[0]) / sympy.log(arguments[1] if len(arguments) == 2 else LOG_BASE)
    return FUNCTIONS[name](*arguments)

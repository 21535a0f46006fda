"""The meaning of a formula's tree, in sympy's terms: an amount, an equation, a set, several of these.

A tree that has no meaning here, or would be too large to compute, raises UndecidedError.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from selftaught.grading.formulas.trees import Node
from selftaught.grading.verifiers.identity import equal
from selftaught.grading.verifiers.values import UndecidedError, value

MAX_PLACES = 30
"""The most places of a finite decimal."""
SETS = {
    "R": sympy.S.Reals,
    "Q": sympy.S.Rationals,
    "Z": sympy.S.Integers,
    "N": sympy.S.Naturals,
    "C": sympy.S.Complexes,
}


@dataclass(frozen=True)
class Amount:
    """A number, an expression or a matrix."""

    value: Any
    unit: str = ""
    percent: bool = False


@dataclass(frozen=True)
class Several:
    """Several meanings in any order: `1, 2`, `x = 1 or x = 2`, `\\pm 1`."""

    items: tuple[Any, ...]
    joint: str = ","


@dataclass(frozen=True)
class Braces:
    """A finite set."""

    items: tuple[Any, ...]


@dataclass(frozen=True)
class Row:
    """Items in brackets, in order; two items may be an interval."""

    items: tuple[Any, ...]
    brackets: str


@dataclass(frozen=True)
class Region:
    """A set of sympy; the solution of an inequality also has its variable."""

    set: Any
    variable: Any = None


@dataclass(frozen=True)
class Equation:
    left: Any
    right: Any
    gives_value: bool = False
    """Whether the right side is the value of the left side: `m + n = 17`, `BC = 5`."""


@dataclass(frozen=True)
class Rounded:
    """An exact value and its rounded form: `\\frac{1}{3} \\approx 0.33`."""

    exact: Any
    rounded: Any


@dataclass(frozen=True)
class Named:
    """A name and the meaning it is given: `A = \\{1, 2\\}`."""

    name: Any
    meaning: Any


@dataclass(frozen=True)
class Inequality:
    """`difference sign 0`, an inequality in several variables or of a higher degree."""

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
            if tree.value == "or" and len(tree.parts) == 2 and (rounded := _in_decimals(*tree.parts)) is not None:
                return rounded
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
            return Ratio(tuple(value(part) for part in tree.parts))
        case "based" if isinstance(tree.value, tuple):
            return Based(tree.value[0], int(tree.value[1]))
        case "percent":
            return Amount(value(tree.parts[0]), percent=True)
        case "unit":
            return Amount(value(tree.parts[0]), unit=str(tree.value))
    return Amount(value(tree))


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
    """Inequalities of one variable are one set; any other list is several meanings."""
    if joint in ("or", "and") and all(isinstance(item, Region) and item.variable is not None for item in items):
        if len({item.variable for item in items}) > 1:
            raise UndecidedError
        join = sympy.Union if joint == "or" else sympy.Intersection
        return Region(join(*(item.set for item in items)), items[0].variable)
    if joint == "or" and all(item == items[0] or _is_same_amount(item, items[0]) for item in items):
        return items[0]  # \frac{3}{4} or 0.75
    return Several(_flat(items), joint)


def _is_same_amount(one: Any, other: Any) -> bool:
    if (
        not isinstance(one, Amount)
        or not isinstance(other, Amount)
        or (one.unit, one.percent) != (other.unit, other.percent)
    ):
        return False
    return equal(one.value, other.value) is True


def _related(tree: Node) -> Any:
    signs = tree.value if isinstance(tree.value, tuple) else ()
    if signs[-1:] == ("\\approx",) and set(signs[:-1]) <= {"="}:
        return _rounded(tree.parts[:-1], tree.parts[-1])
    if set(signs) == {"="}:
        return _equated([meaning(part) for part in tree.parts], gives_value=_is_combined(tree.parts[0]))
    if signs == ("\\in",):
        return Region(as_set(meaning(tree.parts[1])), value(tree.parts[0]))
    if not (set(signs) <= {"<", "\\le"} or set(signs) <= {">", "\\ge"} or signs == ("\\ne",)):
        raise UndecidedError
    sides = [value(part) for part in tree.parts]
    pieces = [_inequality(left, sign, right) for left, sign, right in zip(sides, signs, sides[1:], strict=False)]
    if len(pieces) == 1:
        return pieces[0]
    return _listed(pieces, "and")


def _rounded(sides: tuple[Node, ...], rounded: Node) -> Rounded:
    """A number and its first digits."""
    exact = _equated([meaning(part) for part in sides]) if len(sides) > 1 else meaning(sides[0])
    amount = exact.meaning if isinstance(exact, Named) else exact
    digits = meaning(rounded)
    if not isinstance(amount, Amount) or not isinstance(digits, Amount) or amount.percent != digits.percent:
        raise UndecidedError
    denominator = digits.value.q if digits.value.is_Rational else 0
    places = next((places for places in range(MAX_PLACES) if denominator and 10**places % denominator == 0), None)
    if places is None or rounded.op not in ("number", "unit", "percent", "neg"):
        raise UndecidedError
    if not amount.value.is_extended_real or amount.value.free_symbols:
        raise UndecidedError
    if not abs(amount.value - digits.value) * 10**places < 1:
        raise UndecidedError
    return Rounded(exact, digits)


def _in_decimals(exact: Node, rounded: Node) -> Rounded | None:
    """A fraction and its decimals, `\\frac{1}{3} or 0.333`; None for two numbers, "0.4 or 0.36"."""
    try:
        candidate = _rounded((exact,), rounded)
    except UndecidedError:
        return None
    amounts = (getattr(candidate.exact, "value", None), candidate.rounded.value)
    ends = amounts[0] is None or (amounts[0].is_Rational and 10**MAX_PLACES % amounts[0].q == 0)
    return None if ends or amounts[1].q == 1 else candidate


def _is_combined(tree: Node) -> bool:
    """Whether a problem may ask for this left side of an equation: `m + n`, `xy`, `BC`, `|AB|`, each letter once."""
    letters: list[Node] = []

    def only_joins(part: Node, *, is_first: bool = True) -> bool:
        if part.op == "symbol" or (part.op == "call" and str(part.value).startswith("apply ")):
            letters.append(part)
            return True
        if part.op == "neg" and not is_first:
            return only_joins(part.parts[0])
        if part.op not in ("add", "mul", "div") and (part.op, part.value) != ("call", "abs"):
            return False
        return all(only_joins(piece, is_first=index == 0) for index, piece in enumerate(part.parts))

    return only_joins(tree) and len(set(letters)) == len(letters)


def _equated(sides: list[Any], *, gives_value: bool = False) -> Any:
    """The meaning of equal sides: `x = 5` is an equation, `1/2 = 0.5` a number, and `x = 10/2 = 5` is `x = 5`."""
    first, last = sides[0], sides[-1]
    for left, right in pairwise(sides[1:]):
        if not (isinstance(left, Amount) and isinstance(right, Amount) and equal(left.value, right.value)):
            raise UndecidedError
    if isinstance(first, Ratio) and isinstance(last, Ratio) and len(first.items) == len(last.items):
        if any(item.is_number for item in first.items) or list(first.items) != sorted(first.items, key=str):
            raise UndecidedError
        return last
    if isinstance(first, Row) and isinstance(last, Row) and first.brackets == last.brackets == "()":
        names = [item.value for item in first.items if isinstance(item, Amount)]
        if len(names) == len(last.items) and all(map(is_name, names)) and names == sorted(names, key=str):
            return last
        raise UndecidedError
    if not isinstance(first, Amount) or first.percent:
        raise UndecidedError
    if first.unit:
        if not _is_same_amount(first, last):
            raise UndecidedError
        return last
    if not isinstance(last, Amount) or isinstance(last.value, sympy.MatrixBase):
        if not is_name(first.value):
            raise UndecidedError
        return Named(first.value, last)
    is_known = not any(side.value.free_symbols or side.value.has(AppliedUndef) for side in (first, last))
    if is_known:
        if not equal(first.value, last.value):
            raise UndecidedError
        return last
    if _is_named(first.value, last.value):
        return Named(first.value, last)
    if not is_name(last.value) and equal(first.value, last.value):
        return last  # (x + 1)^2 = x^2 + 2x + 1
    if last.unit or last.percent:
        raise UndecidedError
    return Equation(first.value, last.value, gives_value and not last.value.free_symbols)


def is_name(value: Any) -> bool:
    return isinstance(value, sympy.Symbol | AppliedUndef)


def _is_named(name: Any, value: Any) -> bool:
    return is_name(name) and not value.has(name)


def _inequality(left: Any, sign: str, right: Any) -> Any:
    """An inequality, solved if it is linear in one variable; else its sign is one of `<`, `\\le`, `\\ne`."""
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
    return _of_size(difference, sign) or Inequality(difference, sign)


def _of_size(difference: Any, sign: str) -> Region | None:
    """The solution of `|x - 1| < 2` or `|x - 1| > 2`."""
    sizes = list(difference.atoms(sympy.Abs))
    if len(sizes) != 1 or sign == "\\ne":
        return None
    slope, rest = difference.coeff(sizes[0], 1), difference.coeff(sizes[0], 0)
    if not (slope.is_real and rest.is_real) or sympy.expand(slope * sizes[0] + rest - difference) != 0:
        return None
    inside, bound = sizes[0].args[0], -rest / slope
    if slope > 0:
        halves = [_inequality(inside, sign, bound), _inequality(-bound, sign, inside)]
    else:
        halves = [_inequality(bound, sign, inside), _inequality(inside, sign, -bound)]
    if not all(isinstance(half, Region) for half in halves):
        return None
    join = sympy.Intersection if slope > 0 else sympy.Union
    return Region(join(*(half.set for half in halves)), halves[0].variable)


def _built(first: Node, condition: Node) -> Any:
    """A set with a condition: `\\{x \\mid x > 3\\}`, `\\{x \\in \\mathbb{R} : x > 3\\}`."""
    head: Any = meaning(first)
    region = meaning(condition)
    within = sympy.S.Reals
    if isinstance(head, Region) and head.variable is not None:
        within, head = head.set, Amount(head.variable)
    if not isinstance(head, Amount) or not isinstance(region, Region) or region.variable != head.value:
        raise UndecidedError
    return Region(sympy.Intersection(within, region.set))


def as_set(candidate: Any) -> Any:
    if isinstance(candidate, Region) and candidate.variable is None:
        return candidate.set
    if isinstance(candidate, Braces) and all(isinstance(item, Amount) and not item.percent for item in candidate.items):
        return sympy.FiniteSet(*(item.value for item in candidate.items))
    if isinstance(candidate, Row) and len(candidate.items) == 2 and candidate.brackets in ("()", "[]", "(]", "[)"):
        ends = [item.value for item in candidate.items if isinstance(item, Amount) and not item.percent]
        if (
            len(ends) == 2
            and all(end.is_extended_real and not end.free_symbols for end in ends)
            and _rises(ends, candidate.brackets)
        ):
            return sympy.Interval(*ends, candidate.brackets[0] == "(", candidate.brackets[1] == ")")
    raise UndecidedError


def _rises(ends: list[Any], brackets: str) -> bool:
    """Whether two ends make an interval; (2, 1) and (1, 1) are points, not empty intervals."""
    return bool(ends[0] < ends[1]) or (brackets == "[]" and ends[0] == ends[1])

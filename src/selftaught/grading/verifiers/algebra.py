"""Whether two formulas mean the same: True is proved, False is disproved, and None is neither.

It runs in a verifier process (`process.py`), because sympy may need any amount of time and memory.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import sympy

from selftaught.grading.formulas import readings
from selftaught.grading.verifiers.identity import equal, every
from selftaught.grading.verifiers.meanings import (
    Amount,
    Based,
    Braces,
    Equation,
    Inequality,
    Named,
    Ratio,
    Region,
    Rounded,
    Row,
    Several,
    as_set,
    is_name,
    meaning,
)
from selftaught.grading.verifiers.values import DEGREE, UndecidedError

SCALES = frozenset(map(sympy.Symbol, "kKMBT"))
"""Letters that may stand for thousands, millions and so on."""


def same_formula(answer: str, prediction: str) -> bool | None:
    """Whether two texts mean the same; None where one of them has no reading, or where it cannot be decided."""
    try:
        reference, stated = _meaning(answer), _meaning(prediction)
        result = same(stated, reference)
    except UndecidedError:
        return None
    # x + y = 17 may be the required equation of a line, which 17 is not.
    return None if result and isinstance(reference, Equation) and isinstance(stated, Amount) else result


def _meaning(text: str) -> Any:
    """The meaning of the first reading that has one: a comma in brackets separates, or else groups digits."""
    for tree in readings(text):
        try:
            return meaning(tree)
        except UndecidedError:
            continue
    raise UndecidedError


def same(one: Any, other: Any) -> bool | None:
    """Whether two meanings are the same, in either order."""
    for left, right in ((one, other), (other, one)):
        compare = _COMPARISONS.get((type(left), type(right)))
        if compare is not None:
            result = compare(left, right)
            break
    else:
        result = False
    # Several lines may be the steps of a solution.
    return None if result is False and (_is_lines(one) or _is_lines(other)) else result


def _is_lines(value: Any) -> bool:
    return isinstance(value, Several) and value.joint == "\\\\"


def _amounts(one: Amount, other: Amount) -> bool | None:
    """Units matter only where both sides have one; then they must agree. 20% equals both 20 and 0.2."""
    result = _degrees(one, other)
    names = one.value.free_symbols, other.value.free_symbols
    if set() in names and any(len(letters) == 1 and letters <= SCALES for letters in names):
        return None  # 5M may be five million
    if one.percent != other.percent and result is not True:
        share, bare = (one, other) if one.percent else (other, one)
        result = equal(share.value / 100, bare.value)
    return None if one.unit and other.unit and one.unit != other.unit else result


def _degrees(one: Amount, other: Amount) -> bool | None:
    """90° equals 90 and π/2, but not 90 radians; and π/2 degrees do not equal π/2."""
    if one.value.has(DEGREE) == other.value.has(DEGREE):
        return equal(one.value, other.value)
    angle, bare = (one, other) if one.value.has(DEGREE) else (other, one)
    is_bare = bare.unit in ("", angle.unit) and not angle.value.has(sympy.pi)
    sizes = [sympy.pi / 180, *([sympy.Integer(1)] if is_bare else [])]
    results = [equal(angle.value.subs(DEGREE, size), bare.value) for size in sizes]
    return True if True in results else (None if None in results else False)


def _named(one: Named, other: Any) -> bool | None:
    """`x = 5` equals 5, unless the other side contains x."""
    if isinstance(other, Named):
        if one.name == other.name:
            return same(one.meaning, other.meaning)
        if isinstance(one.meaning, Amount) and isinstance(other.meaning, Amount):
            return _equations(_equation(one), _equation(other))
        return False
    if isinstance(other, Equation):
        return _equations(_equation(one), other) if isinstance(one.meaning, Amount) else False
    if isinstance(other, Amount) and other.value.has(one.name):
        return False
    if isinstance(other, Region) and other.variable is not None:
        return None
    return same(one.meaning, other)


def _rounded(one: Rounded, other: Any) -> bool | None:
    """The exact value decides; where only the rounded one agrees, it is unclear which one is required."""
    if isinstance(other, Rounded):
        return same(one.exact, other.exact)
    result = same(one.exact, other)
    return result or (None if same(one.rounded, other) is not False else result)


def _gives(one: Equation, other: Amount) -> bool | None:
    """`m + n = 17` equals 17; `2x = 10` may or may not equal 10."""
    result = equal(one.right, other.value)
    return result if one.gives_value or not result else None


def _equation(named: Named) -> Equation:
    return Equation(named.name, named.meaning.value)


def _equations(one: Equation, other: Equation) -> bool | None:
    """Two equations are the same if one is the other times a number."""
    first, second = one.left - one.right, other.left - other.right
    if first == second != 0:
        return True
    if first.free_symbols != second.free_symbols or second == 0 or first == 0:
        return False
    factor = sympy.cancel(sympy.together(first / second))
    if factor.is_number:
        return bool(factor.is_finite and factor != 0) or None
    if {one.left, one.right} & {other.left, other.right}:  # y = …: the other sides decide
        return equal(first, second) or equal(first, -second)
    return None if equal(first, second) is None else False


def _inequalities(one: Inequality, other: Inequality) -> bool | None:
    if one.difference.free_symbols != other.difference.free_symbols:
        return False
    factor = sympy.cancel(sympy.together(one.difference / other.difference))
    if not factor.is_number:
        return None
    return bool(one.sign == other.sign and (factor.is_positive or (one.sign == "\\ne" and factor != 0)))


def _several(one: Several, other: Several | Braces) -> bool | None:
    """The same items in any order. If several names occur, both sides must give each name the same value."""
    names = [{item.name for item in side.items if isinstance(item, Named)} for side in (one, other)]
    if len(one.items) != len(other.items):
        return False
    if set() in names and _are_numbered(names[0] | names[1]):
        return _match_in_any_order(*([getattr(item, "meaning", item) for item in side.items] for side in (one, other)))
    if max(map(len, names)) > 1 and (names[0] != names[1] or _is_either(one) != _is_either(other)):
        return None
    if _is_either(one) != _is_either(other) and any(
        isinstance(item, Amount) and is_name(item.value) for item in one.items
    ):
        return None  # "A, B" may mean both, while "A or B" means one of them
    return _match_in_any_order(one.items, other.items)


def _are_numbered(names: set[Any]) -> bool:
    """Whether x_1, x_2 are several values of one unknown; the values of a sequence have an order."""
    parts = [str(name).partition("_") for name in names]
    return len({letter for letter, _, _ in parts}) == 1 and all(
        re.fullmatch("[xyztr]", part[0]) and part[2] for part in parts
    )


def _finite(one: Several, other: Region) -> bool | None:
    """A list and a finite set: `2, 4` and `x \\in \\{2, 4\\}`."""
    items = [item for item in one.items if isinstance(item, Amount) and not item.percent and not item.unit]
    if not isinstance(other.set, sympy.FiniteSet) or len(items) < len(one.items):
        return None
    return _match_in_any_order(items, [Amount(value) for value in other.set.args])


def _grouped(one: Several, other: Amount) -> bool | None:
    """A list and a number: `1,\\,234` may be one number."""
    digits = [str(item.value) for item in one.items if isinstance(item, Amount) and item.value.is_Integer]
    are_groups = len(digits) == len(one.items) and all(len(group) == 3 for group in digits[1:]) and one.joint == ","
    return None if are_groups and "".join(digits) == str(other.value) else False


def _is_either(value: Several | Braces) -> bool:
    return isinstance(value, Several) and value.joint == "or"


def _match_in_any_order(ones: Sequence[Any], others: Sequence[Any]) -> bool | None:
    remaining = list(others)
    is_certain = True
    for item in ones:
        results = [same(item, other) for other in remaining]
        if True in results:
            del remaining[results.index(True)]
        elif None in results:
            is_certain = False
        else:
            return False
    return True if is_certain else None


def _sets(one: Braces, other: Braces) -> bool | None:
    covers = [
        every(_any(same(item, other) for other in others) for item in items)
        for items, others in ((one.items, other.items), (other.items, one.items))
    ]
    return every(iter(covers))


def _any(answers: Any) -> bool | None:
    results = list(answers)
    return True if True in results else (None if None in results else False)


def _rows(one: Row, other: Row) -> bool | None:
    if len(one.items) != len(other.items):
        return False
    result = every(same(left, right) for left, right in zip(one.items, other.items, strict=True))
    if one.brackets == other.brackets or not result:
        return result
    return None if "\\langle" in one.brackets + other.brackets or len(one.items) != 2 else False


def _regions(one: Region, other: Region) -> bool | None:
    if one.variable is not None and other.variable is not None and one.variable != other.variable:
        return False
    if one.set == other.set:
        return True
    difference = sympy.SymmetricDifference(one.set, other.set)
    if difference.is_empty:
        return True
    return False if difference.is_empty is False or isinstance(difference, sympy.FiniteSet | sympy.Interval) else None


def _region(one: Region, other: Any) -> bool | None:
    try:
        region = Region(as_set(other))
    except UndecidedError:
        return False if isinstance(other, Row) else None
    return _regions(one, region)


def _ratios(one: Ratio, other: Ratio) -> bool | None:
    """4:3 and 8:6 are the same ratio, but perhaps not the required form of it."""
    if len(one.items) != len(other.items):
        return False
    if every(equal(left, right) for left, right in zip(one.items, other.items, strict=True)):
        return True
    (first, *ones), (second, *others) = one.items, other.items
    crosses = [equal(left * second, right * first) for left, right in zip(ones, others, strict=True)]
    return False if False in crosses else None


def _based(one: Based, other: Any) -> bool | None:
    """43_7 is in the required base: 31 has the same value and 43 the same digits, but neither is the same number."""
    if isinstance(other, Based):
        return (one.digits, one.base) == (other.digits, other.base) or (None if one.value == other.value else False)
    if one.base == 10:
        return same(Amount(one.value), other)
    is_near = any(_amounts(Amount(value), other) for value in (one.value, sympy.Integer(one.digits)))
    return None if is_near else False


def _undecided(_one: Any, _other: Any) -> None:
    return None


def _with_same_parts(one: Several | Braces, other: Any) -> bool | None:
    """`1, 2` and `(1, 2)`, `\\{5\\}` and 5: different things with the same parts, which may be meant as the same."""
    items = other.items if isinstance(other, Row) else (other,)
    names = [str(item.name) for item in one.items if isinstance(item, Named)]
    if names and names == [*"xyz"][: len(one.items)] and isinstance(other, Row) and not _is_either(one):
        is_same = _rows(Row(tuple(item.meaning for item in one.items), other.brackets), other)
        return True if is_same and other.brackets == "()" else None
    has_same_parts = len(one.items) == len(items) and _match_in_any_order(one.items, items)
    return None if has_same_parts is not False else False


def _matrix_and_row(one: Amount, other: Row) -> bool | None:
    is_vector = isinstance(one.value, sympy.MatrixBase) and len(one.value) == len(other.items)
    return None if is_vector else False


_COMPARISONS: dict[tuple[type, type], Callable[[Any, Any], bool | None]] = {
    (Amount, Amount): _amounts,
    **{(Named, kind): _named for kind in (Named, Equation, Amount, Several, Braces, Row, Region, Ratio, Based)},
    (Equation, Equation): _equations,
    (Equation, Amount): _gives,
    **{
        (Rounded, kind): _rounded
        for kind in (Rounded, Named, Equation, Amount, Several, Braces, Row, Region, Ratio, Based)
    },
    (Inequality, Inequality): _inequalities,
    (Inequality, Region): _undecided,
    (Several, Several): _several,
    (Several, Braces): _several,
    (Several, Row): _with_same_parts,
    (Several, Region): _finite,
    (Several, Amount): _grouped,
    (Braces, Braces): _sets,
    (Braces, Amount): _with_same_parts,
    (Row, Row): _rows,
    (Region, Region): _regions,
    (Region, Row): _region,
    (Region, Braces): _region,
    (Ratio, Ratio): _ratios,
    (Ratio, Amount): _undecided,
    (Based, Based): _based,
    (Based, Amount): _based,
    (Amount, Row): _matrix_and_row,
}
"""The comparison of two kinds of meaning; kinds without an entry are different."""

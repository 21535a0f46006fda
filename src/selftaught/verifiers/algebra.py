"""Whether two formulas mean the same, exactly: yes is proved, no is shown, what is neither is None.

Runs in a worker process (`worker.py`), because what sympy is asked may take any time and any memory.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import sympy

from selftaught.formulas import readings
from selftaught.verifiers.identity import equal, every
from selftaught.verifiers.meanings import (
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
from selftaught.verifiers.values import DEGREE, UndecidedError

SCALES = frozenset(map(sympy.Symbol, "kKMBT"))
"""Letters that may stand for thousands, millions and so on."""


def same_formula(answer: str, prediction: str) -> bool | None:
    """Of two texts; None where one of them has no reading, or where nobody can tell."""
    try:
        asked, said = _meaning(answer), _meaning(prediction)
        found = same(said, asked)
    except UndecidedError:
        return None
    # x + y = 17 may be asked for as the equation of a line, which 17 is not.
    return None if found and isinstance(asked, Equation) and isinstance(said, Amount) else found


def _meaning(text: str) -> Any:
    """Of the first reading that has one: a comma in brackets separates, and groups digits where that says nothing."""
    for tree in readings(text):
        try:
            return meaning(tree)
        except UndecidedError:
            continue
    raise UndecidedError


def same(one: Any, other: Any) -> bool | None:
    """Of two meanings, in either order."""
    for left, right in ((one, other), (other, one)):
        compare = _COMPARED.get((type(left), type(right)))
        if compare is not None:
            found = compare(left, right)
            break
    else:
        found = False
    # Lines below one another may be the steps of a solution.
    return None if found is False and (_is_lines(one) or _is_lines(other)) else found


def _is_lines(found: Any) -> bool:
    return isinstance(found, Several) and found.joint == "\\\\"


def _amounts(one: Amount, other: Amount) -> bool | None:
    """Units do not count where only one side has them; where both do they must agree. 20% is 20 and 0.2."""
    found = _degrees(one, other)
    names = one.value.free_symbols, other.value.free_symbols
    if set() in names and any(len(letters) == 1 and letters <= SCALES for letters in names):
        return None  # 5M may be five million
    if one.percent != other.percent and found is not True:
        share, plain = (one, other) if one.percent else (other, one)
        found = equal(share.value / 100, plain.value)
    return None if one.unit and other.unit and one.unit != other.unit else found


def _degrees(one: Amount, other: Amount) -> bool | None:
    """90° is 90, and it is π/2; but it is not 90 radians, nor are π/2 degrees π/2."""
    if one.value.has(DEGREE) == other.value.has(DEGREE):
        return equal(one.value, other.value)
    turned, plain = (one, other) if one.value.has(DEGREE) else (other, one)
    is_bare = plain.unit in ("", turned.unit) and not turned.value.has(sympy.pi)
    sizes = [sympy.pi / 180, *([sympy.Integer(1)] if is_bare else [])]
    found = [equal(turned.value.subs(DEGREE, size), plain.value) for size in sizes]
    return True if True in found else (None if None in found else False)


def _named(one: Named, other: Any) -> bool | None:
    """`x = 5` is 5 where nothing else is asked for."""
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
    """What it is decides; where only what was shown agrees, nobody can tell what was asked for."""
    if isinstance(other, Rounded):
        return same(one.exact, other.exact)
    found = same(one.exact, other)
    return found or (None if same(one.shown, other) is not False else found)


def _gives(one: Equation, other: Amount) -> bool | None:
    """`m + n = 17` is 17, `2x = 10` perhaps 10."""
    found = equal(one.right, other.value)
    return found if one.gives_value or not found else None


def _equation(named: Named) -> Equation:
    return Equation(named.name, named.meaning.value)


def _equations(one: Equation, other: Equation) -> bool | None:
    """Equal if one is the other times a number."""
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
    """The same things in any order. With several names, each value must be given to its name on both sides."""
    names = [{item.name for item in side.items if isinstance(item, Named)} for side in (one, other)]
    if len(one.items) != len(other.items):
        return False
    if set() in names and _are_numbered(names[0] | names[1]):
        return _matched(*([getattr(item, "meaning", item) for item in side.items] for side in (one, other)))
    if max(map(len, names)) > 1 and (names[0] != names[1] or _is_either(one) != _is_either(other)):
        return None
    if _is_either(one) != _is_either(other) and any(
        isinstance(item, Amount) and is_name(item.value) for item in one.items
    ):
        return None  # "A, B" may be both, where "A or B" is one of them
    return _matched(one.items, other.items)


def _are_numbered(names: set[Any]) -> bool:
    """x_1 and x_2: several values of one unknown; those of a sequence are in order."""
    parts = [str(name).partition("_") for name in names]
    return len({letter for letter, _, _ in parts}) == 1 and all(
        re.fullmatch("[xyztr]", part[0]) and part[2] for part in parts
    )


def _finite(one: Several, other: Region) -> bool | None:
    """`2, 4` and `x \\in \\{2, 4\\}`."""
    items = [item for item in one.items if isinstance(item, Amount) and not item.percent and not item.unit]
    if not isinstance(other.set, sympy.FiniteSet) or len(items) < len(one.items):
        return None
    return _matched(items, [Amount(value) for value in other.set.args])


def _grouped(one: Several, other: Amount) -> bool | None:
    """`1,\\,234` may be one number."""
    digits = [str(item.value) for item in one.items if isinstance(item, Amount) and item.value.is_Integer]
    are_groups = len(digits) == len(one.items) and all(len(group) == 3 for group in digits[1:]) and one.joint == ","
    return None if are_groups and "".join(digits) == str(other.value) else False


def _is_either(found: Several | Braces) -> bool:
    return isinstance(found, Several) and found.joint == "or"


def _matched(ones: Sequence[Any], others: Sequence[Any]) -> bool | None:
    left = list(others)
    is_certain = True
    for item in ones:
        answers = [same(item, other) for other in left]
        if True in answers:
            del left[answers.index(True)]
        elif None in answers:
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
    found = list(answers)
    return True if True in found else (None if None in found else False)


def _rows(one: Row, other: Row) -> bool | None:
    if len(one.items) != len(other.items):
        return False
    found = every(same(left, right) for left, right in zip(one.items, other.items, strict=True))
    if one.brackets == other.brackets or not found:
        return found
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
        found = Region(as_set(other))
    except UndecidedError:
        return False if isinstance(other, Row) else None
    return _regions(one, found)


def _ratios(one: Ratio, other: Ratio) -> bool | None:
    """4:3 and 8:6 are the same ratio, but perhaps not the one that was asked for."""
    if len(one.items) != len(other.items):
        return False
    if every(equal(left, right) for left, right in zip(one.items, other.items, strict=True)):
        return True
    (first, *ones), (second, *others) = one.items, other.items
    crosses = [equal(left * second, right * first) for left, right in zip(ones, others, strict=True)]
    return False if False in crosses else None


def _based(one: Based, other: Any) -> bool | None:
    """43_7 is written in the base that was asked for: 31 has its value, 43 its digits, and neither is it."""
    if isinstance(other, Based):
        return (one.digits, one.base) == (other.digits, other.base) or (None if one.value == other.value else False)
    if one.base == 10:
        return same(Amount(one.value), other)
    is_near = any(_amounts(Amount(value), other) for value in (one.value, sympy.Integer(one.digits)))
    return None if is_near else False


def _unsure(_one: Any, _other: Any) -> None:
    return None


def _loose(one: Several | Braces, other: Any) -> bool | None:
    """`1, 2` and `(1, 2)`, `\\{5\\}` and 5: other things of the same parts, perhaps meant as the same."""
    items = other.items if isinstance(other, Row) else (other,)
    names = [str(item.name) for item in one.items if isinstance(item, Named)]
    if names and names == [*"xyz"][: len(one.items)] and isinstance(other, Row) and not _is_either(one):
        found = _rows(Row(tuple(item.meaning for item in one.items), other.brackets), other)
        return True if found and other.brackets == "()" else None
    found = len(one.items) == len(items) and _matched(one.items, items)
    return None if found is not False else False


def _matrix_and_row(one: Amount, other: Row) -> bool | None:
    is_vector = isinstance(one.value, sympy.MatrixBase) and len(one.value) == len(other.items)
    return None if is_vector else False


_COMPARED: dict[tuple[type, type], Callable[[Any, Any], bool | None]] = {
    (Amount, Amount): _amounts,
    **{(Named, kind): _named for kind in (Named, Equation, Amount, Several, Braces, Row, Region, Ratio, Based)},
    (Equation, Equation): _equations,
    (Equation, Amount): _gives,
    **{
        (Rounded, kind): _rounded
        for kind in (Rounded, Named, Equation, Amount, Several, Braces, Row, Region, Ratio, Based)
    },
    (Inequality, Inequality): _inequalities,
    (Inequality, Region): _unsure,
    (Several, Several): _several,
    (Several, Braces): _several,
    (Several, Row): _loose,
    (Several, Region): _finite,
    (Several, Amount): _grouped,
    (Braces, Braces): _sets,
    (Braces, Amount): _loose,
    (Row, Row): _rows,
    (Region, Region): _regions,
    (Region, Row): _region,
    (Region, Braces): _region,
    (Ratio, Ratio): _ratios,
    (Ratio, Amount): _unsure,
    (Based, Based): _based,
    (Based, Amount): _based,
    (Amount, Row): _matrix_and_row,
}
"""By the kinds of the two; kinds that are not here differ."""

"""Whether two values of sympy are exactly equal, without Python floats and without a tolerance.

True is proved, False is disproved, and None is neither.
"""

from collections.abc import Iterator
from typing import Any

import sympy

DIGITS = 15
MAX_DIGITS = 400
"""A difference is not 0 if DIGITS digits of it are correct; for them, sympy raises its precision up to MAX_DIGITS."""
POINTS = ((2, 3), (5, 7), (11, 13))
"""The points at which two expressions are compared, as numerators and denominators; no letter is an integer there."""
LOG_BASE = sympy.Symbol("base of log", positive=True)
"""The base of \\log without one. Values are equal if they are for every base, and differ if they do for all in use."""
BASES_IN_USE = (sympy.Integer(10), sympy.E, sympy.Integer(2))


def equal(one: Any, other: Any) -> bool | None:
    """Whether two expressions are equal for all values of their letters; matrices are compared cell by cell."""
    if isinstance(one, sympy.MatrixBase) or isinstance(other, sympy.MatrixBase):
        if not (isinstance(one, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase)) or one.shape != other.shape:
            return False
        return every(equal(left, right) for left, right in zip(one, other, strict=True))
    if one == other:
        return True
    if one.is_Rational and other.is_Rational:
        return False
    if sympy.oo in (one, other) or -sympy.oo in (one, other):
        return False if one.is_number and other.is_number else None
    difference = one - other
    result = is_zero(difference)
    if result is False and difference.has(LOG_BASE):
        in_use = [is_zero(difference.subs(LOG_BASE, base)) for base in BASES_IN_USE]
        return False if in_use == [False] * len(BASES_IN_USE) else None
    return result


def every(answers: Iterator[bool | None]) -> bool | None:
    """False if any answer is False, True if all are True, else None."""
    results = list(answers)
    return False if False in results else (None if None in results else True)


def is_zero(difference: Any) -> bool | None:
    """Whether an expression is 0 wherever it is defined."""
    if difference.is_Rational:
        return bool(difference == 0)
    if any(_differs(difference, point) for point in _points(difference, positive=True)):
        return False
    if difference.free_symbols and any(_differs(difference, point) for point in _points(difference, positive=False)):
        return None  # \sqrt{x^2} and x: equal for some readers' letters and not for others'
    return True if any(form == 0 for form in _forms(difference)) or _is_algebraic_zero(difference) else None


def _points(difference: Any, *, positive: bool) -> Iterator[dict[Any, Any]]:
    names = sorted(difference.free_symbols, key=str)
    for above, below in POINTS if names else POINTS[:1]:
        values = (sympy.Rational(above + 2 * index, below + index) for index in range(len(names)))
        yield {
            name: value if positive or name.is_positive else -value for name, value in zip(names, values, strict=True)
        }


def _differs(difference: Any, point: dict[Any, Any]) -> bool:
    """Whether the value at a point is certainly not 0."""
    functions = difference.atoms(sympy.core.function.AppliedUndef)
    known = {name: sympy.Symbol(f"value {index}") for index, name in enumerate(sorted(functions, key=str))}
    values = {symbol: sympy.Rational(17 + 2 * index, 19 + index) for index, symbol in enumerate(known.values())}
    value = difference.xreplace(known).xreplace(values).xreplace(point)
    number = value.evalf(DIGITS, maxn=MAX_DIGITS) if isinstance(value, sympy.Expr) else sympy.nan
    # A value that is 0, or cannot be distinguished from it, is returned as 0 or without a correct digit.
    return any(part.is_Float and part != 0 and part._prec > 1 for part in number.as_real_imag()) or (
        number.is_Rational and number != 0
    )


def _forms(difference: Any) -> Iterator[Any]:
    """Forms of the expression that are simpler and simpler, and take longer and longer to compute."""
    yield sympy.expand(difference)
    yield sympy.cancel(sympy.together(difference))
    yield sympy.expand_trig(sympy.expand_log(sympy.expand(difference), force=False))
    if not difference.free_symbols:
        yield sympy.sqrtdenest(sympy.radsimp(difference))
    yield sympy.trigsimp(sympy.expand_trig(difference))
    yield sympy.simplify(difference)


def _is_algebraic_zero(difference: Any) -> bool:
    if difference.free_symbols or not difference.is_algebraic:
        return False
    unknown = sympy.Symbol("unknown")
    return bool(sympy.minimal_polynomial(difference, unknown) == unknown)

"""The value of an expression's tree, by sympy's own operators.

A tree that has no value here, or would be too large to compute, raises UndecidedError.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy

from selftaught.grading.formulas.trees import Node
from selftaught.grading.verifiers.identity import LOG_BASE

MAX_BITS = 100_000
"""Bits of a power of numbers."""
MAX_DEGREE = 10_000
"""Exponent of a power of letters."""
MAX_ARGUMENT = 3_000
"""Argument of a factorial or a binomial."""

DEGREE = sympy.Symbol("degree", positive=True)
CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}
FUNCTIONS: dict[Node | str, Callable[..., Any]] = {
    **{name: getattr(sympy, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{"arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "exp": sympy.exp, "ln": sympy.log},
    **{"abs": sympy.Abs, "floor": sympy.floor, "ceiling": sympy.ceiling, "max": sympy.Max, "min": sympy.Min},
}


class UndecidedError(Exception):
    """The formula has no meaning here, or is too large to be computed."""


def value(tree: Node) -> Any:
    """The value of an expression."""
    parts = [value(part) for part in tree.parts] if tree.op != "matrix" else []
    match tree.op:
        case "number" if isinstance(tree.value, Fraction):
            result = sympy.Rational(tree.value.numerator, tree.value.denominator)
        case "symbol":
            result = sympy.Symbol(str(tree.value))
        case "constant" if tree.value in CONSTANTS:
            result = CONSTANTS[str(tree.value)]
        case "based" if isinstance(tree.value, tuple):
            result = sympy.Integer(int(tree.value[0], int(tree.value[1])))
        case "neg":
            result = -parts[0]
        case "add":
            result = sum(parts[1:], start=parts[0])
        case "mul":
            result = math.prod(parts[1:], start=parts[0])
        case "div":
            result = parts[0] / parts[1]
        case "pow":
            result = _power(*parts)
        case "root":
            result = _root(*parts)
        case "fact" | "binom":
            if any(part.is_number and not abs(part) <= MAX_ARGUMENT for part in parts):
                raise UndecidedError
            result = sympy.factorial(*parts) if tree.op == "fact" else sympy.binomial(*parts)
        case "degree":
            result = parts[0] * DEGREE
        case "matrix" if isinstance(tree.value, int):
            cells = [value(part) for part in tree.parts]
            result = sympy.ImmutableMatrix(tree.value, len(cells) // tree.value, cells)
        case "call":
            result = _called(str(tree.value), parts)
        case _:
            raise UndecidedError
    if not isinstance(result, sympy.Expr | sympy.MatrixBase) or result.has(sympy.nan, sympy.zoo):
        raise UndecidedError
    return result


def _power(base: Any, exponent: Any) -> Any:
    if base.is_number and exponent.is_number:
        bits = max(abs(base.p), base.q).bit_length() if base.is_Rational else 64
        if not exponent.is_finite or (exponent.is_Rational and abs(exponent) * bits > MAX_BITS):
            raise UndecidedError
    elif exponent.is_Integer and abs(exponent) > MAX_DEGREE:
        raise UndecidedError
    if base.is_negative and exponent.is_Rational and exponent.q % 2 and exponent.q > 1:
        raise UndecidedError  # some readers take (-8)^{1/3} for -2
    return base**exponent


def _root(base: Any, degree: Any) -> Any:
    """A root; the cube root of -8 is -2, not a complex one."""
    if base.is_negative and degree.is_Integer and degree % 2:
        return -_power(-base, 1 / degree)
    return _power(base, 1 / degree)


def _called(name: str, arguments: list[Any]) -> Any:
    if name.startswith("apply "):
        return sympy.Function(name.removeprefix("apply "))(*arguments)
    arguments = [argument.subs(DEGREE, sympy.pi / 180) for argument in arguments]
    if name == "log":
        return sympy.log(arguments[0]) / sympy.log(arguments[1] if len(arguments) == 2 else LOG_BASE)
    if name in ("gcd", "lcm"):
        return _shared(name, arguments)
    return FUNCTIONS[name](*arguments)


def _shared(name: str, arguments: list[Any]) -> Any:
    """The value for integers; for other arguments a function of them in any order."""
    if all(argument.is_Integer for argument in arguments):
        return sympy.Integer(getattr(math, name)(*(int(argument) for argument in arguments)))
    return sympy.Function(name)(*sorted(arguments, key=str))

"""The trees that formulas are read into, and the names that the grammar knows."""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 1_000

Value = Fraction | str | int | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a formula; the readers in `atoms.py`, `terms.py` and `__init__.py` define the kinds of `op`."""

    op: str
    parts: tuple["Node", ...] = ()
    value: Value = ""


class UnreadableError(Exception):
    """The formula, or a part of it, has no reading, or more than one."""


CONSTANTS = {"\\pi": "pi", "\\infty": "oo", "\\emptyset": "empty", "e": "e", "i": "i"}
NUMBER_SETS = frozenset("RQZNC")
INVERSE = {"\\sin": "\\arcsin", "\\cos": "\\arccos", "\\tan": "\\arctan"}
FUNCTIONS = frozenset(
    (
        *INVERSE,
        *INVERSE.values(),
        "\\cot",
        "\\sec",
        "\\csc",
        "\\sinh",
        "\\cosh",
        "\\tanh",
        "\\log",
        "\\lg",
        "\\ln",
        "\\exp",
    )
)
SYMMETRIC = frozenset(("\\gcd", "\\lcm", "\\max", "\\min"))
"""Functions of several arguments in any order."""
LETTERS = frozenset(
    f"\\{name}"
    for name in (
        *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu"),
        *("xi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda"),
        *("Xi", "Pi", "Sigma", "Phi", "Psi", "Omega", "ell", "hbar"),
    )
)
DECORATIONS = frozenset(("\\vec", "\\hat", "\\overrightarrow", "\\mathcal", "\\overline", "\\bar"))
OPENING = frozenset(
    ("\\frac", "\\sqrt", "\\binom", "\\lfloor", "\\lceil", "\\begin", "\\{", "\\mathbb", "\\langle", "\\angle")
)
MATRICES = frozenset(("pmatrix", "bmatrix", "matrix", "Bmatrix", "array", "smallmatrix"))
_BASE_NAMES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
BASES = {name: base for base, name in enumerate(_BASE_NAMES, start=2)}
APPLIED = frozenset("fghFGH")
"""Letters that name a function if a bracket follows; any other letter is multiplied by the bracket."""
NAMING = re.compile("[A-Zpqsuv]")
"""Letters that name a function on the left side of an equation."""


def is_product(word: str) -> bool:
    """Whether bare letters are factors ("xy", "mgh", "abc"), and not a word ("no", "dog") or a differential."""
    if len(word) == 2:
        return word.casefold() not in ("no", "on", "of", "so", "to", "ok", "hi", "if") and not re.match("d[r-z]", word)
    folded = word.casefold()
    return len(word) <= 6 and (list(folded) == sorted(folded) or not re.search("[aeiouy]", folded))


def number(text: str) -> Fraction:
    """The exact value of a token; digits in brackets repeat."""
    digits, _, exponent = text.replace(",", "").casefold().partition("e")
    if len(digits) > MAX_DIGITS or len(exponent) > 5 or abs(int(exponent or 0)) > MAX_DIGITS:
        raise UnreadableError
    fixed, _, repeated = digits.rstrip(")").partition("(")
    integer, _, places = fixed.partition(".")
    value = Fraction(int(integer + places or "0"), 10 ** len(places))
    if repeated:
        value += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(places))
    return value * Fraction(10) ** int(exponent or 0)

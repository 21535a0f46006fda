"""Read all of a formula into a tree, or nothing: a tree never leaves out a part of the formula.

What is read: numbers (grouped, decimal, repeating, mixed, to a base, scaled by words), letters with subscripts, the
four operations, powers, roots, factorials, binomials, functions, ± (`terms.py`); equations, inequalities, intervals,
sets, tuples, matrices, ratios, and lists of these; units, percent and degrees after them. A formula with anything else
in it has no tree. Neither has a formula that two readers could read in two ways: `1/2x`, `\\ln 2/3`, `5\\frac{7}{2}`.

Pure text: only fractions are computed, and the time is linear in the length of the text.
"""

import re
from fractions import Fraction

from selftaught.grading.formulas.notation import Token, tokens
from selftaught.grading.formulas.terms import TermReader
from selftaught.grading.formulas.trees import (
    APPLIED,
    BASES,
    MAX_DIGITS,
    NAMING,
    Node,
    UnreadableError,
    is_product,
)
from selftaught.grading.formulas.units import SCALES, singular, unit_name
from selftaught.grading.quantities import Quantity, same_number

RELATIONS = frozenset(("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", "\\approx"))
OPERATIONS = {"\\cup": "cup", "\\cap": "cap", "\\setminus": "setminus"}
MONEY = {"$": "dollars", "€": "euros", "£": "pounds", "₹": "rupees", "¥": "yen", "¢": "cents"}
JOINTS = (",", ";", "or", "and", "\\\\")


def readings(text: str) -> tuple[Node, ...]:
    """The trees of a formula: none, one, or two where a comma in brackets may separate numbers or group digits."""
    head, _, inside = text.rstrip().removesuffix(")").rpartition("(")
    if head and text.rstrip().endswith(")") and not set("()") & set(head + inside) and _repeats(head, inside):
        text = head
    trees: list[Node] = []
    notation = _without_lead(tokens(text))
    for pieces in dict.fromkeys((_separated(notation), notation)):
        try:
            trees.append(_Reader(list(pieces)).complete())
        except UnreadableError:
            continue
    return tuple(trees)


_SHORT = re.compile(r"\d*\.?\d+\s*\\?%?|\d+\s*/\s*\d+|\\[dt]?frac\s*\{\d+\}\s*\{\d+\}")
_IN_WORDS = {name: value for value, name in enumerate(("zero", "one", *BASES))}
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore) )?(?:(?:the|our|my|its|their) )?(?:(?:final|correct|total|required|desired) )?"
    r"(?:answer|probability|value|sum|area|perimeter|volume|number|solution|result|total|length|distance|ratio)"
    r"(?P<verb> is| equals)?",
    re.IGNORECASE,
)


def _ordinal(value: object) -> str | None:
    """The letters that make an integer an ordinal number: 1st, 12th."""
    if not isinstance(value, Fraction) or value.denominator != 1:
        return None
    is_teen = value // 10 % 10 == 1
    return "th" if is_teen else {1: "st", 2: "nd", 3: "rd"}.get(int(value % 10), "th")


def _repeats(head: str, inside: str) -> bool:
    """Whether a bracket repeats the number before it in another form, `5 (five)` or `3/4 (0.75)`, unlike 2(3 - 1)."""
    number = quantity(readings(head))
    if number is None:
        return False
    if inside.casefold() in _IN_WORDS:
        return number[0].value == _IN_WORDS[inside.casefold()]
    is_integer = number[0].value.denominator == 1
    if (
        is_integer
        or head[-1:].strip()
        or bool(set(".%") & set(head)) == bool(set(".%") & set(inside))
        or not _SHORT.fullmatch(inside)
    ):
        return False
    other = quantity(readings(inside))
    return other is not None and same_number(number[0], other[0])


def _without_lead(formula: tuple[Token, ...]) -> tuple[Token, ...]:
    """The formula without a lead such as `\\text{The probability is }` or `\\text{Answer: }`."""
    if not formula or formula[0].kind != "text":
        return formula
    match = _LEAD.fullmatch(formula[0].text)
    if match is None:
        return formula
    has_colon = formula[1:2] == (Token("sign", ":"),)
    return formula[1 + has_colon :] if has_colon or match["verb"] else formula


def exact(tree: Node) -> Fraction | None:
    """The value of a tree of numbers and the four operations; None for any other tree, or if the value grows large."""
    if tree.op == "number":
        return tree.value if isinstance(tree.value, Fraction) else None
    if tree.op not in ("neg", "add", "mul", "div"):
        return None
    values = [exact(part) for part in tree.parts]
    total = values[0]
    for value in values[1:]:
        if total is None or value is None or (tree.op == "div" and value == 0):
            return None
        total = {"add": total.__add__, "mul": total.__mul__, "div": total.__truediv__}[tree.op](value)
        if max(total.numerator.bit_length(), total.denominator.bit_length()) > 8 * MAX_DIGITS:
            return None
    return -total if tree.op == "neg" and total is not None else total


def quantity(trees: tuple[Node, ...]) -> tuple[Quantity, str] | None:
    """The number and the unit that a formula consists of; None if it is more than a number, or has two readings."""
    if len(trees) != 1:
        return None
    tree, unit = trees[0], ""
    if tree.op == "unit":
        tree, unit = tree.parts[0], str(tree.value)
    is_percent = tree.op == "percent"
    value = exact(tree.parts[0] if is_percent else tree)
    return None if value is None else (Quantity(value=value, percent=is_percent, start=0, end=0), unit)


def _separated(formula: tuple[Token, ...]) -> tuple[Token, ...]:
    """The formula with the bare commas inside brackets as separators, also where they may group digits."""
    separated: list[Token] = []
    depth = 0
    for token in formula:
        depth += {"(": 1, "[": 1, "\\{": 1, ")": -1, "]": -1, "\\}": -1}.get(token.text, 0)
        pieces = token.text.split(",") if token.kind == "number" and depth > 0 else [token.text]
        for index, piece in enumerate(pieces):
            separated += [Token("sign", ",")] * (index > 0) + [Token(token.kind, piece)]
    return tuple(separated)


class _Reader(TermReader):
    """The grammar that joins expressions: relations, lists, set operations, units."""

    def complete(self) -> Node:
        """The tree of all tokens."""
        tree = self.listed()
        if self.take("\\over"):
            tree = Node("div", (tree, self.listed()))
        if self.peek().kind != "end":
            raise UnreadableError
        return tree

    def listed(self) -> Node:
        """One statement or several: `1, 2 and 3`, `x < 1 or x > 2`."""
        items = [self.statement()]
        joints: set[str] = set()
        while self.at(*JOINTS):
            joints.add(self.next().text)
            for _ in range(2):
                if self.at("or", "and", "\\\\"):
                    joints.add(self.next().text)
            items.append(self.statement())
        if len({item.value for item in items if item.op == "unit"}) > 1:
            raise UnreadableError  # 5 feet, 6 inches is one amount, and not two numbers
        conjunctions = joints & {"or", "and"}
        if len(conjunctions) > 1:
            raise UnreadableError  # 1 or 2 and 3
        joint = next(iter(conjunctions), "\\\\" if "\\\\" in joints else ",")
        return items[0] if len(items) == 1 else Node("list", tuple(items), joint)

    def statement(self) -> Node:
        self.take("&")
        name = self.name()
        sides = [self.element() if name is None else Node("symbol", value=name)]
        signs: list[str] = []
        while self.move_to_relation():
            signs.append(self.next().text)
            self.take("&")
            sides.append(self.element())
        return Node("relation", tuple(sides), tuple(signs)) if signs else sides[0]

    def move_to_relation(self) -> bool:
        """Whether a relation sign is next, perhaps on a display's next line (`x &= 3 + 2 \\\\ &= 5`); move to it."""
        ahead = 1 if self.at("\\\\") else 0
        ahead += self.peek(ahead).text == "&"
        token = self.peek(ahead)
        is_next = token.text in RELATIONS and token.kind in ("sign", "command")
        self.place += ahead if is_next else 0
        return is_next

    def name(self) -> str | None:
        """A name that an equation gives a value to and that is no expression: `\\text{Area} =`, `P(A \\cap B) =`."""
        kind, text = self.peek()
        if kind in ("text", "word") and not is_product(text) and self.peek(1).text == "=":
            self.place += 1
            return text.casefold()
        if kind != "letter" or not NAMING.fullmatch(text) or text in APPLIED or self.peek(1).text != "(":
            return None
        end = self.place + 2
        while end < len(self.tokens) and self.tokens[end].text not in ("(", ")", "+", "-", "*", "/", "^", "{"):
            end += 1
        inside = self.tokens[self.place : end + 1]
        if [token.text for token in self.tokens[end : end + 2]] != [")", "="] or len(inside) < 4:
            return None
        self.place = end + 1
        return " ".join(token.text for token in inside)

    def element(self) -> Node:
        """A side of a relation: sets joined by one kind of operation, a ratio, or an expression with its unit."""
        money = self.at_money()
        parts = [self.sum()]
        sign = self.peek().text
        while self.at(*OPERATIONS):
            self.need(sign)
            parts.append(self.sum())
        if len(parts) > 1:
            if sign == "\\setminus" and len(parts) > 2:
                raise UnreadableError
            return Node(OPERATIONS[sign], tuple(parts))
        while self.depth == 0 and (self.take(":") or self.take_word("to")):
            parts.append(self.sum())
        return self.with_unit(parts[0], money) if len(parts) == 1 else Node("ratio", tuple(parts))

    def at_money(self) -> str:
        """The unit that the currency sign before an amount stands for; empty without such a sign."""
        kind, text = self.peek(self.at("-"))
        return singular(MONEY[text]) if self.depth == 0 and kind == "currency" and text in MONEY else ""

    def with_unit(self, tree: Node, money: str) -> Node:
        if self.take("%"):
            return Node("percent", (tree,))
        if money and self.peek().kind == "currency":
            raise UnreadableError  # $5$^2
        words = self.phrase().split()
        while words and singular(words[0]) in SCALES:
            if exact(tree) is None:
                raise UnreadableError
            tree = Node("mul", (tree, Node("number", value=Fraction(SCALES[singular(words.pop(0))]))))
        rest = " ".join(words)
        if tree.op == "number" and rest == _ordinal(tree.value):
            return tree
        if rest.casefold() in ("percent", "per cent"):
            return Node("percent", (tree,))
        if rest.casefold() in ("degree", "degrees"):
            return Node("degree", (tree,))
        name = unit_name(rest) if rest else ""
        if name is None and money:
            name = unit_name(f"{money} {rest}")  # $5 per hour
        if name is None or (money and words and len(words[0]) <= 2 and words[0] not in ("a", "an", "/")):
            raise UnreadableError  # $5 m
        if money and name.split(" / ")[0] not in ("", money):
            name = f"{money} {name}"
        name = name or money
        return Node("unit", (tree,), name) if name else tree

    def phrase(self) -> str:
        """The words after an amount, with `/` and powers between and after them."""
        pieces: list[str] = []
        while True:
            kind, text = self.peek()
            if kind == "currency" and not pieces and text in MONEY:
                pieces.append(MONEY[text])
            elif kind in ("text", "word") or (not pieces and self.at_temperature()):
                pieces.append(text)
            elif pieces and self.at("/") and self.peek(1).kind in ("text", "word"):
                pieces.append("/")
            elif not pieces and self.at_unit_fraction():
                pieces += [self.peek(2).text, "/", self.peek(5).text]
                self.place += 6
            elif pieces and self.at("^"):
                if pieces[-1] in MONEY.values():
                    raise UnreadableError
                self.place += 1
                power = exact(self.exponent())
                pieces[-1] += f"^{power}"
                continue
            else:
                return " ".join(pieces)
            self.place += 1

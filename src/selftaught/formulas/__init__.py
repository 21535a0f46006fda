"""Read the whole of a formula into a tree, or nothing: no part of it is ever taken for all of it.

Read: numbers (grouped, decimal, repeating, mixed, to a base, scaled by words), letters with subscripts, the four
operations, powers, roots, factorials, binomials, functions, ± (`terms.py`); equations, inequalities, intervals, sets,
tuples, matrices, ratios, and lists of these; units, percent and degrees behind them. A formula with anything else in
it has no tree, and neither has one that two readers could read in two ways: `1/2x`, `\\ln 2/3`, `5\\frac{7}{2}`.

Pure text: nothing is computed but fractions, and the time is linear in the text.
"""

from fractions import Fraction

from selftaught.formulas.notation import Token, tokens
from selftaught.formulas.terms import TermReader
from selftaught.formulas.trees import MAX_DIGITS, Node, UnreadableError, is_product
from selftaught.formulas.units import SCALES, singular, unit_name
from selftaught.quantities import Quantity

RELATIONS = frozenset(("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in"))
OPERATIONS = {"\\cup": "cup", "\\cap": "cap", "\\setminus": "setminus"}
MONEY = {"$": "dollars", "€": "euros", "£": "pounds", "₹": "rupees", "¥": "yen"}


def readings(text: str) -> tuple[Node, ...]:
    """The trees of a formula: none, one, or two where a comma in brackets may group digits or separate numbers."""
    found: list[Node] = []
    written = tokens(text)
    for pieces in dict.fromkeys((_separated(written), written)):
        try:
            found.append(_Reader(list(pieces)).whole())
        except UnreadableError:
            continue
    return tuple(found)


def exact(tree: Node) -> Fraction | None:
    """The value of a tree of whole numbers and the four operations; None for any other, or one that grows large."""
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
    """The number that a formula is, and its unit; None for one that is more than a number, or may be two."""
    if len(trees) != 1:
        return None
    tree, unit = trees[0], ""
    if tree.op == "unit":
        tree, unit = tree.parts[0], str(tree.value)
    is_percent = tree.op == "percent"
    value = exact(tree.parts[0] if is_percent else tree)
    return None if value is None else (Quantity(value=value, percent=is_percent, start=0, end=0), unit)


def _separated(found: tuple[Token, ...]) -> tuple[Token, ...]:
    """With the bare commas inside brackets as separators, where they may group digits, too."""
    separated: list[Token] = []
    depth = 0
    for token in found:
        depth += {"(": 1, "[": 1, "\\{": 1, ")": -1, "]": -1, "\\}": -1}.get(token.text, 0)
        pieces = token.text.split(",") if token.kind == "number" and depth > 0 else [token.text]
        for index, piece in enumerate(pieces):
            separated += [Token("sign", ",")] * (index > 0) + [Token(token.kind, piece)]
    return tuple(separated)


class _Reader(TermReader):
    """What joins expressions: relations, lists, set operations, units."""

    def whole(self) -> Node:
        tree = self.listed()
        if self.peek().kind != "end":
            raise UnreadableError
        return tree

    def listed(self) -> Node:
        """One statement or several: `1, 2 and 3`, `x < 1 or x > 2`."""
        items = [self.statement()]
        joints: set[str] = set()
        while self.at(",", ";", "or", "and"):
            joint = self.next().text
            if joint in (",", ";") and self.at("or", "and"):
                joint = self.next().text
            joints.add("," if joint == ";" else joint)
            items.append(self.statement())
        if len({item.value for item in items if item.op == "unit"}) > 1:
            raise UnreadableError  # 5 feet, 6 inches are one amount, and not two numbers
        spoken = joints - {","}
        if len(spoken) > 1:
            raise UnreadableError  # 1 or 2 and 3
        return items[0] if len(items) == 1 else Node("list", tuple(items), next(iter(spoken), ","))

    def statement(self) -> Node:
        kind, text = self.peek()
        if kind in ("text", "word") and not is_product(text) and self.peek(1).text == "=":
            self.place += 1
            sides = [Node("symbol", value=text.casefold())]  # \text{Area} = 5
        else:
            sides = [self.element()]
        signs: list[str] = []
        while self.at(*RELATIONS):
            signs.append(self.next().text)
            sides.append(self.element())
        return Node("relation", tuple(sides), tuple(signs)) if signs else sides[0]

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
        """The unit of the sign of currency before an amount."""
        kind, text = self.peek(self.at("-"))
        return singular(MONEY[text]) if kind == "currency" and text in MONEY else ""

    def with_unit(self, tree: Node, money: str) -> Node:
        if self.take("%"):
            return Node("percent", (tree,))
        words = self.phrase().split()
        while words and singular(words[0]) in SCALES:
            if exact(tree) is None:
                raise UnreadableError
            tree = Node("mul", (tree, Node("number", value=Fraction(SCALES[singular(words.pop(0))]))))
        rest = " ".join(words)
        if rest.casefold() in ("percent", "per cent"):
            return Node("percent", (tree,))
        if rest.casefold() in ("degree", "degrees"):
            return Node("degree", (tree,))
        name = unit_name(rest) if rest else ""
        if name is None or (money and words and len(words[0]) <= 2 and words[0] != "/"):
            raise UnreadableError  # $5 m
        if money and name.split(" / ")[0] not in ("", money):
            name = f"{money} {name}".replace(" / /", " /")
        name = name or money
        return Node("unit", (tree,), name) if name else tree

    def phrase(self) -> str:
        """The words behind an amount, with `/` and powers between and behind them."""
        pieces: list[str] = []
        while True:
            kind, text = self.peek()
            if kind == "currency" and not pieces and text in MONEY:
                pieces.append(MONEY[text])
            elif kind in ("text", "word") or (not pieces and self.at_temperature()):
                pieces.append(text)
            elif pieces and self.at("/") and self.peek(1).kind in ("text", "word"):
                pieces.append("/")
            elif pieces and self.at("^"):
                self.place += 1
                power = exact(self.exponent())
                pieces[-1] += f"^{power}"
                continue
            else:
                return " ".join(pieces)
            self.place += 1

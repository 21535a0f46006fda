"""The grammar of sums, products and powers (`atoms.py` reads their operands, `__init__.py` joins them).

Recursive descent over the tokens of `notation.py`. A formula that has two readings raises UnreadableError.
"""

from fractions import Fraction

from selftaught.grading.formulas import trees
from selftaught.grading.formulas.atoms import AtomReader
from selftaught.grading.formulas.trees import Node, UnreadableError, is_product
from selftaught.grading.formulas.units import unit_name

MAX_SLASHES = 30


class TermReader(AtomReader):
    """Everything up to a sum."""

    def sum(self) -> Node:
        signs = {"+": "add", "-": "neg", "\\pm": "pm", "\\mp": "mp"}
        parts: list[Node] = []
        while not parts or self.at(*signs):
            sign = signs[self.next().text] if self.at(*signs) else "add"
            is_negative = bool(parts) and self.take("-")  # 3 + -2
            part = self.term()
            if is_negative:
                part = Node("neg", (part,))
            parts.append(part if sign == "add" else Node(sign, (part,)))
        return parts[0] if len(parts) == 1 else Node("add", tuple(parts))

    def term(self) -> Node:
        tree = self.product()
        slashes = 0
        while self.at("*", "/"):
            is_over = self.next().text == "/"
            slashes += is_over
            is_negative = self.take("-")
            right = self.product(is_single=is_over)  # in 1/2x the x is left over, and no rule accepts it
            if slashes > MAX_SLASHES:
                raise UnreadableError
            if is_negative:
                right = Node("neg", (right,))
            if is_over:
                tree = Node("div", (tree, right))
            else:
                tree = Node("mul", (*(tree.parts if tree.op == "mul" else (tree,)), right))
        return tree

    def product(self, *, is_single: bool = False) -> Node:
        """Factors without a sign between them; only the first of them may be a number."""
        start = self.place
        first = self.factor()
        is_number = self.tokens[start].kind == "number" and self.place == start + 1
        if is_single:
            return first
        factors = [(self.mixed(first) if is_number and first.op == "number" else None) or first]
        if is_number and "." in self.tokens[start].text and self.at("(") and self.peek(2).text == ")":
            raise UnreadableError  # in 0.1(6) the 6 may repeat
        while self.starts_factor():
            if self.tokens[start].kind == "currency" or (self.peek().kind == "number" and not self.is_apart(factors)):
                raise UnreadableError  # 5 6, \pi 2, $5k
            factors.append(self.factor())
        return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))

    def is_apart(self, before: list[Node]) -> bool:
        """Whether the next number is clearly a factor of its own, as in 3!2!, n!2^n, 2^3 3^2, but not in 5 2!."""
        return before[-1].op in ("fact", "pow") and self.peek(1).text in ("!", "^")

    def mixed(self, integer: Node) -> Node | None:
        """A mixed number, `1\\frac{1}{2}` or `1 1/2`; an integer before any other fraction has two readings."""
        place = self.place
        if self.at("\\frac"):
            part = self.base()
        elif self.peek().kind == "number" and self.peek(1).text == "/" and self.peek(2).kind == "number":
            above = self.base()
            self.place += 1
            part = Node("div", (above, self.base()))
        else:
            return None
        if any(piece.op != "number" for piece in part.parts) or self.at("^", "!"):
            self.place = place
            return None
        above, below = part.parts
        values = (integer.value, above.value, below.value)
        if any(not isinstance(value, Fraction) or value.denominator != 1 for value in values):
            raise UnreadableError
        if not 0 < above.value < below.value:  # type: ignore[operator]
            raise UnreadableError
        return Node("add", (integer, part))

    def starts_factor(self) -> bool:
        kind, text = self.peek()
        if kind == "word":
            return is_product(text) and unit_name(text) is None
        if kind == "sign":
            return text in ("(", "[", "{") or (text == "|" and self.bars == 0)
        if self.at_temperature() or self.at_unit_fraction():
            return False
        is_named = text in trees.CONSTANTS or any(
            text in names
            for names in (trees.SYMMETRIC, trees.LETTERS, trees.FUNCTIONS, trees.DECORATIONS, trees.OPENING)
        )
        return kind in ("number", "letter") or (kind == "command" and is_named)

    def at_temperature(self) -> bool:
        """Whether the next letter is the C of 20°C."""
        before = [token.text for token in self.tokens[max(0, self.place - 3) : self.place]]
        return self.peek().text in ("C", "F") and (before[-1:] == ["\\circ"] or before == ["{", "\\circ", "}"])

    def at_unit_fraction(self) -> bool:
        """Whether `\\frac{\\text{m}}{\\text{s}}` is next."""
        kinds = [self.peek(ahead).kind for ahead in (2, 5)]
        return self.at("\\frac") and kinds == ["text", "text"] and self.peek(3).text == self.peek(6).text == "}"

    def factor(self) -> Node:
        return self.nested(self.powered)

    def take_ordinal(self) -> bool:
        """Whether the `th` of 5^{\\text{th}} is next; replace its tokens by one word."""
        after = [self.peek(ahead) for ahead in (1, 2, 3)]
        named = after[1] if after[0].text == "{" and after[2].text == "}" else after[0]
        if not self.at("^") or named.text not in ("st", "nd", "rd", "th") or named.kind not in ("text", "word"):
            return False
        self.tokens[self.place : self.place + (4 if named == after[1] else 2)] = [named]
        return True

    def powered(self) -> Node:
        tree = self.base()
        while True:
            if self.take("!"):
                if self.at("!"):
                    raise UnreadableError  # 5!! is no factorial of a factorial
                tree = Node("fact", (tree,))
            elif self.take_ordinal():
                return tree
            elif self.take("^"):
                circle = [self.peek(ahead).text for ahead in range(3)]
                if circle[0] == "\\circ" or circle == ["{", "\\circ", "}"]:
                    self.place += 1 if circle[0] == "\\circ" else 3
                    tree = Node("degree", (tree,))
                    continue
                tree = Node("pow", (tree, self.exponent()))
                if self.at("^"):
                    raise UnreadableError  # 2^3^2
            else:
                return tree

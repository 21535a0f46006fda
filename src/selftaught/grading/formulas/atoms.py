"""The grammar of what is between two signs: numbers, names, brackets, functions, matrices.

Recursive descent over the tokens of `notation.py`. A formula that has two readings raises UnreadableError.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction

from selftaught.grading.formulas import trees
from selftaught.grading.formulas.notation import Token
from selftaught.grading.formulas.trees import (
    Node,
    UnreadableError,
    is_product,
    number,
)

MAX_DEPTH = 30
"""How deep brackets, fractions and roots may be nested; it bounds the depth of Python's own calls."""
CLOSING = {"(": (")", "]"), "[": ("]", ")"), "\\langle": ("\\rangle",)}


class AtomReader(ABC):
    """A cursor over tokens, with the grammar of what is between two signs."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0
        self.bars = 0

    # Grammar that the subclasses define

    @abstractmethod
    def statement(self) -> Node:
        """One item between the commas of a bracket."""

    @abstractmethod
    def sum(self) -> Node:
        """Terms joined by plus and minus."""

    @abstractmethod
    def factor(self) -> Node:
        """One factor of a product."""

    @abstractmethod
    def starts_factor(self) -> bool:
        """Whether a factor begins here."""

    # Tokens

    def peek(self, ahead: int = 0) -> Token:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else Token("end", "")

    def at(self, *texts: str) -> bool:
        token = self.peek()
        return token.text in texts and token.kind in ("sign", "command")

    def take(self, *texts: str) -> bool:
        if not self.at(*texts):
            return False
        self.place += 1
        return True

    def take_word(self, word: str) -> bool:
        if self.peek().kind not in ("word", "text") or self.peek().text != word:
            return False
        self.place += 1
        return True

    def need(self, *texts: str) -> None:
        if not self.take(*texts):
            raise UnreadableError

    def next(self) -> Token:
        token = self.peek()
        self.place += 1
        return token

    def replace(self, *kinds_and_texts: tuple[str, str]) -> None:
        """Replace the next token by several ones."""
        self.tokens[self.place : self.place + 1] = [Token(*pair) for pair in kinds_and_texts]

    # Groups

    def nested(self, read: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError
        tree = read()
        self.depth -= 1
        return tree

    def exponent(self) -> Node:
        """The exponent after a `^`: all of its digits, since the writer of `x^10` means ten."""
        if self.take("-"):
            if self.at("-"):
                raise UnreadableError
            return Node("neg", (self.exponent(),))
        if self.take("("):
            return self.group(")")
        return self.base() if self.peek().kind == "number" else self.argument()

    def argument(self) -> Node:
        """The argument of a command: a group in braces, or one letter, digit or command, as in `\\frac12`."""
        kind, text = self.peek()
        if self.take("{"):
            return self.group("}")
        if kind == "number" and len(text) > 1:
            if not text.isdigit():
                raise UnreadableError
            self.replace(("number", text[0]), ("number", text[1:]))
        if kind == "word":
            self.replace(*(("letter", letter) for letter in text))
        is_short = kind in ("number", "letter", "word") or text in trees.CONSTANTS or text in trees.LETTERS
        if not is_short and text not in ("\\frac", "\\sqrt"):
            raise UnreadableError
        return self.nested(self.base)

    def group(self, *close: str, can_list: bool = False) -> Node:
        bars, self.bars = self.bars, 0
        tree = self.sum()
        if "}" in close and self.take("\\choose"):
            tree = Node("binom", (tree, self.sum()))
        elif "}" in close and self.take("\\over"):
            tree = Node("div", (tree, self.sum()))
        elif can_list and self.at(","):
            items = [tree]
            while self.take(","):
                items.append(self.sum())
            tree = Node("set", tuple(items))  # {-2, 3}
        self.need(*close)
        self.bars = bars
        return tree

    # Expressions without a sign at their top level

    def base(self) -> Node:
        kind, text = self.peek()
        if kind == "word" and is_product(text):
            self.replace(*(("letter", letter) for letter in text))
            kind, text = self.peek()
        self.place += 1
        if kind == "number":
            return self.based(text) if self.at("_") else Node("number", value=number(text))
        if kind == "currency" and self.peek().kind == "number":
            return Node("number", value=number(self.next().text))
        if kind == "letter" or (kind == "text" and len(text) == 1) or (kind == "command" and text in trees.LETTERS):
            return self.symbol(text)
        if kind in ("sign", "command"):
            return self.command(text)
        raise UnreadableError

    def command(self, name: str) -> Node:
        match name:
            case "\\frac" | "\\binom":
                return Node("div" if name == "\\frac" else "binom", (self.argument(), self.argument()))
            case "\\sqrt":
                degree = self.group("]") if self.take("[") else Node("number", value=Fraction(2))
                return Node("root", (self.group(")") if self.take("(") else self.argument(), degree))
            case "{":
                return self.group("}", can_list=True)
            case "\\angle":
                return Node("symbol", value=f"angle {self.corner()}")
            case "|":
                self.bars += 1
                inside = self.sum()
                self.bars -= 1
                self.need("|")
                return Node("call", (inside,), "abs")
            case "\\lfloor" | "\\lceil":
                close = "\\rfloor" if name == "\\lfloor" else "\\rceil"
                return Node("call", (self.group(close),), "floor" if name == "\\lfloor" else "ceiling")
            case "(" | "[" | "\\langle":
                return self.bracket(name)
            case "\\{":
                return self.braces()
            case "\\begin":
                return self.matrix()
            case "\\mathbb":
                self.need("{")
                letter = self.next().text
                self.need("}")
                if letter not in trees.NUMBER_SETS:
                    raise UnreadableError
                return Node("constant", value=letter)
        if name in trees.CONSTANTS:
            return Node("constant", value=trees.CONSTANTS[name])
        if name in trees.SYMMETRIC:
            if not self.at("(", "\\{"):
                raise UnreadableError
            among = self.items(")" if self.next().text == "(" else "\\}")
            return Node("call", tuple(among), name.removeprefix("\\"))
        if name in trees.FUNCTIONS:
            return self.function(name)
        if name in trees.DECORATIONS:
            letters = self.raw()
            is_zero = (name, letters) == ("\\vec", "0")
            return Node("number", value=Fraction(0)) if is_zero else Node("symbol", value=name + letters)
        raise UnreadableError

    def symbol(self, name: str) -> Node:
        if self.take("_"):
            name += "_" + (self.raw() if self.at("{") else self.next().text)
        while self.take("'"):
            name += "'"
        if name in trees.CONSTANTS:
            return Node("constant", value=trees.CONSTANTS[name])
        if name == "C" and self.take("("):
            inside = self.items(")")
            return (
                Node("binom", tuple(inside)) if len(inside) == 2 else Node("mul", (Node("symbol", value=name), *inside))
            )
        if name[0] in trees.APPLIED and name.rstrip("'") in trees.APPLIED and self.take("("):
            inside = self.items(")")
            return Node("call", tuple(inside), f"apply {name}")
        return Node("symbol", value=name)

    def corner(self) -> str:
        """The name of an angle: `ABC`, `A`, `1`, in braces or without."""
        is_braced = self.take("{")
        name = ""
        while self.peek().kind in ("letter", "word", "text", "number") and (not name or name.isupper()):
            if name and not self.peek().text.isupper():
                break
            name += self.next().text
        if is_braced:
            self.need("}")
        if not name:
            raise UnreadableError
        return name

    def raw(self) -> str:
        """A name in braces, unchanged: letters, digits and commas."""
        self.need("{")
        pieces: list[str] = []
        while not self.take("}"):
            token = self.next()
            if token.kind not in ("letter", "word", "number", "text") and token.text not in (",", "+", "-"):
                raise UnreadableError
            pieces.append(token.text)
        return "".join(pieces)

    def based(self, digits: str) -> Node:
        """A number to a base: `43_7`, `43_{7}`, `43_{\\text{seven}}`."""
        self.need("_")
        is_braced = self.take("{")
        is_bracketed = self.take("(")
        name = self.next().text.casefold()
        if is_bracketed:
            self.need(")")
        if is_braced:
            self.need("}")
        base = int(name) if re.fullmatch(r"\d{1,2}", name) else trees.BASES.get(name, 0)
        if not digits.isdigit() or len(digits) > trees.MAX_DIGITS or base < 2 or int(max(digits)) >= base:
            raise UnreadableError
        return Node("based", value=(digits.lstrip("0") or "0", str(base)))

    def bracket(self, open_sign: str) -> Node:
        """An expression in brackets, `(x + 1)`, or several: `(1, 2)`, `[0, 1)`."""
        kind, digits = self.peek()
        if kind == "number" and [self.peek(ahead).text for ahead in (1, 2)] == [")", "_"]:
            self.place += 2
            return self.based(digits)
        items = self.items(*CLOSING[open_sign])
        close = self.tokens[self.place - 1].text
        if len(items) == 1:
            if open_sign + close not in ("()", "[]"):
                raise UnreadableError
            return items[0]
        return Node("seq", tuple(items), open_sign + close)

    def items(self, *close: str) -> list[Node]:
        bars, self.bars = self.bars, 0
        items = [self.statement()]
        while self.take(",", ";"):
            items.append(self.statement())
        self.need(*close)
        self.bars = bars
        return items

    def braces(self) -> Node:
        """A set: `\\{1, 2\\}`, `\\{x \\mid x > 3\\}`."""
        if self.take("\\}"):
            return Node("constant", value="empty")
        bars, self.bars = self.bars, 1
        first = self.statement()
        if self.take("\\mid", "|", ":"):
            self.bars = 0
            condition = self.statement()
            self.need("\\}")
            tree = Node("builder", (first, condition))
        else:
            items = [first, *(self.items("\\}") if self.take(",", ";") else [])]
            if len(items) == 1:
                self.need("\\}")
            tree = Node("set", tuple(items))
        self.bars = bars
        return tree

    def function(self, name: str) -> Node:
        power = self.exponent() if self.take("^") else None
        if power == Node("neg", (Node("number", value=Fraction(1)),)) and name in trees.INVERSE:
            name, power = trees.INVERSE[name], None
        if power is not None and power.op == "neg":
            raise UnreadableError  # \sin^{-2}
        base = self.argument() if name == "\\log" and self.take("_") else None
        if name == "\\lg":
            name, base = "\\log", Node("number", value=Fraction(10))
        if self.take("("):
            inside = self.group(")")
        elif self.take("{"):
            inside = self.group("}")
        else:
            inside = self.bare_argument()
        tree = Node("call", (inside,) if base is None else (inside, base), name.removeprefix("\\"))
        return tree if power is None else Node("pow", (tree, power))

    def bare_argument(self) -> Node:
        """The argument of a function without brackets, up to the next sign, bracket or function: `\\sin 2x`."""
        factors: list[Node] = []
        while self.starts_factor() and not self.at("(", "[", "{", "|", "\\{", "\\langle", *trees.FUNCTIONS):
            if factors and self.peek().kind == "number":
                raise UnreadableError
            factors.append(self.factor())
        if not factors or self.at("(", "[", "{", "/"):
            raise UnreadableError  # \ln 2/3, \sin x (y + 1)
        return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))

    def matrix(self) -> Node:
        self.need("{")
        name = self.next().text
        self.need("}")
        if name not in trees.MATRICES:
            raise UnreadableError
        if name == "array":
            self.raw()
        rows: list[list[Node]] = [[]]
        while not self.take("\\end"):
            rows[-1].append(self.sum())
            if self.take("\\\\"):
                if not self.at("\\end"):
                    rows.append([])
            elif not self.at("\\end"):
                self.need("&")
        self.need("{")
        if self.next().text != name or len({len(row) for row in rows}) != 1:
            raise UnreadableError
        self.need("}")
        return Node("matrix", tuple(cell for row in rows for cell in row), len(rows))

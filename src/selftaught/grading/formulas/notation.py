"""One notation for formulas: LaTeX, plain text and Unicode all become the same tokens.

A reader sees no difference between `10³`, `10^{3}` and `10**3`, between `−½` and `-\\frac{1}{2}`, or between
`\\left( 0 , \\; 1 \\right]` and `(0,1]`, and their tokens are the same. Only parts without meaning are dropped
(spacing, sizes, invisible characters). An unknown character becomes a token of its own, which the grammar does not
accept.

Pure text, linear in its length.
"""

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from selftaught.grading.signs import fold_space

LONGEST = 2_000
"""Characters of a formula; a longer text is not a formula."""


class Token(NamedTuple):
    kind: str
    """number, letter, word (bare letters), text (inside \\text), command, currency or sign."""
    text: str


def same_text(one: str, other: str) -> bool:
    """Whether two formulas are written in the same way, except for white space, spacing commands and notation."""
    return one.strip() == other.strip() or (_unbraced(tokens(one)) == _unbraced(tokens(other)) != [])


def words(text: str) -> str | None:
    """The words of a text answer (`\\text{Evelyn}`, `Evelyn`), without case; None if it has anything else."""
    pieces = tokens(text)
    if not pieces or not any(len(token.text) > 1 for token in pieces):
        return None
    if any(token.kind not in ("text", "word", "letter") for token in pieces):
        return None
    return fold_space(" ".join(token.text for token in pieces).casefold().rstrip("."))


@lru_cache(maxsize=1_024)
def tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a formula; a text that is too long becomes a single token."""
    if len(text) > LONGEST:
        return (Token("sign", text),)
    return tuple(_tokens(_latex(text), depth=0))


def _unbraced(pieces: tuple[Token, ...]) -> list[Token]:
    """The tokens without the braces around one letter, digit or command: x^{2} is x^2."""
    kept: list[Token] = []
    for token in pieces:
        kept.append(token)
        is_command = len(kept) > 2 and kept[-2].kind == "command"
        if len(kept) > 2 and token.text == "}" and kept[-3].text == "{" and (len(kept[-2].text) == 1 or is_command):
            kept[-3:] = [kept[-2]]
    return kept


# ---------------------------------------------------------------------------------------------------------------------

_SIGNS = {
    **dict.fromkeys("−‐‑‒–﹣－", "-"),
    **dict.fromkeys("·⋅∙•×✕✖∗⁎", " \\times "),
    **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("〈⟨", "\\langle "),
    **dict.fromkeys("〉⟩", "\\rangle "),
    **dict.fromkeys("∣｜❘", "|"),
    **dict.fromkeys("≤⩽≦", "\\le "),
    **dict.fromkeys("≥⩾≧", "\\ge "),
    **dict.fromkeys("∅⌀", "\\emptyset "),
    **dict.fromkeys("…⋯", "\\ldots "),
    **dict.fromkeys("°˚º", "^\\circ "),
    **dict.fromkeys("′’ʹ", "'"),
    **dict.fromkeys("″”", "''"),
    **dict.fromkeys("φϕ", "\\phi "),
    **dict.fromkeys("εϵ", "\\epsilon "),
    **dict.fromkeys("→⟶", "\\to "),
    **dict.fromkeys("⇒⟹", "\\implies "),
    **dict.fromkeys("⇔⟺", "\\iff "),
    **dict.fromkeys(" \u2009", "\u202f"),
    **{"≠": "\\ne ", "±": "\\pm ", "∓": "\\mp ", "∞": "\\infty ", "∪": "\\cup ", "∩": "\\cap ", "∖": "\\setminus "},
    **{"∈": "\\in ", "∉": "\\notin ", "⊂": "\\subset ", "⊆": "\\subseteq ", "∧": "\\land ", "∨": "\\lor "},
    **{"¬": "\\neg ", "∀": "\\forall ", "∃": "\\exists ", "≈": "\\approx ", "≡": "\\equiv ", "⌊": "\\lfloor "},
    **{"⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "∠": "\\angle ", "△": "\\triangle ", "∆": "\\Delta "},
    **{
        "ℝ": "\\mathbb{R}",
        "ℤ": "\\mathbb{Z}",
        "ℕ": "\\mathbb{N}",
        "ℚ": "\\mathbb{Q}",
        "ℂ": "\\mathbb{C}",
        "µ": "\\mu ",
    },
}
_GREEK = (
    *(
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
    ),
    *("pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
)
for _name in _GREEK:
    for _case, _latex_name in (("SMALL", _name), ("CAPITAL", _name.capitalize())):
        _letter = unicodedata.lookup(f"GREEK {_case} LETTER {_name.upper().replace('LAMBDA', 'LAMDA')}")
        _SIGNS.setdefault(_letter, f"\\{_latex_name} ")
_TRANSLATION = str.maketrans(_SIGNS)

_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᵏᵐᵗˣʸᶻ", "0123456789+-=()niabcdekmtxyz")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₓₙₖₘ", "0123456789+-=()aexnkm")
_RAISED_RUN = re.compile("[" + "".join(map(chr, _RAISED)) + "]+")
_LOWERED_RUN = re.compile("[" + "".join(map(chr, _LOWERED)) + "]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?(?![\d.]))?")
_OVERLINED = re.compile("(?:\\d\u0305)+")


def _latex(text: str) -> str:
    """The text with LaTeX in place of Unicode's signs, letters and digits."""
    if text.isascii():
        return text
    # NFC only composes letters. NFKC would make 1⁄2 of ½ and 2 of ², so it is applied to single characters, at the end.
    text = unicodedata.normalize("NFC", text)
    text = _OVERLINED.sub(lambda run: "\\overline{" + run[0].replace("\u0305", "") + "}", text)
    text = re.sub("(\\d)\u0307", r"\\dot{\1}", text)
    text = re.sub(r"(?<![\w)\]}])([³⁴])\s*√", lambda root: {"³": "∛", "⁴": "∜"}[root[1]], text)
    text = _RAISED_RUN.sub(lambda run: "^{" + run[0].translate(_RAISED) + "}", text)
    text = _LOWERED_RUN.sub(lambda run: "_{" + run[0].translate(_LOWERED) + "}", text)
    text = _VULGAR.sub(lambda sign: _vulgar(sign[0]), text)
    text = _ROOT.sub(_root, text)
    return "".join(map(_plain_character, text.translate(_TRANSLATION)))


def _vulgar(sign: str) -> str:
    above, _, below = unicodedata.normalize("NFKC", sign).partition("⁄")
    return f"\\frac{{{above}}}{{{below}}}"


def _root(match: re.Match[str]) -> str:
    """The LaTeX of a root sign. √10 is the root of ten, but \\sqrt10 is √1 followed by a 0."""
    degree = {"√": "", "∛": "[3]", "∜": "[4]"}[match[1]]
    return f"\\sqrt{degree}" + (f"{{{match[2]}}}" if match[2] else " ")


def _plain_character(character: str) -> str:
    if character.isascii() or character == "\u202f":
        return character
    category = unicodedata.category(character)
    if category == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F:  # joiners, marks of direction, variation selectors
        return ""
    if category == "Zs":
        return " "
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category in ("Sc", "Mn"):
        return character
    plain = unicodedata.normalize("NFKC", character)  # fullwidth forms, 𝑥
    return plain if plain.isascii() and len(plain) == 1 else character


_GROUP = r"(?:,(?:\\!\s*)?|\{,\}(?:\\!\s*)?|\\,|\u202f)"
_DIGITS = rf"(?:[1-9]\d{{0,2}}(?:{_GROUP}\d{{3}})+(?!\d)|[1-9]\d?(?:,\d{{2}})+,\d{{3}}(?!\d)|\d+)"
_BAR = r"\\(?:overline|bar)\s*(?:\{\s*\d+\s*\}|\d)"
_REPEATING = rf"\d*\.(?:\(\d+\)|\d*(?:{_BAR}|\{{\s*{_BAR}\s*\}}|\\dot\s*\{{?\d\}}?(?:\d*\\dot\s*\{{?\d\}}?)?))(?!\d)"
_NUMBER = rf"{_REPEATING}|(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+(?![\w.]))?"
_SKIPPED = (
    r"[\s~\u202f]+|\\[,;:!> \n]|\\(?:quad|qquad|thinspace|medspace|displaystyle|textstyle|limits|null)(?![a-zA-Z])"
    r"|\\(?:bf|it|rm|sf|tt|bfseries|itshape|rmfamily|boldmath|tiny|small|normalsize|[lL]arge|LARGE|[hH]uge|scriptstyle"
    r"|strut|mathstrut|nonumber|notag|hline)(?![a-zA-Z])|\\[hv]?phantom\s*\{[^{}]*\}"
    r"|\\(?:left|right)\s*\.|\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])|\\hspace\*?\s*\{[^{}]*\}"
)
_TEXT = r"\\(?:text(?:rm|bf|it|sf|tt|normal)?|mbox|hbox|mathrm|operatorname\*?)\s*\{"
_FACE = r"\\(?:mathbf|mathit|mathsf|boldsymbol|bm|ensuremath|mathord|mathbin|mathop)\s*(?=\{)"  # its braces stay
_LEXER = re.compile(
    rf"(?P<skipped>{_SKIPPED})|(?P<text>{_TEXT})|(?P<face>{_FACE})|(?P<number>{_NUMBER})|(?P<word>[A-Za-z]+)"
    r"|(?P<currency>\\?\$|[€£¥₹₽₩₺₫฿¢]|\\(?:pounds|euro)(?![a-zA-Z]))"
    r"|(?P<command>\\(?:\\(?:\*|\s*\[[-\d.]+\s*[a-z]{2}\])?|[a-zA-Z]+|[^a-zA-Z]|\Z))|(?P<sign>\*\*|<=|>=|(?<!\d)!=|==|.)",
    re.DOTALL,
)
_PIECE = re.compile(r"[A-Za-z][A-Za-z.'’-]*(?:\s+[A-Za-z][A-Za-z.'’-]*)*|[^A-Za-z]+")
SYNONYMS = {
    **dict.fromkeys(["\\dfrac", "\\tfrac", "\\cfrac"], "\\frac"),
    **dict.fromkeys(["\\dbinom", "\\tbinom"], "\\binom"),
    **dict.fromkeys(["\\leq", "\\leqslant", "<="], "\\le"),
    **dict.fromkeys(["\\geq", "\\geqslant", ">="], "\\ge"),
    **dict.fromkeys(["\\neq", "!="], "\\ne"),
    **dict.fromkeys(["\\lt"], "<"),
    **dict.fromkeys(["\\gt"], ">"),
    **dict.fromkeys(["=="], "="),
    **dict.fromkeys(["\\cdot", "\\times", "\\ast"], "*"),
    **dict.fromkeys(["\\div"], "/"),
    **dict.fromkeys(["**"], "^"),
    **dict.fromkeys(["\\lbrace"], "\\{"),
    **dict.fromkeys(["\\rbrace"], "\\}"),
    **dict.fromkeys(["\\lbrack"], "["),
    **dict.fromkeys(["\\rbrack"], "]"),
    **dict.fromkeys(["\\lvert", "\\rvert", "\\vert"], "|"),
    **dict.fromkeys(["\\varnothing"], "\\emptyset"),
    **dict.fromkeys(["\\backslash"], "\\setminus"),
    **dict.fromkeys(["\\wedge"], "\\land"),
    **dict.fromkeys(["\\vee"], "\\lor"),
    **dict.fromkeys(["\\lnot"], "\\neg"),
    **dict.fromkeys(["\\degree"], "\\circ"),
    **dict.fromkeys(["\\%"], "%"),
    **dict.fromkeys(["\\varphi"], "\\phi"),
    **dict.fromkeys(["\\varepsilon"], "\\epsilon"),
    **dict.fromkeys(["\\colon"], ":"),
    **dict.fromkeys(["\\newline"], "\\\\"),
    **dict.fromkeys(["\\dots", "\\cdots"], "\\ldots"),
    **dict.fromkeys(["\\prime"], "'"),
    **dict.fromkeys(["\\rightarrow"], "\\to"),
    **dict.fromkeys(["\\Rightarrow"], "\\implies"),
    **dict.fromkeys(["\\Leftrightarrow"], "\\iff"),
}
"""Another spelling -> the spelling that the grammar knows."""
NAMES = {
    **{name: f"\\{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi")},
    **{name: f"\\{name}" for name in ("arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "theta", "alpha", "beta")},
    **{name: f"\\{name}" for name in ("gcd", "lcm", "max", "min")},
    **{"infinity": "\\infty", "or": "or", "and": "and"},
}
"""Words that are signs or functions where they are bare or in \\operatorname."""


def _tokens(text: str, depth: int) -> list[Token]:
    result: list[Token] = []
    place = 0
    while match := _LEXER.match(text, place):
        kind, piece, place = str(match.lastgroup), match[0], match.end()
        if kind == "text":
            end = _closing(text, place)
            if end is None or depth > 3:
                return [*result, Token("sign", text[match.start() :])]
            result += _inside_text(text[place:end], depth, is_roman=piece.startswith(("\\mathrm", "\\operatorname")))
            place = end + 1
        elif kind == "number":
            result.append(Token("number", _number(piece)))
        elif kind == "currency":
            result.append(Token("currency", piece.removeprefix("\\")))
        elif kind == "word":
            result.append(_word(piece))
        elif kind in ("command", "sign"):
            name = SYNONYMS.get(piece, "\\\\" if piece.startswith("\\\\") else piece)
            result.append(Token("command" if name.startswith("\\") else "sign", name))
    return result


def _word(piece: str) -> Token:
    if piece in NAMES:
        name = NAMES[piece]
        return Token("command" if name.startswith("\\") else "sign", name)
    return Token("letter" if len(piece) == 1 else "word", piece)


def _inside_text(content: str, depth: int, *, is_roman: bool) -> list[Token]:
    """The tokens of \\text{…}: words stay words, everything else is read like a formula."""
    stripped = content.strip()
    if stripped == ".":
        return []
    if is_roman and stripped in ("e", "i"):  # the constants, set upright
        return [Token("letter", stripped)]
    if is_roman and stripped == "d":
        return [Token("command", "\\differential")]
    result: list[Token] = []
    for piece in _PIECE.findall(content):
        if not re.match("[A-Za-z]", piece):
            result += _tokens(piece, depth + 1)
        elif piece.strip() in NAMES:
            result.append(_word(piece.strip()))
        else:
            result.append(Token("text", fold_space(piece).rstrip(".")))
    return result


def _closing(text: str, start: int) -> int | None:
    """The place of the brace that closes the one before `start`; None if there is none."""
    depth = 1
    for brace in re.compile(r"\\[\\{}]|[{}]").finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return None


def _number(text: str) -> str:
    """A number in one form: `1000`, `1,000` where a bare comma groups digits, `0.1(6)` where digits repeat."""
    text = re.sub(r"\{,\}(?:\\!\s*)?|,\\!\s*|\\,|\u202f", "", text)
    if "\\dot" in text:
        head, *digits = re.sub(r"[{}\s]", "", text).split("\\dot")
        return head + "(" + "".join(digits) + ")"
    repeating = re.fullmatch(r"([\d.]+)\{?\s*\\(?:overline|bar)\D*(\d+)\D*", text)
    return f"{repeating[1]}({repeating[2]})" if repeating else text

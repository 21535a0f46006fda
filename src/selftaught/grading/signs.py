"""One spelling for the signs that people and models write in many ways. Pure text.

`visible` prepares a new text: it removes invisible characters and makes a letter with its accent one character.
`plain` prepares a text for reading: every character keeps its place, so that places in the result are places in the
text. `fold_space` and `fold` are for comparing texts. The patterns of this file define, for numbers and for choices,
which marks may be around an answer, and where a sentence ends.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)


@lru_cache(maxsize=1)
def _many_accents() -> re.Pattern[str]:
    blocks = (range(0x300, 0x3100), range(0xA600, 0xAC00), range(0xFE20, 0xFE30), range(0x10A00, 0x12000))
    accents = (chr(code) for block in blocks for code in block if unicodedata.combining(chr(code)))
    return re.compile(f"[{''.join(accents)}\U0001d165-\U0001d1ad\U0001e000-\U0001e94a]{{20}}")


def visible(text: str) -> str:
    """`text` without invisible characters (joiners, marks of direction, soft hyphens), composed (NFC).

    No language has twenty accents in a row: a text with such a run is not composed, since sorting them would take long.
    """
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text)
    if unicodedata.is_normalized("NFC", text) or _many_accents().search(text):
        return text
    return unicodedata.normalize("NFC", text)


def span_in(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Where the characters `start` to `end` of `visible(text)` stand in `text`.

    None where no part of `text` reads as they do by itself, as in a text with a run of accents.
    """
    seen = visible(text)
    if seen == text:
        return start, end

    def position(number: int) -> int:
        """The longest beginning of `text` of which so many characters are visible."""
        return bisect_right(range(len(text) + 1), number, key=lambda length: len(visible(text[:length]))) - 1

    found = position(start), position(end)
    return found if visible(text[slice(*found)]) == seen[start:end] else None


def fold_space(text: str) -> str:
    """`text` with one space for each run of white space, and none around it."""
    return " ".join(text.split())


def fold(text: str) -> str:
    """`text` with white space and case folded: equal for texts that differ only in these."""
    return fold_space(text).casefold()


_SAME_LENGTH = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in "！？"},  # full-width forms
    **{ord(sign): "-" for sign in "‐‑‒–−˗﹣➖⁃"},  # not longer dashes, which only separate
    **{ord(space): "\u00a0" for space in "\u2007\u2009\u202f"},  # the spaces that group digits
    **{ord(space): " " for space in "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u200a\u205f\u3000"},
    **{ord(quote): '"' for quote in "“”„‟"},
    **{ord(quote): "'" for quote in "‘’‚‛"},
    **{ord(slash): "/" for slash in "⁄∕"},
    **{ord(percent): "%" for percent in "﹪٪"},
    **{ord(times): "×" for times in "✕✖⨯"},
    **{ord(sign): plain for sign, plain in zip("￥￡￠￦", "¥£¢₩", strict=True)},
    ord("İ"): "I",
    ord("﹢"): "+",
    ord("٫"): ".",
    ord("٬"): ",",
    ord("،"): ",",
}


@lru_cache(maxsize=1)
def _one_spelling() -> dict[int, str]:
    digits = (code for code in range(0x660, 0x1FBFA) if chr(code).isdecimal())
    return {**{code: str(unicodedata.decimal(chr(code))) for code in digits}, **_SAME_LENGTH}


def plain(text: str) -> str:
    """`text` with one spelling per sign and digit, and no \\text{; every character keeps its place.

    The decimal digits of all scripts become ASCII digits; ² does not, since it is an exponent.
    """
    if not text.isascii():
        text = text.translate(_one_spelling())
    return _TEXT_COMMAND.sub(lambda command: " " * len(command[0]), text)


_TEXT_COMMAND = re.compile(r"\\(?:text|textrm|textnormal|mathrm|mbox|textbf|mathbf|textit|mathit|operatorname)\s*\{")

# Possessive quantifiers (*+, ++) never backtrack, so that no text makes a search quadratic.
SPACE = r"(?:[\s~]|\\[,;:! ]|\\(?:quad|qquad)\b)*+"
"""White space as people and LaTeX write it."""
UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
"""Letters of scripts that have no spaces between words, or attach endings to them."""
TAG = r"<(?:/?(?:[biups]|[A-Za-z][\w:-]{1,30})\s?/?|\|[^<>|\n]{1,40}\|)>"
"""An HTML tag, or an end token written as text; "3<x>2" contains neither."""
OPENING = rf"(?:\s|[*_`\"'«‹「『〈《【(\[{{]|\\[(\[{{]|\\left\b|{TAG})"
"""A mark that may come before an answer."""
CLOSING = (
    r"(?:\s|~|\\[,;:! ]"
    rf"|\*{{1,3}}(?=[\s.,;:!?)\]}}\"'_`$<。！？，]|{UNSPACED}|\Z)(?<!\s\*)(?<!\s\*\*)"  # emphasis, not an operator
    r"|\*+(?=\s*\Z)|_{1,3}(?!\w)|\|(?=\s*\Z)|\\q?quad\b"
    r"|[`\"'»›」』〉》】)\]}$]|\\[)\]}$]|\\right\b|\\\\(?=\s|\Z)|#+(?=[\s#]*\Z)"
    rf"|{TAG}|\\(?:checkmark|blacksquare|square|qed|Box)\b|[✓✔✅☑∎■□▪◼🎉😀-🙏✨⭐🌟👍🏁🏆💯]"
    r")"
)
"""A mark that may come after an answer and does not continue it."""
SENTENCE_END = (
    r"(?:(?:\.(?!\.)|\?++)(?=[\s*`\"'»)\]}$<]|_{1,3}(?!\w)|\\[)\]]|(?-i:[A-Z][a-z])|\Z)"
    r"|!(?=[*_`\"'»)\]}$]*(?:\s*\Z|\s*[\n\r]|\s+(?-i:[A-Z])|<))|[。｡！？।॥؟۔])"
)
"""The end of a sentence; "3.com", "5! ways" and "5..." do not end one."""
LETTER = (
    r"[^\W\d_\u00b2\u00b3\u00b9\u00bc-\u00be\u02b0-\u02ff\u1d2c-\u1d7f\u2070-\u209c\u2150-\u218b\u2460-\u24ff"
    r"\u2776-\u2793]"
)
"""A letter of any script, but no digit or fraction, and no raised or lowered letter."""
_LATIN, _ACCENTS = (
    r"A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ",
    r"\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0970-\u0e4e",
)
WORD = (
    rf"(?:(?:(?={LETTER})[{_LATIN}])++(?:[-'.](?:(?={LETTER})[{_LATIN}])++)*"
    rf"|(?={LETTER})[^{_LATIN}](?:(?:(?={LETTER})[^{_LATIN}])|[{_ACCENTS}]|-(?={LETTER}))*+)"
)
"""A word of one script: "km" and "です" of "kmです"."""


def without_marks(text: str) -> Iterator[str]:
    """`text`, and its shorter forms as a full stop, tags, emphasis, quotes and formula signs are removed one by one."""
    yield text
    for _ in range(MAX_LAYERS):
        around = _AROUND.fullmatch(text)
        if around is not None:
            text = next(around[name] for name in "abcdefghij" if around[name] is not None).strip()
        else:
            tail = next((tail for tail in _TAILS if tail.search(text)), None)
            text = "" if tail is None else tail.sub("", text).rstrip()
        if not text:
            return
        yield text


MAX_LAYERS = 8
"""How many marks around an answer are removed."""
_AROUND = re.compile(
    r"(?P<mark>\*{1,3}|_{1,3}|`{1,3}|\${1,2}|[\"'])\s?(?P<a>[^\s].*[^\s]|[^\s])\s?(?P=mark)"
    r"|\\\((?P<b>.+)\\\)|\\\[(?P<c>.+)\\\]"
    r"|“(?P<d>.+)”|‘(?P<e>.+)’|«(?P<f>.+)»|„(?P<g>.+)[“”]|「(?P<h>.+)」"
    r"|\\(?:text|textbf|textit|mathrm|mathbf|boxed|emph)\s*\{(?P<i>.+)\}|<(?P<tag>\w+)[^<>]*>(?P<j>.+)</(?P=tag)>",
    re.DOTALL,
)
_TAILS = (
    re.compile(rf"(?:\s|{TAG})+\Z"),
    re.compile(r"(?<=[^.])[.。]\Z"),
    re.compile(r"(?<=[^*_`])(?:\*\*|__|[*`])\Z"),
)

"""Find characters that no text means: control characters, and what a LaTeX command becomes with one backslash. Pure.

In JSON and TOML `"\\frac{2}{7}"` has two backslashes. With one, `\\f` is a form feed, and the text reads "rac{2}{7}" to
whoever does not look at its bytes. A form feed or a backspace is no part of any text, so those are always found. A
tab, a line end and a carriage return are; behind one of them only what nothing but a LaTeX command leaves is found:
`imes` after a tab is the rest of `\\times`, while a line that begins with "e" may be one.
"""

import re

_NAMES = {"\b": "\\b", "\f": "\\f", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "NUL", "\x1b": "ESC", "\x7f": "DEL"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_SURE = {
    "\t": r"imes|heta|riangle(?:left|right|q)?|herefore|hickapprox|ext(?:bf|it|rm|sf|tt)|ext(?=\s?\{)|frac(?=\s?[{\d])"
    r"|ilde(?=\s?\{)|binom(?=\s?[{\d])",
    "\n": r"eq(?![.:)])|abla|otin|leq|geq|mid(?=\s?\\)|subseteq|supseteq|ewline|eg(?=\s?[\\({])|u(?=_\{|\^\{)",
    "\r": r"ho|ight(?:arrow)?|ceil|brack",
}
"""What is left of a command behind each character, where no word or formula begins so."""
_UNSURE = {"\t": "o|an|anh|au|op", "\n": "ot|i", "\r": "m|angle|floor|brace|vert"}
"""Words and letters in other texts, commands inside $…$, where no tab and no lone carriage return has a meaning."""

_SLIP = {
    character: re.compile(rf"{character}(?:{tails})(?![A-Za-z])|{character}(?:{_UNSURE[character]})(?=[\\({{^_$])")
    for character, tails in _SURE.items()
}
_IN_FORMULA = re.compile(rf"[\t](?:{_UNSURE[chr(9)]})(?![A-Za-z])|\r(?!\n)(?:{_UNSURE[chr(13)]})(?![A-Za-z])")
_FORMULA = re.compile(r"\$(?!\s)[^$\n]{1,200}?(?<!\s)\$(?!\d)|\\\([^\n]{1,200}?\\\)")


def control_character_in(text: str) -> str:
    """What is wrong with the first such character of a text, as half a sentence; empty if nothing is."""
    found = _CONTROL.search(text)
    if found is not None:
        command = re.match(r"[A-Za-z]*", text[found.end() :])
        name = _NAMES.get(found[0], "")
        if name in ("\\b", "\\f") and command and command[0]:
            return _of_a_command(name, command[0])
        said = f" ({name})" if name else ""
        return f"holds the control character U+{ord(found[0]):04X}{said} before {_shown(text, found.end())}; remove it"
    slips = [slip for pattern in _SLIP.values() if (slip := pattern.search(text))]
    slips += [slip for formula in _FORMULA.finditer(text) if (slip := _IN_FORMULA.search(formula[0]))]
    return _of_a_command(_NAMES[slips[0][0][0]], slips[0][0][1:]) if slips else ""


def _of_a_command(escape: str, rest: str) -> str:
    """`\\f` and `rac`."""
    return (
        f"holds the character {escape} before {rest[:20]!r}, where \\{escape[1]}{rest[:20]} seems to be meant; write "
        f"\\\\{escape[1]}{rest[:20]} with two backslashes in JSON and in TOML's double quotes"
    )


def _shown(text: str, start: int) -> str:
    after = text[start : start + 20].split("\n")[0]
    return repr(after) if after.strip() else "its end"

"""Detect characters that nobody means to write: control characters, and LaTeX commands with one backslash. Pure.

In JSON and TOML `"\\frac{2}{7}"` has two backslashes. With one, `\\f` is a form feed, and the text prints as
"rac{2}{7}". Texts have no form feeds or backspaces, so every one of these is reported. Texts do have tabs, line ends
and carriage returns. What follows one of these is reported as the rest of a command

- anywhere, if only a command leaves such a rest: `imes` after a tab, but not "e" after a line end;
- in a formula, and in a text that is only a formula, if any command leaves such a rest;
- at the beginning of a text, where white space has no meaning, unless words follow ("an indented line").
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
"""The rest of a command after each character, where no word or formula begins like that."""
_UNSURE = {"\t": "o|an|anh|au|op", "\n": "ot|i", "\r": "m|angle|floor|brace|vert"}
"""Rests that are words or letters elsewhere, and are reported if only a command can stand before what follows."""
COMMANDS = {
    "\t": "tag|tan|tanh|tau|tbinom|text|textbf|textit|textnormal|textrm|textsf|textstyle|texttt|tfrac|therefore|theta|"
    "thickapprox|thicksim|thinspace|tilde|times|tiny|to|top|triangle|triangledown|triangleleft|trianglelefteq|"
    "triangleq|triangleright|trianglerighteq|tt|twoheadrightarrow",
    "\n": "nRightarrow|nLeftarrow|nabla|natural|ncong|ne|nearrow|neg|neq|newline|nexists|ngeq|ngtr|ni|nleftarrow|nleq|"
    "nless|nmid|nobreak|nolimits|nonumber|not|notin|nparallel|nprec|nrightarrow|nsim|nsubseteq|nsucc|nsupseteq|"
    "ntriangleleft|nu|nwarrow",
    "\r": "raisebox|rangle|rbrace|rbrack|rceil|ref|rfloor|rho|right|rightarrow|rightharpoonup|rightleftharpoons|"
    "rightrightarrows|risingdotseq|rlap|rm|root|rtimes|rule|rvert|rVert",
}
"""Of LaTeX, by the control character that JSON and TOML read in place of the backslash and the first letter."""
_LEFT = {character: "|".join(name[1:] for name in names.split("|")) for character, names in COMMANDS.items()}
_BEGINS_PROSE = {"\t": "o|an|ext|ag|iny|op", "\n": "i|at|ow|ew", "\r": "angle|floor|ight|oot|ule|ef|m|brace|ho"}
"""Rests that may be a word at the beginning of a text, before other words; no text begins with "ot", "u" or "au"."""

_SLIP = {
    character: re.compile(rf"{character}(?:{tails})(?![A-Za-z])|{character}(?:{_UNSURE[character]})(?=[\\({{^_$])")
    for character, tails in _SURE.items()
}
_BEFORE_AN_ARGUMENT = re.compile(r"(?<= )\t(?:an|anh|au)(?![a-zA-Z])(?=\s?(?:\d|\\|[a-zA-Z](?![a-zA-Z])))")
"""`x = \tan y`, not a cell of a table."""
_COMMAND = re.compile("|".join(rf"{character}(?:{left})(?![A-Za-z])" for character, left in _LEFT.items()))
_READS_ON = {character: re.compile(rf"(?:{tails})\s+[a-z]{{2}}", re.I) for character, tails in _BEGINS_PROSE.items()}
_FORMULA = re.compile(
    r"(?<![\w$])\$[\t\n\r](?!\s)[^$\n]{1,200}\$"  # that begins with the slip
    r"|(?<!\$)\$(?![\s$])(?:[^$\n]|\n(?!\s*\n)){1,200}?(?<!\s)\$(?![\d$])"
    r"|\\\((?:[^\n]|\n(?!\s*\n)){1,200}?\\\)|\\boxed\{[^{}]{1,200}\}"
)
_ROW_END = re.compile(r"\\\\\s*\n")
"""Of an array in a formula."""
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_ANOTHER_EQUATION = re.compile(r"=.*\n[a-z]\s*=")
SHORT = 60
"""Characters of a text that may be nothing but a formula."""


def control_character_in(text: str) -> str:
    """What is wrong with the first such character of a text, as half a sentence; empty if nothing is."""
    control = _CONTROL.search(text)
    if control is not None:
        rest = re.match(r"[A-Za-z]*", text[control.end() :])
        name = _NAMES.get(control[0], "")
        if name in ("\\b", "\\f") and rest and rest[0]:
            return _slipped(name, rest[0])
        code = f"U+{ord(control[0]):04X}" + (f" ({name})" if name else "")
        return f"holds the control character {code} before {_beginning(text, control.end())}; remove it"
    if not re.search(r"[\t\n\r]", text):
        return ""
    slips = [slip for pattern in (*_SLIP.values(), _BEFORE_AN_ARGUMENT) if (slip := pattern.search(text))]
    slips += [slip for formula in _FORMULA.finditer(text) if (slip := _COMMAND.search(_ROW_END.sub("", formula[0])))]
    slips += [slip for find in (_at_the_beginning, _in_a_text_that_is_a_formula) if (slip := find(text))]
    return _slipped(_NAMES[slips[0][0][0]], slips[0][0][1:]) if slips else ""


def _at_the_beginning(text: str) -> re.Match[str] | None:
    text = text.lstrip(" ")
    slip = _COMMAND.match(text)
    return None if slip is None or _READS_ON[slip[0][0]].match(text, 1) else slip


def _in_a_text_that_is_a_formula(text: str) -> re.Match[str] | None:
    """A slip in a short text without words, and without other white space of its kind ("a\te\ti\to" is a table)."""
    text = text.rstrip()
    slip = _COMMAND.search(text) if len(text) <= SHORT and len(re.findall(r"[\t\n\r]", text)) == 1 else None
    if slip is None or _ANOTHER_EQUATION.search(text):
        return None
    return None if _WORD.search(text[: slip.start()]) or _WORD.search(text, slip.end()) else slip


def _slipped(escape: str, rest: str) -> str:
    r"""The message about a command with one backslash, from such as `\f` and `rac`."""
    line = " (or keep the formula in one line)" if escape == "\\n" else ""
    return (
        f"holds the character {escape} before {rest[:20]!r}, where \\{escape[1]}{rest[:20]} seems to be meant; write "
        f"\\\\{escape[1]}{rest[:20]} with two backslashes in JSON and in TOML's double quotes{line}"
    )


def _beginning(text: str, start: int) -> str:
    after = text[start : start + 20].split("\n")[0]
    return repr(after) if after.strip() else "its end"

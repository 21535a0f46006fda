"""What stands around a formula and says nothing: emphasis, `$`, tags, displays, a full stop, the reason behind it.

Pure text, linear in its length but for a fixed number of passes.
"""

import re

_DISPLAYS = (
    r"(?:align|alignat|flalign|aligned|alignedat|equation|gather|gathered|multline|split|displaymath|math|eqnarray"
    r"|cases)"
)
_WRAPS = tuple(
    re.compile(wrap, re.DOTALL)
    for wrap in (
        r"\$\$(?P<in>[^$]*)\$\$",
        r"\$(?P<in>[^$]*[^$\\])\$",
        r"\\\((?P<in>(?:(?!\\\(|\\\)).)*)\\\)",
        r"\\\[(?P<in>(?:(?!\\\[|\\\]).)*)\\\]",
        r"\\(?:boxed|fbox)\s*\{(?P<in>[^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[^{}]*)*)\}",
        rf"\\begin\s*\{{(?P<name>{_DISPLAYS}\*?)\}}(?:\{{\d+\}})?(?P<in>(?:(?!\\begin\s*\{{{_DISPLAYS}).)*)\\end\s*\{{(?P=name)\}}",
        r"\\left\s*\\\{\s*\\begin\s*\{array\}\s*\{[lcr ]+\}(?P<in>(?:(?!\\begin).)*)\\end\s*\{array\}\s*\\right\s*\.",
        r"```(?:latex|tex|math|text|plaintext)?\s(?P<in>[^`]*)```",
        r"<(?P<tag>answer|final|ans|result|solution|b|strong|i|em|u|p|code|math|span|center|mark)>(?P<in>[^<>]*)</(?P=tag)>",
        '"(?P<in>[^"]*)"',
        "“(?P<in>[^“”]*)”",
        r"[*_`]{1,3}(?P<in>(?=[^*_`]).*[^*_`\\])[*_`]{1,3}",
    )
)
_PASSES = 24
_END = re.compile(
    r"(?:(?<![\\.])(?<!\\right)(?<!\\left)[.,;:]|\\\\|(?<!\\)\\|[✅✔☑✓🎉😊🙂👍🚀✨🎯💯]\ufe0f?|(?<=\s)\\[,;:!])\Z"
)
"""A full stop, a line's end, a command of spacing that lost its space, a mark of satisfaction."""
_PIECES = re.compile(r"(?:[^$\\]|\\.)*(?:\$[^$\s](?:[^$]*[^$\s\\])?\$(?![\d$!^_])(?:[^$\\]|\\.)*)+", re.DOTALL)
"""Inline mathematics with text between: `$12\\pi$ cm$^2$`. In "$5 and $6" the signs are of money."""
_REASON = re.compile(r"\s(?:because|since)\s(?=.*(?:=|[A-Za-z]{2}))", re.DOTALL)
_SECOND_THOUGHT = re.compile(
    r"\b(?:no|not|n't|wait|but|actually|however|or|should|wrong|incorrect|mistake|instead|sorry|oops|hmm|answer|unless|because|since|if|when|otherwise|else)\b",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:\\(?:text|mathrm)(?:bf|rm|it)?\s*\{\s*)?\((?P<label>[A-J])\)\s*\}?[\s~]*(?P<rest>|-?\s*(?:\\?\$)?(?:\d|\\d?frac|\\sqrt).*)",
    re.DOTALL,
)
_STRUCK = re.compile(r"~~.*~~", re.DOTALL)


def formula_in(span: str) -> str | None:
    """The formula of an answer span without what surrounds it; None for nothing, and for what is struck out."""
    text = span.strip()
    for _ in range(_PASSES):
        before = text
        if _STRUCK.fullmatch(text):
            return None
        text = text.removeprefix("=").lstrip()
        text = _END.sub("", text).rstrip()
        for wrap in _WRAPS:
            match = wrap.fullmatch(text)
            text = match["in"].strip() if match else text
        if "$" in text and _PIECES.fullmatch(text):
            text = re.sub(r"(?<!\\)\$", " ", text).strip()
        text = _without_reason(text)
        if text == before:
            break
    return text or None


def labelled(formula: str) -> tuple[str, str] | None:
    """The label of a choice and the number behind it: `\\text{(C) }12`, `\\textbf{(C)}`."""
    match = _LABEL.fullmatch(formula)
    if match is None or re.search(r"\([A-J]\)|\b(?:or|and)\b", match["rest"]):
        return None
    return match["label"], match["rest"]


def _without_reason(text: str) -> str:
    """`5, since 2 + 3 = 5`: the answer stands before; not where the reason takes it back."""
    match = _REASON.search(text)
    if match is None or _SECOND_THOUGHT.search(text, match.end()):
        return text
    return text[: match.start()].rstrip(" ,\n")

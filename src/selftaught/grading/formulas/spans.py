"""Remove the text around a formula: emphasis, `$`, tags, displays, a full stop, the reason after it.

Pure text; a fixed number of passes, each linear in the length of the text.
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
"""The end of a formula that has no meaning: punctuation, a line end, a spacing command, an emoji."""
_PIECES = re.compile(r"(?:[^$\\]|\\.)*(?:\$[^$\s](?:[^$]*[^$\s\\])?\$(?![\d$!^_])(?:[^$\\]|\\.)*)+", re.DOTALL)
"""Inline mathematics with text between: `$12\\pi$ cm$^2$`. In "$5 and $6" the signs are those of a currency."""
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
    """The formula of an answer span without the text around it; None if it is empty or struck out."""
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
    """The label of a choice and the number after it: `\\text{(C) }12`, `\\textbf{(C)}`."""
    match = _LABEL.fullmatch(formula)
    if match is None or re.search(r"\([A-J]\)|\b(?:or|and)\b", match["rest"]):
        return None
    return match["label"], match["rest"]


def _without_reason(text: str) -> str:
    """The answer before a reason, as in `5, since 2 + 3 = 5`; all of the text if the reason may withdraw the answer."""
    match = _REASON.search(text)
    if match is None or _SECOND_THOUGHT.search(text, match.end()):
        return text
    return text[: match.start()].rstrip(" ,\n")

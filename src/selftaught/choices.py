"""Read which of a problem's choices a text names: by label, by text, or by both. Pure text.

A choice is named by its label in a form that nothing else has ("(B)", "b)", "B.", or "B" alone), or by its text; case,
white space, an article before it and a full stop after it do not matter. A bare letter before a word is an article or
a pronoun: "A dog" is not choice A. A label beside the text of another choice names neither.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from selftaught.problems import LABELS

NONE: frozenset[str] = frozenset()


def choice_at_start(text: str, choices: tuple[str, ...]) -> frozenset[str]:
    """The labels of the choice that `text` begins with; empty if it begins with none, or goes on to a different one.

    Several labels only where their choices have the same text and no label was given.
    """
    names = _names(choices)
    start = _end(_OPENING, text, 0)
    first = names.at(text, start) or names.at(text, _end(_NOUN, text, start))
    if first is None or not first.labels:
        return NONE
    joint = _JOINT.match(text, first.end)
    if joint:
        second = names.at(text, joint.end())
        if second is not None and not second.labels & first.labels:
            return NONE
    # "(A) bank (B) library" lists the choices; a remark may say which one it is not.
    sentence = _REMARK.split(text[first.end :], maxsplit=1)[0]
    others = {(match[1] or match[2]).upper() for match in _LISTED.finditer(sentence)} & names.labels
    return first.labels if others <= first.labels else NONE


def choices_in(text: str, choices: tuple[str, ...]) -> Iterator[frozenset[str]]:
    """What `text` names, in order: the labels of each; empty for a label beside another choice's text."""
    return (mention.labels for mention in _names(choices).mentions(text, 0, len(text)))


def last_choice(text: str, choices: tuple[str, ...]) -> frozenset[str]:
    """The labels of the choice that `text` names last; empty if there is none, or another beside it."""
    names = _names(choices)
    end = len(text)
    while end > 0:
        start = max(0, end - names.longest)
        found = list(names.mentions(text, max(0, start - names.longest), min(len(text), end + names.longest)))
        if found:
            *_, before, last = [None, *found]
            if before is not None and before.labels != last.labels:
                joint = _JOINT.match(text, before.end)
                if joint and joint.end() == last.start:
                    return NONE
            return last.labels
        end = start
    return NONE


# ---------------------------------------------------------------------------------------------------------------------

_OPENING = re.compile(r"(?:\s|[*_`\"'“‘«:$]|\\[(\[])*+(?:\\(?:text|mathrm|textbf|mathbf)\s*\{\s*)?")
_NOUN = re.compile(
    r"(?:the\s++)?(?:correct\s++)?(?:choice|option|letter|answer)\b\s*+(?:is\b)?\s*+:?\s*+", re.IGNORECASE
)
_ARTICLE = re.compile(r"(?:the|an?)\s++", re.IGNORECASE)
_LABEL = re.compile(
    r"[(\[{]\s?(?P<inside>[A-Za-z])\s?[)\]}]"  # (B)
    r"|(?P<pointed>[A-Za-z])[).:\]](?=[\s*_\"'”’}]|\Z)"  # B) bank
    r"|(?P<alone>[A-Za-z])(?=[\s*_\"'”’`}$]*+(?:\Z|[,;!?/&(]|\\[)\]]|(?:or|and|because|since|as|so|which)\b|[–—-]\s))"
)
_BRACKETED = re.compile(r"[\s*_\"'”’]*+[,:–—-]?\s*+[(\[]\s?(?P<label>[A-Za-z])\s?[)\]]")
_BETWEEN = re.compile(r"[\s*_\"'”’.:)\]–—-]*+(?:(?:the|an?)\s++)?", re.IGNORECASE)
_ENDS = re.compile(
    r"[\s*_\"'”’`}$]*+(?:\Z|[.!?](?=[\s*_\"'”’)]|\Z)|[,;:!()\[\]/&–—-]|(?:\\[)\]])"
    r"|(?:or|and|because|since|as|so|which)\b)",
    re.IGNORECASE,
)
"""After the text of a choice: the answer is over, or a remark begins. "bank account" does not name the choice bank."""
_JOINT = re.compile(
    r"[\s*_\"'”’`]*+(?:,\s*+)?(?:[,/&;]|(?:or|and)\b|(?<=,)|(?<=,\s))\s*+(?:(?:the|an?)\s++)?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Mention:
    labels: frozenset[str]
    """Empty where label and text contradict each other, or the label is none of the problem's."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Names:
    """The names of one problem's choices."""

    labels: frozenset[str]
    texts: re.Pattern[str]
    """Any choice's text, the longest first, so that "new york city" is not read as "new york"."""
    by_text: dict[str, frozenset[str]]
    """Folded text -> the labels of the choices that have it."""
    longest: int
    """Characters of a name with its label and white space, at most."""

    def at(self, text: str, start: int) -> _Mention | None:
        """The choice named right at `start`, by label or text; its text must end there."""
        label = _LABEL.match(text, start)
        by_text = self._text_at(text, start)
        if label is None or (label["alone"] and by_text and by_text.end > label.end()):
            return by_text if by_text and _ENDS.match(text, by_text.end) else None
        letter = _letter(label)
        found = frozenset({letter}) & self.labels
        beside = self._text_at(text, _end(_BETWEEN, text, label.end()))
        if beside is not None and _ENDS.match(text, beside.end):
            return _Mention(found & beside.labels, label.start(), beside.end)
        if by_text is not None and not by_text.labels & found:  # a choice whose text is the label of another one
            return _Mention(NONE, label.start(), label.end())
        return _Mention(found, label.start(), label.end())

    def mentions(self, text: str, start: int, end: int) -> Iterator[_Mention]:
        """Labels in brackets and texts, anywhere."""
        position = start
        named = self.texts.search(text, position, end)
        while position < end:
            if named is not None and named.start() < position:
                named = self.texts.search(text, position, end)
            label = _ANYWHERE.search(text, position, named.start() if named else end)
            if label is not None:
                found = self.at(text, label.start())
            elif named is not None:
                found = self._text_at(text, named.start())
                if found is not None and found.end - found.start == 1:  # "I" or "x" is mostly just a word
                    found = None
            else:
                return
            if found is None:
                position = (label or named).end()  # type: ignore[union-attr]
            else:
                yield found
                position = found.end

    def _text_at(self, text: str, start: int) -> _Mention | None:
        """A choice's text at `start`, perhaps after an article and before its label in brackets."""
        named = self.texts.match(text, start)
        if named is None:
            article = _ARTICLE.match(text, start)
            named = article and self.texts.match(text, article.end())
        if named is None:
            return None
        labels = self.by_text.get(_fold(named[0]), NONE)  # for letters that `re` and `casefold` see differently
        beside = _BRACKETED.match(text, named.end())
        if beside is None:
            return _Mention(labels, named.start(), named.end())
        return _Mention(labels & {beside["label"].upper()}, named.start(), beside.end())


_REMARK = re.compile(r"[.!?](?=\s)|\b(?:because|since|as|so|which|while|whereas|but)\b", re.IGNORECASE)
_LISTED = re.compile(
    r"(?<!not )(?<!not the )(?<!than )(?<!instead of )(?:[(\[]\s?([A-Za-z])\s?[)\]]|(?<![\w(\[])([A-Z])\)(?=\s|\Z))"
)
"""A label in a form that nothing else has."""
_ANYWHERE = re.compile(r"[(\[]\s?[A-Za-z]\s?[)\]]|^[ \t]*+[A-Z](?=[).:]?[ \t]*+$)", re.MULTILINE)


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return start if match is None else match.end()


def _letter(label: re.Match[str]) -> str:
    return (label["inside"] or label["pointed"] or label["alone"]).upper()


def _fold(text: str) -> str:
    """Without case, spare white space, an article before and punctuation after it."""
    words = " ".join(text.casefold().split()).strip("\"'“”‘’ ")
    return words.rstrip(".!?,;: ") or words


@lru_cache(maxsize=1024)
def _names(choices: tuple[str, ...]) -> _Names:
    by_text: dict[str, frozenset[str]] = {}
    for label, text in zip(LABELS, choices, strict=False):
        if _fold(text):
            by_text[_fold(text)] = by_text.get(_fold(text), NONE) | {label}
    # A choice "the library" is also named by "library", unless another choice has that text.
    for text, labels in list(by_text.items()):
        by_text.setdefault(_ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text, labels)
    points = {
        _fold(text): rf"(?:\s*+{re.escape(point[0])})?" for text in choices if (point := re.search(r"[.!?]+\Z", text))
    }
    patterns = [
        r"(?<!\w)(?<!\d[.,])" * bool(re.match(r"\w", text))
        + r"\s++".join(re.escape(word) for word in text.split())
        + r"(?!\w)(?![.,]\d)" * bool(re.search(r"\w\Z", text))
        + points.get(text, "")
        for text in sorted(by_text, key=len, reverse=True)
    ]
    longest = max([len(text) for text in choices], default=0) + 40
    return _Names(
        labels=frozenset(LABELS[: len(choices)]),
        texts=re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE),
        by_text=by_text,
        longest=max(longest, 1024),
    )

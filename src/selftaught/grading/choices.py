"""Read which of a problem's choices a text names: by label, by text, or by both. Pure text.

A text names a choice by its label in a form that only a label has ("(B)", "b)", "B.", or "B" alone), or by its text;
case, white space, an article before it and a full stop after it do not matter. A bare letter before a word is an
article or a pronoun: "A dog" is not choice A. A label beside the text of another choice names neither. After a name,
the text or its sentence must end, or a remark begin: "bank account" and "bank-robber" do not name the choice bank, and
"5 or 6" does not name 5.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from selftaught.grading.amounts import parse_number, read_quantity
from selftaught.grading.quantities import match_end
from selftaught.grading.signs import (
    CLOSING,
    OPENING,
    SENTENCE_END,
    UNSPACED,
    fold_space,
    plain,
    visible,
)
from selftaught.records.problems import LABELS

NONE: frozenset[str] = frozenset()
LONGEST_NUMBER = 200
"""Characters that are read to see whether a number in the text is complete."""


def choice_at_start(text: str, choices: tuple[str, ...]) -> frozenset[str] | None:
    """The labels of the choice that `text` begins with; None if it begins with none.

    Empty if it is unclear which choice is meant, because the text offers another one or something else beside it.
    Several labels only where their choices have the same text and the text gives no label.
    """
    names, text = _names(choices), plain(text)
    first = names.first(text, 0) or names.first(text, _NOUN.match(text).end())  # type: ignore[union-attr]
    if first is None:
        return None
    if not first.labels or _is_continued(names, text, first):
        return NONE
    # "(A) bank (B) library" lists the choices; a remark may name a choice that is not meant.
    sentence = _REMARK.split(text[first.end :], maxsplit=1)[0]
    others = {(match[1] or match[2]).upper() for match in _LISTED.finditer(sentence)} & names.labels
    return first.labels if others <= first.labels else NONE


def choices_in(text: str, choices: tuple[str, ...]) -> Iterator[frozenset[str]]:
    """The labels of each choice that `text` names, in order; empty where it is unclear which one is meant."""
    return (mention.labels for mention in _names(choices).mentions(plain(text), 0, len(text)))


def last_choice(text: str, choices: tuple[str, ...]) -> frozenset[str]:
    """The labels of the choice that `text` names last; empty if it names none, or another one beside it."""
    names, text = _names(choices), plain(text)
    end = len(text)
    while end > 0:
        start = max(0, end - names.longest)
        mentions = list(names.mentions(text, max(0, start - names.longest), min(len(text), end + names.longest)))
        if mentions:
            *_, before, last = [None, *mentions]
            if before is not None and before.labels != last.labels:
                joint = _JOINT.match(text, before.end)
                if joint and joint.end() == last.start:
                    return NONE
            return last.labels
        end = start
    return NONE


def offers_another(text: str, end: int = 0) -> bool:
    """Whether an "or" follows the name of a choice that ends at `end`."""
    return _ALTERNATIVE.match(text, end) is not None


# ---------------------------------------------------------------------------------------------------------------------

_OPENINGS = re.compile(rf"(?:{OPENING}|[:$])*+")
_CLOSINGS = re.compile(rf"{CLOSING}*+")
_NOUN = re.compile(
    rf"(?:{OPENING}|[:$])*+(?:(?:the\s++)?(?:correct\s++)?(?:(?:choice|option|letter|answer)\b|选项|選項|選択肢)"
    r"\s*+(?:is\b)?\s*+:?\s*+)?",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"(?:the|an?)\s++", re.IGNORECASE)
_MARKED_ARTICLE = re.compile(rf"(?:the|an?)\s++(?:{OPENING})*+", re.IGNORECASE)
_COPULA = r"(?:です|である|だ|でしょう|になります|となります|입니다|이다|예요|이에요)"
_LABEL = re.compile(
    r"[(\[{]\s?(?P<inside>[A-Za-z])\s?[)\]}]"  # (B)
    r"|(?P<pointed>[A-Za-z])[).:\]](?=[\s*_`\"'»」』}$<]|\\[)\]]|\Z)"  # B) bank
    rf"|(?P<alone>[A-Za-z])(?!(?!{UNSPACED})[^\W_]|-\w|_+[^\W_])"
)
_ATTACHED = re.compile(r"['’]?[^\W_]|-\w|[\^²³%(]")
"""Text right after a label in brackets that makes it a part of something else, as in (C)'s."""
_TIGHT = re.compile(r"(?P<label>[A-Za-z])[).:\]]")
"""A label that its text touches: A)21."""
_BRACKETED = re.compile(rf"{CLOSING}*+[,:–—-]?\s*+[(\[]\s?(?P<label>[A-Za-z])\s?[)\]]")
_BETWEEN = re.compile(rf"(?:{CLOSING}|[.:–—-])*+")
_REASON = r"(?:because|since|as(?!\s+well)|so|which|not|while|whereas|but|for|therefore|thus|hence)\b"
_NAME_ENDS = re.compile(
    rf"(?!#){CLOSING}*+(?:\Z|(?<!\s){SENTENCE_END}|(?:…|\.{{3}}|\.(?!\.))[*_`\"'\s]*\Z|{_COPULA}"
    r"|[,;、](?!\d)|:(?=\s|\Z)|(?<=[^\x00-\u024f]):|(?<=[\s*_)])[–—-](?=\s)"
    rf"|\s?—|(?<=[\s*_`\"'$)])[(\[]|(?<=[^\x00-\u024f])\(|{_REASON})",
    re.IGNORECASE,
)
"""Text after a name that ends the answer or begins a remark."""
_ALTERNATIVE = re.compile(
    rf"{CLOSING}*+(?:[,;]\s*+)?(?:(?:or|oder|nor|vs|et|und|ou|as\s+well\s+as|along\s+with|together\s+with)\b|[/&+|]"
    r"|[(\[]\s*(?:or|and)\b|(?<![,;]\s)(?<![,;])and\b)",
    re.IGNORECASE,
)
"""Text after a name that makes it one of several."""
_OTHER_THING = re.compile(
    rf"{CLOSING}*+(?:[,;]|\s?—|:)\s*+(?:and\s++)?(?!{_REASON}|\w+ly\b|of course|right\b|indeed"
    rf"|though|too\b|please|thanks|obvious|sure\b|I\b|as\b|it\b|i\.e|etc)"
    rf"(?:[^\W\d_]{{3,}}(?:[ -][^\W\d_]+)?)[*_`\"')]*\s*(?:[.!?]|\Z)",
    re.IGNORECASE,
)
"""Text after the text of a choice that continues a list of things; it has no verb."""
_JOINT = re.compile(
    rf"{CLOSING}*+(?:,\s*+)?(?:[,/&;:、–—…-]|\.\.\.|→|(?:or|and|vs\.?)\b|(?<=,)|(?<=,\s))\s*+(?:(?:the|an?)\s++)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Mention:
    labels: frozenset[str]
    """Empty where label and text contradict each other, or where the problem has no such label."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Names:
    """The names of one problem's choices."""

    labels: frozenset[str]
    texts: re.Pattern[str]
    """Matches the text of any choice, the longest first, so that "new york city" is not read as "new york"."""
    by_text: dict[str, frozenset[str]]
    """Folded text -> the labels of the choices that have it."""
    numbers: frozenset[str]
    """The folded texts that are numbers."""
    longest: int
    """The most characters that a name has, with its label and white space."""

    def first(self, text: str, start: int) -> _Mention | None:
        """The choice named at `start`, after opening marks, some of which may belong to its text (`$10`)."""
        end = match_end(_OPENINGS, text, start)
        for place in range(start, end):
            named = self._text_at(text, place)
            if named is not None and _NAME_ENDS.match(text, named.end):
                return named
        return self._bracketed_label(text, start, end) or self.at(text, end)

    def at(self, text: str, start: int) -> _Mention | None:
        """The choice whose name begins right at `start`, a label or a text; no other word may continue the name."""
        by_text = self._text_at(text, start)
        if by_text is not None and not _NAME_ENDS.match(text, by_text.end):
            by_text = None
        tight = self._tight(text, start)
        label = _LABEL.match(text, start)
        letter = "" if label is None else (label["inside"] or label["pointed"] or label["alone"]).upper()
        if tight is not None or label is None:
            return tight or by_text
        if by_text is not None and label["alone"] and by_text.end > label.end():
            return by_text
        if by_text is not None and letter not in self.labels:  # a choice "y" among two
            return by_text
        labels = frozenset({letter}) & self.labels
        beside, is_marked = self._beside(text, label.end())
        agrees = beside is not None and bool(beside.labels & labels)
        if label["inside"] and _ATTACHED.match(text, label.end()) and not agrees:
            return None if beside is None else _Mention(NONE, label.start(), beside.end)
        is_over = _NAME_ENDS.match(text, label.end()) or offers_another(text, label.end())
        if label["alone"] and not is_over and not (agrees and is_marked):
            return None
        if beside is not None and (is_marked or not label["alone"]):
            return _Mention(labels & beside.labels, label.start(), beside.end)
        if by_text is not None and not by_text.labels & labels:  # a choice whose text is the label of another one
            return _Mention(NONE, label.start(), label.end())
        return _Mention(labels, label.start(), label.end())

    def mentions(self, text: str, start: int, end: int) -> Iterator[_Mention]:
        """All names that are labels in brackets or texts; a mention has no labels where the text offers another one."""
        position = start
        named = self.texts.search(text, position, end)
        while position < end:
            if named is not None and named.start() < position:
                named = self.texts.search(text, position, end)
            label = _ANYWHERE.search(text, position, named.start() if named else end)
            if label is not None:
                mention = self.at(text, label.start())
            elif named is not None:
                mention = self._text_at(text, named.start())
                if mention is not None and mention.end - mention.start == 1 and text[mention.start].isalpha():
                    mention = None  # "I" or "x" is usually just a word
            else:
                return
            if mention is None:
                position = (label or named).end()  # type: ignore[union-attr]
            else:
                yield _Mention(NONE, mention.start, mention.end) if offers_another(text, mention.end) else mention
                position = mention.end

    def _tight(self, text: str, start: int) -> _Mention | None:
        """A label and the text of its choice, without a space between them."""
        label = _TIGHT.match(text, start)
        beside = None if label is None else self._text_at(text, label.end())
        if label is None or beside is None or not _NAME_ENDS.match(text, beside.end):
            return None
        letter = label["label"].upper()
        return _Mention(frozenset({letter}), start, beside.end) if letter in beside.labels else None

    def _beside(self, text: str, end: int) -> tuple[_Mention | None, bool]:
        """The choice whose text follows a label that ends at `end`, and whether more than space separates the two."""
        place = match_end(_BETWEEN, text, end)
        for begin in range(end, match_end(_OPENINGS, text, place) + 1):
            named = self._text_at(text, begin)
            if named is not None and _NAME_ENDS.match(text, named.end):
                return named, not text[end:begin].isspace() and begin > end
        return None, False

    def _bracketed_label(self, text: str, start: int, end: int) -> _Mention | None:
        """A label whose bracket is one of the opening marks: `**(B)** bank`."""
        opened = max(text.rfind(bracket, start, end) for bracket in "([{")
        label = None if opened < 0 else _LABEL.match(text, opened)
        return None if label is None or not label["inside"] else self.at(text, opened)

    def _text_at(self, text: str, start: int) -> _Mention | None:
        """The text of a choice at `start`, perhaps after an article and before its label in brackets."""
        named = self.texts.match(text, start)
        if named is None:
            article = _MARKED_ARTICLE.match(text, start)
            named = article and self.texts.match(text, article.end())
        if named is None:
            return None
        name = _fold(named[0])
        if name in self.numbers and not _is_that_number(text, named, name):
            return _Mention(NONE, named.start(), named.end())
        labels = self.by_text.get(name, NONE)  # of some letters `re` and `lower` disagree about the case
        beside = _BRACKETED.match(text, named.end())
        if beside is None:
            return _Mention(labels, named.start(), named.end())
        return _Mention(labels & {beside["label"].upper()}, named.start(), beside.end())


_REMARK = re.compile(r"[.!?](?=\s)|\b(?:because|since|as|so|which|while|whereas|but)\b", re.IGNORECASE)
_LISTED = re.compile(
    r"(?<!not )(?<!not the )(?<!than )(?<!instead of )(?:[(\[]\s?([A-Za-z])\s?[)\]]|(?<![\w(\[])([A-Z])\)(?=\s|\Z))"
)
"""A label in a form that only a label has."""
_ANYWHERE = re.compile(r"[(\[]\s?[A-Za-z]\s?[)\]]|^[ \t]*+[A-Z](?=[).:]?[ \t]*+$)", re.MULTILINE)


def _is_continued(names: _Names, text: str, first: _Mention) -> bool:
    """Whether the text names another choice beside the first one, or offers something else in its place."""
    is_text = text[first.end - 1] not in ")]" and first.end - first.start > 1
    if offers_another(text, first.end) or (is_text and _OTHER_THING.match(text, first.end)):
        return True
    joint = _JOINT.match(text, first.end)
    second = names.first(text, joint.end()) if joint else None
    return second is not None and not second.labels & first.labels


def _is_that_number(text: str, named: re.Match[str], name: str) -> bool:
    """Whether the number in the text ends where the choice does: 5/8, 5-6 and 5 million do not name the choice 5."""
    label = _BRACKETED.match(text, named.end())
    end = label.start() if label else named.start() + LONGEST_NUMBER
    number, choice = read_quantity(text[named.start() : end]), read_quantity(name)
    if number is None or choice is None:
        return False
    return (number.value, number.percent) == (choice.value, choice.percent)


def _fold(text: str) -> str:
    """The text without case, extra white space, quotes around it and punctuation after it."""
    words = fold_space(text.lower().replace("\\$", "$").replace("\\%", "%")).strip("\"' ")
    return words.rstrip(".!?,;: ") or words


_PAIRED = re.compile(r"(?P<mark>\$\$?|\*\*?|__?|`|\\\()(?P<inside>.*\w.*?)(?:(?P=mark)|\\\))|«(?P<quoted>.*\w.*)»")


@lru_cache(maxsize=1024)
def _names(choices: tuple[str, ...]) -> _Names:
    by_text: dict[str, frozenset[str]] = {}
    folded = [_fold(plain(visible(text))) for text in choices]
    for label, text in zip(LABELS, folded, strict=False):
        if text:
            by_text[text] = by_text.get(text, NONE) | {label}
    # "library" also names the choice "the library", and "x" the choice `$x$`, unless another choice has that text.
    for text, labels in list(by_text.items()):
        by_text.setdefault(_ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text, labels)
        paired = _PAIRED.fullmatch(text)
        inside = "" if paired is None else _fold(paired["inside"] or paired["quoted"])
        if inside and not _is_dunder(text):
            by_text.setdefault(inside, labels)
    points = {
        _fold(plain(text)): rf"(?:\s*+{re.escape(point[0])})?"
        for text in choices
        if (point := re.search(r"[.!?]+\Z", text))
    }
    patterns = [
        r"(?<!\w)(?<!\d[.,])(?<!\w[-'/])" * bool(re.match(r"\w", text))
        + r"(?<![-+√^{])(?<!\d )" * bool(re.match(r"[\d$€£]", text))
        + r"(?<!\d)" * bool(re.match(r"\\", text))
        + r"(?<!(?<!\*)\*)" * text.startswith("*")
        + r"(?:\s++|(?<=\d)(?=[^\W\d_]))".join(
            re.escape(word).replace(r"\$", r"\\?\$").replace("%", r"\\?%") for word in text.split()
        )
        + rf"(?!(?!{_COPULA})\w)(?![-'/@^:%#\\…]\w)(?![(\[]\d)(?![.,]\d)(?!\.+(?-i:[a-z]))"
        * bool(re.search(r"\w\Z", text))
        + r"(?!\*)" * text.endswith("*")
        + points.get(text, "")
        for text in sorted(by_text, key=len, reverse=True)
    ]
    longest = max([len(text) for text in choices], default=0) + 40
    return _Names(
        labels=frozenset(LABELS[: len(choices)]),
        texts=re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE),
        by_text=by_text,
        numbers=frozenset(text for text in by_text if parse_number(text) is not None),
        longest=max(longest, 1024),
    )


def _is_dunder(text: str) -> bool:
    """Whether the marks around a text belong to it, as in `__init__`."""
    return text.startswith("_")

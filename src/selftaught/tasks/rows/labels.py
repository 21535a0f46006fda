"""Choices that carry their own labels: "A) 21", "(b) a lake", "Option C: 5"; and lists of such choices in one text.

The beginning of a text may be a label, or belong to the text ("A.D.", "1:30", "A major"). How sure that is depends on
the way of writing. Brackets are sure by themselves. A point or a colon is sure where the labels of a row are A, B, C, …
in any order. A bare letter, a dash, or a point without white space is sure only where many rows have one.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from selftaught.records.problems import LABELS


class Sure(IntEnum):
    """How sure it is, by the way of writing, that the beginning of a text is a label."""

    BY_MANY = 1
    BY_ORDER = 2
    BY_ITSELF = 3


MANY = 6
"""Number of choices, in all rows of a file, that must begin so for BY_MANY."""

_LETTER, _NUMBER = r"([A-Za-z])", r"(\d{1,2})"
_BLANK = r"{}\s+"
_FORMS: tuple[tuple[Sure, str, str], ...] = (
    # Full-width brackets and letters match too (see `_plain`).
    (Sure.BY_ITSELF, r"[(\[{{<]\s?{}\s?[)\]}}>][.:]?\s*", "both"),  # (A) 21 · [A] 21
    (Sure.BY_ITSELF, r"{}\s?[)\]][.:]?\s*", "both"),  # A) 21
    (Sure.BY_ITSELF, r"{}\s?、\s*", "both"),  # A、21
    (Sure.BY_ITSELF, r"(?i:option|choice|answer)\s+[(\[]?{}[)\]]?\s?[:.)\-–—]\s*", "both"),  # Option A: 21
    (Sure.BY_ITSELF, r"(?:\*\*|__)[(\[]?{}\s?[.:)\]]*(?:\*\*|__)\s?[.:)]?\s*", "both"),  # **A.** 21
    (Sure.BY_ORDER, r"{}\s?\.(?:\s+|(?=[^\w\s]|\d)(?!\d*\.\d))", "letter"),  # A. 21 · A.21, but not A.D.
    (Sure.BY_ORDER, r"{}\s?:(?:\s+|(?=[^\w\s]|\d))", "letter"),  # A: 21
    (Sure.BY_ORDER, r"{}\s?[|/]\s+", "letter"),  # A | 21
    # After a bare number a point and a colon have other meanings: 1.5, 1:30.
    (Sure.BY_ORDER, r"{}\.\s+", "number"),
    (Sure.BY_ORDER, r"{}:\s+(?!\d)", "number"),
    (Sure.BY_MANY, r"{}\s?[.:](?=\w)(?!\w\.)", "letter"),  # A.Monday
    (Sure.BY_MANY, r"{}\s?[-–—]+\s+", "letter"),  # A - 21
    (Sure.BY_MANY, _BLANK, "letter"),  # A 21
)
_PATTERNS = tuple(
    (sure, re.compile(form.format(label)))
    for kind, label in (("letter", _LETTER), ("number", _NUMBER))
    for sure, form, kinds in _FORMS
    if kinds in ("both", kind)
)
_MAY_BE = re.compile(
    r"[(\[{<*_]*\s?(?:[A-Za-z]|\d{1,2}|[Ⓐ-Ⓩⓐ-ⓩ①-⑳])(?![A-Za-z\d])|(?:option|choice|answer)\s", re.IGNORECASE
)
"""What every one of them begins with; a quick test, because most texts carry no label."""
_CIRCLED = re.compile(r"([Ⓐ-Ⓩⓐ-ⓩ①-⑳])\s*")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_FULL_WIDTH |= {ord("【"): ord("["), ord("】"): ord("]"), ord("。"): ord(".")}

_LABEL_AFTER_TEXT = re.compile(r"[\s,]*[(\[]\s?([A-Za-z]|\d{1,2})\s?[)\]]\s*\.?\s*\Z")


@dataclass(frozen=True, slots=True)
class Carried:
    """Labels and texts of a row's choices, where each begins with a possible label."""

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    """The choices without their labels."""
    sure: Sure


def carried_labels(texts: Sequence[str]) -> Carried | None:
    """The labels at the beginnings of a row's texts, all in one way of writing, the surest one; None where some text
    has none, and where a label occurs twice."""
    stripped = [text.strip() for text in texts]
    plain = [_plain(text) for text in stripped]
    if not all(map(_MAY_BE.match, plain)):
        return None
    for sure, pattern in (*_PATTERNS, (Sure.BY_ITSELF, _CIRCLED)):
        matches = [pattern.match(text) for text in plain]
        if not all(matches):
            continue
        labels = tuple(_name(match[1]) for match in matches if match)
        rests = tuple(text[match.end() :].strip() for match, text in zip(matches, stripped, strict=True) if match)
        is_one_kind = len({(label.isdigit(), label.isupper()) for label in labels}) == 1
        # "1) 5" and "2) 5" may be one choice twice; "1. 5" and "2. 5" are more likely two numbers.
        same = sure < Sure.BY_ITSELF and len(set(rests)) < len(set(stripped))
        if not all(rests) or not is_one_kind or len(set(labels)) < len(labels) or same:
            continue
        if _are_complete(labels) or (sure == Sure.BY_ORDER and _are_consecutive(labels)):
            return Carried(labels, rests, sure)
        if sure == Sure.BY_ITSELF and not labels[0].isdigit():  # "(3) 5" is more likely a product
            return Carried(labels, rests, sure)
    return None


def beginnings(texts: Sequence[str]) -> tuple[str, ...]:
    """For each text its possible label, in any way of writing, or "". A letter and a blank are no sign ("C major"), and
    other weak signs count only if all texts have one."""
    if not any(_MAY_BE.match(_plain(text.strip())) for text in texts):
        return ("",) * len(texts)
    weak = [_beginning(text.strip(), Sure.BY_MANY) for text in texts]
    return tuple(weak if all(weak) else [_beginning(text.strip(), Sure.BY_ORDER) for text in texts])


def _beginning(text: str, least: Sure) -> str:
    for sure, form in _PATTERNS:
        if sure >= least and form.pattern != _BLANK.format(_LETTER):
            match = form.match(_plain(text))
            if match is not None and text[match.end() :].strip():
                return match[1]
    return ""


def labelled_list(text: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Labels and texts of a list of choices in one text, "a ) 38 , b ) 27 , c ) 30"; None for any other text.

    Also None where the list could be split in two ways: each label of its form must follow the one before.
    """
    text = text.strip()
    for sure, pattern in _PATTERNS:
        if sure == Sure.BY_MANY:
            continue
        opens = r"(?=[(\[])" if pattern.pattern.startswith(r"[(") else r"(?!)"  # "(a)one(b)two"
        anywhere = re.compile(rf"(?:(?<=[\s,;|])|\A|{opens})(?:{pattern.pattern})")
        matches = list(anywhere.finditer(_plain(text)))
        if len(matches) < 2 or matches[0].start() != 0 or not _are_in_order([match[1] for match in matches]):
            continue
        ends = [*(match.start() for match in matches[1:]), len(text)]
        parts = [text[match.end() : end].strip() for match, end in zip(matches, ends, strict=True)]
        for separator in ",;|":
            if all(part.endswith(separator) for part in parts[:-1]):
                parts = [part.removesuffix(separator).rstrip() for part in parts]
                break
        if all(parts):
            return tuple(match[1] for match in matches), tuple(parts)
    return None


def labels_beside_text(answer: str) -> Iterator[tuple[str, str]]:
    """Every reading of an answer as a label and a text: "(a) clip", "clip (a)", "a) clip.", "A. clip"."""
    for written in dict.fromkeys((answer.strip(), answer.strip("*_` \t\r\n"))):
        for _, pattern in (*_PATTERNS, (Sure.BY_ITSELF, _CIRCLED)):
            before = pattern.match(_plain(written))
            if before is not None and written[before.end() :].strip():
                yield _name(before[1]), written[before.end() :].strip()
        after = _LABEL_AFTER_TEXT.search(_plain(written))
        if after is not None and after.start() > 0:
            yield after[1], written[: after.start()].strip()


def _plain(text: str) -> str:
    """The text with ASCII in place of full-width characters, one for one, so that positions stay."""
    return text.translate(_FULL_WIDTH)


def _name(label: str) -> str:
    """The label, with a circled letter or number as a plain one."""
    if "①" <= label <= "⑳":
        return str(ord(label) - ord("①") + 1)
    if "Ⓐ" <= label <= "Ⓩ":
        return chr(ord(label) - ord("Ⓐ") + ord("A"))
    return chr(ord(label) - ord("ⓐ") + ord("a")) if "ⓐ" <= label <= "ⓩ" else label


def _are_in_order(labels: Sequence[str]) -> bool:
    """Whether labels are A, B, C, … or a, b, c, … or 1, 2, 3, …"""
    capitals = list(LABELS[: len(labels)])
    numbers = [str(number) for number in range(1, len(labels) + 1)]
    return list(labels) in (capitals, [label.lower() for label in capitals], numbers)


def _are_complete(labels: Sequence[str]) -> bool:
    """Whether labels are A, B, C, … or a, b, c, … or 1, 2, 3, … or 0, 1, 2, … in any order."""
    from_zero = [str(number) for number in range(len(labels))]
    if labels[0].isdigit():
        return _are_in_order(sorted(labels, key=int)) or sorted(labels, key=int) == from_zero
    return _are_in_order(sorted(labels))


def _are_consecutive(labels: Sequence[str]) -> bool:
    """Whether labels are capitals without a gap, in any order, such as F, G, H, J: exams leave out I and O. Small
    letters such as x and y are more likely variables."""
    letters = sorted(labels)
    without = "".join(letter for letter in LABELS if letter not in "IO")
    return labels[0].isupper() and any(
        all(a in alphabet and alphabet.find(a) + 1 == alphabet.find(b) for a, b in pairwise(letters))
        for alphabet in (LABELS, without)
    )

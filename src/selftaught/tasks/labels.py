"""Choices that carry their own labels: "A) 21", "(b) a lake", "Option C: 5"; and lists of such choices in one text.

What begins a text may be a label, or the text's own ("A.D.", "1:30", "A major"). How much it takes to be sure depends
on how it is written: brackets say it by themselves; a point or a colon says it where the labels of a row are A, B, C, …
in any order; a bare letter, a dash, or a point without white space only where many rows are like that.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from selftaught.problems import LABELS


class Sure(IntEnum):
    """How sure a way of writing says that what it holds is a label."""

    BY_MANY = 1
    BY_ORDER = 2
    BY_ITSELF = 3


MANY = 6
"""Choices of a file, in all its rows, that have to begin so."""

_LETTER, _NUMBER = r"([A-Za-z])", r"(\d{1,2})"
_BLANK = r"{}\s+"
_FORMS: tuple[tuple[Sure, str, str], ...] = (
    # Full-width brackets and letters are told by what they are compatible with (see `_plain`).
    (Sure.BY_ITSELF, r"[(\[{{<]\s?{}\s?[)\]}}>][.:]?\s*", "both"),  # (A) 21 · [A] 21
    (Sure.BY_ITSELF, r"{}\s?[)\]][.:]?\s*", "both"),  # A) 21
    (Sure.BY_ITSELF, r"{}\s?、\s*", "both"),  # A、21
    (Sure.BY_ITSELF, r"(?i:option|choice|answer)\s+[(\[]?{}[)\]]?\s?[:.)\-–—]\s*", "both"),  # Option A: 21
    (Sure.BY_ITSELF, r"(?:\*\*|__)[(\[]?{}\s?[.:)\]]*(?:\*\*|__)\s?[.:)]?\s*", "both"),  # **A.** 21
    (Sure.BY_ORDER, r"{}\s?\.(?:\s+|(?=[^\w\s]|\d)(?!\d*\.\d))", "letter"),  # A. 21 · A.21, but not A.D.
    (Sure.BY_ORDER, r"{}\s?:(?:\s+|(?=[^\w\s]|\d))", "letter"),  # A: 21
    (Sure.BY_ORDER, r"{}\s?[|/]\s+", "letter"),  # A | 21
    # Behind a bare number a point and a colon have other meanings: 1.5, 1:30.
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
"""How every one of them begins; most texts do not, and are passed over soon."""
_CIRCLED = re.compile(r"([Ⓐ-Ⓩⓐ-ⓩ①-⑳])\s*")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_FULL_WIDTH |= {ord("【"): ord("["), ord("】"): ord("]"), ord("。"): ord(".")}

_BEHIND = re.compile(r"[\s,]*[(\[]\s?([A-Za-z]|\d{1,2})\s?[)\]]\s*\.?\s*\Z")


@dataclass(frozen=True, slots=True)
class Carried:
    """What the choices of a row begin with, where each begins with what may be a label."""

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    """The choices without them."""
    sure: Sure


def carried_labels(texts: Sequence[str]) -> Carried | None:
    """The labels that a row's texts carry before them in one way of writing, the surest one; None for other texts, and
    for labels of which one is there twice."""
    stripped = [text.strip() for text in texts]
    plain = [_plain(text) for text in stripped]
    if not all(map(_MAY_BE.match, plain)):
        return None
    for sure, pattern in (*_PATTERNS, (Sure.BY_ITSELF, _CIRCLED)):
        found = [pattern.match(text) for text in plain]
        if not all(found):
            continue
        labels = tuple(_name(match[1]) for match in found if match)
        rests = tuple(text[match.end() :].strip() for match, text in zip(found, stripped, strict=True) if match)
        is_one_kind = len({(label.isdigit(), label.isupper()) for label in labels}) == 1
        # "1) 5" and "2) 5" may be one choice twice; "1. 5" and "2. 5" are rather two numbers.
        same = sure < Sure.BY_ITSELF and len(set(rests)) < len(set(stripped))
        if not all(rests) or not is_one_kind or len(set(labels)) < len(labels) or same:
            continue
        if _count_in_any_order(labels) or (sure == Sure.BY_ORDER and _run_on(labels)):
            return Carried(labels, rests, sure)
        if sure == Sure.BY_ITSELF and not labels[0].isdigit():  # "(3) 5" is rather a product
            return Carried(labels, rests, sure)
    return None


def beginnings(texts: Sequence[str]) -> tuple[str, ...]:
    """For each text what may be its label, however it is written, "" for none. A blank alone says nothing ("C major"),
    and other weak signs only if all texts have one."""
    if not any(_MAY_BE.match(_plain(text.strip())) for text in texts):
        return ("",) * len(texts)
    found = [_beginning(text.strip(), Sure.BY_MANY) for text in texts]
    return tuple(found if all(found) else [_beginning(text.strip(), Sure.BY_ORDER) for text in texts])


def _beginning(text: str, least: Sure) -> str:
    for sure, form in _PATTERNS:
        if sure >= least and form.pattern != _BLANK.format(_LETTER):
            match = form.match(_plain(text))
            if match is not None and text[match.end() :].strip():
                return match[1]
    return ""


def labelled_list(text: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Labels and texts of a list of choices in one text, "a ) 38 , b ) 27 , c ) 30"; None for any other text.

    Also None where the list could be cut in two ways: every label of its form counts on from the one before.
    """
    text = text.strip()
    for sure, pattern in _PATTERNS:
        if sure == Sure.BY_MANY:
            continue
        opens = r"(?=[(\[])" if pattern.pattern.startswith(r"[(") else r"(?!)"  # "(a)one(b)two"
        anywhere = re.compile(rf"(?:(?<=[\s,;|])|\A|{opens})(?:{pattern.pattern})")
        found = list(anywhere.finditer(_plain(text)))
        if len(found) < 2 or found[0].start() != 0 or not _count([match[1] for match in found]):
            continue
        ends = [*(match.start() for match in found[1:]), len(text)]
        parts = [text[match.end() : end].strip() for match, end in zip(found, ends, strict=True)]
        for separator in ",;|":
            if all(part.endswith(separator) for part in parts[:-1]):
                parts = [part.removesuffix(separator).rstrip() for part in parts]
                break
        if all(parts):
            return tuple(match[1] for match in found), tuple(parts)
    return None


def labels_beside_text(answer: str) -> Iterator[tuple[str, str]]:
    """Every label and text of an answer that may say both: "(a) clip", "clip (a)", "a) clip.", "A. clip"."""
    for said in dict.fromkeys((answer.strip(), answer.strip("*_` \t\r\n"))):
        for _, pattern in (*_PATTERNS, (Sure.BY_ITSELF, _CIRCLED)):
            before = pattern.match(_plain(said))
            if before is not None and said[before.end() :].strip():
                yield _name(before[1]), said[before.end() :].strip()
        behind = _BEHIND.search(_plain(said))
        if behind is not None and behind.start() > 0:
            yield behind[1], said[: behind.start()].strip()


def _plain(text: str) -> str:
    """The text with ASCII in place of full-width forms, each for one character."""
    return text.translate(_FULL_WIDTH)


def _name(label: str) -> str:
    """A circled letter or number as that."""
    if "①" <= label <= "⑳":
        return str(ord(label) - ord("①") + 1)
    if "Ⓐ" <= label <= "Ⓩ":
        return chr(ord(label) - ord("Ⓐ") + ord("A"))
    return chr(ord(label) - ord("ⓐ") + ord("a")) if "ⓐ" <= label <= "ⓩ" else label


def _count(labels: Sequence[str]) -> bool:
    capitals = list(LABELS[: len(labels)])
    numbers = [str(number) for number in range(1, len(labels) + 1)]
    return list(labels) in (capitals, [label.lower() for label in capitals], numbers)


def _count_in_any_order(labels: Sequence[str]) -> bool:
    from_nought = [str(number) for number in range(len(labels))]
    if labels[0].isdigit():
        return _count(sorted(labels, key=int)) or sorted(labels, key=int) == from_nought
    return _count(sorted(labels))


def _run_on(labels: Sequence[str]) -> bool:
    """F, G, H, J in any order: capitals (x and y are variables) without a gap, though tests leave out I and O."""
    letters = sorted(labels)
    without = "".join(letter for letter in LABELS if letter not in "IO")
    return labels[0].isupper() and any(
        all(a in alphabet and alphabet.find(a) + 1 == alphabet.find(b) for a, b in pairwise(letters))
        for alphabet in (LABELS, without)
    )

"""Choices that carry their own labels: "A) 21", "(b) a lake"; and lists of such choices in one text.

A label is only taken for one where all choices carry one of the same form and they count A, B, C, … (or a, b, c, … or
1, 2, 3, …): "A.D." and "B.C." are no labels, and neither are "(a)" and "(c)".
"""

import re
from collections.abc import Sequence

from selftaught.problems import LABELS

_FORMS = (
    r"\(\s?{}\s?\)\s*",  # (A) 21
    r"\[\s?{}\s?\]\s*",  # [A] 21
    r"{}\s?\)\s*",  # A) 21
    r"{}\s?\.(?:\s+|(?=[^\w\s]|\d)(?!\d*\.\d))",  # A. 21 · A.21, but not A.D.
    r"{}\s?:(?:\s+|(?=[^\w\s]|\d))",  # A: 21
)
_LETTER, _NUMBER = r"([A-Za-z])", r"(\d{1,2})"
# Behind a bare number a point and a colon have other meanings, unless white space follows.
_NUMBERED = (*(form.format(_NUMBER) for form in _FORMS[:3]), _NUMBER + r"\.\s+", _NUMBER + r":\s+")
_PATTERNS = tuple(re.compile(form) for form in (*(form.format(_LETTER) for form in _FORMS), *_NUMBERED))

_BEHIND = re.compile(r"[\s,]*[(\[]\s?([A-Za-z]|\d{1,2})\s?[)\]]\s*\.?\s*\Z")


def without_labels(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The labels that texts carry before them, and the texts without; None if they do not carry labels in order."""
    stripped = [text.strip() for text in texts]
    for pattern in _PATTERNS:
        found = [pattern.match(text) for text in stripped]
        if not all(found):
            continue
        labels = tuple(match[1] for match in found if match)
        rests = tuple(text[match.end() :].strip() for match, text in zip(found, stripped, strict=True) if match)
        if _count(labels) and all(rests):
            return labels, rests
    return None


def labelled_list(text: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Labels and texts of a list of choices in one text, "a ) 38 , b ) 27 , c ) 30"; None for any other text.

    Also None where the list could be cut in two ways: every label of its form counts on from the one before.
    """
    text = text.strip()
    for pattern in _PATTERNS:
        anywhere = re.compile(rf"(?:(?<=[\s,;|])|\A)(?:{pattern.pattern})")
        found = list(anywhere.finditer(text))
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


def label_beside_text(answer: str) -> tuple[str, str] | None:
    """The label and the text of an answer that says both: "(a) clip", "clip (a)", "a) clip.", "A. clip"."""
    answer = answer.strip()
    for pattern in _PATTERNS:
        before = pattern.match(answer)
        if before is not None and answer[before.end() :].strip():
            return before[1], answer[before.end() :].strip()
    behind = _BEHIND.search(answer)
    if behind is not None and behind.start() > 0:
        return behind[1], answer[: behind.start()].strip()
    return None


def _count(labels: Sequence[str]) -> bool:
    capitals = list(LABELS[: len(labels)])
    numbers = [str(number) for number in range(1, len(labels) + 1)]
    return list(labels) in (capitals, [label.lower() for label in capitals], numbers)

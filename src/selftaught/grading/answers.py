"""Find the answer in a completion. Pure text: no model, no randomness, never evaluates what a model wrote.

The one extractor of the project: the loop, `eval`, `regrade` and the tests all call it, and no other code decides where
an answer is. There is one function per answer format. Strict extraction reads the answer right after the last marker
or in the last `\\boxed{}`, whichever comes later, and there must be exactly one answer there. Lenient extraction also
reads an answer that a human reader would still find. The marker is searched for in the complete text, everything else
in pieces of limited length, so that any completion is read in time linear in its length.
"""

import re
from dataclasses import dataclass

from selftaught.grading.amounts import (
    begins_with_number,
    numbers_in,
    read_quantity,
    stands_alone,
)
from selftaught.grading.choices import (
    choice_at_start,
    choices_in,
    last_choice,
    offers_another,
)
from selftaught.grading.quantities import Quantity, number_text, same_number
from selftaught.grading.scales import POWERS_OF_TEN, TOUCHING
from selftaught.grading.signs import fold_space, plain
from selftaught.grading.statements import (
    BLOCK,
    LONGEST,
    Statement,
    last_match,
)
from selftaught.records.problems import Extraction

LONGEST_ENDING = 20_000
"""Characters at the end of a text in which lenient extraction looks for an answer without a marker."""
LONGEST_LINE = 1_000
"""Characters of an answer that is a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRule:
    """Where a completion that puts its reasoning between tags states its answer."""

    opener: str
    """A completion that contains the opener states its answer only after the closer."""
    closer: str
    pattern: str
    """Regular expression that the complete answer line must match; any other line is unparseable."""


def extract(completion: str, rule: AnswerRule) -> str | None:
    """The answer that a completion states, with white space folded; None if it states none that can be read.

    A completion that opens its reasoning with `rule.opener` states the answer on the first line with text after
    `rule.closer`; without the closer there is no answer. A completion without the opener states it on its first
    line with text. (The parser of Zelikman et al. 2022 reads line 0 in both cases, so that an unfinished rationale
    counts as a wrong answer; here it is unparseable.)
    """
    if rule.opener in completion:
        _, closer, rest = completion.partition(rule.closer)
        if not closer:
            return None
    else:
        rest = completion
    for line in rest.splitlines():
        if line.strip():
            answer = fold_space(line)
            return answer if re.fullmatch(rule.pattern, answer) else None
    return None


def number_answer(statement: Statement, extraction: Extraction) -> Quantity | None:
    """The number that a completion states as its answer.

    Lenient extraction also reads, where no readable number comes right after the marker, the only number of the
    marker's sentence (after its last "="). Where there is no marker, or no number in its sentence, it reads the last
    number of the text. No extraction reads one of two numbers that the text offers, or a part of a longer expression.
    """
    text, stated = statement.text[-LONGEST_ENDING:], statement.stated
    if statement.is_doubtful:
        return None
    number = None if stated is None else read_quantity(stated, in_formula=statement.in_box)
    if number is not None and statement.after_box:
        return read_quantity(number_text(number) + statement.after_box)  # \boxed{5} million
    if number is not None or extraction == "strict":
        return number
    if stated is not None:
        sentence = first_sentence(stated)
        result = stated[sentence.rfind("=") + 1 :]
        number = read_quantity(result, in_formula=statement.in_box)
        if number is not None or begins_with_number(result, in_formula=statement.in_box):
            return number
        numbers = list(numbers_in(sentence.rpartition("=")[2]))
        if numbers:
            last = numbers[-1]
            return last if last and all(other and same_number(last, other) for other in numbers) else None
    return _last_number(text)


def choice_answer(statement: Statement, choices: tuple[str, ...], extraction: Extraction) -> frozenset[str]:
    """The labels of the choice that a completion states: several where choices have the same text, none if unparseable.

    Lenient extraction also reads, where no readable choice comes right after the marker, the only choice that the
    marker's sentence names. Where there is no marker, or no choice in its sentence, it reads the last choice that the
    text names.
    """
    text, stated = statement.text[-LONGEST_ENDING:], statement.stated
    if statement.is_doubtful:
        return frozenset()
    labels = None if stated is None else choice_at_start(stated, choices)
    if labels is not None:
        return frozenset() if offers_another(statement.after_box) else labels
    if extraction == "strict":
        return frozenset()
    if stated is not None:
        named = set(choices_in(first_sentence(stated), choices))
        if named:
            return named.pop() if len(named) == 1 else frozenset()
    return last_choice(text, choices)


def line_answer(statement: Statement, extraction: Extraction) -> str | None:
    """The first line with text after the marker, white space folded; lenient, without a marker, the last such line."""
    text, stated = statement.text[-LONGEST_ENDING:], statement.stated
    if statement.is_doubtful:
        return None
    line = stated or ""
    if stated is None and extraction == "lenient":
        ending = text.rstrip()[-2 * LONGEST :]
        line = ending[max(ending.rfind("\n"), ending.rfind("\r")) + 1 :]
    line = fold_space(line)
    return line if 0 < len(line) <= LONGEST_LINE else None


def block_answer(statement: Statement) -> str | None:
    """All the text after the marker, for an answer of several lines."""
    block = (statement.after or "").strip().removeprefix(":").strip()
    return block or None


def formula_answer(statement: Statement, extraction: Extraction) -> str | None:
    """The formula that a completion states: all of a box, mathematics after the marker, or the marker's sentence.

    Lenient extraction, without a marker, reads the last piece of inline mathematics, else the last number.
    """
    text, stated = statement.text[-LONGEST_ENDING:], statement.stated
    if statement.is_doubtful:
        return None
    if stated is not None:
        if not statement.in_box:
            return _formula_of_line(stated)
        continues = _ATTACHED.match(plain(statement.after_box)) is not None
        return f"{stated} {_plain_sentence(statement.after_box)}".strip() if continues else stated or None
    if extraction == "strict":
        return None
    ending = text[-LONGEST:]
    *_, inline = [None, *_INLINE.finditer(ending)]
    if inline is not None:
        is_part = _PART_BEFORE.search(plain(ending), 0, inline.start()) or not stands_alone(
            _first_line(ending[inline.end() :])
        )
        return None if is_part else _inside(inline)
    number = _last_number(text)
    return None if number is None else number_text(number).replace("%", "\\%")


def first_sentence(text: str) -> str:
    """A line up to the end of its first sentence."""
    return _SENTENCE_END.split(text, maxsplit=1)[0]


# ---------------------------------------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(  # neither the point of "B. bank" nor the sign of 5! = 120 ends a sentence
    r"(?<!\b[A-Za-z])(?:[.?](?=\s)|!(?=\s+[A-Z]|\s*\Z))|[。｡！？।॥؟۔]"
)
_FORMULA_END = re.compile(r"(?<!\b[A-Za-z])(?:[.?](?=\s)|!(?=\s+[A-Z][a-z]))|[。｡！？।॥؟۔]")  # 5! - 1 continues
_INLINE = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\(((?:[^\\]|\\(?!\)))+)\\\)|\\\[((?:[^\\]|\\(?!\]))+)\\\]")
_DIGIT = re.compile(r"\d|[¼-¾⅐-⅞]")


def _last_number(text: str) -> Quantity | None:
    """The last number of a text; None if it is a part of an expression, or one of two that are offered ("5 or 6")."""
    digit = last_match(_DIGIT, text, longest=1)
    if digit is None:
        return None
    start = max(0, digit.end() - BLOCK // 8)
    window = text[start : digit.end() + BLOCK // 16]
    if start > 0:  # the first word may be the end of a longer one
        window = window[len(re.match(r"\S*", window)[0]) :]  # type: ignore[index]
    *_, last = [None, *numbers_in(window)]
    return last


def _formula_of_line(line: str) -> str | None:
    """The formula that a line consists of, or the inline mathematics that it begins with, if nothing continues it."""
    line = line.strip("*_` ")
    inline = list(_INLINE.finditer(line))
    if not inline:
        return _formula_sentence(line).strip() or None
    if inline[0].start() > 0 or len({_inside(match) for match in inline}) > 1:
        return None
    rest = line[inline[0].end() :]
    remark = _REMARK.search(rest)
    rest = rest[: remark.start()] if remark else rest
    return f"{_inside(inline[0])} {_plain_sentence(rest)}".strip()


_REMARK = re.compile(r"[\s,;:—(-]*(?:\b(?:because|since|as(?!\s+well)|so|which|where|i\.e\.|is|are)\b)", re.IGNORECASE)
"""Words after inline mathematics that begin a reason or another remark."""
_PART_BEFORE = re.compile(
    r"(?:[-+*/^<>≤≥≠±√×·\d)$]|\b(?:not|than|least|most|or|and|between|about|times|of|over|plus|minus))\s*\Z",
    re.IGNORECASE,
)
"""Text before inline mathematics that makes it a part of a longer expression."""


def _first_line(text: str) -> str:
    return text.lstrip("\n\r").partition("\n")[0] if not text.strip() else text.partition("\n")[0]


_ATTACHED = re.compile(
    r"[\s$*)\]]*(?:\\?%|percent\b|or\b|and\s+[\\$(\d]"
    rf"|(?:{'|'.join(map(re.escape, (*POWERS_OF_TEN, *TOUCHING)))})(?!\w))",
    re.IGNORECASE,
)
"""Text after a box that belongs to its number or offers another one."""


def _plain_sentence(text: str) -> str:
    return _formula_sentence(text).replace("$", " ").strip(" .")


def _formula_sentence(text: str) -> str:
    """The text up to the end of its first sentence; the point inside the braces of \\text{ sq. units} ends none."""
    for end in _FORMULA_END.finditer(text):
        if text.count("{", 0, end.start()) <= text.count("}", 0, end.start()):
            return text[: end.start()]
    return text


def _inside(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()

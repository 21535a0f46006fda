"""Find the answer in a completion. Pure text: no model, no randomness, never evaluates what a model wrote.

The one extractor of the project: the loop, `eval`, `regrade` and the tests all come through here, and nothing else
decides where an answer stands. There is one function per answer format. Strict, the answer stands right after the
last marker or in the last `\\boxed{}`, whichever comes later, and what stands there is exactly one answer. Lenient, it
is also what a reader would still find. The marker is looked for in the whole text, the rest in
bounded pieces of it, so that any completion is read in time linear in its length.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from selftaught.choices import choice_at_start, choices_in, last_choice
from selftaught.problems import Extraction
from selftaught.quantities import Quantity, numbers_in, offers_another, read_quantity, same_number

LONGEST = 2_000
"""Characters looked at after a marker, and of a box: what is longer is no answer."""
LONGEST_ENDING = 20_000
"""Characters at the end of a text in which lenient looks for an answer without a marker."""
LONGEST_LINE = 1_000
"""Of an answer that is a line."""
_BLOCK = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRule:
    """Where a completion that wraps its reasoning in tags states its answer."""

    opener: str
    """A completion that contains the opener states its answer after the closer, and nowhere else."""
    closer: str
    pattern: str
    """Regular expression that the whole answer line must match; anything else is unparseable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlace:
    """Where a completion of a task with a marker states its answer."""

    marker: str
    """Text right before the answer ("####", "the answer is"); case and white space do not matter."""
    next_question: tuple[str, ...] = ()
    """Texts with which a next problem begins: from there on a completion does not speak of its own problem."""


def normalize(answer: str) -> str:
    """Fold white space; nothing else, so that two answers are equal only if they read the same."""
    return " ".join(answer.split())


def extract(completion: str, rule: AnswerRule) -> str | None:
    """The answer that a completion states, normalized, or None if it states none that can be read.

    A completion that opens its reasoning with `rule.opener` states the answer on the first line with text after
    `rule.closer`; without the closer there is no answer. A completion without the opener states it on its first
    line with text. (Zelikman et al. 2022's parser takes line 0 in both cases, so that an unfinished rationale
    counts as a wrong answer; here it is unreadable.)
    """
    if rule.opener in completion:
        _, closer, rest = completion.partition(rule.closer)
        if not closer:
            return None
    else:
        rest = completion
    for line in rest.splitlines():
        if line.strip():
            answer = normalize(line)
            return answer if re.fullmatch(rule.pattern, answer) else None
    return None


def own_part(completion: str, next_question: tuple[str, ...]) -> str:
    """The completion up to where it begins a next problem: a line that starts as one, after some other text.

    A completion that starts with the question restates its own; that is no next problem.
    """
    end = len(completion)
    for opening in next_question:
        for match in _line_start(opening.strip()).finditer(completion, 0, end):
            if completion[: match.start()].strip():
                end = match.start()
                break
    return completion[:end]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A completion, taken apart where it states its answer."""

    text: str
    """What the completion says of its own problem."""
    behind: str | None
    """All that follows the last marker; None without one."""
    stated: str | None
    """What stands there or inside the last box, whichever comes later; None without either. At most LONGEST
    characters; of a box all of it, or nothing if it does not end within as many."""


def statement(completion: str, place: AnswerPlace) -> Statement:
    """Find where a completion states its answer."""
    text = own_part(completion, place.next_question)
    folded = text.replace("İ", "i").lower()  # the one letter whose lower case is longer
    marker = _last(_marker(place.marker), folded, longest=2 * len(place.marker) + 40)
    box = _last(_BOX, folded, longest=10)
    behind = None if marker is None else text[marker.end() :]
    stated = None if behind is None else behind[:LONGEST]
    if box is not None and (marker is None or box.start() > marker.start()):
        stated = text[box.end() : box.end() + LONGEST]
        if stated.lstrip().startswith("{"):
            stated = _braced(stated)
    return Statement(text=text, behind=behind, stated=stated)


def number_answer(statement: Statement, extraction: Extraction) -> Quantity | None:
    """The number that a completion states as its answer.

    Lenient, without a readable number right after the marker: the one number of the marker's sentence (after its
    last "="); without a marker or a number there: the last number of the text. Never one of two that the text offers.
    """
    text, stated = statement.text[-LONGEST_ENDING:], statement.stated
    found = None if stated is None else read_quantity(first_line(stated))
    if found is not None or extraction == "strict":
        return found
    if stated is not None:
        sentence = first_sentence(stated).rpartition("=")[2]
        numbers = list(numbers_in(sentence))
        if numbers:
            return numbers[-1] if all(same_number(numbers[-1], number) for number in numbers) else None
        if re.search(r"\d", sentence):
            return None
    return _last_number(text)


def choice_answer(statement: Statement, choices: tuple[str, ...], extraction: Extraction) -> frozenset[str]:
    """The labels of the choice that a completion states: several where choices have the same text, none if unreadable.

    Lenient, without a readable choice right after the marker: the one choice that the marker's sentence names;
    without a marker or a choice there: the last one that the text names.
    """
    text, stated = statement.text[-LONGEST_ENDING:], statement.stated
    found = frozenset[str]() if stated is None else choice_at_start(first_line(stated), choices)
    if found or extraction == "strict":
        return found
    if stated is not None:
        named = set(choices_in(first_sentence(stated), choices))
        if named:
            return named.pop() if len(named) == 1 else frozenset()
    return last_choice(text, choices)


def line_answer(statement: Statement, extraction: Extraction) -> str | None:
    """The first line with text after the marker, normalized. Lenient, without a marker: the last line with text."""
    text, stated = statement.text[-LONGEST_ENDING:], statement.stated
    line = "" if stated is None else first_line(stated)
    if stated is None and extraction == "lenient":
        ending = text.rstrip()[-2 * LONGEST :]
        line = ending[max(ending.rfind("\n"), ending.rfind("\r")) + 1 :]
    line = normalize(line)
    return line if 0 < len(line) <= LONGEST_LINE else None


def formula_answer(statement: Statement, extraction: Extraction) -> str | None:
    """The formula that a completion states: a box, inline mathematics after the marker, or the marker's line.

    Lenient, without a marker: the last piece of inline mathematics, else the last number.
    """
    text, stated = statement.text[-LONGEST_ENDING:], statement.stated
    if stated is not None:
        return _one_formula(first_line(stated))
    if extraction == "strict":
        return None
    inline = list(_INLINE.finditer(text[-LONGEST:]))
    if inline:
        return _inside(inline[-1])
    number = _last_number(text)
    return None if number is None else (f"{number.value}" + ("\\%" if number.percent else ""))


def first_line(text: str) -> str:
    """The first line with text, without the colon or sign of equality that joins it to its marker."""
    return re.sub(r"\A[:=]\s*", "", text.lstrip()).partition("\n")[0].partition("\r")[0].strip()


def first_sentence(text: str) -> str:
    """The first line with text, up to where its first sentence ends."""
    return _SENTENCE_END.split(first_line(text), maxsplit=1)[0]


# ---------------------------------------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(r"(?<!\b[A-Za-z])[.!?](?=\s)")  # the point of "B. bank" ends no sentence
_INLINE = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\(((?:[^\\]|\\(?!\)))+)\\\)|\\\[((?:[^\\]|\\(?!\]))+)\\\]")
_DIGIT = re.compile(r"\d|[¼-¾⅐-⅞]")


@lru_cache(maxsize=64)
def _line_start(opening: str) -> re.Pattern[str]:
    """`opening` at the start of a line. The literal comes first, because the search for it is fast."""
    literal = re.escape(opening)
    return re.compile(rf"{literal}(?:(?<=\n{literal})|(?<=\n {literal}))" if opening else r"(?!)")


@lru_cache(maxsize=64)
def _marker(marker: str) -> re.Pattern[str]:
    """`marker` in a text in lower case, as words of their own."""
    words = [re.escape(word) for word in marker.replace("İ", "i").lower().split()]
    if not words:
        return re.compile(r"(?!)")
    # The first word comes first, because a search for a literal is fast; what must not stand before it comes after.
    alone = rf"(?<!\w{words[0]})" if re.match(r"\w", marker.strip()) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", marker.strip()) else ""
    return re.compile(words[0] + alone + "".join(rf"\s{{1,20}}{word}" for word in words[1:]) + after)


_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-z])")


def _last(pattern: re.Pattern[str], text: str, *, longest: int) -> re.Match[str] | None:
    """The last match in `text`, looked for from its end, so that many matches cost no more than one."""
    end = len(text)
    while end > 0:
        start = max(0, end - _BLOCK)
        matches = list(pattern.finditer(text, max(0, start - longest), min(len(text), end + longest)))
        if matches:
            return matches[-1]
        end = start
    return None


def _braced(text: str) -> str:
    """What stands in the braces that `text` begins with; nothing if they do not close."""
    depth = 0
    start = text.index("{") + 1
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()]
    return ""


_BRACE = re.compile(r"\\[\\{}]|[{}]")


def _last_number(text: str) -> Quantity | None:
    """The last number of a text, unless the text offers it beside another one ("5 or 6")."""
    digit = _last(_DIGIT, text, longest=1)
    if digit is None:
        return None
    start = max(0, digit.end() - _BLOCK // 8)
    window = text[start : digit.end() + _BLOCK // 16]
    if start > 0:  # the first word may be the rest of a longer one
        window = window[len(re.match(r"\S*", window)[0]) :]  # type: ignore[index]
    before: Quantity | None = None
    last: Quantity | None = None
    for number in numbers_in(window):
        before, last = last, number
    return None if last is None or (before is not None and offers_another(window, before, last)) else last


def _one_formula(line: str) -> str | None:
    """The formula that a line consists of, or begins with as inline mathematics."""
    line = line.strip("*_` ")
    inline = list(_INLINE.finditer(line))
    if inline and inline[0].start() == 0:
        return _inside(inline[0]) if len({_inside(match) for match in inline}) == 1 else None
    if inline:
        return None
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0].rstrip(". ")
    return sentence or None


def _inside(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()

"""Find where a completion states its answer: behind its last marker or in its last box. Pure text.

The marker is looked for in the whole text, the rest in bounded pieces of it, so that any completion is taken apart in
time linear in its length. Reading what stands there is for `answers.py`.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from selftaught.signs import UNSPACED, plain, visible

LONGEST = 2_000
"""Characters looked at after a marker, and of a box: what is longer is no answer."""
BLOCK = 4_096
"""Characters looked through at a time, from the end of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlace:
    """Where a completion of a task with a marker states its answer."""

    marker: str
    """Text right before the answer ("####", "the answer is"); case and white space do not matter."""
    next_question: tuple[str, ...] = ()
    """Texts with which a next problem begins: from there on a completion does not speak of its own problem."""


def own_part(completion: str, next_question: tuple[str, ...]) -> str:
    """What a completion says of its own problem: behind its thoughts, and up to where it begins a next problem.

    Thoughts end with their tag (`</think>`); unfinished ones say nothing yet. A next problem begins with a line that
    starts as one ("Q:", "**Q:**", "Question 2:"), after some other text; a completion that starts with the question
    restates its own.
    """
    for opener, closer in _THOUGHTS:
        _, _, completion = completion.rpartition(closer)
        completion = completion.partition(opener)[0]
    first = _VISIBLE.search(completion)
    if first is None:
        return completion
    end = _next_question(next_question).search(completion, first.end())
    return completion if end is None else completion[: end.start()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A completion, taken apart where it states its answer."""

    text: str
    """What the completion says of its own problem."""
    behind: str | None
    """All that follows the last marker; None without one."""
    stated: str | None
    """What stands there or inside the last box, whichever comes later, on one line; None without either."""
    in_box: bool = False
    beyond: str = ""
    """Of a box: what stands behind it on its line, at most LONGEST characters."""
    is_doubtful: bool = False
    """It states two answers side by side, or a heading where the answer should be: no extraction reads it."""


def statement(completion: str, place: AnswerPlace) -> Statement:
    """Find where a completion states its answer."""
    text = own_part(visible(completion), place.next_question)
    folded = plain(text).lower()
    marker, box = _last_marker(text, folded, place.marker), last_match(_BOX, folded, longest=10)
    behind = None if marker is None else text[marker.end() :]
    if box is not None and (marker is None or box.start() > marker.start()):
        stated, beyond = _boxed(text, box)
        is_doubtful = _is_one_of_two(text, folded, box, stated)
        return Statement(text=text, behind=behind, stated=stated, in_box=True, beyond=beyond, is_doubtful=is_doubtful)
    if marker is None or behind is None:
        return Statement(text=text, behind=None, stated=None)
    line = answer_line(behind[:LONGEST])
    is_doubtful = _is_heading(text, marker, line) or _is_joined(text, folded, marker, place.marker)
    return Statement(text=text, behind=behind, stated=line, is_doubtful=is_doubtful)


def answer_line(behind: str) -> str:
    """The line on which an answer stands, without the marks and the words that join it to its marker.

    Displayed mathematics and a fenced block are one line, with what stands behind them on theirs.
    """
    behind = behind[_LEAD.match(behind).end() :]  # type: ignore[union-attr]
    block = _BLOCK_START.match(behind)
    end = 0
    if block is not None:
        closer = {"\\[": "\\]", "\\(": "\\)"}.get(block[0], block[0])
        closed = behind.find(closer, block.end())
        end = closed + len(closer) if closed >= 0 else len(behind)
    after = _LINE_END.search(behind, end)
    return " ".join(behind[: after.start() if after else len(behind)].split())


# ---------------------------------------------------------------------------------------------------------------------

_VISIBLE = re.compile(r"\S")
_LINE_END = re.compile(r"[\n\r\u2028\u2029]")
_THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)
"""What thinking models write around what they think before they answer."""
_LEAD = re.compile(r"(?:\s|[:：=＝]|\*{1,3}(?=[\s:：])|_{1,3}(?=[\s:：])|[\"'”](?=[\s:：])|is\b(?=[\s:：]))*+")
"""Between a marker and its answer: "**Answer**: …", "Final answer is …"."""
_BLOCK_START = re.compile(r"\\\[|\\\(|\$\$|\$(?=\s*[\n\r])|```")


@lru_cache(maxsize=64)
def _next_question(openings: tuple[str, ...]) -> re.Pattern[str]:
    """A line that begins a next problem: one of `openings` or "Question", perhaps emphasized, a heading or numbered."""
    words = {opening.strip().rstrip(":： ") for opening in (*openings, "Question:") if opening.strip()}
    with_colon = [re.escape(word) for word in sorted(words) if word]
    named = rf"(?:{'|'.join(with_colon)})(?:\s?\d{{1,3}})?[*_]{{0,3}}\s?[:：]"
    others = [re.escape(opening.strip()) for opening in openings if not opening.strip().endswith((":", "："))]
    return re.compile(
        r"[\n\r][ \t]{0,3}(?:(?:[#>]{1,6}[ \t]?)?[*_]{0,3}"
        rf"{named}|(?:{'|'.join(filter(None, others)) or '(?!)'}))"
    )


@lru_cache(maxsize=64)
def _marker(marker: str) -> re.Pattern[str]:
    """`marker` in a plain text in lower case, as words of their own."""
    words = [re.escape(word) for word in plain(marker).lower().split()]
    if not words:
        return re.compile(r"(?!)")
    # The first word comes first, because a search for a literal is fast; what must not stand before it comes after.
    is_word = rf"(?!{UNSPACED})\w"
    alone = rf"(?<![^\W_]{words[0]})" if re.match(is_word, marker.strip()) else ""
    after = r"(?![^\W_])" if re.match(is_word, marker.strip()[-1:]) else ""
    return re.compile(words[0] + alone + "".join(rf"\s{{1,20}}{word}" for word in words[1:]) + after)


def _last_marker(text: str, folded: str, marker: str) -> re.Match[str] | None:
    """The last marker that something stands behind; the last one of all if none of the last few has anything."""
    pattern, longest = _marker(marker), 2 * len(marker) + 40
    last = found = last_match(pattern, folded, longest=longest)
    end = len(text)
    for _ in range(MAX_EMPTY):
        if found is None:
            return last
        if re.search(r"\w|\\[^\W\d_]", text[found.end() : end][:LONGEST]):
            return found
        end = found.start()
        found = last_match(pattern, folded, longest=longest, end=end)
    return last


MAX_EMPTY = 8
"""Markers at the end of a text with nothing behind them ("#### 18" and then "####")."""


def _is_heading(text: str, marker: re.Match[str], line: str) -> bool:
    """Whether "#### 2. Sum up" is a heading of Markdown: a number, its point, and words that are no sentence."""
    heading = _HEADING.match(line) if set(text[marker.start() : marker.end()]) == {"#"} else None
    if heading is None:
        return False
    before = rf"#[ \t*]*{int(heading['number']) - 1}[.):]"
    return (
        bool(heading["part"])
        or line.rstrip("*_ ")[-1:] not in ".!?"
        or re.search(before, text[: marker.start()][-LONGEST:]) is not None
    )


_HEADING = re.compile(
    r"[*_]{0,3}(?P<part>(?:step|part|case|section|method|solution|approach|problem|question)\s+)?(?P<number>\d{1,2})[.):][*_]{0,3}\s+[*_]{0,3}[^\W\d_]{2}",
    re.IGNORECASE,
)


def _is_joined(text: str, folded: str, marker: re.Match[str], name: str) -> bool:
    """Whether two markers stand side by side on a line: "#### 3 or #### 4"."""
    line = max(folded.rfind("\n", 0, marker.start()), marker.start() - LONGEST, 0)
    if not _JOINT.search(text[line : marker.start()]):
        return False
    return last_match(_marker(name), folded, longest=2 * len(name) + 40, end=marker.start(), start=line) is not None


_JOINT = re.compile(r"(?:\b(?:or|and)|[,;/&])[\s*_$]*\Z", re.IGNORECASE)


def _is_one_of_two(text: str, folded: str, box: re.Match[str], stated: str) -> bool:
    """Whether the box before this one says something else, and only a joint stands between: x = \\boxed{3}, y = …"""
    start = max(0, box.start() - LONGEST)
    before = last_match(_BOX, folded, longest=10, end=box.start(), start=start)
    if before is None:
        return False
    inside = _braced(text[before.end() : box.start()])
    if not inside:  # the later box stands in this one, or it has no braces
        return False
    between = text[text.index(inside, before.end()) + len(inside) : box.start()]
    return _TWO_BOXES.fullmatch(between) is not None and " ".join(inside.split()) != stated


_TWO_BOXES = re.compile(
    r"[}$\s.*\\)\]]*(?:[,;/&]|\b(?:and|or)\b|\\text\s*\{\s*(?:and|or)\s*\}|\\q?quad)?[$\s*\\(\[]*"
    r"(?:\b(?:and|or)\b|\\text\s*\{\s*(?:and|or)\s*\})?[$\s*\\(\[]*(?:[^\W\d_]\w{0,2}\s*=)?[$\s*\\(\[]*"
)


def _boxed(text: str, box: re.Match[str]) -> tuple[str, str]:
    """All that stands in a box, on one line, and what stands behind it on its line.

    Nothing stands in a box that does not end within LONGEST characters; one without braces ends with its line.
    """
    rest = text[box.end() : box.end() + LONGEST]
    if not rest.lstrip().startswith("{"):
        return answer_line(rest), ""
    inside = _braced(rest)
    end = rest.index("{") + len(inside) + 2 if inside else len(rest)
    return " ".join(inside.split()), _LINE_END.split(rest[end:], maxsplit=1)[0]


_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-z])")


def last_match(
    pattern: re.Pattern[str], text: str, *, longest: int, end: int | None = None, start: int = 0
) -> re.Match[str] | None:
    """The last match in `text[start:end]`, looked for from its end, so that many matches cost no more than one."""
    last = len(text) if end is None else end
    end = last
    while end > start:
        block = max(start, end - BLOCK)
        matches = list(pattern.finditer(text, max(start, block - longest), min(last, end + longest)))
        if matches:
            return matches[-1]
        end = block
    return None


def _braced(text: str) -> str:
    """What stands in the braces that `text` begins with; nothing if it begins with none, or they do not close."""
    if not text.lstrip().startswith("{"):
        return ""
    depth = 0
    start = text.index("{") + 1
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()]
    return ""


_BRACE = re.compile(r"\\[\\{}]|[{}]")

"""Find where a completion states its answer: behind its last marker or in its last box. Pure text.

The marker is looked for in the whole text, the rest in bounded pieces of it, so that any completion is taken apart in
time linear in its length. Reading what stands there is for `answers.py`.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from selftaught.amounts import continues
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
    ends = [match.end() for match in _THOUGHT_END.finditer(completion)]
    completion = completion[ends[-1] :] if ends else completion
    unfinished = _THOUGHT.search(completion)
    completion = completion[: unfinished.start()] if unfinished else completion
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
    before: str
    """All that stands before the last marker; the whole text without one."""
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
    before = text if marker is None else text[: marker.start()]
    behind = None if marker is None else text[marker.end() :]
    if box is not None and (marker is None or box.start() > marker.start()):
        stated, beyond = _boxed(text, box)
        is_doubtful = (
            _is_one_of_two(text, folded, box, stated)
            or _PART_BEFORE.search(text, max(0, box.start() - 60), box.start()) is not None
            or continues(beyond)
        )
        return Statement(
            text=text, before=before, behind=behind, stated=stated, in_box=True, beyond=beyond, is_doubtful=is_doubtful
        )
    if marker is None or behind is None:
        return Statement(text=text, before=text, behind=None, stated=None)
    says_is = place.marker.lower().rstrip(": ").endswith(" is")
    line = answer_line(behind[:LONGEST], lead=_LEAD_BEHIND_IS if says_is else _LEAD)
    is_doubtful = (
        _is_heading(text, marker, line)
        or _is_joined(text, folded, marker, place.marker)
        or _NUMBERED.match(behind[:LONGEST]) is not None
    )
    return Statement(text=text, before=before, behind=behind, stated=line, is_doubtful=is_doubtful)


def answer_line(behind: str, *, lead: re.Pattern[str]) -> str:
    """The line on which an answer stands, without the marks and the words that join it to its marker.

    Displayed mathematics, a fenced block and a list are one line, and so are lines that an "or" joins, so that nothing
    that belongs to the answer is cut off.
    """
    behind = behind[lead.match(behind).end() :]  # type: ignore[union-attr]
    end, item = _piece_end(behind, 0), _ITEM.match(behind)
    for _ in range(MAX_JOINED):
        next_item = item and re.compile(rf"\s*{re.escape(item[0])}").match(behind, end)
        is_open = _LEFT_OPEN.search(behind[max(0, end - 20) : end])
        after = _VISIBLE.search(behind, end)
        if after is None:
            break
        both_display = _DISPLAY.match(behind) and _DISPLAY.match(behind, end)
        both_numbers = _BARE_NUMBER.fullmatch(behind, 0, end) and _is_bare_line(behind, end)
        if not (next_item or is_open or both_display or both_numbers or _GOES_ON.match(behind, end)):
            break
        end = _piece_end(behind, after.start())
    return _LANGUAGE.sub("``` ", _on_one_line(behind[:end]))


_LANGUAGE = re.compile(r"\A```\w+ ")
"""A fence with the name of its language."""


def _on_one_line(text: str) -> str:
    """With a space for any run of white space but for the spaces that group digits (1\u202f234)."""
    return re.sub(r"[^\S\u00a0\u2007\u2009\u202f]+", " ", text).strip()


def _is_bare_line(text: str, start: int) -> bool:
    """Whether the line right behind `start` is a number and nothing else."""
    begin = start + len(text[start : start + 2]) - len(text[start : start + 2].lstrip("\r\n"))
    return _BARE_NUMBER.fullmatch(text, begin, _line_end(text, begin)) is not None


def _piece_end(text: str, start: int) -> int:
    """Where the line that begins at `start` ends, or the line on which the block that begins there is closed."""
    block = _BLOCK_START.match(text, start)
    if block is not None:
        closer = {"\\[": "\\]", "\\(": "\\)"}.get(block[0], block[0].replace("<", "</").replace("begin", "end"))
        closed = text.find(closer, block.end())
        start = closed + len(closer) if closed >= 0 else len(text)
    return _line_end(text, start)


def _line_end(text: str, start: int) -> int:
    end = _LINE_END.search(text, start)
    return len(text) if end is None else end.start()


MAX_JOINED = 8
"""Lines that are joined to the answer's."""
_ITEM = re.compile(r"[-*•]\s+")
_GOES_ON = re.compile(
    r"\s*(?:(?:or|and|oder|或|plus|minus|times)\b(?=\s*(?:[\n\r\d$\\*(]|\w+\s*(?:[\n\r]|\Z)))|[+=×÷/](?=\s*[\w\\$(])"
    r"|(?:hundred|thousand|million|billion|dozen)s?\b)",
    re.IGNORECASE,
)
_DISPLAY = re.compile(r"\s*(?:\\\[|\$\$|\\begin\b)")
_BARE_NUMBER = re.compile(r"\s*[-+$]*\d[\d.,/]*[\s$.*]*")
"""A line with nothing but a number."""
_NUMBERED = re.compile(r"[\s:*_]*\b1[.)]\s[^\n]*\n\s*2[.)]\s")
"""A numbered list, which is no answer."""
_LEFT_OPEN = re.compile(r"(?:\d[)$*\s]*,|\b(?:or|and))\s*\Z", re.IGNORECASE)


# ---------------------------------------------------------------------------------------------------------------------

_VISIBLE = re.compile(r"\S")
_LINE_END = re.compile(r"[\n\r\u2028\u2029]")
_THOUGHT = re.compile(
    r"<(?:seed:)?(?:think|thinking|thought|reasoning)>|<\|begin_of_thought\|>|\[think\]|◁think▷", re.IGNORECASE
)
_THOUGHT_END = re.compile(
    r"</(?:seed:)?(?:think|thinking|thought|reasoning)>|<\|end_of_thought\|>|\[/think\]|◁/think▷", re.IGNORECASE
)
"""What thinking models write around what they think before they answer."""
_LEAD, _LEAD_BEHIND_IS = (
    re.compile(
        r"(?:[\"'”](?=[\s:：]))?"
        r"(?:\s*[\n\r][ \t]*>(?=\s)|\s|[:：]|(?<!=)[=＝](?![=＝])|[,，、](?=[^\x00-\u024f]|\d)|</\w{1,8}>"
        rf"|(?<!\s)[*_]{{1,3}}(?=[\s:：]){verb}"
        r"|(?i:(?:final\s+)?answer)(?=[:*_]*\s*[\n\r]))*+"
    )
    for verb in (r"|is\b(?=[\s:：])", "")
)
"""Between a marker and its answer: "**Answer**: …", "Final answer is …", a quotation's mark. Behind a marker that ends
with "is", another "is" belongs to the answer."""
_BLOCK_START = re.compile(
    r"\\\[|\\\(|\$\$|\$(?=\s*(?:[\n\r]|\\begin\b))|```|\\begin\{\w+\*?\}|<(?:answer|final_answer|result)>"
)


@lru_cache(maxsize=64)
def _next_question(openings: tuple[str, ...]) -> re.Pattern[str]:
    """A line that begins a next problem: one of `openings` or "Question", perhaps emphasized, a heading or numbered."""
    words = {opening.strip().rstrip(":： ") for opening in openings if opening.strip()}
    with_colon = [*(re.escape(word) for word in sorted(words) if word), "(?i:question)"]
    named = rf"(?:{'|'.join(with_colon)})(?:\s?\d{{1,3}})?[*_]{{0,3}}\s?[:：]"
    others = [re.escape(opening.strip()) for opening in openings if not opening.strip().endswith((":", "："))]
    return re.compile(
        r"[\n\r][ \t]{0,3}(?:(?:[-*•][ \t]|[#>]{1,6}[ \t]?)?[*_]{0,3}"
        rf"{named}|(?:{'|'.join(filter(None, others)) or '(?!)'}))"
    )


@lru_cache(maxsize=64)
def _marker(marker: str) -> re.Pattern[str]:
    """`marker` in a plain text in lower case, as words of their own."""
    words = [re.escape(word) for word in plain(marker).lower().split()]
    if not words:
        return re.compile(r"(?!)")
    # The first word comes first, because a search for a literal is fast; what must not stand before it comes after.
    first, colon = (words[0][:-1], words[0][-1]) if words[0][1:].endswith(":") else (words[0], "")
    is_word = rf"(?!{UNSPACED})\w"
    alone = rf"(?<![^\W_]{first})" if re.match(is_word, marker.strip()) else ""
    words = [first + alone + colon, *words[1:]]
    # The colon of a marker may stand behind the marker's emphasis: **Answer**: …
    words = [re.sub(r"(?<=.):\Z", r"(?:[*_]{1,3}|</\\w{1,8}>)?\\s?:", word) for word in words]
    after = r"(?![^\W_])" if re.match(is_word, marker.strip()[-1:]) else ""
    return re.compile(r"\s{1,20}".join(words) + after)


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
    """Whether the line behind Markdown's "####" is a heading: a number, perhaps its point, and words, no sentence."""
    heading = _HEADING.match(line) if set(text[marker.start() : marker.end()]) == {"#"} else None
    if heading is None:
        return False
    if heading["part"] or heading["ordinal"]:
        return True
    is_sentence = line.rstrip("*_ ")[-1:] in ".!?"
    if heading["point"] and "(" not in heading[0]:
        before = rf"#[ \t*]*{int(heading['number']) - 1}[.):]"
        return not is_sentence or re.search(before, text[max(0, marker.start() - LONGEST) : marker.start()]) is not None
    has_more = text[marker.end() :].strip().partition("\n")[2].strip() != ""
    return has_more and not is_sentence and heading["word"][0].isupper()


_HEADING = re.compile(
    r"[*_(]{0,3}(?:(?P<part>(?:step|part|case|section|method|solution|approach|problem|question|day|phase|stage)\s+\d{1,3}\b)"
    r"|(?P<ordinal>\d{1,2}(?:st|nd|rd|th)\s+(?:step|part|case)\b)"
    r"|(?P<number>\d{1,2})(?:\.\d{1,2})*(?:(?P<point>[.):])|(?=\s))[*_]{0,3}\s+(?:[-–—]\s+)?[*_]{0,3}(?P<word>[^\W\d_]{2}))",
    re.IGNORECASE,
)


def _is_joined(text: str, folded: str, marker: re.Match[str], name: str) -> bool:
    """Whether two markers stand side by side on a line: "#### 3 or #### 4"."""
    line = max(folded.rfind("\n", 0, marker.start()), marker.start() - LONGEST, 0)
    before = last_match(_marker(name), folded, longest=2 * len(name) + 40, end=marker.start(), start=line)
    return before is not None and _JOINT.fullmatch(text, before.end(), marker.start()) is not None


_JOINT = re.compile(r"[^.!?\n]{0,60}(?:\b(?:or|and)|[,;/&])[\s*_$]*", re.IGNORECASE)


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
    return _TWO_BOXES.fullmatch(between) is not None and _on_one_line(inside) != stated


_TWO_BOXES = re.compile(
    r"[}$\s.*\\)\]]*(?:[-+=·×*,;/&]|\b(?:and|or)\b|\\text\s*\{\s*(?:and|or)\s*\}|\\q?quad)?[$\s*\\(\[]*"
    r"(?:\b(?:and|or)\b|\\text\s*\{\s*(?:and|or)\s*\})?[$\s*\\(\[]*(?:(?:[-*•]\s*)?[^\W\d_]\w{0,2}\s*[:=])?[$\s*\\(\[]*"
)


def last_box(text: str) -> str:
    """What stands in the last \\boxed{…} of a text; empty if there is none that ends."""
    box = last_match(_BOX, text, longest=10)
    return "" if box is None else _braced(text[box.end() :]).strip()


def _boxed(text: str, box: re.Match[str]) -> tuple[str, str]:
    """All that stands in a box, on one line, and what stands behind it on its line.

    Nothing stands in a box that does not end within LONGEST characters; one without braces ends with its line.
    """
    rest = text[box.end() : box.end() + LONGEST]
    if not rest.lstrip().startswith("{"):
        return answer_line(rest, lead=_LEAD), ""
    inside = _braced(rest)
    end = rest.index("{") + len(inside) + 2 if inside else len(rest)
    return _on_one_line(inside), _LINE_END.split(rest[end:], maxsplit=1)[0]


_PART_BEFORE = re.compile(
    r"(?:[\d)√±×·⋅/^<>≤≥≠+]|(?<=[\w)}])\s*[-*]|(?<=\S)-|[=$]\s*-\s*|[_^]\s*\{"
    r"|\\(?:frac|dfrac|tfrac|sqrt|neq?|leq?|geq?|lt|gt|times|cdot|div|pm|mp|sin|cos|tan|log|ln|pi)\b"
    r"(?:\s*[\[{][^\[\]{}]*[\]}])?\s*\{?)[ \t$]*\Z"
)
"""Right before a box: a sign, a factor or an operation that its content is only a part of."""
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

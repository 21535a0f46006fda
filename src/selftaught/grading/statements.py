"""Find where a completion states its answer: after its last marker or in its last box. Pure text.

The marker is searched for in the complete text, everything else in pieces of limited length, so that any completion is
analysed in time linear in its length. `answers.py` reads the answer there.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from selftaught.grading.amounts import continues
from selftaught.grading.signs import UNSPACED, plain, visible

LONGEST = 2_000
"""Characters that are read after a marker or in a box: a longer text is no answer."""
BLOCK = 4_096
"""Characters that are searched at a time, from the end of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlace:
    """Where a completion of a task with a marker states its answer."""

    marker: str
    """Text right before the answer ("####", "the answer is"); case and white space do not matter."""
    next_question: tuple[str, ...] = ()
    """Texts with which a next problem begins: from there on, a completion is about another problem."""


def own_part(completion: str, next_question: tuple[str, ...]) -> str:
    """The part of a completion that is about its own problem: after its thoughts, and before a next problem.

    Thoughts end with their closing tag (`</think>`); unfinished thoughts state no answer. A next problem begins with a
    line that starts like one ("Q:", "**Q:**", "Question 2:") and follows other text; a completion that starts with
    such a line repeats its own question.
    """
    return _own_part(completion, next_question)[1]


def _own_part(completion: str, next_question: tuple[str, ...]) -> tuple[int, str]:
    """Where the part begins (`own_part`), and the part."""
    ends = [match.end() for match in _THOUGHT_END.finditer(completion)]
    start = ends[-1] if ends else 0
    completion = completion[start:]
    unfinished = _THOUGHT.search(completion)
    completion = completion[: unfinished.start()] if unfinished else completion
    first = _VISIBLE.search(completion)
    if first is None:
        return start, completion
    end = _next_question(next_question).search(completion, first.end())
    return start, completion if end is None else completion[: end.start()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A completion, divided where it states its answer."""

    text: str
    """The part of the completion that is about its own problem."""
    start: int
    """Where `text` begins in the visible completion (`signs.visible`)."""
    before: str
    """The text before the last marker; all of it if there is no marker."""
    after: str | None
    """The text after the last marker; None if there is none."""
    stated: str | None
    """The line after the marker or the content of the last box, whichever comes later; None if there is neither."""
    in_box: bool = False
    after_box: str = ""
    """The rest of the line after the box, at most LONGEST characters."""
    is_doubtful: bool = False
    """There are two answers side by side, or a heading in place of the answer: no extraction reads it."""


def statement(completion: str, place: AnswerPlace) -> Statement:
    """Find where a completion states its answer."""
    start, text = _own_part(visible(completion), place.next_question)
    folded = plain(text).lower()
    marker, box = _last_marker(text, folded, place.marker), last_match(_BOX, folded, longest=10)
    before = text if marker is None else text[: marker.start()]
    after = None if marker is None else text[marker.end() :]
    if box is not None and (marker is None or box.start() > marker.start()):
        stated, after_box = _boxed(text, box)
        is_doubtful = (
            _is_one_of_two(text, folded, box, stated)
            or _PART_BEFORE.search(text, max(0, box.start() - 60), box.start()) is not None
            or continues(after_box)
        )
        return Statement(
            text=text,
            start=start,
            before=before,
            after=after,
            stated=stated,
            in_box=True,
            after_box=after_box,
            is_doubtful=is_doubtful,
        )
    if marker is None or after is None:
        return Statement(text=text, start=start, before=text, after=None, stated=None)
    ends_with_is = place.marker.lower().rstrip(": ").endswith(" is")
    line = answer_line(after[:LONGEST], lead=_LEAD_AFTER_IS if ends_with_is else _LEAD)
    is_doubtful = (
        _is_heading(text, marker, line)
        or _is_joined(text, folded, marker, place.marker)
        or _NUMBERED.match(after[:LONGEST]) is not None
    )
    return Statement(text=text, start=start, before=before, after=after, stated=line, is_doubtful=is_doubtful)


def answer_line(text: str, *, lead: re.Pattern[str]) -> str:
    """The line of an answer, without the marks and words between the marker before it and the answer.

    Displayed mathematics, a fenced block and a list count as one line, and so do lines that an "or" joins, so that no
    part of the answer is lost.
    """
    text = text[lead.match(text).end() :]  # type: ignore[union-attr]
    end, item = _piece_end(text, 0), _ITEM.match(text)
    for _ in range(MAX_JOINED):
        next_item = item and re.compile(rf"\s*{re.escape(item[0])}").match(text, end)
        is_open = _LEFT_OPEN.search(text[max(0, end - 20) : end])
        visible_character = _VISIBLE.search(text, end)
        if visible_character is None:
            break
        both_display = _DISPLAY.match(text) and _DISPLAY.match(text, end)
        both_numbers = _BARE_NUMBER.fullmatch(text, 0, end) and _is_bare_line(text, end)
        if not (next_item or is_open or both_display or both_numbers or _CONTINUED.match(text, end)):
            break
        end = _piece_end(text, visible_character.start())
    return _LANGUAGE.sub("``` ", _on_one_line(text[:end]))


_LANGUAGE = re.compile(r"\A```\w+ ")
"""The opening of a fenced block with the name of its language."""


def _on_one_line(text: str) -> str:
    """The text with one space for each run of white space; spaces that group digits (1\u202f234) stay."""
    return re.sub(r"[^\S\u00a0\u2007\u2009\u202f]+", " ", text).strip()


def _is_bare_line(text: str, start: int) -> bool:
    """Whether the line after the line end at `start` is a number and nothing else."""
    begin = start + len(text[start : start + 2]) - len(text[start : start + 2].lstrip("\r\n"))
    return _BARE_NUMBER.fullmatch(text, begin, _line_end(text, begin)) is not None


def _piece_end(text: str, start: int) -> int:
    """The end of the line that begins at `start`; if a block begins there, the end of the line that closes it."""
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
"""How many lines may be joined to the first line of an answer."""
_ITEM = re.compile(r"[-*•]\s+")
_CONTINUED = re.compile(
    r"\s*(?:(?:or|and|oder|或|plus|minus|times)\b(?=\s*(?:[\n\r\d$\\*(]|\w+\s*(?:[\n\r]|\Z)))|[+=×÷/](?=\s*[\w\\$(])"
    r"|(?:hundred|thousand|million|billion|dozen)s?\b)",
    re.IGNORECASE,
)
_DISPLAY = re.compile(r"\s*(?:\\\[|\$\$|\\begin\b)")
_BARE_NUMBER = re.compile(r"\s*[-+$]*\d[\d.,/]*[\s$.*]*")
"""A line with a number and nothing else."""
_NUMBERED = re.compile(r"[\s:*_]*\b1[.)]\s[^\n]*\n\s*2[.)]\s")
"""A numbered list, which is not an answer."""
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
"""The tags around the thoughts that a thinking model writes before its answer."""
_LEAD, _LEAD_AFTER_IS = (
    re.compile(
        r"(?:[\"'”](?=[\s:：]))?"
        r"(?:\s*[\n\r][ \t]*>(?=\s)|\s|[:：]|(?<!=)[=＝](?![=＝])|[,，、](?=[^\x00-\u024f]|\d)|</\w{1,8}>"
        rf"|(?<!\s)[*_]{{1,3}}(?=[\s:：]){verb}"
        r"|(?i:(?:final\s+)?answer)(?=[:*_]*\s*[\n\r]))*+"
    )
    for verb in (r"|is\b(?=[\s:：])", "")
)
"""The text between a marker and its answer: "**Answer**: …", "Final answer is …", the mark of a quotation. After a
marker that ends with "is", another "is" belongs to the answer."""
_BLOCK_START = re.compile(
    r"\\\[|\\\(|\$\$|\$(?=\s*(?:[\n\r]|\\begin\b))|```|\\begin\{\w+\*?\}|<(?:answer|final_answer|result)>"
)


@lru_cache(maxsize=64)
def _next_question(openings: tuple[str, ...]) -> re.Pattern[str]:
    """The beginning of a next problem: a line with one of `openings` or "Question", perhaps emphasized or numbered."""
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
    """The pattern of `marker`, as complete words, in a plain text in lower case."""
    words = [re.escape(word) for word in plain(marker).lower().split()]
    if not words:
        return re.compile(r"(?!)")
    # The pattern begins with the first word, since a search for a literal is fast; what must not precede it follows.
    first, colon = (words[0][:-1], words[0][-1]) if words[0][1:].endswith(":") else (words[0], "")
    is_word = rf"(?!{UNSPACED})\w"
    alone = rf"(?<![^\W_]{first})" if re.match(is_word, marker.strip()) else ""
    words = [first + alone + colon, *words[1:]]
    # The colon of a marker may come after the marker's emphasis: **Answer**: …
    words = [re.sub(r"(?<=.):\Z", r"(?:[*_]{1,3}|</\\w{1,8}>)?\\s?:", word) for word in words]
    after = r"(?![^\W_])" if re.match(is_word, marker.strip()[-1:]) else ""
    return re.compile(r"\s{1,20}".join(words) + after)


def _last_marker(text: str, folded: str, marker: str) -> re.Match[str] | None:
    """The last marker with text after it; the very last marker if none of the last MAX_EMPTY has any."""
    pattern, longest = _marker(marker), 2 * len(marker) + 40
    last = match = last_match(pattern, folded, longest=longest)
    end = len(text)
    for _ in range(MAX_EMPTY):
        if match is None:
            return last
        if re.search(r"\w|\\[^\W\d_]", text[match.end() : end][:LONGEST]):
            return match
        end = match.start()
        match = last_match(pattern, folded, longest=longest, end=end)
    return last


MAX_EMPTY = 8
"""How many markers with no text after them may end a completion ("#### 18" and then "####")."""


def _is_heading(text: str, marker: re.Match[str], line: str) -> bool:
    """Whether the line after Markdown's "####" is a heading: a number, perhaps a point, and words, but no sentence."""
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
    """Whether two markers are side by side on a line: "#### 3 or #### 4"."""
    line = max(folded.rfind("\n", 0, marker.start()), marker.start() - LONGEST, 0)
    before = last_match(_marker(name), folded, longest=2 * len(name) + 40, end=marker.start(), start=line)
    return before is not None and _JOINT.fullmatch(text, before.end(), marker.start()) is not None


_JOINT = re.compile(r"[^.!?\n]{0,60}(?:\b(?:or|and)|[,;/&])[\s*_$]*", re.IGNORECASE)


def _is_one_of_two(text: str, folded: str, box: re.Match[str], stated: str) -> bool:
    """Whether the previous box states another answer, and only a joint is between the two: x = \\boxed{3}, y = …"""
    start = max(0, box.start() - LONGEST)
    before = last_match(_BOX, folded, longest=10, end=box.start(), start=start)
    if before is None:
        return False
    inside = _braced(text[before.end() : box.start()])
    if not inside:  # the later box is inside this one, or this one has no braces
        return False
    between = text[text.index(inside, before.end()) + len(inside) : box.start()]
    return _TWO_BOXES.fullmatch(between) is not None and _on_one_line(inside) != stated


_TWO_BOXES = re.compile(
    r"[}$\s.*\\)\]]*(?:[-+=·×*,;/&]|\b(?:and|or)\b|\\text\s*\{\s*(?:and|or)\s*\}|\\q?quad)?[$\s*\\(\[]*"
    r"(?:\b(?:and|or)\b|\\text\s*\{\s*(?:and|or)\s*\})?[$\s*\\(\[]*(?:(?:[-*•]\s*)?[^\W\d_]\w{0,2}\s*[:=])?[$\s*\\(\[]*"
)


def last_box(text: str) -> str:
    """The content of the last \\boxed{…} of a text; empty if there is no complete one."""
    box = last_match(_BOX, text, longest=10)
    return "" if box is None else _braced(text[box.end() :]).strip()


def _boxed(text: str, box: re.Match[str]) -> tuple[str, str]:
    """The content of a box, on one line, and the rest of the line after it.

    A box that does not end within LONGEST characters is empty; one without braces ends with its line.
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
"""A sign, a factor or an operation right before a box, which makes its content a part of a longer expression."""
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-z])")


def last_match(
    pattern: re.Pattern[str], text: str, *, longest: int, end: int | None = None, start: int = 0
) -> re.Match[str] | None:
    """The last match in `text[start:end]`, searched for from the end, so that many matches cost no more than one."""
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
    """The content of the braces that `text` begins with; empty if it begins with none, or they do not close."""
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

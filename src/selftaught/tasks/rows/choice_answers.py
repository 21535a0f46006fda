"""Read a column of answers that name choices: by label, by text, or by number.

The meaning of answers is decided once for the complete column. A way of reading is used if every row can be read in it
and no other way that fits as well gives some row another choice. Where two ways differ, the column is ambiguous: it is
refused, and the message names the setting that decides. A single row that does not fit is refused by itself and does
not change how the others are read.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from selftaught.grading.signs import fold
from selftaught.records.errors import ConfigError
from selftaught.records.problems import LABELS
from selftaught.tasks.rows.columns import Choices
from selftaught.tasks.rows.labels import labels_beside_text

FEW = 0.1
"""Share of the rows that may not fit."""
FEW_COUNTED = 0.02
"""The same share where only the first number is in doubt: few zeros among many rows prove that numbers count from 0."""
_NUMBER = re.compile(r"\s*(\d+)(?:\.0+)?\s*")
_ARTICLE = re.compile(r"\A(?:an?|the)\s+")
_CALLED = re.compile(r"(?:the\s+)?(?:option|choice|answer|letter)\s+[(\[]?\s?([a-z]|\d{1,2})\s?[)\]]?")
_WITH_REASON = re.compile(
    r"\s*[(\[]\s?([A-Za-z]|\d{1,2})\s?[)\]]\s?[.,;:]?\s+(?:because|since|as|for)\b(?!.*[(\[][A-Za-z\d]{1,2}[)\]])",
    re.IGNORECASE | re.DOTALL,
)
"""A label and a reason: "(a). Because clips hold paper", with no second label in it."""
_TWO_WAYS = ({"yes", "no"}, {"true", "false"})
_OTHER_WORD = {"true": "yes", "false": "no", "yes": "true", "no": "false"}


def label_of(answer: str, given: Choices, place: str) -> str:
    """The label A, B, C, … of the choice that an answer names: by the row's own label, in brackets or not, by its text,
    or by both. Raises ConfigError for an answer that names none, or more than one.
    """
    named = sorted(named_by(answer, given))
    if len(named) == 1:
        return LABELS[named[0]]
    if named:
        both = " and ".join(f"{given.labels[i]}: {given.texts[i]!r}" for i in named)
        raise ConfigError(
            f"{place}: the answer {answer!r} may mean {both}; give a label or text that belongs to one only"
        )
    for label, text in labels_beside_text(answer):
        for i in _labelled(label, given):
            if others := _with_text(text, given) - {i}:
                raise ConfigError(
                    f"{place}: the answer {answer!r} contradicts itself: {given.labels[i]} is {given.texts[i]!r}, and "
                    f"the text is that of {given.labels[min(others)]}; correct the row"
                )
    raise ConfigError(f"{place}: the answer {answer!r} is none of the choices ({_listed(given)}); correct the row")


def labels_of(
    answers: Sequence[str], given: Sequence[Choices], places: Sequence[str], *, answer_is: str = "auto"
) -> tuple[list[str], str]:
    """The label A, B, C, … of every row's correct choice, and the way of reading by its name in READINGS ("label or
    text" where rows differ in that and each of them is unambiguous).

    `answer_is` is a name in READINGS, or "auto" to decide by the rows. Raises ConfigError, with the place of a row,
    where the rows do not decide, and for an answer that names no choice.
    """
    if answer_is != "auto":
        positions = _read(READINGS[answer_is], answers, given)
        if None in positions:
            why = f"task.answer_is = {answer_is!r}"
            raise ConfigError(_odd_row(answer_is, positions, answers, given, places, why=why))
        return _letters(positions), answer_is
    ways = {name: _read(reading, answers, given) for name, reading in READINGS.items()}
    if any(choices.has_own_labels for choices in given) and None not in ways["label"]:
        # Rows with labels of their own hardly number their choices as well.
        ways = {name: positions for name, positions in ways.items() if name in ("label", "text")}
    fitting = {name: positions for name, positions in ways.items() if None not in positions}
    if fitting:
        name = next(iter(fitting))
        _refuse_two_ways({**fitting, **_rivals(name, ways)}, answers, given, places)
        return _letters(fitting[name]), name
    mixed = _read(_label_or_text, answers, given)
    if None not in mixed:
        return _letters(mixed), "label or text"
    counted: dict[str, list[int | None]] = {name: ways[name] for name in ("index0", "index1") if name in ways}
    ranked: dict[str, list[int | None]] = {"label or text": mixed, **counted}
    best = min(ranked, key=lambda name: ranked[name].count(None))
    raise ConfigError(_odd_row(best, ranked[best], answers, given, places, why="the other rows' answers"))


def share_named(answers: Sequence[str], given: Sequence[Choices]) -> float:
    """How likely it is that these are choices at all: the share of rows whose answers name one in the way of reading
    that fits most rows, or name any in any way."""
    counted = [1 - _read(way, answers, given).count(None) / len(answers) for way in READINGS.values()]
    named = sum(bool(named_by(answer, choices)) for answer, choices in zip(answers, given, strict=True)) / len(answers)
    return max(*counted, named)


def _by_label(answer: str, given: Choices) -> int | None:
    return _only(_named_by_label(answer, given))


def _named_by_label(answer: str, given: Choices) -> set[int]:
    both = _by_both(answer, given)
    if both:
        return both
    named = _labelled(answer, given)
    if not named and (match := _CALLED.fullmatch(_without_marks(answer)) or _WITH_REASON.match(answer)):
        named = _labelled(match[1], given)
    return named


def _labelled(label: str, given: Choices) -> set[int]:
    """The choices with a label: one of the row's, the name of a column, or the beginning of a text."""
    wanted = _bare(label)
    named = {i for i, name in enumerate(given.labels) if wanted == _bare(name)}
    named |= {i for i, name in enumerate(given.columns) if wanted == fold(name)}  # columns A, B, C, …
    named |= {i for i, name in enumerate(given.beginnings) if name and wanted == _bare(name)}
    if not named and list(given.labels) == [str(number) for number in range(1, len(given.labels) + 1)]:
        named = {i for i, letter in enumerate(LABELS[: len(given.labels)]) if wanted == fold(letter)}
    return named


def _by_text(answer: str, given: Choices) -> int | None:
    return _only(_with_text(answer, given) or _by_both(answer, given))


def _with_text(answer: str, given: Choices) -> set[int]:
    """The choices whose text equals an answer, with or without the labels that were removed. If there is none: those
    that equal it without marks and articles, where true and false also stand for yes and no."""
    wanted = fold(answer)
    same = {i for texts in (given.texts, given.written) for i, text in enumerate(texts) if wanted == fold(text)}
    if same:
        return same
    folded = [_without_marks(text) for text in given.texts]
    wanted = _without_marks(answer)
    if set(folded) in _TWO_WAYS and wanted not in folded:
        wanted = _OTHER_WORD.get(wanted, wanted)
    return {i for i, text in enumerate(folded) if wanted and wanted == text}


def _by_both(answer: str, given: Choices) -> set[int]:
    """The choices whose label and text are both in an answer, side by side."""
    named = set()
    for label, text in labels_beside_text(answer):
        bare = text.removesuffix(".")
        named |= _labelled(label, given) & (_with_text(text, given) | _with_text(bare, given))
    return named


def _only(positions: set[int]) -> int | None:
    return min(positions) if len(positions) == 1 else None


def _without_marks(text: str) -> str:
    """A folded text without emphasis and quotes around it, a full stop, and the article before it."""
    return _ARTICLE.sub("", fold(text).strip("*_`\"'“”‘’«» ").removesuffix(".").rstrip("*_`\"'“”‘’«» "))


def _counted(first: int) -> Callable[[str, Choices], int | None]:
    def read(answer: str, given: Choices) -> int | None:
        number = _NUMBER.fullmatch(answer)
        position = int(number[1]) - first if number and number[1].isascii() else -1
        return position if 0 <= position < len(given.texts) else None

    return read


READINGS: Mapping[str, Callable[[str, Choices], int | None]] = MappingProxyType(
    {"label": _by_label, "text": _by_text, "index0": _counted(0), "index1": _counted(1)}
)
"""Value of `task.answer_is` -> function that gives the position of the choice that an answer means, or None."""

_WAY_IN_WORDS = {
    "label": "a label",
    "text": "a text",
    "index0": "a number that counts from 0",
    "index1": "a number that counts from 1",
}


def _label_or_text(answer: str, given: Choices) -> int | None:
    named = named_by(answer, given)
    return named.pop() if len(named) == 1 else None


def named_by(answer: str, given: Choices) -> set[int]:
    """Every choice that an answer names by label or by text."""
    return _with_text(answer, given) | _named_by_label(answer, given)


def _read(
    way: Callable[[str, Choices], int | None], answers: Sequence[str], given: Sequence[Choices]
) -> list[int | None]:
    return [way(answer, choices) for answer, choices in zip(answers, given, strict=True)]


def _letters(positions: Sequence[int | None]) -> list[str]:
    return [LABELS[i] for i in positions if i is not None]


def _rivals(chosen: str, ways: Mapping[str, Sequence[int | None]]) -> dict[str, Sequence[int | None]]:
    """The ways of reading that fail in only a few rows: those rows may be mistakes, and the way `chosen` wrong."""
    counts = {"index0", "index1"}
    return {
        name: positions
        for name, positions in ways.items()
        if 0 < positions.count(None) <= len(positions) * (FEW_COUNTED if {chosen, name} == counts else FEW)
    }


def _refuse_two_ways(
    fitting: Mapping[str, Sequence[int | None]],
    answers: Sequence[str],
    given: Sequence[Choices],
    places: Sequence[str],
) -> None:
    """Raise ConfigError if the ways of reading that fit every row give some row different choices."""
    for row, place in enumerate(places):
        meant = {name: i for name, positions in fitting.items() if (i := positions[row]) is not None}
        if len(set(meant.values())) == 1:
            continue
        ways = " or ".join(f"'{name}'" for name in fitting)
        differing = sum(len({positions[i] for positions in fitting.values()} - {None}) > 1 for i in range(len(places)))
        rows = f"{differing} of {len(places)} rows" if len(places) > 1 else "the row"
        if set(fitting) == {"index0", "index1"}:
            raise ConfigError(
                f"{place}: the answers are numbers of choices, but the rows do not show whether they count from 0 or "
                f"from 1; set task.answer_is to {ways} (for `selftaught init`: --set task.answer_is=…)"
            )
        both = " and ".join(f"{given[row].labels[i]}: {given[row].texts[i]!r}" for i in sorted(set(meant.values())))
        how = ", ".join(_WAY_IN_WORDS[name] for name in meant)
        raise ConfigError(
            f"{place}: the answer {answers[row]!r} may mean {both}, read as {how}; in {rows} that makes a "
            f"difference; set task.answer_is to {ways} (for `selftaught init`: --set task.answer_is=…)"
        )


def _odd_row(
    name: str,
    positions: Sequence[int | None],
    answers: Sequence[str],
    given: Sequence[Choices],
    places: Sequence[str],
    *,
    why: str,
) -> str:
    """The message for the first row that cannot be read like the others."""
    row = list(positions).index(None)
    others = list(positions).count(None) - 1
    more = f" ({others} more rows are like it)" if others else ""
    if name in ("index0", "index1"):
        answer = (
            f"{int(answers[row])}"
            if _NUMBER.fullmatch(answers[row]) and "." not in answers[row]
            else repr(answers[row])
        )
        return (
            f"{places[row]}: the answer {answer} is none of the {len(given[row].texts)} choices, which count from "
            f"{name[-1]} by {why}{more}; correct the row"
        )
    try:
        label_of(answers[row], given[row], places[row])
    except ConfigError as error:
        return str(error).replace("; correct the row", f"{more}; correct the row")
    how = _WAY_IN_WORDS.get(name, "a label or a text")
    choices = _listed(given[row])
    return f"{places[row]}: the answer {answers[row]!r} is not {how} of the choices ({choices}), by {why}{more}"


def _listed(given: Choices) -> str:
    return ", ".join(f"{label}: {text!r}" for label, text in zip(given.labels, given.texts, strict=True))[:400]


def _bare(label: str) -> str:
    return fold(label).strip("().:[] ")

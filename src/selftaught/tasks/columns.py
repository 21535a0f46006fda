"""Take a task's columns out of rows: texts by key, choices, and the label of the right choice.

A key may go into nested objects: `question.stem`. Every column has one kind of value throughout, because a column that
changes its kind halfway usually means that two sources were joined and one of them is read wrongly.
"""

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from selftaught.errors import ConfigError
from selftaught.problems import LABELS
from selftaught.tasks.rows import Row

_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The choices of one row."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    """As the row names them; A, B, C, … where it does not."""


def texts(rows: Sequence[Row], key: str) -> list[str]:
    """The value of a key as text, for every row.

    Numbers and truth values become text as JSON writes them, but a whole number loses its ".0": libraries that have
    one number type for a column turn 5 into 5.0 as soon as one of its rows is empty or a fraction. For that reason
    whole and broken numbers may mix, and no other kinds. Raises ConfigError with the row's place: no such key
    (naming the nearest one), null, an empty text, an object or a list, another kind than the rows before.
    """
    found = []
    for row, value in _of_one_kind(rows, key):
        if value is _MISSING:
            raise ConfigError(f"{row.place}: no key {key!r}{_near(key, row.values)}")
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ConfigError(f"{row.place}: {key!r} is {'null' if value is None else 'empty'}; every row needs one")
        found.append(as_text(value, row.place, key))
    return found


def optional_texts(rows: Sequence[Row], key: str) -> list[str]:
    """As `texts`, with "" where a row has no such key, null or an empty text."""
    return [
        "" if value is _MISSING or value is None else as_text(value, row.place, key)
        for row, value in _of_one_kind(rows, key)
    ]


def has_key(rows: Sequence[Row], key: str) -> bool:
    """Whether any row has a value there."""
    return any(_value(row.values, key) not in (_MISSING, None) for row in rows)


def choices(row: Row, key: str) -> Choices:
    """The choices of a row: a list of texts, a list of {label, text}, {"label": [...], "text": [...]}, or any of
    these as JSON in a CSV cell.

    Raises ConfigError with the row's place for another shape, fewer than two choices, more than there are labels, an
    empty one, or two labels that are the same. (Two choices may read the same: CommonsenseQA has such rows.)
    """
    value = _value(row.values, key)
    if value is _MISSING or value is None:
        raise ConfigError(f"{row.place}: no choices under {key!r}{_near(key, row.values)}")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigError(
                f'{row.place}: {key!r} is text; write the choices as a JSON list, such as ["yes", "no"]'
            ) from error
    found = _choices(value, row.place, key)
    if not 2 <= len(found.texts) <= len(LABELS):
        raise ConfigError(f"{row.place}: {len(found.texts)} choices; expected 2 to {len(LABELS)}")
    if not all(text.strip() for text in found.texts):
        raise ConfigError(f"{row.place}: the choices {list(found.texts)} hold an empty one; correct the row")
    if len(set(map(fold, found.labels))) < len(found.labels):
        raise ConfigError(f"{row.place}: the labels {list(found.labels)} hold one twice; tell them apart")
    return found


def label_of(answer: str, given: Choices, place: str) -> str:
    """The label A, B, C, … of the choice that an answer names: by the row's own label, in brackets or not, or by its
    text. Raises ConfigError for an answer that names none, or more than one.
    """
    by_label = [i for i, name in enumerate(given.labels) if fold(answer).strip("().:") == fold(name).strip("().:")]
    by_text = [i for i, text in enumerate(given.texts) if fold(answer) == fold(text)]
    named = {*by_label, *by_text}
    if len(named) == 1:
        return LABELS[named.pop()]
    if named:
        both = " and ".join(f"{given.labels[i]}: {given.texts[i]!r}" for i in sorted(named))
        raise ConfigError(f"{place}: the answer {answer!r} may mean {both}; give a label or text that is only one's")
    shown = ", ".join(f"{label}: {text!r}" for label, text in zip(given.labels, given.texts, strict=True))
    raise ConfigError(f"{place}: the answer {answer!r} is none of the choices ({shown})"[:400] + "; correct the row")


def labels_of(answers: Sequence[str], given: Sequence[Choices], places: Sequence[str]) -> list[str]:
    """The label A, B, C, … of every row's right choice, by `label_of`, or by number where all rows count.

    Numbers count from 0 or from 1, whichever the column proves: only one of the two can have a 0, or a number as
    large as there are choices. Raises ConfigError where it proves neither, or where an answer names no choice.
    """
    named = [_is_named(answer, one) for answer, one in zip(answers, given, strict=True)]
    if any(named) or not all(answer.strip().isascii() and answer.strip().isdigit() for answer in answers):
        return [label_of(a, one, place) for a, one, place in zip(answers, given, places, strict=True)]
    numbers = [int(answer) for answer in answers]
    from_zero = any(number == 0 for number in numbers)
    from_one = any(number == len(one.texts) for number, one in zip(numbers, given, strict=True))
    if from_zero == from_one:
        raise ConfigError(
            f"{places[0]}: the answers are numbers of choices, but nothing tells whether they count from 0 or from 1; "
            "give the right choice's label (A, B, C, …) or its text"
        )
    first = 0 if from_zero else 1
    for number, one, place in zip(numbers, given, places, strict=True):
        if not first <= number < first + len(one.texts):
            raise ConfigError(
                f"{place}: the answer {number} is none of the {len(one.texts)} choices, which count from {first}; "
                "correct the row"
            )
    return [LABELS[number - first] for number in numbers]


def _is_named(answer: str, given: Choices) -> bool:
    return fold(answer) in {fold(name) for name in (*given.labels, *given.texts)}


def as_text(value: Any, place: str, key: str) -> str:
    """A value as text (see `texts`). Raises ConfigError for one that is no text, number or truth value."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{place}: {key!r} holds half of a character pair (\\u{ord(value[error.start]):04x}), which is no text"
            ) from error
        return value
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, Mapping):
        inner = next(iter(value), "")
        raise ConfigError(f"{place}: {key!r} is an object; name one of its keys, such as '{key}.{inner}'")
    raise ConfigError(f"{place}: {key!r} is {_kind(value)}; expected a text or a number")


def fold(text: str) -> str:
    """Text without what does not tell two texts apart: case, and white space that is doubled or at the ends."""
    return " ".join(text.split()).casefold()


def _of_one_kind(rows: Sequence[Row], key: str) -> Iterator[tuple[Row, Any]]:
    first: tuple[str, str] | None = None
    for row in rows:
        value = _value(row.values, key)
        if value is not _MISSING and value is not None:
            kind = _kind(value)
            first = first or (kind, row.place)
            if kind != first[0]:
                raise ConfigError(
                    f"{row.place}: {key!r} is {kind}, but {first[0]} at {first[1]}; make the column one kind of value"
                )
        yield row, value


def _value(values: Mapping[str, Any], key: str) -> Any:
    if key in values:
        return values[key]
    head, dot, rest = key.partition(".")
    inner = values.get(head, _MISSING)
    return _value(inner, rest) if dot and isinstance(inner, Mapping) else _MISSING


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float | Decimal):
        return "a number" if math.isfinite(value) else "not a finite number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list) else f"of type {type(value).__name__}"


def _near(key: str, values: Mapping[str, Any]) -> str:
    known = list(key_names(values))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; the row has {', '.join(map(repr, known[:20])) or 'no keys'}"


def key_names(values: Mapping[str, Any]) -> Iterator[str]:
    """Every key of a row, those of nested objects with dots."""
    for name, value in values.items():
        yield name
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in key_names(value))


def _choices(value: Any, place: str, key: str) -> Choices:
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels = value.get("label", list(LABELS[: len(value["text"])]))
        if isinstance(labels, list) and len(labels) == len(value["text"]):
            return Choices(
                texts=tuple(as_text(text, place, key) for text in value["text"]),
                labels=tuple(as_text(label, place, key) for label in labels),
            )
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for item in value:
            if missing := {"label", "text"} - item.keys():
                raise ConfigError(f"{place}: a choice under {key!r} has no {sorted(missing)[0]!r}; it has {list(item)}")
        return Choices(
            texts=tuple(as_text(item["text"], place, key) for item in value),
            labels=tuple(as_text(item["label"], place, key) for item in value),
        )
    if isinstance(value, list):
        return Choices(texts=tuple(as_text(item, place, key) for item in value), labels=tuple(LABELS[: len(value)]))
    raise ConfigError(
        f"{place}: {key!r} is {_kind(value)}; expected a list of texts, a list of {{label, text}}, or "
        '{"label": […], "text": […]}'
    )

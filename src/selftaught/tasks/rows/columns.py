"""Read a task's columns from rows: texts by key, and choices in every shape that data sets give them.

A key may go into nested objects, `question.stem`, and name several columns, `body + question`; a `?` after a column
says that it may be empty, `instruction + input?`. A column whose name is the key itself comes before all that. Every
column must have one kind of value throughout, because a column that changes its kind halfway usually means that two
sources were joined and one of them is read wrongly.
"""

import ast
import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from selftaught.grading.control_characters import control_character_in
from selftaught.grading.signs import fold
from selftaught.records.errors import ConfigError
from selftaught.records.problems import LABELS
from selftaught.tasks.rows.files import Row
from selftaught.tasks.rows.labels import (
    MANY,
    Carried,
    Sure,
    beginnings,
    carried_labels,
    labelled_list,
)

_MISSING = object()
_LABEL_AND_TEXT = ({"label", "text"}, {"key", "value"})
"""The keys that data sets use for a choice's label and text, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The choices of one row."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    """The row's own labels; A, B, C, … where it has none."""
    has_own_labels: bool = False
    columns: tuple[str, ...] = ()
    """The column of each choice, where each has its own; else empty."""
    written: tuple[str, ...] = ()
    """The texts before labels were removed from them; empty where none were removed."""
    beginnings: tuple[str, ...] = ()
    """Possible labels at the beginnings of the texts, where they are not `labels`; "" for a text without one."""


def texts(rows: Sequence[Row], key: str) -> list[str]:
    """The value of a key as text, for every row.

    Numbers and truth values become text as JSON writes them, but an integer loses its ".0": libraries that have one
    number type for a column turn 5 into 5.0 as soon as one of its rows is empty or a fraction. For that reason integers
    and fractions may mix, and no other kinds. Raises ConfigError with the row's place: no such key (naming the nearest
    one), null, an empty text, an object or a list, another kind than the rows before.
    """
    values = []
    for row, value in _of_one_kind(rows, key):
        if value is _MISSING:
            raise ConfigError(f"{row.place}: no key {key!r}{_near(key, row.values)}")
        if _is_gap(value) or (isinstance(value, str) and not value.strip()):
            what = "null" if value is None else "empty" if isinstance(value, str) else "NaN, which stands for no value"
            raise ConfigError(f"{row.place}: {key!r} is {what}; every row needs one")
        values.append(as_text(value, row.place, key))
    return values


def optional_texts(rows: Sequence[Row], key: str | Literal[False]) -> list[str]:
    """Like `texts`, with "" where a row has no such key, null or an empty text; False is a key that no row has."""
    if key is False:
        return [""] * len(rows)
    return ["" if _is_gap(value) else as_text(value, row.place, key) for row, value in _of_one_kind(rows, key)]


def has_key(rows: Sequence[Row], key: str) -> bool:
    """Whether some row has a value under the key; for a key of several columns, under each of them."""
    return all(any(not _is_gap(_value(row.values, part)) for row in rows) for part, _ in _parts(rows, key))


def joined_texts(rows: Sequence[Row], key: str) -> list[str]:
    """Like `texts`; the texts of several columns, and of the lists in a column, are joined by line ends, without the
    empty texts of columns that may be empty."""
    parts = _parts(rows, key)
    columns = [
        optional_texts(joined, part) if may_be_empty and has_key(rows, part) else texts(joined, part)
        for part, may_be_empty in parts
        for joined in (_with_lists_joined(rows, part),)
    ]
    joined_rows = ["\n".join(text.strip() for text in row if text.strip()) for row in zip(*columns, strict=True)]
    for row, text in zip(rows, joined_rows, strict=True):
        if not text:
            raise ConfigError(f"{row.place}: {key!r} is empty; every row needs a text in one of the columns")
    return joined_rows


def _with_lists_joined(rows: Sequence[Row], key: str) -> Sequence[Row]:
    values = [_value(row.values, key) for row in rows]
    if not any(isinstance(value, list) for value in values):
        return rows
    return [
        replace(row, values={key: "\n".join(as_text(inner, row.place, key).strip() for inner in value)})
        if isinstance(value, list)
        else row
        for row, value in zip(rows, values, strict=True)
    ]


def column(rows: Sequence[Row], key: str) -> list[Any]:
    """The values under a key, unchanged; None where a row has none."""
    return [None if _is_gap(value := _value(row.values, key)) else value for row in rows]


MOSTLY = 0.5
"""Labels are removed from the texts of choices if more than this share of the rows have them there."""


def choices_of(rows: Sequence[Row], key: str) -> list[Choices]:
    """The choices of every row, as `choices` reads them. If the texts of most rows carry labels ("A) 21"), these are
    removed from the texts and become the rows' own labels.

    Raises ConfigError, where most rows carry labels, for a row of which only some choices carry one.
    """
    choices_by_row = [choices(row, key, _parts(rows, key)) for row in rows]
    carried = _sure_ones([carried_labels(row_choices.texts) for row_choices in choices_by_row])
    most = sum(labels is not None for labels in carried) > len(rows) * MOSTLY
    return [
        _without_labels(row_choices, labels)
        if labels is not None and most
        else _with_beginnings(row_choices, row, among_labelled=most)
        for row, row_choices, labels in zip(rows, choices_by_row, carried, strict=True)
    ]


def note_of_labels(rows: Sequence[Row], given: Sequence[Choices]) -> tuple[str, ...]:
    """A note where labels were removed from the choices of some rows and the choices of others have none."""
    plain = [row.place for row, row_choices in zip(rows, given, strict=True) if not row_choices.written]
    removed = len(rows) - len(plain)
    odd = [
        row.place
        for row, row_choices in zip(rows, given, strict=True)
        if any(row_choices.beginnings) and not row_choices.written
    ]
    if removed and plain:
        return (
            f"labels are removed from the choices' texts in {removed} of {len(rows)} rows (others have none, such as "
            f"{plain[0]})",
        )
    if odd:
        return (
            f"choices of {len(odd)} of {len(rows)} rows begin with what may be labels and are left as they are (such "
            f"as {odd[0]})",
        )
    return ()


def _sure_ones(carried: Sequence[Carried | None]) -> list[Carried | None]:
    """The labels, without those that only a large number of choices makes sure, where there are too few choices."""
    present = [labels for labels in carried if labels is not None]
    enough = sum(len(labels.labels) for labels in present) >= MANY and len(present) > len(carried) * MOSTLY
    return [labels if labels is not None and (labels.sure > Sure.BY_MANY or enough) else None for labels in carried]


def _without_labels(given: Choices, carried: Carried) -> Choices:
    if not given.has_own_labels:
        return replace(given, texts=carried.texts, labels=carried.labels, has_own_labels=True, written=given.texts)
    # The row also gives labels beside the texts; they stay its labels.
    return replace(given, texts=carried.texts, written=given.texts, beginnings=carried.labels)


def _with_beginnings(given: Choices, row: Row, *, among_labelled: bool) -> Choices:
    labels = beginnings(given.texts)
    if among_labelled and any(labels) and not all(labels):
        without = next(text for text, label in zip(given.texts, labels, strict=True) if not label)
        raise ConfigError(
            f"{row.place}: of the choices {list(given.texts)} {without!r} begins with no label, as others do and as "
            "they do in other rows; give every choice of the row one, or none"
        )
    carried = carried_labels(given.texts)
    if carried is not None and carried.sure > Sure.BY_MANY:
        labels = carried.labels
    return replace(given, beginnings=labels) if len(set(filter(None, labels))) > 1 else given


def choices(row: Row, key: str, parts: Sequence[tuple[str, bool]] = ()) -> Choices:
    """The choices of a row: a list of texts, a list of {label, text}, {"label": [...], "text": [...]}, {"A": text, …},
    any of these as JSON in a CSV cell, a list in one text ("a) one, b) two"), or several columns.

    Raises ConfigError with the row's place for another shape, fewer than two choices, more than there are labels, an
    empty one, or two labels that are the same. (Two choices may read the same: CommonsenseQA has such rows.)
    """
    if len(parts) > 1:
        result = _choices_in_columns(row, [part for part, _ in parts])
    else:
        value = _value(row.values, key)
        if _is_gap(value):
            raise ConfigError(f"{row.place}: no choices under {key!r}{_near(key, row.values)}")
        result = _choices_in_text(value, row.place, key) if isinstance(value, str) else _choices(value, row.place, key)
    if not 2 <= len(result.texts) <= len(LABELS):
        raise ConfigError(f"{row.place}: {len(result.texts)} choices; expected 2 to {len(LABELS)}")
    if not all(text.strip() for text in result.texts):
        raise ConfigError(f"{row.place}: the choices {list(result.texts)} hold an empty one; correct the row")
    if len(set(map(fold, result.labels))) < len(result.labels):
        raise ConfigError(f"{row.place}: the labels {list(result.labels)} hold one twice; make them differ")
    return result


def as_text(value: Any, place: str, key: str) -> str:
    """A value as text (see `texts`). Raises ConfigError for one that is no text, number or truth value."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{place}: {key!r} holds half of a character pair (\\u{ord(value[error.start]):04x}), which is no text"
            ) from error
        if wrong := control_character_in(value):
            raise ConfigError(f"{place}: {key!r} {wrong}")
        return value
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():
        # The number of decimal places belongs to the column's type, not to the value.
        digits = format(value, "f")
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
        return "0" if digits == "-0" else digits
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, Mapping):
        inner = next(iter(value), "")
        raise ConfigError(f"{place}: {key!r} is an object; name one of its keys, such as '{key}.{inner}'")
    raise ConfigError(f"{place}: {key!r} is {_kind(value)}; expected a text or a number")


def _of_one_kind(rows: Sequence[Row], key: str) -> Iterator[tuple[Row, Any]]:
    first: tuple[str, str] | None = None
    for row in rows:
        value = _value(row.values, key)
        if not _is_gap(value):
            kind = _kind(value)
            first = first or (kind, row.place)
            if kind != first[0]:
                raise ConfigError(
                    f"{row.place}: {key!r} is {kind}, but {first[0]} at {first[1]}; make the column one kind of value"
                )
        yield row, value


def _parts(rows: Sequence[Row], key: str) -> list[tuple[str, bool]]:
    """The columns that a key names, and whether each may be empty."""
    parts = [part.strip() for part in key.split("+")]
    if any(key in row.values for row in rows) or not all(parts):
        return [(key, False)]
    marked = [part for part in parts if part.endswith("?") and not any(part in row.values for row in rows)]
    return [(part.removesuffix("?") if part in marked else part, part in marked) for part in parts]


def _value(values: Mapping[str, Any], key: str) -> Any:
    if key in values:
        return values[key]
    head, dot, rest = key.partition(".")
    inner = values.get(head, _MISSING)
    return _value(inner, rest) if dot and isinstance(inner, Mapping) else _MISSING


def _is_gap(value: Any) -> bool:
    """Whether there is no value; columns of numbers write that as NaN."""
    return value is _MISSING or value is None or (isinstance(value, float) and math.isnan(value))


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


def _choices_in_columns(row: Row, keys: Sequence[str]) -> Choices:
    """One choice per column; the last columns of a row may be empty, and the row then has fewer choices."""
    given = []
    for key in keys:
        value = _value(row.values, key)
        if value is _MISSING:
            raise ConfigError(f"{row.place}: no key {key!r}{_near(key, row.values)}")
        given.append("" if _is_gap(value) else as_text(value, row.place, key))
    while given and not given[-1].strip():
        given.pop()
    return Choices(texts=tuple(given), labels=tuple(LABELS[: len(given)]), columns=tuple(keys[: len(given)]))


def _choices_in_text(text: str, place: str, key: str) -> Choices:
    """Choices from a list in JSON or in Python's notation, or from "a) one, b) two"."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list | dict):
            return _choices(value, place, key)
    as_text(text, place, key)
    listed = labelled_list(text)
    if listed is None:
        raise ConfigError(
            f'{place}: {key!r} is text; write the choices as a JSON list, such as ["yes", "no"], or with labels in '
            'order, such as "a) yes, b) no"'
        )
    labels, texts = listed
    return Choices(texts=texts, labels=labels, has_own_labels=True)


def _choices(value: Any, place: str, key: str) -> Choices:
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels = value.get("label", list(LABELS[: len(value["text"])]))
        if isinstance(labels, list) and len(labels) == len(value["text"]):
            return Choices(
                texts=tuple(as_text(text, place, key) for text in value["text"]),
                labels=tuple(as_text(label, place, key) for label in labels),
                has_own_labels="label" in value,
            )
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for names in _LABEL_AND_TEXT:
            if all(names <= item.keys() for item in value):
                label, text = sorted(names)
                return Choices(
                    texts=tuple(as_text(item[text], place, key) for item in value),
                    labels=tuple(as_text(item[label], place, key) for item in value),
                    has_own_labels=True,
                )
        item = next(item for item in value if not _LABEL_AND_TEXT[0] <= item.keys())
        missing = sorted(_LABEL_AND_TEXT[0] - item.keys())[0]
        raise ConfigError(f"{place}: a choice under {key!r} has no {missing!r}; it has {list(item)}")
    if isinstance(value, Mapping) and value and not any(isinstance(item, list | Mapping) for item in value.values()):
        # {"A": …, "B": …}; in Parquet a row has every key that any row has.
        texts_by_label = {label: text for label, text in value.items() if text is not None}
        return Choices(
            texts=tuple(as_text(text, place, key) for text in texts_by_label.values()),
            labels=tuple(map(str, texts_by_label)),
            has_own_labels=True,
        )
    if isinstance(value, list):
        return Choices(texts=tuple(as_text(item, place, key) for item in value), labels=tuple(LABELS[: len(value)]))
    raise ConfigError(
        f"{place}: {key!r} is {_kind(value)}; expected a list of texts, a list of {{label, text}}, "
        '{"label": […], "text": […]} or {"A": text, "B": text}'
    )

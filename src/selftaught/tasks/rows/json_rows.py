"""Rows of a JSON file, with the line where each begins: one object a line, objects one after another, an array of
objects, or an object that holds one such array ({"data": [...]}). Indentation does not matter.
"""

import json
import re
from collections.abc import Generator, Iterator, Mapping
from decimal import Decimal
from typing import Any

from selftaught.records.errors import ConfigError

WRAPPERS = ("data", "rows", "examples", "items", "records", "instances", "samples", "questions", "problems", "train")
"""Names of an object's only list where the list holds the file's rows and other keys describe them."""
_SPACE = re.compile(r"[ \t\r\n\ufeff]*")
_MARK = b"\xef\xbb\xbf"


def json_rows(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Raises ConfigError with file and line: bytes that are not UTF-8, text that is not JSON, a value that is no
    object, a key that occurs twice."""
    first = next(_lines(source), None)
    if first is None:
        return
    if _is_object(first[1]):
        rows = _each_line(source)
        line, only = next(rows)
        second = next(rows, None)
        if second is None and (_list_of_rows(only) or _is_rows_by_number(only)):
            yield from _rows_across_lines(source)
            return
        _refuse_columns(only, f"{source}:{line}", alone=second is None)
        yield line, only
        if second is not None:
            yield second
            yield from rows
    elif first[1].lstrip()[:1] in ("[", "{"):
        yield from _rows_across_lines(source)
    else:
        yield from _each_line(source)


def _lines(source: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, split as bytes: str.splitlines would also split at characters that JSON allows in a
    text. Where two files were concatenated, a byte order mark is also before a later line."""
    with open(source, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.removeprefix(_MARK).decode("utf-8")
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{source}:{number}: not UTF-8 text (byte {error.start} of the line); save the file as UTF-8"
                ) from error
            if text.strip():
                yield number, text


def _each_line(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in _lines(source):
        value, _ = _decoded(text.rstrip(), _space_end(text, 0), source, number, is_line=True)
        yield number, _object_at(value, f"{source}:{number}")


def _rows_across_lines(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file that is one JSON value, or several objects that each may have several lines."""
    text = "".join(_all_lines(source))
    start = _space_end(text, 0)
    if text[start] == "[":
        rest = _space_end(text, (yield from _elements(text, start, source)))
        if rest < len(text):
            raise ConfigError(
                f"{_place(text, rest, source)}: something follows the array; a file is one array of objects, or has "
                "one object a line"
            )
        return
    value, end = _decoded(text, start, source, 1)
    row = _object_at(value, _place(text, start, source))
    if _space_end(text, end) == len(text):
        if path := _list_of_rows(row):
            for key in path:
                start = next(at for name, at in _starts_of_values(text, start, source) if name == key)
            yield from _elements(text, start, source)
            return
        if _is_rows_by_number(row):
            line, counted = 1, 0
            for key, at in _starts_of_values(text, start, source):
                line, counted = line + text.count("\n", counted, at), at
                yield line, row[key]
            return
        _refuse_columns(row, _place(text, start, source), alone=True)
    line = _line(text, start)
    while True:
        yield line, row
        before, start = start, _space_end(text, end)
        if start == len(text):
            return
        line += text.count("\n", before, start)
        value, end = _decoded(text, start, source, 1)
        row = _object_at(value, f"{source}:{line}")


def _all_lines(source: str) -> Iterator[str]:
    """Every line, blank ones included, so that lines can be counted."""
    number = 0
    for at, text in _lines(source):
        yield "\n" * (at - number - 1)
        number = at
        yield text


def _elements(text: str, start: int, source: str) -> Generator[tuple[int, dict[str, Any]], None, int]:
    """The objects of the array that begins at `start`; returns the position of its end."""
    position = _space_end(text, start + 1)
    line, counted = _line(text, position), position
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        value, end = _decoded(text, position, source, 1)
        yield line, _object_at(value, f"{source}:{line}")
        position = _space_end(text, end)
        separator = text[position : position + 1]
        if separator == ",":
            position = _space_end(text, position + 1)
        if separator not in (",", "]") or (separator == "," and text[position : position + 1] == "]"):
            raise ConfigError(
                f"{_place(text, position, source)}: not JSON: expected ',' and an object, or ']' at the end of the "
                "array; correct the file"
            )
    return position + 1


def _starts_of_values(text: str, start: int, source: str) -> Iterator[tuple[str, int]]:
    """The keys of the object that begins at `start`, each with the position where its value begins."""
    position = _space_end(text, start + 1)
    while text[position : position + 1] != "}":
        key, end = _decoded(text, position, source, 1)
        position = _space_end(text, _space_end(text, end) + 1)  # after the colon
        yield key, position
        _, end = _decoded(text, position, source, 1)
        position = _space_end(text, end)
        position = _space_end(text, position + 1) if text[position : position + 1] == "," else position


def _list_of_rows(value: Mapping[str, Any]) -> tuple[str, ...]:
    """The path of keys to an object's only list of objects, if the list holds the file's rows rather than the choices
    of one row; else empty."""
    lists = [key for key, inner in value.items() if _is_list_of_objects(inner)]
    if len(lists) == 1 and (lists[0].casefold() in WRAPPERS or len(value) == 1):
        return (lists[0],)
    inside = [
        (key, *path) for key, inner in value.items() if isinstance(inner, dict) and (path := _list_of_rows(inner))
    ]
    is_row = any(key.casefold() in ("question", "answer") for key in value)
    return inside[0] if not lists and len(inside) == 1 and not is_row else ()


def _is_rows_by_number(value: Mapping[str, Any]) -> bool:
    """Whether rows are in a form that pandas writes with orient="index": {"0": {"question": …}, "1": …}."""
    return (
        len(value) > 1
        and all(key.isdigit() and isinstance(inner, dict) and inner for key, inner in value.items())
        and not any(key.isdigit() for inner in value.values() for key in inner)
    )


def _refuse_columns(value: Mapping[str, Any], place: str, *, alone: bool) -> None:
    """Raise ConfigError for a file whose only object (`alone`) holds several rows or columns."""
    if not alone:
        return
    lists = [key for key, inner in value.items() if _is_list_of_objects(inner) and len(inner) > 1]
    if len(lists) > 1:
        raise ConfigError(
            f"{place}: one object with several lists of objects ({', '.join(map(repr, lists))}); write each into a "
            "file of its own, for task.data, task.dev_data and task.test_data"
        )
    inner_keys = [set(inner) for inner in value.values() if isinstance(inner, dict)]
    if len(value) > 1 and len(inner_keys) == len(value):
        common = set.intersection(*inner_keys)
        if common and not all(key.isdigit() for key in common):
            raise ConfigError(
                f"{place}: one object that holds rows by name ({', '.join(map(repr, list(value)[:3]))}); write a list "
                "of them, and the names into a key of each, such as 'id'"
            )
    columns = [inner for inner in value.values() if isinstance(inner, list | dict)]
    if len(value) > 1 and len(columns) == len(value) and len({len(inner) for inner in columns}) == 1 and columns[0]:
        raise ConfigError(
            f"{place}: one object that holds columns ({', '.join(map(repr, list(value)[:5]))}), not rows; write one "
            'object per row (in pandas: to_json(..., orient="records", lines=True))'
        )


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_object(text: str) -> bool:
    """Whether a line is a complete object. A broken one raises its error later, when it is read."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _object_at(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else repr(value)[:40]
        raise ConfigError(f'{place}: expected a JSON object such as {{"question": …}}, got {kind}')
    return value


def _decoded(text: str, start: int, source: str, line: int, *, is_line: bool = False) -> tuple[Any, int]:
    """The value that begins at `start`, and the position of its end. With `is_line`, nothing may follow it. `line` is
    the number of the text's first line."""
    end = start
    try:
        value, end = _DECODER.raw_decode(text, start)
        if is_line and (rest := _space_end(text, end)) < len(text):
            raise json.JSONDecodeError("Extra data", text, rest)
    except json.JSONDecodeError as error:
        hint = "; write a backslash twice" if "escape" in error.msg else ""
        if text[error.pos : error.pos + 1] == "," and error.pos in (start, end):
            raise ConfigError(
                f"{source}:{line + error.lineno - 1}: a comma follows the object; leave out the commas at the ends of "
                "lines, or put [ before the first line and ] after the last, without a comma there"
            ) from error
        raise ConfigError(
            f"{source}:{line + error.lineno - 1}: not JSON: {error.msg} at column {error.colno}{hint}; expected one "
            "object a line, or an array of objects"
        ) from error
    except (ValueError, RecursionError) as error:
        at = f"{source}:{line + text.count(chr(10), 0, start)}"
        raise ConfigError(f"{at}: cannot be read as JSON: {error}; correct the line") from error
    return value, end


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in {k for k, _ in pairs[:i]})
        raise ValueError(f"the key {twice!r} occurs twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _number(text: str) -> float | Decimal:
    """A float, or a Decimal where a float cannot hold all the digits."""
    value = float(text)
    return value if not Decimal(value).is_finite() or Decimal(repr(value)) == Decimal(text) else Decimal(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_number)


def _space_end(text: str, start: int) -> int:
    space = _SPACE.match(text, start)
    return start if space is None else space.end()


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _place(text: str, position: int, source: str) -> str:
    return f"{source}:{_line(text, min(position, len(text)))}"

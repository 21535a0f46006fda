"""Read the rows of a data file (JSON lines, CSV, Parquet) or of a data set on the Hugging Face hub.

A row keeps its place, so that whatever is wrong with it later is said with file and line. Nothing is repaired and
nothing is left out: a row that cannot be read stops the reading. Blank lines, a byte order mark and Windows line ends
are no mistakes.
"""

import csv
import difflib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.errors import ConfigError, one_line

JSON_LINES = (".jsonl", ".ndjson", ".json")
CSV = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet",)
SUFFIXES = (*JSON_LINES, *CSV, *PARQUET)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row as it stands in its source."""

    place: str
    """For messages: `train.jsonl:17`. The number is the line where the row begins; in Parquet and on the hub, which
    have no lines, it is the row, from 1."""
    values: Mapping[str, Any]


def read_rows(source: str, *, hub_split: str = "", hub_config: str = "") -> list[Row]:
    """All rows of a file, told by its ending, or of a hub id `owner/name` (by default of its split `train`).

    Raises ConfigError, with file and line where there is one: no such file, an ending that is not known, bytes that
    are not UTF-8, a line that is not one JSON object, a CSV row of another length than the header, no row at all, a
    hub that cannot be reached.
    """
    suffix = Path(source).suffix.lower()
    if os.path.isdir(source):
        raise ConfigError(f"{source} is a folder; give one file ({', '.join(SUFFIXES)})")
    if not os.path.isfile(source):
        if suffix in SUFFIXES or not HUB_ID.fullmatch(source):
            raise ConfigError(_no_such_file(source))
        rows = _read_hub(source, hub_split or "train", hub_config)
    elif suffix in JSON_LINES:
        rows = list(_read_json_lines(source))
    elif suffix in CSV:
        rows = list(_read_csv(source, CSV[suffix]))
    elif suffix in PARQUET:
        rows = _read_parquet(source)
    else:
        raise ConfigError(f"{source}: the ending {suffix!r} is not known; use a file in {', '.join(SUFFIXES)}")
    if not rows:
        raise ConfigError(f"{source}: no rows; expected at least one")
    return rows


def _read_json_lines(source: str) -> Iterator[Row]:
    # By bytes: str.splitlines would also split at characters that JSON allows inside a text.
    with open(source, "rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{source}:{number}"
            text = _decoded(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, place)
            if text.strip():
                yield Row(place=place, values=_json_object(text, place))


def _json_object(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{place}: not JSON: {error.msg} at column {error.colno}; every line is one JSON object"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: cannot be read as JSON: {error}; correct the line") from error
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else repr(value)[:40]
        raise ConfigError(f'{place}: expected a JSON object such as {{"question": …}}, got {kind}')
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in {k for k, _ in pairs[:i]})
        raise ValueError(f"the key {twice!r} is there twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _read_csv(source: str, delimiter: str) -> Iterator[Row]:
    before = csv.field_size_limit(sys.maxsize)  # the library's limit of 128 KiB is no limit of the format
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            yield from _csv_rows(csv.reader(file, delimiter=delimiter, strict=True), source)
    except UnicodeDecodeError:
        yield from _place_of_bad_bytes(source)
    finally:
        csv.field_size_limit(before)


def _csv_rows(reader: Any, source: str) -> Iterator[Row]:
    header: list[str] | None = None
    place = f"{source}:1"
    while True:
        place = f"{source}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ConfigError(f"{place}: not CSV: {error} (is a quote left open?)") from error
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if "" in header or len(set(header)) < len(header):
                raise ConfigError(
                    f"{place}: the header {header} has an empty or repeated name; give each column its own"
                )
        elif len(cells) != len(header):
            raise ConfigError(
                f"{place}: {len(cells)} values, but the header has {len(header)} columns; put quotes around a value "
                "that holds the separator"
            )
        else:
            yield Row(place=place, values=dict(zip(header, cells, strict=True)))


def _place_of_bad_bytes(source: str) -> Iterator[Row]:
    """Raise for the first line that is not UTF-8: the decoder of a whole file does not know its lines."""
    with open(source, "rb") as file:
        for number, line in enumerate(file, start=1):
            _decoded(line, f"{source}:{number}")
    yield from ()


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{place}: not UTF-8 text (byte {error.start} of the line); save the file as UTF-8"
        ) from error


def _read_parquet(source: str) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        values = pyarrow.parquet.read_table(source).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{source}: not a Parquet file that can be read: {one_line(error)}") from error
    return [Row(place=f"{source}:{number}", values=value) for number, value in enumerate(values, start=1)]


def _read_hub(source: str, split: str, config: str) -> list[Row]:
    import datasets
    import httpx2

    try:
        found = datasets.load_dataset(source, config or None, split=split)
    except (OSError, ValueError, httpx2.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"{source}: no such file here, and split {split!r} of it cannot be loaded from the Hugging Face hub "
            f"({one_line(error)}); check the name and the connection, or download the data and give a local file "
            f"({', '.join(SUFFIXES)})"
        ) from error
    return [Row(place=f"{source}/{split}:{number}", values=values) for number, values in enumerate(found, start=1)]


def _no_such_file(source: str) -> str:
    path = Path(source)
    beside = os.listdir(path.parent) if os.path.isdir(path.parent) else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"did you mean {str(path.parent / near[0])!r}?" if near else "check the path, or give a hub id (owner/name)"
    return f"{source}: no such file{'' if path.is_absolute() else f' in {os.getcwd()}'}; {hint}"

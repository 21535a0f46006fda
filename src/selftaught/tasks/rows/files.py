"""Read the rows of a data file (JSON, CSV, Parquet) or of a data set on the Hugging Face hub.

A row keeps its place, so that every later message about it names file and line. Nothing is repaired and nothing is
left out: a row that cannot be read is an error. Blank lines, a byte order mark and Windows line ends are no errors.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.machine.paths import LFS_POINTER
from selftaught.records.errors import ConfigError, one_line
from selftaught.tasks.rows.arrow_rows import arrow_rows
from selftaught.tasks.rows.csv_rows import csv_rows
from selftaught.tasks.rows.json_rows import json_rows

JSON = (".jsonl", ".ndjson", ".json")
CSV = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet",)
SUFFIXES = (*JSON, *CSV, *PARQUET)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


_UNPACK = "unpack it first, and give the file in it"
_OTHER_KINDS = {
    b"\x1f\x8b": ("compressed (gzip)", _UNPACK),
    b"BZh": ("compressed (bzip2)", _UNPACK),
    b"\xfd7zXZ": ("compressed (xz)", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed (zstd)", _UNPACK),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV (UTF-8)"),
    b"PAR1": ("a Parquet file", "call it .parquet"),
    b"ARROW1": ("an Arrow file", "write it as Parquet or JSON lines"),
}
"""The first bytes of files that are not what their ending says -> what they are, and the next step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of its source, unchanged."""

    place: str
    """For messages: `train.jsonl:17`. The number is the line where the row begins; in Parquet and on the hub, which
    have no lines, it is the row, from 1."""
    values: Mapping[str, Any]


def read_rows(source: str, *, hub_split: str = "", hub_config: str = "") -> list[Row]:
    """All rows of a file, read by its ending, or of a hub id `owner/name` (by default its split `train`).

    Raises ConfigError, with file and line where there is one: no such file, an unknown ending, bytes that are not
    UTF-8, a line that is no JSON object, a CSV row of another length than the header, no row at all, a Git LFS
    pointer, a hub that cannot be reached.
    """
    suffix = Path(source).suffix.lower()
    if os.path.isdir(source):
        raise ConfigError(f"{source} is a folder; give one file ({', '.join(SUFFIXES)})")
    if not os.path.isfile(source):
        if suffix in SUFFIXES or not HUB_ID.fullmatch(source):
            raise ConfigError(_no_such_file(source))
        return _refuse_no_rows(source, _read_hub(source, hub_split or "train", hub_config))
    _refuse_other_kinds(source)
    if suffix in JSON:
        rows = _with_places(source, json_rows(source))
    elif suffix in CSV:
        rows = _with_places(source, csv_rows(source, CSV[suffix]))
    elif suffix in PARQUET:
        rows = _read_parquet(source)
    else:
        raise ConfigError(f"{source}: the ending {suffix!r} is not known; use a file in {', '.join(SUFFIXES)}")
    return _refuse_no_rows(source, rows)


def _with_places(source: str, values_by_line: Iterable[tuple[int, Mapping[str, Any]]]) -> list[Row]:
    return [Row(place=f"{source}:{line}", values=values) for line, values in values_by_line]


def _refuse_no_rows(source: str, rows: list[Row]) -> list[Row]:
    if not rows:
        raise ConfigError(f"{source}: no rows; expected at least one")
    return rows


def _read_parquet(source: str) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        values = arrow_rows(pyarrow.parquet.read_table(source))
    except KeyError as error:
        raise ConfigError(f"{source}: a map holds a key twice ({one_line(error)}); correct the row") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{source}: not a Parquet file that can be read: {one_line(error)}") from error
    return [Row(place=f"{source}:{number}", values=value) for number, value in enumerate(values, start=1)]


def _read_hub(source: str, split: str, config: str) -> list[Row]:
    import datasets
    import httpx2

    try:
        dataset = datasets.load_dataset(source, config or None, split=split)
    except (OSError, ValueError, httpx2.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"{source}: no such file here, and split {split!r} of it cannot be loaded from the Hugging Face hub "
            f"({one_line(error)}); check the name and the connection, or download the data and give a local file "
            f"({', '.join(SUFFIXES)})"
        ) from error
    values = arrow_rows(dataset.with_format("arrow")[:])
    return [Row(place=f"{source}/{split}:{number}", values=value) for number, value in enumerate(values, start=1)]


def _refuse_other_kinds(source: str) -> None:
    """Raise ConfigError for a file that is something other than its ending says."""
    with open(source, "rb") as file:
        start = file.read(200).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(LFS_POINTER):
        raise ConfigError(
            f"{source} is a Git LFS pointer, not the data that it refers to; fetch that with `git lfs pull`"
        )
    if re.match(rb"<(!doctype|html|\?xml)", start, re.IGNORECASE):
        raise ConfigError(f"{source} is a web page, not data; download the file itself (often under `raw`)")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{source}: not UTF-8 text but UTF-16 (its byte order mark says so); save the file as UTF-8")
    is_text = Path(source).suffix.lower() not in PARQUET
    for begin, (what, step) in _OTHER_KINDS.items() if is_text else ():
        if start.startswith(begin):
            raise ConfigError(f"{source} is {what}, not text; {step}")
    if is_text and start.count(b"\0") > len(start) // 4:
        raise ConfigError(
            f"{source}: not UTF-8 text but UTF-16 or UTF-32 (every other byte is 0); save the file as UTF-8"
        )


def _no_such_file(source: str) -> str:
    path = Path(source)
    if os.path.islink(path):
        return f"{source} is a link to {os.readlink(path)!r}, which is not there; restore that file, or give another"
    beside = os.listdir(path.parent) if os.path.isdir(path.parent) else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"did you mean {str(path.parent / near[0])!r}?" if near else "check the path, or give a hub id (owner/name)"
    return f"{source}: no such file{'' if path.is_absolute() else f' in {os.getcwd()}'}; {hint}"

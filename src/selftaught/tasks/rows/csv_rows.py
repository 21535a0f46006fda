"""Rows of a CSV file, with the line where each begins.

The ending decides the separator (a comma, a tab in .tsv), unless the header has one column by it and several by another
(`;` in countries that write 0,5, a tab, `|`), or a first line `sep=;` names another. A column without a name, which
pandas writes for its index, gets the name that pandas gives it when it reads the file: `Unnamed: 0`.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator
from typing import Any

from selftaught.records.errors import ConfigError

SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[ \t]*\r?\n', re.IGNORECASE)  # spreadsheets write it


def csv_rows(source: str, separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Raises ConfigError with file and line for bytes that are not UTF-8, a quote left open, a header with one name
    twice, and a row of another length than the header."""
    text = _text(source)
    before = csv.field_size_limit(sys.maxsize)  # 128 KiB is the library's limit, not the format's
    try:
        given = _SEPARATOR_LINE.match(text)
        separator = given[1] if given else _separator(text, separator)
        yield from _rows(text[given.end() if given else 0 :], source, separator, skipped=bool(given))
    finally:
        csv.field_size_limit(before)


def _text(source: str) -> str:
    with open(source, "rb") as file:
        content = file.read()
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1)
        raise ConfigError(
            f"{source}:{line + 1}: not UTF-8 text (byte {column} of the line); save the file as UTF-8"
        ) from error


def _separator(text: str, usual: str) -> str:
    """The usual separator, or the only other one that makes more of the header than one column and fits all rows."""
    if _columns(text, usual, all_rows=False) > 1:
        others = [other for other in SEPARATORS if other != usual and _columns(text, other, all_rows=False) > 1]
        if not others or _columns(text, usual, all_rows=True):
            return usual
    fitting = [other for other in SEPARATORS if other != usual and _columns(text, other, all_rows=True) > 1]
    return fitting[0] if len(fitting) == 1 else usual


def _columns(text: str, separator: str, *, all_rows: bool) -> int:
    """Number of columns of the header; with `all_rows`, 0 if a row has another number."""
    columns = 0
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            if any(cell.strip() for cell in cells):
                columns = columns or len(cells)
                if not all_rows or len(cells) != columns:
                    return columns if not all_rows else 0
    except csv.Error:
        return 0
    return columns


def _rows(text: str, source: str, separator: str, *, skipped: bool) -> Iterator[tuple[int, dict[str, str]]]:
    reader: Any = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1 + skipped
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ConfigError(f"{source}:{line}: not CSV: {error} (is a quote left open?)") from error
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() or f"Unnamed: {number}" for number, cell in enumerate(cells)]
            if len(set(header)) < len(header):
                raise ConfigError(f"{source}:{line}: the header {header} has a name twice; give each column its own")
        elif len(cells) != len(header):
            step = (
                "put quotes around a value that holds the separator"
                if len(cells) > len(header)
                else "write the missing ones, if only as separators with nothing between them, or remove the line"
            )
            raise ConfigError(
                f"{source}:{line}: {len(cells)} value{'s' * (len(cells) != 1)}, but the header has {len(header)} "
                f"columns, separated by {separator!r}; {step}"
            )
        else:
            yield line, dict(zip(header, cells, strict=True))

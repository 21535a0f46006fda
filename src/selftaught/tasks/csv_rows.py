"""Rows of a CSV file, with the line where each begins.

The separator is what the ending says (a comma, a tab in .tsv), unless the header has only one column by it and more by
another (`;` in countries that write 0,5, a tab, `|`), or a first line `sep=;` says so. A column without a name, as
pandas writes for its index, is called as pandas would call it when it reads the file: `Unnamed: 0`.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator
from typing import Any

from selftaught.errors import ConfigError

SEPARATORS = (",", ";", "\t", "|")
_SAID = re.compile(r'"?sep=(.)"?[ \t]*\r?\n', re.IGNORECASE)  # what spreadsheets write


def csv_rows(source: str, separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Raises ConfigError with file and line for bytes that are not UTF-8, a quote left open, a header with one name
    twice, and a row of another length than the header."""
    text = _text(source)
    before = csv.field_size_limit(sys.maxsize)  # the library's limit of 128 KiB is no limit of the format
    try:
        said = _SAID.match(text)
        separator = said[1] if said else _separator(text, separator)
        yield from _rows(text[said.end() if said else 0 :], source, separator, skipped=bool(said))
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
    if _columns(text, usual, whole=False) > 1:
        others = [other for other in SEPARATORS if other != usual and _columns(text, other, whole=False) > 1]
        if not others or _columns(text, usual, whole=True):
            return usual
    fitting = [other for other in SEPARATORS if other != usual and _columns(text, other, whole=True) > 1]
    return fitting[0] if len(fitting) == 1 else usual


def _columns(text: str, separator: str, *, whole: bool) -> int:
    """How many columns the header has; 0 if a row has another number, where the whole file is asked about."""
    columns = 0
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            if any(cell.strip() for cell in cells):
                columns = columns or len(cells)
                if not whole or len(cells) != columns:
                    return columns if not whole else 0
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

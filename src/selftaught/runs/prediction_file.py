"""The file of predictions: chunk after chunk of lines that survive a kill, and at the end perhaps a table of them.

The lines are in OUT itself if it ends on .jsonl, else beside it, in OUT.jsonl; OUT.about.json says what they are made
from, so that nothing else is ever appended to them.
"""

import csv
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from selftaught.machine.paths import link_to_nothing
from selftaught.records.errors import ConfigError, StoreError
from selftaught.records.predictions import Prediction
from selftaught.runs.lines import adapter_of, append, as_store_error, complete_lines, parsed, read_json, sync_dir

ENDINGS = (".jsonl", ".csv", ".parquet")
NESTED = ("votes", "completions")
"""In a table, JSON as text."""
BATCH = 4096
"""Rows of a table that are in memory at a time."""


def check_out(out: Path) -> None:
    """Raise ConfigError for an ending that is not known, and for a folder that is not there."""
    ending = out.suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"-o {out}: the ending {ending!r} is not known; expected one of {', '.join(ENDINGS)}")
    if not out.parent.is_dir():
        reason = link_to_nothing(out.parent) or "it is not there"
        raise ConfigError(f"-o {out}: expected a folder at {out.parent}, but {reason}; make it, or give another")
    if out.is_dir():
        raise ConfigError(f"-o {out} is a folder; give the name of a file in it")


class PredictionFile:
    """One output, open for writing. Use as a context manager: it holds a lock that ends with the process."""

    def __init__(self, out: Path, columns: Sequence[str]) -> None:
        """`out` has passed `check_out`; `columns` are the fields of `Prediction` that a line has, in its order."""
        self.out = out
        self.lines = out if out.suffix.lower() == ".jsonl" else out.with_name(f"{out.name}.jsonl")
        self._about = out.with_name(f"{out.name}.about.json")
        self._columns = tuple(columns)
        self._lock: BinaryIO | None = None
        self._is_new = False
        """Whether this process has begun the file."""

    def __enter__(self) -> "PredictionFile":
        for path in () if self._about.exists() else (self.out, self.lines):
            if path.exists() and path.stat().st_size:
                raise StoreError(
                    f"{path} is there already, and no {self._about.name} beside it says that `predict` has made it; "
                    "move it away, or give another with -o"
                )
        with as_store_error(self.lines, "write"):
            self._lock = open(self.lines, "ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_same = os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.lines))
        except (BlockingIOError, FileNotFoundError):
            is_same = False
        if not is_same:
            self._lock.close()
            raise StoreError(f"{self.out} is being written by another process; wait for it, or give another with -o")
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_new and not self.lines.stat().st_size:
            # Refused before the first line: a corrected command must be able to use the name.
            self._about.unlink(missing_ok=True)
        if not self._about.exists():
            self.lines.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    @property
    def about(self) -> dict[str, Any] | None:
        """What the lines are made from; None for a new file."""
        return read_json(self._about) if self._about.exists() else None

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write down what the lines will be made from, before the first of them."""
        self._is_new = True
        self._replace(self._about, lambda path: path.write_bytes(json.dumps(about, indent=2).encode() + b"\n"))

    def saved(self, ids: Sequence[str | int], chunk: int) -> int:
        """How many rows are on disk in complete chunks of so many rows; what follows them, a torn chunk, is cut off.

        Raises StoreError for a damaged line, and for lines that are not of rows with these ids.
        """
        size = kept = kept_size = 0
        for number, line in enumerate(complete_lines(self.lines), start=1):
            (saved,) = parsed(Prediction, [line], self.lines, first=number)
            if number > len(ids) or saved.id != ids[number - 1]:
                expected = repr(ids[number - 1]) if number <= len(ids) else "no further line"
                raise StoreError(
                    f"{self.lines}:{number}: the row {saved.id!r}, expected {expected}; the file was changed, restore "
                    "it or give another with -o"
                )
            size += len(line)
            if number % chunk == 0 or number == len(ids):
                kept, kept_size = number, size
        if self.lines.stat().st_size != kept_size:
            with as_store_error(self.lines, "cut"), open(self.lines, "r+b") as file:
                file.truncate(kept_size)
                os.fsync(file.fileno())
        return kept

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Append a finished chunk, completely or not at all."""
        dump = adapter_of(Prediction).dump_json
        append(self.lines, b"".join(dump(p, include=set(self._columns)) + b"\n" for p in predictions))

    def read(self) -> Iterator[Prediction]:
        return parsed(Prediction, complete_lines(self.lines), self.lines)

    @property
    def lacks_table(self) -> bool:
        """Whether the lines are to be written as a table, which is not there."""
        return self.out != self.lines and not self.out.exists()

    def write_table(self) -> None:
        """Write the lines as a table into OUT, in one step."""
        self._replace(self.out, self._write_csv if self.out.suffix.lower() == ".csv" else self._write_parquet)

    def _write_csv(self, path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._cells())

    def _write_parquet(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        cells = self._cells()
        first = next(cells)
        kinds = {name: pyarrow.string() for name in self._columns} | {"share": pyarrow.float64()}
        kinds["id"] = pyarrow.int64() if isinstance(first["id"], int) else pyarrow.string()
        schema = pyarrow.schema([(name, kinds[name]) for name in self._columns])
        batch = [first, *islice(cells, BATCH - 1)]
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            while batch:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
                batch = list(islice(cells, BATCH))

    def _cells(self) -> Iterator[dict[str, Any]]:
        dump = adapter_of(Prediction).dump_python
        for prediction in self.read():
            values = dump(prediction, mode="json", include=set(self._columns))
            nested = {key: json.dumps(values[key], ensure_ascii=False) for key in NESTED if key in values}
            yield {**values, **nested}

    def _replace(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write a file in one step: after a kill it is either complete or as it was before."""
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            with as_store_error(path, "write"):
                write(temporary)
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
                sync_dir(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

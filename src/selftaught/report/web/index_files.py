"""Where the index of a run folder is, whether one that is there is its own, and what tells that a file has changed."""

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from selftaught.records.errors import StoreError
from selftaught.report.web.schema import connected
from selftaught.runs.lines import as_store_error


def place_for(run_dir: Path) -> Path:
    """Where the index of a run is: beside its folder, or where that cannot be written among the temporary files."""
    folder = run_dir.resolve()
    beside = folder.with_name(f"{folder.name}.view.sqlite")
    if os.access(folder.parent, os.W_OK) and (not beside.exists() or os.access(beside, os.W_OK)):
        return beside
    name = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    own = Path(tempfile.gettempdir()) / f"selftaught-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid() or own.is_symlink():
        raise StoreError(f"{own} belongs to somebody else; set TMPDIR to a folder of your own")
    return own / f"{name}.view.sqlite"


def is_ours(path: Path, identity: dict[str, str]) -> bool:
    """Whether an index is there that was made of this run by this version."""
    if not path.is_file():
        return False
    with suppress(sqlite3.Error):
        connection = connected(path)
        try:
            return dict(connection.execute("SELECT key, value FROM about")) == identity
        finally:
            connection.close()
    return False


def stamp_of(path: Path) -> tuple[int, int]:
    with as_store_error(path, "read"):
        found = path.stat()
    return found.st_size, found.st_mtime_ns


def lines_from(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a file from a byte on, each with where it begins."""
    with as_store_error(path, "read"), open(path, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield start, line
            start += len(line)


def hash_before(path: Path, end: int) -> str:
    """The hash of the last 4 KiB before a byte, which says whether a file has only grown since."""
    with as_store_error(path, "read"), open(path, "rb") as file:
        file.seek(max(0, end - 4096))
        return hashlib.sha256(file.read(min(end, 4096))).hexdigest()[:16]


def has_next_line(path: Path, start: int) -> bool:
    """Whether a line ends behind a byte: what follows the last line end is not there yet."""
    with as_store_error(path, "read"), open(path, "rb") as file:
        file.seek(start)
        return file.readline().endswith(b"\n")

"""Records as lines of JSON: written and synced, read one at a time and checked; every failure is one line.

pydantic checks what is read, so that a damaged line is an error that names file and line, never a wrong number.
"""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Hashable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from selftaught.machine.paths import link_to_nothing
from selftaught.records.errors import StoreError

R = TypeVar("R")

BLOCK = 1 << 16
"""Bytes that are read at a time in search of the last line end."""


@cache
def adapter_of(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def read_json(path: Path) -> dict[str, Any]:
    try:
        with as_store_error(path, "read"):
            content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: not readable as JSON ({error}); restore the file or start a new run") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path}: expected a JSON object, got {type(content).__name__}; restore the file")
    return content


def read_lines(kind: type[R], path: Path) -> Iterator[R]:
    """The records of a file, one at a time; none if there is no file."""
    if path.exists():
        yield from parsed(kind, complete_lines(path), path)


def complete_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their line ends; skips what follows the last one, an incomplete line."""
    with as_store_error(path, "read"), open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def parsed(kind: type[R], lines: Iterable[bytes], path: Path, *, first: int = 1) -> Iterator[R]:
    """The records of consecutive lines of a file; the first line has the number `first`."""
    adapter = adapter_of(cast(Hashable, kind))
    for number, line in enumerate(lines, start=first):
        try:
            record = cast(R, adapter.validate_json(line))
        except ValidationError as error:
            first_error = error.errors()[0]
            where = ".".join(str(part) for part in first_error["loc"]) or "the line"
            raise StoreError(
                f"{path}:{number}: {where}: {first_error['msg'].lower()}; the file was changed or damaged, restore it "
                "or start a new run"
            ) from error
        yield record


def dump(kind: type[Any], record: object) -> bytes:
    return adapter_of(cast(Hashable, kind)).dump_json(record) + b"\n"


def append(path: Path, content: bytes, *, sync: bool = True) -> None:
    # Unbuffered, so that no buffer is written later, after a failed write has been cut off.
    with as_store_error(path, "append to"), open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            view = memoryview(content)
            while view:
                view = view[file.write(view) or 0 :]
            if sync:
                os.fsync(file.fileno())
        except OSError:
            os.truncate(path, before)
            raise


def replace_file(path: Path, pieces: Iterable[bytes], *, by_many: bool = False) -> None:
    """Write a file in one step: after a kill it is either complete or as it was before. `by_many` where several
    processes may write the same one at a time. Raises StoreError."""
    own = f".{os.getpid()}-{secrets.token_hex(4)}" if by_many else ""
    temporary = path.with_name(f"{path.name}{own}.tmp")
    try:
        with as_store_error(path, "write"):
            with open(temporary, "wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_dir(path.parent)
    except StoreError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def cut_torn_tail(path: Path) -> None:
    """Cut off what follows the last line end of a file; reads no more of it than that."""
    with as_store_error(path, "cut"), open(path, "r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        kept = 0
        while end and not kept:
            start = max(0, end - BLOCK)
            file.seek(start)
            kept = file.read(end - start).rfind(b"\n") + 1
            kept, end = start + kept if kept else 0, start
        if kept != size:
            file.truncate(kept)
            os.fsync(file.fileno())


def sync_dir(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def as_store_error(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if link := link_to_nothing(path):
            raise StoreError(f"cannot {verb} {path}: {link}; make that folder, or give another path") from error
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        next_step = (
            "free some space (or raise the file size limit) and run the same command again; what is finished is kept"
            if full
            else "check the path and its permissions"
        )
        raise StoreError(f"cannot {verb} {path}: {error.strerror or error}; {next_step}") from error

"""A folder that is there completely or not at all: written under another name beside it, synced, renamed."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from selftaught.machine.paths import link_to_nothing
from selftaught.records.errors import ConfigError, StoreError
from selftaught.runs.lines import as_store_error, sync_dir

MARK = ".selftaught-unfinished"
"""In the folder while it is written, and locked: whoever finds it knows that the folder is ours, and unfinished."""


def check_new_folder(folder: Path, what: str) -> None:
    """Raise ConfigError if a folder cannot be made anew; `what` is the option that names it."""
    if link := link_to_nothing(folder):
        raise ConfigError(f"{what} {folder}: {link}; correct the link, or give another folder")
    if folder.is_symlink():
        raise ConfigError(f"{what} {folder} is a link, which renaming would replace; give the folder that it leads to")
    if folder.is_dir():
        if any(folder.iterdir()):
            raise ConfigError(f"{what} {folder} is not empty; give a new folder, or move this one away")
    elif folder.exists():
        raise ConfigError(f"{what} {folder} is a file; give a new folder")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, which gets its final name when the block ends without an error; an error removes it.

    A killed process leaves FOLDER.unfinished, which the next one begins again. Raises StoreError if another process is
    writing it, if something else has that name, or if the disk is full.
    """
    folder = folder.resolve()
    temporary = folder.with_name(f"{folder.name}.unfinished")
    with contextlib.ExitStack() as stack:
        with as_store_error(temporary, "create"):
            if temporary.exists():
                _remove_what_a_kill_left(temporary)
            temporary.mkdir(parents=True)
            lock = stack.enter_context(open(temporary / MARK, "ab"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield temporary
            with as_store_error(folder, "write"):
                _sync(temporary)
                (temporary / MARK).unlink()
                os.rename(temporary, folder)  # an empty folder of that name is replaced, another is an error
                sync_dir(folder.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _remove_what_a_kill_left(temporary: Path) -> None:
    if not (temporary / MARK).is_file() and (not temporary.is_dir() or any(temporary.iterdir())):
        raise StoreError(f"{temporary} is there and was not made by this command; move it away")
    if (temporary / MARK).is_file():
        with open(temporary / MARK, "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(f"{temporary} is being written by another process; wait for it") from error
            shutil.rmtree(temporary)
            return
    temporary.rmdir()


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_dir(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())

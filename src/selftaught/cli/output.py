"""Standard output and error that never end a program, whatever it prints.

A run that has trained for hours must not die because its terminal cannot show a letter, the reader of a pipe has left
or a disk is full. What cannot be shown is escaped; what cannot be written is dropped, and `loss` says why.
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import TextIO

from selftaught.records.errors import one_line


class _Descriptor(io.FileIO):
    """Accepts all bytes, whether they can be written or not, so that no layer above fails or keeps them."""

    loss: OSError | None = None

    def write(self, content: object, /) -> int:
        view = memoryview(content).cast("B")  # type: ignore[arg-type]
        size = len(view)
        while view and self.loss is None:
            try:
                written = super().write(view)
            except OSError as error:
                self.loss = error
                continue
            if written is None:  # another program has made the terminal non-blocking
                select.select([], [self], [])
            view = view[written or 0 :]
        return size


def secure() -> None:
    """Replace `sys.stdout` and `sys.stderr` by such streams; call once, at the start of a program."""
    for number in (0, 1, 2):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # else the next opened file gets this number and thereby the output
    sys.stdout = _secured(sys.stdout, 1)
    sys.stderr = _secured(sys.stderr, 2)


def note(text: str) -> None:
    """A message for a person: one line on standard error."""
    print(one_line(text), file=sys.stderr, flush=True)


def loss(stream: TextIO) -> OSError | None:
    """Why output to a stream is lost; None if it is not, or if its reader has closed the pipe."""
    error = _loss(stream)
    return None if error is None or error.errno == errno.EPIPE else error


def is_lost(stream: TextIO) -> bool:
    """Whether nobody receives what is printed."""
    return _loss(stream) is not None


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal that a stream goes to, or of COLUMNS; None where lines may be of any length."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def _secured(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:  # it was closed when the program started
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper) or isinstance(getattr(stream.buffer, "raw", None), _Descriptor):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(number, "wb", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _loss(stream: TextIO) -> OSError | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.loss if isinstance(raw, _Descriptor) else None

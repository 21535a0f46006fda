"""The file of one stage's samples: chunk after chunk, each complete or cut off."""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from selftaught.records.errors import StoreError
from selftaught.records.samples import PlannedSample, Sample
from selftaught.runs.lines import append, as_store_error, dump, parsed


class StageFile:
    """Reads the chunks that are on disk, one after the other, and appends the ones that are missing.

    The lines are the samples in the order in which they were planned. A chunk is on disk if all its lines are complete;
    what follows the last such chunk was torn by a kill, and is cut off when the chunk that takes its place is appended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = 0
        self._bytes = 0
        self._has_read_all = False
        """Whether the chunks on disk have been read, so that whatever follows them is torn."""

    @property
    def is_empty(self) -> bool:
        """Whether no chunk has been read or appended."""
        return not self._lines

    def read(self, planned: Sequence[PlannedSample], seeds: Sequence[int]) -> list[Sample] | None:
        """The next chunk if it is on disk, else None. The file stays as it is.

        Raises StoreError for a damaged line, and for samples that were not planned.
        """
        lines = self._next_lines(len(planned))
        if len(lines) < len(planned):
            self._has_read_all = True
            return None
        samples = list(parsed(Sample, lines, self.path, first=self._lines + 1))
        for s, expected, seed in zip(samples, planned, seeds, strict=True):
            if (s.problem_id, s.kind, s.index, s.seed) != (expected.problem_id, expected.kind, expected.index, seed):
                raise StoreError(
                    f"{self.path}: holds {s.problem_id!r} (seed {s.seed}) where {expected.problem_id!r} (seed {seed}) "
                    "is planned; the file is not this run's"
                )
        self._lines += len(lines)
        self._bytes += sum(map(len, lines))
        return samples

    def append(self, samples: Sequence[Sample]) -> None:
        """Append one finished chunk, completely or not at all."""
        self.append_lines([dump(Sample, s) for s in samples])

    def append_lines(self, lines: Sequence[bytes]) -> None:
        """The same for a chunk whose samples are lines already."""
        if self._has_read_all:
            self._cut()
        content = b"".join(lines)
        append(self.path, content)
        self._lines += len(lines)
        self._bytes += len(content)

    def end(self) -> None:
        """The stage has no more chunks: cut off a line that was torn, raise StoreError for one that is complete."""
        if self._next_lines(1):
            raise StoreError(f"{self.path}: only {self._lines} samples were planned; the file is not this run's")
        self._cut()

    def _next_lines(self, number: int) -> list[bytes]:
        if not self.path.exists():
            return []
        with as_store_error(self.path, "read"), open(self.path, "rb") as file:
            file.seek(self._bytes)
            return [line for line in islice(file, number) if line.endswith(b"\n")]

    def _cut(self) -> None:
        if self.path.exists() and self.path.stat().st_size != self._bytes:
            with as_store_error(self.path, "cut"), open(self.path, "r+b") as file:
                file.truncate(self._bytes)
                os.fsync(file.fileno())

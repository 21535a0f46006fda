"""Chunks of a stage that were finished before those that precede them in the plan: samples/<iteration>-<stage>.parts/.

Each is a file of its own, written in one step, until it is its turn to be appended to the file of the stage. So they
cost no memory while they wait, and a killed run that is started again has them.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from selftaught.records.errors import StoreError
from selftaught.records.prompts import ChunkPrompts
from selftaught.runs.lines import as_store_error, complete_lines, dump, parsed, replace_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A chunk as it is to be appended."""

    lines: tuple[bytes, ...]
    """Of the stage's file."""
    prompts: ChunkPrompts
    """What they were generated from, for prompts.jsonl."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The first line of a part."""

    samples: int
    prompts: ChunkPrompts


class Parts:
    """The folder of a stage's parts; made when the first one is written."""

    def __init__(self, stage_file: Path) -> None:
        """`stage_file` is the file of the stage's samples."""
        self.folder = stage_file.with_suffix(".parts")

    def write(self, number: int, part: Part) -> None:
        """Keep a chunk by its position in the plan."""
        with as_store_error(self.folder, "create"):
            self.folder.mkdir(exist_ok=True)
        head = dump(_Head, _Head(samples=len(part.lines), prompts=part.prompts))
        replace_file(self._path(number), [head, *part.lines])

    def read(self, number: int) -> Part | None:
        """The chunk at a position; None if it is not there, or not whole: then another may take its place."""
        path = self._path(number)
        if not path.exists():
            return None
        first, *lines = [*complete_lines(path)] or [b""]
        try:
            (head,) = parsed(_Head, [first], path)
        except StoreError:
            return None
        return Part(lines=tuple(lines), prompts=head.prompts) if len(lines) == head.samples else None

    def remove(self, number: int) -> None:
        """Remove a chunk that has been appended."""
        with as_store_error(self.folder, "write"):
            self._path(number).unlink(missing_ok=True)

    def end(self) -> None:
        """The stage is complete: remove the folder with what a kill may have left in it."""
        if self.folder.exists():
            with as_store_error(self.folder, "remove"):
                shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jsonl"

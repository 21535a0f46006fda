"""The folder of a comparison: run folders side by side, what they share, and what was asked for.

Several processes may work in it, each on a run folder of its own, on one machine or several; what they all write is
written under a lock.
"""

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selftaught.comparison.plan import At, Cell, cell_of, in_order
from selftaught.config.loading import differences
from selftaught.records.errors import StoreError, one_line
from selftaught.records.sections import Value
from selftaught.runs.lines import as_store_error, read_json, replace_file

FORMAT = 1
ASKED, SHARED, FAILED = "comparison.json", "shared", "failed"
UNFINISHED_S = 86_400.0
"""After so many seconds an unfinished file is a dead writer's. Its name has the process, but not the machine, and no
file here takes a minute to write."""


class ComparisonFolder:
    """The files of one comparison beside those of its runs."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder

    def run_dir(self, cell: Cell) -> Path:
        return self.dir / cell.name

    @property
    def shared(self) -> Path:
        """Of the chunks that the runs have in common."""
        return self.dir / SHARED

    def begin(
        self,
        at: At,
        steps: int,
        config: Mapping[str, Value],
        cells: Sequence[Cell],
        of_rows: Mapping[str, Mapping[str, Value]],
        *,
        decide: Callable[[], Mapping[str, Value]],
    ) -> dict[str, Value]:
        """Note what is asked for, beside what was asked before. Returns what `decide` said at the first start.

        `config` is what all rows have in common, `of_rows` what the rows of the cells have of their own by the user.
        A row none of whose runs has begun may get other settings, so that what was wrong with them can be mended.
        Raises StoreError if the folder was begun with another config, or a row of it with other settings.
        """
        with as_store_error(self.dir, "create"):
            self.dir.mkdir(parents=True, exist_ok=True)
        self.sweep()
        with self.locked():
            before = self.asked() if (self.dir / ASKED).exists() else None
            now = json.loads(json.dumps({"at": at, **config}))
            if before is None:
                if any(self.dir.glob("*/run.json")) or (self.dir / "run.json").exists():
                    raise StoreError(f"{self.dir} holds runs of no comparison; use another --dir")
                machine = dict(decide())
                before = {"format": FORMAT, "config": now, "steps": steps, "machine": machine, "rows": {}, "cells": []}
            elif changed := differences(before["config"], now):
                raise StoreError(
                    f"{self.dir} was begun with {'; '.join(changed)}; rows are compared under one config, so use "
                    "another --dir"
                )
            own = json.loads(json.dumps(of_rows))
            begun = {cell.row for cell in self._cells(before) if (self.run_dir(cell) / "run.json").exists()}
            for row in own.keys() & before["rows"].keys() & begun:
                if changed := differences(before["rows"][row], own[row]):
                    raise StoreError(
                        f"{self.dir}: row {row!r} was begun with {'; '.join(changed)}; give it the same --set, or use "
                        "another --dir"
                    )
            known = in_order([*cells, *self._cells(before)])
            of_all = {**before["rows"], **own}
            rows = {row: of_all[row] for row in dict.fromkeys(cell.row for cell in known)}
            self.write_json(ASKED, {**before, "rows": rows, "cells": [str(cell) for cell in known]})
            return dict(before["machine"])

    def sweep(self) -> None:
        """Remove what killed processes have left half written, and nothing of those that write now."""
        for folder in (self.dir, self.shared, self.dir / FAILED):
            for path in folder.glob("*.tmp"):
                with contextlib.suppress(FileNotFoundError):  # its writer, or the sweep of another process, was here
                    if time.time() - path.stat().st_mtime > UNFINISHED_S:
                        path.unlink()

    def asked(self) -> dict[str, Any]:
        """The content of comparison.json. Raises StoreError for one that this version does not read."""
        path = self.dir / ASKED
        content = read_json(path)
        kinds = {"config": dict, "steps": int, "machine": dict, "rows": dict, "cells": list}
        if content.get("format") != FORMAT or not all(isinstance(content.get(k), kind) for k, kind in kinds.items()):
            raise StoreError(f"{path} is damaged or of another version; restore the file or use another --dir")
        return content

    def cells(self) -> list[Cell]:
        """All that was ever asked for, in the order of the table."""
        return self._cells(self.asked())

    def _cells(self, asked: Mapping[str, Any]) -> list[Cell]:
        found = [cell_of("-seed".join(str(text).rsplit(":", 1))) for text in asked["cells"]]
        if None in found:
            raise StoreError(
                f"{self.dir / ASKED}: {asked['cells'][found.index(None)]!r} is no cell of this version; use the "
                "version that began the comparison"
            )
        return in_order([cell for cell in found if cell is not None])

    def failure(self, cell: Cell) -> str:
        """Why a cell failed when it was last tried; empty if it did not."""
        path = self._failed(cell)
        with as_store_error(path, "read"):
            return one_line(path.read_text(encoding="utf-8").strip()) if path.exists() else ""

    def note_failure(self, cell: Cell, reason: str) -> None:
        self._failed(cell).parent.mkdir(exist_ok=True)
        replace_file(self._failed(cell), [one_line(reason).encode() + b"\n"], by_many=True)

    def forget_failure(self, cell: Cell) -> None:
        self._failed(cell).unlink(missing_ok=True)

    def _failed(self, cell: Cell) -> Path:
        return self.dir / FAILED / f"{cell.name}.txt"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Wait for the other processes of the comparison, and keep them waiting."""
        with as_store_error(self.dir, "lock"), open(self.dir / "lock", "ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        self.put_text(name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def put_text(self, name: str, text: str) -> None:
        self.put_bytes(name, text.encode())

    def put_bytes(self, name: str, content: bytes) -> None:
        replace_file(self.dir / name, [content], by_many=True)

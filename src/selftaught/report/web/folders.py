"""The folders that a page is of: those of runs, and those of comparisons, which hold one for each row and seed.

A comparison is read by its files, as docs/compare.md has them: what was asked for says which runs belong to it, and
compare.json has its figures, which are shown as they stand there.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.config.public import public_values
from selftaught.records.errors import ConfigError, StoreError
from selftaught.runs.lines import read_json

ASKED, TABLE = "comparison.json", "compare.json"
FORMAT = 1
"""Of both files."""
ROW_HAS = {"row", "meaning", "own_settings", "seeds", "selected", "last", "against", "last_against", "against_base"}
"""Some of the figures of a row, without which it is none."""
CELL = re.compile(r"([\w-]+):(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A row of a comparison with one seed."""

    row: str
    seed: int
    run_dir: Path

    @property
    def has_begun(self) -> bool:
        return (self.run_dir / "run.json").is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a page is of, when it was looked at."""

    runs: Mapping[str, Path]
    """The run folders by the name that the page gives them."""
    comparisons: Mapping[Path, Sequence[Cell]]
    """All cells that were asked for, by the comparison's folder."""

    @property
    def tables(self) -> list[Path]:
        """The files of comparisons."""
        return [folder / name for folder in self.comparisons for name in (ASKED, TABLE) if (folder / name).exists()]


def look_at(folders: Sequence[Path]) -> Given:
    """The runs of the folders that are given, of a comparison those that have begun.

    A run's name is the last part of its path, or as many parts as tell it from the others. Raises ConfigError for a run
    that is given twice, and StoreError for a comparison that is damaged or none of whose runs has begun.
    """
    comparisons = {folder: cells_of(folder) for folder in folders if is_comparison(folder)}
    run_dirs: list[Path] = []
    for folder in folders:
        cells = comparisons.get(folder)
        if cells is not None and not any(cell.has_begun for cell in cells):
            raise StoreError(f"{folder} is a comparison, and none of its runs has begun; look again when one has")
        run_dirs += [folder] if cells is None else [cell.run_dir for cell in cells]
    waiting = {cell.run_dir for cells in comparisons.values() for cell in cells if not cell.has_begun}
    return Given(
        runs={name: run_dir for name, run_dir in named(run_dirs).items() if run_dir not in waiting},
        comparisons=comparisons,
    )


def is_comparison(folder: Path) -> bool:
    return (folder / ASKED).is_file()


def cells_of(folder: Path) -> list[Cell]:
    """Raises StoreError for a comparison.json that is damaged or of another version."""
    path = folder / ASKED
    asked = read_json(path)
    cells = asked.get("cells")
    found = [CELL.fullmatch(str(text)) for text in cells] if isinstance(cells, list) else [None]
    if asked.get("format") != FORMAT or None in found:
        raise StoreError(f"{path} is damaged or of another version; restore the file, or give the folders of its runs")
    return [
        Cell(row=one[1], seed=int(one[2]), run_dir=folder / f"{one[1]}-seed{one[2]}")
        for one in found
        if one is not None
    ]


def named(run_dirs: Sequence[Path]) -> dict[str, Path]:
    """Raises ConfigError for a run that is given twice."""
    paths = [run_dir.resolve() for run_dir in run_dirs]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            first = run_dirs[paths.index(path)]
            raise ConfigError(f"{first} and {run_dirs[i]} are one run; give each run once")
    names = ["/".join(path.parts[-1:]) for path in paths]
    parts = 1
    while len(set(names)) < len(names):
        parts += 1
        names = [
            name if names.count(name) == 1 else "/".join(p.parts[-parts:]) for name, p in zip(names, paths, strict=True)
        ]
    return dict(zip(names, run_dirs, strict=True))


def comparison_values(given: Given) -> list[dict[str, Any]]:
    """The comparisons as the page shows them: figures, and which run is which cell.

    `missing` are the cells that the table lacks, since it is written when the command ends or is stopped. Raises
    StoreError for a compare.json that is damaged or of another version.
    """
    names = {run_dir: name for name, run_dir in given.runs.items()}
    comparisons = []
    for folder, cells in given.comparisons.items():
        table = _table(folder)
        in_table = {(row["row"], seed) for row in table["rows"] for seed in row["seeds"]}
        comparisons.append(
            {
                "name": folder.resolve().name,
                "cells": [{"row": c.row, "seed": c.seed, "run": names.get(c.run_dir)} for c in cells],
                "missing": [
                    {
                        "row": cell.row,
                        "seed": cell.seed,
                        "failed": (folder / "failed" / f"{cell.run_dir.name}.txt").exists(),
                        "run": names.get(cell.run_dir),
                    }
                    for cell in cells
                    if (cell.row, cell.seed) not in in_table
                ],
                **table,
            }
        )
    return comparisons


def _table(folder: Path) -> dict[str, Any]:
    """The content of compare.json, without what only this machine is concerned with."""
    path = folder / TABLE
    if not path.exists():
        return {"rows": [], "against": "", "notes": []}
    content = read_json(path)
    rows = content.get("rows")
    notes = content.get("notes", [])  # an older start wrote none
    is_whole = isinstance(rows, list) and all(isinstance(row, dict) and row.keys() >= ROW_HAS for row in rows)
    if content.get("format") != FORMAT or not is_whole or not isinstance(notes, list):
        raise StoreError(
            f"{path} is damaged or of another version; the command that began the comparison writes it anew"
        )
    figures = ("task", "model", "at", "planned_steps", "against", "problems", "train", "sharing")
    return {
        **{name: content.get(name) for name in figures},
        "notes": [str(note) for note in notes],
        "rows": [{**row, "own_settings": public_values(row["own_settings"])} for row in content["rows"]],
    }

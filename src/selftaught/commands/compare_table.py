"""Make the table of a comparison from the cells that are there, and write it in every form."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selftaught.comparison.cells import Result, read_cell
from selftaught.comparison.folder import ComparisonFolder
from selftaught.comparison.plan import Cell
from selftaught.comparison.plots import SHOWN, write_plots
from selftaught.comparison.results import Table, table_of
from selftaught.comparison.texts import About, cautions, latex, markdown
from selftaught.records.errors import Interrupted, SelftaughtError
from selftaught.runs.shared_chunks import saving_of
from selftaught.tasks.outside import short_name

JSON, MARKDOWN, LATEX = "compare.json", "compare.md", "compare.tex"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    table: Table
    about: About
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What the folder of a comparison holds."""

    results: tuple[Result, ...]
    """Of the finished cells."""
    own: Mapping[str, Mapping[str, object]]
    """By row, what the user has set for it alone."""
    about: About


def read_finished(folder: ComparisonFolder) -> Finished:
    """Raises StoreError for a folder that holds no comparison, and for a damaged run folder."""
    asked = folder.asked()
    cells = folder.cells()
    results = [result for cell in cells if (result := read_cell(cell, folder.run_dir(cell))) is not None]
    return Finished(results=tuple(results), own=asked["rows"], about=_about(folder, asked, cells, results))


def write_table(folder: ComparisonFolder, *, against: str) -> Written:
    """Read every finished cell, and write compare.json, compare.md, compare.tex and the plots.

    Under the folder's lock: of several processes that end together, the last one writes what all have finished.
    Raises StoreError for a damaged run folder, and for cells that cannot be compared.
    """
    with folder.locked():
        finished = read_finished(folder)
        about, table = finished.about, table_of(finished.results, against=against, own=finished.own)
        folder.write_json(JSON, as_json(table, about))
        folder.put_text(MARKDOWN, markdown(table, about, plots=SHOWN))
        folder.put_text(LATEX, latex(table, about))
        write_plots(finished.results, folder.put_bytes)  # last, as they take longest
    return Written(table=table, about=about, folder=folder.dir)


@contextlib.contextmanager
def table_if_stopped(folder: ComparisonFolder, *, against: str, note: Callable[[str], None]) -> Iterator[None]:
    """Where Ctrl-C, a scheduler or a time limit stops what is done here, write the table of the finished cells.

    A table that cannot be written is told to `note`: how the comparison was stopped is what has to be raised.
    """
    try:
        yield
    except Interrupted:
        try:
            write_table(folder, against=against)
        except SelftaughtError as error:
            note(f"no table of the finished cells: {error}")
        raise


def as_json(table: Table, about: About) -> dict[str, Any]:
    """The content of compare.json (docs/compare.md): the table's records, rates from 0 to 1, and what must be known
    with them."""
    return {
        "format": 1,
        "task": about.task,
        "model": about.model,
        "at": about.at,
        "planned_steps": about.steps,
        **asdict(table),
        "notes": cautions(table, about),
        "missing": [
            {"row": cell.row, "seed": cell.seed, "failed": reason or None} for cell, reason in about.missing.items()
        ],
        "sharing": {
            "generated": about.generated,
            "shared": about.saving.used,
            "saved": about.saving.saved,
            "saved_share": about.saved_share,
        },
    }


def _about(
    folder: ComparisonFolder, asked: Mapping[str, Any], cells: Sequence[Cell], results: Sequence[Result]
) -> About:
    finished = {result.cell for result in results}
    return About(
        task=short_name(asked["config"]["task.name"]),
        model=Path(asked["config"]["model.path"]).name,
        at=asked["config"]["at"],
        steps=asked["steps"],
        batch_size=asked["config"]["training.batch_size"],
        missing={cell: folder.failure(cell) for cell in cells if cell not in finished},
        saving=saving_of(folder.shared, [cell.name for cell in cells if cell in finished]),
        generated=sum(result.work.generated for result in results),
    )

"""`selftaught.compare`: what the command does, called from Python."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.commands import compare as comparing
from selftaught.commands.compare_table import table_if_stopped, write_table
from selftaught.commands.library import checked_task, config_of, terminal_of
from selftaught.commands.run import FromPython
from selftaught.commands.stored_run import task_of
from selftaught.comparison.folder import ComparisonFolder
from selftaught.comparison.plan import At, check_row, parsed_rows, parsed_seeds
from selftaught.comparison.results import DEFAULT_AGAINST, RowResult
from selftaught.comparison.texts import cautions
from selftaught.config.loading import flatten
from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine
from selftaught.machine.paths import given_path
from selftaught.machine.quiet import quieten_libraries
from selftaught.machine.time_limit import time_limit as limit_of
from selftaught.records.errors import ConfigError, one_line
from selftaught.records.problems import Task
from selftaught.records.samples import ModelRef
from selftaught.training.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The table of a comparison: of all cells that its folder has, also from before."""

    folder: Path
    """With compare.md, compare.json, compare.tex and the plots."""
    rows: Mapping[str, RowResult]
    """By name, in the order of the table; rates from 0 to 1."""
    notes: tuple[str, ...]
    """What must be known with the rows, in sentences, such as which of them differ in tokens with loss."""
    failed: Mapping[str, str]
    """`ROW:SEED` of this call -> why it failed; the next call tries it again."""


def compare(
    config: str | os.PathLike[str] | Mapping[str, Any],
    *,
    rows: Sequence[str] | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    at: At = "equal-steps",
    against: str = DEFAULT_AGAINST,
    settings: Mapping[str, Any] | None = None,
    row_settings: Mapping[str, Mapping[str, Any]] | None = None,
    task: Task | None = None,
    folder: str | os.PathLike[str] | None = None,
    engine: Callable[[ModelRef], Engine] | None = None,
    trainer: Callable[[], Trainer] | None = None,
    progress: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    time_limit: str | float | None = None,
) -> Comparison:
    """Run rows with seeds side by side, or carry on the comparison that `folder` holds, as `selftaught compare` does.

    `rows` are names of `selftaught compare --list`, by default all that the task can have; `settings` are for all of
    them, `row_settings` for single ones by name. `folder` is runs/TASK-compare by default. The other arguments are
    those of `run`.

    Raises SelftaughtError for whatever the command refuses, and Interrupted or Suspended as `run` does. A row that
    fails does not stop the others; it is in `failed`.
    """
    suspended_by = limit_of(time_limit, "time_limit")
    quieten_libraries()
    checked = None if task is None else checked_task(task)
    if at not in ("equal-steps", "paper"):
        raise ConfigError(f"at is {at!r}, expected equal-steps or paper")
    asked = comparing.Asked(
        rows=None if rows is None else parsed_rows(",".join(rows), "rows"),
        seeds=parsed_seeds(",".join(map(str, seeds)), "seeds"),
        at=at,
        of_all=flatten(settings or {}, "settings"),
        of_rows={
            check_row(row, "row_settings"): flatten(own, f"row_settings[{row!r}]")
            for row, own in (row_settings or {}).items()
        },
    )
    reference = check_row(against, "against")

    def load(over: Mapping[str, Any]) -> RunConfig:
        return config_of(config, dict(over), task)

    base = comparing.base_config(load, asked)
    planned = comparing.plan(load, asked, base, task_of(base) if checked is None else checked)
    for line in planned.left_out if progress else ():
        _to_stderr(line)
    place = ComparisonFolder(comparing.default_dir(base) if folder is None else given_path(os.fspath(folder), "folder"))
    with table_if_stopped(place, against=reference, note=_to_stderr):
        failed = comparing.compare(
            place,
            load,
            asked,
            base,
            planned,
            note=_to_stderr if progress else lambda line: None,
            listeners=lambda one: terminal_of(one) if progress else [],
            should_stop=should_stop,
            suspended_by=suspended_by,
            given=FromPython(task=checked, engine=engine, trainer=trainer),
        )
    written = write_table(place, against=reference)
    return Comparison(
        folder=place.dir,
        rows={row.row: row for row in written.table.rows},
        notes=tuple(cautions(written.table, written.about)),
        failed={str(cell): one_line(reason) for cell, reason in failed.items()},
    )


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)

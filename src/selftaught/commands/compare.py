"""Run the rows of a comparison with every seed, one run folder each, and make a table of those that are there."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from selftaught.commands.run import NOTHING, FromPython, fixed_settings, launch, with_absolute_paths
from selftaught.commands.setting_check import check_settings
from selftaught.commands.stored_run import config_of_run, fitted
from selftaught.comparison.folder import ComparisonFolder
from selftaught.comparison.plan import (
    At,
    Cell,
    cell_settings,
    check_given,
    is_another_row,
    iterations_of,
    lacks_solutions,
    planned_steps,
)
from selftaught.comparison.rows import ROWS
from selftaught.config.chat import resolve_chat
from selftaught.config.loading import differences
from selftaught.config.resolving import resolve
from selftaught.config.settings import RunConfig
from selftaught.models.weights import resolve_model
from selftaught.records.errors import ConfigError, Interrupted, SelftaughtError, StoreError, Suspended
from selftaught.records.events import Listener
from selftaught.records.problems import Task
from selftaught.records.sections import Value
from selftaught.runs.reading import read_result
from selftaught.tasks.outside import short_name

OUR_MISTAKE = "a mistake of this program, please report it"
"""How the reason of a cell begins that no user can mend."""

SEEDS = (1, 2, 3)
"""Where none are given."""

Load = Callable[[Mapping[str, Value]], RunConfig]
"""The config with settings on top, which win over it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a comparison is asked for."""

    rows: tuple[str, ...] | None = None
    """None is every row that the task can have."""
    seeds: tuple[int, ...] = SEEDS
    at: At = "equal-steps"
    only: Cell | None = None
    """The one cell to run; `rows` and `seeds` have no part in it."""
    of_all: Mapping[str, Value] = field(default_factory=dict)
    """Settings of all rows, over the config."""
    of_rows: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    """Settings of single rows, over everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    cells: Mapping[Cell, RunConfig]
    steps: int
    """Optimizer steps from the base model to the last model of a row, as planned."""
    common: Mapping[str, Value]
    """The settings that all rows have in common."""
    left_out: tuple[str, ...]
    """Why rows that nobody asked for by name are left out, a line each."""


def default_dir(config: RunConfig) -> Path:
    return Path("runs") / f"{short_name(config.task.name)}-compare"


def base_config(load: Load, asked: Asked) -> RunConfig:
    """The config as all rows have it. Raises ConfigError for settings that are not given for all rows."""
    check_given(asked.of_all, at=asked.at)
    base = load({**asked.of_all, "method": "star"})
    if base.loop.max_iterations < 1:
        raise ConfigError("loop.max_iterations = 0 trains nothing, and a comparison needs iterations; raise it")
    return base


def plan(load: Load, asked: Asked, base: RunConfig, task: Task) -> Planned:
    """The config of every cell. Raises ConfigError for a row that was asked for and that the task cannot have."""
    for row, own in asked.of_rows.items():
        check_given(own, at=asked.at, row=row)
    wanted = (asked.only.row,) if asked.only else asked.rows or tuple(ROWS)
    seeds = (asked.only.seed,) if asked.only else asked.seeds
    if idle := asked.of_rows.keys() - set(wanted if asked.only is None else ROWS):
        raise ConfigError(f"--set {sorted(idle)[0]}:…: that row is not asked for; leave it out, or add it to --rows")
    cells: dict[Cell, RunConfig] = {}
    left_out: list[str] = []
    for row in wanted:
        try:
            cells |= {Cell(row, seed): config_of(Cell(row, seed), load, asked, base) for seed in seeds}
            first = cells[Cell(row, seeds[0])]
            # What no setting can give a row comes before the settings that all rows have.
            if reason := lacks_solutions(first, task):
                raise ConfigError(reason)
            check_settings(first, fitted(first, task))
            if reason := is_another_row(first, task):
                raise ConfigError(reason)
        except ConfigError as error:
            if asked.rows is not None or asked.only is not None:
                raise ConfigError(f"row {row!r}: {error}") from error
            cells = {cell: config for cell, config in cells.items() if cell.row != row}
            left_out.append(f"row {row!r} is left out: {error}")
    if not cells:
        raise ConfigError(f"the task can have none of the rows; {left_out[0]}")
    common = {
        key: value
        for key, value in fixed_settings(with_absolute_paths(base)).items()
        if key not in {"method", "seed", "loop.patience"}
    }
    return Planned(cells=cells, steps=planned_steps(base, asked.at), common=common, left_out=tuple(left_out))


def config_of(cell: Cell, load: Load, asked: Asked, base: RunConfig) -> RunConfig:
    """What a cell is run with: the config, what is given for all rows, what the row decides, what is given for it."""
    own, row = asked.of_rows.get(cell.row, {}), ROWS[cell.row]
    of_all = {key: value for key, value in asked.of_all.items() if key not in row.fixed}

    def at_start(continues: bool) -> RunConfig:
        return load({**of_all, **cell_settings(cell, base, at=asked.at, of_row=own, continues=continues)})

    config = at_start(False)
    continues = config.training.start_from == "previous" and iterations_of(row, base) > 1
    return at_start(True) if continues else config


def decided_here(base: RunConfig) -> dict[str, Value]:
    """The settings of the engine that this machine decides by its free memory.

    They decide which completions are generated together, and so the last bits: cells that had each its own could share
    nothing. So the first start decides them for all cells.
    """
    model = resolve_model(base.model.path)
    resolved = resolve(base, model, resolve_chat(base.model, Path(model.path)))
    return {
        f"engine.{key}": value
        for key, value in resolved.engine.model_dump().items()
        if getattr(base.engine, key) == "auto" and isinstance(value, int)
    }


def compare(
    folder: ComparisonFolder,
    load: Load,
    asked: Asked,
    base: RunConfig,
    planned: Planned,
    *,
    note: Callable[[str], None],
    listeners: Callable[[RunConfig], Sequence[Listener]] = lambda config: (),
    should_stop: Callable[[], bool] = lambda: False,
    suspended_by: Callable[[], str] = lambda: "",
    given: FromPython = NOTHING,
    finished: Callable[[Path], None] = lambda run_dir: None,
) -> dict[Cell, str]:
    """Run what has not finished, the first seed of every row before the second of any. Returns why cells failed.

    `finished` is told the run folder of every cell that has finished, now or before. A cell that fails is noted in the
    folder, and the others go on. Raises Interrupted if the user, a scheduler or a time limit stops the cell in hand.
    """
    cells = sorted(planned.cells, key=lambda cell: (*asked.seeds, cell.seed).index(cell.seed))
    machine = folder.begin(
        asked.at,
        planned.steps,
        planned.common,
        list(planned.cells),
        {cell.row: asked.of_rows.get(cell.row, {}) for cell in cells},
        decide=lambda: decided_here(base),
    )
    here = replace(asked, of_all={**machine, **asked.of_all})
    failed: dict[Cell, str] = {}
    for number, cell in enumerate(cells, start=1):
        config = config_of(cell, load, here, base)
        try:
            if is_finished(config, folder.run_dir(cell)):
                folder.forget_failure(cell)
                finished(folder.run_dir(cell))
                continue
            note(f"{cell.row}, seed {cell.seed} ({number} of {len(cells)}): {ROWS[cell.row].explanation}")
            launch(
                config,
                folder.run_dir(cell),
                listeners=listeners(config),
                should_stop=should_stop,
                suspended_by=suspended_by,
                given=given,
                shared=folder.shared,
            )
            folder.forget_failure(cell)
            finished(folder.run_dir(cell))
        except Interrupted as error:
            raise type(error)(_stopped(error, folder, cells)) from error
        except Exception as error:
            if by := suspended_by():  # a process of the run was signalled, too
                raise Suspended(_stopped(Suspended(f"stopped by {by}"), folder, cells)) from error
            reason = str(error)
            if not isinstance(error, SelftaughtError):  # a mistake of ours, which must not cost the other rows
                traceback.print_exc()
                reason = f"{OUR_MISTAKE}: {type(error).__name__}: {error}"
            folder.note_failure(cell, reason)
            note(f"{cell} failed: {reason}")
            failed[cell] = reason
    return failed


def is_finished(config: RunConfig, run_dir: Path) -> bool:
    """Whether a run folder has its result. Raises StoreError if it is that of another config."""
    if read_result(run_dir) is None:
        return False
    if changed := differences(fixed_settings(config_of_run(run_dir)), fixed_settings(with_absolute_paths(config))):
        raise StoreError(f"{run_dir} was run with {'; '.join(changed)}; use another --dir")
    return True


def _stopped(error: Interrupted, folder: ComparisonFolder, cells: Sequence[Cell]) -> str:
    how = str(error).partition(";")[0]
    finished = sum(read_result(folder.run_dir(cell)) is not None for cell in cells)
    return (
        f"{how}; {finished} of {len(cells)} cells are finished, what is finished of the others is saved. Carry on with "
        "the same command"
    )

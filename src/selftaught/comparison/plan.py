"""The settings of each cell of a comparison: one row with one seed. Pure.

Every row is the config with the row's settings on top, and with what makes rows comparable: nobody stops early, and the
last iteration is measured on test beside the one that is best on dev.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from selftaught.comparison.rows import ROWS, Row
from selftaught.config.loading import suggestion
from selftaught.config.settings import RunConfig
from selftaught.methods.plan import scheduled_steps
from selftaught.methods.table import STAR
from selftaught.records.errors import ConfigError
from selftaught.records.problems import Task
from selftaught.records.sections import Value

At = Literal["equal-steps", "paper"]

T = TypeVar("T")

BY_THE_COMMAND = ("method", "seed", "loop.patience", "loop.test_last")
"""The settings that the command decides, whatever the config says."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A row with one seed: one run."""

    row: str
    seed: int

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f"{self.row}-seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.row}:{self.seed}"


def cell_of(folder: str) -> Cell | None:
    """The cell whose run folder has this name; None for any other name."""
    row, mark, seed = folder.rpartition("-seed")
    return Cell(row, int(seed)) if mark and row in ROWS and seed.isdecimal() and str(int(seed)) == seed else None


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Each once, in the order of the rows of the table, then by seed."""
    rows = list(ROWS)
    return sorted(set(cells), key=lambda cell: (rows.index(cell.row), cell.seed))


def parsed_rows(text: str, where: str = "--rows") -> tuple[str, ...]:
    """Rows by name, divided by commas. Raises ConfigError for one that there is not, and for one given twice."""
    return _each_once(tuple(check_row(name.strip(), where) for name in text.split(",")), where)


def parsed_seeds(text: str, where: str = "--seeds") -> tuple[int, ...]:
    """Seeds, divided by commas. Raises ConfigError for what is no whole number from 0 on, and for one given twice."""
    return _each_once(tuple(_seed(part, where) for part in text.split(",")), where)


def parsed_cell(text: str) -> Cell:
    """`ROW:SEED`. Raises ConfigError for any other form, and for a row that there is not."""
    row, colon, seed = text.partition(":")
    if not colon:
        raise ConfigError(f"--only is {text!r}, expected ROW:SEED, such as star:1")
    return Cell(check_row(row.strip(), "--only"), _seed(seed, "--only"))


def check_only(only: Cell, rows: Sequence[str] | None, seeds: Sequence[int] | None) -> None:
    """Raise ConfigError for a cell that is not among the rows and seeds that are given beside it; None is any."""
    for option, value, given in (("--rows", only.row, rows), ("--seeds", only.seed, seeds)):
        if given is not None and value not in given:
            raise ConfigError(f"--only {only}: {value} is not among {option}; add it there, or leave {option} out")


def check_row(name: str, where: str) -> str:
    if name not in ROWS:
        raise ConfigError(f"{where}: unknown row {name!r}{suggestion(name, ROWS)}; `selftaught compare --list` has all")
    return name


def check_given(given: Mapping[str, Value], *, at: At, row: str = "") -> None:
    """Raise ConfigError for settings that are given for all rows, or for one, and that the command decides, or given
    for all and each row, or the schedule, decides."""
    for key in given:
        where = f"--set {row}:{key}" if row else f"--set {key}"
        if key == "seed":
            raise ConfigError(f"{where}: the seeds are those of --seeds")
        if key in BY_THE_COMMAND:
            raise ConfigError(f"{where}: the command decides it for every row; leave it out")
        if key == "training.max_epochs" and at == "equal-steps" and not row:
            raise ConfigError(
                f"{where}: at equal steps nothing caps the passes, for a row with few samples has as many steps as the "
                f"others; give it to one row, as --set ROW:{key}=…, or use --at paper"
            )
        if key in STAR and not row:
            raise ConfigError(f"--set {key}: each row has its own; give it to one row, as --set ROW:{key}=…")


def cell_settings(
    cell: Cell, base: RunConfig, *, at: At, of_row: Mapping[str, Value], continues: bool
) -> dict[str, Value]:
    """What a cell sets over the config; `base` is the config as the method `star` has it, `of_row` what the user gives
    this row alone, and `continues` says whether the row trains on from the model before."""
    row = ROWS[cell.row]
    number = iterations_of(row, base)
    values: dict[str, Value] = {
        "method": row.method,
        "seed": cell.seed,
        **row.settings,
        "loop.max_iterations": number,
        "loop.patience": max(1, number),
        "loop.test_last": True,
        **_steps(row, base, at=at, continues=continues),
    }
    return {**values, **of_row}


def iterations_of(row: Row, base: RunConfig) -> int:
    return base.loop.max_iterations if row.iterations is None else row.iterations


def planned_steps(base: RunConfig, at: At) -> int:
    """Optimizer steps that lead from the base model to the last model of a row.

    At equal steps these are the steps of the config's last iteration, rounded up so that every iteration of a row that
    trains on gets the same share of them.
    """
    last = scheduled_steps(base.loop.max_iterations, base.training)
    number = base.loop.max_iterations
    return -(-last // number) * number if at == "equal-steps" else last


def _steps(row: Row, base: RunConfig, *, at: At, continues: bool) -> dict[str, Value]:
    steps = planned_steps(base, at)
    if at == "equal-steps":
        of_each = steps // base.loop.max_iterations if continues else steps
        # The most that the setting takes: the cap would give fewer steps to a row that keeps few samples.
        return {
            "training.steps_first_iteration": of_each,
            "training.steps_growth": 1.0,
            "training.max_epochs": 1000.0,
        }
    # A row of one training has that of the config's last iteration, which the others have come to by then.
    return {"training.steps_first_iteration": steps} if row.iterations == 1 else {}


def lacks_solutions(config: RunConfig, task: Task) -> str:
    """Why a task cannot have a row that needs human solutions; empty if it can."""
    needs = config.training.human_solutions or config.training.sft_first
    if needs and not any(problem.rationale for problem in task.train):
        return f"it needs human solutions, and task {task.name!r} has none in train; leave the row out"
    return ""


def is_another_row(config: RunConfig, task: Task) -> str:
    """Why a row would be another one under its name; empty if it would not."""
    examples = task.few_shot[: config.sampling.num_shots]
    if config.method == "direct" and not config.loop.max_iterations and not any(p.rationale for p in examples):
        return (
            f"its prompts are those of few-shot-cot, for none of the {len(examples)} few-shot examples in them has a "
            "rationale; raise sampling.num_shots if the task has more, or leave the row out"
        )
    return ""


def _seed(text: str, where: str) -> int:
    if not text.strip().isdecimal():
        raise ConfigError(f"{where}: {text.strip()!r} is no seed, expected a whole number from 0 on, such as 1")
    return int(text)


def _each_once(values: tuple[T, ...], where: str) -> tuple[T, ...]:
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise ConfigError(f"{where}: {twice} is given twice; give each once")
    return values

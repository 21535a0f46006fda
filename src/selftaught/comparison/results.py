"""The table of a comparison as records: finished cells in, rows with their statistics out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from selftaught.comparison.cells import OnTest, Result
from selftaught.comparison.rows import ROWS
from selftaught.comparison.statistics import (
    Difference,
    Discordant,
    holm,
    interval_over_problems,
    mcnemar,
    paired_difference,
)
from selftaught.methods.metrics import wilson_interval
from selftaught.records.errors import StoreError

DEFAULT_AGAINST = "star"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Of a row on test, over its seeds."""

    by_seed: tuple[float, ...]
    mean: float
    sd: float | None
    """Over seeds, of a sample (n - 1); None for a single seed."""
    interval: tuple[float, float]
    """95 %, over problems: Wilson's for a single seed, and where all seeds solve every problem or none; else the
    bootstrap of each problem's mean over seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """A row compared with another, on the seeds that both have."""

    seeds: tuple[int, ...]
    by_seed: tuple[Discordant, ...]
    difference: Difference
    p_holm: float
    """`difference.p`, adjusted for the number of rows that are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """pass@k on dev at one temperature, of the base model and of the row's result; means over seeds."""

    k: int
    n: int
    """Dev problems."""
    temperature: float
    base: float
    result: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """A row with the seeds that have finished; numbers of one run are means over its seeds."""

    row: str
    meaning: str
    own_settings: Mapping[str, object]
    """What the user has set for this row alone."""
    seeds: tuple[int, ...]
    selected_iterations: tuple[int, ...]
    last_iterations: tuple[int, ...]
    selected: Accuracy
    """Of the model that is best on dev."""
    last: Accuracy
    """Of the last iteration's model, whatever it is like on dev."""
    against: Against | None
    """Of the selected models; None for the row that the others are compared with, and without common seeds."""
    last_against: Against | None
    against_base: tuple[Discordant, ...]
    """By seed, the selected model and the base model."""
    last_against_base: tuple[Discordant, ...]
    unhinted: float
    hinted: float
    """Shares of the training problems that the selected model was trained on, as in `OnTest`."""
    last_unhinted: float
    last_hinted: float
    correct: int
    false_positive: int | None
    """Of the selected models on test, over all seeds: correct answers, and those of them with wrong reasoning."""
    last_correct: int
    last_false_positive: int | None
    steps: float
    loss_tokens: float | None
    """Between the base model and the selected one."""
    last_steps: float
    last_loss_tokens: float | None
    all_steps: float
    generated: float
    trained: float
    flops: float | None
    hours: float
    num_shots: int
    passes: Pass | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    against: str
    """The row that the others are compared with; empty if it has no finished cell."""
    problems: int
    """Of test."""
    train: int
    """Training problems that there are."""
    rows: tuple[RowResult, ...]


def table_of(
    results: Sequence[Result], *, against: str = DEFAULT_AGAINST, own: Mapping[str, Mapping[str, object]] | None = None
) -> Table:
    """The rows of finished cells, in the order of the table of rows; `own` is what the user has set for single rows.

    Raises StoreError for cells that were not measured on the same problems with the same base model.
    """
    _check_alike(results)
    by_row: dict[str, dict[int, Result]] = {}
    for result in sorted(results, key=lambda r: (list(ROWS).index(r.cell.row), r.cell.seed)):
        by_row.setdefault(result.cell.row, {})[result.cell.seed] = result
    reference = by_row.get(against, {})
    compared = {
        which: _compared({row: _tested(cells, which) for row, cells in by_row.items()}, against)
        for which in ("selected", "last")
    }
    return Table(
        against=against if reference else "",
        problems=len(results[0].problems) if results else 0,
        train=results[0].train if results else 0,
        rows=tuple(
            _row(
                row,
                list(cells.values()),
                compared["selected"].get(row),
                compared["last"].get(row),
                (own or {}).get(row, {}),
            )
            for row, cells in by_row.items()
        ),
    )


def _tested(cells: Mapping[int, Result], which: str) -> dict[int, OnTest]:
    return {seed: result.selected if which == "selected" else result.last for seed, result in cells.items()}


def _compared(rows: Mapping[str, Mapping[int, OnTest]], against: str) -> dict[str, Against]:
    """Every other row compared with one, as far as they have seeds in common."""
    reference = rows.get(against, {})
    common = {
        row: seeds
        for row, cells in rows.items()
        if row != against and (seeds := tuple(seed for seed in cells if seed in reference))
    }
    differences = {
        row: paired_difference(
            [rows[row][seed].solved for seed in seeds],
            [reference[seed].solved for seed in seeds],
            tests=len(common),
        )
        for row, seeds in common.items()
    }
    adjusted = dict(zip(common, holm([differences[row].p for row in common]), strict=True))
    return {
        row: Against(
            seeds=seeds,
            by_seed=tuple(mcnemar(rows[row][seed].solved, reference[seed].solved) for seed in seeds),
            difference=differences[row],
            p_holm=adjusted[row],
        )
        for row, seeds in common.items()
    }


def _row(
    row: str, cells: Sequence[Result], against: Against | None, last_against: Against | None, own: Mapping[str, object]
) -> RowResult:
    selected, last = [r.selected for r in cells], [r.last for r in cells]
    return RowResult(
        row=row,
        meaning=ROWS[row].meaning,
        own_settings=own,
        seeds=tuple(r.cell.seed for r in cells),
        selected_iterations=tuple(t.iteration for t in selected),
        last_iterations=tuple(t.iteration for t in last),
        selected=accuracy_of(selected),
        last=accuracy_of(last),
        against=against,
        last_against=last_against,
        against_base=tuple(mcnemar(r.selected.solved, r.base.solved) for r in cells),
        last_against_base=tuple(mcnemar(r.last.solved, r.base.solved) for r in cells),
        unhinted=mean(r.selected.unhinted / r.train for r in cells),
        hinted=mean(r.selected.hinted / r.train for r in cells),
        last_unhinted=mean(r.last.unhinted / r.train for r in cells),
        last_hinted=mean(r.last.hinted / r.train for r in cells),
        correct=sum(t.measurement.correct for t in selected),
        false_positive=_false_positive(selected),
        last_correct=sum(t.measurement.correct for t in last),
        last_false_positive=_false_positive(last),
        steps=mean(t.steps for t in selected),
        loss_tokens=_mean([t.loss_tokens for t in selected]),
        last_steps=mean(t.steps for t in last),
        last_loss_tokens=_mean([t.loss_tokens for t in last]),
        all_steps=mean(r.work.steps for r in cells),
        generated=mean(r.work.generated for r in cells),
        trained=mean(r.work.trained for r in cells),
        flops=_mean([r.work.flops for r in cells]),
        hours=mean(r.work.seconds / 3600 for r in cells),
        num_shots=cells[0].base.measurement.num_shots,
        passes=_passes(cells),
    )


def _false_positive(tested: Sequence[OnTest]) -> int | None:
    """Of all seeds together; None without a step check."""
    found = [t.measurement.false_positive for t in tested]
    return None if None in found else sum(f for f in found if f is not None)


def accuracy_of(tested: Sequence[OnTest]) -> Accuracy:
    """Of the same kind of model with several seeds, at least one."""
    rates = tuple(t.measurement.accuracy for t in tested)
    of_problem = [mean(map(float, seeds)) for seeds in zip(*(t.solved for t in tested), strict=True)]
    if len(tested) == 1 or set(of_problem) in ({0.0}, {1.0}):  # of which the bootstrap would have no width
        interval = wilson_interval(tested[0].measurement.correct, tested[0].measurement.n)
    else:
        interval = interval_over_problems(of_problem)
    return Accuracy(by_seed=rates, mean=mean(rates), sd=stdev(rates) if len(rates) > 1 else None, interval=interval)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def _passes(cells: Sequence[Result]) -> Pass | None:
    """At the largest k that all seeds have, of base model and selected model; None if one of them has none."""
    pairs = [(r.passes.get(0), r.passes.get(r.selected.iteration)) for r in cells]
    measured = [m for pair in pairs for m in pair if m is not None]
    common = set.intersection(*(set(m.pass_at_k) for m in measured)) if len(measured) == 2 * len(pairs) else set()
    if not common or len({(m.temperature, m.n) for m in measured}) > 1:
        return None
    k = max(common, key=int)
    base, result = (mean(pair[i].pass_at_k[k] for pair in pairs if pair[i]) for i in (0, 1))  # type: ignore[union-attr]
    return Pass(k=int(k), n=measured[0].n, temperature=measured[0].temperature, base=base, result=result)


def _check_alike(results: Sequence[Result]) -> None:
    for result in results[1:]:
        for what, there, here in (
            ("test problems", results[0].problems, result.problems),
            ("data", results[0].data_sha256, result.data_sha256),
            ("base weights", results[0].base_sha256, result.base_sha256),
        ):
            if there != here:
                raise StoreError(
                    f"cells {results[0].cell} and {result.cell} were run with other {what} and cannot be compared; "
                    "delete the folder of one and run it again"
                )

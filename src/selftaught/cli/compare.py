"""The command `selftaught compare`, which app.py lists with the others."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selftaught.cli.output import note, width_of
from selftaught.cli.run import stop_signals
from selftaught.machine.paths import given_name, given_path
from selftaught.machine.time_limit import time_limit
from selftaught.records.errors import ConfigError, RefusedError, one_line

if TYPE_CHECKING:
    from selftaught.commands.compare import Asked
    from selftaught.commands.compare_table import Written
    from selftaught.config.settings import RunConfig


def compare_command(
    target: Annotated[
        str | None, typer.Argument(help="A task with a shipped config, or a TOML file.", metavar="TASK_OR_CONFIG")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Rows, divided by commas; default: all that the task can have.", metavar="ROW,…")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Run seeds, divided by commas; default: 1,2,3.", metavar="SEED,…")
    ] = None,
    at: Annotated[
        str,
        typer.Option(
            help="equal-steps: as many optimizer steps from the base model to each model; paper: each row its own "
            "schedule."
        ),
    ] = "equal-steps",
    only: Annotated[
        str | None,
        typer.Option(help="Run this one cell: for an array job on a shared folder.", metavar="ROW:SEED"),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="The row that the others are compared with; default: star.", metavar="ROW")
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option(
            "--dir",
            help="The comparison's folder; default runs/TASK-compare. One of the same config is carried on.",
            metavar="DIR",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="section.key=value over the config for all rows, or ROW:section.key=value for one; repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            "--time-limit", help="End after this time and the work in hand, with exit code 75.", metavar="TIME"
        ),
    ] = None,
    is_list: Annotated[bool, typer.Option("--list", help="Say what each row is, and run nothing.")] = False,
) -> None:
    """Run methods and controls with several seeds on one task, and make a table of what may be claimed."""
    is_over = time_limit(limit, "--time-limit")
    if is_list:
        return _print_rows()
    if target is None:
        raise ConfigError("give a task or a config file, for example `selftaught compare arithmetic`")
    asked = _asked(rows, seeds, at, only, overrides or ())
    place = None if folder is None else given_path(folder, "--dir")
    _compare(given_name(target, "TASK_OR_CONFIG"), asked, place, against, is_over)


def _compare(name: str, asked: "Asked", place: Path | None, against: str | None, is_over: Callable[[], str]) -> None:
    from selftaught.commands import compare
    from selftaught.commands.compare_table import table_if_stopped, write_table
    from selftaught.commands.stored_run import task_of
    from selftaught.comparison.folder import ComparisonFolder
    from selftaught.comparison.plan import check_row
    from selftaught.comparison.results import DEFAULT_AGAINST
    from selftaught.config.loading import load_config

    reference = DEFAULT_AGAINST if against is None else check_row(against, "--against")

    def load(settings: Mapping[str, Any]) -> "RunConfig":
        return load_config(name, settings)

    base = compare.base_config(load, asked)
    planned = compare.plan(load, asked, base, task_of(base))
    for line in planned.left_out:
        note(line)
    folder = ComparisonFolder(place or compare.default_dir(base))
    with stop_signals("the same command") as stop, table_if_stopped(folder, against=reference, note=note):
        failed = compare.compare(
            folder,
            load,
            asked,
            base,
            planned,
            note=note,
            listeners=_listeners,
            should_stop=lambda: stop.is_interrupted,
            suspended_by=lambda: "SIGTERM" if stop.is_terminated else is_over(),
            finished=_report,
        )
        written = write_table(folder, against=reference)
    _print(written)
    if failed:
        what = "; ".join(f"{cell}: {one_line(reason)}" for cell, reason in failed.items())
        message = f"{len(failed)} of {len(planned.cells)} cells failed; {what}"
        if any(reason.startswith(compare.OUR_MISTAKE) for reason in failed.values()):
            note(message)  # the traceback was printed when it happened
            raise typer.Exit(1)
        raise RefusedError(message)


def _report(run_dir: Path) -> None:
    """Of a run as `selftaught run` leaves it."""
    from selftaught.report.report import write_report

    if not (run_dir / "report.md").exists():
        write_report([run_dir])


def _asked(rows: str | None, seeds: str | None, at: str, only: str | None, overrides: Sequence[str]) -> "Asked":
    from selftaught.commands.compare import SEEDS, Asked
    from selftaught.comparison.plan import check_only, check_row, parsed_cell, parsed_rows, parsed_seeds
    from selftaught.config.loading import parse_overrides

    if at not in ("equal-steps", "paper"):
        raise ConfigError(f"--at is {at!r}, expected equal-steps or paper")
    of_all, of_rows = [], dict[str, dict[str, Any]]()
    for item in overrides:
        key = item.partition("=")[0]
        if ":" not in key:
            of_all.append(item)
            continue
        row, _, setting = item.partition(":")
        if "." not in setting.partition("=")[0] or "=" not in setting:
            raise ConfigError(f"--set {item}: expected ROW:section.key=value, such as star:training.batch_size=16")
        of_rows.setdefault(check_row(row.strip(), "--set"), {}).update(parse_overrides([setting]))
    given_rows = None if rows is None else parsed_rows(rows)
    given_seeds = None if seeds is None else parsed_seeds(seeds)
    cell = None if only is None else parsed_cell(only)
    if cell is not None:
        check_only(cell, given_rows, given_seeds)
    return Asked(
        rows=given_rows,
        seeds=given_seeds or SEEDS,
        at="paper" if at == "paper" else "equal-steps",
        only=cell,
        of_all=parse_overrides(of_all),
        of_rows=of_rows,
    )


def _listeners(config: "RunConfig") -> list[Any]:
    from rich.console import Console

    from selftaught.tracking.terminal import Terminal

    return [Terminal(Console(stderr=True), config.loop.max_iterations)]


def _print_rows() -> None:
    from selftaught.comparison.rows import ROWS
    from selftaught.report.tables import wrapped

    for name, row in ROWS.items():
        print(wrapped(f"{name}  {row.meaning}", width_of(sys.stdout), indent="    "))


def _print(written: "Written") -> None:
    from selftaught.comparison.texts import missing_lines, notes, parts
    from selftaught.report.tables import table_text, wrapped

    width = width_of(sys.stdout)
    for line in notes(written.table, written.about):
        print(wrapped(line, width, indent="    "))
    for title, header, rows in parts(written.table):
        print(f"\n{title}\n{table_text(header, rows, width)}")
    for name in ("compare.md", "compare.json", "compare.tex", "accuracy.svg", "tokens.svg"):
        print(written.folder / name)
    for line in missing_lines(written.about.missing):
        note(line)

"""The command `selftaught run`, which app.py lists with the others, and how it is stopped."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from selftaught.cli.output import width_of
from selftaught.machine.command_lines import command
from selftaught.machine.paths import given_name, given_path
from selftaught.machine.time_limit import time_limit
from selftaught.records.errors import ConfigError, EngineError, Suspended, VerifierError, WorkerDied

if TYPE_CHECKING:
    from selftaught.config.settings import RunConfig

SAME_S = 1.0
"""A second SIGTERM within so many seconds is the first one again: `timeout` and schedulers signal a process by its id
and with its group."""


def run_command(
    target: Annotated[
        str | None, typer.Argument(help="A task with a shipped config, or a TOML file.", metavar="TASK_OR_CONFIG")
    ] = None,
    run_dir: Annotated[
        str | None,
        typer.Option(
            help="The run's folder; default runs/TASK-METHOD. A folder of the same config is carried on.",
            metavar="DIR",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, over the config; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show the resolved config, filled prompts, the tokens that carry loss and the cost; generate nothing.",
        ),
    ] = False,
    resume: Annotated[
        str | None, typer.Option(help="Carry on the run in this folder; needs nothing else.", metavar="DIR")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            "--time-limit",
            help="End after this time and the work in hand, with exit code 75, to be carried on: 3h, 1h30m, 5400.",
            metavar="TIME",
        ),
    ] = None,
) -> None:
    """Start a run, or carry one on: sample rationales, hint the failures, fine-tune, repeat, report."""
    from selftaught.commands.run import default_run_dir
    from selftaught.commands.stored_run import config_of_run
    from selftaught.config.loading import load_config

    is_over = time_limit(limit, "--time-limit")
    if resume is not None:
        folder = given_path(resume, "--resume")
        if target is not None or overrides or run_dir is not None:
            raise ConfigError("--resume DIR takes everything from the folder; leave out the task, --run-dir and --set")
        config = config_of_run(folder)
    elif target is None:
        raise ConfigError(
            "give a task or a config file, for example `selftaught run arithmetic`; see `selftaught tasks`"
        )
    else:
        chosen = None if run_dir is None else given_path(run_dir, "--run-dir")
        config = load_config(given_name(target, "TASK_OR_CONFIG"), overrides or ())
        folder = chosen or default_run_dir(config)
    if dry_run:
        _dry_run(config)
    else:
        _run(config, folder, is_over)


def _dry_run(config: "RunConfig") -> None:
    from selftaught.commands.dry_run import describe
    from selftaught.commands.run import check_before_start
    from selftaught.commands.stored_run import task_of
    from selftaught.models.weights import check_model_path

    model_dir = check_model_path(config.model.path)
    task = task_of(config)
    check_before_start(config, task)
    config.training.check()
    print(describe(config, task, model_dir))


def _run(config: "RunConfig", folder: Path, is_over: Callable[[], str]) -> None:
    from rich.console import Console

    from selftaught.commands.run import launch
    from selftaught.tracking.terminal import Terminal

    console = Console(stderr=True)
    terminal = Terminal(console, config.loop.max_iterations)
    with stop_signals(command("run", "--resume", folder)) as stop:
        try:
            launch(
                config,
                folder,
                listeners=[terminal],
                should_stop=lambda: stop.is_interrupted,
                suspended_by=lambda: "SIGTERM" if stop.is_terminated else is_over(),
            )
        except (EngineError, WorkerDied, VerifierError) as error:
            if not stop.is_terminated:
                raise
            raise Suspended(
                f"stopped by SIGTERM, which a process of the run was sent, too ({error}); what is finished is saved. "
                f"Carry on with: {command('run', '--resume', folder)}"
            ) from error
        _finish(folder, config)


@dataclass
class _Stop:
    """Which signals have asked a run to end."""

    is_interrupted: bool = False
    """By Ctrl-C."""
    is_terminated: bool = False
    """By SIGTERM."""
    is_ended: bool = False
    """At once, by a second SIGTERM."""


@contextmanager
def stop_signals(resume: str) -> Iterator[_Stop]:
    """The first Ctrl-C or SIGTERM lets the run stop after the chunk or step in hand; the second stops at once. `resume`
    is the command that carries on."""
    stop, first_s = _Stop(), 0.0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        now, is_term = time.monotonic(), number == signal.SIGTERM
        if is_term and stop.is_terminated and now < first_s + SAME_S:
            return
        if stop.is_interrupted or stop.is_terminated:
            print("stopped at once; the work in hand is dropped, what was finished is saved", file=sys.stderr)
            stop.is_ended = is_term
            # Neither is an Exception, which something on the way could take for an error of its own.
            raise SystemExit(Suspended.exit_code) if is_term else KeyboardInterrupt  # typer makes 130 of the latter
        stop.is_terminated, stop.is_interrupted, first_s = is_term, not is_term, now
        again = "a second SIGTERM" if is_term else "Ctrl-C again"
        print(f"\nstopping after the work in hand; {again} stops at once. Later: {resume}", file=sys.stderr)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except SystemExit as error:
        if stop.is_ended:  # Ray's wait has made it one with exit code 1
            raise SystemExit(Suspended.exit_code) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(folder: Path, config: "RunConfig") -> None:
    """Write the report before printing: the output may be lost, the report must not be."""
    from selftaught.methods.metrics import rate_text
    from selftaught.report.report import iteration_table, write_report
    from selftaught.report.run_tables import read_run
    from selftaught.report.tables import table_text, wrapped

    written = write_report([folder])
    header, rows = iteration_table(folder)
    width = width_of(sys.stdout)
    print(wrapped(f"{config.method} on {config.task.name}: accuracy on dev, by class", width))
    print(table_text(header, rows, width))
    run = read_run(folder)
    result = run.result
    assert result is not None, "a finished run has a result"
    best = result["best_iteration"]
    for iteration in (0, best) if best else (0,):
        measured = run.measured["test", iteration]
        classes = "  ".join(f"{name}: {rate.accuracy:.2f}" for name, rate in measured.by_class.items())
        who = f"iteration {iteration}" if iteration else "base model"
        print(wrapped(f"test, {who}: {rate_text(measured)}  {classes}", width, indent="  "))
    if not best:
        print("no iteration beat the base model on dev, so the base model is the result")
    print(f"report {written.markdown}")
    print(f"plot   {written.svg}")
    print(f"model  {folder / result['checkpoint'] if best else result['checkpoint']}")
    print(f"next:  {command('show', folder, '--verdict', 'correct', '--limit', '3')}")

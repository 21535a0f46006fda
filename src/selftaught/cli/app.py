"""The command `selftaught`: a thin layer over the library. Results go to stdout, messages to stderr.

Exit codes: 0; 2 for what the user can fix (one line on stderr); 1 for our own mistakes (a traceback); 75 after SIGTERM
and at the end of a time limit; 130 after Ctrl-C. Heavy libraries are imported inside the commands that need them, so
that --help is quick.
"""

import json
import sys
from typing import Annotated, Any

import typer

from selftaught import __version__
from selftaught.cli.compare import compare_command
from selftaught.cli.doctor import doctor_command
from selftaught.cli.export import export_command
from selftaught.cli.html import html_report
from selftaught.cli.output import (
    is_lost,
    loss,
    note,
    secure,
    width_of,
)
from selftaught.cli.predict import predict_command
from selftaught.cli.run import run_command
from selftaught.cli.score import score_command
from selftaught.cli.track import track_command
from selftaught.cli.view import view_command
from selftaught.machine.paths import given_name, given_path
from selftaught.machine.quiet import quieten_libraries
from selftaught.records.errors import (
    RefusedError,
    SelftaughtError,
    one_line,
)

app = typer.Typer(
    name="selftaught",
    help="Teach a language model to reason from question-answer pairs alone (STaR, arXiv 2203.14465).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
tasks_app = typer.Typer(help="List the tasks, or check one.", invoke_without_command=True, no_args_is_help=False)
app.add_typer(tasks_app, name="tasks")

_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Every mistake in a command line that typer finds by itself; the class has no public name."""

Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"selftaught {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: turn errors into exit codes."""
    secure()
    quieten_libraries()
    code = _exit_code(sys.argv[1:] or ["--help"])
    sys.stdout.flush()
    if (error := loss(sys.stdout)) is not None:
        print(
            f"selftaught: cannot write to standard output: {error.strerror}; a part of what was printed is lost, "
            "the files are complete",
            file=sys.stderr,
        )
        code = code or 2
    sys.exit(code)


def _exit_code(arguments: list[str]) -> int:
    """Run a command line; a mistake in it is one line on stderr."""
    try:
        # Not standalone: typer would print a page about a mistake.
        ended = app(args=arguments, prog_name="selftaught", standalone_mode=False)
    except SelftaughtError as error:
        print(f"selftaught: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except _USAGE_ERROR as error:
        usage: Any = error
        where = usage.ctx.command_path if usage.ctx else "selftaught"
        print(f"selftaught: {one_line(usage.format_message()).rstrip('.')}; see `{where} --help`", file=sys.stderr)
        return 2
    return ended if isinstance(ended, int) else 0  # an int comes from a command that ended early: --help or Ctrl-C


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """What stands before a command; the help of the program is given where `app` is made."""


app.command(name="run", short_help="Start a run, or carry one on.")(run_command)


@app.command(name="eval", short_help="Measure a model or a run's result.")
def evaluate_command(
    target: Annotated[
        str,
        typer.Argument(
            help="A run folder (its result), a model folder, a hub id, or builtin:adder.", metavar="RUN_OR_MODEL"
        ),
    ],
    task: Annotated[str | None, typer.Option(help="Task to measure on; default: the run's.")] = None,
    variant: Annotated[str | None, typer.Option(help="Form of the task; default: the run's.")] = None,
    split: Annotated[str, typer.Option(help="train, dev, test or extrapolation.")] = "dev",
    num_shots: Annotated[
        int | None, typer.Option(min=0, help="Few-shot examples in the prompt; default: the run's, else the setting's.")
    ] = None,
    num_samples: Annotated[
        int, typer.Option(min=1, help="Completions per problem, K; more than 1 add pass@k and majority@K.")
    ] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Default: 0 (greedy) for one sample, 0.7 for several.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Default: the run's, else the setting's.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="section.key=value, over the run's or task's settings; repeatable.", metavar="KEY=VALUE"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a model or a run's result: accuracy with n and 95 % interval, per class."""
    from selftaught.commands.evaluate import Asked, evaluate, find_target
    from selftaught.commands.show import measurement_text
    from selftaught.commands.track import tell_later
    from selftaught.config.loading import parse_overrides
    from selftaught.report.tables import wrapped
    from selftaught.runs.reading import dump_measurement

    asked = Asked(
        split=split,
        task_name=task,
        variant=variant,
        num_shots=num_shots,
        num_samples=num_samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        overrides=parse_overrides(overrides or ()),
    )
    found = find_target(given_name(target, "RUN_OR_MODEL"), task=task)
    measurement = evaluate(found, asked, note=note)
    text = wrapped(measurement_text(measurement), width_of(sys.stdout), indent="    ")
    print(json.dumps(dump_measurement(measurement)) if as_json else text)
    if found.run_dir is not None:
        tell_later(found.run_dir, measurement, note=note)


app.command(name="doctor", short_help="Look at machine, model and task before a run.")(doctor_command)
app.command(name="compare", short_help="Run methods and controls side by side.")(compare_command)
app.command(name="export", short_help="Hand on a run's model and its data.")(export_command)
app.command(name="predict", short_help="Answer a file of new questions.")(predict_command)
app.command(name="score", short_help="Store log-probabilities of tokens, for the page.")(score_command)
app.command(name="track", short_help="Send a run to trackers.")(track_command)
app.command(name="view", short_help="Look at runs in a browser.")(view_command)


@app.command(short_help="Print samples of a run.")
def show(
    run_dir: Annotated[str, typer.Argument(metavar="DIR")],
    problem: Annotated[str | None, typer.Option(help="Only this problem id.")] = None,
    iteration: Annotated[int | None, typer.Option(help="Only samples of this iteration.")] = None,
    kind: Annotated[str | None, typer.Option(help="rationale, rationalization or evaluation.")] = None,
    verdict: Annotated[str | None, typer.Option(help="correct, incorrect or unparseable.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most this many; 0 is all.")] = 20,
    prompts: Annotated[bool, typer.Option("--prompts", help="Print the prompt of each, too.")] = False,
    as_json: Json = False,
) -> None:
    """Print samples of a run, with everything that is known of them; needs neither the data nor a model."""
    from selftaught.commands.show import matching_samples, no_match_text, sample_json, sample_text

    folder = given_path(run_dir, "DIR")
    options = {"problem_id": problem, "iteration": iteration, "kind": kind, "verdict": verdict}
    wanted = {key: value for key, value in options.items() if value is not None}
    printed = 0
    for shown in matching_samples(folder, wanted, limit=limit, with_prompts=prompts):
        print(json.dumps(sample_json(shown)) if as_json else sample_text(shown))
        printed += 1
        if is_lost(sys.stdout):
            return  # whoever reads has seen enough, as in `selftaught show DIR | head`
    if not printed:
        note(no_match_text(folder, wanted))


@app.command(short_help="Judge a run's saved samples again.")
def regrade(run_dir: Annotated[str, typer.Argument(metavar="DIR")], as_json: Json = False) -> None:
    """Apply today's verifier to a run's saved samples, and list the verdicts that would change; needs no data."""
    from selftaught.commands.show import change_json, change_text, regraded

    seen = changed = 0
    for path, sample, now in regraded(given_path(run_dir, "DIR")):
        seen += 1
        if now is None:
            continue
        changed += 1
        print(json.dumps(change_json(path, sample, now)) if as_json else change_text(path, sample, now))
        if is_lost(sys.stdout):
            return
    note(f"{seen} samples, {changed} verdicts changed; the files are left as they are")


@app.command(short_help="Write a run's report, or compare runs.")
def report(
    run_dirs: Annotated[list[str], typer.Argument(metavar="DIR...")],
    out_dir: Annotated[
        str | None,
        typer.Option(help="Where to write; default: the run's folder, or report/ for several runs.", metavar="DIR"),
    ] = None,
    html: Annotated[
        bool,
        typer.Option(
            "--html",
            help="Write one page instead, with every sample, that opens offline: report.html there, or FILE, a last "
            "argument that ends with .html.",
        ),
    ] = False,
) -> None:
    """Write report.md and a plot of accuracy against iteration; several runs are compared. With --html, one page."""
    if html:
        print(html_report(run_dirs, out_dir))
        return
    from selftaught.report.report import write_report

    folders = [given_path(run_dir, "DIR") for run_dir in run_dirs]
    written = write_report(folders, None if out_dir is None else given_path(out_dir, "--out-dir"))
    print(written.markdown)
    print(written.svg)
    print(written.png)


@tasks_app.callback()
def tasks(context: typer.Context, as_json: Json = False) -> None:
    """List the tasks."""
    from selftaught.tasks import TASKS

    if context.invoked_subcommand is not None:
        return
    for name, source in TASKS.items():
        facts = {"name": name, "variants": list(source.variants), "description": source.description}
        variants = f" (variants: {', '.join(source.variants)})" if source.variants else ""
        print(json.dumps(facts) if as_json else f"{name}  {source.description}{variants}")


@tasks_app.command(short_help="Check a task, and show filled prompts.")
def check(
    name: Annotated[
        str, typer.Argument(help="A task, your function (file.py:load), or a TOML file.", metavar="TASK_OR_CONFIG")
    ],
    variant: Annotated[str | None, typer.Option(help="Form of the task; default: its first.")] = None,
    data_seed: Annotated[int, typer.Option(help="Seed of generated problems.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, over the config; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a task's splits, lengths, reference answers and human solutions, and show three filled prompts."""
    from selftaught.commands.check_task import check_task, check_text

    checked = check_task(given_name(name, "TASK_OR_CONFIG"), overrides or (), variant=variant, data_seed=data_seed)
    print(json.dumps({**checked.facts, "prompts": checked.prompts}) if as_json else check_text(checked))
    if checked.refusals:
        raise RefusedError("; ".join(checked.refusals))


@app.command(short_help="Write a config for your own data.")
def init(
    data: Annotated[str, typer.Argument(help="A file (jsonl, csv, parquet) or a hub id.", metavar="DATA")],
    out_dir: Annotated[str, typer.Option("--out", help="Folder for the two files.", metavar="DIR")] = ".",
    question_key: Annotated[str | None, typer.Option(help="Key of the question; default: guessed.")] = None,
    answer_key: Annotated[str | None, typer.Option(help="Key of the answer; default: guessed.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Your model, for the config; one with a chat template needs no few-shot examples.", metavar="MODEL"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="task.key=value that is not to be guessed, such as task.answer_is=index0; repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
) -> None:
    """Look at your data, and write a commented config and a prompt file to fill in."""
    from selftaught.commands.init import write_starter
    from selftaught.config.loading import parse_overrides

    folder, given = given_path(out_dir, "--out"), parse_overrides(overrides or ())
    name = given_name(data, "DATA")
    print(write_starter(name, folder, question_key=question_key, answer_key=answer_key, model=model, overrides=given))

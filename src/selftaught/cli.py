"""The command `selftaught`: a thin skin over the library. Results go to stdout, talk to stderr.

Exit codes: 0; 2 for what the user can fix (one line on stderr); 1 for our own mistakes (a traceback); 130 after
Ctrl-C. Heavy libraries are imported inside the commands that need them, so that --help is quick.
"""

import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selftaught.errors import ConfigError, RefusedError, SelftaughtError

if TYPE_CHECKING:
    from selftaught.records import Sample
    from selftaught.settings import RunConfig

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

Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]


def main() -> None:
    """Entry point: turn errors into exit codes."""
    # Their progress bars and notes would garble ours; what matters reaches the user as an error.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # torch, when it looks for a GPU on a machine without a driver; we say ourselves what is used.
    warnings.filterwarnings("ignore", message=".*CUDA initialization.*")
    try:
        app()
    except SelftaughtError as error:
        print(f"selftaught: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.command()
def run(
    target: Annotated[
        str, typer.Argument(help="A task with a shipped config, or a TOML file.", metavar="TASK_OR_CONFIG")
    ] = "",
    run_dir: Annotated[
        Path | None,
        typer.Option(help="The run's folder; default runs/TASK-METHOD. A folder of the same config is carried on."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, over the config; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show the resolved config, filled prompts, the tokens that carry loss and the cost; draw nothing.",
        ),
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Carry on the run in this folder; needs nothing else.", metavar="DIR")
    ] = None,
) -> None:
    """Start a run, or carry one on: draw rationales, hint the failures, fine-tune, repeat, report."""
    from selftaught.config import load_config
    from selftaught.launch import config_of_run, launch, task_of

    if resume is not None:
        if target or overrides or run_dir is not None:
            raise ConfigError("--resume DIR takes everything from the folder; leave out the task, --run-dir and --set")
        config, folder = config_of_run(resume), resume
    elif not target:
        raise ConfigError(
            "give a task or a config file, for example `selftaught run arithmetic`; see `selftaught tasks`"
        )
    else:
        config = load_config(target, overrides or ())
        folder = run_dir or Path("runs") / f"{config.task.name}-{config.method}"
    if dry_run:
        from selftaught.compute import check_trainer
        from selftaught.dryrun import describe
        from selftaught.launch import check_before_start

        task = task_of(config)
        check_before_start(config, task)
        check_trainer(config)
        print(describe(config, task))
        return
    from rich.console import Console

    from selftaught.terminal import TerminalProgress

    console = Console(stderr=True)
    console.print(
        f"{config.method} on {config.task.name} with {config.model.path}, folder {folder}",
        markup=False,
        highlight=False,
    )
    progress = TerminalProgress(console, config.loop.max_iterations, folder / "logs")
    with _two_step_interrupt(folder) as should_stop:
        try:
            launch(config, folder, progress=progress, should_stop=should_stop)
        finally:
            progress.close()
    _finish(folder, config)


@app.command(name="eval")
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
    shots: Annotated[int | None, typer.Option(help="Worked examples in the prompt; default: the run's.")] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Completions per problem, K; over 1 adds pass@k and majority@K.")
    ] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Default: 0 (greedy) for one sample, 0.7 for several.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Default: the run's.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="section.key=value, over the run's or task's settings; repeatable.", metavar="KEY=VALUE"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a model or a run's result: accuracy with n and 95 % interval, per class."""
    from selftaught.config import parse_overrides
    from selftaught.evaluation import evaluate, find_target
    from selftaught.inspection import measurement_text
    from selftaught.store import dump_measurement

    measurement = evaluate(
        find_target(target, task=task),
        task_name=task,
        variant=variant,
        split=split,
        shots=shots,
        samples=samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        overrides=parse_overrides(overrides or ()),
        note=lambda line: print(line, file=sys.stderr),
    )
    print(json.dumps(dump_measurement(measurement)) if as_json else measurement_text(measurement))


@app.command()
def show(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR")],
    problem: Annotated[str | None, typer.Option(help="Only this problem id.")] = None,
    iteration: Annotated[int | None, typer.Option(help="Only samples of this iteration.")] = None,
    kind: Annotated[str | None, typer.Option(help="rationale, rationalization or evaluation.")] = None,
    verdict: Annotated[str | None, typer.Option(help="correct, incorrect or unparseable.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most this many; 0 is all.")] = 20,
    as_json: Json = False,
) -> None:
    """Print samples of a run, with everything known of them."""
    from selftaught.inspection import matching, sample_text

    asked = {"problem_id": problem, "iteration": iteration, "kind": kind, "verdict": verdict}
    wanted = {key: value for key, value in asked.items() if value is not None}
    with _reader_may_leave():
        for path, sample, answer in matching(run_dir, wanted, limit=limit, note=partial(print, file=sys.stderr)):
            print(json.dumps(_sample_json(sample, answer)) if as_json else sample_text(path, sample, answer))


@app.command()
def regrade(run_dir: Annotated[Path, typer.Argument(metavar="DIR")], as_json: Json = False) -> None:
    """Apply today's verifier to a run's saved samples, and list the verdicts that would change."""
    from selftaught.inspection import change_json, change_text, regraded

    seen = changed = 0
    with _reader_may_leave():
        for path, sample, now in regraded(run_dir):
            seen += 1
            if now is None:
                continue
            changed += 1
            print(json.dumps(change_json(path, sample, now)) if as_json else change_text(path, sample, now))
    print(f"{seen} samples, {changed} verdicts changed; the files are left as they are", file=sys.stderr)


@app.command()
def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="DIR...")],
    out_dir: Annotated[
        Path | None, typer.Option(help="Where to write; default: the run's folder, or report/ for several runs.")
    ] = None,
) -> None:
    """Write report.md and a plot of accuracy against iteration; several runs are compared."""
    from selftaught.report import write_report

    written = write_report(run_dirs, out_dir)
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


@tasks_app.command()
def check(
    name: Annotated[str, typer.Argument(help="A task, or a TOML file.", metavar="TASK_OR_CONFIG")],
    variant: Annotated[str, typer.Option(help="Form of the task.")] = "",
    data_seed: Annotated[int, typer.Option(help="Seed of generated problems.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, over the config; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a task's splits, lengths, reference answers and worked solutions, and show three filled prompts."""
    from selftaught.task_check import check_task, check_text

    found = check_task(name, overrides or (), variant=variant, data_seed=data_seed)
    print(json.dumps({**found.facts, "prompts": found.prompts}) if as_json else check_text(found))
    if found.refusals:
        raise RefusedError("; ".join(found.refusals))


@app.command()
def init(
    data: Annotated[str, typer.Argument(help="A file (jsonl, csv, parquet) or a hub id.", metavar="DATA")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the two files.", metavar="DIR")] = Path(),
    question_key: Annotated[str, typer.Option(help="Key of the question; default: guessed.")] = "",
    answer_key: Annotated[str, typer.Option(help="Key of the answer; default: guessed.")] = "",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="task.key=value, not to be guessed, such as task.answer_is=index0; repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
) -> None:
    """Look at your data, and write a commented config and a prompt file to fill in."""
    from selftaught.config import parse_overrides
    from selftaught.starter import write_starter

    given = parse_overrides(overrides or ())
    print(write_starter(data, out_dir, question_key=question_key, answer_key=answer_key, overrides=given))


def _finish(folder: Path, config: "RunConfig") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from selftaught.report import iteration_table, write_report
    from selftaught.store import read_result

    header, rows = iteration_table(folder)
    title = f"{config.method} on {config.task.name}: accuracy on dev, by class"
    table = Table(*map(escape, header), title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    result = read_result(folder)
    assert result is not None, "a finished run has a result"
    for name in ("base", "test") if result["best_iteration"] else ("base",):
        m = result[name]
        classes = "  ".join(f"{key}: {value['accuracy']:.2f}" for key, value in m["by_class"].items())
        who = "base model" if name == "base" else f"iteration {result['best_iteration']}"
        low, high = m["interval"]
        print(f"test, {who}: {m['correct']}/{m['n']}  {m['accuracy']:.3f} [{low:.3f}, {high:.3f}]  {classes}")
    if not result["best_iteration"]:
        print("no iteration beat the base model on dev, so the base model is the result")
    written = write_report([folder])
    print(f"report {written.markdown}")
    print(f"plot   {written.svg}")
    print(f"model  {folder / result['checkpoint'] if result['best_iteration'] else result['checkpoint']}")
    print(f"next:  selftaught show {folder} --verdict correct --limit 3")


def _sample_json(sample: "Sample", answer: str | None) -> dict[str, Any]:
    from selftaught.store import dump_sample

    return {**dump_sample(sample), "answer": answer}


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """End quietly when whoever reads our output has gone, as in `selftaught show DIR | head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _two_step_interrupt(folder: Path) -> Iterator[Any]:
    """The first Ctrl-C asks the run to stop after the chunk in hand; the second stops at once."""
    asked = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            print("stopped at once; the work in hand is dropped, what was finished is saved", file=sys.stderr)
            raise KeyboardInterrupt  # typer turns it into exit code 130
        asked = True
        print(
            f"\nstopping after the work in hand; Ctrl-C again stops at once. Later: selftaught run --resume {folder}",
            file=sys.stderr,
        )

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)

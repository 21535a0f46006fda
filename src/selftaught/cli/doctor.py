"""The command `selftaught doctor`, which app.py lists with the others."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from selftaught.cli.output import is_lost, note
from selftaught.machine.paths import given_name, given_path
from selftaught.records.errors import RefusedError

if TYPE_CHECKING:
    from rich.console import Console

    from selftaught.commands.doctor_text import Part

STYLES = {"": "", "prompt": "dim", "learned": "green", "end": "bold magenta"}
"""By mark; the dim prompt carries no loss."""


def doctor_command(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A task with a shipped config, a TOML file, a run, a model folder, a hub id, or builtin:adder; "
            "left out, this machine alone.",
            metavar="CONFIG_OR_MODEL",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="For a model: the task to examine it on.")] = None,
    problems: Annotated[
        int, typer.Option(min=0, help="Training problems to sample; 0 leaves out time and solve rates.")
    ] = 32,
    run_dir: Annotated[
        str | None,
        typer.Option(help="The folder that the run will have; default runs/TASK-METHOD.", metavar="DIR"),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, over the config; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per part on stdout.")] = False,
) -> None:
    """Look before you start: what is installed, device, prompts, memory, time, and whether it is worth starting."""
    from rich.console import Console

    from selftaught.commands.doctor import Asked, examine
    from selftaught.commands.doctor_text import part_json

    console = Console(soft_wrap=True)
    folder = None if run_dir is None else given_path(run_dir, "--run-dir")
    asked = Asked(task=task, overrides=overrides or (), problems=problems, run_dir=folder)
    refusals: list[str] = []
    for part in examine(None if target is None else given_name(target, "CONFIG_OR_MODEL"), asked, note=note):
        refusals += part.refusals
        if as_json:
            print(json.dumps(part_json(part)), flush=True)
        else:
            print_part(part, console)
        if is_lost(sys.stdout):
            return
    if refusals:
        more = f" (and {len(refusals) - 1} more, above)" if len(refusals) > 1 else ""
        raise RefusedError(f"a run would be refused: {refusals[0]}{more}")


def print_part(part: "Part", console: "Console") -> None:
    """In colours on a terminal that has them, else with plain marks."""
    from rich.text import Text

    from selftaught.commands.doctor_text import part_text

    if console.color_system is None or console.no_color:
        print(part_text(part) + "\n", flush=True)
        return
    console.print(Text(part.title, style="bold"))
    for line in part.lines:
        console.print(Text.assemble(*((span.text, STYLES[span.mark]) for span in line)))
    for refusal in part.refusals:
        console.print(Text.assemble(("refused: ", "bold red"), refusal))
    console.print()

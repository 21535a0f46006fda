"""The command `track`."""

from typing import Annotated

import typer

from selftaught.cli.output import note
from selftaught.machine.paths import given_path


def track_command(
    run_dir: Annotated[str, typer.Argument(metavar="DIR")],
    backends: Annotated[
        list[str] | None,
        typer.Option(
            "--backend", help="wandb, trackio or tensorboard; repeatable; default: the config's.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Send all that a run folder holds, finished or not, to a new tracked run of each tracker."""
    from selftaught.commands.track import track

    track(given_path(run_dir, "DIR"), backends or (), note=note)

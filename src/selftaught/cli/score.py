"""The command `selftaught score`."""

from typing import Annotated

import typer

from selftaught.cli.output import note
from selftaught.machine.paths import given_path


def score_command(
    run_dir: Annotated[str, typer.Argument(metavar="RUN")],
    iteration: Annotated[int | None, typer.Option(min=0, help="Only samples of this iteration.")] = None,
    stage: Annotated[
        str | None, typer.Option(help="Only rationale, rationalization, dev, test or extrapolation.")
    ] = None,
) -> None:
    """Store the log-probability of each token of a run's samples, which the page colours; needs the weights."""
    from selftaught.commands.score import score

    for scored in score(given_path(run_dir, "RUN"), iteration=iteration, stage=stage, note=note):
        print(scored.path)

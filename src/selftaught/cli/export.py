"""The command `selftaught export`, which app.py lists with the others."""

import json
from typing import Annotated

import typer

from selftaught.cli.output import note
from selftaught.machine.paths import given_path


def export_command(
    run_dir: Annotated[str, typer.Argument(help="A run folder.", metavar="RUN")],
    to: Annotated[str, typer.Option("--to", help="A new folder, for `model` and `dataset`.", metavar="DIR")],
    iteration: Annotated[
        int | None, typer.Option(min=1, help="The model of this iteration; default: the run's result, the best on dev.")
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            "--push-to-hub",
            help="Then push both to the Hugging Face hub, as a model and a data set of this name; private.",
            metavar="REPO",
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push-to-hub: to be read by all.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Write a run's model as a Hugging Face folder, and its samples and training sets as a data set, with cards."""
    from selftaught.commands.export import export
    from selftaught.commands.hub import Hub
    from selftaught.methods.metrics import rate_text
    from selftaught.records.errors import ConfigError

    if public and push_to_hub is None:
        raise ConfigError("--public is of no use without --push-to-hub; leave it out, or give both")
    folder, out = given_path(run_dir, "RUN"), given_path(to, "--to")
    hub = None if push_to_hub is None else Hub(push_to_hub, public=public)  # refused before anything is written
    written = export(folder, out, iteration=iteration)
    if written.model is None:
        note("no iteration beat the base model on dev, so that there is no model to hand on; the data set is written")
    addresses = {}
    if hub is not None:
        if written.model is not None:
            addresses["model"] = hub.push(written.model, "model")
        addresses["dataset"] = hub.push(written.dataset, "dataset")
    if as_json:
        facts = {"model": None if written.model is None else str(written.model), "dataset": str(written.dataset)}
        print(json.dumps({**facts, "iteration": written.iteration, "rows": dict(written.rows), "hub": addresses}))
        return
    if written.model is not None:
        measured = "" if written.test is None else f"  test {rate_text(written.test)}"
        print(f"model    {written.model}  iteration {written.iteration}{measured}")
    print(f"dataset  {written.dataset}  {', '.join(f'{n} {name}' for name, n in written.rows.items())}")
    for address in addresses.values():
        print(f"pushed   {address}")

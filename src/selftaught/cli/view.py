"""The command `selftaught view`."""

import importlib.util
from typing import Annotated

import typer

from selftaught.cli.output import note
from selftaught.machine.paths import given_path


def view_command(
    run_dirs: Annotated[list[str], typer.Argument(metavar="DIR...")],
    port: Annotated[int, typer.Option(min=0, max=65_535, help="On this machine; 0 is any free one.")] = 8027,
    browser: Annotated[bool, typer.Option("--browser", help="Open it in this machine's browser.")] = False,
) -> None:
    """Look at runs in a browser, live while they go: accuracy, problems through the iterations, every sample."""
    from selftaught.records.errors import ConfigError

    if missing := [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"{' and '.join(missing)} not installed; pip install 'selftaught[web]', or `selftaught report DIR --html`, "
            "which needs neither"
        )
    from selftaught.report.web.server import serve

    def tell(address: str) -> None:
        print(address, flush=True)
        note("Ctrl-C ends it; only browsers on this machine are answered")
        if browser:
            import webbrowser

            webbrowser.open_new_tab(address)

    serve([given_path(run_dir, "DIR") for run_dir in run_dirs], port=port, tell=tell)

"""`selftaught report --html`."""

from collections.abc import Sequence
from pathlib import Path

from selftaught.cli.output import note
from selftaught.machine.paths import given_path
from selftaught.records.errors import ConfigError


def html_report(arguments: Sequence[str], out_dir: str | None) -> Path:
    """Write the page of the runs that are named, and say so if it holds only a selection of their samples.

    The last argument may be the file, which ends with .html. Raises ConfigError if no run is named, or both a file and
    a folder to write to.
    """
    from selftaught.machine.command_lines import command
    from selftaught.report.web.report import write_html

    file = given_path(arguments[-1], "FILE") if arguments[-1].endswith(".html") else None
    folders = [given_path(run_dir, "DIR") for run_dir in (arguments if file is None else arguments[:-1])]
    if not folders:
        raise ConfigError(f"{file} is the page to write; give the folder of a run before it")
    if file is not None and out_dir is not None:
        raise ConfigError(f"--out-dir {out_dir} and the file {file}: give one of them")
    if out_dir is not None:
        file = given_path(out_dir, "--out-dir") / "report.html"
    written = write_html(folders, file)
    if written.samples < written.seen:
        note(
            f"the page holds {written.samples} of {written.seen} samples, all of the problems that it shows; "
            f"`{command('view', *folders)}` shows every one"
        )
    return written.path

#!/usr/bin/env python3
"""Write what the documents take from the code and from docs/results. A test fails when they are not up to date.

python scripts/make_docs.py

Complete pages: docs/config.md, docs/cli.md, docs/results.md. Blocks between `<!-- NAME:start -->` and
`<!-- NAME:end -->`: the session and the results in README.md, the line on a real model there, the tables in
docs/real-model.md and docs/speed.md, what `init` says in docs/own-data.md, the comparisons in docs/claims.md
(`claims_page.py`). `result_tables.py` makes those of results.
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from typer.main import get_command

from claims_page import claims_page
from result_tables import (
    real_model_line,
    real_model_tests,
    real_model_units,
    results_page,
    speed_tables,
    summary_of,
)
from selftaught.cli.app import app
from selftaught.commands.init import write_starter
from selftaught.config.choices import CHOICES
from selftaught.config.loading import known_keys
from selftaught.methods.table import METHODS, STAR
from selftaught.records.sections import expected

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
CONTROLS = (
    "`star` beside its controls, which train for the same number of steps "
    "([docs/results.md](docs/results.md) has every iteration): "
)


def documents() -> dict[Path, str]:
    """Every document that is written here, in part or completely, with the text that it should have."""
    arithmetic, speed = _read("arithmetic.json"), _read("speed.json")
    real, gsm8k = _read("qwen-commonsenseqa.json"), _read("qwen-gsm8k.json")
    blocks = {
        ROOT / "README.md": {
            "session": f"```\n{short_session((RESULTS / 'session.txt').read_text(encoding='utf-8'))}\n```",
            "results": CONTROLS + "\n".join(summary_of(arithmetic)),
            "real-model": real_model_line(real),
        },
        ROOT / "docs" / "real-model.md": {
            "units": "\n".join(real_model_units(real)),
            "test": "\n".join(real_model_tests(real)),
            "gsm8k-units": "\n".join(real_model_units(gsm8k)),
            "gsm8k-test": "\n".join(real_model_tests(gsm8k)),
        },
        ROOT / "docs" / "speed.md": {name: "\n".join(table) for name, table in speed_tables(speed).items()},
        ROOT / "docs" / "own-data.md": started((ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")),
    }
    return {
        ROOT / "docs" / "config.md": config_page(),
        ROOT / "docs" / "cli.md": cli_page(),
        ROOT / "docs" / "results.md": results_page(arithmetic),
        ROOT / "docs" / "claims.md": claims_page((ROOT / "docs" / "claims.md").read_text(encoding="utf-8")),
        **{page: filled(page.read_text(encoding="utf-8"), texts) for page, texts in blocks.items()},
    }


def filled(page: str, texts: Mapping[str, str]) -> str:
    """The page with its marked blocks replaced; a block without its marks ends in a ValueError."""
    for name, text in texts.items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        if page.count(start) != 1 or page.count(end) != 1:
            raise ValueError(f"a page needs the marks {start} and {end}, each once")
        before, after = page.partition(start)[0], page.partition(end)[2]
        page = f"{before}{start}\n{text}\n{end}{after}"
    return page


def started(page: str) -> dict[str, str]:
    """What `init` says of the rows that a page shows, and the config that it writes."""
    (rows,) = re.findall(r"```jsonl\n(.*?)```", page, flags=re.DOTALL)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("questions.jsonl").write_text(rows, encoding="utf-8")
        printed = write_starter("questions.jsonl", Path())
        config = Path("questions.toml").read_text(encoding="utf-8")
    return {
        "init": f"```\n$ selftaught init questions.jsonl\n{printed}\n```",
        "config": f"```toml\n{config}```",
    }


def short_session(text: str) -> str:
    """What a run printed, without the complete samples and without the lines of the middle iterations."""
    lines = text.splitlines()
    table = next(i for i, line in enumerate(lines) if line.startswith("iter "))
    stage = re.compile(r"(base model|iteration 1/\d+) +(rationale|rationalization|train|dev) ")
    head = [line for line in lines[:table] if line.startswith("$") or stage.match(line)]
    # Accuracy by class stands in the table below.
    head = [line.partition("  by class ")[0] for line in head]
    tail = [line for line in lines[table:] if not line.startswith(("report", "plot", "model"))]
    return "\n".join([*head, "…", *tail])


def config_page() -> str:
    """Every setting with type, default, range and meaning, and the table of methods."""
    lines = [
        "# Settings",
        "",
        "Written by `python scripts/make_docs.py` from the code.",
        "",
        "A config is one TOML file; every key can also be given as `--set section.key=value`.",
        "Order, later wins: defaults, the file, the method's knobs, `--set`.",
        "An unknown key, a wrong type or a value out of range is an error that names file and line.",
        "So is a file that sets nothing.",
        "Absent is a setting that is left out; `--set section.key=` leaves out one that the file gives.",
        "Paths are from the folder that you run in; `~` and `~user` at their beginning are homes.",
        "`task.name`, `engine.name` and `training.name` choose a task, an engine and a trainer.",
        "A setting of another one is refused.",
        "With another of them by `--set`, the file's lines for its own one alone are left out.",
        "A task of your own takes every setting of `[task]`.",
        "`selftaught run FILE --dry-run` prints what a file resolves to.",
    ]
    section = None
    for key, field in known_keys().items():
        head = key.rpartition(".")[0]
        if head != section:
            section = head
            lines += [
                "",
                f"## [{head}]" if head else "## Top level",
                "",
                "| key | type and range | default | meaning |",
                "|---|---|---|---|",
            ]
        meaning = f"{_owners_of(key)}{field.description}"
        lines.append(f"| `{key}` | {expected(field)} | {_default_of(field)} | {meaning} |")
    lines += ["", "## Methods", "", "`method` fixes the knobs below; `custom` fixes none.", "", *_methods()]
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """The help text of every command, as the command prints it."""
    lines = [
        "# Commands",
        "",
        "Written by `python scripts/make_docs.py` from the commands' own help.",
        "",
        "Results go to stdout, messages to stderr. Listing commands take `--json`: one object per line.",
        "Characters that a terminal cannot print are escaped, and a reader that closes the pipe is no error.",
        "Where stdout cannot be written, as on a full disk, a line says so, with exit code 2.",
        "A run continues either way, and its files are complete.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | done |",
        "| 1 | our mistake: a traceback, please report it |",
        "| 2 | something you can fix: one line says what, got, expected and the next step |",
        "| 75 | SIGTERM or `--time-limit` ended a run; the same command carries it on ([scheduler.md](scheduler.md)) |",
        "| 130 | Ctrl-C; the first finishes the work in hand and saves, the second drops it |",
    ]
    for path, command in _commands(get_command(app), "selftaught"):
        lines += ["", f"## `{path}`", "", "```", _help(command, path), "```"]
    return "\n".join(lines) + "\n"


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, f"{path} {name}")


def _help(command: Any, path: str) -> str:
    # A fixed width, so that the page does not depend on the terminal.
    context = command.context_class(command, info_name=path, terminal_width=100, max_content_width=100)
    return str(command.get_help(context)).strip()


def _owners_of(key: str) -> str:
    """`name, name: ` for a setting that not every task, engine or trainer has."""
    section, _, name = key.rpartition(".")
    if section not in CHOICES or CHOICES[section].is_of_all(name):
        return ""
    return ", ".join(f"`{owner}`" for owner in CHOICES[section].owners(name)) + ": "


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    return "absent" if field.default is None else f"`{json.dumps(field.default)}`"


def _methods() -> Iterator[str]:
    yield "| method | knobs |"
    yield "|---|---|"
    for name, named in METHODS.items():
        knobs = STAR if name == "star" else {key: value for key, value in named.knobs.items() if STAR.get(key) != value}
        listed = ", ".join(
            f"`{key}` absent" if value is None else f"`{key} = {json.dumps(value)}`" for key, value in knobs.items()
        )
        yield f"| `{name}` | {listed if name == 'star' else ('as `star`, but ' + listed if knobs else 'none')} |"


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")

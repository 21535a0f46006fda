#!/usr/bin/env python3
"""Write docs/config.md and docs/cli.md from the code. A test fails when they are not up to date.

python scripts/make_docs.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from typer.main import get_command

from selftaught.cli import app
from selftaught.config import known_keys
from selftaught.methods import METHODS, STAR

DOCS = Path(__file__).parents[1] / "docs"


def config_page() -> str:
    """Every setting with type, default, range and meaning, and the table of methods."""
    lines = [
        "# Settings",
        "",
        "Written by `python scripts/make_docs.py` from `settings.py` and `methods.py`.",
        "",
        "A config is one TOML file; every key can also be given as `--set section.key=value`.",
        "Order, later wins: defaults, the file, the method's knobs, `--set`.",
        "An unknown key, a wrong type or a value out of range is an error that names file and line.",
        "A file that sets nothing is one, too.",
        "Paths are from the folder that you run in; `~` and `~user` at their beginning are homes.",
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
        default = "" if field.default is None else f"`{field.default!r}`".replace("'", '"')
        lines.append(f"| `{key}` | {_type_of(field)} | {default} | {field.description} |")
    lines += ["", "## Methods", "", "`method` fixes the knobs below; `custom` fixes none.", "", *_methods()]
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """The help text of every command, as the command prints it."""
    lines = [
        "# Commands",
        "",
        "Written by `python scripts/make_docs.py` from the commands' own help.",
        "",
        "Results go to stdout, talk to stderr. Listing commands take `--json`: one object per line.",
        "What a terminal cannot show is escaped, and a reader that leaves is no error.",
        "Where stdout cannot be written, as on a full disk, a line says so, with exit code 2.",
        "A run goes on either way, and its files are complete.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | done |",
        "| 1 | our mistake: a traceback, please report it |",
        "| 2 | something you can fix: one line says what, got, expected and the next step |",
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


def _type_of(field: Any) -> str:
    annotation = field.annotation
    if values := get_args(annotation):
        return " or ".join(f'`"{value}"`' for value in values)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [f"{signs[name]} {getattr(m, name)}" for m in field.metadata for name in signs if hasattr(m, name)]
    return " ".join(
        [
            {"int": "integer", "float": "number", "bool": "true or false", "str": "text"}[annotation.__name__],
            ", ".join(bounds),
        ]
    ).strip()


def _methods() -> Iterator[str]:
    yield "| method | knobs |"
    yield "|---|---|"
    for name, knobs in METHODS.items():
        shown = STAR if name == "star" else {k: v for k, v in knobs.items() if STAR.get(k) != v}
        listed = ", ".join(f"`{key} = {value!r}`".replace("'", '"') for key, value in shown.items())
        yield f"| `{name}` | {listed if name == 'star' else ('as `star`, but ' + listed if shown else 'none')} |"


if __name__ == "__main__":
    (DOCS / "config.md").write_text(config_page(), encoding="utf-8")
    (DOCS / "cli.md").write_text(cli_page(), encoding="utf-8")

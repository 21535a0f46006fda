#!/usr/bin/env python3
"""Write what the documents take from the code and from docs/results. A test fails when they are not up to date.

python scripts/make_docs.py

Complete pages: docs/config.md, docs/cli.md, docs/results.md. Blocks between `<!-- NAME:start -->` and
`<!-- NAME:end -->`: the session and the results in README.md, the line on a real model there, the tables in
docs/real-model.md and docs/speed.md, what `init` says in docs/own-data.md, the comparisons in docs/claims.md
(claims_page.py).
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from claims_page import claims_page
from pydantic.fields import FieldInfo
from scipy.stats import binomtest
from typer.main import get_command

from selftaught.cli.app import app
from selftaught.commands.init import write_starter
from selftaught.config.choices import CHOICES
from selftaught.config.loading import known_keys
from selftaught.methods.metrics import wilson_interval
from selftaught.methods.table import METHODS, STAR
from selftaught.records.sections import expected

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
NONE = "–"
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


def results_page(record: Mapping[str, Any]) -> str:
    """Every recorded run of the arithmetic task: methods and seeds, then each run iteration by iteration."""
    lines = [
        "# Results of the arithmetic task",
        "",
        "Written by `python scripts/make_docs.py` from [results/arithmetic.json](results/arithmetic.json), which",
        "`scripts/record_results.py` writes from run folders.",
        "",
        *summary_of(record),
        *beyond_training(record),
        "",
        "The interval is the 95 % Wilson interval over the problems of one run; the standard deviation is over seeds.",
        "The result of a run is the iteration that is best on dev; iteration 0 is the base model.",
        "False positives are correct answers whose scratchpad holds a wrong line.",
        "",
        "![dev accuracy of `star` by number of digits](results/star.svg)",
        "",
        "![dev accuracy of the methods](results/comparison.svg)",
        "",
        "## Test accuracy by number of digits",
        "",
        *by_digits(record["runs"]),
    ]
    for name, run in record["runs"].items():
        lines += ["", f"## `{name}`", "", f"Method `{run['method']}`, seed {run['seed']}.", "", *by_iteration(run)]
    return "\n".join(lines) + "\n"


def summary_of(record: Mapping[str, Any]) -> Iterator[str]:
    """A row for every run, and for every method of several seeds their mean and standard deviation."""
    runs = list(record["runs"].values())
    first = runs[0]
    dates = sorted({run["started"][:10] for run in runs})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    yield f"{first['test']['base']['n']} test problems, greedy; {record['machine']}, {when}."
    yield ""
    yield "| method | seed | test | false positives | best iteration | dev, last iteration | minutes |"
    yield "|---|---|---|---|---|---|---|"
    base = first["test"]["base"]
    yield _row(["base model", NONE, _rate_of(base), _false(base), 0, NONE, NONE])
    for method in METHODS:
        same = [run for run in runs if run["method"] == method]
        for run in same:
            best = run["best_iteration"]
            test = _rate_of(run["test"]["best"]) if best else f"{_rate_of(run['test']['base'])}, the base model"
            cells = [f"`{method}`", run["seed"], test, _false(run["test"]["best"]), best]
            cells += [_rate_of(run["iterations"][-1]["dev"]), f"{_seconds(run) / 60:.1f}"]
            yield _row(cells)
        if len(same) > 1:
            accuracies = [run["test"]["best"]["correct"] / run["test"]["best"]["n"] for run in same]
            spread = f"**{mean(accuracies):.3f} ± {stdev(accuracies):.3f}** (mean ± standard deviation)"
            yield _row([f"`{method}`", f"{len(same)} seeds", spread, "", "", "", ""])


def beyond_training(record: Mapping[str, Any]) -> Iterator[str]:
    """A line on the extrapolation split, if runs with a fine-tuned result measured it."""
    runs = record["runs"].values()
    beyond = [run["extrapolation"]["best"] for run in runs if "extrapolation" in run and run["best_iteration"]]
    if beyond:
        correct, n = sum(m["correct"] for m in beyond), sum(m["n"] for m in beyond)
        yield ""
        yield f"Sums of six to ten digits, which no training holds: {_rate(correct, n)} over these runs' results."


def by_digits(runs: Mapping[str, Any]) -> Iterator[str]:
    base = next(iter(runs.values()))["test"]["base"]["by_class"]
    yield _row(["run", *base])
    yield "|---" * (len(base) + 1) + "|"
    yield _row(["base model", *(_rate(*rate) for rate in base.values())])
    for name, run in runs.items():
        if run["best_iteration"]:
            yield _row([f"`{name}`", *(_rate(*rate) for rate in run["test"]["best"]["by_class"].values())])


def by_iteration(run: Mapping[str, Any]) -> Iterator[str]:
    classes = list(run["iterations"][0]["dev"]["by_class"])
    head = [
        "iteration",
        *classes,
        "dev",
        "correct rationales",
        "hints accepted",
        "false positives, without / with hint",
    ]
    yield _row([*head, "examples", "steps", "seconds"])
    yield "|---" * (len(head) + 3) + "|"
    for item in run["iterations"]:
        dev = item["dev"]
        accuracies = [f"{correct / n:.2f}" for correct, n in dev["by_class"].values()]
        cells = [item["iteration"], *accuracies, _rate_of(dev)]
        if item["iteration"]:
            cells += [_share(item["rationales"]), _share(item["rationalizations"])]
            cells += [" / ".join(NONE if count is None else str(count) for count in item["false_positives"])]
            cells += [_sources(item["examples"]), item["steps"], round(sum(item["seconds"].values()))]
        else:
            cells += [NONE] * 6
        yield _row(cells)


def real_model_units(record: Mapping[str, Any]) -> Iterator[str]:
    """A row for the base model and for every iteration of every configuration that was tried."""
    yield "| configuration | iteration | correct rationales | hints accepted | examples | steps | dev | unparseable |"
    yield "|---" * 8 + "|"
    for unit in record["units"]:
        base = unit["dev_base"]
        yield _row([unit["change"], 0, NONE, NONE, NONE, NONE, _rate_of(base), base["unparseable"]])
        for done in unit["iterations"]:
            stages = [_share((done[k]["correct"], done[k]["samples"])) for k in ("rationale", "rationalization")]
            dev = [_rate_of(done["dev"]), done["dev"]["unparseable"]]
            yield _row(["", done["iteration"], *stages, _sources(done["examples"]), done["steps"], *dev])


def real_model_line(record: Mapping[str, Any]) -> str:
    """What one iteration changed on test, in the first configuration measured on it."""
    test = next(unit["test"] for unit in record["units"] if "test" in unit)
    base, best, gained, lost = test["base"], test["best"], test["gained"], test["lost"]
    return (
        f"A real model by the same loop, {record['model'].split(',')[0]} on CommonsenseQA: one iteration over 400 "
        f"problems takes it from {_rate_of(base)} to **{_rate_of(best)}** of the test problems, {gained} gained and "
        f"{lost} lost, exact McNemar p = {binomtest(gained, gained + lost).pvalue:.1g}; {record['learned']} "
        "([docs/real-model.md](docs/real-model.md))."
    )


def real_model_tests(record: Mapping[str, Any]) -> Iterator[str]:
    """A row for the base model and one for the fine-tuned model, both on test, of each configuration measured on it."""
    yield "| test, greedy | correct | unparseable | gained, lost | exact McNemar |"
    yield "|---" * 5 + "|"
    for unit in record["units"]:
        if (test := unit.get("test")) is None:
            continue
        gained, lost = test["gained"], test["lost"]
        yield _row([f"base model, {test['base']['num_shots']} examples", *_test_cells(test["base"]), NONE, NONE])
        tuned = f"iteration {test['best']['iteration']}, {test['best']['num_shots']} examples"
        p = binomtest(gained, gained + lost).pvalue  # McNemar's exact test
        yield _row([tuned, *_test_cells(test["best"]), f"{gained}, {lost}", f"p = {p:.2g}"])


def _test_cells(measurement: Mapping[str, Any]) -> tuple[str, int]:
    return _rate_of(measurement), measurement["unparseable"]


def speed_tables(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """The tables of docs/speed.md by the name of their block."""
    columns = {
        "generate": {
            "work": "work",
            "n": "n",
            "tool": "tool",
            "tokens_per_s": "new tokens/s",
            "ratio": "selftaught is",
        },
        "train": {"n": "rows", "tool": "tool", "tokens_per_s": "tokens/s", "ratio": "selftaught is"},
        "iteration": {"n": "problems", "tool": "tool", "load_s": "load", "rationales_s": "rationales"}
        | {"rationalizations_s": "rationalizations", "train_s": "train", "total_s": "in all"},
    }
    after = {"generate": {"load_s": "loading, s"}, "train": {}, "iteration": {}}
    tables: dict[str, list[str]] = {
        name: list(
            _speed_table(
                record[name], {"machine": "machine", **columns[name], **after[name], "memory_gb": "memory, GB"}
            )
        )
        for name in columns
    }
    machines = [_row([f"**{name}**", what]) for name, what in record["machines"].items()]
    return {**tables, "machines": ["| machine | what it is |", "|---|---|", *machines]}


def _speed_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Iterator[str]:
    yield _row([*columns.values(), "date"])
    yield "|---" * (len(columns) + 1) + "|"
    for row in rows:
        ratio = f"{row['ours'] / row['tokens_per_s']:.2f} x" if "ours" in row else ""
        shown = {**row, "ratio": ratio}
        yield _row([*(shown.get(key, NONE) for key in columns), row["date"]])


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _rate(correct: int, n: int) -> str:
    low, high = wilson_interval(correct, n)
    return f"{correct}/{n} {correct / n:.3f} [{low:.3f}, {high:.3f}]"


def _rate_of(measurement: Mapping[str, Any]) -> str:
    return _rate(measurement["correct"], measurement["n"])


def _false(measurement: Mapping[str, Any]) -> str:
    return NONE if measurement["false_positive"] is None else str(measurement["false_positive"])


def _share(counts: Sequence[int]) -> str:
    return f"{counts[0]}/{counts[1]}" if counts[1] else NONE


def _sources(examples: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {source}" for source, count in examples.items())


def _seconds(run: Mapping[str, Any]) -> float:
    return sum(sum(item["seconds"].values()) for item in run["iterations"] if "seconds" in item)


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")

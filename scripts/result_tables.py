"""The tables of docs/results, which recorded runs and measurements become: whole pages, and blocks of pages."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from scipy.stats import binomtest

from selftaught.methods.metrics import wilson_interval
from selftaught.methods.table import METHODS

NONE = "–"


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

"""The report of run folders that the tests write, without a model."""

import json
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import LEAST, PATIENCE_S
from selftaught.config.loading import config_from_values, flat_values
from selftaught.methods.metrics import rate
from selftaught.methods.table import METHODS
from selftaught.records.errors import StoreError
from selftaught.records.measurements import IterationSummary, Measurement, SamplingCounts
from selftaught.records.training import TrainingSummary
from selftaught.report.report import (
    CLASS_COLORS,
    iteration_table,
    write_report,
)
from selftaught.report.run_tables import class_names
from selftaught.runs.reading import FORMAT, dump_measurement
from selftaught.runs.store import RunStore

BASE = {"1": (30, 50), "2": (10, 50)}
FIRST = {"1": (40, 50), "2": (21, 50)}


def measurement(
    classes: Mapping[str, tuple[int, int]], *, iteration: int = 0, split: str = "dev", **changed: Any
) -> Measurement:
    total = rate(sum(correct for correct, _ in classes.values()), sum(n for _, n in classes.values()))
    values: dict[str, Any] = {
        "task": "arithmetic",
        "split": split,
        "iteration": iteration,
        "num_shots": 0,
        "temperature": 0.0,
        "num_samples": 1,
        "n": total.n,
        "correct": total.correct,
        "accuracy": total.accuracy,
        "interval": total.interval,
        "by_class": {name: rate(correct, n) for name, (correct, n) in classes.items()},
        "unparseable": 3,
        "truncated": 2,
        "false_positive": 4,
    }
    return Measurement(**values | changed)


def counts(samples: int, correct: int, false_positive: int | None) -> SamplingCounts:
    return SamplingCounts(
        samples=samples,
        correct=correct,
        incorrect=samples - correct,
        unparseable=0,
        truncated=0,
        false_positive=false_positive,
    )


def summary(iteration: int = 1, classes: Mapping[str, tuple[int, int]] = FIRST, **changed: Any) -> IterationSummary:
    training: dict[str, Any] = {
        "steps": 44,
        "tokens": 9_000,
        "seconds": 7.0,
        "first_loss": 1.93456,
        "last_loss": 0.12345,
        "validation_loss": 0.6789,
        "dev_answer_loss": 0.5,
    }
    values: dict[str, Any] = {
        "iteration": iteration,
        "rationale": counts(200, 71, 5),
        "rationalization": counts(129, 83, 17),
        "examples": 260,
        "examples_by_source": {"rationalization": 80, "rationale": 70, "rehearsed": 110},
        "validation_examples": 4,
        "left_out": {"incorrect": 168, "unparseable": 7, "held out for validation": 4},
        "train": TrainingSummary(**training | changed.pop("train", {})),
        "dev": measurement(classes, iteration=iteration),
        "seconds": {"rationale": 1.5, "rationalization": 2.25, "train": 7.5, "dev": 1.0},
        "tokens_per_s": {"rationale": 900.0},
        "work_s": {"sampling": 4.0, "training": 7.0, "loading": 0.5, "other": 0.75},
        "warnings": (),
    }
    return IterationSummary(**values | changed)


def write_run(
    run_dir: Path,
    *,
    summaries: Sequence[IterationSummary] = (),
    base: Mapping[str, tuple[int, int]] | None = BASE,
    result: int | None = None,
    settings: Mapping[str, Any] = {},
) -> Path:
    """Write a run folder; the run is finished if `result`, its best iteration, is given."""
    method = settings.get("method", "star")
    config = flat_values(config_from_values({**LEAST, **METHODS[method].knobs, "method": method, **settings}))
    about = {
        "format": FORMAT,
        "config": config,
        "resolved": {"device": "cpu", "dtype": "float32", "threads": 3, "engine": {"name": "local", "slots": 16}},
        "model": {"path": "/models/adder", "sha256": "0123456789abcdef"},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "git_commit": None,
        "started": "2026-11-21T23:54:47+00:00",
    }
    with RunStore(run_dir) as store:
        store.write_json("run.json", about)
        for item in [] if base is None else [measurement(base)]:
            store.append_measurement(item)
        for done in summaries:
            store.append_measurement(done.dev)
            store.finish_iteration(done)
        if result is not None:
            before = measurement({"1": (29, 50), "2": (9, 50)}, split="test")
            after = measurement({"1": (37, 50), "2": (18, 50)}, split="test", iteration=result, false_positive=6)
            store.append_measurement(before)
            store.append_measurement(after)
            ends = {"base": dump_measurement(before), "test": dump_measurement(after)}
            store.write_json(
                "result.json", {"best_iteration": result, "checkpoint": f"checkpoints/{result:03d}", **ends}
            )
    return run_dir


def report_text(*run_dirs: Path, out_dir: Path | None = None) -> str:
    return write_report(run_dirs, out_dir).markdown.read_text(encoding="utf-8")


def table_after(text: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first table after a heading, by column."""
    lines = f"\n{text}".partition(f"\n{heading}\n")[2].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    last = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first:last]]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_report_of_one_run_is_written_into_its_folder(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "a", summaries=[summary()], result=1)
    written = write_report([run_dir])
    assert (written.markdown, written.svg, written.png) == tuple(
        run_dir / name for name in ("report.md", "accuracy.svg", "accuracy.png")
    )
    assert "](accuracy.svg)" in written.markdown.read_text()
    assert ET.parse(written.svg).getroot().tag.endswith("svg")
    png = written.png.read_bytes()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">I", png[16:20])[0] >= 1000


@pytest.mark.parametrize(
    ("chat", "said"),
    [(None, "a text to continue"), ({"thinking": False}, "turns, rendered by the model's chat template")],
)
def test_the_report_says_whether_prompts_are_turns(chat: dict[str, bool] | None, said: str, tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    about = json.loads((run_dir / "run.json").read_text())
    about["resolved"]["chat"] = chat
    (run_dir / "run.json").write_text(json.dumps(about))
    assert f"| prompts | {said} |" in report_text(run_dir)


def test_the_report_of_several_runs_is_written_into_report_unless_a_folder_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [write_run(Path("runs") / name, summaries=[summary()]) for name in ("a", "b")]
    assert write_report(runs).markdown == Path("report/report.md")
    assert write_report(runs, tmp_path / "deep" / "er").png == tmp_path / "deep" / "er" / "accuracy.png"


def test_the_dev_table_states_every_class_with_count_and_interval(tmp_path: Path) -> None:
    rows = table_after(report_text(write_run(tmp_path / "a", summaries=[summary()])), "### Accuracy on dev")
    assert rows == [
        {
            "iteration": "0",
            "class 1": "30/50 0.600 [0.462, 0.724]",
            "class 2": "10/50 0.200 [0.112, 0.330]",
            "dev": "40/100 0.400 [0.309, 0.498]",
            "mean over classes": "0.40",
        },
        {
            "iteration": "1",
            "class 1": "40/50 0.800 [0.670, 0.888]",
            "class 2": "21/50 0.420 [0.294, 0.558]",
            "dev": "61/100 0.610 [0.512, 0.700]",
            "mean over classes": "0.61",
        },
    ]


def test_the_mean_over_classes_weights_classes_equally(tmp_path: Path) -> None:
    (row,) = table_after(
        report_text(write_run(tmp_path / "a", base={"1": (10, 10), "2": (0, 90)})), "### Accuracy on dev"
    )
    assert (row["dev"].split()[1], row["mean over classes"]) == ("0.100", "0.50")


def test_the_work_table_states_the_numbers_of_the_summary(tmp_path: Path) -> None:
    rows = table_after(report_text(write_run(tmp_path / "a", summaries=[summary()])), "### Sampled and trained")
    assert rows == [
        {
            "iteration": "1",
            "rationales correct": "71/200",
            "hints accepted": "83/129",
            "false positives": "5/71",
            "false positives, hinted": "17/83",
            "examples": "260",
            "steps": "44",
            "loss": "1.9346 → 0.1235",
            "validation loss": "0.6789",
            "seconds": "12.2",
            "of which other": "0.8",
        }
    ]


@pytest.mark.parametrize(
    ("shows", "how"),
    [
        ("nothing", "again without a hint"),
        ("shuffled", "with another problem's answer as a hint"),
        ("text", "with random letters as a hint"),
    ],
)
def test_a_second_attempt_that_was_shown_no_answer_is_not_called_hinted(shows: str, how: str, tmp_path: Path) -> None:
    checked = replace(counts(129, 83, 17), checks={"steps": rate(66, 83)})
    settings = {"method": "custom", "rationalization.shows": shows, "rationalization.temperature": 0.7}
    done = summary(rationalization=checked, kept_before=rate(30, 40))
    run_dir = write_run(tmp_path / "a", summaries=[done], settings=settings)
    text = report_text(run_dir)
    assert f"Second attempts: failed problems, sampled {how}." in text
    (work,), (progress,) = (table_after(text, title) for title in ("### Sampled and trained", "### Progress"))
    assert (work["second attempts correct"], work["false positives, second attempt"]) == ("83/129", "17/83")
    assert progress["solved, second attempt"].startswith("83/129 ")
    assert [row["sampled"] for row in table_after(text, "### Checks")] == ["second attempt"]
    tables = text.partition("### Sampled and trained")[2]
    assert "hinted" not in tables
    assert "hint minus" not in tables
    header, _ = iteration_table(run_dir)
    assert "again" in header
    assert "hints" not in header


def test_a_missing_number_is_a_dash_and_never_a_zero(tmp_path: Path) -> None:
    nothing = {"first_loss": None, "last_loss": None, "validation_loss": None}
    done = summary(rationale=counts(200, 150, None), rationalization=counts(0, 0, None), train=nothing, work_s={})
    run_dir = write_run(tmp_path / "a", summaries=[done])
    (row,) = table_after(report_text(run_dir), "### Sampled and trained")
    dashes = {name for name, cell in row.items() if cell == "–"}
    unknown = {"hints accepted", "false positives", "false positives, hinted", "loss", "validation loss"}
    assert dashes == unknown | {"of which other"}
    _, (_, row_1) = iteration_table(run_dir)
    assert row_1[4:] == ["150/200", "–", "–/–", "260", "44", "–", "12"]


def test_a_validation_loss_of_zero_is_a_number(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "a", summaries=[summary(train={"validation_loss": 0.0})])
    assert table_after(report_text(run_dir), "### Sampled and trained")[0]["validation loss"] == "0.0000"


def test_the_result_table_states_base_and_best_on_test(tmp_path: Path) -> None:
    text = report_text(write_run(tmp_path / "a", summaries=[summary()], result=1))
    rows = {row[""]: (row["base model"], row["best (iteration 1)"]) for row in table_after(text, "### Result")}
    assert rows == {
        "all classes": ("38/100 0.380 [0.291, 0.478]", "55/100 0.550 [0.452, 0.644]"),
        "class 1": ("29/50 0.580 [0.442, 0.706]", "37/50 0.740 [0.604, 0.841]"),
        "class 2": ("9/50 0.180 [0.098, 0.308]", "18/50 0.360 [0.241, 0.499]"),
        "mean over classes": ("0.38", "0.55"),
        "unparseable, truncated": ("3, 2", "3, 2"),
        "false positives": ("4/38", "6/55"),
    }
    assert "Best on dev: iteration 1 (checkpoints/001)" in text


def test_extrapolation_is_listed_if_it_was_measured(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "a", summaries=[summary()], result=1)
    with RunStore(run_dir) as store:
        store.append_measurement(measurement({"6": (0, 20)}, split="extrapolation"))
        store.append_measurement(measurement({"6": (5, 20)}, split="extrapolation", iteration=1))
    rows = [row for row in table_after(report_text(run_dir), "### Result") if row["split"] == "extrapolation"]
    assert rows[1] == {
        "split": "extrapolation",
        "": "class 6",
        "base model": "0/20 0.000 [0.000, 0.161]",
        "best (iteration 1)": "5/20 0.250 [0.112, 0.469]",
    }


def test_the_report_of_a_run_without_improvement_says_that_the_base_model_is_best(tmp_path: Path) -> None:
    text = report_text(write_run(tmp_path / "a", summaries=[summary()], result=0))
    assert "Best on dev: the base model, which no iteration beat" in text


def test_kept_and_left_out_are_listed_by_reason_and_add_up(tmp_path: Path) -> None:
    text = report_text(write_run(tmp_path / "a", summaries=[summary()]))
    (row,) = table_after(text, "### Samples left out")
    assert row == {
        "iteration": "1",
        "samples": "329",
        "kept": "150",
        "incorrect": "168",
        "unparseable": "7",
        "held out for validation": "4",
        "other rows": "110 rehearsed",
        "examples": "260",
    }
    assert 329 == 150 + 168 + 7 + 4
    assert "does not add up" not in text


def test_an_iteration_that_does_not_add_up_is_named(tmp_path: Path) -> None:
    lost_sample = summary(iteration=2, left_out={"incorrect": 167, "unparseable": 7, "held out for validation": 4})
    lost_example = summary(iteration=3, examples=259)
    text = report_text(write_run(tmp_path / "a", summaries=[summary(), lost_sample, lost_example]))
    assert re.findall(r"Iteration (\d) does not add up", text) == ["2", "3"]


def test_a_window_over_all_iterations_counts_the_earlier_samples_too(tmp_path: Path) -> None:
    second = summary(
        iteration=2,
        examples=410,
        examples_by_source={"rationalization": 160, "rationale": 140, "rehearsed": 110},
        left_out={"incorrect": 336, "unparseable": 14, "held out for validation": 8},
    )
    settings = {"method": "star-accumulate"}
    text = report_text(write_run(tmp_path / "a", summaries=[summary(), second], settings=settings))
    assert [row["samples so far"] for row in table_after(text, "### Samples left out")] == ["329", "658"]
    assert "does not add up" not in text


def test_only_settings_that_differ_from_the_method_and_the_defaults_or_have_none_are_listed(tmp_path: Path) -> None:
    settings = {"method": "rest-em", "training.batch_size": 16, "sampling.top_k": 7, "seed": 5}
    text = report_text(write_run(tmp_path / "a", settings=settings))
    facts, different = text.partition("### What was run")[2].partition("| setting |")[::2]
    assert "| method | rest-em |" in facts
    assert "| seed | 5 |" in facts
    assert "device cpu, dtype float32" in facts
    assert "torch 2.13.0" in facts
    listed = [line for line in different.partition("\n\n")[0].splitlines() if "." in line]
    assert listed == [
        "| sampling.top\\_k | 7 | 40 |",
        "| training.batch\\_size | 16 | 8 |",
        "| training.learning\\_rate | 0.001 | – |",
    ]


def test_the_warnings_of_each_iteration_are_listed(tmp_path: Path) -> None:
    warned = summary(iteration=2, warnings=("dev accuracy fell", "only 3 <kept>"))
    text = report_text(write_run(tmp_path / "a", summaries=[summary(), warned]))
    warnings = text.partition("### Warnings\n\n")[2].splitlines()[:2]
    assert warnings == ["- iteration 2: dev accuracy fell", "- iteration 2: only 3 &lt;kept&gt;"]


def test_the_report_of_an_unfinished_run_says_how_far_it_is(tmp_path: Path) -> None:
    text = report_text(write_run(tmp_path / "a", summaries=[summary()], settings={"loop.max_iterations": 9}))
    assert "**Unfinished**: 1 of at most 9 iterations so far; there is no result." in text
    assert "### Result" not in text


@pytest.mark.parametrize("base", [BASE, None])
def test_a_run_without_a_finished_iteration_still_gets_a_report(
    tmp_path: Path, base: Mapping[str, tuple[int, int]] | None
) -> None:
    run_dir = write_run(tmp_path / "a", base=base)
    assert "**Unfinished**: no iteration has finished yet" in report_text(run_dir)
    assert len(iteration_table(run_dir)[1]) == (base is not None)


def test_the_report_of_several_runs_names_and_compares_each(tmp_path: Path) -> None:
    first = write_run(tmp_path / "with hints", summaries=[summary()], result=1)
    second = write_run(tmp_path / "without", summaries=[summary()], settings={"method": "star-no-rationalization"})
    written = write_report([first, second], tmp_path / "out")
    text = written.markdown.read_text()
    assert {"## with hints", "## without"} <= set(text.splitlines())
    finished, unfinished = table_after(text, "# Report: with hints, without")
    assert finished == {
        "run": "with hints",
        "method": "star",
        "seed": "0",
        "iterations": "1",
        "best": "1",
        "dev, base": "40/100 0.400 [0.309, 0.498]",
        "dev, best": "61/100 0.610 [0.512, 0.700]",
        "test, base": "38/100 0.380 [0.291, 0.478]",
        "test, best": "55/100 0.550 [0.452, 0.644]",
    }
    assert [unfinished[name] for name in ("best", "dev, best", "test, base", "test, best")] == ["–"] * 4
    svg = written.svg.read_text()
    for name in ("with hints", "without", "star-no-rationalization", "mean over classes", "class", "run"):
        assert f"<!-- {name}" in svg


def test_runs_whose_folders_have_the_same_name_are_named_by_their_paths(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / parent / "run", base=BASE) for parent in "xy"]
    headings = [line for line in report_text(*runs, out_dir=tmp_path).splitlines() if line.startswith("## ")]
    assert headings == [f"## {tmp_path}/{parent}/run".replace("_", "\\_") for parent in "xy"]


def test_classes_that_only_some_runs_or_iterations_have_are_plotted_and_listed(tmp_path: Path) -> None:
    wider = summary(classes={"1": (40, 50), "2": (21, 50), "10": (3, 50)})
    runs = [write_run(tmp_path / "a", summaries=[wider])]
    runs += [write_run(tmp_path / name, base={f"only {name}": (1, 2)}) for name in ("b", "c", "d")]
    runs += [write_run(tmp_path / "e", base=None)]
    rows = table_after(report_text(*runs, out_dir=tmp_path), "### Accuracy on dev")
    assert list(rows[0])[1:4] == ["class 1", "class 2", "class 10"]
    assert [row["class 10"] for row in rows] == ["–", "3/50 0.060 [0.021, 0.162]"]


def test_classes_are_sorted_by_their_numbers() -> None:
    assert class_names([measurement(dict.fromkeys(("10 b", "2", "01", "10", "1", "²", "a"), (1, 2)))]) == [
        "01",
        "1",
        "2",
        "10",
        "10 b",
        "a",
        "²",
    ]


def test_text_from_data_is_escaped_in_the_page_and_in_the_picture(tmp_path: Path) -> None:
    name = "a|b <script>alert('x')</script>\n\n# `c` *d* $e$ _f_ [g](h) \x07 --> &amp;"
    done = summary(classes={name: (1, 2)}, left_out={f"reason {name}": 179}, warnings=(name,))
    written = write_report([write_run(tmp_path / "a", summaries=[done], base={name: (0, 2)}, result=1)])
    text = written.markdown.read_text()
    escaped = r"a&#124;b &lt;script&gt;alert('x')&lt;/script&gt; \# \`c\` \*d\* \$e\$ \_f\_ \[g\](h) --&gt; &amp;amp;"
    assert "<" not in text
    assert f"| iteration | class {escaped} | dev |" in text
    assert f"| reason {escaped} |" in text
    assert f"- iteration 1: {escaped}\n" in text
    assert not [e for e in ET.parse(written.svg).iter() if e.tag.endswith("script")]


def test_a_name_that_looks_like_a_formula_is_plotted_as_text(tmp_path: Path) -> None:
    written = write_report([write_run(tmp_path / "$\\no$", base={"$\\such$": (1, 2), "_formula": (1, 2)})])
    assert {"<!-- $\\such$ -->", "<!-- _formula -->"} <= set(re.findall("<!-- .* -->", written.svg.read_text()))


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, summaries=[summary()], result=1) for name in "ab"]
    for reported in (runs, runs[:1]):
        first, second = (write_report(reported, tmp_path / out) for out in ("one", "two"))
        assert first.svg.read_bytes() == second.svg.read_bytes()
        assert first.markdown.read_bytes() == second.markdown.read_bytes()


def test_the_lines_of_the_picture_go_through_the_accuracies_of_all_iterations(tmp_path: Path) -> None:
    later = summary(iteration=2, classes={"1": (50, 50), "2": (0, 50)})
    svg = write_report([write_run(tmp_path / "a", summaries=[summary(), later])]).svg.read_text()
    heights = []
    for color in CLASS_COLORS[:2]:
        points = re.search(rf'<path d="M ([^"z]*)" style="fill: none; stroke: {color.lower()}', svg)
        assert points, color
        heights.append([float(point.split()[1]) for point in points[1].split("L")])
    zero, one = heights[1][2], heights[0][2]
    accuracies = [[(y - zero) / (one - zero) for y in line] for line in heights]
    assert accuracies == [pytest.approx([0.6, 0.8, 1.0]), pytest.approx([0.2, 0.42, 0.0])]


def test_one_run_is_plotted_with_intervals_and_several_without(tmp_path: Path) -> None:
    iterated = write_run(tmp_path / "a", summaries=[summary()])
    only_base = write_run(tmp_path / "b")
    for runs, bands, bars in (([iterated], 2, 0), ([only_base], 2, 2), ([iterated, only_base], 0, 0)):
        svg = write_report(runs, tmp_path / "out").svg.read_text()
        assert svg.count('id="FillBetweenPolyCollection_') == bands
        assert svg.count('id="LineCollection_') == bars


def test_the_terminal_table_states_the_numbers_of_the_records(tmp_path: Path) -> None:
    header, rows = iteration_table(write_run(tmp_path / "a", summaries=[summary(), summary(2, BASE, examples=7)]))
    assert header == ["iter", "1", "2", "dev", "correct", "hints", "false +", "examples", "steps", "loss", "s"]
    assert rows == [
        ["0", "0.60", "0.20", "0.40 [0.31, 0.50]", *["–"] * 7],
        ["1", "0.80", "0.42", "0.61 [0.51, 0.70]", "71/200", "83/129", "5/17", "260", "44", "1.935→0.123", "12"],
        ["2", "0.60", "0.20", "0.40 [0.31, 0.50]", "71/200", "83/129", "5/17", "7", "44", "1.935→0.123", "12"],
    ]


def test_the_terminal_table_of_a_large_run_fits_into_120_columns(tmp_path: Path) -> None:
    classes = dict.fromkeys("12345", (100, 100))
    large = summary(
        iteration=16,
        classes=classes,
        rationale=counts(5000, 4321, 12),
        rationalization=counts(4930, 4000, 345),
        examples=12_345,
        seconds={"train": 9_999.0},
    )
    header, rows = iteration_table(write_run(tmp_path / "a", summaries=[large], base=classes))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    assert sum(widths) + 2 * (len(widths) - 1) <= 120


def test_a_folder_that_is_no_run_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "a", summaries=[summary()])
    (tmp_path / "not a run").mkdir()
    with pytest.raises(StoreError, match=r"not a run is not a run folder \(no run.json\)"):
        write_report([run_dir, tmp_path / "not a run"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(StoreError, match="is not a run folder"):
        iteration_table(tmp_path / "not a run")


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write the report to .*file: .*--out-dir"):
        write_report([write_run(tmp_path / "a")], tmp_path / "file")


def test_the_report_needs_neither_the_loop_nor_torch_nor_pyplot(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "a", summaries=[summary()])
    code = (
        "import sys; from pathlib import Path; from selftaught.report.report import write_report\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"write_report([Path({str(run_dir)!r})])\n"
        "unwanted = ('torch', 'transformers', 'matplotlib.pyplot', 'selftaught.loop', 'selftaught.stages.stages')\n"
        "print([name for name in unwanted if name in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert process.stdout == "[]\n"

"""A comparison's table as text, Markdown and LaTeX, from records."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import measurement
from selftaught.commands.compare_table import as_json
from selftaught.comparison.cells import OnTest, Point, Result, Work
from selftaught.comparison.plan import Cell
from selftaught.comparison.plots import write_plots
from selftaught.comparison.results import Table, table_of
from selftaught.comparison.texts import About, latex, markdown, notes, parts, tex
from selftaught.records.errors import StoreError
from selftaught.report.cells import md
from selftaught.runs.shared_chunks import Saving

AT_THE_END = ["What came of the selected model", "What came of the last model", "What the whole run took"]
PROBLEMS = tuple(f"p{i}" for i in range(10))


def on_test(solved: str, iteration: int = 0, **fields: Any) -> OnTest:
    """A model by the problems that it solves: `1` for a solved one."""
    flags = tuple(letter == "1" for letter in solved)
    values: dict[str, Any] = {"unhinted": 0, "hinted": 0, "steps": 0, "loss_tokens": 0, **fields}
    return OnTest(
        iteration=iteration,
        measurement=measurement(sum(flags), len(flags), split="test", iteration=iteration),
        solved=flags,
        **values,
    )


def result(row: str, seed: int, solved: str, last: str | None = None, **fields: Any) -> Result:
    model = on_test(solved, 2, unhinted=40, hinted=20, steps=12, loss_tokens=3000)
    values: dict[str, Any] = {
        "problems": PROBLEMS,
        "data_sha256": "d",
        "base_sha256": "b",
        "train": 80,
        "base": on_test("1000000000"),
        "selected": model,
        "last": model if last is None else on_test(last, 3, steps=12, loss_tokens=3000),
        "work": Work(steps=36, generated=20_000, trained=5_000, flops=1.5e12, seconds=1800.0),
        "points": (Point(iteration=0, accuracy=0.1, tokens=0), Point(iteration=1, accuracy=0.4, tokens=900)),
        **fields,
    }
    return Result(cell=Cell(row, seed), **values)


def about(**fields: Any) -> About:
    values: dict[str, Any] = {
        "task": "sums_of_two",
        "model": "small",
        "at": "equal-steps",
        "steps": 12,
        "batch_size": 8,
        "missing": {},
        "saving": Saving(used=4_000, saved=2_000),
        "generated": 80_000,
        **fields,
    }
    return About(**values)


@pytest.fixture
def found() -> Table:
    return table_of(
        [
            result("seeds-only", 1, "1100000000"),
            result("star", 2, "1111100000", last="1111000000"),
            result("star", 1, "1111110000", last="1111100000"),
            result("star-no-rationalization", 1, "1111000000"),
            result("star-no-rationalization", 2, "1110000000"),
        ]
    )


def cells_of(found: Table, part: int, row: str) -> dict[str, str]:
    """The cells of one row by column; of columns with one name the first."""
    _, header, rows = parts(found)[part]
    (cells,) = [cells for cells in rows if cells[0] == row]
    return dict(reversed(list(zip(header, cells, strict=True))))


def test_rows_are_in_the_order_of_the_table_with_their_seeds_in_order(found: Table) -> None:
    assert [(row.row, row.seeds) for row in found.rows] == [
        ("star-no-rationalization", (1, 2)),
        ("star", (1, 2)),
        ("seeds-only", (1,)),
    ]
    assert (found.against, found.problems, found.train) == ("star", 10, 80)


def test_accuracy_has_mean_and_spread_over_seeds_and_each_seed(found: Table) -> None:
    star = cells_of(found, 0, "star")
    assert (star["selected %"], star["by seed"], star["last %"]) == ("55.0 ± 7.1", "60.0, 50.0", "45.0 ± 7.1")
    assert star["train used %"] == "75.0"
    assert parts(found)[0][1].count("train used %") == 2
    single = cells_of(found, 0, "seeds-only")
    assert (single["selected %"], single["by seed"], single["95 %"]) == ("20.0", "–", "[5.7, 51.0]")


def test_differences_are_on_common_seeds_and_adjusted_for_the_number_of_rows(found: Table) -> None:
    without = cells_of(found, 1, "star-no-rationalization")
    assert (without["selected"], without["gained, lost by seed"]) == ("-20.0", "+0 −2, +0 −2")
    assert without["McNemar p by seed"] == "0.500, 0.500"
    single = cells_of(found, 1, "seeds-only")
    assert (single["seeds"], single["selected"], single["p"], single["p (Holm)"]) == ("1", "-40.0", "0.125", "0.250")
    last = cells_of(found, 2, "star-no-rationalization")
    assert (last["last"], last["McNemar p by seed"]) == ("-10.0", "1.000, 1.000")
    assert {cells[0] for cells in parts(found)[1][2]} == {"star-no-rationalization", "seeds-only"}


def test_what_came_of_it_is_against_the_base_model(found: Table) -> None:
    selected, last, whole = (cells_of(found, part, "star") for part in (-3, -2, -1))
    assert [of["gained, lost against base"] for of in (selected, last)] == ["+5 −0, +4 −0", "+4 −0, +3 −0"]
    assert [of["train used %, first + second attempt"] for of in (selected, last)] == ["50.0 + 25.0", "0.0 + 0.0"]
    assert [of["false positives"] for of in (selected, last)] == ["–", "–"]
    assert (whole["tokens generated"], whole["FLOPs"], whole["hours"]) == ("20 000", "1.5e+12", "0.50")
    assert not any("pass@k" in column for column in whole)


def test_false_positives_are_those_of_each_model() -> None:
    def model(wrong: int, iteration: int) -> OnTest:
        made = on_test("1" * 8 + "00", iteration)
        return replace(made, measurement=replace(made.measurement, false_positive=wrong))

    pair = [replace(result("star", seed, "1" * 10), selected=model(1, 1), last=model(3, 2)) for seed in (1, 2)]
    found = table_of(pair)
    assert [cells_of(found, part, "star")["false positives"] for part in (-3, -2)] == ["2/16", "6/16"]


def test_pass_at_k_is_there_when_base_and_result_have_it() -> None:
    several = {
        n: measurement(5, 10, iteration=n, num_samples=8, temperature=0.7, pass_at_k={"1": 0.1, "8": 0.4 + n / 10})
        for n in (0, 2)
    }
    found = table_of([result("star", 1, "1111110000", passes=several)])
    column = "pass@k on dev %, base → selected (k = 8, T = 0.7, n = 10)"
    assert cells_of(found, -1, "star")[column] == "40.0 → 60.0"
    partly = table_of([result("star", 1, "1111110000", passes={0: several[0]})])
    assert partly.rows[0].passes is None


def test_without_the_row_to_compare_with_there_are_no_differences() -> None:
    found = table_of([result("seeds-only", 1, "1100000000")])
    assert found.against == ""
    assert "No differences: the row that the others are compared with (--against) has no finished cell." in notes(
        found, about()
    )
    assert [title for title, _, _ in parts(found)] == ["Accuracy on test", *AT_THE_END]


def test_rows_without_a_common_seed_are_named_and_an_empty_table_of_differences_is_left_out() -> None:
    star, retry, other = (result(row, seed, "1" * 10) for row, seed in (("star", 1), ("retry", 1), ("seeds-only", 2)))
    line = "Not compared with star, for they have no seed in common: seeds-only."
    found = table_of([star, retry, other])
    assert line in notes(found, about())
    assert [row[0] for row in parts(found)[1][2]] == ["retry"]
    assert len(parts(found)) == 6
    found = table_of([star, other])
    assert line in notes(found, about())
    assert len(parts(found)) == len(parts(table_of([star]))) == 4
    assert not any("Not compared" in line for line in notes(table_of([star, retry]), about()))


@pytest.mark.parametrize(("solved", "interval"), [("0", "[0.0, 27.8]"), ("1", "[72.2, 100.0]")])
def test_seeds_that_all_solve_nothing_or_everything_are_no_certain_rate(solved: str, interval: str) -> None:
    found = table_of([result("star", seed, solved * 10) for seed in (1, 2)])
    assert cells_of(found, 0, "star")["95 %"] == interval  # Wilson's of 10 problems


def test_the_notes_say_what_the_table_cannot(found: Table) -> None:
    lines = notes(found, about(missing={Cell("star", 3): "", Cell("rft", 1): "no room"}))
    assert "sums_of_two with small: n = 10 test problems, 80 training problems." in lines
    assert "A single seed, so nothing is known of its spread: seeds-only." in lines
    assert any(line.startswith("Sharing saves up to 2000 of 80000 tokens (2.5%)") for line in lines)
    assert lines[-2:] == [
        "Not in the table, because unfinished: star:3.",
        "Not in the table: rft:1 failed: no room",
    ]
    assert "seeds-only has 12 steps to its last model, not 16." in notes(found, about(steps=16))


def test_rows_with_other_loss_tokens_behind_them_at_equal_steps_are_named() -> None:
    def row(name: str, tokens: int | None) -> Result:
        model = on_test("1" * 10, 2, steps=12, loss_tokens=tokens)
        return replace(result(name, 1, "1" * 10), last=model)

    found = table_of([row("star", 3000), row("retry", 3200), row("direct", 240), row("rft", None)])
    (line,) = [line for line in notes(found, about()) if "tokens with loss" in line]
    assert line.endswith("behind the last model, in multiples of those of star, direct 0.08.")
    assert not any("tokens with loss" in line for line in notes(found, about(at="paper")))


def test_rows_whose_selected_models_had_other_loss_tokens_are_named_wherever_the_table_is() -> None:
    def row(name: str, iteration: int, tokens: int) -> Result:
        selected = on_test("1" * 10, iteration, steps=12, loss_tokens=tokens)
        return replace(
            result(name, 1, "1" * 10), selected=selected, last=on_test("1" * 10, 2, steps=12, loss_tokens=3000)
        )

    base = on_test("1" * 10)
    untrained = replace(result("few-shot-cot", 1, "1" * 10), selected=base, last=base)
    found = table_of([row("star", 2, 3000), row("retry", 1, 1500), row("adastar", 0, 0), untrained])
    line = (
        "Behind the selected model, which may be an earlier one or the base model, the tokens with loss are, in "
        "multiples of those of star, adastar 0.00, retry 0.50."
    )
    assert [one for one in notes(found, about()) if "with loss" in one] == [line]
    assert line in as_json(found, about())["notes"]
    assert md(line) in markdown(found, about(), plots=[])
    assert f"% {line}\n" in latex(found, about())
    assert f" {line}}}\n" in latex(found, about()), "in the caption, too"


def test_rows_whose_steps_cannot_see_all_their_problems_are_named() -> None:
    def row(name: str, problems: int, iteration: int = 2) -> Result:
        model = on_test("1" * 10, iteration, unhinted=problems, steps=9)
        return replace(result(name, 1, "1" * 10), last=model, selected=model)

    found = table_of([row("star", 72), row("direct", 73), row("adastar", 24, 3), row("star-continue", 25, 3)])
    lines = [line for line in notes(found, about(steps=9)) if "see at most" in line]
    assert lines == [
        "direct had 73 problems to train its last model on, and 9 steps of 8 rows see at most 72.",
        "star-continue had 25 problems to train its last model on, and 3 steps of 8 rows see at most 24.",
    ]


def test_the_latex_table_has_the_layout_of_the_papers_tables(found: Table) -> None:
    text = latex(found, about())
    assert r"\caption{Test accuracy and train data used on sums\_of\_two, in percent, at equal steps: mean" in text
    assert r": mean $\pm$ standard deviation over seeds; in brackets the 95\,\% interval over $n = 10$" in text
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
    assert body[0].startswith("star-no-rationalization & 35.0 $\\pm$ 7.1 & [")
    assert body[1].startswith("star & 55.0 $\\pm$ 7.1 & [")
    assert " & 75.0 & 45.0 $\\pm$ 7.1 & [" in body[1]
    assert body[1].endswith(" & 0.0 \\\\")
    of_each = "20.0 & [5.7, 51.0] & 75.0"
    assert body[2:] == [r"\midrule", rf"seeds-only$^\dagger$ & {of_each} & {of_each} \\"]
    assert r"last iteration. $^\dagger$ A single seed.}" in text
    of_one_seed = latex(table_of([result("star", 1, "1111110000")]), about())
    assert "dagger" not in of_one_seed
    assert "at equal steps: in brackets the" in of_one_seed
    for environment in ("table", "tabular"):
        assert text.count(f"\\begin{{{environment}}}") == text.count(f"\\end{{{environment}}}") == 1
    columns = {line.count(" & ") for line in body if "&" in line}
    assert columns == {6}


def test_the_latex_source_has_the_notes_as_comments_and_nothing_of_this_machine() -> None:
    own = {
        "star": {"sampling.num_samples": 2, "task.data": "/home/somebody/rows\n.jsonl", "engine.url": "http://there"}
    }
    found = table_of([result("star", 1, "1111110000")], own=own)
    lacking = about(missing={Cell("rft", 1): "no room in /home/somebody", Cell("retry", 1): ""})
    text = latex(found, lacking)
    comments = [line for line in text.splitlines() if line.startswith("% ")]
    assert text.startswith("\n".join(comments))
    assert "% sums_of_two with small: n = 10 test problems, 80 training problems." in comments
    assert "% star was given sampling.num_samples = 2, task.data = rows .jsonl." in comments
    assert comments[-1] == "% Not in the table: rft:1, retry:1."
    for written in (text, json.dumps(as_json(found, about())["notes"])):
        assert "somebody" not in written
        assert "there" not in written


def test_text_is_escaped_for_latex() -> None:
    assert tex("50% of a_b & {c} \\ ~^$#\n") == (
        r"50\% of a\_b \& \{c\} \textbackslash{} \textasciitilde{}\textasciicircum{}\$\#"
    )


def test_the_markdown_page_has_every_part_and_explains_every_row(found: Table) -> None:
    text = markdown(found, about(task="a|b <i>"), plots=["accuracy.svg"])
    assert text.startswith("# Comparison on a&#124;b &lt;i&gt;\n")
    for row in found.rows:
        assert f"- **{row.row}**: " in text
    assert "![accuracy.svg](accuracy.svg)" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 6
    for lines in tables:
        assert len({line.count(" | ") for line in lines.splitlines()}) == 1


def test_cells_that_were_not_run_alike_are_refused() -> None:
    for field, what in (("data_sha256", "data"), ("base_sha256", "base weights"), ("problems", "test problems")):
        other = {field: PROBLEMS[::-1] if field == "problems" else "x"}
        with pytest.raises(StoreError, match=f"cells star:1 and star:2 were run with other {what}"):
            table_of([result("star", 1, "1" * 10), result("star", 2, "1" * 10, **other)])


def test_the_plots_have_a_line_for_every_row_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    saved: list[dict[str, bytes]] = []
    for _ in range(2):
        saved.append({})
        write_plots(
            [result("star", 1, "1" * 10), result("star", 2, "1" * 10), result("rft", 1, "0" * 10)],
            saved[-1].__setitem__,
        )
    assert saved[0] == saved[1]
    assert sorted(saved[0]) == ["accuracy.png", "accuracy.svg", "tokens.png", "tokens.svg"]

"""scripts/record_comparison.py: a comparison's folder as a file that the page of claims is made of, cell by cell."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from selftaught.comparison.plan import Cell
from selftaught.comparison.results import table_of
from selftaught.records.errors import StoreError
from test_compare import Toy

SCRIPTS = Path(__file__).parents[1] / "scripts"

pytestmark = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="the scripts are not part of an installed package")


@pytest.fixture(scope="module")
def recorder() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import record_comparison  # type: ignore[import-not-found]

        yield record_comparison
        for name in ("record_comparison", "claims_page", "claims_rounds", "claims_verdicts"):
            sys.modules.pop(name, None)


def record(recorder: ModuleType, out: Path, toy: Toy) -> None:
    """Without the plots, which take a second."""
    before = json.loads(out.read_text()) if out.exists() else None
    out.write_text(recorder.text_of(recorder.merged(before, recorder.record_of(toy.folder, "a machine"))))


def test_a_record_has_the_table_of_the_folder_and_its_page_says_what_holds(
    recorder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, out = Toy(tmp_path / "folder"), tmp_path / "compare-toy.json"
    toy.run("star", "seeds-only", seeds=(1, 2))
    recorder.write(out, recorder.record_of(toy.folder, "a machine"))
    again = recorder.read_record(json.loads(out.read_text()))
    finished = again.finished
    written = toy.table()
    assert table_of(finished.results, own=finished.own) == written.table
    assert finished.about == written.about
    assert [len(cell["iterations"]) for cell in again.cells.values()] == [3, 3, 2, 2]
    assert str(tmp_path) not in out.read_text()
    assert sorted(p.name for p in tmp_path.glob("compare-toy*")) == [
        *("compare-toy-iterations.svg", "compare-toy-tokens.svg", "compare-toy.json")
    ]

    monkeypatch.setattr("claims_page.RESULTS", tmp_path)
    names = ("compare-toy", *(f"compare-toy-{of}" for of in ("claims", "classes", "rounds", "tries")), "compare-none")
    page = "".join(f"<!-- {name}:start -->\n<!-- {name}:end -->\n" for name in names)
    filled = recorder.claims_page(page)
    same = "+0.0, the same answers"
    assert f"| star beats its base model | base model | 1, 2 | {same} | 1.000 | {same} | 1.000 |" in filled
    learns = "the model learns from its own samples | seeds-only"
    assert f"| {learns} | 1, 2 | {same}, its base model | 1.000 | {same} | 1.000 |" in filled
    assert "| going round helps beyond the first round | its own iteration 1, on dev | 1, 2 | +0.0 | – |" in filled
    assert "a machine" in filled
    assert "![accuracy on dev against iteration](results/compare-toy-iterations.svg)" in filled
    assert "Nothing is recorded yet in docs/results/compare-none.json." in filled
    assert recorder.claims_page(filled) == filled
    with pytest.raises(ValueError, match="compare-toy:end"):
        recorder.claims_page("<!-- compare-toy:start -->")


def test_cells_are_added_as_they_end_also_from_other_folders(recorder: ModuleType, tmp_path: Path) -> None:
    out, first, second, whole = tmp_path / "out.json", Toy(tmp_path / "1"), Toy(tmp_path / "2"), Toy(tmp_path / "all")
    first.fails_for = "star-seed1"
    first.run("star")
    record(recorder, out, first)
    assert json.loads(out.read_text())["cells"] == {}
    assert json.loads(out.read_text())["missing"] == {"star:1": "the server is gone; start it again"}
    first.run("few-shot-cot")
    record(recorder, out, first)
    second.run("star", "seeds-only")
    record(recorder, out, second)
    whole.run("few-shot-cot", "star", "seeds-only")
    content = json.loads(out.read_text())
    assert (list(content["cells"]), content["missing"]) == (["few-shot-cot:1", "star:1", "seeds-only:1"], {})
    rows = [
        [(row.row, row.selected, row.against) for row in table_of(results).rows]
        for results in (recorder.read_record(content).finished.results, recorder.read_finished(whole.folder).results)
    ]
    assert rows[0] == rows[1]
    other = Toy(tmp_path / "3", loop__max_iterations=3)
    other.run("star")
    with pytest.raises(StoreError, match="the record has planned_steps 4, the folder 6; give the record another name"):
        record(recorder, out, other)
    before = {**content, "config": {"shots": 3, "seed": 1}}
    with pytest.raises(StoreError) as caught:
        recorder.merged(before, {**content, "config": {"shots": 4, "seed": 1, "workers": 1}})
    assert "the record has config {'shots': 3}, the folder {'shots': 4, 'workers': 1}" in str(caught.value)


@pytest.mark.parametrize(
    ("selected", "last", "words"),
    [
        (1, 1, "holds"),
        (0, 0, "cannot be said"),
        (-1, -1, "does not hold: the reverse does"),
        (0, 1, "holds for the last model alone"),
        (-1, 0, "the reverse holds for the selected model alone"),
        (1, -1, "selected and last disagree"),
    ],
)
def test_a_claim_holds_only_if_both_models_say_so(recorder: ModuleType, selected: int, last: int, words: str) -> None:
    import claims_page  # type: ignore[import-not-found]

    assert claims_page.verdict(selected, last) == words


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (None, "holds"),
        (1.09, "holds"),
        (0.91, "holds"),
        (0.09, "holds at equal steps; 0.09 of the loss tokens"),
        (1.2, "holds at equal steps; 1.20 of the loss tokens"),
    ],
)
def test_a_verdict_says_that_a_row_has_other_loss_tokens_than_star(
    recorder: ModuleType, ratio: float | None, words: str
) -> None:
    import claims_verdicts  # type: ignore[import-not-found]

    assert claims_verdicts.with_tokens("holds", ratio) == words


def iterations(*correct: int, second_tries: int = 0, kept: int = 0) -> dict[str, Any]:
    """Of a recorded cell: the dev problems of 200 that each iteration solves, the base model first."""
    trained = {"hinted": {"samples": second_tries, "correct": kept}, "examples": {"rationale": 5, "rehearsed": 2}}
    return {
        "iterations": [
            {"iteration": i, "dev": {"correct": of, "n": 200}, **(trained if i else {})} for i, of in enumerate(correct)
        ]
    }


def test_what_going_round_brings_is_the_best_later_and_the_last_iteration_against_the_first(
    recorder: ModuleType,
) -> None:
    import claims_rounds  # type: ignore[import-not-found]

    cells = {
        Cell("star", 1): iterations(10, 100, 110, 90),
        Cell("star", 2): iterations(10, 100, 104, 104),
        Cell("star", 3): iterations(10, 100, 96, 106),
        Cell("retry", 1): iterations(10, 20, 40),
        Cell("retry", 2): iterations(10, 20, 42),
        Cell("retry", 3): iterations(10, 20, 44),
        Cell("rest-em", 1): iterations(10, 20, 150),
        Cell("star-continue", 1): iterations(10, 20, 30),
        Cell("direct", 1): iterations(10, 20),
    }
    by_row = {of.row: of for of in claims_rounds.rounds(cells)}
    assert list(by_row) == ["star", "retry", "rest-em"]
    star = by_row["star"]
    assert (star.first, star.best, star.last) == ((100, 100, 100), ((110, 2), (104, 2), (106, 3)), (90, 104, 106))
    # Of 5, 2 and 3 points: mean 10/3, standard error sqrt(7/3)/sqrt(3) = 0.8819, t = 3.780 and p = 1 - t/sqrt(t^2 + 2)
    # with two degrees of freedom = 0.0634; the interval is 4.3027 standard errors to either side.
    assert star.best_gain.interval == pytest.approx((-0.461, 7.128), abs=0.001)
    assert star.best_gain.p == pytest.approx(0.0634, abs=0.0001)
    assert star.verdict == "cannot be said"
    # Of 10, 11 and 12 points: standard error 1/sqrt(3), t = 19.053, p = 0.00274, twice that by Holm's method.
    assert by_row["retry"].last_gain.p == pytest.approx(2 * 0.00274, abs=0.00002)
    assert by_row["retry"].verdict == "holds"
    assert (by_row["rest-em"].last_gain.text, by_row["rest-em"].verdict) == ("+65.0", "cannot be said: one seed")
    assert "| star | 1, 2, 3 | 100, 100, 100 | 110 (2), 104 (2), 106 (3) | 90, 104, 106 |" in (
        claims_rounds.rounds_table(cells)
    )


def test_what_a_row_has_to_train_on_is_the_range_over_its_iterations_and_seeds(recorder: ModuleType) -> None:
    import claims_rounds

    cells = {
        Cell("hint-text", 1): iterations(10, 20, 30, second_tries=1600, kept=3),
        Cell("hint-text", 2): iterations(10, 20, 30, second_tries=1650, kept=0),
        Cell("seeds-only", 1): iterations(10, 20),
    }
    assert claims_rounds.tries_table(cells).splitlines()[2:] == ["| hint-text | 1600 to 1650 | 0 to 3 | 0 | 5 | 2 |"]

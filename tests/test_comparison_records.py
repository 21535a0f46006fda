"""scripts/record_comparison.py: a comparison's folder as a file that the page of claims is made of, cell by cell."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

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
        for name in ("record_comparison", "claims_page"):
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
    names = ("compare-toy", "compare-toy-claims", "compare-toy-classes", "compare-none")
    page = "".join(f"<!-- {name}:start -->\n<!-- {name}:end -->\n" for name in names)
    filled = recorder.claims_page(page)
    none = r"+0.0 \[+0.0, +0.0\] | 1.000"
    for claim in ("the loop learns | base model", "the model learns from its own samples | seeds-only"):
        assert f"| {claim} | 1, 2 | {none} | {none} |" in filled
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

"""A comparison as the page gets it: its runs, its table, and what of it is not there; no browser."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from selftaught.commands.compare_table import JSON
from selftaught.comparison.folder import ASKED, FORMAT
from selftaught.comparison.plan import Cell
from selftaught.records.errors import ConfigError, StoreError
from selftaught.report.web import folders
from selftaught.report.web.page_data import page_data
from selftaught.report.web.report import write_html
from selftaught.report.web.server import application
from test_compare import Toy
from test_page_server import PORT, ask

ROWS = ("few-shot-cot", "star")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows with two seeds, and their table."""
    toy = Toy(tmp_path_factory.mktemp("comparison") / "toy-compare")
    toy.own = {"star": {"training.batch_size": 3}}
    assert toy.run(*ROWS, seeds=(1, 2)) == []
    toy.table()
    return toy.folder.dir


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy = Toy(tmp_path_factory.mktemp("begun") / "toy-compare")
    toy.run("few-shot-cot", seeds=(1,))
    return toy.folder.dir


@pytest.fixture
def started(begun: Path, tmp_path: Path) -> Toy:
    """One row with one seed, and no table yet."""
    return Toy(Path(shutil.copytree(begun, tmp_path / "toy-compare")))


def both_ways(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the file holds and what the server says of a folder's runs and comparison."""
    return page_data([folder]), ask(application([folder], port=PORT), "runs")


def test_the_names_of_a_comparisons_files_are_those_that_the_command_writes() -> None:
    assert (folders.ASKED, folders.TABLE, folders.FORMAT) == (ASKED, JSON, FORMAT)


def test_a_comparison_is_its_runs_and_its_table_in_both_ways(finished: Path) -> None:
    for found in both_ways(finished):
        (comparison,) = found["comparisons"]
        cells = [(row, seed, f"{row}-seed{seed}") for row in ROWS for seed in (1, 2)]
        assert [(c["row"], c["seed"], c["run"]) for c in comparison["cells"]] == cells
        assert [run["name"] for run in found["runs"]] == [name for _, _, name in cells]
        assert (comparison["name"], comparison["missing"]) == ("toy-compare", [])
        written = json.loads((finished / JSON).read_text())
        told = ("rows", "against", "problems", "sharing", "notes")
        assert {key: comparison[key] for key in told} == {key: written[key] for key in told}
        assert "star was given training.batch_size = 3." in comparison["notes"]


def test_the_page_of_a_comparison_is_written_into_its_folder(finished: Path, tmp_path: Path) -> None:
    assert write_html([finished]).path == finished / "report.html"
    (finished / "report.html").unlink()


def test_a_comparison_that_goes_on_says_which_cells_its_table_lacks(started: Toy, finished: Path) -> None:
    app = application([started.folder.dir], port=PORT)
    before = ask(app, "runs")
    assert before["comparisons"][0]["rows"] == []
    assert [run["name"] for run in before["runs"]] == ["few-shot-cot-seed1"]
    shutil.copy(finished / JSON, started.folder.dir / JSON)
    started.folder.note_failure(Cell("star", 3), "no memory at /home/somebody")
    asked = json.loads((started.folder.dir / ASKED).read_text())
    started.folder.write_json(ASKED, {**asked, "cells": [*asked["cells"], "star:1", "star:3"]})
    assert ask(app, "state")["version"] != before["version"]
    (comparison,) = ask(app, "runs")["comparisons"]
    assert [row["row"] for row in comparison["rows"]] == list(ROWS)
    assert comparison["missing"] == [{"row": "star", "seed": 3, "failed": True, "run": None}]
    assert "somebody" not in json.dumps(page_data([started.folder.dir]))


def test_a_run_that_begins_while_its_comparison_is_looked_at_is_there(started: Toy) -> None:
    app = application([started.folder.dir], port=PORT)
    version = ask(app, "state")["version"]
    started.run("few-shot-cot", "star", seeds=(1,))
    assert ask(app, "state")["version"] != version
    assert [run["name"] for run in ask(app, "runs")["runs"]] == ["few-shot-cot-seed1", "star-seed1"]
    assert ask(app, "samples", run="star-seed1")["total"] > 0


def test_only_runs_that_have_changed_are_read_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selftaught.report.web import server

    read, real = list[str](), server.overview
    monkeypatch.setattr(server, "overview", lambda run_dir, name: read.append(name) or real(run_dir, name=name))
    app = application([finished], port=PORT)
    for _ in range(2):
        ask(app, "runs")
    assert len(read) == 4
    with open(finished / "star-seed1" / "samples" / "002-dev.jsonl", "ab") as file:
        file.write(b"{")
    ask(app, "runs")
    assert read[4:] == ["star-seed1"]


def test_paths_that_the_user_gave_to_a_row_are_not_in_the_page(finished: Path) -> None:
    path = finished / JSON
    before = path.read_text()
    content = json.loads(before)
    content["rows"][0]["own_settings"] = {"task.data": "/home/somebody/rows.jsonl", "engine.url": "http://somewhere"}
    path.write_text(json.dumps(content))
    text = json.dumps(page_data([finished]))
    path.write_text(before)
    assert "rows.jsonl" in text
    assert "somebody" not in text
    assert "somewhere" not in text


def test_runs_of_two_comparisons_that_are_called_alike_have_their_folder_before_them(started: Toy) -> None:
    other = Toy(started.folder.dir.parent / "other-compare")
    other.run("few-shot-cot", seeds=(1,))
    names = ["toy-compare/few-shot-cot-seed1", "other-compare/few-shot-cot-seed1"]
    found = folders.look_at([started.folder.dir, other.folder.dir])
    assert list(found.runs) == names


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (ASKED, {"format": 2}),
        (ASKED, {"cells": ["../../elsewhere:1"]}),
        (ASKED, {"cells": None}),
        (JSON, {"format": 2}),
        (JSON, {"rows": [{"row": "star"}]}),
        (JSON, {"rows": None}),
        (JSON, {"notes": None}),
    ],
)
def test_a_damaged_comparison_is_refused(name: str, values: Mapping[str, Any], finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(StoreError, match=f"{name} is damaged or of another version"):
        page_data([folder])


def test_a_comparison_without_a_run_and_a_run_given_twice_are_refused(started: Toy) -> None:
    folder = started.folder.dir
    with pytest.raises(ConfigError, match="are one run"):
        page_data([folder, folder / "few-shot-cot-seed1"])
    (folder / "few-shot-cot-seed1" / "run.json").unlink()
    with pytest.raises(StoreError, match="none of its runs has begun"):
        page_data([folder])

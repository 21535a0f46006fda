"""Rows and seeds of a comparison on the toy task: what is run, what is shared, what the table says, what is refused."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import selftaught as selftaught_package
from builders import LEAST
from selftaught.commands import compare
from selftaught.commands.compare import Asked
from selftaught.commands.compare_table import Written, table_if_stopped, write_table
from selftaught.commands.run import FromPython, launch
from selftaught.comparison.cells import read_cell
from selftaught.comparison.folder import ComparisonFolder
from selftaught.comparison.plan import Cell, check_only, parsed_cell, parsed_rows, parsed_seeds
from selftaught.comparison.rows import ROWS
from selftaught.config.loading import config_from_settings
from selftaught.config.settings import RunConfig
from selftaught.engines.scripted import ScriptedEngine
from selftaught.records.errors import ConfigError, EngineError, Interrupted, StoreError, Suspended
from selftaught.records.problems import Task
from selftaught.records.samples import ModelRef
from selftaught.tasks.outside import OBJECT
from selftaught.training.none import NullTrainer
from selftaught.training.trainer import Trainer
from test_cli import selftaught
from toy import TRAIN, folder_bytes, reply, toy_task

SETTINGS = {
    **{key: value for key, value in LEAST.items() if key != "task.name"},
    "sampling.num_shots": 2,
    "sampling.num_shots_fine_tuned": 0,
    "training.validation_share": 0.0,
    "training.batch_size": 2,
    "training.num_rehearsed": 1,
    "training.steps_first_iteration": 3,
    "loop.max_iterations": 2,
    "compute.chunk_completions": 4,
    "engine.cache_mib": 64,  # else the free memory decides it
}
THREE = ("few-shot-cot", "star", "seeds-only")


class Toy:
    """A comparison on the toy task with the scripted engine, whose requests are counted."""

    def __init__(self, folder: Path, *, task: Task | None = None, **settings: Any) -> None:
        self.folder = ComparisonFolder(folder)
        self.task = task or toy_task()
        self.settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in settings.items()}}
        self.engines: list[ScriptedEngine] = []
        self.notes: list[str] = []
        self.reply = reply
        self.finished: list[Path] = []
        self.fails_for = ""
        self.stops_after = 10**9
        self.trainer: Callable[[], Trainer] = NullTrainer
        self.own: dict[str, dict[str, Any]] = {}

    def load(self, overrides: Mapping[str, Any]) -> RunConfig:
        return config_from_settings(self.settings, {**overrides, "task.name": f"{OBJECT}toy"})

    def open_engine(self, model: ModelRef) -> ScriptedEngine:
        if self.fails_for and self.fails_for in model.path:
            raise EngineError("the server is gone; start it again")
        self.engines.append(ScriptedEngine(lambda prompt, seed: self.reply(prompt, seed)))
        return self.engines[-1]

    @property
    def requests(self) -> int:
        return sum(len(engine.requests) for engine in self.engines)

    def given(self) -> FromPython:
        return FromPython(task=self.task, engine=self.open_engine, trainer=self.trainer)

    def plan(self, asked: Asked) -> compare.Planned:
        return compare.plan(self.load, asked, compare.base_config(self.load, asked), self.task)

    def run(self, *rows: str, seeds: tuple[int, ...] = (1,), **asked: Any) -> list[Cell]:
        """Returns the cells that failed."""
        wanted = Asked(rows=rows or THREE, seeds=seeds, **{"of_rows": self.own, **asked})
        base = compare.base_config(self.load, wanted)
        failed = compare.compare(
            self.folder,
            self.load,
            wanted,
            base,
            self.plan(wanted),
            note=self.notes.append,
            should_stop=lambda: self.requests > self.stops_after,
            given=self.given(),
            finished=self.finished.append,
        )
        return list(failed)

    def table(self, against: str = "star") -> Written:
        return write_table(self.folder, against=against)

    def json(self) -> Any:
        return json.loads((self.folder.dir / "compare.json").read_text())


NAMES = ("problems.jsonl", "prompts.jsonl", "samples", "examples", "left_out", "result.json")


def without_times(content: Any) -> Any:
    """A JSON content without hours, which are those of the process."""
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key != "hours"}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def test_rows_and_seeds_become_run_folders_and_a_table(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    assert toy.run(seeds=(1, 2)) == []
    written = toy.table()
    rows = {row.row: row for row in written.table.rows}
    assert tuple(rows) == THREE
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("accuracy.png", "accuracy.svg", "compare.json", "compare.md", "compare.tex", "comparison.json"),
        *("few-shot-cot-seed1", "few-shot-cot-seed2", "lock", "seeds-only-seed1", "seeds-only-seed2", "shared"),
        *("star-seed1", "star-seed2", "tokens.png", "tokens.svg"),
    ]
    star = rows["star"]
    # Two of three test problems are easy, whoever is asked; the trainer trains nothing.
    assert star.selected.by_seed == star.last.by_seed == pytest.approx((2 / 3, 2 / 3))
    assert (star.selected.sd, star.selected_iterations, star.last_iterations) == (0.0, (0, 0), (2, 2))
    # Of six training problems, ant, eel and fox (with wrong reasoning) are solved without a hint, bear with one.
    assert (star.last_unhinted, star.last_hinted) == pytest.approx((3 / 6, 1 / 6))
    assert (star.unhinted, star.hinted) == (0, 0)  # the base model is the best on dev
    assert (rows["few-shot-cot"].last_iterations, rows["seeds-only"].last_iterations) == ((0, 0), (1, 1))
    assert rows["few-shot-cot"].against is not None
    assert rows["few-shot-cot"].against.difference.p == 1.0
    assert star.against is None
    assert toy.json()["rows"][1]["selected"]["by_seed"] == pytest.approx([2 / 3, 2 / 3])


def test_a_row_equals_the_same_row_run_alone_byte_for_byte(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "compare")
    toy.run("few-shot-cot", "star-no-rationalization", "star", "retry")
    for cell in (Cell("star", 1), Cell("retry", 1)):
        alone, together = tmp_path / cell.name, toy.folder.run_dir(cell)
        config = config_from_settings(json.loads((together / "run.json").read_text())["config"])
        launch(config, alone, given=toy.given())
        assert folder_bytes(together, *NAMES) == folder_bytes(alone, *NAMES)


def test_what_rows_have_in_common_is_generated_once_and_the_table_says_what_that_saves(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.run("star-no-rationalization")
    first = toy.requests
    assert first == 2 + 6 + 2 + 6 + 2 + 3 + 3  # dev, two iterations with dev, test of the base and of the last model
    toy.run("star-no-rationalization", "star")
    # Of star, dev, the first rationales and test of the base model are there; the rationalizations are not.
    assert toy.requests - first == 3 + 2 + 6 + 3 + 2 + 3
    sharing = (toy.table(), toy.json())[1]["sharing"]
    (tested,) = [read_cell(Cell("star", 1), tmp_path / "star-seed1")]
    assert tested is not None
    base = sum(
        json.loads(line)["num_tokens"]
        for name in ("000-dev", "001-rationale", "000-test")
        for line in (tmp_path / "star-seed1" / "samples" / f"{name}.jsonl").read_text().splitlines()
    )
    assert sharing["saved"] == base
    assert sharing["saved_share"] == pytest.approx(base / sharing["generated"])
    assert "Sharing saves up to" in (tmp_path / "compare.md").read_text()


def test_pass_at_k_of_base_and_result_is_in_the_table_where_the_runs_have_it(tmp_path: Path) -> None:
    toy = Toy(tmp_path, pass_at_k__samples=4, pass_at_k__problems=2)
    toy.run("star")
    (star,) = toy.table().table.rows
    assert star.passes is not None
    assert (star.passes.k, star.passes.n, star.passes.temperature) == (4, 2, 0.7)
    assert star.passes.base == star.passes.result == 0.5  # one of the two dev problems is never solved


def test_tokens_that_were_not_generated_are_not_counted_as_work_of_the_process(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.run("star-no-rationalization", "star")
    summary = json.loads((tmp_path / "star-seed1" / "iterations.jsonl").read_text().splitlines()[0])
    assert summary["tokens_per_s"]["rationale"] == 0.0
    assert summary["tokens_per_s"]["rationalization"] > 0.0


def test_a_finished_cell_is_not_run_again_and_rows_and_seeds_that_come_later_are_added(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.run("star")
    before = toy.requests
    assert toy.run("star") == []
    assert toy.requests == before
    toy.run("few-shot-cot", seeds=(3,))
    toy.run("star", seeds=(2,))
    written = toy.table()
    assert [(row.row, row.seeds) for row in written.table.rows] == [("few-shot-cot", (3,)), ("star", (1, 2))]
    assert written.about.missing == {}
    assert written.table.rows[0].against is None  # no seed in common


@pytest.mark.slow  # six seconds
def test_the_order_of_starts_does_not_show_in_the_files(tmp_path: Path) -> None:
    one, other = Toy(tmp_path / "one"), Toy(tmp_path / "other")
    one.run(seeds=(1, 2))
    for row in reversed(THREE):
        for seed in (2, 1):
            other.run(only=Cell(row, seed))
    for toy in (one, other):
        toy.table()
    assert without_times(one.json()) == without_times(other.json())
    names = ("comparison.json", "compare.tex", "accuracy.svg", "accuracy.png", "tokens.svg")
    assert folder_bytes(tmp_path / "one", *names) == folder_bytes(tmp_path / "other", *names)


def test_a_row_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.fails_for = "star-seed1"  # the model of its first iteration
    assert toy.run() == [Cell("star", 1)]
    written = toy.table(against="few-shot-cot")
    assert [row.row for row in written.table.rows] == ["few-shot-cot", "seeds-only"]
    assert written.about.missing == {Cell("star", 1): "the server is gone; start it again"}
    assert toy.json()["missing"] == [{"row": "star", "seed": 1, "failed": "the server is gone; start it again"}]
    assert "star:1 failed: the server is gone" in (tmp_path / "compare.md").read_text()
    assert "star:1 failed: the server is gone; start it again" in toy.notes
    toy.fails_for = ""
    assert toy.run() == []
    assert toy.table().about.missing == {}


def test_a_cell_that_another_process_has_in_hand_is_left_to_it(tmp_path: Path) -> None:
    first, second = Toy(tmp_path), Toy(tmp_path)
    failed: list[list[Cell]] = []

    def during(prompt: str, seed: int) -> str:
        if not failed:
            failed.append(second.run("star", "few-shot-cot"))
        return reply(prompt, seed)

    first.reply = during
    assert first.run("star") == []
    assert failed == [[Cell("star", 1)]]
    assert (
        f"star:1 failed: {tmp_path}/star-seed1 is being written by another selftaught process; wait for it, or use "
        "another folder" in second.notes
    )
    assert first.table().about.missing == {}
    assert [row.row for row in first.table().table.rows] == ["few-shot-cot", "star"]


def test_a_mistake_of_the_program_costs_no_other_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = Toy(tmp_path)

    def broken(prompt: str, seed: int) -> str:
        raise ZeroDivisionError("oops")

    toy.reply = broken
    assert toy.run() == [Cell(row, 1) for row in THREE]
    assert "report it: ZeroDivisionError: oops" in toy.folder.failure(Cell("star", 1))
    assert "Traceback" in capsys.readouterr().err


def test_a_stopped_comparison_says_how_far_it_is_and_carries_on(tmp_path: Path) -> None:
    toy, undisturbed = Toy(tmp_path / "stopped"), Toy(tmp_path / "undisturbed")
    messages: list[str] = []
    for limit in range(3, 200, 8):
        toy.stops_after = limit
        try:
            toy.run(seeds=(1, 2))
        except Interrupted as error:
            messages.append(str(error))
        else:
            break
    assert len(messages) >= 4
    assert messages[0] == (
        "stopped; 0 of 6 cells are finished, what is finished of the others is saved. Carry on with the same command"
    )
    undisturbed.run(seeds=(1, 2))
    for one in (toy, undisturbed):
        one.table()
    assert without_times(toy.json()) == without_times(undisturbed.json())
    for cell in toy.folder.cells():
        assert folder_bytes(toy.folder.run_dir(cell), *NAMES) == folder_bytes(undisturbed.folder.run_dir(cell), *NAMES)


@pytest.mark.parametrize("time_limit", [None, "0.01"])
def test_a_comparison_that_is_stopped_leaves_the_table_of_the_finished_cells(
    time_limit: str | None, tmp_path: Path
) -> None:
    toy = Toy(tmp_path)
    arguments: dict[str, Any] = {"task": toy.task, "engine": toy.open_engine, "trainer": NullTrainer}
    arguments |= {"rows": ["few-shot-cot", "star"], "seeds": [1], "folder": tmp_path / "folder"}
    if time_limit:
        selftaught_package.compare(SETTINGS, **arguments | {"rows": ["few-shot-cot"]})
        (tmp_path / "folder" / "compare.json").unlink()
        with pytest.raises(Suspended, match="the time limit"):
            selftaught_package.compare(SETTINGS, **arguments, time_limit=time_limit)
    else:
        with pytest.raises(Interrupted, match="1 of 2 cells are finished"):
            selftaught_package.compare(SETTINGS, **arguments, should_stop=lambda: toy.requests > 12)
    written = json.loads((tmp_path / "folder" / "compare.json").read_text())
    assert [row["row"] for row in written["rows"]] == ["few-shot-cot"]
    assert [(cell["row"], cell["failed"]) for cell in written["missing"]] == [("star", None)]
    for name in ("compare.md", "compare.tex", "accuracy.svg", "tokens.png"):
        assert (tmp_path / "folder" / name).exists()


def test_the_command_writes_the_table_of_the_finished_cells_when_a_scheduler_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from selftaught.cli.app import _exit_code

    Toy(tmp_path).run("few-shot-cot")

    def stopping(*given: Any, **more: Any) -> None:
        raise Suspended("stopped by SIGTERM; 1 of 2 cells are finished")

    monkeypatch.setattr(compare, "compare", stopping)
    assert _exit_code(["compare", "arithmetic", "--dir", str(tmp_path), "--rows", "star", "--seeds", "1"]) == 75
    assert [row["row"] for row in json.loads((tmp_path / "compare.json").read_text())["rows"]] == ["few-shot-cot"]
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_a_comparison_is_stopped_as_it_was_though_no_table_can_be_written(tmp_path: Path) -> None:
    said = list[str]()
    stopped = table_if_stopped(ComparisonFolder(tmp_path / "nowhere"), against="star", note=said.append)
    with pytest.raises(Suspended, match="SIGTERM"), stopped:
        raise Suspended("stopped by SIGTERM")
    (line,) = said
    assert line.startswith("no table of the finished cells: ")


def test_what_a_killed_process_has_left_half_written_goes_after_a_day_and_what_is_being_written_stays(
    tmp_path: Path,
) -> None:
    toy = Toy(tmp_path)
    toy.folder.shared.mkdir()
    old, new = toy.folder.shared / "0.jsonl.1-ab.tmp", toy.folder.shared / "1.jsonl.2-cd.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 86_500, time.time() - 86_500))
    toy.run("few-shot-cot")
    assert (old.exists(), new.exists()) == (False, True)


def test_a_run_folder_is_told_when_its_cell_has_finished_and_again_by_a_later_start(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    for _ in range(2):
        toy.finished.clear()
        toy.run("few-shot-cot")
        assert toy.finished == [tmp_path / "few-shot-cot-seed1"]


def test_an_unfinished_row_is_named(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.run()
    (tmp_path / "star-seed1" / "result.json").unlink()
    shutil.rmtree(tmp_path / "seeds-only-seed1")
    written = toy.table()
    assert (written.table.against, list(written.about.missing)) == ("", [Cell("star", 1), Cell("seeds-only", 1)])
    assert "unfinished: star:1, seeds-only:1." in (tmp_path / "compare.md").read_text()


def test_equal_steps_are_equal_along_the_lineage_of_every_last_model(tmp_path: Path) -> None:
    toy = Toy(tmp_path, loop__max_iterations=4, training__steps_first_iteration=5, training__steps_growth=1.5)
    cells = toy.plan(Asked(rows=None, seeds=(1,))).cells
    assert {cell.row for cell in cells} == set(ROWS)
    steps = {}
    for cell, config in cells.items():
        training, number = config.training, config.loop.max_iterations
        assert training.steps_growth == 1.0
        assert (config.loop.test_last, config.loop.patience) == (True, max(1, number))
        continues = training.start_from == "previous"
        steps[cell.row] = (number if continues else min(1, number)) * training.steps_first_iteration
    # int(5 * 1.5 ** 3) = 16 steps in the last iteration, which four iterations share evenly.
    assert steps == {row: 0 if row.startswith("few-shot") else 16 for row in ROWS}


def test_on_paper_each_row_has_its_own_schedule_and_a_single_training_that_of_the_last_iteration(
    tmp_path: Path,
) -> None:
    toy = Toy(tmp_path, loop__max_iterations=4, training__steps_first_iteration=5, training__steps_growth=1.5)
    cells = toy.plan(Asked(rows=("direct", "star"), seeds=(1,), at="paper")).cells
    assert {
        cell.row: (config.training.steps_first_iteration, config.training.steps_growth)
        for cell, config in cells.items()
    } == {"direct": (16, 1.5), "star": (5, 1.5)}


def test_passes_may_be_capped_for_one_row_and_on_paper_for_all(tmp_path: Path) -> None:
    cap = {"training.max_epochs": 2.0}
    for given in ({"of_rows": {"star": cap}}, {"of_all": cap, "at": "paper"}):
        (config,) = Toy(tmp_path).plan(Asked(rows=("star",), seeds=(1,), **given)).cells.values()
        assert config.training.max_epochs == 2.0


def test_what_a_row_decides_wins_over_what_is_given_for_all_and_its_own_settings_win_over_both(tmp_path: Path) -> None:
    of_all = {"task.problems_per_iteration": 3, "rationalization.temperature": 0.2}
    of_rows = {"retry": {"task.problems_per_iteration": 5}}
    asked = Asked(rows=("direct", "star", "adastar", "retry"), seeds=(1,), of_all=of_all, of_rows=of_rows)
    assert {
        cell.row: (config.task.problems_per_iteration, config.rationalization.temperature)
        for cell, config in Toy(tmp_path).plan(asked).cells.items()
    } == {"direct": ("all", 0.2), "star": (3, 0.2), "adastar": ("all", 1.0), "retry": (5, 0.7)}


def test_seeds_change_nothing_but_the_seed(tmp_path: Path) -> None:
    cells = Toy(tmp_path).plan(Asked(rows=("star",), seeds=(1, 2))).cells
    one, two = (config.model_dump() for config in cells.values())
    assert {key for key in one if one[key] != two[key]} == {"seed"}


def test_a_row_may_have_settings_of_its_own_and_the_table_says_so(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    own = {"rest-em": {"sampling.num_samples": 2}}
    toy.run("star", "rest-em", of_rows=own)
    assert "rest-em was given sampling.num_samples = 2." in (toy.table(), (tmp_path / "compare.md").read_text())[
        1
    ].replace("\\_", "_")
    with pytest.raises(StoreError, match=r"row 'rest-em' was begun with sampling.num_samples = 2, now None"):
        toy.run("rest-em")


def test_a_setting_that_let_no_run_of_a_row_begin_can_be_mended_in_the_same_folder(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    assert toy.run("star", "rest-em", of_rows={"rest-em": {"model.path": str(tmp_path / "none")}}) == [
        Cell("rest-em", 1)
    ]
    assert "none" in toy.folder.failure(Cell("rest-em", 1))
    assert toy.run("rest-em") == []
    assert toy.folder.asked()["rows"]["rest-em"] == {}
    toy.table()
    assert "rest-em was given" not in (tmp_path / "compare.md").read_text().replace("\\_", "_")


def test_a_comparison_has_one_config(tmp_path: Path) -> None:
    Toy(tmp_path).run("star")
    with pytest.raises(StoreError, match=r"was begun with loop.max_iterations = 2, now 3; rows are compared under one"):
        Toy(tmp_path, loop__max_iterations=3).run("star")
    with pytest.raises(StoreError, match="was begun with at = 'equal-steps', now 'paper'"):
        Toy(tmp_path).run("star", at="paper")


def test_cells_of_other_problems_are_not_compared(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.run("star")
    Toy(tmp_path, task=toy_task(train=TRAIN[:3])).run("seeds-only")
    with pytest.raises(StoreError, match="cells star:1 and seeds-only:1 were run with other data"):
        toy.table()


def test_a_task_without_human_solutions_has_no_such_rows(tmp_path: Path) -> None:
    bare = toy_task(train=tuple(dataclasses.replace(p, rationale="") for p in TRAIN))
    toy = Toy(tmp_path, task=bare)
    for row in ("human-solutions", "rft"):
        message = f"row '{row}': it needs human solutions, and task 'toy' has none in train; leave the row out"
        with pytest.raises(ConfigError, match=message):
            toy.plan(Asked(rows=(row,), seeds=(1,)))
    planned = toy.plan(Asked(seeds=(1,)))
    assert {cell.row for cell in planned.cells} == ROWS.keys() - {"human-solutions", "rft"}
    assert [line.partition(" needs")[0] for line in planned.left_out] == [
        f"row '{row}' is left out: it" for row in ("human-solutions", "rft")
    ]


def test_what_a_row_lacks_is_told_before_the_settings_that_all_rows_have(tmp_path: Path) -> None:
    bare = toy_task(train=tuple(dataclasses.replace(p, rationale="") for p in TRAIN))
    toy = Toy(tmp_path, task=dataclasses.replace(bare, few_shot=()), sampling__num_shots=10)
    toy.settings["training.num_rehearsed"] = 0
    with pytest.raises(ConfigError, match="row 'human-solutions': it needs human solutions"):
        toy.plan(Asked(rows=("human-solutions",), seeds=(1,)))
    with pytest.raises(ConfigError, match=r"row 'few-shot-direct' is left out: sampling\.num_shots = 10, but task"):
        toy.plan(Asked(rows=None, seeds=(1,)))


def test_without_few_shot_examples_bare_answers_are_no_row_of_their_own(tmp_path: Path) -> None:
    asked = Asked(rows=("few-shot-direct", "direct", "few-shot-cot"), seeds=(1,))
    bare = toy_task(few_shot=tuple(dataclasses.replace(p, rationale="") for p in toy_task().few_shot))
    for toy, number in ((Toy(tmp_path, sampling__num_shots=0), 0), (Toy(tmp_path, task=bare), 2)):
        with pytest.raises(
            ConfigError, match=f"its prompts are those of few-shot-cot, for none of the {number} few-shot"
        ):
            toy.plan(asked)
        rows = {cell.row for cell in toy.plan(Asked(seeds=(1,))).cells}
        assert rows & set(asked.rows or ()) == {"direct", "few-shot-cot"}
    assert len(Toy(tmp_path).plan(asked).cells) == 3
    toy = Toy(tmp_path, sampling__num_shots=0)
    toy.run("few-shot-cot")
    toy.table()
    page = (tmp_path / "compare.md").read_text()
    assert "few-shot-cot has no few-shot examples in its prompts, because sampling.num\\_shots is 0." in page


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parsed_rows, "star,stra", "--rows: unknown row 'stra'; did you mean 'star'?"),
        (parsed_rows, "star,star", "--rows: star is given twice; give each once"),
        (parsed_seeds, "1,2,1", "--seeds: 1 is given twice; give each once"),
        (parsed_seeds, "1,x", "--seeds: 'x' is no seed, expected a whole number from 0 on"),
        (parsed_seeds, "-1", "--seeds: '-1' is no seed"),
        (parsed_cell, "star", "--only is 'star', expected ROW:SEED, such as star:1"),
        (parsed_cell, "stra:1", "--only: unknown row 'stra'"),
        (parsed_cell, "star:", "--only: '' is no seed"),
    ],
)
def test_a_wrong_row_or_seed_is_one_line(parse: Any, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("rows", "seeds", "message"),
    [
        (None, None, ""),
        (("star",), (1, 2), ""),
        (("retry",), None, "--only star:1: star is not among --rows; add it there, or leave --rows out"),
        (None, (2, 3), "--only star:1: 1 is not among --seeds; add it there, or leave --seeds out"),
    ],
)
def test_the_one_cell_is_among_the_rows_and_seeds_that_are_given_beside_it(
    rows: tuple[str, ...] | None, seeds: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(ConfigError) if message else contextlib.nullcontext() as caught:
        check_only(Cell("star", 1), rows, seeds)
    assert caught is None or str(caught.value) == message


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"of_all": {"seed": 3}}, "--set seed: the seeds are those of --seeds"),
        ({"of_all": {"loop.patience": 1}}, "--set loop.patience: the command decides it"),
        ({"of_all": {"training.max_epochs": 2.0}}, "--set training.max_epochs: at equal steps nothing caps the passes"),
        ({"of_all": {"sampling.temperature": 0.5}}, "--set sampling.temperature: each row has its own; give it to one"),
        ({"of_rows": {"star": {"method": "rft"}}}, "--set star:method: the command decides it"),
        ({"of_rows": {"direct": {"loop.max_iterations": 3}}, "rows": ("star",)}, "--set direct:…: that row is not ask"),
        ({"of_all": {"loop.max_iterations": 0}}, "loop.max_iterations = 0 trains nothing"),
    ],
)
def test_settings_that_the_command_or_the_rows_decide_are_refused(
    asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        Toy(tmp_path).plan(Asked(**asked))
    assert str(caught.value).startswith(message)


def test_the_job_that_the_page_shows_has_cells_and_is_no_broken_script() -> None:
    page = Path(__file__).parents[1] / "docs" / "compare.md"
    if not page.exists():
        pytest.skip("the docs are not part of an installed package")
    (script,) = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    (line,) = [line for line in script.splitlines() if line.startswith("cells=")]
    shown = subprocess.run(["bash", "-c", f'{line}; echo "${{cells[@]}}"'], capture_output=True, text=True, check=True)
    cells = [parsed_cell(text) for text in shown.stdout.split()]
    assert f"--array=0-{len(cells) - 1}\n" in script
    assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0


def test_the_page_explains_every_row() -> None:
    page = Path(__file__).parents[1] / "docs" / "compare.md"
    if not page.exists():
        pytest.skip("the docs are not part of an installed package")
    tables = [line.split("|")[1] for line in page.read_text().splitlines() if line.startswith("| `")]
    assert ROWS.keys() <= set(re.findall(r"`([a-z-]+)`", "".join(tables)))


@pytest.mark.parametrize("code", [1, 2])
def test_a_cell_that_fails_by_a_mistake_of_the_program_is_exit_code_1_and_by_any_other_2(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from selftaught.cli.app import _exit_code

    def failing(*given: Any, **more: Any) -> None:
        raise StoreError("no room on the disk; make some") if code == 2 else ZeroDivisionError("oops")

    monkeypatch.setattr(compare, "launch", failing)
    arguments = ["compare", "arithmetic", "--dir", str(tmp_path / "folder"), "--rows", "few-shot-cot", "--seeds", "1"]
    assert _exit_code(arguments) == code
    printed = capsys.readouterr().err
    assert ("Traceback" in printed) == (code == 1)
    assert "1 of 1 cells failed; few-shot-cot:1: " in printed.splitlines()[-1]


def test_the_reason_is_told_though_another_process_has_finished_the_cell_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from selftaught.cli.app import _exit_code

    def failing(*given: Any, **more: Any) -> None:
        raise StoreError("it is being written by another process")

    monkeypatch.setattr(compare, "launch", failing)
    monkeypatch.setattr(ComparisonFolder, "note_failure", lambda folder, cell, reason: folder.forget_failure(cell))
    arguments = ["compare", "arithmetic", "--dir", str(tmp_path / "folder"), "--rows", "few-shot-cot", "--seeds", "1"]
    assert _exit_code(arguments) == 2
    assert "failed; few-shot-cot:1: it is being written by another process" in capsys.readouterr().err.splitlines()[-1]


def test_the_command_lists_its_rows_and_refuses_in_one_line() -> None:
    listed = selftaught("compare", "--list")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines() if not line.startswith(" ")] == list(ROWS)
    for arguments, message in (
        (("--rows", "stra"), "--rows: unknown row 'stra'"),
        (("--seeds", "1,1"), "--seeds: 1 is given twice"),
        (("--at", "once"), "--at is 'once', expected equal-steps or paper"),
        (("--rows", "star", "--only", "retry:1"), "--only retry:1: retry is not among --rows"),
        (("--set", "star:"), "--set star:: expected ROW:section.key=value"),
        (("--set", "star:training.batch_size"), "--set star:training.batch_size: expected ROW:section.key=value"),
    ):
        done = selftaught("compare", "arithmetic", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"selftaught: {message}")
        assert done.stderr.count("\n") == 1


def test_from_python_rows_come_with_their_figures_and_a_failed_one_with_its_reason(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.fails_for = "seeds-only"
    found = selftaught_package.compare(
        SETTINGS,
        rows=["few-shot-cot", "seeds-only"],
        seeds=[1],
        folder=tmp_path / "folder",
        task=toy.task,
        engine=toy.open_engine,
        trainer=NullTrainer,
    )
    assert found.failed == {"seeds-only:1": "the server is gone; start it again"}
    assert {row: figures.selected.mean for row, figures in found.rows.items()} == pytest.approx({"few-shot-cot": 2 / 3})
    assert "A single seed, so nothing is known of its spread: few-shot-cot." in found.notes

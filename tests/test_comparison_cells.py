"""A finished run folder as numbers: what a cell of a comparison reads from it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from selftaught.comparison.cells import Result, read_cell
from selftaught.comparison.plan import Cell, cell_of
from selftaught.records.errors import StoreError
from selftaught.records.samples import Sample
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.runs.lines import read_lines
from selftaught.training.none import NullTrainer
from test_compare import Toy


class Steps(NullTrainer):
    """Trains nothing, and says that it took the planned steps, of 10 tokens each, 4 of them with loss."""

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        checkpoint = super().fine_tune(training, on_step)
        steps = training.plan.steps
        summary = replace(checkpoint.train, steps=steps, tokens=10 * steps, loss_tokens=4 * steps)
        return replace(checkpoint, train=summary)


def read(toy: Toy, row: str) -> Result:
    toy.trainer = Steps
    assert toy.run(row) == []
    found = read_cell(Cell(row, 1), toy.folder.run_dir(Cell(row, 1)))
    assert found is not None
    return found


def tokens_of(run_dir: Path, *patterns: str) -> int:
    paths = [path for pattern in patterns for path in run_dir.glob(f"samples/{pattern}.jsonl")]
    return sum(sample.num_tokens for path in paths for sample in read_lines(Sample, path))


def test_a_row_that_begins_anew_has_the_steps_of_one_training_behind_each_model(tmp_path: Path) -> None:
    star = read(Toy(tmp_path), "star")
    assert (star.base.steps, star.last.steps, star.last.loss_tokens) == (0, 4, 16)
    assert (star.work.steps, star.work.trained) == (8, 80)


def test_a_row_that_trains_on_has_the_steps_of_all_trainings_behind_its_last_model(tmp_path: Path) -> None:
    continued = read(Toy(tmp_path), "star-continue")
    assert (continued.last.steps, continued.last.loss_tokens, continued.work.steps) == (4, 16, 4)


def test_the_model_that_only_samples_is_work_and_not_in_the_lineage(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.own = {"rft": {"sampling.num_samples": 2}}
    rft = read(toy, "rft")
    assert (rft.last.steps, rft.work.steps) == (4, 8)


def test_work_counts_all_completions_and_trained_tokens_and_what_they_cost(tmp_path: Path) -> None:
    star, run_dir = read(Toy(tmp_path), "star"), tmp_path / "star-seed1"
    parameters = json.loads((run_dir / "run.json").read_text())["model"]["parameters"]
    assert star.work.generated == tokens_of(run_dir, "*")
    assert star.work.flops == 2 * parameters * star.work.generated + 6 * parameters * 80


def test_points_count_what_was_sampled_to_train_on_and_trained_on_so_far(tmp_path: Path) -> None:
    star, run_dir = read(Toy(tmp_path), "star"), tmp_path / "star-seed1"
    first = tokens_of(run_dir, "001-rationale", "001-rationalization")
    second = tokens_of(run_dir, "002-rationale", "002-rationalization")
    assert [point.tokens for point in star.points] == [0, first + 40, first + second + 80]
    assert [point.accuracy for point in star.points] == [0.5, 0.5, 0.5]


def test_what_the_model_that_only_samples_was_trained_on_is_no_part_of_the_base_models_point(tmp_path: Path) -> None:
    toy, run_dir = Toy(tmp_path), tmp_path / "rft-seed1"
    toy.own = {"rft": {"sampling.num_samples": 2}}
    rft = read(toy, "rft")
    assert [point.tokens for point in rft.points] == [0, tokens_of(run_dir, "001-rationale") + 80]


def test_problems_are_solved_by_their_first_completion_in_the_order_of_the_file(tmp_path: Path) -> None:
    star = read(Toy(tmp_path), "star")
    assert star.problems == ("ibis", "jackal", "koala")
    assert star.base.solved == star.last.solved == (True, False, True)
    assert (star.train, star.last.unhinted, star.last.hinted) == (6, 3, 1)


def test_a_row_of_answers_uses_every_training_problem(tmp_path: Path) -> None:
    direct = read(Toy(tmp_path), "direct")
    assert (direct.last.unhinted, direct.last.hinted, direct.train) == (6, 0, 6)


def test_an_unfinished_run_has_no_numbers_and_one_without_the_last_model_on_test_is_refused(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.trainer = Steps
    toy.run("star")
    cell, run_dir = Cell("star", 1), tmp_path / "star-seed1"
    assert read_cell(cell, tmp_path / "nothing") is None
    lines = (run_dir / "evaluations.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if (json.loads(line)["split"], json.loads(line)["iteration"]) != ("test", 2)]
    assert len(kept) == len(lines) - 1
    (run_dir / "evaluations.jsonl").write_text("".join(kept))
    with pytest.raises(StoreError, match="the model of iteration 2 was not measured on test"):
        read_cell(cell, run_dir)
    (run_dir / "result.json").unlink()
    assert read_cell(cell, run_dir) is None


def test_a_folder_is_a_cell_by_its_name() -> None:
    assert cell_of("star-no-rationalization-seed12") == Cell("star-no-rationalization", 12)
    for name in ("shared", "star", "star-seed", "star-seed01", "star-seed-1", "stra-seed1", "-seed1"):
        assert cell_of(name) is None

"""The recipes do what they say, and run as a user runs them."""

import ast
import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from builders import PACKAGE, PATIENCE_S
from selftaught.commands.check_task import check_task
from selftaught.records.problems import Verdict
from selftaught.report.run_tables import read_run
from selftaught.runs.reading import read_samples

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))

pytestmark = pytest.mark.skipif(not RECIPES, reason="the recipes are not part of an installed package")


def output_of(name: str, *arguments: object, cwd: Path) -> str:
    """What a recipe prints, without a process of its own, whose imports would take most of the time."""
    path, out, err = str(ROOT / "recipes" / name), io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", [path, *map(str, arguments)]),
    ):
        runpy.run_path(path, run_name="__main__")
    assert err.getvalue() == ""
    return out.getvalue()


def output_of_a_process(name: str, *arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "recipes" / name), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_fits_on_a_page_and_says_what_it_shows_and_how_it_is_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert f"python recipes/{path.name} [RUN_DIR]" in (ast.get_docstring(ast.parse(text)) or "")


def test_questions_in_python_become_a_run_that_gets_better(tmp_path: Path) -> None:
    printed = output_of("questions.py", tmp_path / "run", cwd=tmp_path)
    iterations = re.findall(r"iteration \d: correct (\d+)/74, with a hint (\d+)/(\d+), dev (\d+)/30", printed)
    assert len(iterations) == 3
    assert [int(correct) + int(failed) for correct, _, failed, _ in iterations] == [74, 74, 74]
    dev = [int(numbers[3]) for numbers in iterations]
    assert dev == sorted(dev)
    base, best = map(int, re.findall(r"(\d+)/40", printed))
    assert base < best
    result = read_run(tmp_path / "run").result
    assert result is not None
    assert (result["base"]["correct"], result["test"]["correct"]) == (base, best)


def test_a_recipe_without_a_folder_takes_the_folder_of_the_command(tmp_path: Path) -> None:
    printed = output_of_a_process("questions.py", cwd=tmp_path)
    assert "run folder runs/pens-star; look at it with: selftaught show runs/pens-star" in printed
    assert (tmp_path / "runs" / "pens-star" / "result.json").exists()


def test_a_task_with_its_own_checker_trains_on_what_passes_both(tmp_path: Path) -> None:
    printed = output_of("own_checker.py", tmp_path / "run", cwd=tmp_path)
    assert len(re.findall(r"iteration \d: \d+ examples, left out \{.*'wrong steps': \d+", printed)) == 3
    base, best = map(int, re.findall(r"(\d+)/50", printed))
    assert base < best
    correct = [sample for _, sample in read_samples(tmp_path / "run") if sample.verdict is Verdict.CORRECT]
    assert {sample.checks["steps"].passed for sample in correct} == {True, False}
    trained_on = (tmp_path / "run" / "examples" / "001.jsonl").read_text().splitlines()
    assert len(trained_on) == int(re.findall(r"iteration 1: (\d+) examples", printed)[0])


def test_the_recipe_of_a_checker_is_a_task_by_name_too() -> None:
    checked = check_task(f"{ROOT}/recipes/own_checker.py:load")
    assert checked.refusals == ()
    assert checked.facts["step_check"] is True
    assert {name: checked.facts[name]["problems"] for name in ("train", "dev", "test")} == {
        "train": 50,
        "dev": 50,
        "test": 50,
    }


def test_a_method_of_ones_own_samples_no_problem_that_is_solved_and_goes_on_where_it_was(tmp_path: Path) -> None:
    printed = output_of("own_method.py", tmp_path / "run", cwd=tmp_path)
    rows = re.findall(r"sampled (\d+), correct (\d+), trained on (\d+)", printed)
    sampled, correct, trained_on = (list(map(int, column)) for column in zip(*rows, strict=True))
    assert sampled == [84 - sum(correct[:n]) for n in range(4)]
    held_out = [sum(correct[: n + 1]) - number for n, number in enumerate(trained_on)]
    assert held_out == sorted(held_out)
    assert held_out[-1] < 10
    finished = (tmp_path / "run" / "iterations.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "iterations.jsonl").write_text("".join(finished[:2]))
    for path in (tmp_path / "run" / "samples").glob("003-rationale.jsonl"):
        path.write_bytes(path.read_bytes()[:100])
    assert output_of("own_method.py", tmp_path / "run", cwd=tmp_path) == printed

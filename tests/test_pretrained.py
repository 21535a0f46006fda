"""One iteration with a real pretrained model and a few-shot prompt; needs a model folder, so not run by default.

SELFTAUGHT_TEST_MODEL=FOLDER pytest -m slow tests/test_pretrained.py
"""

import json
import os
from pathlib import Path

import pytest

from test_cli import in_a_process, settings

MODEL = os.environ.get("SELFTAUGHT_TEST_MODEL", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL, reason="SELFTAUGHT_TEST_MODEL names no model folder"),
]


def test_a_pretrained_model_with_ten_worked_examples_goes_through_an_iteration_and_learns_the_format(
    tmp_path: Path,
) -> None:
    changes: dict[str, object] = {
        "model.path": MODEL,
        "task.problems_per_iteration": 20,
        "task.dev_problems": 10,
        "task.test_problems": 10,
        "loop.max_iterations": 1,
    }
    done = in_a_process("run", "arithmetic-fewshot", "--run-dir", str(tmp_path), *settings(changes), timeout=3_000)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "iterations.jsonl").read_text().splitlines()
    summary = json.loads(line)
    assert summary["rationale"]["samples"] == 20
    assert summary["train"]["last_loss"] < summary["train"]["first_loss"]
    # Without worked examples in its prompt, the fine-tuned model writes scratchpads that can be read.
    assert summary["dev"]["unparseable"] <= 5

"""A real pretrained model: the same greedy tokens as generate, and one iteration; needs a model, so not run by default.

SELFTAUGHT_TEST_MODEL=FOLDER pytest -m slow tests/test_pretrained.py
"""

import json
import os
from pathlib import Path

import pytest
import torch

from builders import task_named
from selftaught.prompts.rendering import render_prompt
from selftaught.records.samples import SamplingParams
from test_cli import in_a_process, settings
from tiny_models import codec_of, generated, ids_of, near_ties, open_engine, sample

MODEL = os.environ.get("SELFTAUGHT_TEST_MODEL", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL, reason="SELFTAUGHT_TEST_MODEL names no model folder"),
]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])
def test_greedy_tokens_of_a_pretrained_model_are_those_of_generate_but_for_near_ties(compiled: bool) -> None:
    folder, task = Path(MODEL), task_named("arithmetic")
    problems = task.dev[:: len(task.dev) // 24][:24]
    texts = [
        render_prompt(task.prompt_format, problem, hint=False, few_shot=task.few_shot[: 3 + i % 2])
        for i, problem in enumerate(problems)
    ]
    notes: list[str] = []
    engine = open_engine(folder, dtype="float32", compiled=compiled, slots=5, note=notes.append)
    assert notes == []
    assert (engine._kernels is not None) is compiled
    completions = sample(engine, texts, max_new_tokens=24)
    engine.close()
    expected = generated(folder, texts, dtype=torch.float32, max_new_tokens=24)
    is_same = [ids == other for ids, other in zip(ids_of(completions), expected, strict=True)]
    for i, completion in enumerate(completions):
        if not is_same[i]:
            end = [codec_of(folder).end_id] if completion.finish_reason == "end" else []
            ids = [*(completion.token_ids or ()), *end]
            assert any(near_ties(folder, texts[i], i, ids, SamplingParams(temperature=0.0), limit=1e-3))
    assert sum(is_same) > 20


def test_a_pretrained_model_with_ten_few_shot_examples_goes_through_an_iteration_and_learns_the_format(
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
    # Without few-shot examples in its prompt, the fine-tuned model writes scratchpads that can be read.
    assert summary["dev"]["unparseable"] <= 5

"""Real pretrained models: the same greedy tokens as generate, and whole runs; they need models, so not run by default.

SELFTAUGHT_TEST_MODEL=FOLDER[:FOLDER…] pytest -n 0 -m slow tests/test_pretrained.py
"""

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from builders import task_named
from selftaught.prompts.rendering import prompt_sha256, render_prompt
from selftaught.records.prompts import Turn
from selftaught.records.samples import SamplingParams
from selftaught.runs.reading import StoredPrompts
from test_cli import in_a_process, settings
from tiny_models import codec_of, generated, ids_of, near_ties, open_engine, sample

MODELS = os.environ.get("SELFTAUGHT_TEST_MODEL", "").split(os.pathsep)
MODEL = MODELS[0]

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


QUESTIONS = [
    (f"{name} has {a} {thing} and buys {b} more. How many {thing} does {name} have now?", a + b)
    for name in ("Ann", "Ben", "Carl", "Dora", "Eve", "Fred", "Gina", "Hugo")
    for a, b, thing in ((2, 3, "apples"), (7, 1, "books"), (4, 4, "pens"), (10, 5, "coins"), (6, 3, "shells"))
]


@pytest.mark.parametrize("model", MODELS, ids=[Path(model).name for model in MODELS])
def test_a_pretrained_model_is_taught_and_used_as_its_user_would(model: str, tmp_path: Path) -> None:
    """`init`, `run` and `predict` on a file of questions: in turns if the model has a chat template, else as a text
    with examples."""
    data, config, run_dir = tmp_path / "sums.jsonl", tmp_path / "sums.toml", tmp_path / "run"
    data.write_text("".join(json.dumps({"question": q, "answer": str(a)}) + "\n" for q, a in QUESTIONS))
    assert in_a_process("init", str(data), "--model", model, "--out", str(tmp_path)).returncode == 0
    is_chat = not (tmp_path / "sums-prompt.toml").exists()
    if not is_chat:
        prompt = (tmp_path / "sums-prompt.toml").read_text()
        (tmp_path / "sums-prompt.toml").write_text(prompt.replace('rationale = ""', 'rationale = "We add the two."'))
    changes: dict[str, object] = {
        "task.problems_per_iteration": 12,
        "task.dev_rows": 6,
        "task.test_rows": 6,
        "sampling.max_new_tokens": 64,
        "training.steps_first_iteration": 2,
        "training.micro_batch_tokens": 400,
        "loop.max_iterations": 1,
    }
    done = in_a_process("run", str(config), "--run-dir", str(run_dir), *settings(changes), timeout=3_000)
    assert done.returncode == 0, done.stderr
    (line,) = (run_dir / "iterations.jsonl").read_text().splitlines()
    summary = json.loads(line)
    assert summary["rationale"]["samples"] == 12
    assert summary["rationale"]["correct"] + summary["rationalization"]["correct"] >= 1
    tokenizer = AutoTokenizer.from_pretrained(model)
    stored = StoredPrompts(run_dir)
    for row in map(json.loads, (run_dir / "examples" / "001.jsonl").read_text().splitlines()):
        turns = row["prompt"] if isinstance(row["prompt"], str) else tuple(Turn(**turn) for turn in row["prompt"])
        assert isinstance(turns, tuple) is is_chat
        if is_chat:  # asked without examples, so what was sampled from is what is trained on
            messages = [{"role": turn.role, "content": turn.content} for turn in turns]
            expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
            assert stored[prompt_sha256(turns)].ids == tuple(expected)
    new = tmp_path / "new.jsonl"
    new.write_text(json.dumps({"question": "Ida has 3 cups and buys 2 more. How many cups does Ida have now?"}) + "\n")
    done = in_a_process("predict", str(run_dir), str(new), "-o", str(tmp_path / "out.jsonl"), timeout=3_000)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1

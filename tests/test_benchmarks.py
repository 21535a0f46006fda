"""The benchmarks: their arithmetic is correct, their records are complete, and each of them runs on a tiny model."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from benchmarks import flops
from benchmarks.__main__ import main
from benchmarks.data import FORMAT, RULE, gsm8k_task, read_problems
from benchmarks.endless import without_end_token
from benchmarks.fine_tuning import warm_rate
from benchmarks.outputs import agreement, verdict
from benchmarks.record import Record, Row, speed, summary
from benchmarks.rivals.generate import ended
from benchmarks.rivals.small_script import is_correct
from benchmarks.runner import RivalFailed, run_rival
from benchmarks.session import Rival, Session, refuse_hopeless
from builders import PATIENCE_S, problem
from selftaught.grading.references import check_reference_answers
from selftaught.grading.verifiers import tagged_line
from selftaught.models.tokens import Codec
from selftaught.prompts.rendering import render_completion
from selftaught.records.errors import ConfigError

SHAPE = flops.ModelShape(layers=2, attention_width=4, layer_weights=100, head_weights=50)

ROW_FIELDS = {
    *("rival", "repeat", "n", "failed", "tokens", "seconds", "tokens_per_s", "load_s", "tokens_per_s_with_loading"),
    *("flop", "flop_per_s", "peak_share", "peak_memory_bytes", "gpu_peak_memory_bytes", "load_before", "load_after"),
    *("own_cpus", "other_cpus", "dtype", "wrong", "more"),
}
MACHINE_FIELDS = {
    *("device", "device_name", "threads", "memory_bytes", "system", "versions", "commit", "dirty"),
    *("matmul_flops_per_s_before", "matmul_flops_per_s_after"),
}
RECORD_FIELDS = {
    *("benchmark", "machine", "n", "flop_formula", "arguments", "rows", "outputs", "summary", "when"),
}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in GSM8K's form, with sums small enough for a model of 256 tokens of context."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"question": f"{i} + 1", "answer": f"{i} + 1 , {i + 1}\n#### {i + 1}"} for i in range(60)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def record_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return record


def benchmark(capsys: pytest.CaptureFixture[str], name: str, *arguments: object) -> dict[str, Any]:
    """The JSON line of a small run on one thread."""
    small = ["--threads", "1", "--peak-sizes", "64", "--timeout", "120", *map(str, arguments)]
    assert main([name, *small]) == 0
    record = record_of(capsys)
    assert record.keys() == RECORD_FIELDS
    assert record["machine"].keys() == MACHINE_FIELDS
    assert all(row.keys() == ROW_FIELDS for row in record["rows"])
    return record


def speeds(record: dict[str, Any]) -> dict[str, float]:
    """tokens/s by rival; all of them were measured and count."""
    assert [(row["rival"], row["failed"], row["wrong"]) for row in record["rows"]] == [
        (row["rival"], "", "") for row in record["rows"]
    ]
    return {row["rival"]: row["tokens_per_s"] for row in record["rows"]}


# The formulas


def test_the_shape_of_the_tiny_model_is_that_counted_by_hand(tiny: Path) -> None:
    queries_and_output, keys_and_values, mlp = 2 * 32 * 32, 2 * 32 * 16, 3 * 32 * 48
    assert flops.shape_of(str(tiny)) == flops.ModelShape(
        layers=2,
        attention_width=32,
        layer_weights=2 * (queries_and_output + keys_and_values + mlp),
        head_weights=21 * 32,
    )


def test_one_request_has_the_operations_counted_by_hand() -> None:
    # A prompt of three tokens, two generated: four passes see 1 + 2 + 3 + 4 tokens; two need logits.
    operations = flops.generation_flops(SHAPE, shared_prefix=0, prompt_tokens=[3], generated_tokens=[2])
    assert operations == 2 * 100 * 4 + 2 * 50 * 2 + 4 * 2 * 4 * 10


def test_the_shared_prefix_is_counted_once() -> None:
    # Two prompts of three tokens share two: the prefix sees 1 + 2; then each runs one token that sees three.
    operations = flops.generation_flops(SHAPE, shared_prefix=2, prompt_tokens=[3, 3], generated_tokens=[1, 1])
    assert operations == 2 * 100 * 4 + 2 * 50 * 2 + 4 * 2 * 4 * (1 + 2 + 3 + 3)


def test_a_training_row_has_the_operations_counted_by_hand() -> None:
    operations = flops.training_flops(SHAPE, row_tokens=[3], loss_tokens=[2])
    assert operations == 3 * (2 * 100 * 3 + 2 * 50 * 2 + 4 * 2 * 4 * 6)


@given(st.integers(0, 30), st.integers(0, 30))
def test_contexts_are_the_sum_over_positions(first: int, more: int) -> None:
    assert flops.contexts(first, first + more) == sum(p + 1 for p in range(first, first + more))


@given(st.lists(st.tuples(st.integers(3, 9), st.integers(1, 5)), min_size=1, max_size=4))
def test_sharing_saves_the_prefix_of_all_requests_but_the_first(requests: list[tuple[int, int]]) -> None:
    prompts, generated = [p for p, _ in requests], [n for _, n in requests]
    alone = flops.generation_flops(SHAPE, shared_prefix=0, prompt_tokens=prompts, generated_tokens=generated)
    shared = flops.generation_flops(SHAPE, shared_prefix=2, prompt_tokens=prompts, generated_tokens=generated)
    assert alone - shared == (len(requests) - 1) * (2 * 100 * 2 + 4 * 2 * 4 * (1 + 2))


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=2, max_size=4))
def test_the_shared_prefix_is_the_longest_that_leaves_every_prompt_a_token(prompts: list[list[int]]) -> None:
    shared = flops.shared_prefix(prompts)
    longer = {tuple(prompt[: shared + 1]) for prompt in prompts}
    assert all(prompt[:shared] == prompts[0][:shared] and len(prompt) > shared for prompt in prompts)
    assert len(longer) > 1 or any(len(prompt) == shared + 1 for prompt in prompts)


# What is measured


def test_the_warm_rate_leaves_out_the_first_step() -> None:
    steps = [{"at": 10.0, "tokens": 100.0}, {"at": 12.0, "tokens": 250.0}, {"at": 13.0, "tokens": 300.0}]
    assert warm_rate(steps) == (200, 3.0)
    with pytest.raises(RivalFailed, match="1 optimizer steps"):
        warm_rate(steps[:1])


def test_a_speed_counts_loading_apart() -> None:
    fields = speed(tokens=100, seconds=2.0, load_s=8.0, flop=4e9)
    assert (fields["tokens_per_s"], fields["tokens_per_s_with_loading"], fields["flop_per_s"]) == (50.0, 10.0, 2e9)


def test_the_summary_is_over_the_repeats_that_ran() -> None:
    rows = [
        Row(rival="selftaught", repeat=0, n=1, tokens_per_s=30.0),
        Row(rival="other", repeat=0, n=1, tokens_per_s=10.0),
        Row(rival="other", repeat=1, n=1, tokens_per_s=20.0),
        Row(rival="broken", repeat=0, n=1, failed="ImportError: nothing there"),
    ]
    summaries = summary(rows)
    assert summaries["other"] == {
        "tokens_per_s": 15.0,
        "lowest": 10.0,
        "highest": 20.0,
        "repeats": 2,
        "ours_over_it": 2.0,
    }
    assert "broken" not in summaries


def test_a_record_is_one_line_of_json() -> None:
    row = Row(rival="selftaught", repeat=0, n=1, failed="two\nlines")
    record = Record(benchmark="b", machine={}, n=1, flop_formula="f", arguments={}, rows=[row], outputs={})
    assert "\n" not in record.line()
    assert json.loads(record.line()).keys() == RECORD_FIELDS
    assert json.loads(record.line())["rows"][0].keys() == ROW_FIELDS


def test_a_rival_that_breaks_gives_the_line_that_names_its_error(tmp_path: Path) -> None:
    with pytest.raises(RivalFailed, match="KeyError: 'device'"):
        run_rival("machine_peak", {}, tmp_path / "a", threads=1, timeout_s=PATIENCE_S)


def test_a_rival_that_takes_too_long_is_ended_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(RivalFailed, match="not finished after 0 s"):
        run_rival("machine_peak", {}, tmp_path / "a", threads=1, timeout_s=0.01)


@pytest.mark.parametrize(
    ("half", "single", "dtype", "refused"),
    [
        (1e9, 1e11, "bfloat16", True),
        (9e10, 1e11, "bfloat16", False),
        (1e9, 1e11, "float32", False),
        (1e13, 1e11, "float32", False),
        (1e9, 1e11, "", False),
    ],
)
def test_only_a_rival_in_bfloat16_on_a_processor_without_it_is_not_run(
    half: float, single: float, dtype: str, refused: bool
) -> None:
    rival = Rival(name="rival", module="generate", dtype=dtype)
    expected = pytest.raises(RivalFailed, match="100 times slower here") if refused else nullcontext()
    with expected:
        refuse_hopeless(rival, {"bfloat16": half, "float32": single})


@pytest.mark.parametrize(("half", "fast"), [(1e9, "float32"), (1e13, "bfloat16")])
def test_a_job_computes_in_the_number_type_of_the_faster_products(half: float, fast: str, tmp_path: Path) -> None:
    here = Session(
        options=cast(Any, SimpleNamespace(device="cpu")),
        model_dir="m",
        folder=tmp_path,
        shape=cast(Any, None),
        device_name="",
        peak_before={"bfloat16": half, "float32": 1e11},
    )
    assert here.job(n=1) == {"model": "m", "device": "cpu", "dtype": fast, "n": 1}


def test_a_benchmark_that_is_ended_ends_its_rival() -> None:
    arguments = ["generate-arithmetic", "--rivals", "selftaught", "--peak-sizes", "6000"]
    command = [sys.executable, "-m", "benchmarks", *arguments]
    benchmark = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (rivals := benchmark.children(recursive=True)):
            assert benchmark.poll() is None
            time.sleep(0.05)
        benchmark.terminate()
        assert benchmark.wait(timeout=PATIENCE_S) == 143
        _, alive = psutil.wait_procs(rivals, timeout=PATIENCE_S)
        assert not alive
    finally:
        with suppress(psutil.NoSuchProcess):
            benchmark.kill()


# Whether outputs are correct


def completion(text: str) -> dict[str, Any]:
    return {"ids": [ord(c) for c in text], "text": text, "tokens": len(text)}


def test_agreement_counts_identical_texts_and_the_shared_beginnings() -> None:
    reference, completions = [completion("abcd"), completion("abcd")], [completion("abcd"), completion("abxd")]
    assert agreement(reference, completions) == {"n": 2, "identical": 1, "mean_common_prefix": 0.75}


@pytest.mark.parametrize(("gaps", "begins"), [([], "equal"), ([1e-6], "equal"), ([1e-6, 0.5], "WRONG: 1 ")])
def test_only_ties_may_differ(gaps: Sequence[float], begins: str) -> None:
    assert verdict(gaps).startswith(begins)


@pytest.mark.parametrize(
    ("output", "text", "tokens"),
    [
        ("12<end><pad>", "1 2", 3),  # the end token was generated
        ("12", "1 2", 2),  # the limit was reached
        ("1\n\n<pad>", "1", 3),  # the stop string was generated
        ("1\n\n2<end>", "1", 3),  # one token after the stop string
    ],
)
def test_what_follows_an_end_does_not_count(adder: Path, output: str, text: str, tokens: int) -> None:
    codec = Codec(str(adder))
    ids = codec.tokenizer(output, add_special_tokens=False)["input_ids"]
    row = ended(ids, codec.tokenizer, codec.end_id, {"ignore_end": False, "stop": ["\n\n"]})
    assert (row["text"], row["tokens"]) == (text, tokens)


def test_a_model_without_end_has_one_more_token_whose_logit_is_zero(tiny: Path, tmp_path: Path) -> None:
    before, after = Codec(str(tiny)), Codec(without_end_token(str(tiny), tmp_path / "endless"))
    assert before.end_id < 21 == after.end_id
    assert after.end_ids == {21}
    assert before.encode_prompt("1 + 2\n") == after.encode_prompt("1 + 2\n")
    old, new = (load_file(folder / "model.safetensors") for folder in (tiny, tmp_path / "endless"))
    for name, weights in new.items():
        kept = weights[:21] if weights.shape[0] == 22 else weights
        assert torch.equal(kept, old[name]), name
        assert not weights[len(kept) :].any()


# The data


def test_the_task_of_the_iteration_verifies_its_own_solutions(questions: Path) -> None:
    task = gsm8k_task(read_problems(questions, "train"), 20)
    assert (len(task.few_shot), len(task.train)) == (6, 20)
    check_reference_answers(task, (*task.few_shot, *task.train))


@pytest.mark.parametrize(
    "text", [" so 3\n#### 7", " so 3\n#### 8", " no answer", " 7 or so\n####  7\n", " 7\n#### 7.5"]
)
def test_the_small_script_gives_our_verdicts(text: str) -> None:
    assert is_correct(text, "7") == (tagged_line(RULE)(text, problem(answer="7")).verdict == "correct")


def test_completions_are_the_released_ones(questions: Path) -> None:
    problem = read_problems(questions, "train")[4]
    assert render_completion(FORMAT, problem) == " 4 + 1 , 5\n#### 5"


@pytest.mark.parametrize(
    ("row", "message"), [('{"question": "a"}', "train.jsonl:1: not"), ('{"answer": "a"}', ":1: the ans")]
)
def test_a_file_that_is_not_gsm8k_is_refused_by_line(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "train.jsonl").write_text(row + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_problems(tmp_path, "train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate-fixed"], "needs --model FOLDER"),
        (["generate-fixed", "--model", "builtin:adder"], "give --data FOLDER"),
        (["generate-fixed", "--model", "builtin:adder", "--data", "."], "there is no train.jsonl"),
        (["generate-arithmetic", "--set", "slots"], "no '='"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


# Each benchmark, small


@pytest.mark.slow
def test_generating_a_fixed_number_runs_and_compares_outputs(
    capsys: pytest.CaptureFixture[str], tiny: Path, questions: Path, tmp_path: Path
) -> None:
    data = ("--model", tiny, "--data", questions, "--n", 4, "--check", 2, "--json", tmp_path / "lines.jsonl")
    record = benchmark(capsys, "generate-fixed", *data, "--rivals", "selftaught,generate-float32")
    machine = record["machine"]
    assert speeds(record).keys() == {"selftaught", "generate-float32"}
    assert [row["tokens"] for row in record["rows"]] == [4 * 64, 4 * 64]
    assert record["rows"][0]["flop"] == record["rows"][1]["flop"] > 0
    rates = [*machine["matmul_flops_per_s_before"].values(), *machine["matmul_flops_per_s_after"].values()]
    for row in record["rows"]:
        assert row["peak_share"] == pytest.approx(row["flop_per_s"] / max(rates), abs=1e-4)
    assert record["outputs"]["float32 verdict"].startswith("equal")
    assert json.loads((tmp_path / "lines.jsonl").read_text(encoding="utf-8"))["rows"] == record["rows"]


@pytest.mark.slow
def test_generating_to_a_natural_end_runs_and_names_a_rival_that_cannot(
    capsys: pytest.CaptureFixture[str], tiny: Path, questions: Path
) -> None:
    data = ("--model", tiny, "--data", questions, "--n", 4, "--check", 0, "--set", "engine.slots=4")
    record = benchmark(capsys, "generate-natural", *data, "--rivals", "selftaught,vllm-float32", "--repeat", 2)
    ours, vllm = record["rows"][:2]
    assert [row["rival"] for row in record["rows"]] == ["selftaught", "vllm-float32"] * 2
    assert ours["tokens_per_s"] > 0
    assert ours["more"]["settings"]["engine"]["slots"] == 4
    assert vllm["failed"] == "no --vllm-python INTERPRETER was given"


@pytest.mark.slow
def test_generating_arithmetic_needs_neither_a_model_nor_data(capsys: pytest.CaptureFixture[str]) -> None:
    record = benchmark(capsys, "generate-arithmetic", "--n", 8, "--check", 0, "--rivals", "selftaught")
    assert speeds(record)["selftaught"] > 0
    assert record["machine"]["threads"] == 1


@pytest.mark.slow
def test_fine_tuning_runs_and_sets_the_losses_side_by_side(
    capsys: pytest.CaptureFixture[str], tiny: Path, questions: Path
) -> None:
    data = ("--model", tiny, "--data", questions, "--n", 24)
    record = benchmark(capsys, "fine-tune", *data, "--rivals", "selftaught,trl-tuned-packed")
    rates = speeds(record)
    losses = record["outputs"]["loss on 32 held-out rows"]
    assert losses.keys() == {"before", *rates}
    assert all(losses[name] < losses["before"] for name in rates)


@pytest.mark.slow
def test_an_iteration_that_keeps_nothing_is_reported_with_its_reason(
    capsys: pytest.CaptureFixture[str], tiny: Path, questions: Path
) -> None:
    data = ("--model", tiny, "--data", questions, "--n", 4, "--set", "sampling.max_new_tokens=8")
    record = benchmark(capsys, "iteration", *data, "--rivals", "selftaught")
    assert "no sample was accepted" in record["rows"][0]["failed"]

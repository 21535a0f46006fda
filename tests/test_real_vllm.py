"""The engine `vllm` on a real vLLM server, on CPU: takes minutes, and an interpreter with vllm (docs/engines.md)."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from builders import task_named
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.engines.server.process import alive_in_group, orphans_left
from selftaught.engines.server.vllm import VllmEngine, VllmSettings
from selftaught.prompts.rendering import render_prompt
from selftaught.records.errors import RefusedError
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
)
from selftaught.runs.reading import read_summaries
from selftaught.runs.store import RunStore
from selftaught.stages.weight_proof import serves_old_weights
from toy import folder_bytes

PYTHON = os.environ.get("SELFTAUGHT_TEST_VLLM_PYTHON", "")
ARGUMENTS = "--enforce-eager --kv-cache-memory-bytes 256M"
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not PYTHON, reason="SELFTAUGHT_TEST_VLLM_PYTHON names no interpreter with vllm"),
]


@pytest.fixture(scope="module", params=["adder", "random"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, adder: Path) -> Path:
    """The shipped model, and a random one with grouped-query attention whose next token is far from certain."""
    if request.param == "adder":
        return adder
    folder = tmp_path_factory.mktemp("models") / "random"
    tokenizer = AutoTokenizer.from_pretrained(adder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[VllmEngine]:
    settings = VllmSettings(
        python=PYTHON,
        arguments=ARGUMENTS,
        dtype="float32",
        device="cpu",
        threads=1,
        concurrency=16,
        start_timeout_s=600.0,
        timeout_s=120.0,
        max_retries=1,
    )
    opened = VllmEngine(ModelRef(path=str(model)), settings)
    group = opened.process_group
    shared_memory = set(os.listdir("/dev/shm"))
    yield opened
    opened.close()
    assert alive_in_group(group) == []
    assert not set(os.listdir("/dev/shm")) - shared_memory


@pytest.fixture(scope="module")
def local(model: Path) -> LocalEngine:
    return LocalEngine(ModelRef(path=str(model)), LocalSettings(dtype="float32", device="cpu", threads=1, slots=8))


def requests(number: int, *, num_shots: int = 2) -> list[Request]:
    task = task_named("arithmetic")
    problems = task.dev[:: len(task.dev) // number][:number]
    few_shot = task.few_shot[:num_shots]
    return [
        Request(prompt=render_prompt(task.prompt_format, p, hint=False, few_shot=few_shot), seed=(1 << 50) + i)
        for i, p in enumerate(problems)
    ]


def sampled(engine: Any, jobs: list[Request], **how: Any) -> list[Completion]:
    params = SamplingParams(**{"temperature": 0.0, "max_new_tokens": 40, "stop": ("\n\n",), **how})
    return sorted(engine.sample(jobs, params), key=lambda c: c.request)


def facts(completions: list[Completion]) -> list[tuple[object, ...]]:
    return [(c.text, c.token_ids, c.finish_reason, c.num_tokens) for c in completions]


def test_greedy_completions_are_those_of_the_local_engine(engine: VllmEngine, local: LocalEngine) -> None:
    jobs = requests(16)
    theirs, ours = sampled(engine, jobs), sampled(local, jobs)
    assert facts(theirs) == facts(ours)
    assert [c.logprob for c in theirs] == pytest.approx([c.logprob for c in ours], abs=1e-3)


def test_scores_are_those_of_the_local_engine(engine: VllmEngine, local: LocalEngine) -> None:
    jobs = requests(8)
    texts = [c.text for c in sampled(local, jobs, temperature=1.5)]
    theirs, ours = engine.score(jobs, texts), local.score(jobs, texts)
    assert [s.token_ids for s in theirs] == [s.token_ids for s in ours]
    for a, b in zip(theirs, ours, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_a_seed_gives_the_same_sample_again_and_another_seed_another(engine: VllmEngine) -> None:
    """So many requests that they need several prefills; the second time the prompts' prefix is cached."""
    jobs = [r for r in requests(8, num_shots=10) for _ in range(4)]
    jobs = [Request(prompt=r.prompt, seed=i) for i, r in enumerate(jobs)]
    first, again = (sampled(engine, jobs, temperature=1.5, top_p=0.9, top_k=15) for _ in range(2))
    assert facts(again) == facts(first)
    others = [Request(prompt=r.prompt, seed=r.seed + 1000) for r in jobs]
    assert facts(sampled(engine, others, temperature=1.5)) != facts(sampled(engine, jobs, temperature=1.5))


def test_a_stop_string_ends_a_completion_as_in_the_local_engine(engine: VllmEngine, local: LocalEngine) -> None:
    jobs = requests(4)
    longest = max((c.text for c in sampled(local, jobs)), key=len)
    stop = (longest[5:8],)
    assert len(stop[0]) == 3, "several tokens: the tokenizer has one per character"
    assert facts(sampled(engine, jobs, stop=stop)) == facts(sampled(local, jobs, stop=stop))


def test_a_prompt_longer_than_the_context_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(RefusedError, match="context"):
        sampled(engine, [Request(prompt="1 2 3 4 5 6 7 8\n" * 200, seed=0)])


RUN = {
    "engine.name": "vllm",
    "engine.vllm_python": PYTHON,
    "engine.vllm_args": ARGUMENTS,
    "engine.concurrency": 16,
    "compute.threads": 1,
    "task.problems_per_iteration": 128,
    "task.dev_problems": 32,
    "task.test_problems": 32,
    "sampling.max_new_tokens": 96,
    "training.num_rehearsed": 10,
    "training.steps_first_iteration": 20,
    "loop.max_iterations": 2,
}


def command_of(run_dir: Path, **more: object) -> list[str]:
    values = {**RUN, **{key.replace("__", "."): value for key, value in more.items()}}
    overrides = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "selftaught", "run", "arithmetic", "--run-dir", str(run_dir), *overrides]


def server_in(log: Path) -> int:
    """The id of the server's process that was started last."""
    return int(re.findall(r"APIServer pid=(\d+)", log.read_text(encoding="utf-8"))[-1])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_that_is_killed_and_resumed_ends_with_weights_that_are_proven_to_be_new(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    first = subprocess.Popen(command_of(run_dir), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    samples = run_dir / "samples" / "002-rationale.jsonl"
    while first.poll() is None and not samples.exists():
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    _, error = first.communicate()
    assert samples.exists(), error
    server = server_in(run_dir / "logs/vllm-001.log")
    gone_by = time.monotonic() + 30
    while is_running(server) and time.monotonic() < gone_by:
        time.sleep(0.1)
    assert not is_running(server), "the server outlives the run"
    before = {path: path.read_bytes() for path in run_dir.glob("samples/*") if path != samples}
    done = subprocess.run(
        [sys.executable, "-m", "selftaught", "run", "--resume", str(run_dir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in before} == before, "finished samples are never generated again"
    assert [(s.iteration, s.rationale.samples) for s in read_summaries(run_dir)] == [(1, 128), (2, 128)]
    with RunStore(run_dir) as store:
        for n in (1, 2):
            checkpoint = store.checkpoint(n)
            assert checkpoint is not None
            old = [row.old_logprobs for row in checkpoint.probe]
            # CannotTell would mean that the check compared files, not what the server serves.
            assert serves_old_weights(checkpoint.new_logprobs, new=checkpoint.new_logprobs, old=old) is None
    about = json.loads((run_dir / "run.json").read_bytes())
    assert about["versions"]["vllm"].startswith("vllm")
    assert {path.name for path in run_dir.glob("logs/vllm-*.log")} == {f"vllm-{n:03d}.log" for n in range(3)}


def test_of_two_servers_one_is_killed_and_the_run_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    how = {
        **{"cluster__workers": 2, "compute__workers": 1, "compute__chunk_completions": 8, "loop__max_iterations": 1},
        "task__problems_per_iteration": 512,
    }
    done = subprocess.run(command_of(tmp_path / "calm", **how), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shared_memory = set(os.listdir("/dev/shm"))
    run_dir = tmp_path / "disturbed"
    run = subprocess.Popen(command_of(run_dir, **how), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    samples = run_dir / "samples" / "001-rationale.jsonl"
    # A quarter of the stage, so that both servers have work in hand: the loss of one that has none may go unnoticed.
    while run.poll() is None and not (samples.exists() and samples.read_bytes().count(b"\n") >= 128):
        time.sleep(0.05)
    server = server_in(run_dir / "logs" / "worker-1" / "vllm-000.log")
    group = os.getpgid(server)
    os.kill(server, signal.SIGKILL)
    _, said = run.communicate()
    assert run.returncode == 0, said
    assert "worker worker-1 was lost" in " ".join(said.split())
    assert (run_dir / "logs" / "worker-3").is_dir(), "another worker came in its place"
    names = ("samples", "examples", "prompts.jsonl")
    assert folder_bytes(run_dir, *names) == folder_bytes(tmp_path / "calm", *names)
    assert (alive_in_group(group), orphans_left(0.0)) == ([], [])
    for name in set(os.listdir("/dev/shm")) - shared_memory:  # of the killed server, which could not remove it
        Path("/dev/shm", name).unlink()

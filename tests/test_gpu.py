"""What a GPU computes, beside plain passes of transformers on it and beside the CPU: `pytest -n 0 -m gpu`.

scripts/on_gpu.sh runs them. SELFTAUGHT_TEST_DEVICE=cpu runs them on a CPU, to test the tests.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen3Config

from builders import task_named
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.machine.devices import Machine
from selftaught.machine.memory import free_memory_bytes
from selftaught.machine.opening import Opening
from selftaught.methods.training_set import examples_from_solutions
from selftaught.models.forecast import TrainingWork, forecast_training
from selftaught.models.loading import load_model
from selftaught.models.shape import shape_of
from selftaught.models.tokens import Codec
from selftaught.records.samples import Completion, ModelRef, Request, SamplingParams
from selftaught.records.training import Training, TrainingPlan
from selftaught.runs.reading import read_result
from selftaught.training.sft import SftTrainer
from selftaught.training.sft_config import SftConfig
from selftaught.training.trainer import Trainer
from test_kill import SETTINGS, command, finish, kill_after_changes

DEVICE: Any = os.environ.get("SELFTAUGHT_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

LOGPROB = {"float32": 2e-3, "bfloat16": 0.3}
"""Nats by which a token's log-probability in slots may differ from that of a plain pass; 0.3 is what a run allows."""
MEAN = {"float32": 2e-4, "bfloat16": 0.05}
"""The same for the mean over all tokens."""
NEAR_TIE = {"float32": 1e-3, "bfloat16": 0.25}
"""Difference of two logits of a plain pass within which a greedy token may be the other one."""
LOSS = 0.02
"""Share by which the loss of a step on the GPU may differ from that on the CPU, in float32."""
FORECAST = 0.15
"""Share by which the forecast of a training's memory may differ from its peak; and the allocator's own blocks."""
BLOCKS = 64 << 20

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
CONFIGS = {"llama": LlamaConfig, "qwen3": Qwen3Config}
TASK = task_named("arithmetic")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory, adder: Path) -> Callable[..., Path]:
    """The folder of a random model, made at its first use."""
    made: dict[str, Path] = {}

    def find(kind: str, **more: Any) -> Path:
        key = json.dumps([kind, more])
        if key not in made:
            tokenizer = AutoTokenizer.from_pretrained(adder)
            ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            values = {"vocab_size": len(tokenizer), "bos_token_id": None, **ends, **SHAPE, **more}
            torch.manual_seed(0)
            made[key] = tmp_path_factory.mktemp("gpu")
            AutoModelForCausalLM.from_config(CONFIGS[kind](**values)).save_pretrained(made[key])
            tokenizer.save_pretrained(made[key])
        return made[key]

    return find


def engine_on(folder: Path, dtype: str) -> LocalEngine:
    settings = LocalSettings(dtype=dtype, device=DEVICE, threads=4, slots=48, prefill_tokens=1024)
    notes: list[str] = []
    engine = LocalEngine(ModelRef(path=str(folder)), settings, note=notes.append)
    assert notes == []  # it is run in slots
    return engine


def prompts(number: int = 96) -> list[str]:
    rng = random.Random(0)
    heads = ["01234567890123456789" * 3, "9876543210" * 4 + "+" * 18, ""]
    return [heads[i % 3] + "".join(rng.choices("123456789", k=rng.randint(1, 60))) for i in range(number)]


def greedy(folder: Path, dtype: str) -> list[tuple[Request, Completion]]:
    requests = [Request(prompt=text, seed=i) for i, text in enumerate(prompts())]
    params = SamplingParams(temperature=0.0, max_new_tokens=24)
    return [(requests[c.request], c) for c in engine_on(folder, dtype).sample(requests, params)]


def plain_logits(folder: Path, dtype: str) -> Callable[[list[int]], torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(DEVICE).eval()

    @torch.no_grad()
    def logits(ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([ids], device=DEVICE), use_cache=False).logits[0].float()

    return logits


@pytest.mark.parametrize("dtype", LOGPROB)
@pytest.mark.parametrize("kind", CONFIGS)
def test_tokens_sampled_in_slots_and_their_scores_are_those_of_a_plain_pass(
    kind: str, dtype: str, folder_of: Callable[..., Path]
) -> None:
    folder, codec = folder_of(kind), Codec(str(folder_of(kind)))
    sampled, logits_of = greedy(folder, dtype), plain_logits(folder, dtype)
    scores = engine_on(folder, dtype).score([r for r, _ in sampled], [c.text for _, c in sampled])
    gaps: list[float] = []
    for (request, completion), score in zip(sampled, scores, strict=True):
        head, new = codec.encode_prompt(request.prompt), list(completion.token_ids or ())
        logits = logits_of([*head, *new])[len(head) - 1 : -1]
        if new:
            ours = logits.gather(-1, torch.tensor(new, device=DEVICE)[:, None])[:, 0]
            assert bool((logits.max(-1).values - ours < NEAR_TIE[dtype]).all()), (request.prompt, new)
        ids = list(score.token_ids)
        plain = logits_of([*head, *ids])[len(head) - 1 : -1].log_softmax(-1)
        gaps += [abs(float(plain[i, token]) - score.logprobs[i]) for i, token in enumerate(ids)]
    assert len(gaps) > 500
    assert max(gaps) < LOGPROB[dtype]
    assert sum(gaps) / len(gaps) < MEAN[dtype]


@pytest.mark.parametrize("dtype", LOGPROB)
def test_texts_differ_from_those_of_generate_only_at_near_ties(dtype: str, folder_of: Callable[..., Path]) -> None:
    folder, codec = folder_of("llama"), Codec(str(folder_of("llama")))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(DEVICE).eval()
    logits_of, differing = plain_logits(folder, dtype), 0
    for request, completion in greedy(folder, dtype):
        head = codec.encode_prompt(request.prompt)
        ids = torch.tensor([head], device=DEVICE)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
        theirs = out[0, len(head) :].tolist()
        theirs = theirs[: theirs.index(codec.end_id) + 1] if codec.end_id in theirs else theirs
        ours = [*(completion.token_ids or ()), *([codec.end_id] if completion.finish_reason == "end" else [])]
        if ours != theirs:
            differing += 1
            same = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
            top = logits_of([*head, *theirs[:same]])[-1].topk(2).values
            assert float(top[0] - top[1]) < NEAR_TIE[dtype], (request.prompt, ours, theirs)
    assert differing < 10 if dtype == "float32" else True


def train(
    start: Path, out_dir: Path, device: Any, dtype: Any, *, steps: int = 6, ranks: int | None = None, **more: Any
) -> list[float]:
    """The losses of a training, in this process or on so many ranks."""
    out_dir.mkdir(parents=True)
    losses: list[float] = []
    settings = SftConfig(batch_size=8, learning_rate=1e-3, **more)
    training = Training(
        examples=examples_from_solutions(TASK.train[:32], TASK.prompt_format, iteration=1),
        validation=[],
        start=ModelRef(path=str(start)),
        out_dir=out_dir,
        plan=TrainingPlan(iteration=1, steps=steps, seed=1, examples_sha256="x"),
    )
    trainer: Trainer = SftTrainer(settings, dtype=dtype, device=device, threads=4)
    if ranks is not None:
        machine = Machine(device=device, dtype=dtype, threads=4, ranks=ranks)
        trainer = settings.on_ranks(Opening(machine=machine))
    trainer.fine_tune(training, lambda metrics: losses.append(metrics.loss))
    return losses


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("dtype", LOGPROB)
def test_ranks_follow_the_loss_of_one_process(
    dtype: str, ranks: int, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    if DEVICE == "cuda" and torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} GPUs")
    start = folder_of("llama")
    alone = train(start, tmp_path / "alone", DEVICE, dtype, noise_scale=True)
    shared = train(start, tmp_path / "shared", DEVICE, dtype, ranks=ranks, noise_scale=True)
    assert shared == pytest.approx(alone, rel=LOSS)


@pytest.mark.parametrize("more", [{}, {"lora_rank": 4}, {"activation_checkpointing": True, "logits_in_pieces": True}])
@pytest.mark.parametrize("dtype", LOGPROB)
def test_a_training_moves_every_tensor_and_follows_the_loss_of_the_cpu(
    dtype: str, more: dict[str, Any], folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    start = folder_of("llama")
    here = train(start, tmp_path / "gpu", DEVICE, dtype, **more)
    expected = train(start, tmp_path / "cpu", "cpu", "float32", **{k: v for k, v in more.items() if k == "lora_rank"})
    assert here == pytest.approx(expected, rel=LOSS if dtype == "float32" else 3 * LOSS)
    before, after = (
        load_model(str(folder), dtype=getattr(torch, number_type)).state_dict()
        for folder, number_type in ((start, "float32"), (tmp_path / "gpu", dtype))
    )
    same = {name for name in before if torch.equal(before[name].float(), after[name].float())}
    assert before.keys() == after.keys()
    moved = {name for name in before if name.endswith(("q_proj.weight", "v_proj.weight"))}
    assert not same & moved if more.get("lora_rank") else not same


def test_a_run_that_is_killed_on_the_gpu_keeps_what_it_had_and_ends(tmp_path: Path) -> None:
    on_device = ["--set", f"compute.device={DEVICE}"]
    arguments = [*command(tmp_path / "run", "star", 1, 1), *on_device]
    assert kill_after_changes(arguments, tmp_path / "run", 12, 0.05)
    held = {path.name: path.read_bytes().splitlines() for path in (tmp_path / "run" / "samples").glob("*.jsonl")}
    finish(arguments)
    assert read_result(tmp_path / "run") is not None
    chunk = int(SETTINGS["compute.chunk_completions"])  # a chunk that was being written is generated again
    for name, lines in held.items():
        whole = len(lines) // chunk * chunk
        assert (tmp_path / "run" / "samples" / name).read_bytes().splitlines()[:whole] == lines[:whole]


@pytest.mark.skipif(DEVICE != "cuda", reason="the allocator of a GPU is asked for its peak")
@pytest.mark.parametrize("dtype", LOGPROB)
def test_the_forecast_of_a_training_is_near_the_peak_of_the_gpu(
    dtype: Any, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 16}
    folder = folder_of("llama", **large, vocab_size=32_000, initializer_range=0.02)
    codec = Codec(str(folder))
    rows = [codec.encode_example(e) for e in examples_from_solutions(TASK.train[:32], TASK.prompt_format, iteration=1)]
    longest = max(len(ids) for ids, _ in rows)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train(folder, tmp_path / "out", DEVICE, dtype, steps=3, micro_batch_tokens=1024)
    peak = torch.cuda.max_memory_allocated()
    work = TrainingWork(
        dtype=dtype,
        device=DEVICE,
        tokens=min(1024, 8 * longest),
        loss_tokens=min(1024, 8 * longest) * max(sum(x != -100 for x in labels) for _, labels in rows) // longest,
        longest=longest,
        accumulates=True,
    )
    forecast = forecast_training(shape_of(str(folder)), work)
    assert free_memory_bytes(DEVICE) > 0
    assert forecast.needed == pytest.approx(peak, rel=FORECAST, abs=BLOCKS)

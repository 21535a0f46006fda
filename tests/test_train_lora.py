"""Low-rank adapters: they alone are trained and saved, and whoever loads them gets their base with them merged."""

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from builders import LEAST, task_named
from selftaught.cli.app import app
from selftaught.commands.evaluate import Asked, evaluate, find_target
from selftaught.commands.run import launch
from selftaught.config.loading import config_from_values, load_config
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.methods.training_set import examples_from_solutions
from selftaught.models.loading import load_model
from selftaught.models.merged_folder import write_merged
from selftaught.models.tokens import Codec
from selftaught.records.errors import ConfigError, ModelError, RefusedError, TrainingError
from selftaught.records.samples import ModelRef, Request, SamplingParams
from selftaught.records.training import Checkpoint, ProbeRow, Training, TrainingPlan
from selftaught.runs.store import RunStore
from selftaught.training.lora import save_adapters
from selftaught.training.models import load_float32, load_for_training
from selftaught.training.rows import Row
from selftaught.training.sft import SftTrainer
from selftaught.training.sft_config import SftConfig
from test_cli import QUICK
from tiny_models import KINDS
from toy import folder_bytes

TASK = task_named("arithmetic")
EXAMPLES = examples_from_solutions(TASK.few_shot[:6], TASK.prompt_format, iteration=1)
SETTINGS = SftConfig(batch_size=4, learning_rate=1e-2, lora_rank=2)
PLAN = TrainingPlan(iteration=1, steps=3, seed=1, examples_sha256="x")


GPT2 = ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256})


def trainer(dtype: str = "float32", **changes: Any) -> SftTrainer:
    values = {"batch_size": 4, "learning_rate": 1e-2, "lora_rank": 2, **changes}
    return SftTrainer(SftConfig(**values), dtype=dtype, device="cpu", threads=1)


def training(start: Path, out_dir: Path) -> Training:
    return Training(examples=EXAMPLES, start=ModelRef(path=str(start)), out_dir=out_dir, plan=PLAN)


def fine_tune(start: Path, out_dir: Path, dtype: str = "float32", **changes: Any) -> Path:
    out_dir.mkdir()
    trainer(dtype, **changes).fine_tune(training(start, out_dir), lambda metrics: None)
    return out_dir


def in_dtype(tiny: Path, folder: Path, dtype: str) -> Path:
    """The model in the number type of the run, so that rounding changes nothing but what is trained."""
    AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Trained:
    start: Path
    out: Path
    record: Checkpoint


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """A training in a number type, with a probe."""

    @cache
    def train(dtype: str) -> Trained:
        folder = tmp_path_factory.mktemp(dtype)
        start, out = in_dtype(tiny, folder / "start", dtype), folder / "out"
        out.mkdir()
        probe = tuple(ProbeRow(prompt=e.prompt, completion=e.completion, old_logprobs=()) for e in EXAMPLES)
        given = replace(training(start, out), plan=replace(PLAN, probe=probe))
        return Trained(start, out, trainer(dtype).fine_tune(given, lambda metrics: None))

    return train


def state(folder: Path, dtype: str) -> dict[str, torch.Tensor]:
    return dict(load_model(str(folder), dtype=getattr(torch, dtype)).state_dict())


def engine(folder: Path, dtype: str) -> LocalEngine:
    settings = LocalSettings(dtype=dtype, device="cpu", threads=1, slots=4)
    return LocalEngine(ModelRef(path=str(folder)), settings)


def test_only_the_adapters_are_trained(tiny: Path, tmp_path: Path) -> None:
    codec = Codec(str(tiny))
    rows = [Row(*codec.encode_example(e)) for e in EXAMPLES]
    built = trainer().build(training(tiny, tmp_path), load_float32(str(tiny)), codec, rows, [0, 1, 2, 3] * 3)
    before = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    built.train()
    moved = {name for name, p in built.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert len(moved) == 2 * 2 * 7  # two layers of seven linear maps, a pair of factors each


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.4)])
def test_frozen_weights_have_the_runs_number_type_and_the_merged_model_gives_the_logits_of_the_trained_one(
    dtype: Any, tolerance: float, tiny: Path, tmp_path: Path
) -> None:
    codec, compute, sft = Codec(str(tiny)), getattr(torch, dtype), trainer(dtype)
    rows = [Row(*codec.encode_example(e)) for e in EXAMPLES]
    model = load_for_training(str(tiny), SETTINGS, compute=compute)
    built = sft.build(training(tiny, tmp_path), model, codec, rows, [0, 1, 2, 3] * 3)
    assert built.notes == (
        "no gradient noise scale: a training step is one forward pass (set training.noise_scale=true)",
    )
    assert {p.dtype for p in built.model.parameters() if not p.requires_grad} == {compute}
    assert {p.dtype for p in built.model.parameters() if p.requires_grad} == {torch.float32}
    built.train()
    built.model.base_model.model.set_attn_implementation(built.plain_attention)
    ids = torch.tensor([rows[0].input_ids])
    with torch.no_grad():
        adapted = built.model.eval()(input_ids=ids).logits.float()
        save_adapters(built.model, tmp_path, base=tiny)
        untrained = load_float32(str(tiny)).eval()(input_ids=ids).logits
        logits = load_model(str(tmp_path), dtype=compute).float().eval()(input_ids=ids).logits
    assert (adapted - logits).norm() < tolerance * (untrained - logits).norm()  # of what was trained


def test_adapters_over_4_bit_weights_stay_float32_as_over_others(tiny: Path, tmp_path: Path) -> None:
    codec = Codec(str(tiny))
    rows = [Row(*codec.encode_example(e)) for e in EXAMPLES]
    model = load_for_training(str(tiny), SETTINGS, compute=torch.bfloat16)
    model.is_loaded_in_4bit = True  # as transformers marks such a model; bitsandbytes itself needs a GPU
    built = trainer("bfloat16").build(training(tiny, tmp_path), model, codec, rows, [0, 1, 2, 3] * 3)
    assert {p.dtype for p in built.model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_saved_are_the_adapters_alone_and_what_is_loaded_is_their_base_with_them_merged(
    trained: Callable[[str], Trained], dtype: str
) -> None:
    start, out = trained(dtype).start, trained(dtype).out
    assert [path.name for path in out.glob("*.safetensors")] == ["adapter_model.safetensors"]
    assert not (out / "config.json").exists()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(start)
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == Codec(str(start)).end_id
    before, after = state(start, dtype), state(out, dtype)
    assert {name: t.dtype for name, t in before.items()} == {name: t.dtype for name, t in after.items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    for name in changed if dtype == "float32" else ():  # rounding has full rank
        difference = after[name].double() - before[name].double()
        assert torch.linalg.matrix_rank(difference, rtol=1e-4) <= 2, name


def test_adapters_are_merged_into_the_same_bits_by_any_number_of_threads(
    trained: Callable[[str], Trained],
) -> None:
    out = trained("bfloat16").out
    threads, states = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            states.append(state(out, "bfloat16"))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("kind", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_merged_weights_give_the_logits_that_peft_gives_with_the_adapters_beside_them(
    kind: str, model_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "gpt2", GPT2)  # its linear layers have their weights the other way round
    out = fine_tune(model_of(kind), tmp_path / "out", lora_alpha=3, learning_rate=1e-1)
    ids = torch.tensor([Codec(str(out)).encode_prompt(EXAMPLES[0].prompt)])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beside = AutoPeftModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()(input_ids=ids).logits
        base = load_model(str(model_of(kind)), dtype=torch.float32).eval()(input_ids=ids).logits
        merged = load_model(str(out), dtype=torch.float32).eval()(input_ids=ids).logits
    assert (merged - beside).norm() < 1e-4 * (merged - base).norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_a_merged_folder_and_the_trainer_agree_on_log_probabilities_and_greedy_answers(
    trained: Callable[[str], Trained], tmp_path: Path, dtype: str
) -> None:
    start, out, expected = trained(dtype).start, trained(dtype).out, trained(dtype).record.new_logprobs
    write_merged(out, tmp_path / "merged")
    scores, answers = [], []
    requests = [Request(prompt=e.prompt, seed=0) for e in EXAMPLES]
    for folder in (start, out, tmp_path / "merged"):
        opened = engine(folder, dtype)
        scores.append([s.logprobs for s in opened.score(requests, [e.completion for e in EXAMPLES])])
        done = opened.sample(requests, SamplingParams(temperature=0.0, max_new_tokens=12))
        answers.append({c.request: c.token_ids for c in done})
        opened.close()
    assert scores[1] == scores[2]
    assert answers[1] == answers[2] != answers[0]
    tensors = state(out, dtype)
    for name, merged in state(tmp_path / "merged", dtype).items():
        assert torch.equal(merged, tensors[name]), name
    exact = engine(tmp_path / "merged", "float32")  # as the trainer measures, of the weights that were rounded
    rows = [s.logprobs for s in exact.score(requests, [e.completion for e in EXAMPLES])]
    assert max(abs(a - b) for x, y in zip(rows, expected, strict=True) for a, b in zip(x, y, strict=True)) < 1e-3
    assert sum(map(sum, scores[1])) > sum(map(sum, scores[0]))
    assert Codec(str(tmp_path / "merged")).end_ids == Codec(str(out)).end_ids == Codec(str(start)).end_ids


@pytest.mark.slow
def test_the_same_training_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    a, b = (folder_bytes(fine_tune(tiny, tmp_path / name), ".") for name in ("a", "b"))
    assert a == b


def test_a_training_from_the_adapters_of_an_iteration_goes_on_with_them(
    trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    first = trained("float32").out
    start = ModelRef(path=str(first), iteration=1, checkpoint=1)
    out = tmp_path / "second"
    out.mkdir()
    still = trainer(learning_rate=1e-12)
    still.fine_tune(Training(examples=EXAMPLES, start=start, out_dir=out, plan=PLAN), lambda metrics: None)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        trained("float32").start
    )
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first, out))
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-6, atol=1e-9)
    with pytest.raises(TrainingError, match=r"rank 2 and alpha 4, and .* ask for 3 and 6; set those"):
        trainer(lora_rank=3).fine_tune(
            Training(examples=EXAMPLES, start=start, out_dir=out, plan=PLAN), lambda metrics: None
        )


@pytest.mark.slow
def test_adapters_on_a_base_model_that_is_adapters_itself_are_added_to_both(
    trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    start, first = trained("float32").start, trained("float32").out
    second = fine_tune(first, tmp_path / "second", lora_rank=3)
    before, between, after = (state(folder, "float32") for folder in (start, first, second))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.linalg.matrix_rank((after[name] - between[name]).double(), rtol=1e-4) == 3
    assert torch.linalg.matrix_rank((after[name] - before[name]).double(), rtol=1e-4) == 5


@pytest.mark.slow
def test_a_run_with_adapters_trains_on_them_is_measured_and_knows_its_base_model(adder: Path, tmp_path: Path) -> None:
    base, run_dir = Path(shutil.copytree(adder, tmp_path / "base")), tmp_path / "run"
    values = {"training.start_from": "previous", "loop.max_iterations": 3, "loop.patience": 9, "model.path": str(base)}
    values |= {"training.lora_rank": 2, "training.learning_rate": 1e-3, "training.keep_weights": "best-and-last"}
    config = config_from_values({**LEAST, **QUICK, **values})
    outcome = launch(config, run_dir)
    assert [s.iteration for s in outcome.summaries] == [1, 2, 3]
    records = {n: RunStore(run_dir).checkpoint(n) for n in (1, 2, 3)}
    assert [r.started_from for r in records.values() if r] == [
        str(base),
        *(str(run_dir / "checkpoints" / f"00{n}") for n in (1, 2)),
    ]
    for n, record in records.items():
        folder = run_dir / "checkpoints" / f"00{n}"
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
        assert (folder / "adapter_model.safetensors").exists() == (n in (outcome.best, 3))
        assert not (folder / "model.safetensors").exists()
        assert record is not None
        assert record.weights_kept == (n in (outcome.best, 3))
        weights = {s.weights_sha256 for s in RunStore(run_dir).samples(n, "dev")}
        assert weights == {record.sha256[:16]}
    target = find_target(str(run_dir / "checkpoints" / "003"), task=None)
    assert evaluate(target, Asked(split="dev")).correct == outcome.summaries[-1].dev.correct
    lost = next(n for n in (1, 2) if n != outcome.best)
    with pytest.raises(ModelError, match=r"not kept.*training\.keep_weights"):
        find_target(str(run_dir / "checkpoints" / f"00{lost}"), task=None)
    tensors = load_file(base / "model.safetensors")
    save_file({name: t * 2 for name, t in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedError, match=r"make other weights than the run's .*; restore the base model"):
        find_target(str(run_dir / "checkpoints" / "003"), task=None)
    shutil.rmtree(base)
    with pytest.raises(ModelError, match="which is neither a folder here nor in the hub's cache"):
        find_target(str(run_dir / "checkpoints" / "003"), task=None)


def test_a_trainer_whose_libraries_are_broken_ends_a_run_before_it_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sft", "trl_trainer", "trl"):
        monkeypatch.delitem(sys.modules, f"selftaught.training.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ImportError, match="trl"):
        launch(load_config("arithmetic"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_peft_a_run_ends_before_it_samples_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    config = load_config("arithmetic", overrides=["training.lora_rank=4"])
    with pytest.raises(ConfigError, match=r"lora_rank = 4 needs .* install selftaught\[lora\]"):
        launch(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    dry = CliRunner().invoke(app, ["run", "arithmetic", "--dry-run", "--set", "training.lora_rank=4"])
    assert isinstance(dry.exception, ConfigError)


def test_four_bits_are_refused_without_a_rank_the_package_or_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"frozen_4bit = True, but without training\.lora_rank"):
        launch(load_config("arithmetic", overrides=["training.frozen_4bit=true"]), tmp_path / "run")
    config = load_config(
        "arithmetic", overrides=["training.lora_rank=4", "training.frozen_4bit=true", "compute.device=cpu"]
    )
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"needs the package bitsandbytes; install selftaught\[4bit\]"):
        launch(config, tmp_path / "run")
    monkeypatch.setattr(SftConfig, "check", lambda self: None)
    with pytest.raises(ConfigError, match="needs a GPU, and the run computes on cpu"):
        launch(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()

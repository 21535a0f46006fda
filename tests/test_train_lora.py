"""Low-rank adapters: they alone are trained, and what is saved is an ordinary, complete model."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from builders import task_named
from selftaught.cli.app import app
from selftaught.commands.run import launch
from selftaught.config.loading import load_config
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.methods.training_set import examples_from_solutions
from selftaught.models.tokens import Codec
from selftaught.records.errors import ConfigError
from selftaught.records.samples import ModelRef, Request
from selftaught.records.training import Training, TrainingPlan
from selftaught.training.lora import adapter_weights, merged
from selftaught.training.models import load_float32, load_for_training
from selftaught.training.rows import Row
from selftaught.training.sft import SftTrainer
from selftaught.training.sft_config import SftConfig

TASK = task_named("arithmetic")
EXAMPLES = examples_from_solutions(TASK.few_shot[:6], TASK.prompt_format, iteration=1)
SETTINGS = SftConfig(batch_size=4, learning_rate=1e-2, lora_rank=2)
PLAN = TrainingPlan(iteration=1, steps=3, seed=1, examples_sha256="x")


def trainer(dtype: str = "float32", **changes: Any) -> SftTrainer:
    values = {"batch_size": 4, "learning_rate": 1e-2, "lora_rank": 2, **changes}
    return SftTrainer(SftConfig(**values), dtype=dtype, device="cpu", threads=1)


def training(start: Path, out_dir: Path) -> Training:
    return Training(examples=EXAMPLES, start=ModelRef(path=str(start)), out_dir=out_dir, plan=PLAN)


def fine_tune(start: Path, out_dir: Path, dtype: str = "float32", **changes: Any) -> dict[str, torch.Tensor]:
    out_dir.mkdir()
    trainer(dtype, **changes).fine_tune(training(start, out_dir), lambda metrics: None)
    weights: dict[str, torch.Tensor] = load_file(out_dir / "model.safetensors")
    return weights


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
        merged_model = merged(adapter_weights(built.model), load_float32(str(tiny)), SETTINGS).eval()
        untrained = load_float32(str(tiny)).eval()(input_ids=ids).logits
        logits = merged_model(input_ids=ids).logits
    assert (adapted - logits).norm() < tolerance * (untrained - logits).norm()  # of what was trained


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_saved_is_the_complete_model_with_the_adapters_merged(tiny: Path, tmp_path: Path, dtype: str) -> None:
    start = tmp_path / "start"  # in the number type of the run, so that rounding changes nothing but what is trained
    AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype).save_pretrained(start)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(start)
    before, after = load_file(start / "model.safetensors"), fine_tune(start, tmp_path / "out", dtype)
    assert before.keys() == after.keys()
    assert {t.dtype for t in after.values()} == {getattr(torch, dtype)}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    for name in changed if dtype == "float32" else ():  # rounding has full rank
        difference = after[name].double() - before[name].double()
        assert torch.linalg.matrix_rank(difference, rtol=1e-4) <= 2, name
    assert not list((tmp_path / "out").glob("adapter*"))


def test_the_merged_model_can_be_opened_like_any_other(tiny: Path, tmp_path: Path) -> None:
    fine_tune(tiny, tmp_path / "out")
    request, scores = Request(prompt=EXAMPLES[0].prompt, seed=0), []
    for folder in (tiny, tmp_path / "out"):
        engine = LocalEngine(
            ModelRef(path=str(folder)), LocalSettings(dtype="float32", device="cpu", threads=1, slots=4)
        )
        scores.append(engine.score([request], [EXAMPLES[0].completion])[0].logprobs)
        engine.close()
    assert sum(scores[1]) > sum(scores[0])


def test_the_same_training_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    hashes = set()
    for name in ("a", "b"):
        fine_tune(tiny, tmp_path / name)
        hashes.add(hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_a_trainer_whose_libraries_are_broken_ends_a_run_before_it_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "selftaught.training.sft")
    monkeypatch.setitem(sys.modules, "trl", None)
    if (name := "selftaught.training.trl_trainer") in sys.modules:
        monkeypatch.delitem(sys.modules, name)
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

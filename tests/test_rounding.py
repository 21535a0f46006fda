"""A training in bfloat16 changes the saved weights, however small its steps are."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from builders import task_named
from selftaught.methods.training_set import examples_from_solutions
from selftaught.models.rounding import round_at_random
from selftaught.records.samples import ModelRef
from selftaught.records.training import Training, TrainingPlan
from selftaught.training.sft import SftTrainer
from selftaught.training.sft_config import SftConfig

finite = st.floats(-(2.0**120), 2.0**120, width=32).map(lambda x: x if abs(x) > 2.0**-120 else 0.0)


def rounded(weights: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return round_at_random(weights, torch.Generator().manual_seed(seed))


def on_grid(*shape: int) -> torch.Tensor:
    """Weights in [1, 2) that bfloat16 has: multiples of 2^-7."""
    return 1 + torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(0)) / 128


@given(st.lists(finite, min_size=1, max_size=20), st.integers(0, 2**62))
def test_every_weight_becomes_a_neighbor_that_bfloat16_has(values: list[float], seed: int) -> None:
    weights = torch.tensor(values)
    result = rounded(weights, seed)
    assert torch.equal(result.bfloat16().float(), result)
    nearest = weights.bfloat16().float()
    assert ((result - weights).abs() <= 2 * weights.abs() * 2**-8).all()
    assert torch.equal(result[nearest == weights], weights[nearest == weights])
    assert torch.equal(result, rounded(weights, seed))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_of_a_share_of_the_spacing_moves_that_share_of_the_weights(share: float, sign: int) -> None:
    start = sign * (on_grid(200, 500) + 1 / 128)  # below 1 the spacing is another
    step = rounded(start + share / 128) - start
    assert set(step.flatten().tolist()) == {0.0, 1 / 128}
    assert float((step > 0).float().mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / step.numel()) ** 0.5)


def test_another_seed_rounds_other_weights() -> None:
    weights = on_grid(50, 50) + 0.5 / 128
    assert not torch.equal(rounded(weights, 1), rounded(weights, 2))


@pytest.fixture(scope="module")
def released(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights in bfloat16, as most models are released."""
    folder = tmp_path_factory.mktemp("released")
    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def trained(start: Path, out_dir: Path, dtype: str) -> dict[str, torch.Tensor]:
    """The weights after two steps too small for bfloat16's spacing."""
    task = task_named("arithmetic")
    settings = SftConfig(batch_size=4, learning_rate=1e-5, schedule="constant", warmup_steps=0)
    training = Training(
        examples=examples_from_solutions(task.few_shot[:8], task.prompt_format, iteration=1),
        start=ModelRef(path=str(start)),
        out_dir=out_dir,
        plan=TrainingPlan(iteration=1, steps=2, seed=1, examples_sha256="x"),
    )
    SftTrainer(settings, dtype=dtype, device="cpu", threads=1).fine_tune(training, lambda metrics: None)
    return load_file(out_dir / "model.safetensors")


@pytest.mark.slow
def test_a_training_in_bfloat16_saves_bfloat16_and_keeps_small_steps(released: Path, tmp_path: Path) -> None:
    old = load_file(released / "model.safetensors")
    exact = trained(released, tmp_path / "float32", "float32")
    saved = trained(released, tmp_path / "bfloat16", "bfloat16")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    exact_steps, saved_steps, nearest_steps = (
        torch.cat([(new[name].float() - old[name].float()).flatten() for name in old]).double()
        for new in (exact, saved, {name: tensor.bfloat16() for name, tensor in exact.items()})
    )
    share = float(saved_steps @ exact_steps / (exact_steps @ exact_steps))
    assert share == pytest.approx(1.0, abs=0.2)
    of_nearest = float(nearest_steps @ exact_steps / (exact_steps @ exact_steps))
    assert of_nearest < 0.6  # rounding to the nearest would lose the rest

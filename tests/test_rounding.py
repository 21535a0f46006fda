"""How much of a training drawing in bfloat16 sees, and the warning when that is little."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from builders import task_named
from selftaught.records import ModelRef, TrainingPlan, TrainingSummary
from selftaught.selection import examples_from_solutions
from selftaught.settings import TrainingConfig
from selftaught.training.rounding import share_seen_in_bfloat16
from selftaught.training.sft import SftTrainer


def share(tmp_path: Path, start: torch.Tensor, update: torch.Tensor) -> float | None:
    """Of a model with one weight that went from `start` to `start + update`."""
    model = torch.nn.Linear(start.shape[1], start.shape[0], bias=False)
    with torch.no_grad():
        model.weight.copy_(start + update)
    save_file({"weight": start.contiguous(), "of another model": torch.ones(2)}, tmp_path / "model.safetensors")
    return share_seen_in_bfloat16(model, tmp_path)


def on_grid(*shape: int) -> torch.Tensor:
    """Weights in [1, 2) that bfloat16 has: multiples of 2^-7."""
    return 1 + torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(0)) / 128


def test_an_update_between_numbers_of_bfloat16_is_seen_as_a_whole(tmp_path: Path) -> None:
    steps = torch.randint(-1, 2, (8, 8), generator=torch.Generator().manual_seed(1)) / 128
    assert share(tmp_path, on_grid(8, 8), steps) == 1.0


def test_an_update_under_half_a_spacing_of_weights_on_the_grid_is_not_seen(tmp_path: Path) -> None:
    assert share(tmp_path, on_grid(8, 8), torch.full((8, 8), 0.49 / 128)) == 0.0
    # The spacing halves below a power of two, where the same step is seen.
    assert share(tmp_path, on_grid(8, 8) / 2, torch.full((8, 8), 0.51 / 256)) == pytest.approx(1 / 0.51, rel=1e-4)


def test_of_two_equal_parts_of_an_update_one_may_be_seen(tmp_path: Path) -> None:
    update = torch.tensor([[1.0, 0.49]]) / 128
    assert share(tmp_path, torch.ones(1, 2), update) == pytest.approx(1 / (1 + 0.49**2), rel=1e-4)


def test_without_an_update_there_is_no_share(tmp_path: Path) -> None:
    assert share(tmp_path, on_grid(8, 8), torch.zeros(8, 8)) is None


@pytest.fixture(scope="module")
def released(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights in bfloat16, as most models are released."""
    folder = tmp_path_factory.mktemp("released")
    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def summary(start: Path, out_dir: Path, dtype: str, **settings: Any) -> TrainingSummary:
    task = task_named("arithmetic")
    trainer = SftTrainer(TrainingConfig(batch_size=4, **settings), dtype=dtype, device="cpu", threads=1)
    done = trainer.fine_tune(
        examples_from_solutions(task.shots[:8], task.prompt_format, (), iteration=1),
        validation=[],
        start=ModelRef(path=str(start)),
        out_dir=out_dir,
        plan=TrainingPlan(iteration=1, steps=2, seed=1, examples_sha256="x"),
        on_step=lambda metrics: None,
    )
    return done.train


@pytest.mark.parametrize(
    ("dtype", "learning_rate", "expected"),
    [("bfloat16", 1e-8, [True]), ("bfloat16", 0.1, []), ("float32", 1e-8, [])],
)
def test_a_training_that_bfloat16_would_lose_is_warned_of(
    released: Path, tmp_path: Path, dtype: str, learning_rate: float, expected: list[bool]
) -> None:
    notes = summary(released, tmp_path, dtype, learning_rate=learning_rate).notes
    warnings = [note for note in notes if "bfloat16" in note]
    assert ["rounding to bfloat16 leaves 0% of this training's update" in note for note in warnings] == expected

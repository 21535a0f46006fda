"""Which weights a run keeps: those that it may still need, or all; a kill while others are deleted does no harm."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftaught.commands import memory_check
from selftaught.commands.memory_check import disk_of
from selftaught.config.resolving import resolve
from selftaught.engines.scripted import ScriptedEngine
from selftaught.methods.plan import best_iteration, weights_to_keep
from selftaught.models.weights import model_in_folder, resolve_model
from selftaught.records.errors import ModelError
from selftaught.records.samples import ModelRef
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.runs.reading import read_summaries
from selftaught.training.none import NullTrainer
from toy import DEV, reply, run_toy, toy_config

DEV_CORRECT = (1, 1, 2, 1, 1)
"""Of two dev problems, by iteration: the second iteration is the best one."""


class WritingTrainer(NullTrainer):
    """Writes weights in two files."""

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        for part in (1, 2):
            (training.out_dir / f"model-{part}-of-2.safetensors").write_text(f"iteration {training.plan.iteration}")
        (training.out_dir / "config.json").write_text("{}")
        return super().fine_tune(training, on_step)


def open_engine(model: ModelRef) -> ScriptedEngine:
    """A model that solves as many dev problems as DEV_CORRECT says. Its weights are there when it is opened."""
    if model.checkpoint is not None:
        assert len(list(Path(model.path).glob("*.safetensors"))) == 2, f"{model.path} was deleted and is needed"

    def answer(prompt: str, seed: int) -> str:
        words = [problem.id for problem in DEV[: DEV_CORRECT[model.iteration]]]
        word = prompt.rpartition("Q: ")[2].split()[0]
        if word in [problem.id for problem in DEV]:
            return f" <r>count {word}</r>\n{len(word) if word in words else 99}"
        return reply(prompt, seed)

    return ScriptedEngine(answer)


def run(run_dir: Path, iterations: int = 4, **changes: Any) -> None:
    config = toy_config(loop__max_iterations=iterations, loop__patience=9, **changes)
    run_toy(run_dir, config=config, trainer=WritingTrainer(), open_engine=open_engine)


def kept(run_dir: Path) -> dict[str, int]:
    """Checkpoint -> number of its files of weights; checkpoint.json says the same."""
    found = {}
    for record in sorted(run_dir.glob("checkpoints/*/checkpoint.json")):
        found[record.parent.name] = len(list(record.parent.glob("*.safetensors")))
        assert json.loads(record.read_text())["weights_kept"] == (found[record.parent.name] > 0)
        assert (record.parent / "config.json").exists()
    return found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_what_is_deleted_is_never_the_best_or_the_last_model_again(accuracies: Sequence[int]) -> None:
    there: set[int] = set()
    for last in range(len(accuracies)):
        so_far = accuracies[: last + 1]
        there = (there | {last}) & weights_to_keep(so_far)
        assert {last, best_iteration(so_far) or last} == there
        assert len(there) <= memory_check.AT_A_TIME - 1


def test_the_best_and_the_last_weights_stay_and_the_others_are_deleted(tmp_path: Path) -> None:
    run(tmp_path)
    assert kept(tmp_path) == {"001": 0, "002": 2, "003": 0, "004": 2}
    assert [s.iteration for s in read_summaries(tmp_path)] == [1, 2, 3, 4]


def test_all_weights_stay_where_the_setting_says_so(tmp_path: Path) -> None:
    run(tmp_path, training__keep_weights="all")
    assert kept(tmp_path) == {"001": 2, "002": 2, "003": 2, "004": 2}


@pytest.mark.parametrize("start_from", ["base", "previous"])
def test_a_run_goes_on_with_more_iterations_from_what_was_kept(start_from: str, tmp_path: Path) -> None:
    run(tmp_path, 1, training__start_from=start_from)
    run(tmp_path, 4, training__start_from=start_from)
    assert kept(tmp_path) == {"001": 0, "002": 2, "003": 0, "004": 2}


def test_a_model_from_before_the_first_iteration_goes_when_that_is_measured(tmp_path: Path) -> None:
    values = {"method": "custom", "training__sft_first": True}
    run(tmp_path, 1, **values)
    assert kept(tmp_path) == {"000": 0, "001": 2}


class Killed(BaseException):
    """As SIGKILL: nothing of the process runs after it."""


@pytest.mark.parametrize("calls", range(1, 10))
def test_a_kill_at_any_step_of_the_deletion_changes_nothing_of_how_it_ends(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are what changes the folders of checkpoints: files renamed and files deleted."""
    left = calls
    replace, unlink = os.replace, Path.unlink

    def counted(work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        nonlocal left
        if left == 0:
            raise Killed
        left -= "checkpoints" in str(arguments[0])
        return work(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *a, **k: counted(replace, *a, **k))
        patch.setattr(Path, "unlink", lambda *a, **k: counted(unlink, *a, **k))
        with pytest.raises(Killed):
            run(tmp_path)
    for record in tmp_path.glob("checkpoints/*/checkpoint.json"):
        number = len(list(record.parent.glob("*.safetensors")))
        assert number == 2 or not json.loads(record.read_text())["weights_kept"]
    run(tmp_path)
    assert kept(tmp_path) == {"001": 0, "002": 2, "003": 0, "004": 2}


def test_whoever_asks_for_weights_that_were_not_kept_is_told_the_setting(tmp_path: Path) -> None:
    run(tmp_path)
    for name in ("001", "003"):
        with pytest.raises(ModelError, match=r'not kept.*training\.keep_weights = "all"') as error:
            model_in_folder(tmp_path / "checkpoints" / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("setting", "expected"), [("best-and-last", 3), ("all", 9)])
def test_the_disk_is_checked_for_the_weights_that_are_there_at_a_time(
    setting: str, expected: int, tmp_path: Path
) -> None:
    base = resolve_model("builtin:adder")
    values = {"loop__max_iterations": 9, "training__keep_weights": setting}
    config = toy_config(**values)
    disk = disk_of(config, base, resolve(config, base, None), tmp_path)
    assert disk is not None
    assert (disk.checkpoints, disk.of_one, disk.served) == (expected, 4 * 642_560, 0)
    for number in (1, 2):
        (tmp_path / "checkpoints" / f"{number:03d}").mkdir(parents=True)
        (tmp_path / "checkpoints" / f"{number:03d}" / "model.safetensors").touch()
    disk = disk_of(config, base, resolve(config, base, None), tmp_path)
    assert disk is not None
    assert disk.checkpoints == (1 if setting == "best-and-last" else 9)
    adapters = toy_config(**values, training__lora_rank=2, engine__name="vllm")
    disk = disk_of(adapters, base, resolve(adapters, base, None), tmp_path)
    assert disk is not None
    assert (disk.of_one, disk.served) == (4 * 2 * 3 * (4 * 256 + 3 * 512), 4 * 642_560)

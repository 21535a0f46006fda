"""The script that asks a GPU what it says of this package, on a machine without one."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from builders import PATIENCE_S

SCRIPT = Path(__file__).parents[1] / "scripts" / "on_gpu.sh"


def run_script(out: Path, *more: str) -> dict[str, object]:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(out)}
    done = subprocess.run(
        [SCRIPT, *more], env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads((out / "on_gpu.json").read_text())
    return found


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_says_so_and_succeeds(tmp_path: Path) -> None:
    found = run_script(tmp_path / "out")
    assert "sees no GPU here" in str(found["skipped"])
    assert found.keys() == {"rehearsed", "skipped", "seconds"}


def test_a_step_that_takes_too_long_is_ended_with_what_it_has_said(tmp_path: Path) -> None:
    step = runpy.run_path(str(SCRIPT.with_suffix(".py")))["step"]
    began = time.monotonic()
    assert step("machine", str(tmp_path), 0.2, True)["error"] == "not done after 0 s"
    assert time.monotonic() - began < 120


def test_a_step_that_fails_says_how(tmp_path: Path) -> None:
    step = runpy.run_path(str(SCRIPT.with_suffix(".py")))["step"]
    found = step("no such step", str(tmp_path), 60, True)
    assert found["error"] == "exit status 2"
    assert "invalid choice: 'no such step'" in found["output"]


@pytest.mark.slow
def test_every_step_can_be_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    found = run_script(tmp_path / "out", "--rehearse")
    steps = {name: value for name, value in found.items() if isinstance(value, dict)}
    assert list(steps) == ["machine", "tests", "sampling", "sampling_by_generate", "training", "training_by_trl"]
    assert {name: value["error"] for name, value in steps.items() if "error" in value} == {}
    assert steps["tests"]["exit"] == 0
    assert steps["sampling"]["tokens"] > 0
    assert abs(steps["training"]["first_loss"] - steps["training_by_trl"]["first_loss"]) < 0.05

"""A run that is killed repeatedly ends with the same files as an undisturbed one: docs/design.md, section 5."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from selftaught.runs.reading import read_summaries
from test_cli import SETTINGS, selftaught, settings
from toy import folder_bytes

ALL: dict[str, object] = {"training.keep_weights": "all"}
RANKS: dict[str, object] = {"training.keep_weights": "all", "cluster.train_workers": 2}
SHORT: dict[str, object] = {"task.problems_per_iteration": 32, "task.dev_problems": 8, "task.test_problems": 8}
ADAPTERS: dict[str, object] = {"training.lora_rank": 2, "training.learning_rate": 1e-3}


def command(run_dir: Path, method: str, workers: int, iterations: int, **more: object) -> list[str]:
    values = {**SETTINGS, "method": method, "compute.workers": workers, "loop.max_iterations": iterations, **more}
    return [sys.executable, "-m", "selftaught", "run", "arithmetic", "--run-dir", str(run_dir), *settings(values)]


def weights(run_dir: Path) -> dict[str, bytes]:
    """The files of weights, and what says how adapters are merged."""
    finished = [path for path in run_dir.glob("checkpoints/*") if path.suffix != ".tmp"]
    paths = [
        path for folder in finished for name in ("*.safetensors", "adapter_config.json") for path in folder.glob(name)
    ]
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in paths}


def finish(arguments: list[str]) -> None:
    """Do what a command line says in this process, which has imported what takes most of a short run's time."""
    assert arguments[:3] == [sys.executable, "-m", "selftaught"]
    done = selftaught(*arguments[3:])
    assert done.returncode == 0, done.stderr


def file_sizes(run_dir: Path) -> dict[str, int]:
    sizes = {}
    for folder, _, names in os.walk(run_dir):  # Path.rglob fails for a folder that is renamed after it was listed
        sizes[folder] = 0
        for name in names:
            with suppress(FileNotFoundError):  # a temporary file that was renamed after it was listed
                sizes[f"{folder}/{name}"] = os.stat(f"{folder}/{name}").st_size
    return sizes


def is_training(*run_dirs: Path) -> bool:
    return any(any(run_dir.glob("checkpoints/*.tmp")) for run_dir in run_dirs)


def kill_after_changes(
    arguments: list[str], folder: Path, changes_due: int, delay_s: float, *, in_training: Sequence[Path] = ()
) -> bool:
    """Start the run and SIGKILL it `delay_s` after so many changes of the folder's files; False if it ended before.

    With `in_training`, only changes during a training of these runs count. How many a busy machine sees, and how far it
    has come by the kill, depends on the machine: the caller asks again for what it has not got.
    """
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before, changes = file_sizes(folder), 0
    while process.poll() is None:
        now = file_sizes(folder)
        changes += now != before and (not in_training or is_training(*in_training))
        before = now
        if changes >= changes_due:
            time.sleep(delay_s)
            process.kill()
            break
        time.sleep(0.002)
    return process.wait() != 0


@pytest.mark.parametrize(
    ("method", "kills_due", "workers", "iterations", "more"),
    [
        ("star", 1, 1, 1, SHORT),
        pytest.param("star", 6, 2, 2, ALL, marks=pytest.mark.slow),
        pytest.param("adastar", 6, 2, 3, ALL, marks=pytest.mark.slow),  # its state comes from earlier iterations
        pytest.param("star", 3, 1, 2, RANKS, marks=pytest.mark.slow),
        pytest.param("star-continue", 3, 1, 3, ADAPTERS, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_random_moments_ends_byte_identical_to_an_undisturbed_one(
    method: str, kills_due: int, workers: int, iterations: int, more: dict[str, object], tmp_path: Path
) -> None:
    rng = random.Random(0)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(command(undisturbed, method, workers, iterations, **more))
    kills = killed_in_training = 0
    while kills < kills_due:
        wants_training = kills in (0, 4)
        changes_due = rng.randint(1, 3 if wants_training else 6)
        arguments = command(killed, method, workers, iterations, **more)
        in_training = [killed] if wants_training else []
        if kill_after_changes(arguments, killed, changes_due, rng.random() * 0.1, in_training=in_training):
            is_in_training = is_training(killed)
            killed_in_training += is_in_training
            # One that came after the training is not the wanted one, and one before run.json leaves nothing to resume.
            kills += (is_in_training or not wants_training) and (killed / "run.json").exists()
        else:  # the run ended before the kill: the other kills are of a new run
            shutil.rmtree(killed)
    assert killed_in_training >= 1
    # Add what a kill in the middle of a write can leave.
    (killed / "checkpoints" / "002.tmp").mkdir(exist_ok=True)
    (killed / "checkpoints" / "002.tmp" / "model.safetensors").write_bytes(b"half of it")
    for path in (*(killed / "samples").glob("*.jsonl"), killed / "prompts.jsonl"):
        with open(path, "ab") as file:
            file.write(b'{"problem_id":"torn')
    (killed / "problems.jsonl.tmp").write_bytes(b"half of it")
    (killed / "lock").touch()
    finish([sys.executable, "-m", "selftaught", "run", "--resume", str(killed)])

    for folder in (undisturbed, killed):
        assert [s.iteration for s in read_summaries(folder)] == list(range(1, iterations + 1))
    assert not list(killed.glob("checkpoints/*.tmp"))
    names = ("problems.jsonl", "prompts.jsonl", "samples", "examples", "left_out")
    assert folder_bytes(killed, *names) == folder_bytes(undisturbed, *names)
    assert weights(killed) == weights(undisturbed)
    assert len(weights(killed)) >= (iterations if "training.keep_weights" in more else 1)
    assert (killed / "result.json").read_bytes() == (undisturbed / "result.json").read_bytes()

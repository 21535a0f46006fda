"""A comparison that is killed repeatedly ends with the same files as an undisturbed one."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builders import PATIENCE_S
from test_cli import selftaught, settings
from test_compare import NAMES, without_times
from test_kill import finish, is_training, kill_after_changes, weights
from toy import folder_bytes

SETTINGS = {
    "task.problems_per_iteration": 32,
    "task.dev_problems": 16,
    "task.test_problems": 16,
    "sampling.max_new_tokens": 48,
    "training.num_rehearsed": 10,
    "training.steps_first_iteration": 4,
    "training.batch_size": 8,
    "compute.threads": 1,
    "compute.workers": 1,
    "compute.chunk_completions": 8,
    "engine.slots": 4,
    "engine.cache_mib": 64,
    "loop.max_iterations": 1,
}
ROWS = ("few-shot-cot", "star")
CELLS = tuple(f"{row}-seed{seed}" for row in ROWS for seed in (1, 2))


def command(folder: Path) -> list[str]:
    rows = ("--rows", ",".join(ROWS), "--seeds", "1,2")
    return [
        sys.executable,
        "-m",
        "selftaught",
        "compare",
        "arithmetic",
        "--dir",
        str(folder),
        *rows,
        *settings(SETTINGS),
    ]


def table_of(folder: Path) -> Any:
    return without_times(json.loads((folder / "compare.json").read_text()))


@pytest.mark.slow
def test_a_comparison_killed_ten_times_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    rng = random.Random(0)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(command(undisturbed))
    kills, most_changes, was_training = 0, 12, False
    while kills < 10:
        # The first kills are in a training, until one was.
        in_training, most = ([], most_changes) if was_training else ([killed / cell for cell in CELLS], 2)
        changes, delay_s = rng.randint(1, most), rng.random() * 0.1
        if kill_after_changes(command(killed), killed, changes, delay_s, in_training=in_training):
            kills += 1
            was_training |= is_training(*(killed / cell for cell in CELLS))
        else:  # it ended before ten kills, on a machine so busy that few changes were seen: again, killed earlier
            shutil.rmtree(killed)
            kills, most_changes, was_training = 0, max(1, most_changes // 2), False
    (killed / "shared" / "uses").mkdir(parents=True, exist_ok=True)
    (killed / "shared" / "0.1-2.tmp").write_bytes(b"half of it")
    with open(killed / "shared" / "uses" / "star-seed1.jsonl", "ab") as file:
        file.write(b'{"key":"torn')
    finish(command(killed))

    assert table_of(killed) == table_of(undisturbed)
    names = ("comparison.json", "compare.tex", "accuracy.svg", "tokens.svg")
    assert folder_bytes(killed, *names) == folder_bytes(undisturbed, *names)
    for cell in CELLS:
        assert folder_bytes(killed / cell, *NAMES) == folder_bytes(undisturbed / cell, *NAMES)
        assert weights(killed / cell) == weights(undisturbed / cell)
        assert (killed / cell / "report.md").exists()


@pytest.mark.slow
def test_cells_that_run_at_the_same_time_make_one_table(tmp_path: Path) -> None:
    jobs = [
        subprocess.Popen([*command(tmp_path), "--only", cell.replace("-seed", ":")], stderr=subprocess.PIPE, text=True)
        for cell in (CELLS[0], CELLS[2])
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=PATIENCE_S)
        assert job.returncode == 0, errors
    table = table_of(tmp_path)
    assert [(row["row"], row["seeds"]) for row in table["rows"]] == [("few-shot-cot", [1]), ("star", [1])]
    assert table["missing"] == []


@pytest.mark.slow
def test_a_scheduler_stops_a_comparison_in_order_and_the_same_command_carries_it_on(tmp_path: Path) -> None:
    stopped = selftaught(*command(tmp_path)[3:], "--time-limit", "1")
    assert stopped.returncode == 75, stopped.stderr
    assert stopped.stderr.endswith("Carry on with the same command\n")
    finish(command(tmp_path))
    assert table_of(tmp_path)["missing"] == []

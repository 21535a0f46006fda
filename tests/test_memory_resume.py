"""A training that died is told of at the next start, and settings of memory may change when a run is carried on."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import LEAST, step_metrics
from selftaught.commands.memory_check import last_death
from selftaught.commands.run import launch
from selftaught.commands.stored_run import config_of_run
from selftaught.config.loading import config_from_values
from selftaught.config.settings import RunConfig
from selftaught.records.errors import Interrupted, StoreError
from selftaught.records.events import Event, StepTaken
from selftaught.runs.store import append_metrics
from selftaught.tracking.listeners import Recorder
from test_cli import QUICK


def config_with(**values: object) -> RunConfig:
    return config_from_values({**LEAST, **QUICK, "compute.device": "cpu", **values})


class StopInTraining:
    """Asks the run to stop at its first optimizer step."""

    def __init__(self) -> None:
        self.stopped = False

    def tell(self, event: Event) -> None:
        self.stopped = self.stopped or isinstance(event, StepTaken)

    def close(self) -> None:
        pass


@pytest.mark.slow
def test_a_training_that_was_stopped_or_failed_leaves_no_mark_and_its_steps_say_the_memory(tmp_path: Path) -> None:
    stop, run_dir = StopInTraining(), tmp_path / "run"
    values = {"training.num_rehearsed": 10, "training.micro_batch_tokens": 100}
    with pytest.raises(Interrupted):
        launch(config_with(**values), run_dir, listeners=[stop], should_stop=lambda: stop.stopped)
    assert not list((run_dir / "checkpoints").iterdir())
    assert last_death(run_dir) == ()
    (line,) = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["peak_bytes"] is None or json.loads(line)["peak_bytes"] > 50 << 20

    before = json.loads((run_dir / "run.json").read_text())
    new = {"training.micro_batch_tokens": 50, "training.activation_checkpointing": True}
    notes, changed = Recorder(), {**values, **new}
    with pytest.raises(Interrupted):
        launch(config_with(**changed), run_dir, listeners=[notes], should_stop=lambda: True)
    assert any("training.micro_batch_tokens = 50, before 100" in line and "last bits" in line for line in notes.notes)
    assert any("training.activation_checkpointing = True, before False" in line for line in notes.notes)
    after = json.loads((run_dir / "run.json").read_text())
    assert after["resolved"]["training"]["micro_batch_tokens"] == 50
    assert after["config"] == {**before["config"], **new}

    auto = {**values, "training.micro_batch_tokens": "auto"}
    for config in (config_of_run(run_dir), config_with(**auto)):  # as `run --resume`, and as the file without --set
        again = Recorder()
        with pytest.raises(Interrupted):
            launch(config, run_dir, listeners=[again], should_stop=lambda: True)
        assert json.loads((run_dir / "run.json").read_text()) == after
        assert not [line for line in again.notes if "before" in line]
    more = Recorder()
    with pytest.raises(Interrupted):
        launch(
            config_with(**values, **{"training.keep_weights": "all"}),
            run_dir,
            listeners=[more],
            should_stop=lambda: True,
        )
    assert "training.keep_weights = all, before best-and-last: the run is carried on with it" in more.notes
    assert config_of_run(run_dir).training.keep_weights == "all"
    with pytest.raises(StoreError, match=r"was started with .*training\.batch_size"):
        launch(config_with(**values, **{"training.batch_size": 3}), run_dir)


def died(run_dir: Path, *steps: dict[str, Any]) -> str:
    (run_dir / "checkpoints" / "002.tmp").mkdir(parents=True)
    for values in steps:
        append_metrics(run_dir, values.pop("iteration", 2), step_metrics(**values))
    (line,) = last_death(run_dir)
    return line


def test_a_training_whose_process_died_is_told_with_its_step_its_memory_and_the_knob(tmp_path: Path) -> None:
    line = died(
        tmp_path,
        {"iteration": 1, "step": 9, "peak_bytes": 9 << 30},
        {"step": 1, "peak_bytes": 7 << 30},
        {"step": 30, "peak_bytes": 8 << 30},
        {"step": 1, "peak_bytes": 2 << 30},  # the attempt after it
        {"step": 10, "peak_bytes": 5 << 30},
    )
    assert "the last training of iteration 2 ended without a clean end, after step 10, with 5.0 GiB of memory" in line
    assert "training.micro_batch_tokens" in line


def test_a_training_that_died_before_its_first_logged_step_is_told_too(tmp_path: Path) -> None:
    assert "before its first step was logged; if memory" in died(tmp_path)

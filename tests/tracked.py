"""A run of the toy task with optimizer steps, tracked or not; as a program it can be killed in a chosen stage.

python tests/tracked.py DIR BACKENDS [sampling | training]
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selftaught.commands.run import FromPython, launch
from selftaught.config.loading import flat_values
from selftaught.engines.scripted import ScriptedEngine
from selftaught.records.events import Listener
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.runs.reading import FORMAT
from selftaught.runs.store import RunStore
from selftaught.tracking import mirror
from selftaught.tracking.files import MetricsFile
from selftaught.tracking.listeners import Listeners
from selftaught.training.none import NullTrainer
from toy import folder_bytes, reply, run_toy, toy_config, toy_task

NAMES = ("samples", "examples", "left_out", "problems.jsonl", "prompts.jsonl", "result.json")
"""What a run writes that does not depend on clocks."""
STEPS = 5
PATIENT = {"START_S": 600.0, "CLOSE_S": 300.0, "CLOSE_UNFINISHED_S": 300.0, "GRACE_S": 120.0, "LEAVING_S": 60.0}
"""Limits of `tracking.mirror` for tests that are not about them."""


class Stepping(NullTrainer):
    """Tells steps whose numbers follow from the training alone."""

    def __init__(self, kill_at: tuple[int, int] | None = None) -> None:
        self._kill_at = kill_at

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        n = training.plan.iteration
        for step in range(1, STEPS + 1):
            if (n, step) == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            on_step(
                StepMetrics(
                    step=step,
                    loss=1 / (step + n),
                    learning_rate=0.01,
                    grad_norm=float(step),
                    seconds=0.5 * step,
                    tokens=100 * step,
                    noise=(1.0, 3.0 * step),
                    peak_bytes=step << 30,
                )
            )
        checkpoint = super().fine_tune(training, on_step)
        return replace(checkpoint, train=replace(checkpoint.train, steps=STEPS, last_loss=1 / (STEPS + n)))


def tracked_run(
    run_dir: Path, *backends: str, kill_in: str = "", listeners: Sequence[Listener] = (), **changes: Any
) -> None:
    """Two iterations; a run that is to be killed is killed in the first one's sampling or in the second one's training.

    The kill in sampling is at the third completion of iteration 1, so a chunk is on disk by then.
    """
    asked = 0

    def answer(prompt: str, seed: int) -> str:
        nonlocal asked
        asked += 1
        if kill_in == "sampling" and asked == 6:  # two of dev come first
            os.kill(os.getpid(), signal.SIGKILL)
        return reply(prompt, seed)

    config = toy_config(
        **{
            "compute__chunk_completions": 2,
            "model__dtype": "float32",  # nothing is computed, so nothing need be timed
            "tracking__log_every_steps": 1,
            "tracking__backends": backends,
            **changes,
        }
    )
    given = FromPython(
        task=toy_task(),
        engine=lambda model: ScriptedEngine(answer),
        trainer=lambda: Stepping((2, 3) if kill_in == "training" else None),
    )
    launch(config, run_dir, listeners=listeners, given=given)


def scripted_run(run_dir: Path, listener: Listener) -> None:
    """The same without models and without trackers, for tests that must be quick; it writes no result.json."""
    config = toy_config()
    with RunStore(run_dir) as store:
        model = {"path": "scripted", "sha256": None, "parameters": 1000}
        about = {"format": FORMAT, "config": flat_values(config), "resolved": {}, "model": model}
        store.begin(toy_task(), about)
    with Listeners([MetricsFile(run_dir, 1), listener]) as tell:
        run_toy(run_dir, config=config, trainer=Stepping(), tell=tell)


def written(run_dir: Path) -> dict[str, bytes]:
    return folder_bytes(run_dir, *NAMES)


if __name__ == "__main__":
    for limit, seconds in PATIENT.items():
        setattr(mirror, limit, seconds)
    tracked_run(Path(sys.argv[1]), *filter(None, sys.argv[2].split(",")), kill_in=(sys.argv[3:] or [""])[0])

"""The trainer `none`: every iteration keeps the weights that it started from. For tests and dry experiments."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from selftaught.machine.opening import Opening
from selftaught.records.errors import StoreError
from selftaught.records.training import Checkpoint, StepMetrics, Training, TrainingSummary
from selftaught.training.settings import TrainingConfig
from selftaught.training.trainer import Trainer, checkpoint_of


class NullTrainer:
    """Trains nothing: the new model is a copy of the one it started from, if that is a folder."""

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        start = Path(training.start.path)
        if start.is_dir():
            ignored = shutil.ignore_patterns("checkpoint.json")
            try:
                shutil.copytree(start, training.out_dir, ignore=ignored, dirs_exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"cannot copy the model {start} to {training.out_dir}: {error}; free some space and run the same "
                    "command again"
                ) from error
        summary = TrainingSummary(
            steps=0, tokens=0, seconds=0.0, first_loss=None, last_loss=None, validation_loss=None, dev_answer_loss=None
        )
        return checkpoint_of(training, summary)


class NullConfig(TrainingConfig):
    name: Literal["none"] = Field("none", description="trains nothing, to try all the rest")

    def opener(self, opening: Opening) -> Callable[[], Trainer]:
        return NullTrainer

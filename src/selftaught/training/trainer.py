"""The interface of trainers, and a trainer that does nothing (for tests)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from selftaught.models.weights import weights_sha256
from selftaught.records.samples import ModelRef
from selftaught.records.training import (
    Checkpoint,
    StepMetrics,
    TrainingExample,
    TrainingPlan,
    TrainingSummary,
)


class Trainer(Protocol):
    def fine_tune(
        self,
        examples: Sequence[TrainingExample],
        *,
        validation: Sequence[TrainingExample],
        start: ModelRef,
        out_dir: Path,
        plan: TrainingPlan,
        on_step: Callable[[StepMetrics], None],
    ) -> Checkpoint:
        """Fine-tune the weights of `start` for `plan.steps` steps and save them in the empty folder `out_dir`.

        Calls `on_step` after every optimizer step; an exception from it ends the training. Raises RefusedError for
        examples that would not be learned as they are, TrainingError for a loss that is not finite.
        """
        ...


class NullTrainer:
    """Trains nothing and saves nothing; the checkpoint says so by having no weights."""

    def fine_tune(
        self,
        examples: Sequence[TrainingExample],
        *,
        validation: Sequence[TrainingExample],
        start: ModelRef,
        out_dir: Path,
        plan: TrainingPlan,
        on_step: Callable[[StepMetrics], None],
    ) -> Checkpoint:
        summary = TrainingSummary(
            steps=0, tokens=0, seconds=0.0, first_loss=None, last_loss=None, validation_loss=None, dev_answer_loss=None
        )
        return checkpoint_of(plan, start=start, out_dir=out_dir, examples=len(examples), train=summary)


def checkpoint_of(
    plan: TrainingPlan,
    *,
    start: ModelRef,
    out_dir: Path,
    examples: int,
    train: TrainingSummary,
    new_logprobs: Sequence[tuple[float, ...]] = (),
) -> Checkpoint:
    """The record of a finished training whose weights are in `out_dir`."""
    return Checkpoint(
        iteration=plan.iteration,
        path=f"checkpoints/{plan.iteration:03d}",
        sha256=weights_sha256(out_dir),
        started_from=start.path,
        started_from_sha256=start.sha256,
        examples=examples,
        examples_sha256=plan.examples_sha256,
        seed=plan.seed,
        train=train,
        probe=plan.probe,
        new_logprobs=tuple(new_logprobs),
    )

"""What a trainer is, and the record of a finished training."""

from collections.abc import Callable, Sequence
from typing import Protocol

from selftaught.models.weights import weights_sha256
from selftaught.records.training import Checkpoint, StepMetrics, Training, TrainingSummary


class Trainer(Protocol):
    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        """Fine-tune the weights of `training.start` for `plan.steps` steps and save them in `training.out_dir`.

        Calls `on_step` after every optimizer step; an exception from it ends the training. Raises RefusedError for
        examples that would not be learned as they are, TrainingError for a loss that is not finite.
        """
        ...


def checkpoint_of(
    training: Training, summary: TrainingSummary, *, new_logprobs: Sequence[tuple[float, ...]] = ()
) -> Checkpoint:
    """The record of a finished training whose weights are in `training.out_dir`.

    `new_logprobs` are those of the plan's probe under these weights.
    """
    plan, start = training.plan, training.start
    return Checkpoint(
        iteration=plan.iteration,
        path=f"checkpoints/{plan.iteration:03d}",
        sha256=weights_sha256(training.out_dir),
        started_from=start.path,
        started_from_sha256=start.sha256,
        examples=len(training.examples),
        examples_sha256=plan.examples_sha256,
        seed=plan.seed,
        train=summary,
        probe=plan.probe,
        new_logprobs=tuple(new_logprobs),
    )

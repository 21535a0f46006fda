"""What workers run in tests; without torch, so that they start at once."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from selftaught.records.errors import RefusedError, WorkerDied
from selftaught.records.samples import ModelRef
from selftaught.records.training import StepMetrics, Training, TrainingExample
from selftaught.stages.workers.protocol import Ready
from selftaught.training import rank_process
from selftaught.training.rank_process import Done, Here, Meeting


def echo(pipe: Connection, *first: object) -> None:
    """A worker's function: sends its arguments, then whatever it gets."""
    pipe.send(first)
    while (message := pipe.recv()) is not None:
        if isinstance(message, Exception):
            raise message
        pipe.send(message)


def loaded(pipe: Connection, *modules: str) -> None:
    """Sends which modules the process has imported."""
    pipe.send([module in sys.modules for module in modules])
    pipe.recv()


class Odd(Exception):
    """Takes two arguments, so that it cannot be unpacked from one."""

    def __init__(self, a: str, b: str) -> None:
        super().__init__(a + b)


def fail(pipe: Connection, kind: str) -> None:
    """A worker's function that never receives a message."""
    if kind == "ours":
        raise Odd("two", "parts")
    raise RefusedError("no tokens")


def half(pipe: Connection) -> None:
    """Dies in the middle of a message, as a process that runs out of memory may."""
    os.write(pipe.fileno(), (1000).to_bytes(4, "big") + b"x" * 10)
    os.kill(os.getpid(), signal.SIGKILL)


def saves(pipe: Connection) -> None:
    """As the first rank, which saves when the others have done their part; a while, so that what they do is seen."""
    from builders import checkpoint

    pipe.send(Here("a machine"))
    pipe.send(Meeting(0))
    time.sleep(1.0)
    pipe.send(checkpoint())


def done_and_killed(pipe: Connection) -> None:
    """As another rank, which is killed when it has done its part."""
    pipe.send(Here("a machine"))
    pipe.recv()
    pipe.send(Done())
    os.kill(os.getpid(), signal.SIGKILL)


def one_step(pipe: Connection, step: int) -> None:
    """As a first rank that hangs after a step."""
    from builders import step_metrics

    pipe.send(Here("a machine"))
    pipe.send(Meeting(0))
    pipe.send(step_metrics(step))
    pipe.recv()


def arrives(pipe: Connection, platform: str, *more: object) -> None:
    """As a rank that has started; if it is told where the others meet, the training is over."""
    from builders import checkpoint

    for message in (Here(platform), *more):
        pipe.send(message)
    pipe.recv()
    pipe.send(checkpoint())


def frozen(pipe: Connection) -> None:
    """As a rank that never starts."""
    pipe.recv()


def unreachable(pipe: Connection) -> None:
    """As a rank that cannot reach another one."""
    raise WorkerDied("rank 0 cannot reach another rank")


def unconnected(pipe: Connection) -> None:
    """As a rank that has not found the others."""
    from selftaught.training.ranks import Unconnected

    raise Unconnected("the ranks of a training cannot connect to each other")


class WaitAfter(tuple[TrainingExample, ...]):
    """Examples of a training that have its first rank wait after a step, or before the first one, in the process that
    gets them, until a file is there: else a short training may be over before a test has done what it does then."""

    step: int
    file: Path

    def __reduce__(self) -> Any:
        return _wait_after, (tuple(self), self.step, self.file)


def wait_after(training: Training, step: int, file: Path) -> Training:
    """The training with such examples; step 0 is before the first."""
    examples = WaitAfter(training.examples)
    examples.step, examples.file = step, file
    return replace(training, examples=examples)


def _wait_after(examples: tuple[TrainingExample, ...], step: int, file: Path) -> tuple[TrainingExample, ...]:
    train = rank_process.train_as_rank

    def wait(at: int) -> None:
        while at == step and not file.exists():
            time.sleep(0.01)

    def waiting(job: Any, ranks: Any, tell: Callable[[StepMetrics], None]) -> Any:
        def told(metrics: StepMetrics) -> None:
            tell(metrics)
            wait(metrics.step)

        if ranks.rank == 0:
            wait(0)
        return train(job, ranks, told)

    for name in ("rank_process", "ray_rank_process"):  # the second has it by the first one's name, if it is there yet
        if (module := sys.modules.get(f"selftaught.training.{name}")) is not None:
            setattr(module, "train_as_rank", waiting)  # noqa: B010
    return examples


def tell_every_token(pipe: Connection) -> None:
    """From now on an engine in this process tells its tokens after every forward pass."""
    from selftaught.engines.local import rows

    rows.TELL_EVERY_S = 0.0
    pipe.send("done")


def serve_script(pipe: Connection, worker: str, run_dir: Path, log_dir: Path | None, model: ModelRef) -> None:
    """A worker of a run without an engine: the model's name says what becomes of it, and jobs are sent back."""
    if model.path == "refused":
        raise RefusedError("no such data")
    if model.path == "broken":
        raise ValueError("a device failed")
    if model.path == "dies":
        os._exit(3)
    pipe.send(Ready(worker=worker, platform=os.environ.get("CUDA_VISIBLE_DEVICES", "no GPU")))
    while (job := pipe.recv()) is not None:
        pipe.send(job)
    pipe.send(None)

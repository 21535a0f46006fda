"""The trainer `sft` on several ranks of this machine: it starts them, passes on what they tell, and ends them.

The ranks are workers (machine/workers.py): they share no terminal and no signals with the run, and end with it. When
one is lost, all end, and the training begins again, because the others are in the middle of a step.
"""

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from selftaught.machine.leftovers import end_leftovers, remember
from selftaught.machine.workers import Worker, Workers
from selftaught.records.errors import TrainingError, WorkerDied
from selftaught.records.training import Checkpoint, StepMetrics, Training, TrainingPlan
from selftaught.runs.lines import as_store_error
from selftaught.training.rank_process import Done, Here, Meeting, RankJob, serve_rank

MOST_REDONE = 3
"""Times that a training begins again because ranks were lost."""
POLL_S = 0.2
START_S = 600.0
"""In which all ranks must have started, and the first must say where the others meet it: they import torch before."""
QUIET_S = 30.0
"""Without a step for so long, a stop is heard although none has ended: ranks may be waiting for one that hangs."""
SAVING_S = 600.0
"""The same after the last step, where the model is measured and saved before a stop is heard."""
CAUSE_S = 2.0
"""In which the system tells that a process is gone, after others have noticed."""

RECORD = "ranks.json"
"""In the folder of a run's logs, as long as ranks train for it."""

JobOf = Callable[[Training], RankJob]
Admit = Callable[[Mapping[str, str]], None]
"""Gets what each rank computes with, by the words for it; raises if they must not train."""


class RankTrainer:
    """Fine-tunes on `size` ranks, which are started for each training and gone after it."""

    def __init__(
        self,
        job_of: JobOf,
        size: int,
        *,
        log_dir: Path | None,
        note: Callable[[str], None],
        admit: Admit,
        raise_if_stopped: Callable[[], None] = lambda: None,
    ) -> None:
        """`log_dir` keeps the ids of the ranks while they train, for the next start of a run that is killed.
        `raise_if_stopped` is called until the first step, which on a large model is minutes away, and when none
        comes."""
        self._job_of, self._size, self._note, self._admit = job_of, size, note, admit
        self._raise_if_stopped = raise_if_stopped
        self._record = log_dir / RECORD if log_dir else None

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        if self._record is not None:
            end_leftover_ranks(self._record.parent)
        job = self._job_of(training)
        return redone(training, self._size, self._note, lambda: self._once(job, on_step))

    def _once(self, job: RankJob, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        try:
            with Workers(self._size) as ranks:
                for rank, worker in enumerate(ranks):
                    worker.begin(self, serve_rank, job, rank, self._size)
                if self._record is not None:
                    with as_store_error(self._record, "write"):
                        remember(self._record, [worker.pid for worker in ranks if worker.pid is not None])
                return _attend(ranks, Hearing(job.training.plan, on_step, self._raise_if_stopped), self._admit)
        finally:
            if self._record is not None:
                self._record.unlink(missing_ok=True)


class Hearing:
    """Passes steps on, and hears when the run is to end: until the first step, and whenever ranks are silent for long.
    Between steps whoever is told them hears it."""

    def __init__(
        self, plan: TrainingPlan, on_step: Callable[[StepMetrics], None], raise_if_stopped: Callable[[], None]
    ) -> None:
        self._steps, self._on_step, self._raise_if_stopped = plan.steps, on_step, raise_if_stopped
        self._from = -math.inf

    def tell(self, metrics: StepMetrics) -> None:
        self._on_step(metrics)
        self._from = time.monotonic() + (QUIET_S if metrics.step < self._steps else SAVING_S)

    def listen(self) -> None:
        """Raise what ends the run; to be called about every second."""
        if time.monotonic() >= self._from:
            self._raise_if_stopped()


def end_leftover_ranks(log_dir: Path) -> None:
    """End the ranks that a killed start of the run has left behind; for the one process that has the run's lock."""
    with as_store_error(log_dir / RECORD, "read"):
        end_leftovers(log_dir / RECORD)


def redone(training: Training, size: int, note: Callable[[str], None], train: Callable[[], Checkpoint]) -> Checkpoint:
    """What `train` returns; after a WorkerDied it is called again, a few times. Raises TrainingError after these."""
    number = 0
    while True:
        try:
            return train()
        except WorkerDied as lost:
            if number == MOST_REDONE:
                raise TrainingError(
                    f"the training of iteration {training.plan.iteration} lost a rank {number + 1} times, at last: "
                    f"{lost}; if memory is short, carry on with a smaller training.micro_batch_tokens or "
                    "training.activation_checkpointing=true; the samples are kept"
                ) from lost
            number += 1
            note(
                f"warning: the training of iteration {training.plan.iteration} has lost a rank ({lost}); it begins "
                f"again on all {size} ranks"
            )
            for path in training.out_dir.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _attend(ranks: Sequence[Worker], hearing: Hearing, admit: Admit) -> Checkpoint:
    """Pass on what the ranks tell until the first has saved the model."""
    size, by_pipe = len(ranks), {worker.pipe: rank for rank, worker in enumerate(ranks)}
    platforms, meeting = dict[int, str](), None
    began, have_met = time.monotonic(), False
    while True:
        hearing.listen()
        if not have_met and meeting is not None and len(platforms) == size:
            admit({f"rank {rank} of {size}": platforms[rank] for rank in range(size)})
            for other in ranks[1:]:
                other.send(meeting)
            have_met = True
        if not have_met and time.monotonic() - began > START_S:
            raise TrainingError(
                f"{len(platforms)} of {size} ranks have started in {START_S:.0f} s; see what holds the others up, and "
                "run the same command again"
            )
        for pipe in cast(list[Connection], wait(list(by_pipe), timeout=POLL_S)):
            match _received(ranks, by_pipe[pipe]):
                case Checkpoint() as checkpoint:
                    return checkpoint
                case Here(platform):
                    platforms[by_pipe[pipe]] = platform
                case Meeting() as told:
                    meeting = told
                case Done():
                    del by_pipe[pipe]  # whatever becomes of it
                case metrics:
                    hearing.tell(metrics)


def _received(ranks: Sequence[Worker], rank: int) -> Any:
    """A rank's next message. Raises what it raised; if that is that it cannot reach another one, what that one raised,
    or WorkerDied with the words how it ended."""
    try:
        return ranks[rank].receive()
    except WorkerDied as lost:
        if lost.how:
            raise WorkerDied(f"rank {rank} of {len(ranks)} {lost.how}") from lost
        deadline, others = time.monotonic() + CAUSE_S, set(range(len(ranks))) - {rank}
        while others and time.monotonic() < deadline:
            for other in sorted(others):
                if ranks[other].has_message():
                    _raise_cause(ranks, other, others)
            time.sleep(0.05)
        raise_if_unconnected(lost)
        raise


def raise_if_unconnected(lost: WorkerDied) -> None:
    """Raise TrainingError for ranks that have not found each other although all are there: they never would."""
    from selftaught.training.ranks import Unconnected

    if isinstance(lost, Unconnected):
        raise TrainingError(str(lost)) from lost


def _raise_cause(ranks: Sequence[Worker], rank: int, others: set[int]) -> None:
    """Raise what a rank raised, unless that is that it cannot reach another one, either."""
    try:
        ranks[rank].receive()
    except WorkerDied as lost:
        others.remove(rank)
        if lost.how:
            raise WorkerDied(f"rank {rank} of {len(ranks)} {lost.how}") from lost

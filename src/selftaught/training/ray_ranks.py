"""The trainer `sft` on ranks of a Ray cluster: Ray Train's TorchTrainer places them, starts them and has them meet.

An actor of the run calls Ray Train, so that the run can end a training at any moment by ending that actor, whatever
Ray waits for. Ranks leave their messages with a second actor, on the run's machine.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from selftaught.machine.quiet import quieten_libraries
from selftaught.records.errors import ConfigError, SelftaughtError, TrainingError, WorkerDied, one_line
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.training.rank_process import RankJob, train_as_rank
from selftaught.training.rank_trainer import JobOf, redone

STORAGE = "ray"
"""Of Ray Train, in the temporary folder of a checkpoint: every node must see it."""
POLL_S = 0.2
QUIET_WAIT_S = 5.0
"""Waited for room before the user is told."""
ROOM_S = 900.0
START_S = 600.0
"""In which Ray must have started all ranks; one takes seconds, on a busy machine a minute."""
CONTROLLER_RETRIES = 1
"""Of Ray Train's controller, which would try for ever to place ranks on a node that is gone."""
ENVIRONMENT = {
    "TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES": "0",  # a rank sees its own GPU alone, as on one machine
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(START_S / 2),
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


class RayRankTrainer:
    """Fine-tunes on `size` ranks somewhere in the cluster; rank 0 writes the model to the run folder, which all see."""

    def __init__(self, job_of: JobOf, size: int, *, address: str, note: Callable[[str], None]) -> None:
        """Raises ConfigError if no cluster answers."""
        self._job_of, self._size, self._note = job_of, size, note
        connect(address)

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        job = self._job_of(_with_absolute_paths(training))
        self._refuse_small_cluster(job)
        return redone(training, self._size, self._note, lambda: self._once(job, on_step))

    def _once(self, job: RankJob, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        self._wait_for_room(job)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": 0}
        mailbox = ray.remote(Mailbox).options(**options).remote()
        fitting = ray.remote(Fitting).options(**options, runtime_env={"env_vars": ENVIRONMENT}).remote()
        try:
            return _attend(mailbox, fitting.fit.remote(job, self._size, mailbox), self._size, on_step)
        finally:
            ray.kill(fitting)
            ray.kill(mailbox)
            shutil.rmtree(job.training.out_dir / STORAGE, ignore_errors=True)

    def _refuse_small_cluster(self, job: RankJob) -> None:
        """Raise ConfigError if even the whole cluster has no room; one that has lost a node may get another."""
        of_rank = resources_of(job)
        places = [
            min(int(node["Resources"].get(name, 0) // number) for name, number in of_rank.items())
            for node in ray.nodes()
            if node["Alive"]
        ]
        if sum(places) < self._size:
            raise ConfigError(
                f"cluster.train_workers = {self._size} needs {_words(of_rank)} for each, and the Ray cluster has that "
                f"{sum(places)} times on {len(places)} nodes; add nodes, or begin a new run with fewer train workers"
            )

    def _wait_for_room(self, job: RankJob) -> None:
        needed = {name: number * self._size for name, number in resources_of(job).items()}
        began, is_told = time.monotonic(), False
        while True:
            free = ray.available_resources()
            if all(free.get(name, 0) >= number for name, number in needed.items()):
                return
            waited = time.monotonic() - began
            has = _words({name: free.get(name, 0) for name in needed})
            if waited > ROOM_S:
                raise TrainingError(
                    f"the training has waited {waited:.0f} s for {_words(needed)} of the Ray cluster, where {has} are "
                    "free; end other jobs or add nodes, and run the same command again"
                )
            if waited > QUIET_WAIT_S and not is_told:
                self._note(f"waiting for {_words(needed)} of the Ray cluster to train on; {has} are free")
                is_told = True
            time.sleep(POLL_S)


def connect(address: str) -> None:
    """Be a driver of the cluster, if this process is not yet. Raises ConfigError if no cluster answers."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cluster.address = {address!r}: no Ray cluster answers ({one_line(error)}); start one as docs/cluster.md "
            "shows, or correct the address"
        ) from error


def resources_of(job: RankJob) -> dict[str, float]:
    """Of the cluster, for one rank."""
    return {"GPU": 1.0} if job.machine.device == "cuda" else {"CPU": float(job.machine.threads)}


@dataclass(frozen=True, slots=True)
class _Started:
    rank: int


class Mailbox:
    """Messages of the ranks, until the run takes them."""

    def __init__(self) -> None:
        self._messages: list[Any] = []

    def put(self, message: Any) -> None:
        self._messages.append(message)

    def take(self) -> list[Any]:
        taken, self._messages = self._messages, []
        return taken


class Fitting:
    """Calls Ray Train, which blocks until the training has ended."""

    def fit(self, job: RankJob, size: int, mailbox: Any) -> str:
        """Why the training failed; empty if it did not."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        from selftaught.training.ranks import TIMEOUT

        is_gpu = job.machine.device == "cuda"
        trainer = TorchTrainer(
            _be_rank,
            train_loop_config={"job": job, "mailbox": mailbox},
            torch_config=TorchConfig(backend="nccl" if is_gpu else "gloo", timeout_s=int(TIMEOUT.total_seconds())),
            scaling_config=ScalingConfig(
                num_workers=size, use_gpu=is_gpu, resources_per_worker={"CPU": 0, **resources_of(job)}
            ),
            run_config=RunConfig(
                name="ranks",
                storage_path=str(job.training.out_dir / STORAGE),
                failure_config=FailureConfig(
                    max_failures=0, controller_failure_limit=CONTROLLER_RETRIES, max_preemption_failures=0
                ),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            return one_line(str(error).splitlines()[0]) or type(error).__name__
        return ""


def _be_rank(given: dict[str, Any]) -> None:
    """In a worker of Ray Train, which has had the ranks join."""
    job, mailbox = given["job"], given["mailbox"]
    quieten_libraries()
    import torch

    from selftaught.training.ranks import Ranks, hide_from_libraries

    hide_from_libraries()
    ranks = Ranks(torch.device(job.machine.device))
    mailbox.put.remote(_Started(ranks.rank))
    try:
        result = train_as_rank(job, ranks, partial(_tell, mailbox))
    except SelftaughtError as error:
        ray.get(mailbox.put.remote(error))
        raise
    if result is not None:
        ray.get(mailbox.put.remote(result))


def _tell(mailbox: Any, metrics: StepMetrics) -> None:
    mailbox.put.remote(metrics)


def _attend(mailbox: Any, fitted: Any, size: int, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
    """Pass on what the ranks tell until Ray Train has ended, with a checkpoint."""
    checkpoint: Checkpoint | None = None
    started: set[int] = set()
    began = time.monotonic()
    while True:
        ended, _ = ray.wait([fitted], timeout=POLL_S)
        for message in ray.get(mailbox.take.remote()):
            match message:
                case _Started(rank=rank):
                    started.add(rank)
                case Checkpoint():
                    checkpoint = message
                case SelftaughtError():
                    raise message
                case _:
                    on_step(message)
        if ended:
            break
        if len(started) < size and time.monotonic() - began > START_S:
            raise TrainingError(
                f"Ray has started {len(started)} of {size} ranks in {START_S:.0f} s; see `ray status` and Ray's logs, "
                "and run the same command again"
            )
    try:
        why = ray.get(fitted)
    except ray.exceptions.RayError as error:
        why = one_line(str(error).splitlines()[0])
    if checkpoint is None:
        raise WorkerDied(f"Ray: {why or 'no rank has saved the model'}")
    return checkpoint


def _with_absolute_paths(training: Training) -> Training:
    """Ranks have other current folders."""
    path = training.start.path
    start = replace(training.start, path=str(Path(path).absolute()) if Path(path).is_dir() else path)
    return replace(training, start=start, out_dir=training.out_dir.absolute())


def _words(resources: dict[str, float]) -> str:
    return " and ".join(f"{number:g} {name}s" for name, number in resources.items())

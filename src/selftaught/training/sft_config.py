"""The trainer `sft`: what it needs, and how it is opened. Its libraries are imported only then."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from selftaught.machine.cluster import needs_of_rank
from selftaught.machine.devices import refuse_too_few_gpus
from selftaught.machine.opening import Opening
from selftaught.records.errors import ConfigError
from selftaught.records.training import Training
from selftaught.training.rank_process import RankJob
from selftaught.training.rank_trainer import RankTrainer
from selftaught.training.settings import SftSettings
from selftaught.training.trainer import Trainer


class SftConfig(SftSettings):
    def check(self) -> None:
        if self.lora_rank and find_spec("peft") is None:
            raise ConfigError(
                f"training.lora_rank = {self.lora_rank} needs the package peft; install selftaught[lora], or "
                "leave it out to train all weights"
            )

        if self.frozen_4bit and find_spec("bitsandbytes") is None:
            raise ConfigError(
                "training.frozen_4bit needs the package bitsandbytes; install selftaught[4bit], or leave it out to "
                "keep the frozen weights in model.dtype"
            )

    def opener(self, opening: Opening) -> Callable[[], Trainer]:
        if opening.machine.ranks > 1:
            return lambda: self.on_ranks(opening)

        def open_trainer() -> Trainer:
            for worker in opening.workers:
                worker.load("selftaught.training.worker_gradients")  # at the same time as this process imports it
            from selftaught.training.sft import SftTrainer

            return SftTrainer(
                self,
                dtype=opening.machine.dtype,
                device=opening.machine.device,
                threads=opening.machine.threads,
                workers=opening.workers,
                trust_remote_code=opening.trust_remote_code,
                chat=opening.chat,
            )

        return open_trainer

    def on_ranks(self, opening: Opening) -> Trainer:
        """A trainer that shares every step among `opening.machine.ranks` ranks, here or in a Ray cluster."""
        machine, size = opening.machine, opening.machine.ranks

        def job_of(training: Training) -> RankJob:
            return RankJob(
                settings=self,
                machine=machine.of_rank,
                trust_remote_code=opening.trust_remote_code,
                chat=opening.chat,
                training=training,
            )

        admit = partial(opening.training_platform.admit, any_machine=opening.cluster.any_machine)
        if opening.cluster.address is None:
            refuse_too_few_gpus(machine.device, size)
            return RankTrainer(
                job_of,
                size,
                log_dir=opening.log_dir,
                note=opening.note,
                admit=admit,
                raise_if_stopped=opening.raise_if_stopped,
            )
        if find_spec("ray") is None:
            raise ConfigError(
                f"cluster.address = {opening.cluster.address!r} needs the package ray; install selftaught[cluster], or "
                "leave the address out to train on this machine"
            )
        from selftaught.training.ray_ranks import RayRankTrainer

        return RayRankTrainer(
            job_of,
            size,
            needs_of_rank(machine),
            admit=admit,
            run_dir=opening.log_dir.parent if opening.log_dir else None,
            note=opening.note,
            raise_if_stopped=opening.raise_if_stopped,
        )

"""The trainer `sft`: what it needs, and how it is opened. Its libraries are imported only then."""

from collections.abc import Callable
from importlib.util import find_spec

from selftaught.machine.opening import Opening
from selftaught.records.errors import ConfigError
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

"""The engine `local`: its settings, and how it is opened. torch is imported only then."""

from collections.abc import Callable, Sequence
from typing import Literal, Self

from pydantic import Field

from selftaught.engines.engine import Engine, EngineConfig, PromptLengths
from selftaught.machine.devices import Machine, given_or, has_compiler
from selftaught.machine.memory import free_memory_bytes
from selftaught.machine.opening import Opening
from selftaught.models.forecast import Forecast, SamplingWork, forecast_sampling
from selftaught.models.shape import Shape
from selftaught.records.errors import ConfigError
from selftaught.records.samples import ModelRef
from selftaught.records.sections import OrAuto

SLOTS = {"cpu": 128, "cuda": 256}
PREFILL_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Prompt tokens of one forward pass."""
CACHE_STEP_MIB = 64
PROBE_ROWS = 8
"""Completions whose log-probabilities prove the weights (stages/train.py)."""


class LocalConfig(EngineConfig):
    name: Literal["local"] = Field("local", description="a transformers model in this process")
    slots: OrAuto = Field(
        "auto",
        description="Completions that a worker generates at a time; `auto` is 128 on a CPU and 256 on a GPU.",
    )
    cache_mib: OrAuto = Field(
        "auto",
        description="MiB in each worker for the keys and values of the completions being generated; fewer slots are used if they need more. `auto` is a third of the free memory, shared out among the workers; on a GPU half of what the weights leave free.",
    )
    compiled: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Operations compiled by numba for this machine's CPU; `auto` takes them on a CPU where numba is installed.",
    )

    def check(self) -> None:
        if self.compiled == "on" and not has_compiler():
            raise ConfigError(
                "the run has compiled operations, but numba is not installed here; install it (pip install numba), "
                'or start a new run with engine.compiled = "off"'
            )

    def resolved(self, machine: Machine) -> Self:
        if self.compiled == "on" and machine.device != "cpu":
            raise ConfigError(
                f"engine.compiled = 'on' compiles for a CPU, but the run computes on {machine.device}; leave it out, "
                "or set compute.device=cpu"
            )
        is_compiled = self.compiled == "on" or (self.compiled == "auto" and machine.device == "cpu" and has_compiler())
        free_mib = free_memory_bytes(machine.device) >> 20
        # The number decides which completions share a batch, so it is written down at the first start, when no weight
        # is loaded yet. A GPU's memory is short enough for the weights to matter.
        if machine.device == "cuda":
            share_mib = max(0, free_mib - (machine.weights_bytes >> 20)) // 2
        else:
            share_mib = free_mib // 3 // machine.workers
        return self.model_copy(
            update={
                "slots": given_or(self.slots, SLOTS[machine.device]),
                "cache_mib": given_or(self.cache_mib, max(1, share_mib // CACHE_STEP_MIB) * CACHE_STEP_MIB),
                "compiled": "on" if is_compiled else "off",
            }
        )

    def lines(self, machine: Machine) -> Sequence[str]:
        if machine.device == "cpu":
            return ()
        return (
            'the engine of choice on a GPU is vLLM (engine.name = "vllm"); what it does not give is that a run that was '
            "killed and carried on ends with the same bytes as one that was not",
        )

    def completions_at_a_time(self, machine: Machine) -> int:
        return given_or(self.slots, SLOTS[machine.device]) * machine.workers

    def forecast(self, lengths: PromptLengths, shape: Shape, machine: Machine) -> Forecast:
        work = SamplingWork(
            dtype=machine.dtype,
            device=machine.device,
            slots=int(self.slots),
            shared=lengths.shared,
            length=lengths.own + lengths.new,
            cache_bytes=int(self.cache_mib) << 20,
            prefill_tokens=PREFILL_TOKENS[machine.device],
            is_greedy=lengths.is_greedy,
            packs=self.compiled == "on",
            scored=PROBE_ROWS * lengths.new,
            workers=machine.workers,
        )
        return forecast_sampling(shape, work)

    def opener(self, opening: Opening) -> Callable[[ModelRef], Engine]:
        self.check()  # of the settings that were resolved when the run began, maybe elsewhere
        machine, workers = opening.machine, opening.workers

        def open_engine(model: ModelRef) -> Engine:
            for worker in workers:
                worker.load("selftaught.engines.local.multi_process")  # at the same time as this process
            from selftaught.engines.local.engine import LocalSettings
            from selftaught.engines.local.multi_process import MultiProcessEngine, open_local

            settings = LocalSettings(
                dtype=machine.dtype,
                device=machine.device,
                threads=machine.threads,
                slots=int(self.slots),
                cache_bytes=int(self.cache_mib) << 20,
                prefill_tokens=PREFILL_TOKENS[machine.device],
                compiled=self.compiled == "on",
                trust_remote_code=opening.trust_remote_code,
                chat=opening.chat,
            )
            if workers:
                return MultiProcessEngine(model, workers, settings, note=opening.note, on_tokens=opening.on_tokens)
            return open_local(model, settings, note=opening.note, on_tokens=opening.on_tokens)

        return open_engine

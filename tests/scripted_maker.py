"""Makers of chunks without an engine, for tests of what carries jobs to workers."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from scripted_workers import ToyMaker
from selftaught.records.errors import ConfigError, EngineError
from selftaught.records.prompts import ChunkPrompts
from selftaught.records.samples import ModelRef
from selftaught.stages.workers.protocol import ChunkJob, Finished, FinishedChunk, Job
from toy import reply, toy_config, toy_task
from vllm_servers import started


class ScriptedMaker:
    """A job's stage says what it does: `ok` makes lines at once, `slow` in a second, `hang` never; `dies` raises
    EngineError, `wrong` ConfigError."""

    def __init__(
        self,
        run_dir: Path,
        *,
        log_dir: Path,
        shared: Path | None,
        on_tokens: Callable[[int], None],
        note: Callable[[str], None],
    ) -> None:
        self._run_dir, self._on_tokens, self._note = run_dir, on_tokens, note

    def open_model(self, model: ModelRef, *, folder: Path | None = None) -> None:
        if model.path.endswith("unreadable"):
            raise ConfigError(f"{model.path} cannot be read")
        self._note("the engine is scripted")

    def platform(self) -> str:
        return "paper"

    def do(self, job: Job) -> Finished:
        assert isinstance(job, ChunkJob)
        if job.stage == "dies":
            raise EngineError("the engine died")
        if job.stage == "wrong":
            raise ConfigError("a setting is wrong")
        if job.stage != "ok":
            time.sleep(1.0 if job.stage == "slow" else 10_000.0)
        self._on_tokens(7)
        lines = tuple(b"%s %d\n" % (plan.problem_id.encode(), os.getpid()) for plan in job.planned)
        return FinishedChunk(
            number=job.number, lines=lines, prompts=ChunkPrompts(head=None, own=()), tokens=7, seconds=0.0
        )

    def close(self) -> None:
        """Nothing is open."""


class ToyRunMaker(ScriptedMaker):
    """Makes the chunks of a run on the toy task, and leaves a file `PID.made` in the run's folder."""

    def open_model(self, model: ModelRef, *, folder: Path | None = None) -> None:
        self._make = ToyMaker(toy_config(), toy_task(), reply)

    def do(self, job: Job) -> Finished:
        (self._run_dir / f"{os.getpid()}.made").touch()
        return self._make(job)


class ServingMaker(ScriptedMaker):
    """Has a server of its own: the stand-in for vLLM by the path `python` in the model's folder, with its log there."""

    def open_model(self, model: ModelRef, *, folder: Path | None = None) -> None:
        self._server, port = started(f"{model.path}/python", Path(model.path) / f"{os.getpid()}.log", "serve")
        self._server.wait_until_healthy(port, limit_s=600.0)

"""What a worker makes: whole chunks of a run, from the run folder alone.

A worker has its own process, on this machine or another; whoever starts it (stages/workers/) calls a `ChunkMaker` there
and carries jobs to it and results back. It writes nothing into the run folder but the log of a server.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from selftaught.commands.run_json import decides_tokens, versions
from selftaught.commands.stored_run import config_of_run, in_format, refuse_other_data, task_of
from selftaught.config.resolving import carried_on
from selftaught.engines.engine import Engine, RendersPrompts
from selftaught.machine.devices import hardware
from selftaught.machine.platforms import as_text
from selftaught.machine.quiet import quieten_libraries
from selftaught.records.errors import RefusedError
from selftaught.records.problems import Problem, by_id
from selftaught.records.prompts import ChunkPrompts, Prompt
from selftaught.records.samples import ModelRef, Sample
from selftaught.runs.lines import dump
from selftaught.runs.prompts import Render, rendered_prompts
from selftaught.runs.reading import read_run_json
from selftaught.runs.shared_chunks import SharedChunks
from selftaught.runs.store import RunStore
from selftaught.stages.loaded_weights import refuse_other_weights
from selftaught.stages.sampling import Sampling, generate_chunk, sampling_spec
from selftaught.stages.weight_proof import noise_of
from selftaught.stages.workers.protocol import (
    ChunkJob,
    Finished,
    FinishedChunk,
    FinishedRenders,
    FinishedScores,
    Job,
    Made,
    Ready,
    RenderJob,
    Said,
    ScoreJob,
    Told,
    failure,
)

OF_PROGRAM = ("task", "engine")
"""What a worker would need of the program that started a run, and cannot have."""


class ChunkMaker:
    """Makes the chunks of a run in this process. The task, the config and what was resolved come from the run folder.

    Raises RefusedError for a run whose task or engine came from a program, for other problems than the run's, and for
    a machine without what the run computes on; ConfigError for a missing library.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        log_dir: Path | None = None,
        shared: Path | None = None,
        on_tokens: Callable[[int], None] = lambda tokens: None,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`log_dir` is where a server of this worker writes its log; None is a temporary file. `shared` is the folder
        of the chunks that runs of a comparison have in common. `on_tokens` is told the new tokens while they are
        generated, `note` what the user should know of the engine."""
        quieten_libraries()
        about = read_run_json(run_dir)
        refuse_program(about.get("from_python", ()))
        self._config = config = config_of_run(run_dir)
        self._resolved = resolved = carried_on(about["resolved"], config, str(run_dir / "run.json"))
        config.engine.check()
        self._hardware = hardware(resolved.device)
        task = task_of(config)
        refuse_other_data(run_dir, task)
        self._task = in_format(task, config, resolved.chat)
        self._store = RunStore(run_dir)
        if log_dir is not None and config.engine.serves_folders:
            log_dir.mkdir(parents=True, exist_ok=True)
        self._log_dir, self._on_tokens, self._note = log_dir, on_tokens, note
        self._shared = None
        if shared is not None:
            self._shared = SharedChunks(shared, user=None, conditions=decides_tokens(config, resolved))
        self._problems: dict[str, dict[str, Problem]] = {}
        """By stage, then by id."""
        self._open: tuple[ModelRef, Engine] | None = None

    def open_model(self, model: ModelRef, *, folder: Path | None = None) -> None:
        """Open the engine on a model and prove its weights; closes the one that is open. `folder` is a copy of the
        model's folder on this machine, if it is not to be read from its own. Raises RefusedError for other weights."""
        self.close()
        folder = Path(model.path) if folder is None else folder
        trust = self._config.model.trust_remote_code
        opening = replace(
            self._resolved.opening((), trust_remote_code=trust, note=self._note),
            log_dir=self._log_dir,
            on_tokens=self._on_tokens,
        )
        engine = self._resolved.engine.opener(opening)(replace(model, path=str(folder)))
        self._open = model, engine
        checkpoint = None if model.checkpoint is None else self._store.checkpoint(model.checkpoint)
        if checkpoint is not None:
            refuse_other_weights(engine, checkpoint, folder, noise=noise_of(self._resolved.dtype))

    def platform(self) -> str:
        """What decides the bytes besides the weights, as one text; equal machines give equal ones."""
        return as_text({**self._hardware, **versions(self._config)})

    def do(self, job: Job) -> Finished:
        """Do any job of a worker; the model must be open."""
        match job:
            case ChunkJob():
                return self.make(job)
            case ScoreJob():
                return self.score(job)
            case RenderJob():
                return self.render(job)

    def make(self, job: ChunkJob) -> FinishedChunk:
        """Make a chunk, verdicts included: the very lines that one process would write."""
        began = time.monotonic()
        prompts, shared = _Prompts(), self._shared
        reused_before = shared.reused if shared else 0
        samples = generate_chunk(
            self._engine(job.model), self._sampling(job), job.planned, on_prompts=prompts.render_all, shared=shared
        )
        assert prompts.rendered is not None, "prompts are told before anything is generated"
        return FinishedChunk(
            number=job.number,
            lines=tuple(dump(Sample, sample) for sample in samples),
            prompts=prompts.rendered,
            tokens=sum(sample.num_tokens for sample in samples) - (shared.reused - reused_before if shared else 0),
            seconds=time.monotonic() - began,
            use=shared.last_use if shared else None,
        )

    def score(self, job: ScoreJob) -> FinishedScores:
        scores = self._engine(job.model).score(job.requests, job.completions)
        return FinishedScores(number=job.number, scores=tuple(scores))

    def render(self, job: RenderJob) -> FinishedRenders:
        engine = self._engine(job.model)
        rendered = tuple(map(engine.render, job.prompts)) if isinstance(engine, RendersPrompts) else None
        return FinishedRenders(number=job.number, rendered=rendered)

    def close(self) -> None:
        """Close the engine, if one is open, and free its memory."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _engine(self, model: ModelRef) -> Engine:
        assert self._open is not None, "open_model comes first"
        opened, engine = self._open
        assert opened == model, f"a job for {model} came to a worker of {opened}"
        return engine

    def _sampling(self, job: ChunkJob) -> Sampling:
        spec = sampling_spec(
            self._config,
            self._task,
            num_shots=job.num_shots,
            temperature=job.temperature,
            again=job.kind == "rationalization",
            iteration=job.iteration,
        )
        return Sampling(
            task=self._task,
            problems=self._problems_of(job),
            model=job.model,
            spec=spec,
            iteration=job.iteration,
            run_seed=self._config.seed,
        )

    def _problems_of(self, job: ChunkJob) -> dict[str, Problem]:
        if job.stage not in self._problems:
            split = "train" if job.kind != "evaluation" else "dev" if job.stage == "passes" else job.stage
            self._problems[job.stage] = by_id(self._task.split(split))
        return self._problems[job.stage]


class _Prompts:
    """Keeps the prompts of a chunk, rendered."""

    def __init__(self) -> None:
        self.rendered: ChunkPrompts | None = None

    def render_all(self, few_shot: Prompt, prompts: Sequence[Prompt], render: Render) -> None:
        self.rendered = rendered_prompts(few_shot, prompts, render)


def serve(
    pipe: Connection,
    worker: str,
    run_dir: Path,
    log_dir: Path | None,
    model: ModelRef,
    *,
    shared: Path | None = None,
) -> None:
    """In a process of its own: open the model, then do job after job until None comes. Sends events of the protocol."""
    try:
        maker = ChunkMaker(
            run_dir,
            log_dir=log_dir,
            shared=shared,
            on_tokens=lambda tokens: pipe.send(Told(worker=worker, tokens=tokens)),
            note=lambda line: pipe.send(Said(worker=worker, line=line)),
        )
        maker.open_model(model)
        pipe.send(Ready(worker=worker, platform=maker.platform()))
        while (job := pipe.recv()) is not None:
            pipe.send(Made(worker=worker, result=maker.do(job)))
        maker.close()
        pipe.send(None)  # the memory is free
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise  # the run is gone, or wants this worker no more
    except Exception as error:
        pipe.send(failure(worker, error))
        sys.exit()  # another job may be on its way already, and is for another worker now


def refuse_program(from_python: Sequence[str]) -> None:
    """Raise RefusedError if what a worker needs of a run came from a program (`from_python` of run.json)."""
    if own := [name for name in from_python if name in OF_PROGRAM]:
        raise RefusedError(
            f"the run has its own {' and '.join(own)} from a Python program, which workers cannot have; leave out "
            "cluster.workers and cluster.address, or name a file of functions in the config (docs/tasks.md)"
        )

"""The models of a run by iteration, and the check that the engine serves the expected one."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from selftaught.engines.engine import Engine, RendersPrompts, served_by
from selftaught.models.adapters import is_adapter
from selftaught.models.merged_folder import write_merged
from selftaught.records.errors import RefusedError, one_line
from selftaught.records.events import Note
from selftaught.records.prompts import Prompt, RenderedPrompt
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
    TokenScores,
)
from selftaught.records.training import Checkpoint
from selftaught.stages.loaded_weights import refuse_other_weights, why_not
from selftaught.stages.setup import Setup, is_stopped, raise_if_stopped
from selftaught.stages.weight_proof import NOISE, CannotTell
from selftaught.stages.workers.dispatch import Dispatcher
from selftaught.stages.workers.losses import Limits
from selftaught.stages.workers.protocol import Finished, FinishedRenders, FinishedScores, Job, RenderJob, ScoreJob

Work = Literal["sampling", "training", "loading"]
"""The kinds of work of which a run counts the time. Loading is opening the trainer or an engine, with the check that
the engine serves the expected weights."""

WORK: tuple[Work, ...] = get_args(Work)


class Models:
    """The models of a run by iteration, and the engine, of which at most one is open: here, or one in every worker.

    Before an engine generates, its weights are checked if the model is a fine-tuned one; the weights of an external
    server are checked for the base model too.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._open: tuple[ModelRef, Engine] | None = None
        self.tokens = 0
        """Tokens that this process has generated or trained on so far."""
        self.seconds: dict[Work, float] = dict.fromkeys(WORK, 0.0)
        """Wall clock of this process so far, by kind of work."""
        self._dispatcher = _dispatcher(setup, self) if setup.source is not None else None
        self._working_on: ModelRef | None = None
        """The model of the workers."""

    def __enter__(self) -> "Models":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except Exception as error:
            if kind is None:
                raise
            self._setup.tell(Note(text=f"warning: {one_line(error)}"))  # what ends the run is another error
        if kind is None:  # else a server is to be started on it, maybe
            self._setup.store.remove_served()

    def of(self, iteration: int) -> ModelRef:
        """The model that an iteration trained; 0 is the base model."""
        if iteration == 0:
            return self._setup.base
        checkpoint = self._setup.store.checkpoint(iteration)
        assert checkpoint is not None, f"iteration {iteration} has no checkpoint"
        return checkpoint.ref(self._setup.store.dir)

    def before(self, iteration: int) -> ModelRef:
        """The model that an iteration samples from: M_{iteration-1}; for RFT the one fine-tuned before iteration 1."""
        fine_tuned = self._setup.store.checkpoint(0) if iteration == 1 else None
        return fine_tuned.ref(self._setup.store.dir) if fine_tuned is not None else self.of(max(iteration - 1, 0))

    def engine(self, model: ModelRef) -> Engine:
        """The engine for a model; opens and checks it, and closes the one of another model, if needed."""
        if self._open is not None and self._open[0] != model:
            self.close()
        if self._open is None:
            with self.working("loading"):
                engine = self._setup.open_engine(model)
                self._open = (model, _timed(engine, self))
                _check_weights(self._setup, model, engine)
        return self._open[1]

    def workers(self, model: ModelRef) -> Dispatcher | None:
        """What hands out chunks for a model to workers; None if the run samples by itself. Ends the workers of another
        model, if needed."""
        if self._dispatcher is not None and self._working_on != model:
            self._dispatcher.close()
            self._working_on = model
        return self._dispatcher

    def score(self, model: ModelRef, requests: Sequence[Request], completions: Sequence[str]) -> Sequence[TokenScores]:
        """As `Engine.score`, by the engine of a model or by a worker."""
        if (workers := self.workers(model)) is None:
            return self.engine(model).score(requests, completions)
        job = ScoreJob(number=0, model=model, requests=tuple(requests), completions=tuple(completions))
        scored = self._done(workers, job)
        assert isinstance(scored, FinishedScores)
        return scored.scores

    def render(self, model: ModelRef, prompts: Sequence[Prompt]) -> Sequence[RenderedPrompt] | None:
        """Prompts as the model gets them; None if its engine renders none."""
        if (workers := self.workers(model)) is None:
            engine = self.engine(model)
            return [engine.render(prompt) for prompt in prompts] if isinstance(engine, RendersPrompts) else None
        rendered = self._done(workers, RenderJob(number=0, model=model, prompts=tuple(prompts)))
        assert isinstance(rendered, FinishedRenders)
        return rendered.rendered

    def _done(self, workers: Dispatcher, job: Job) -> Finished | None:
        """What has come of a job; None only of a run that is stopped, which is an error of `raise_if_stopped`."""
        done = workers.do(job, should_stop=lambda: is_stopped(self._setup))
        if done is None:
            raise_if_stopped(self._setup)
        return done

    @contextmanager
    def working(self, work: Work) -> Iterator[None]:
        """Count the time inside this context as time of this work."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[work] += time.monotonic() - began

    def close(self) -> None:
        """Close the engine and end the workers; their memory is free then."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
        if self._dispatcher is not None:
            self._dispatcher.close()
            self._working_on = None


def _dispatcher(setup: Setup, models: Models) -> Dispatcher:
    assert setup.source is not None
    cluster = setup.config.cluster
    limits = Limits(
        workers=setup.num_workers,
        chunk_timeout=cluster.chunk_timeout,
        max_losses=cluster.max_losses,
        any_machine=cluster.any_machine,
    )
    return Dispatcher(
        setup.source,
        limits,
        clock=setup.clock,
        tell=setup.tell,
        working=models.working,
        platform=setup.platform,
        keep_platform=setup.keep_platform,
    )


class _TimedEngine:
    """An engine whose time to generate counts as sampling, without what the caller does between two completions."""

    def __init__(self, engine: Engine, models: Models) -> None:
        self._engine, self._models = engine, models

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        completions = iter(self._engine.sample(requests, params))
        while True:
            with self._models.working("sampling"):
                completion = next(completions, None)
            if completion is None:
                return
            yield completion

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        return self._engine.score(requests, completions)

    def close(self) -> None:
        self._engine.close()


class _TimedRenderingEngine(_TimedEngine):
    """A `_TimedEngine` of an engine with a tokenizer."""

    def __init__(self, engine: Engine, renderer: RendersPrompts, models: Models) -> None:
        super().__init__(engine, models)
        self._renderer = renderer

    def render(self, prompt: Prompt) -> RenderedPrompt:
        return self._renderer.render(prompt)


def _timed(engine: Engine, models: Models) -> _TimedEngine:
    if isinstance(engine, RendersPrompts):
        return _TimedRenderingEngine(engine, engine, models)
    return _TimedEngine(engine, models)


def _check_weights(setup: Setup, model: ModelRef, engine: Engine) -> None:
    """Raise RefusedError unless the engine serves the weights of this model (docs/design.md, section 6).

    An engine that loads weights itself is checked for every fine-tuned model, against the model before it. An external
    server may serve any model of the run, so it is checked for the base model too, and against the model after.
    """
    is_base = model.path == setup.base.path
    own = None if is_base else setup.store.checkpoint(model.iteration)
    served = served_by(engine)
    if served is None:
        if own is not None:
            refuse_other_weights(engine, own, Path(model.path), noise=setup.noise)
        return
    if own is not None and (reason := _served_other(setup, engine, served, own, model, wanted_is_new=True)):
        raise RefusedError(_refusal(setup, model, reason))
    setup.store.remove_served(but=_for_server(setup, model))
    after = setup.store.checkpoint(0) if is_base else None
    after = after or setup.store.checkpoint(model.iteration + 1)
    if after is not None:
        if reason := _served_other(setup, engine, served, after, model, wanted_is_new=False):
            raise RefusedError(_refusal(setup, model, reason))
    elif own is None:
        # Nothing to compare with yet, but a server that cannot score must fail now, not after a day of sampling.
        engine.score([Request(prompt="1 + 1 =", seed=0)], [" 2"])


def _served_other(
    setup: Setup, engine: Engine, served: str, checkpoint: Checkpoint, model: ModelRef, *, wanted_is_new: bool
) -> str | None:
    """The reason if an external server does not serve the wanted one of the two models of a checkpoint's probe."""
    try:
        # The number type of an external server is unknown, so it gets the limit for float32.
        return why_not(engine, checkpoint, noise=NOISE, wanted_is_new=wanted_is_new)
    except CannotTell as error:
        return None if _is_in(served, model, setup) else f"{error}, and it names {served!r}"


def _is_in(served: str, model: ModelRef, setup: Setup) -> bool:
    """Whether the name that a server gives is this model's folder, a file in it, or the base model's name."""
    if model.path == setup.base.path and served == setup.config.model.path:
        return True
    folder, path = _for_server(setup, model).resolve(), Path(served).resolve()
    return folder == path or folder in path.parents


def _for_server(setup: Setup, model: ModelRef) -> Path:
    """The folder that a server which somebody else starts is to serve: of adapters, the merged one."""
    folder = Path(model.path)
    return setup.store.served_dir(model.checkpoint) if is_adapter(folder) else folder


def _refusal(setup: Setup, model: ModelRef, reason: str) -> str:
    which = "base model's weights" if model.path == setup.base.path else f"weights of iteration {model.iteration}"
    folder = _for_server(setup, model)
    if not folder.exists() and is_adapter(Path(model.path)):
        setup.store.remove_served(but=folder)  # what the server has loaded; there may be no room for two
        trust = setup.config.model.trust_remote_code
        write_merged(Path(model.path), folder, dtype=setup.dtype, trust_remote_code=trust)
    return (
        f"the server does not serve the {which}: {reason}; restart the server on {folder} and run the same command "
        "again"
    )

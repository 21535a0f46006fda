"""The models of a run, by iteration, and the proof that the engine serves the one it should."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from selftaught.checks.weights import NOISE, CannotTell, serves_old_weights
from selftaught.engines import Engine
from selftaught.errors import RefusedError
from selftaught.records import Checkpoint, Completion, ModelRef, Request, SamplingParams, TokenScores
from selftaught.setup import Setup
from selftaught.weights import weights_sha256

Work = Literal["sampling", "training", "loading"]
"""What a run's time should go into; loading is opening an engine, with the proof that it serves the right
weights, and the trainer."""

WORK: tuple[Work, ...] = get_args(Work)


class Models:
    """The models of a run by iteration, and the one engine that may be open at a time.

    Every fine-tuned model is proven to be the one that the engine serves before it draws anything; with a server
    outside, the base model too.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._open: tuple[ModelRef, Engine] | None = None
        self.tokens = 0
        """Drawn or trained on by this process so far."""
        self.seconds: dict[Work, float] = dict.fromkeys(WORK, 0.0)
        """Wall clock of this process so far."""

    def __enter__(self) -> "Models":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, iteration: int) -> ModelRef:
        """M_iteration; 0 is the base model."""
        if iteration == 0:
            return self._setup.base
        checkpoint = self._setup.store.checkpoint(iteration)
        assert checkpoint is not None, f"iteration {iteration} has no checkpoint"
        return checkpoint.ref(self._setup.store.dir)

    def before(self, iteration: int) -> ModelRef:
        """The model that draws in an iteration: M_{iteration-1}; for RFT's first draw the fine-tuned iteration 0."""
        tuned = self._setup.store.checkpoint(0) if iteration == 1 else None
        return tuned.ref(self._setup.store.dir) if tuned is not None else self.of(max(iteration - 1, 0))

    def engine(self, model: ModelRef) -> Engine:
        if self._open is not None and self._open[0] != model:
            self.close()
        if self._open is None:
            with self.working("loading"):
                engine = self._setup.open_engine(model)
                self._open = (model, _Timed(engine, self))
                _prove_weights(self._setup, model, engine)
        return self._open[1]

    @contextmanager
    def working(self, work: Work) -> Iterator[None]:
        """Count the time spent inside as time of this work."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[work] += time.monotonic() - began

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


class _Timed:
    """An engine whose time in drawing counts as sampling; what is done with a completion between two does not."""

    def __init__(self, engine: Engine, models: Models) -> None:
        self._engine, self._models = engine, models
        self.serves = engine.serves

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


def _prove_weights(setup: Setup, model: ModelRef, engine: Engine) -> None:
    """Raise RefusedError unless the engine serves the weights of this model (docs/design.md, section 6).

    An engine that loads weights itself is asked after every training. A server outside is asked for every model, the
    base model too, and against the model that came after, since it may serve any model of the run.
    """
    is_base = model.path == setup.base.path
    of_model = None if is_base else setup.store.checkpoint(model.iteration)
    if of_model is not None:
        wrong = _compare(setup, engine, of_model, model, wanted_is_new=True)
        if wrong:
            raise RefusedError(_refusal(setup, model, engine, wrong))
    if engine.serves is None:
        return
    after = setup.store.checkpoint(0) if is_base else None
    after = after or setup.store.checkpoint(model.iteration + 1)
    if after is not None:
        wrong = _compare(setup, engine, after, model, wanted_is_new=False)
        if wrong:
            raise RefusedError(_refusal(setup, model, engine, wrong))
    elif of_model is None:
        # Nothing to compare with yet; but a server that cannot score must not be found out after a day of drawing.
        engine.score([Request(prompt="1 + 1 =", seed=0)], [" 2"])


def _compare(
    setup: Setup, engine: Engine, checkpoint: Checkpoint, model: ModelRef, *, wanted_is_new: bool
) -> str | None:
    """What is wrong if the engine is not nearer to the wanted one of the two models of a checkpoint's probe."""
    requests = [Request(prompt=row.prompt, seed=0) for row in checkpoint.probe]
    scores = engine.score(requests, [row.completion for row in checkpoint.probe])
    new, old = checkpoint.new_logprobs, [row.old_logprobs for row in checkpoint.probe]
    wanted, other = (new, old) if wanted_is_new else (old, new)
    try:
        # What number type a server outside draws in is not known here.
        noise = setup.noise if engine.serves is None else NOISE
        return serves_old_weights([s.logprobs for s in scores], new=wanted, old=other, noise=noise)
    except CannotTell as error:
        if engine.serves is not None:
            return None if _is_in(engine.serves, model, setup) else f"{error}, and it names {engine.serves!r}"
        on_disk = weights_sha256(setup.store.checkpoint_dir(model.iteration))
        if on_disk == checkpoint.sha256:
            return None
        return f"the weight files hash to {on_disk[:12]}, not {checkpoint.sha256[:12]}"


def _is_in(served: str, model: ModelRef, setup: Setup) -> bool:
    """Whether what a server says it serves is this model's folder, a file in it, or the base model's name."""
    if model.path == setup.base.path and served == setup.config.model.path:
        return True
    folder, path = Path(model.path).resolve(), Path(served).resolve()
    return folder == path or folder in path.parents


def _refusal(setup: Setup, model: ModelRef, engine: Engine, wrong: str) -> str:
    if engine.serves is None:
        what = f"iteration {model.iteration}: the engine does not serve the new weights: {wrong}"
        if setup.noise > NOISE:
            return f"{what}; bfloat16 may have rounded a small update away: start a new run with model.dtype=float32"
        return f"{what}; restart the engine"
    which = "base model's weights" if model.path == setup.base.path else f"weights of iteration {model.iteration}"
    return (
        f"the server does not serve the {which}: {wrong}; restart the server on {model.path} and run the same command "
        "again"
    )

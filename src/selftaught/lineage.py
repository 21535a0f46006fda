"""The models of a run, by iteration, and the proof that the engine serves the one it should."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

from selftaught.checks.weights import CannotTell, serves_old_weights
from selftaught.engines import Engine
from selftaught.errors import RefusedError
from selftaught.records import Completion, ModelRef, Request, SamplingParams, TokenScores
from selftaught.setup import Setup
from selftaught.weights import weights_sha256

Work = Literal["sampling", "training", "loading"]
"""What a run's time should go into; loading includes the proof that an engine serves the right weights."""

WORK: tuple[Work, ...] = get_args(Work)


class Models:
    """The models of a run by iteration, and the one engine that may be open at a time.

    Every fine-tuned model is proven to be the one that the engine serves before it draws anything.
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
                _prove_new_weights(self._setup, model, engine)
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


def _prove_new_weights(setup: Setup, model: ModelRef, engine: Engine) -> None:
    """Raise RefusedError unless the engine serves the weights that were just trained (docs/design.md, section 6)."""
    checkpoint = setup.store.checkpoint(model.iteration)
    if checkpoint is None or model.path == setup.base.path:
        return
    requests = [Request(prompt=row.prompt, seed=0) for row in checkpoint.probe]
    scores = engine.score(requests, [row.completion for row in checkpoint.probe])
    old = [row.old_logprobs for row in checkpoint.probe]
    try:
        wrong = serves_old_weights([s.logprobs for s in scores], new=checkpoint.new_logprobs, old=old)
    except CannotTell:
        on_disk = weights_sha256(setup.store.checkpoint_dir(model.iteration))
        wrong = (
            None
            if on_disk == checkpoint.sha256
            else f"the weight files hash to {on_disk[:12]}, not {checkpoint.sha256[:12]}"
        )
    if wrong:
        raise RefusedError(
            f"iteration {model.iteration}: the engine does not serve the new weights: {wrong}; restart the engine"
        )

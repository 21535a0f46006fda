"""The engine `local` in several processes: the requests of a call are split among them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.machine.workers import Worker
from selftaught.records.prompts import Prompt, RenderedPrompt
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
    TokenScores,
)

COMPLETIONS_PER_MESSAGE = 16
"""From a worker to this process."""


class MultiProcessEngine:
    """A LocalEngine here and one in every worker, opened on the same weights with the same settings.

    Request i goes to process i mod n, so a completion depends on the requests alone, not on the speed of a process.
    """

    def __init__(
        self,
        model: ModelRef,
        workers: Sequence[Worker],
        settings: LocalSettings,
        *,
        note: Callable[[str], None] = lambda line: None,
        on_tokens: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        """`slots` and `cache_bytes` are those of each process; `on_tokens` is told the tokens of all."""
        self._model, self._workers, self._settings = model, workers, settings
        self._on_tokens = on_tokens
        self._shares: _Shares | None = None
        """Those of the call that is under way."""
        for worker in workers:
            self._open(worker)
        self._own = open_local(model, settings, note=note, on_tokens=self._tell)

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        num_processes = len(self._workers) + 1
        shares = self._shares = _Shares(num_processes, self._on_tokens)
        try:
            for first, worker in enumerate(self._workers, start=1):
                if share := requests[first::num_processes]:
                    if worker.owner is not self:  # an earlier call that was not read to its end has ended it
                        self._open(worker)
                    worker.send((share, params))
                    shares.busy[worker.pipe] = worker, first
            for completion in self._own.sample(requests[::num_processes], params):
                yield replace(completion, request=completion.request * num_processes)
                shares.receive()
                yield from shares.taken()
            yield from shares.taken()  # what came while this process told its last tokens
            while shares.busy:
                wait(list(shares.busy))
                shares.receive()
                yield from shares.taken()
        finally:
            # The caller has stopped reading, and no later call may receive what these would still send.
            for worker, _ in shares.busy.values():
                worker.kill()

    def render(self, prompt: Prompt) -> RenderedPrompt:
        return self._own.render(prompt)

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        return self._own.score(requests, completions)

    def close(self) -> None:
        for worker in self._workers:
            worker.end(self)
        self._own.close()

    def _tell(self, tokens: int) -> None:
        """Told by the engine here; what workers have told meanwhile does not wait for its next completion."""
        self._on_tokens(tokens)
        if self._shares is not None:
            self._shares.receive()

    def _open(self, worker: Worker) -> None:
        worker.begin(self, serve_engine, self._model, self._settings)


class _Shares:
    """What workers generate in one call, and have sent by now."""

    def __init__(self, num_processes: int, on_tokens: Callable[[int], None]) -> None:
        self.busy: dict[Connection, tuple[Worker, int]] = {}
        """Those that have not sent all of their share, each with the position of its first request."""
        self._num_processes, self._on_tokens = num_processes, on_tokens
        self._ready: list[Completion] = []

    def receive(self) -> None:
        """Read what has arrived, without waiting. Raises what a worker raised."""
        for pipe, (worker, first) in list(self.busy.items()):
            while pipe in self.busy and worker.has_message():
                message = worker.receive()
                if message is None:
                    del self.busy[pipe]
                elif isinstance(message, int):
                    self._on_tokens(message)
                else:
                    self._ready += (replace(c, request=c.request * self._num_processes + first) for c in message)

    def taken(self) -> list[Completion]:
        """The completions that have been received since the last call."""
        ready, self._ready = self._ready, []
        return ready


def open_local(
    model: ModelRef,
    settings: LocalSettings,
    *,
    note: Callable[[str], None] = lambda line: None,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> LocalEngine:
    """A LocalEngine with these settings, with the compiled operations of this machine's CPU if they say so."""
    if not settings.compiled:
        return LocalEngine(model, settings, note=note, on_tokens=on_tokens)
    from selftaught.engines.local.cpu import CpuKernels

    return LocalEngine(model, settings, kernels=CpuKernels(settings.threads), note=note, on_tokens=on_tokens)


def serve_engine(pipe: Connection, model: ModelRef, settings: LocalSettings) -> None:
    """In a worker: generate for each share until None comes.

    Sends numbers of new tokens and lists of completions, and None after each share.
    """
    engine = open_local(model, settings, on_tokens=pipe.send)
    try:
        while (job := pipe.recv()) is not None:
            completions: list[Completion] = []
            for completion in engine.sample(*job):
                completions.append(completion)
                if len(completions) == COMPLETIONS_PER_MESSAGE:
                    pipe.send(completions)
                    completions = []
            pipe.send(completions)
            pipe.send(None)
    finally:
        engine.close()

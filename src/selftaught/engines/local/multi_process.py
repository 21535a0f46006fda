"""The engine `local` in several processes: the requests of a call are split among them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.machine.workers import Worker
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
    ) -> None:
        """`slots` and `cache_bytes` are those of each process."""
        self._model, self._workers, self._settings = model, workers, settings
        for worker in workers:
            self._open(worker)
        self._own = open_local(model, settings, note=note)

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        num_processes = len(self._workers) + 1
        busy: dict[Connection, tuple[Worker, int]] = {}
        try:
            for first, worker in enumerate(self._workers, start=1):
                if share := requests[first::num_processes]:
                    if worker.owner is not self:  # an earlier call that was not read to its end has ended it
                        self._open(worker)
                    worker.send((share, params))
                    busy[worker.pipe] = worker, first
            for completion in self._own.sample(requests[::num_processes], params):
                yield replace(completion, request=completion.request * num_processes)
                yield from _receive_ready(busy, num_processes)
            while busy:
                wait(list(busy))
                yield from _receive_ready(busy, num_processes)
        finally:
            # The caller has stopped reading, and no later call may receive what these would still send.
            for worker, _ in busy.values():
                worker.kill()

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        return self._own.prompt_ids(prompt)

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        return self._own.score(requests, completions)

    def close(self) -> None:
        for worker in self._workers:
            worker.end(self)
        self._own.close()

    def _open(self, worker: Worker) -> None:
        worker.begin(self, serve_engine, self._model, self._settings)


def _receive_ready(busy: dict[Connection, tuple[Worker, int]], num_processes: int) -> Iterator[Completion]:
    """Completions that workers have sent by now; a worker that has sent all of its share is removed from `busy`."""
    for pipe, (worker, first) in list(busy.items()):
        while pipe in busy and worker.has_message():
            if (completions := worker.receive()) is None:
                del busy[pipe]
                continue
            for completion in completions:
                yield replace(completion, request=completion.request * num_processes + first)


def open_local(
    model: ModelRef, settings: LocalSettings, *, note: Callable[[str], None] = lambda line: None
) -> LocalEngine:
    """A LocalEngine with these settings, with the compiled operations of this machine's CPU if they say so."""
    if not settings.compiled:
        return LocalEngine(model, settings, note=note)
    from selftaught.engines.local.cpu import CpuKernels

    return LocalEngine(model, settings, kernels=CpuKernels(settings.threads), note=note)


def serve_engine(pipe: Connection, model: ModelRef, settings: LocalSettings) -> None:
    """In a worker: generate for each share until None comes; send lists of completions, and None after each share."""
    engine = open_local(model, settings)
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

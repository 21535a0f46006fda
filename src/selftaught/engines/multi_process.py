"""The engine `local` in several processes: every call's requests are shared out, each process draws its share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from selftaught.engines.local import LocalEngine
from selftaught.records import Completion, ModelRef, Request, SamplingParams, TokenScores
from selftaught.workers import Worker

TOGETHER = 16
"""Completions that a worker sends at a time."""


class MultiProcessEngine:
    """A LocalEngine here and one in every worker, opened on the same weights with the same settings.

    Request i goes to process i mod n, so a completion depends on the requests alone, not on which process is faster.
    """

    serves = None

    def __init__(
        self,
        model: ModelRef,
        workers: Sequence[Worker],
        settings: Mapping[str, Any],
        *,
        compiled: bool = False,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        """As of `open_local`; `slots` and `cache_bytes` are those of each process."""
        self._model, self._workers, self._settings, self._compiled = model, workers, settings, compiled
        for worker in workers:
            self._open(worker)
        self._own = open_local(model, settings, compiled=compiled, note=note)

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        every = len(self._workers) + 1
        busy: dict[Connection, tuple[Worker, int]] = {}
        try:
            for first, worker in enumerate(self._workers, start=1):
                if share := requests[first::every]:
                    if worker.owner is not self:  # ended by an earlier call that was broken off
                        self._open(worker)
                    worker.send((share, params))
                    busy[worker.pipe] = worker, first
            for completion in self._own.sample(requests[::every], params):
                yield replace(completion, request=completion.request * every)
                yield from _arrived(busy, every)
            while busy:
                wait(list(busy))
                yield from _arrived(busy, every)
        finally:
            for worker, _ in busy.values():  # broken off: what they would still send answers no later call
                worker.kill()

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        return self._own.score(requests, completions)

    def close(self) -> None:
        for worker in self._workers:
            worker.end(self)
        self._own.close()

    def _open(self, worker: Worker) -> None:
        worker.begin(self, serve_engine, self._model, self._settings, self._compiled)


def _arrived(busy: dict[Connection, tuple[Worker, int]], every: int) -> Iterator[Completion]:
    """What workers have sent by now; those that have sent all of their share leave `busy`."""
    for pipe, (worker, first) in list(busy.items()):
        while pipe in busy and worker.has_message():
            if (found := worker.receive()) is None:
                del busy[pipe]
                continue
            for completion in found:
                yield replace(completion, request=completion.request * every + first)


def open_local(
    model: ModelRef, settings: Mapping[str, Any], *, compiled: bool, note: Callable[[str], None] = lambda line: None
) -> LocalEngine:
    """A LocalEngine with these settings; with the compiled operations of this machine's CPU if `compiled`."""
    if not compiled:
        return LocalEngine(model, **settings, note=note)
    from selftaught.engines.cpu import CpuKernels

    return LocalEngine(model, **settings, kernels=CpuKernels(settings["threads"]), note=note)


def serve_engine(pipe: Connection, model: ModelRef, settings: Mapping[str, Any], compiled: bool) -> None:
    """In a worker: draw shares until None comes. A share is answered by lists of completions, and None at its end."""
    engine = open_local(model, settings, compiled=compiled)
    try:
        while (job := pipe.recv()) is not None:
            found: list[Completion] = []
            for completion in engine.sample(*job):
                found.append(completion)
                if len(found) == TOGETHER:
                    pipe.send(found)
                    found = []
            pipe.send(found)
            pipe.send(None)
    finally:
        engine.close()

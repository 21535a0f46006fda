"""What workers send reaches the caller whenever it arrives; no model and no process."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from selftaught.engines.local import multi_process
from selftaught.records.samples import Completion, ModelRef, Request, SamplingParams


def completion(request: int) -> Completion:
    return Completion(request=request, text="", token_ids=(), finish_reason="end", logprob=None, num_tokens=1)


class Worker:
    """Sends its whole share when it is first looked at after `is_done`."""

    def __init__(self) -> None:
        self.owner: object = None
        self.pipe = object()
        self.is_done = False
        self._messages: list[object] = []

    def begin(self, owner: object, *_: object) -> None:
        self.owner = owner

    def send(self, job: tuple[Sequence[Request], SamplingParams]) -> None:
        self._messages = [[completion(i) for i in range(len(job[0]))], None]

    def has_message(self) -> bool:
        return self.is_done and bool(self._messages)

    def receive(self) -> object:
        return self._messages.pop(0)

    def kill(self) -> None: ...


class Own:
    """This process's engine, which tells tokens once more after its last completion."""

    def __init__(self, worker: Worker, on_tokens: Callable[[int], None]) -> None:
        self._worker, self._on_tokens = worker, on_tokens

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        for i in range(len(requests)):
            yield completion(i)
        self._worker.is_done = True
        self._on_tokens(1)


def test_completions_that_arrive_while_the_last_tokens_are_told_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    worker: Any = Worker()
    monkeypatch.setattr(multi_process, "open_local", lambda *_, on_tokens, **__: Own(worker, on_tokens))
    settings: Any = None
    engine = multi_process.MultiProcessEngine(ModelRef(path="none"), [worker], settings)
    requests = [Request(prompt="", seed=i) for i in range(5)]
    found = engine.sample(requests, SamplingParams(temperature=0.0))
    assert sorted(c.request for c in found) == [0, 1, 2, 3, 4]

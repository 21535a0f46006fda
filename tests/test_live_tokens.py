"""Engines tell the tokens that they generate while they generate them: each once, and without any effect on them."""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from builders import PATIENCE_S, arithmetic
from selftaught.commands.run import launch
from selftaught.config.loading import config_from_values
from selftaught.engines.engine import Engine
from selftaught.engines.local import rows
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.engines.local.multi_process import MultiProcessEngine
from selftaught.engines.local.settings import LocalConfig
from selftaught.machine.devices import Machine
from selftaught.machine.opening import Opening
from selftaught.machine.workers import Worker, Workers
from selftaught.prompts.rendering import render_prompt
from selftaught.records.errors import Interrupted
from selftaught.records.events import SampleMade, TokensGenerated
from selftaught.records.samples import Completion, ModelRef, Request, SamplingParams
from selftaught.tracking.listeners import Recorder
from selftaught.tracking.terminal import Terminal
from worker_functions import tell_every_token

SETTINGS = LocalSettings(dtype="float32", device="cpu", threads=1, slots=4)
PARAMS = SamplingParams(temperature=1.0, max_new_tokens=30, stop=arithmetic().prompt_format.stop)
KINDS = ("slots", "generate", pytest.param("workers", marks=pytest.mark.slow))

Open = Callable[[str, Callable[[int], None]], Engine]


@pytest.fixture(scope="module")
def two() -> Iterator[Sequence[Worker]]:
    with Workers(2) as workers:
        yield workers


@pytest.fixture
def open_engine(two: Sequence[Worker], tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens an engine of a kind on a tiny model."""
    opened: list[Engine] = []

    def open_one(kind: str, on_tokens: Callable[[int], None]) -> Engine:
        model = ModelRef(path=str(tiny))
        if kind == "generate":
            monkeypatch.setattr("selftaught.engines.local.engine.window_of", lambda config: 1)
        if kind == "workers":
            opened.append(MultiProcessEngine(model, two, SETTINGS, on_tokens=on_tokens))
        else:
            opened.append(LocalEngine(model, SETTINGS, on_tokens=on_tokens))
        return opened[-1]

    yield open_one
    for engine in opened:
        engine.close()


@pytest.fixture
def at_once(two: Sequence[Worker], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every process that the test uses tells its tokens after every forward pass."""
    monkeypatch.setattr(rows, "TELL_EVERY_S", 0.0)
    for worker in two if "workers" in request.node.name else ():  # a worker is started by what it is asked first
        worker.begin(None, tell_every_token)
        worker.receive()


def requests(number: int) -> list[Request]:
    task = arithmetic()
    return [
        Request(prompt=render_prompt(task.prompt_format, problem, hint=False), seed=i)
        for i, problem in enumerate(task.dev[:number])
    ]


@pytest.fixture(scope="module")
def long_request(tiny: Path) -> Request:
    """One whose completion has many tokens."""
    engine, asked = LocalEngine(ModelRef(path=str(tiny)), SETTINGS), requests(30)
    try:
        return asked[max(engine.sample(asked, PARAMS), key=lambda completion: completion.num_tokens).request]
    finally:
        engine.close()


def in_order(completions: Iterator[Completion]) -> list[Completion]:
    return sorted(completions, key=lambda completion: completion.request)


@pytest.mark.parametrize("number", [1, 2, 13])
@pytest.mark.parametrize("kind", KINDS)
def test_every_token_is_told_once(kind: str, number: int, open_engine: Open) -> None:
    told: list[int] = []
    engine = open_engine(kind, told.append)
    for _ in range(2):
        told.clear()
        completions = list(engine.sample(requests(number), PARAMS))
        assert sum(told) == sum(completion.num_tokens for completion in completions) > 0
        assert all(tokens > 0 for tokens in told)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_told_before_the_first_completion_ends_and_each_once(
    kind: str, open_engine: Open, long_request: Request
) -> None:
    told: list[int] = []
    begun = open_engine(kind, told.append).sample([long_request] * 3, PARAMS)
    first = next(begun)
    assert len(told) >= first.num_tokens > 5
    completions = [first, *begun]
    assert sum(told) == sum(completion.num_tokens for completion in completions)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_generated_does_not_depend_on_how_often_tokens_are_told(
    kind: str, open_engine: Open, two: Sequence[Worker], request: pytest.FixtureRequest
) -> None:
    expected = in_order(open_engine(kind, lambda tokens: None).sample(requests(13), PARAMS))
    request.getfixturevalue("at_once")
    assert in_order(open_engine(kind, lambda tokens: None).sample(requests(13), PARAMS)) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_the_tokens_of_workers_do_not_wait_for_a_completion_of_this_process(
    open_engine: Open, two: Sequence[Worker], long_request: Request
) -> None:
    told: list[int] = []

    def on_tokens(tokens: int) -> None:
        told.append(tokens)
        if len(told) == 1:
            for worker in two:
                assert wait([worker.pipe], timeout=PATIENCE_S), "a worker has told nothing"

    begun = open_engine("workers", on_tokens).sample([long_request] * 3, PARAMS)
    first = next(begun)
    assert first.request == 0
    assert sum(told) > first.num_tokens
    list(begun)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_engine_that_the_settings_open_tells_the_run(workers: int, two: Sequence[Worker], adder: Path) -> None:
    told: list[int] = []
    machine = Machine(device="cpu", dtype="float32", threads=1, workers=workers)
    settings = LocalConfig(slots=4, cache_mib=64, compiled="off")
    opening = Opening(machine=machine, workers=two[: workers - 1], on_tokens=told.append)
    engine = settings.opener(opening)(ModelRef(path=str(adder)))
    completions = list(engine.sample(requests(3), PARAMS))
    engine.close()
    assert sum(told) == sum(completion.num_tokens for completion in completions)


@pytest.mark.slow
def test_a_run_shows_tokens_before_its_first_sample(
    adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selftaught.tracking.terminal.PLAIN_EVERY_S", 0.0)
    monkeypatch.setattr(rows, "TELL_EVERY_S", 0.0)
    values: dict[str, Any] = {
        "method": "star-no-rationalization",
        "model.path": str(adder),
        "task.name": "arithmetic",
        "task.problems_per_iteration": 6,
        "task.dev_problems": 6,
        "task.test_problems": 6,
        "sampling.max_new_tokens": 20,
        "sampling.num_shots": 0,
        "training.name": "none",
        "training.steps_first_iteration": 1,
        "loop.max_iterations": 1,
        "compute.device": "cpu",
        "compute.threads": 1,
        "engine.slots": 2,
    }
    screen, recorder = io.StringIO(), Recorder()
    terminal = Terminal(Console(file=screen, width=200), 1)
    with pytest.raises(Interrupted):
        launch(config_from_values(values), tmp_path / "run", listeners=[terminal, recorder], should_stop=lambda: True)
    assert re.search(r": 0 of 6  0 correct  [1-9]\d* tokens  \d+ tokens/s\n", screen.getvalue())
    told = sum(event.tokens for event in recorder.events if isinstance(event, TokensGenerated))
    assert told == sum(event.sample.num_tokens for event in recorder.events if isinstance(event, SampleMade)) > 0

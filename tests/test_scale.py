"""The cost of the loop is linear in the number of problems. The tests count calls and lines, not seconds."""

import gc
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pydantic import TypeAdapter

from selftaught.engines.scripted import ScriptedEngine
from selftaught.methods.adastar import AdaStar
from selftaught.methods.training_set import TrainingSet
from selftaught.records.errors import Interrupted
from selftaught.records.problems import Task
from selftaught.records.samples import Sample, SampleKey, sample_key
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.runs import lines
from selftaught.runs.reading import read_samples
from selftaught.training.none import NullTrainer
from toy import DEV, TEST, folder_bytes, run_toy, toy_config, toy_problem, toy_task

SKILLS = ("easy", "easy", "hinted", "never", "mute")
CHUNK = 8
STORE_PARSED = lines.parsed.__code__
VALIDATE_JSON = TypeAdapter.validate_json.__code__
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A folder where a sync costs nothing, if there is one."""


def large_task(problems: int, name: str = "word") -> Task:
    train = tuple(toy_problem(f"{name}{k}", SKILLS[k % len(SKILLS)]) for k in range(problems))
    return toy_task(train=train, dev=DEV, test=TEST)


@contextmanager
def counted_calls() -> Iterator[Counter[object]]:
    """Under "calls" the calls of Python and C functions; under (file, line) how often the store parses that line."""
    counts: Counter[object] = Counter()

    def on_event(frame: FrameType, event: str, argument: Any) -> None:
        counts["calls"] += event in ("call", "c_call")
        caller = frame.f_back
        if event == "call" and frame.f_code is VALIDATE_JSON and caller is not None and caller.f_code is STORE_PARSED:
            counts[caller.f_locals["path"], caller.f_locals["number"]] += 1

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        yield counts
    finally:
        sys.setprofile(before)


def parsed_samples(counts: Counter[object]) -> dict[object, int]:
    return {key: times for key, times in counts.items() if isinstance(key, tuple) and key[0].parent.name == "samples"}


def config(**changes: Any) -> Any:
    return toy_config(loop__patience=9, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "star-accumulate"},
        {"task__choose": "unsolved-first"},
        {"selection__unique_by": "normalized-text", "training__validation_share": 0.5},
    ],
    ids=["star", "star-accumulate", "unsolved-first", "with-validation"],
)
def test_the_calls_of_a_run_are_linear_in_its_problems(changes: dict[str, Any]) -> None:
    calls = []
    for problems in (50, 50, 100, 200):  # the first run fills caches
        limit = {"task__problems_per_iteration": problems - 5} if "task__choose" in changes else {}
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder, counted_calls() as counts:
            run_toy(Path(folder), task=large_task(problems), config=config(**changes, **limit), chunk=2)
        calls.append(counts["calls"])
    _, few, more, most = calls
    assert 1.9 < (most - more) / (more - few) < 2.1


def test_a_resume_parses_training_samples_once_to_go_on_and_twice_to_select_and_none_of_a_finished_iteration(
    tmp_path: Path,
) -> None:
    task, stopped = large_task(100), tmp_path / "stopped"
    last = stopped / "samples" / "002-rationalization.jsonl"
    with pytest.raises(Interrupted):
        run_toy(stopped, task=task, config=config(), chunk=CHUNK, should_stop=last.exists)
    engines: list[ScriptedEngine] = []
    with counted_calls() as counts:
        run_toy(stopped, task=task, config=config(), chunk=CHUNK, engines=engines)
    lines = parsed_samples(counts).items()
    assert Counter((path.name, times) for (path, _), times in lines) == {  # type: ignore[misc, has-type]
        ("002-rationale.jsonl", 3): 100,
        ("002-rationalization.jsonl", 3): CHUNK,
        ("002-rationalization.jsonl", 2): 60 - CHUNK,
        # Iteration 2's model, the one before and the base model: what it gained and lost on dev.
        ("000-dev.jsonl", 2): len(DEV),
        ("001-dev.jsonl", 1): len(DEV),
        ("002-dev.jsonl", 1): len(DEV),
    }
    hinted = [r for e in engines for r in e.requests if "(answer" in r.prompt.rpartition("Q: ")[2]]
    assert len(hinted) == 60 - CHUNK
    run_toy(tmp_path / "undisturbed", task=task, config=config(), chunk=CHUNK)
    names = ("samples", "examples", "left_out", "prompts.jsonl")
    assert folder_bytes(stopped, *names) == folder_bytes(tmp_path / "undisturbed", *names)


def test_samples_are_read_only_when_needed(tmp_path: Path) -> None:
    run_toy(tmp_path, task=large_task(100), config=config(), chunk=CHUNK)
    with counted_calls() as counts:
        first = next(read_samples(tmp_path))
    assert first[1].problem_id == DEV[0].id
    assert list(parsed_samples(counts).values()) == [1]


def test_the_samples_of_an_iteration_are_gone_when_its_training_begins(tmp_path: Path) -> None:
    alive: list[int] = []

    class Counting(NullTrainer):
        def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
            samples = [item for item in gc.get_objects() if type(item) is Sample]
            alive.append(sum(s.problem_id.startswith("short-lived") for s in samples))
            return super().fine_tune(training, on_step)

    run_toy(tmp_path, task=large_task(100, "short-lived"), config=config(), chunk=CHUNK, trainer=Counting())
    assert alive == [0, 0]


def test_samples_are_read_back_in_the_order_in_which_they_were_added_as_often_as_wanted(tmp_path: Path) -> None:
    added: list[SampleKey] = []
    read: list[list[SampleKey]] = []

    class Noting(AdaStar):
        def add(self, samples: Sequence[Sample]) -> None:
            added.extend(map(sample_key, samples))
            super().add(samples)

        def training_set(self, samples: Iterable[Sample], earlier: Iterable[Sample]) -> TrainingSet:
            read.extend([list(map(sample_key, samples)), list(map(sample_key, samples))])
            return super().training_set(samples, earlier)

    settings, task = toy_config("adastar", loop__max_iterations=1, training__steps_first_iteration=10), large_task(40)
    run_toy(tmp_path, config=settings, task=task, chunk=CHUNK, method=Noting(settings, task))
    kinds = [kind for kind, _ in groupby(key.kind for key in added)]
    assert kinds[:3] == ["rationale", "rationalization", "rationale"]
    assert read == [added, added]


def wordy(prompt: str, seed: int) -> str:
    """Another text for each seed, of 2,000 characters; every second one is correct."""
    word = prompt.rpartition("Q: ")[2].partition(" ")[0]
    return f" <r>count {word} {seed:>20} {'and so on ' * 200}</r>\n{len(word) + seed % 2}"


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "star-accumulate", "loop__max_iterations": 2}, {"selection__keep": "random-matched"}],
    ids=["star", "star-accumulate", "random-matched"],
)
def test_the_texts_of_samples_that_are_not_trained_on_are_not_in_memory(changes: dict[str, Any]) -> None:
    settings = config(
        **{
            "sampling__temperature": 0.7,
            "sampling__max_new_tokens": 9_000,
            "selection__max_per_problem": 1,
            "loop__max_iterations": 1,
            **changes,
        }
    )
    peaks = []
    for num_samples in (2, 5, 35):  # the first run fills caches
        changed = settings.model_copy(
            update={"sampling": settings.sampling.model_copy(update={"num_samples": num_samples})}
        )
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            tracemalloc.start()
            run_toy(Path(folder), task=large_task(10), config=changed, chunk=CHUNK, reply=wordy)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    samples = 10 * (35 - 5) * settings.loop.max_iterations
    assert (peaks[2] - peaks[1]) / samples < 300


@pytest.mark.slow
def test_a_hundred_thousand_samples_take_less_than_500_bytes_each() -> None:
    command = [sys.executable, str(BENCHMARKS / "loop_scale.py"), "--million", "--sizes", "200,1000"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    few, many = json.loads(done.stdout.splitlines()[-1])["runs"]
    assert (few["samples"], many["samples"]) == (20_000, 100_000)
    assert (many["peak_mib"] - few["peak_mib"]) * 2**20 / (many["samples"] - few["samples"]) < 500


def test_the_seconds_by_stage_and_by_work_add_up_to_the_same(tmp_path: Path) -> None:
    outcome = run_toy(tmp_path, task=large_task(20), config=config(), chunk=CHUNK)
    for s in outcome.summaries:
        assert list(s.work_s) == ["sampling", "training", "loading", "other"]
        assert all(seconds >= 0 for seconds in s.work_s.values())
        assert sum(s.work_s.values()) == pytest.approx(sum(s.seconds.values()), abs=0.02)

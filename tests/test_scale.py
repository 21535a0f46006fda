"""The cost of the loop grows with the number of problems and no faster. Calls and lines are counted, not seconds."""

import gc
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from selftaught.engines.scripted import ScriptedEngine
from selftaught.errors import Interrupted
from selftaught.records import Sample, Task
from selftaught.store import read_samples
from selftaught.training import NullTrainer
from toy import DEV, TEST, folder_bytes, run_toy, toy_config, toy_problem, toy_task

SKILLS = ("easy", "easy", "hinted", "never", "mute")
CHUNK = 8


def large_task(problems: int) -> Task:
    made = (toy_problem(f"word{k}", SKILLS[k % len(SKILLS)]) for k in range(problems))
    return toy_task(train=tuple(made), dev=DEV, test=TEST)


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Calls of Python and C functions, and how often each function of the store was entered."""
    found: Counter[str] = Counter()

    def on_event(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            found["calls"] += 1
        if event == "call" and frame.f_code.co_filename.endswith("store.py"):
            found[frame.f_code.co_name] += 1

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        yield found
    finally:
        sys.setprofile(before)


def config(**changes: Any) -> Any:
    return toy_config(loop__patience=9, **changes)


def calls_of_a_run(run_dir: Path, problems: int, **changes: Any) -> int:
    task = large_task(problems)
    with counted_calls() as found:
        run_toy(run_dir, task=task, config=config(**changes), chunk=CHUNK)
    return found["calls"]


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
def test_ten_times_the_problems_take_at_most_ten_times_the_calls(tmp_path: Path, changes: dict[str, Any]) -> None:
    if "task__choose" in changes:
        small, large = ({**changes, "task__train_problems": number - 1} for number in (20, 200))
    else:
        small = large = changes
    run_toy(tmp_path / "first", task=large_task(20), config=config(**small), chunk=CHUNK)  # fills caches
    few = calls_of_a_run(tmp_path / "few", 20, **small)
    many = calls_of_a_run(tmp_path / "many", 200, **large)
    assert 5 * few < many <= 10 * few


def test_a_resume_reads_each_line_on_disk_at_most_once_and_asks_only_for_what_is_owed(tmp_path: Path) -> None:
    task = large_task(100)

    def stop_in_iteration_2() -> bool:
        return (tmp_path / "stopped" / "samples" / "002-rationalization.jsonl").exists()

    with pytest.raises(Interrupted):
        run_toy(tmp_path / "stopped", task=task, config=config(), chunk=CHUNK, should_stop=stop_in_iteration_2)
    on_disk = sum(path.read_bytes().count(b"\n") for path in (tmp_path / "stopped").rglob("*.jsonl"))
    engines: list[ScriptedEngine] = []
    with counted_calls() as found:
        run_toy(tmp_path / "stopped", task=task, config=config(), chunk=CHUNK, engines=engines)
    measured_again = 2 * len(DEV) + 2 * len(TEST)
    assert 100 < found["_parse"] <= on_disk + measured_again
    run_toy(tmp_path / "undisturbed", task=task, config=config(), chunk=CHUNK)
    names = ("samples", "examples", "left_out")
    assert folder_bytes(tmp_path / "stopped", *names) == folder_bytes(tmp_path / "undisturbed", *names)
    owed = 60 - CHUNK
    assert sum("(answer" in r.prompt.rpartition("Q: ")[2] for e in engines for r in e.requests) == owed


def test_samples_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    run_toy(tmp_path, task=large_task(100), config=config(), chunk=CHUNK)
    with counted_calls() as found:
        first = next(read_samples(tmp_path))
    assert first[1].problem_id == DEV[0].id
    assert found["_parse"] == 1


def test_the_samples_of_an_iteration_are_gone_when_its_training_begins(tmp_path: Path) -> None:
    alive: list[int] = []

    class Counting(NullTrainer):
        def fine_tune(self, examples, **kwargs):  # type: ignore[no-untyped-def]
            alive.append(sum(isinstance(found, Sample) for found in gc.get_objects()))
            return super().fine_tune(examples, **kwargs)

    run_toy(tmp_path, task=large_task(100), config=config(), chunk=CHUNK, trainer=Counting())
    assert alive == [0, 0]


def test_the_time_of_an_iteration_is_accounted_for_by_stage_and_by_work(tmp_path: Path) -> None:
    outcome = run_toy(tmp_path, task=large_task(20), config=config(), chunk=CHUNK)
    for s in outcome.summaries:
        assert list(s.work_s) == ["sampling", "training", "loading", "other"]
        assert all(seconds >= 0 for seconds in s.work_s.values())
        assert sum(s.work_s.values()) == pytest.approx(sum(s.seconds.values()), abs=0.02)

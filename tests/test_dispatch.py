"""Workers finish in any order, are lost, late and replaced: the run folder is that of a run without workers."""

import resource
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from scripted_workers import Fate, ScriptedWorkers, ToyMaker
from selftaught.methods.method import Draw, StandardMethod
from selftaught.methods.table import METHODS
from selftaught.records.errors import (
    EngineError,
    Interrupted,
    ModelError,
    RefusedError,
    StoreError,
    Suspended,
    VerifierError,
    WorkerDied,
)
from selftaught.records.events import ChunkSaved, Event, Note, SampleMade, TokensGenerated, WorkersChanged
from selftaught.records.prompts import ChunkPrompts
from selftaught.records.samples import ModelRef
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.runs.parts import Part, Parts
from selftaught.stages.workers.dispatch import Dispatcher
from selftaught.stages.workers.losses import Limits, Losses, WorkerFault
from selftaught.stages.workers.protocol import Finished, FinishedChunk, FinishedRenders, Job, Refused, ScoreJob
from selftaught.tracking.terminal import Terminal
from selftaught.training.none import NullTrainer
from test_scale import MEMORY, large_task
from toy import folder_bytes, reply, run_toy, toy_config

FOLDERS = ("prompts.jsonl", "samples", "examples", "left_out", "evaluations.jsonl", "passes.jsonl")
TASK = large_task(13)
SETTINGS: dict[str, Any] = {
    "cluster__chunk_timeout": 10,
    "cluster__max_losses": 100,
    "pass_at_k__samples": 2,
    "loop__max_iterations": 1,
}
LATE = Fate(takes_s=(15.0, 1.0))
"""Of its first chunk; the second one would be in time."""

FATES = st.lists(
    st.builds(
        Fate,
        starts_s=st.sampled_from([0.5, 3.0, 40.0]),
        takes_s=st.lists(st.sampled_from([0.1, 1.0, 2.5, 11.0, 25.0]), min_size=1, max_size=4).map(tuple),
        dies_after=st.sampled_from([None, None, -1, 0, 1, 4]),
        is_told=st.booleans(),
    ),
    max_size=6,
).map(lambda fates: [Fate(), *fates] if all(fate.dies_after == -1 for fate in fates) else fates)
"""Some worker starts: what never works ends the run."""


class Killed(BaseException):
    """Ends a run as a kill would: nothing on the way takes it for an error."""


def configured(method: str = "star", **changes: Any) -> Any:
    return toy_config(method, **{**SETTINGS, **changes})


@cache
def alone(method: str = "star") -> dict[str, bytes]:
    """The files of a run without workers."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        run_toy(Path(folder), config=configured(method), task=TASK)
        return folder_bytes(Path(folder), *FOLDERS)


def run_with(
    folder: Path,
    *fates: Fate,
    workers: int = 3,
    config: Any = None,
    alter: Callable[[str, Finished], Finished] = lambda worker, result: result,
    **more: Any,
) -> ScriptedWorkers:
    """Run the toy task with workers that have these fates; with 0 workers, without any."""
    config = config or configured()
    source = ScriptedWorkers(ToyMaker(config, TASK, reply), fates, alter=alter)
    if workers:
        more |= {"source": source, "num_workers": workers, "clock": source.clock}
    run_toy(folder, config=config, task=TASK, **more)
    return source


def notes_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


@pytest.mark.parametrize("method", ["star", "adastar"])
@settings(max_examples=20)
@given(fates=FATES, workers=st.integers(1, 4))
def test_whatever_becomes_of_workers_the_run_folder_is_that_of_a_run_without_them(
    method: str, fates: list[Fate], workers: int
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        run_with(Path(folder), *fates, workers=workers, config=configured(method))
        assert folder_bytes(Path(folder), *FOLDERS) == alone(method)


@settings(max_examples=20)
@given(fates=FATES, starts=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 60), st.booleans()), max_size=4))
def test_a_run_that_is_killed_or_stopped_is_carried_on_with_any_number_of_workers(
    fates: list[Fate], starts: list[tuple[int, int, bool]]
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        for workers, after, is_killed in starts:
            told: list[Event] = []

            def tell(event: Event, told: list[Event] = told, after: int = after, is_killed: bool = is_killed) -> None:
                told.append(event)
                if is_killed and len(told) >= after:
                    raise Killed

            def should_stop(told: list[Event] = told, after: int = after) -> bool:
                return len(told) >= after

            try:
                run_with(Path(folder), *fates, workers=workers, tell=tell, should_stop=should_stop)
            except (Killed, Interrupted):
                continue
        run_with(Path(folder), *fates, workers=2)
        assert folder_bytes(Path(folder), *FOLDERS) == alone()
        assert not list(Path(folder).rglob("*.parts"))


def test_chunks_that_were_finished_out_of_order_before_a_kill_are_not_made_again(tmp_path: Path) -> None:
    def tell(event: Event) -> None:
        if isinstance(event, ChunkSaved) and event.stage == "rationale":
            raise Killed

    slow = Fate(takes_s=(5.0,))
    with pytest.raises(Killed):
        run_with(tmp_path, slow, tell=tell)
    parts = sorted(int(path.stem) for path in tmp_path.glob("samples/001-rationale.parts/*.jsonl"))
    assert parts, "other workers were faster"
    again = run_with(tmp_path)
    assert not {("rationale", number) for number in parts} & set(again.made)
    assert folder_bytes(tmp_path, *FOLDERS) == alone()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_part_that_was_torn_or_is_of_something_else_is_made_again(workers: int, tmp_path: Path) -> None:
    def tell(event: Event) -> None:
        if isinstance(event, ChunkSaved) and event.stage == "rationale":
            raise Killed

    with pytest.raises(Killed):
        run_with(tmp_path, Fate(takes_s=(5.0,)), tell=tell)
    first = min(tmp_path.glob("samples/001-rationale.parts/*.jsonl"))
    content = first.read_bytes()
    first.write_bytes(content[:-10])
    (first.parent / "000005.jsonl").write_bytes(content)
    (first.parent / "000006.jsonl").write_bytes(b"")
    (first.parent / "000004.jsonl.tmp").write_bytes(b"torn")
    run_with(tmp_path, workers=workers)
    assert folder_bytes(tmp_path, *FOLDERS) == alone()


def test_a_late_chunk_is_made_by_another_worker_as_well_and_a_difference_is_said(tmp_path: Path) -> None:
    def alter(worker: str, result: Finished) -> Finished:
        if worker == "w0" and isinstance(result, FinishedChunk):
            return replace(result, lines=tuple(line.replace(b'"logprob":', b'"logprob" :') for line in result.lines))
        return result

    events: list[Event] = []
    source = run_with(tmp_path, LATE, Fate(takes_s=(2.0,)), workers=2, alter=alter, tell=events.append)
    assert source.made.count(("dev", 0)) == 2 + 1  # dev of the base model, and of iteration 1
    assert source.started[:2] == ["w0", "w1"]
    notes = notes_of(events)
    assert any("w0 has had a chunk for 10 s, longer than cluster.chunk_timeout" in note for note in notes)
    assert any("two workers made chunk 0 differently" in note for note in notes)


def test_a_worker_that_hangs_is_ended_and_replaced(tmp_path: Path) -> None:
    events: list[Event] = []
    source = run_with(tmp_path, Fate(dies_after=1, is_told=False), workers=2, tell=events.append)
    assert any("w0 was lost (it has not answered for 20 s)" in note for note in notes_of(events))
    assert "w2" in source.started
    assert folder_bytes(tmp_path, *FOLDERS) == alone()


def test_the_only_worker_is_replaced_as_soon_as_it_is_late(tmp_path: Path) -> None:
    events: list[Event] = []
    run_with(tmp_path, Fate(dies_after=1, is_told=False), workers=1, tell=events.append)
    assert any(
        "not answered for 10 s, longer than cluster.chunk_timeout, and there is no other" in note
        for note in notes_of(events)
    )
    assert folder_bytes(tmp_path, *FOLDERS) == alone()


def test_a_worker_of_another_kind_of_machine_is_not_used_unless_the_config_takes_any(tmp_path: Path) -> None:
    fates, events = (Fate(), Fate(starts_s=2.0, platform="another machine")), list[Event]()
    source = run_with(tmp_path / "refused", *fates, workers=2, tell=events.append)
    (note,) = (note for note in notes_of(events) if "not used" in note)
    assert "w1 is not used: it has another machine, the run's first one a machine" in note
    assert "cluster.any_machine" in note
    assert source.avoided == ["w1"]
    assert len(source.started) == 1 + source.closed, "it loads no other model"
    events.clear()
    config = configured(cluster__any_machine=True)
    run_with(tmp_path / "taken", *fates, workers=2, config=config, tell=events.append)
    assert not any("not used" in note for note in notes_of(events))


def test_the_first_machine_of_a_run_is_that_of_its_later_starts_too(tmp_path: Path) -> None:
    """Also if another kind is ready first then."""
    kept, events = list[str](), list[Event]()

    def tell(event: Event) -> None:
        if isinstance(event, ChunkSaved):
            raise Killed

    with pytest.raises(Killed):
        run_with(tmp_path, tell=tell, keep_platform=kept.append)
    assert kept == ["a machine"]
    odd = Fate(starts_s=0.5, platform="another machine")
    source = run_with(tmp_path, odd, workers=2, platform=kept[0], keep_platform=kept.append, tell=events.append)
    assert source.avoided == ["w0"]
    assert len(kept) == 1
    assert folder_bytes(tmp_path, *FOLDERS) == alone()


def test_a_run_without_a_machine_like_its_first_one_ends_with_what_may_be_done(tmp_path: Path) -> None:
    with pytest.raises(WorkerDied) as caught:
        run_with(tmp_path, workers=2, platform="a better machine")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("no worker is left that is like the run's first one: that had a better machine, the last ")
    assert "cluster.any_machine=true" in line


def raising(error: Exception) -> Callable[[str, Finished], Finished]:
    """What makes the chunk 1 of the rationales fail, in every worker."""

    def alter(worker: str, result: Finished) -> Finished:
        if isinstance(result, FinishedChunk) and result.number == 1 and b'"kind":"rationale"' in result.lines[0]:
            raise error
        return result

    return alter


def test_a_mistake_that_every_worker_would_make_ends_the_run_with_its_traceback_and_keeps_what_is_finished(
    tmp_path: Path,
) -> None:
    events: list[Event] = []
    with pytest.raises(WorkerFault) as caught:
        run_with(tmp_path, tell=events.append, alter=raising(KeyError("carry")))
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("3 workers have failed at the same work in the same way: KeyError: 'carry'; what was ")
    assert rest[0].startswith("Traceback")
    assert "in alter" in "".join(rest)
    assert sum("was lost (KeyError: 'carry')" in note for note in notes_of(events)) == 2
    assert folder_bytes(tmp_path, "samples").keys() >= {"samples/000-dev.jsonl"}
    run_with(tmp_path)
    assert folder_bytes(tmp_path, *FOLDERS) == alone()


def test_a_mistake_that_is_one_loss_too_many_has_its_traceback_too(tmp_path: Path) -> None:
    config = configured(cluster__max_losses=0)
    with pytest.raises(WorkerFault, match=r"(?s)1 workers were lost, more than .*: 'carry'; .*Traceback.* in alter"):
        run_with(tmp_path, config=config, alter=raising(KeyError("carry")))


def test_what_three_workers_are_refused_at_the_same_chunk_ends_the_run_with_its_line(tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(VerifierError, match=r"^the verifier failed$"):
        run_with(tmp_path, tell=events.append, alter=raising(VerifierError("the verifier failed")))
    assert sum("was lost (the verifier failed)" in note for note in notes_of(events)) == 2


def test_a_worker_that_is_refused_while_others_work_is_lost_and_none_starts_in_its_place(tmp_path: Path) -> None:
    """As on a node whose disk is full, or a GPU that has gone."""
    events: list[Event] = []
    full = Fate(starts_s=2.0, raised=ModelError("the disk of node b is full"))
    source = run_with(tmp_path, Fate(), full, tell=events.append)
    assert source.avoided == ["w1"]
    assert len(source.started) == 1 + 2 * source.closed
    assert "worker w1 was lost (the disk of node b is full); no other one starts in its place" in notes_of(events)
    assert [event.losses for event in events if isinstance(event, WorkersChanged)][-1] == 1
    assert folder_bytes(tmp_path, *FOLDERS) == alone()


def test_a_place_where_three_workers_have_failed_to_open_a_model_is_left_while_others_work(tmp_path: Path) -> None:
    events: list[Event] = []
    broken = Fate(starts_s=2.0, raised=RuntimeError("CUDA error: uncorrectable"))
    source = run_with(tmp_path, Fate(takes_s=(9.0,)), broken, broken, broken, workers=2, tell=events.append)
    assert source.avoided == ["w3"]
    notes = [note for note in notes_of(events) if "RuntimeError: CUDA error" in note]
    assert ["no other one starts" in note for note in notes] == [False, False, True]
    assert folder_bytes(tmp_path, *FOLDERS) == alone()


def test_a_model_that_no_worker_can_open_ends_the_run_with_the_traceback_after_three(tmp_path: Path) -> None:
    """The exception has no traceback here: nothing has raised it."""
    broken = Fate(raised=RuntimeError("no such layer"))
    with pytest.raises(WorkerFault, match=r"(?s)^3 workers .*: RuntimeError: no such layer; .*\nRuntimeError"):
        run_with(tmp_path, *[broken] * 9, workers=9)


def test_a_loss_in_a_cluster_names_the_node() -> None:
    limits = Limits(workers=2, chunk_timeout=10, max_losses=0)
    refused = Refused(worker="7", error=ModelError("the disk is full"), node="b")
    first, later = Losses(limits), Losses(limits)
    later.was_ready = True
    assert str(first.add(refused, None, was_opening=True)) == "node b: the disk is full"
    assert "; the last one: node b: the disk is full; " in str(later.add(refused, None, was_opening=True))


def test_what_all_workers_are_refused_for_one_after_the_other_ends_the_run_with_the_last_line(tmp_path: Path) -> None:
    refused = Fate(starts_s=2.0, raised=ModelError("the disk is full"))
    with pytest.raises(ModelError, match=r"^the disk is full$"):
        run_with(tmp_path, Fate(dies_after=1), refused, refused, workers=2)


@pytest.mark.parametrize("first", [Fate(dies_after=0), Fate(starts_s=2.0, raised=ModelError("no disk"))])
def test_what_has_come_together_with_the_end_of_a_run_is_handed_on_before(first: Fate) -> None:
    made, taken = list[int](), list[int]()

    def make(job: Job) -> Finished:
        made.append(job.number)
        return FinishedRenders(number=job.number, rendered=None)

    source = ScriptedWorkers(make, [first])
    limits = Limits(workers=4, chunk_timeout=10, max_losses=0)
    dispatcher = Dispatcher(source, limits, clock=source.clock)
    dispatcher.start(ModelRef(path="scripted"))

    def take() -> None:
        taken.extend(job.number for job, _ in dispatcher.finished(score_jobs(9)))

    with pytest.raises(WorkerDied, match="1 workers were lost, more than"):
        take()
    assert len(made) == 3
    assert taken == made


def test_too_many_losses_end_the_run_with_one_line(tmp_path: Path) -> None:
    config = configured(cluster__max_losses=3)
    with pytest.raises(WorkerDied, match=r"4 workers were lost, more than .*max_losses = 3; the last one: killed"):
        run_with(tmp_path, *[Fate(dies_after=1)] * 9, config=config)


def test_workers_that_never_start_end_the_run_when_each_has_failed(tmp_path: Path) -> None:
    with pytest.raises(WorkerDied, match="no worker could start; the last one: killed by signal 9"):
        run_with(tmp_path, *[Fate(dies_after=-1)] * 9, workers=2)


def test_what_a_worker_is_refused_for_ends_the_run(tmp_path: Path) -> None:
    class Refusing(ScriptedWorkers):
        def wait(self, timeout_s: float) -> Any:
            return [Refused(worker="w0", error=RefusedError("other problems"))]

    with pytest.raises(RefusedError, match="other problems"):
        run_toy(tmp_path, config=configured(), task=TASK, source=Refusing(lambda job: 1 / 0), num_workers=1)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (b'"index":0', b'"index":1', "where"),
        (b'"seed":', b'"seed":1', "where"),
        (b'"prompt_sha256":"', b'"prompt_sha256":"0', "without its prompt"),
        (b'"weights_sha256":null', b'"weights_sha256":"aa"', "of the weights aa"),
    ],
)
def test_a_chunk_that_is_not_what_was_asked_for_ends_the_run(
    old: bytes, new: bytes, named: str, tmp_path: Path
) -> None:
    def alter(worker: str, result: Finished) -> Finished:
        assert isinstance(result, FinishedChunk)
        return replace(result, lines=(result.lines[0].replace(old, new), *result.lines[1:]))

    with pytest.raises(RefusedError, match=f"chunk 0 of dev came back with .*{named}"):
        run_with(tmp_path, alter=alter)


def test_a_chunk_with_too_few_samples_ends_the_run(tmp_path: Path) -> None:
    def alter(worker: str, result: Finished) -> Finished:
        assert isinstance(result, FinishedChunk)
        return replace(result, lines=result.lines[1:])

    with pytest.raises(RefusedError, match="1 samples where 2 are planned"):
        run_with(tmp_path, alter=alter)


def test_all_workers_have_ended_when_a_training_starts(tmp_path: Path) -> None:
    class Looking(NullTrainer):
        def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
            assert source.closed
            assert not source._workers
            return super().fine_tune(training, on_step)

    config = configured()
    source = ScriptedWorkers(ToyMaker(config, TASK, reply))
    run_toy(tmp_path, config=config, task=TASK, source=source, num_workers=2, clock=source.clock, trainer=Looking())


def test_a_full_disk_ends_a_run_with_workers_with_the_line_of_one_without_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on file sizes replaces a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = max(map(len, alone().values())) // 2
    for workers in (0, 3):
        folder = tmp_path / str(workers)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(StoreError) as caught:
                run_with(folder, workers=workers)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(caught.value).startswith(f"cannot append to {folder}/")
        assert ".jsonl: File too large; free some space" in str(caught.value)
    run_with(folder)
    assert folder_bytes(folder, *FOLDERS) == alone()


def test_a_stop_ends_a_run_whose_workers_have_nothing_in_hand_yet(tmp_path: Path) -> None:
    source = ScriptedWorkers(ToyMaker(configured(), TASK, reply), [Fate(starts_s=1e6)] * 2)
    more: dict[str, Any] = {"source": source, "num_workers": 2, "clock": source.clock}
    with pytest.raises(Interrupted):
        run_toy(tmp_path, config=configured(), task=TASK, should_stop=lambda: source.clock() > 100, **more)
    assert 100 < source.clock() < 102
    assert source.closed


def test_workers_that_do_not_end_do_not_hide_why_the_run_ends(tmp_path: Path) -> None:
    class Staying(ScriptedWorkers):
        def close(self) -> None:
            raise EngineError("process 7 is still there")

    source = Staying(ToyMaker(configured(), TASK, reply))
    events: list[Event] = []
    more: dict[str, Any] = {"source": source, "num_workers": 2, "clock": source.clock, "tell": events.append}
    with pytest.raises(Suspended, match="stopped by SIGTERM; what is finished is saved"):
        run_toy(tmp_path, config=configured(), task=TASK, suspended_by=lambda: "SIGTERM", **more)
    assert "warning: process 7 is still there" in notes_of(events)


def test_a_stop_ends_the_wait_for_a_worker_for_a_single_job(tmp_path: Path) -> None:
    source = ScriptedWorkers(ToyMaker(configured(), TASK, reply), [Fate(starts_s=1e6)])
    limits = Limits(workers=1, chunk_timeout=10, max_losses=0)
    job = ScoreJob(number=0, model=ModelRef(path="scripted"), requests=(), completions=())
    dispatcher = Dispatcher(source, limits, clock=source.clock)
    assert dispatcher.do(job, should_stop=lambda: source.clock() > 100) is None
    assert 100 < source.clock() < 102


def score_jobs(number: int) -> list[ScoreJob]:
    model = ModelRef(path="scripted")
    return [ScoreJob(number=i, model=model, requests=(), completions=()) for i in range(number)]


def test_a_stop_does_not_wait_for_a_late_worker_whose_chunk_another_has_made() -> None:
    fates = Fate(takes_s=(1e9,)), Fate(dies_after=2), Fate(starts_s=1e6)
    source = ScriptedWorkers(ToyMaker(configured(), TASK, reply), fates)
    limits = Limits(workers=2, chunk_timeout=1000, max_losses=1)
    dispatcher = Dispatcher(source, limits, clock=source.clock)
    dispatcher.start(ModelRef(path="scripted"))
    assert sorted(job.number for job, _ in dispatcher.finished(score_jobs(2))) == [0, 1]
    stop = source.clock() + 30
    assert list(dispatcher.finished(score_jobs(1), should_stop=lambda: source.clock() > stop)) == []
    assert source.clock() < stop + 2


def test_whoever_takes_a_result_may_take_longer_than_a_chunk_may_and_no_worker_is_late() -> None:
    events: list[Event] = []
    source = ScriptedWorkers(ToyMaker(configured(), TASK, reply), [Fate(takes_s=(s,)) for s in (3.0, 4.0, 5.0)])
    limits = Limits(workers=3, chunk_timeout=10, max_losses=0)
    dispatcher = Dispatcher(source, limits, clock=source.clock, tell=events.append)
    dispatcher.start(ModelRef(path="scripted"))
    numbers = []
    for job, _ in dispatcher.finished(score_jobs(12)):
        numbers.append(job.number)
        source.pass_time(20.0)
    assert sorted(numbers) == list(range(12))
    assert notes_of(events) == []


@settings(max_examples=50)
@given(
    fates=FATES,
    workers=st.integers(1, 4),
    rounds=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 8), st.sampled_from([0.0, 15.0])), max_size=5),
)
def test_jobs_that_nobody_waits_for_any_more_are_not_taken_for_later_ones_of_the_same_number(
    fates: list[Fate], workers: int, rounds: list[tuple[int, int, float]]
) -> None:
    """Of each round some results are taken, after a while each."""
    source = ScriptedWorkers(lambda job: FinishedRenders(number=job.number, rendered=job.completions), fates)  # type: ignore[union-attr, arg-type]
    dispatcher = Dispatcher(source, Limits(workers=workers, chunk_timeout=10, max_losses=100), clock=source.clock)
    dispatcher.start(ModelRef(path="scripted"))
    for number, (jobs, taken, while_s) in enumerate(rounds):
        asked = [replace(job, completions=(f"{number} {job.number}",)) for job in score_jobs(jobs)]
        seen = set()
        for job, result in islice(dispatcher.finished(asked), taken):
            assert isinstance(result, FinishedRenders)
            assert result.rendered == (f"{number} {job.number}",)
            seen.add(job.number)
            source.pass_time(while_s)
        assert len(seen) == min(jobs, taken)


def test_a_worker_that_waits_for_a_place_is_not_lost_while_another_works() -> None:
    model, limits = ModelRef(path="scripted"), Limits(workers=2, chunk_timeout=1000, max_losses=0)
    for first, is_enough in ((Fate(takes_s=(900.0,)), True), (Fate(starts_s=1e6, waits=True), False)):
        source = ScriptedWorkers(ToyMaker(configured(), TASK, reply), [first, Fate(starts_s=1e6, waits=True)])
        dispatcher = Dispatcher(source, limits, clock=source.clock)
        dispatcher.start(model)
        if is_enough:
            assert len(list(dispatcher.finished(score_jobs(6)))) == 6
            assert source.clock() > 5000
        else:
            with pytest.raises(WorkerDied, match="no worker could start"):
                list(dispatcher.finished(score_jobs(6)))


def test_workers_and_their_chunks_are_told(tmp_path: Path) -> None:
    events: list[Event] = []
    run_with(tmp_path, Fate(), Fate(dies_after=1), workers=2, tell=events.append)
    states = [event for event in events if isinstance(event, WorkersChanged)]
    assert states[0] == WorkersChanged(ready=0, starting=2, losses=0, in_flight=0)
    assert max(state.in_flight for state in states) == 4
    assert states[-1].losses == 1
    assert any(isinstance(event, TokensGenerated) for event in events)
    files = folder_bytes(tmp_path, "samples").values()
    assert sum(isinstance(event, SampleMade) for event in events) == sum(content.count(b"\n") for content in files)


def test_the_terminal_shows_workers_beside_the_progress_of_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selftaught.tracking.terminal.PLAIN_EVERY_S", -1.0)
    shown = StringIO()
    terminal = Terminal(Console(file=shown, width=200), 1)
    run_with(tmp_path, Fate(), Fate(dies_after=1), workers=2, tell=terminal.tell)
    assert "2 workers, 4 chunks in flight" in shown.getvalue()
    assert "1 worker, 1 starting, 1 lost, " in shown.getvalue()


@pytest.mark.parametrize("name", METHODS)
def test_the_draws_of_a_kind_with_a_total_do_not_depend_on_their_samples(name: str) -> None:
    """Draw.total: what is drawn ahead is what is drawn one after the other."""
    config = toy_config(name)
    maker = ToyMaker(config, TASK, reply)

    def drawn(*, ahead: bool) -> list[Draw]:
        method = METHODS[name].make(config, TASK)
        method.begin(1)
        draws: list[Draw] = []
        waiting: list[Draw] = []
        while (draw := method.next_samples(3)) is not None:
            draws.append(draw)
            waiting.append(draw)
            so_far = sum(len(d.planned) for d in draws if d.kind == draw.kind)
            if not ahead or draw.total is None or so_far == draw.total:
                for each in waiting:
                    method.add(maker.samples(each))
                waiting.clear()
        assert not waiting
        return draws

    assert drawn(ahead=True) == drawn(ahead=False)


def test_a_method_that_ends_before_its_total_is_refused(tmp_path: Path) -> None:
    class Ending(StandardMethod):
        def next_samples(self, limit: int) -> Draw | None:
            draw = super().next_samples(limit)
            return draw and replace(draw, total=(draw.total or 0) + 1)

    with pytest.raises(RefusedError, match="draws 14 samples of kind 'rationale' in this iteration, and drew 13"):
        run_toy(tmp_path, config=configured(), task=TASK, method=Ending(configured(), TASK))


@settings(max_examples=20)
@given(st.data())
def test_a_part_that_is_cut_anywhere_is_read_as_it_was_or_not_at_all(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        parts = Parts(Path(folder) / "001-rationale.jsonl")
        assert parts.read(7) is None
        prompts = ChunkPrompts(head=None, own=())
        part = Part(lines=(b'{"a":1}\n', b'{"b":2}\n'), prompts=prompts)
        parts.write(7, part)
        assert parts.read(7) == part
        (path,) = parts.folder.iterdir()
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        assert parts.read(7) is None
        parts.end()
        assert not parts.folder.exists()

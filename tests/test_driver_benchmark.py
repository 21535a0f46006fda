"""The benchmark of a run's own process: what it calls a rate and a share of the ideal is just that."""

from collections.abc import Sequence

import pytest

from benchmarks.driver import Clock, Maker, ReadyTogether, measured, table, toy_config
from benchmarks.loop_scale import toy_task
from benchmarks.paced_workers import PacedWorkers
from builders import sample
from selftaught.records.events import SampleMade, StageBegan, WorkersChanged
from selftaught.stages.workers.protocol import Ready, Said, WorkerEvent


@pytest.mark.parametrize("ready_at", [0.0, 30.0])
@pytest.mark.parametrize("rounds", [3, 60])
def test_the_steady_rate_of_workers_that_each_give_a_chunk_a_second_is_their_number(
    rounds: int, ready_at: float
) -> None:
    now = 100.0
    clock = Clock(lambda: now, None, workers=64)
    clock.tell(StageBegan(iteration=1, stage="rationale", total=None))
    now += ready_at
    clock.tell(WorkersChanged(ready=64, starting=0, losses=0, in_flight=0))
    for _ in range(rounds):
        now += 1.0
        for _ in range(64 * 2):
            clock.tell(SampleMade(sample=sample()))
    assert clock.steady(chunk=2) == pytest.approx(64.0)


def test_a_rate_of_workers_that_were_never_ready_together_is_refused() -> None:
    clock = Clock(lambda: 0.0, None, workers=64)
    clock.tell(WorkersChanged(ready=63, starting=1, losses=0, in_flight=0))
    with pytest.raises(ValueError, match="64 workers were never ready together"):
        _ = clock.work_began


def test_workers_are_ready_when_all_of_them_are() -> None:
    a, b, again = (Ready(worker=name, platform="p") for name in "abc")
    said = Said(worker="b", line="loads slowly")

    class Source:
        def __init__(self) -> None:
            self.events: list[list[WorkerEvent]] = [[a], [said], [b], [again]]

        def wait(self, timeout_s: float) -> Sequence[WorkerEvent]:
            return self.events.pop(0)

    source = ReadyTogether(Source(), 2)
    assert [list(source.wait(1.0)) for _ in range(4)] == [[], [said], [a, b], [again]]


def test_the_share_of_the_ideal_is_that_from_the_first_moment_of_all_workers_to_the_last_result() -> None:
    config, task = toy_config(), toy_task(4 * 2 * 3)
    maker = Maker(config, task)
    row, paced = (
        measured(PacedWorkers(maker, takes_s, by_cpu=True), config, task, workers=4, chunk=2, takes_s=takes_s)
        for takes_s in (0.0, 100.0)
    )
    assert paced.chunks == 12
    assert 300.0 < paced.end_to_end_s <= paced.seconds < 330.0  # three rounds, and what the run computes
    assert paced.of_ideal == pytest.approx(300.0 / paced.end_to_end_s)
    assert "(4 workers)" in table([paced], [row])

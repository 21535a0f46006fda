"""Workers that are simulated in the run's own process, for benchmarks/driver.py."""

import heapq
import time
from collections.abc import Callable, Sequence
from itertools import count

from selftaught.records.samples import ModelRef
from selftaught.stages.workers.protocol import Finished, Job, Made, Ready, WorkerEvent


class PacedWorkers:
    """A `WorkerSource` whose workers take the same time for every chunk."""

    def __init__(self, make: Callable[[Job], Finished], takes_s: float, *, by_cpu: bool = False) -> None:
        self._make, self._takes_s, self._by_cpu = make, takes_s, by_cpu
        self._waited = 0.0
        self._free_at: dict[str, float] = {}
        self._due: list[tuple[float, int, Callable[[], WorkerEvent]]] = []
        self._numbers = count()

    def start(self, model: ModelRef) -> str:
        name = f"w{len(self._free_at)}"
        self._free_at[name] = self.clock()
        self._at(self._free_at[name], lambda: Ready(worker=name, platform="this machine"))
        return name

    def send(self, worker: str, job: Job) -> None:
        due = max(self.clock(), self._free_at[worker]) + self._takes_s
        self._free_at[worker] = due
        self._at(due, lambda: Made(worker=worker, result=self._make(job)))

    def kill(self, worker: str) -> None:
        raise AssertionError("no worker is late or lost")

    def avoid(self, worker: str) -> bool:
        raise AssertionError("no worker is late or lost")

    def wait(self, timeout_s: float) -> Sequence[WorkerEvent]:
        until = min(self._due[0][0] - self.clock(), timeout_s) if self._due else timeout_s
        if until > 0:
            self._waited += until
            if not self._by_cpu:
                time.sleep(until)
        events = []
        while self._due and self._due[0][0] <= self.clock():
            events.append(heapq.heappop(self._due)[2]())
        return events

    def clock(self) -> float:
        """Seconds; by the CPU time of the run, those that it has computed or waited."""
        return time.process_time() + self._waited if self._by_cpu else time.monotonic()

    def close(self) -> None:
        self._free_at.clear()
        self._due.clear()

    def _at(self, due: float, event: Callable[[], WorkerEvent]) -> None:
        heapq.heappush(self._due, (due, next(self._numbers), event))

"""What a run's own process can keep up with when others generate: many workers, and their ceiling.

    python -m benchmarks.driver

The workers are simulated in this process: each makes one chunk after the other, of samples that were made beforehand,
and takes a second for each, or no time. So what is measured is the run alone: planning, handing out, checking what
comes back, saving it in order, telling it. Samples are those of `loop_scale.py` with 60 token ids, behind prompts with
six few-shot examples; one stage of rationales is timed, from its beginning to its end.

Shows for each size of chunk: the throughput of 64 workers that take a second, from when all of them were ready to the
last result, as a share of the ideal (64 chunks a second); the same rate without the last two chunks of each worker,
during which some have nothing to do; then, with workers that take no time, the CPU time that the run spends on a chunk,
which is the ceiling, and where it goes. On a busy machine, `--by-cpu` has the workers' clock run only while the run
computes or waits for them: then neither other programs nor the disk's syncs cost anything. With `--ray N`, N workers
are actors of a Ray cluster of this machine, which take no time; only the CPU time of the run's process counts then,
since they use the same CPUs. With `--ray-paced`, the workers that take a second are such actors, too, each a process:
64 need 6 GB of memory. None gets work before all of them are ready, so that the ideal has a beginning.
Prints a table and a JSON line.
"""

import argparse
import cProfile
import json
import os
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.loop_scale import NUM_SHOTS, Scripted, toy_task
from benchmarks.machine import processor, versions
from benchmarks.paced_workers import PacedWorkers
from selftaught.config.loading import config_from_values
from selftaught.config.settings import RunConfig
from selftaught.loop import run
from selftaught.methods.table import METHODS
from selftaught.records.errors import Interrupted
from selftaught.records.events import Event, SampleMade, StageBegan, StageEnded, WorkersChanged
from selftaught.records.problems import Task, by_id
from selftaught.records.prompts import ChunkPrompts
from selftaught.records.samples import ModelRef, Sample
from selftaught.runs.lines import dump
from selftaught.runs.prompts import rendered_prompts
from selftaught.runs.store import RunStore
from selftaught.stages.sampling import Sampling, generate_chunk, sampling_spec
from selftaught.stages.setup import Setup
from selftaught.stages.workers.protocol import ChunkJob, Finished, FinishedChunk, Job, Ready, WorkerEvent
from selftaught.tracking import OF_EVERY_RUN
from selftaught.tracking.listeners import Listeners
from selftaught.training.none import NullTrainer

NUM_IDS = 60
PLACES = {
    "check": [("in_order.py", "_checked")],
    "save in order": [("stage_file.py", "append_lines")],
    "keep for later": [("parts.py", "write"), ("parts.py", "read"), ("parts.py", "remove")],
    "prompts": [("store.py", "append_rendered_prompts")],
    "count": [("metrics.py", "add")],
    "tell": [("sample.py", "tell")],
    "method": [("method.py", "add"), ("method.py", "next_samples")],
    "source": [
        ("paced_workers.py", "wait"),
        ("paced_workers.py", "send"),
        ("ray_workers.py", "wait"),
        ("ray_workers.py", "send"),
    ],
}
"""Functions of the run that do not call each other, by what they do; of those of one name in a file, the outermost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    workers: int
    takes_s: float
    chunk: int
    chunks: int
    bytes: int
    """Of the stage's file."""
    seconds: float
    """Of the whole stage, with the start of the workers."""
    end_to_end_s: float
    """From when all workers were ready to the end of the stage."""
    cpu_s: float
    """Of the run's process, in the whole stage."""
    steady: float
    """Chunks per second from when all workers are ready until there are no more than two for each."""
    parts: dict[str, float] = field(default_factory=dict)
    """Share of the CPU time by what it is spent on; empty if that was not looked at."""
    kind: str = "no process between them"

    @property
    def of_ideal(self) -> float:
        rounds = -(-self.chunks // self.workers)
        return rounds * self.takes_s / self.end_to_end_s


class Maker:
    """Makes chunks of the toy task as a worker would; `made` keeps them by stage and number."""

    def __init__(self, config: RunConfig, task: Task) -> None:
        self._config, self._task = config, task
        self._engine = Scripted(time.time(), NUM_IDS)
        self._problems = by_id(task.examples_and_problems())
        self.made: dict[tuple[str, int], FinishedChunk] = {}

    def __call__(self, job: Job) -> Finished:
        if not isinstance(job, ChunkJob):
            raise Interrupted("the stage is over: a training has begun")
        if (known := self.made.get((job.stage, job.number))) is not None:
            return known
        spec = sampling_spec(self._config, self._task, num_shots=job.num_shots, temperature=job.temperature)
        sampling = Sampling(
            task=self._task,
            problems=self._problems,
            model=job.model,
            spec=spec,
            iteration=job.iteration,
            run_seed=self._config.seed,
        )
        prompts: list[ChunkPrompts] = []
        samples = generate_chunk(
            self._engine,
            sampling,
            job.planned,
            on_prompts=lambda head, own, render: prompts.append(rendered_prompts(head, own, render)),
        )
        lines = tuple(dump(Sample, sample) for sample in samples)
        tokens = sum(sample.num_tokens for sample in samples)
        chunk = FinishedChunk(number=job.number, lines=lines, prompts=prompts[0], tokens=tokens, seconds=0.0)
        self.made[job.stage, job.number] = chunk
        return chunk


class Clock:
    """A listener that times the stage of rationales, with a profile of it if one is given."""

    def __init__(self, clock: Callable[[], float], profile: cProfile.Profile | None, *, workers: int) -> None:
        self._clock, self._profile, self._workers = clock, profile, workers
        self.began = self.ended = (0.0, 0.0)
        self._all_ready: float | None = None
        self._made: list[float] = []
        """When each sample was known."""

    @property
    def work_began(self) -> float:
        """When the stage had begun and all workers were ready."""
        if self._all_ready is None:
            raise ValueError(f"{self._workers} workers were never ready together: start fewer, or on a larger machine")
        return max(self._all_ready, self.began[0])

    def steady(self, chunk: int) -> float:
        """Chunks per second, as `Measured` has them; 0 if the stage is too short for that."""
        times = [t for t in self._made[: -2 * self._workers * chunk] if t > self.work_began]
        return len(times) / chunk / (times[-1] - self.work_began) if times else 0.0

    def tell(self, event: Event) -> None:
        if isinstance(event, WorkersChanged) and event.ready == self._workers and self._all_ready is None:
            self._all_ready = self._clock()
        if isinstance(event, SampleMade) and self.began[0] and not self.ended[0]:
            self._made.append(self._clock())
        if isinstance(event, StageBegan) and event.stage == "rationale":
            self.began = self._clock(), cpu_s()
            if self._profile:
                self._profile.enable()
        if isinstance(event, StageEnded) and event.stage == "rationale":
            if self._profile:
                self._profile.disable()
            self.ended = self._clock(), cpu_s()

    def close(self) -> None:
        """Nothing is open."""


def cpu_s() -> float:
    """CPU seconds of this process, in all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def toy_config() -> RunConfig:
    return config_from_values(
        {
            **METHODS["star-no-rationalization"].knobs,
            "method": "custom",
            "model.path": "scripted",
            "task.name": "own",
            "sampling.num_shots": NUM_SHOTS,
            "sampling.max_new_tokens": 1_000,
            "training.learning_rate": 1e-6,
            "training.steps_first_iteration": 1,
            "loop.max_iterations": 1,
        }
    )


def measured(
    source: Any,
    config: RunConfig,
    task: Task,
    *,
    workers: int,
    chunk: int,
    takes_s: float,
    look: bool = False,
    base: str = "scripted",
) -> Measured:
    """Run the loop until its rationales are sampled. `base` must be a folder for workers elsewhere."""
    profile = cProfile.Profile(time.process_time) if look else None
    clock = Clock(getattr(source, "clock", time.monotonic), profile, workers=workers)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        with RunStore(folder) as store, Listeners([clock, *(make(folder, config) for make in OF_EVERY_RUN)]) as tell:
            setup = Setup(
                config=config,
                task=task,
                base=ModelRef(path=base),
                store=store,
                open_engine=lambda model: Scripted(0.0, 0),
                open_trainer=NullTrainer,
                chunk=chunk,
                method=METHODS[config.method].make(config, task),
                source=source,
                num_workers=workers,
                clock=getattr(source, "clock", time.monotonic),
                tell=tell,
            )
            with suppress(Interrupted):  # by the maker, when the stage is over
                run(setup)
        size = (folder / "samples" / "001-rationale.jsonl").stat().st_size
    seconds, cpu = (end - begin for begin, end in zip(clock.began, clock.ended, strict=True))
    return Measured(
        workers=workers,
        takes_s=takes_s,
        chunk=chunk,
        chunks=-(-len(task.train) // chunk),
        bytes=size,
        seconds=round(seconds, 3),
        end_to_end_s=round(clock.ended[0] - clock.work_began, 3),
        cpu_s=round(cpu, 3),
        steady=round(clock.steady(chunk), 1),
        parts=shares(pstats.Stats(profile)) if profile else {},
    )


class RayMaker:
    """The same in an actor of a Ray cluster. It makes its own chunks; how long it takes stands in the folder's name."""

    def __init__(self, run_dir: Path, **told: Any) -> None:
        problems, takes_s = run_dir.name.split("-")[1:]
        self._make, self._takes_s = Maker(toy_config(), toy_task(int(problems))), float(takes_s)

    def open_model(self, model: ModelRef, *, folder: Path | None = None) -> None:
        """Nothing is loaded."""

    def platform(self) -> str:
        return "this machine"

    def do(self, job: Job) -> Finished:
        began = time.monotonic()
        result = self._make(job)
        time.sleep(max(0.0, began + self._takes_s - time.monotonic()))
        return result

    def close(self) -> None:
        """Nothing is open."""


class ReadyTogether:
    """A `WorkerSource` whose workers are ready when all of them are, so that none has begun before."""

    def __init__(self, source: Any, workers: int) -> None:
        self._source, self._missing = source, workers
        self._held: list[WorkerEvent] = []

    def wait(self, timeout_s: float) -> Sequence[WorkerEvent]:
        events: Sequence[WorkerEvent] = self._source.wait(timeout_s)
        if self._missing <= 0:
            return events
        ready = [event for event in events if isinstance(event, Ready)]
        self._missing -= len(ready)
        self._held += ready
        held = self._held if self._missing <= 0 else []
        return [*(event for event in events if event not in ready), *held]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def through_ray(config: RunConfig, task: Task, *, workers: int, chunk: int, takes_s: float) -> Measured:
    """The same with actors of a Ray cluster that is started here for it."""
    import ray
    from ray.cluster_utils import Cluster

    from selftaught.machine.cluster import Needs
    from selftaught.machine.ray_cluster import joined
    from selftaught.stages.workers.ray_workers import RayWorkers

    os.environ |= {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "RAY_worker_niceness": "0",
        "RAY_worker_register_timeout_seconds": "600",  # many start at once
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / f"problems-{len(task.train)}-{takes_s}"
        folder.mkdir()
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers, "include_dashboard": False})
        try:
            with (
                joined(cluster.address),
                RayWorkers(folder, Needs(cpus=1, gpus=0), maker="benchmarks.driver:RayMaker") as source,
            ):
                facts: dict[str, Any] = {"workers": workers, "chunk": chunk, "base": str(folder)}
                row = measured(ReadyTogether(source, workers), config, task, **facts, takes_s=takes_s)
                return replace(row, kind=f"{workers} actors of Ray {ray.__version__}")
        finally:
            cluster.shutdown()


def shares(stats: pstats.Stats) -> dict[str, float]:
    """Of the profiled time, by what it is spent on."""
    table: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = stats.stats  # type: ignore[attr-defined]
    total = sum(row[2] for row in table.values())
    spent: dict[tuple[str, str], float] = {}
    for key, row in table.items():
        place = (Path(key[0]).name, key[2])
        spent[place] = max(spent.get(place, 0.0), row[3])
    found = {what: sum(spent.get(place, 0.0) for place in places) / total for what, places in PLACES.items()}
    return {**found, "rest": 1.0 - sum(found.values())}


def table(paced: Sequence[Measured], ceilings: Sequence[Measured]) -> str:
    lines = [
        f"{'chunk':>6} {'chunks/s':>9} {'of ideal':>9} {'steady':>8} {'CPU of the run':>15}   "
        f"({paced[0].workers} workers)"
    ]
    for row in paced:
        rates = f"{row.chunks / row.end_to_end_s:>9.1f} {row.of_ideal:>9.1%} {row.steady:>8.1f}"
        lines.append(f"{row.chunk:>6} {rates} {row.cpu_s / row.seconds:>15.0%}   {row.kind}")
    lines += ["", "the ceiling, by the CPU time of the run's process"]
    heads = f"{'ms/chunk':>9} {'µs/sample':>10} {'chunks/s':>9} {'samples/s':>10} {'MB/s':>6} {'by the clock':>13}"
    lines.append(f"{'chunk':>6} {heads}")
    for row in ceilings:
        samples = row.chunk * row.chunks
        each = f"{1e3 * row.cpu_s / row.chunks:>9.2f} {1e6 * row.cpu_s / samples:>10.1f}"
        rates = f"{row.chunks / row.cpu_s:>9.0f} {samples / row.cpu_s:>10,.0f} {row.bytes / row.cpu_s / 1e6:>6.1f}"
        lines.append(f"{row.chunk:>6} {each} {rates} {row.chunks / row.seconds:>7.0f} ch/s   {row.kind}")
        if row.parts:
            lines.append(" " * 7 + ", ".join(f"{what} {share:.0%}" for what, share in row.parts.items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--chunks", type=lambda text: [int(n) for n in text.split(",")], default=[16, 64])
    parser.add_argument("--seconds", type=int, default=20, help="how long the paced workers have work")
    parser.add_argument("--ray", type=int, default=0, metavar="N", help="also N actors of a Ray cluster here")
    parser.add_argument("--ray-paced", action="store_true", help="paced workers that are actors, too")
    parser.add_argument("--by-cpu", action="store_true", help="time stands still while others have the CPU")
    parser.add_argument("--json", type=Path, default=None, help="write the JSON line into this file, too")
    options = parser.parse_args()
    paced, ceilings = [], []
    for chunk in options.chunks:
        problems = chunk * options.workers * options.seconds
        config, task = toy_config(), toy_task(problems)
        maker = Maker(config, task)

        def source(takes_s: float, maker: Maker = maker) -> PacedWorkers:
            return PacedWorkers(maker, takes_s, by_cpu=options.by_cpu)

        facts = {"workers": options.workers, "chunk": chunk}
        measured(source(0.0), config, task, **facts, takes_s=0.0)  # makes the chunks
        paced.append(measured(source(1.0), config, task, **facts, takes_s=1.0))
        if options.ray_paced:
            paced.append(through_ray(config, task, workers=options.workers, chunk=chunk, takes_s=1.0))
        ceiling = measured(source(0.0), config, task, **facts, takes_s=0.0)
        looked_at = measured(source(0.0), config, task, **facts, takes_s=0.0, look=True)
        ceilings.append(replace(ceiling, parts=looked_at.parts))
        if options.ray:
            ceilings.append(through_ray(config, task, workers=options.ray, chunk=chunk, takes_s=0.0))
    print(table(paced, ceilings))
    about: dict[str, Any] = {"benchmark": "driver", "processor": processor(), "load": os.getloadavg()[0], **versions()}
    about["by_cpu"] = options.by_cpu
    about |= {"paced": [asdict(row) for row in paced], "ceilings": [asdict(row) for row in ceilings]}
    print(line := json.dumps(about))
    if options.json:
        options.json.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Worker processes of one machine: killed, frozen or left alone, the run folder is that of a run without them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import held_runs
from builders import LEAST, PATIENCE_S
from selftaught.commands.chunk_worker import ChunkMaker
from selftaught.commands.run import FromPython, launch
from selftaught.commands.run_workers import sampling_processes
from selftaught.config.loading import config_from_values, load_config
from selftaught.config.resolving import Resolved
from selftaught.engines.scripted import ScriptedEngine
from selftaught.engines.server.process import alive_in_group
from selftaught.records.errors import ConfigError, EngineError, Interrupted, RefusedError, WorkerDied
from selftaught.records.events import Event, Note, SampleMade
from selftaught.records.samples import ModelRef
from selftaught.runs.parts import Parts
from selftaught.runs.reading import read_run_json
from selftaught.stages.workers.processes import LocalProcesses, device_groups
from selftaught.stages.workers.protocol import Lost, Ready, Refused, WorkerEvent, failure
from selftaught.tracking.listeners import Recorder
from toy import folder_bytes
from vllm_servers import group_in, server_in
from worker_functions import serve_script

SETTINGS: dict[str, Any] = {
    "task.problems_per_iteration": 80,
    "task.dev_problems": 12,
    "task.test_problems": 12,
    "sampling.max_new_tokens": 32,
    "training.name": "none",
    "training.num_rehearsed": 4,
    "training.batch_size": 4,
    "loop.max_iterations": 1,
    "compute.threads": 1,
    "compute.workers": 1,
    "compute.chunk_completions": 4,
    "engine.slots": 4,
    "engine.cache_mib": 64,
    "engine.compiled": "off",
    "cluster.max_losses": 50,
}
IDLE_S = 1.0
"""A worker that has used no CPU time for so long has nothing to do."""
FILES = ("problems.jsonl", "prompts.jsonl", "samples", "examples", "left_out", "result.json")


def config_with(**changes: Any) -> Any:
    return load_config("arithmetic", {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}})


def test_two_processes_sample_what_one_does(tmp_path: Path) -> None:
    """Both runs are stopped when the base model is measured, because every new model means new processes."""
    for name, workers in (("one", 0), ("two", 2)):
        heard = Recorder()
        with pytest.raises(Interrupted):
            launch(
                config_with(cluster__workers=workers, task__dev_problems=8),
                tmp_path / name,
                listeners=[heard],
                should_stop=partial(is_measured, tmp_path / name),
            )
        assert any("2 worker processes sample, on the CPUs" in n for n in notes_of(heard.events)) == bool(workers)
    assert dev_of(tmp_path / "one").read_bytes() == dev_of(tmp_path / "two").read_bytes()
    assert children() == []
    about = read_run_json(tmp_path / "two")
    assert about["platform"] == ChunkMaker(tmp_path / "two").platform()
    assert "platform" not in read_run_json(tmp_path / "one")

    changed = {**about, "platform": "a better machine"}
    (tmp_path / "two" / "run.json").write_text(json.dumps(changed), encoding="utf-8")
    config = config_with(cluster__workers=1, task__dev_problems=8)
    with pytest.raises(WorkerDied, match="the run's first one: that had a better machine, the last one here has CPU"):
        launch(config, tmp_path / "two")
    assert read_run_json(tmp_path / "two")["platform"] == "a better machine"


def test_a_run_that_took_any_machine_once_says_so_for_good(tmp_path: Path) -> None:
    for any_machine in (False, True, False):
        changed = config_with(cluster__any_machine=any_machine, cluster__max_losses=7 + any_machine)
        with pytest.raises(Interrupted):
            launch(changed, tmp_path, should_stop=lambda: True)
        config = read_run_json(tmp_path)["config"]
        assert config["cluster.max_losses"] == 7 + any_machine
    assert config["cluster.any_machine"] is True


def is_measured(run_dir: Path, number: int = 8) -> bool:
    return dev_of(run_dir).exists() and dev_of(run_dir).read_bytes().count(b"\n") == number


def dev_of(run_dir: Path) -> Path:
    """The file of the base model's samples on dev."""
    return run_dir / "samples" / "000-dev.jsonl"


def notes_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def children(parent: int | None = None) -> list[int]:
    """The worker processes of a process, by id."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            of = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            is_worker = b"selftaught.machine.workers" in (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if of == (parent or os.getpid()) and is_worker:
            found.append(int(folder.name))
    return found


def started(run_dir: Path, *places: str, **changes: Any) -> "subprocess.Popen[str]":
    """A run with two workers that stops at the files of these stages (`held_runs`)."""
    values = {**SETTINGS, "cluster.workers": 2, **{key.replace("__", "."): value for key, value in changes.items()}}
    overrides = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    arguments = [sys.executable, "-m", "selftaught", "run", "arithmetic", "--run-dir", str(run_dir), *overrides]
    return held_runs.started(arguments, *(run_dir / "samples" / f"{place}.jsonl" for place in places))


@contextmanager
def paused(process: "subprocess.Popen[str]") -> Iterator[list[int]]:
    """Wait until the run's own process has stopped itself at its next stage, which has a chunk on disk and cannot end;
    yields its workers, which go on.

    The caller's block does to them what it does, and then the run's process goes on.
    """
    held_runs.held(process)
    try:
        yield children(process.pid)
    finally:
        held_runs.go_on(process)


def freeze_one(workers: list[int]) -> int:
    """Freeze a worker of a paused run once all have loaded and made what they had: the next chunks go to it too."""
    deadline = time.monotonic() + PATIENCE_S
    used, since = None, time.monotonic()
    while time.monotonic() - since < IDLE_S:
        assert time.monotonic() < deadline
        now = [Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[11:13] for worker in workers]
        # One that waits for a CPU or for a disk uses no CPU time, either, and has something to do.
        if now != used or not all(map(waits_for_an_event, workers)):
            used, since = now, time.monotonic()
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGSTOP)
    return workers[0]


def waits_for_an_event(worker: int) -> bool:
    return all(held_runs.state_of(thread) == "S" for thread in Path(f"/proc/{worker}/task").iterdir())


def finish(process: "subprocess.Popen[str]") -> str:
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run without workers."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(started(run_dir, cluster__workers=0))
    return folder_bytes(run_dir, *FILES)


@pytest.mark.slow
def test_a_run_whose_workers_are_killed_ends_with_the_same_bytes(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    stages = ("000-dev", "001-rationale", "001-rationalization")
    process = started(tmp_path, *stages)
    for _ in stages:
        with paused(process) as workers:
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
    assert "was killed by signal 9" in " ".join(finish(process).split())
    assert folder_bytes(tmp_path, *FILES) == undisturbed


@pytest.mark.slow
def test_a_run_that_is_killed_takes_its_workers_with_it_and_keeps_what_they_finished(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    for stage in ("000-dev", "001-rationale"):
        process = started(tmp_path, stage)
        with paused(process) as workers:
            process.kill()
        process.communicate()
        wait_for_end(workers)
    process = started(tmp_path, "001-rationalization")
    with paused(process) as workers:
        frozen = freeze_one(workers)
    wait_for_parts(tmp_path / "samples" / "001-rationalization.parts", process)
    process.kill()
    os.kill(frozen, signal.SIGCONT)
    process.communicate()
    wait_for_end(workers)
    assert list(tmp_path.glob("samples/001-rationalization.parts/*.jsonl")), "finished, and a chunk before them is not"
    finish(started(tmp_path))
    assert folder_bytes(tmp_path, *FILES) == undisturbed
    assert not list(tmp_path.rglob("*.parts"))


def wait_for_parts(folder: Path, process: "subprocess.Popen[str]") -> None:
    """They stay as long as a worker that has an earlier chunk is frozen."""
    deadline = time.monotonic() + PATIENCE_S
    while not (folder.exists() and list(folder.glob("*.jsonl"))):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_end(workers: list[int]) -> None:
    assert workers
    deadline = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_what_a_frozen_worker_had_is_made_by_another_and_it_is_ended(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    process = started(tmp_path, "001-rationale", cluster__chunk_timeout=5)
    with paused(process) as workers:
        frozen = freeze_one(workers)
    said = " ".join(finish(process).split())
    assert "longer than cluster.chunk_timeout" in said
    wait_for_end([frozen])
    assert folder_bytes(tmp_path, *FILES) == undisturbed


class KillsServers:
    """A listener that kills the servers of all workers when the first chunk has come, and not what they started."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir, self.killed = run_dir, list[str]()

    def tell(self, event: Event) -> None:
        if isinstance(event, SampleMade) and not self.killed:
            for worker, log in logs_in(self._run_dir).items():
                os.kill(server_in(log), signal.SIGKILL)
                self.killed.append(worker)

    def close(self) -> None:
        """Nothing is open."""


def logs_in(run_dir: Path) -> dict[str, Path]:
    """The log of every worker's server."""
    logs = {log.parent.name: log for log in run_dir.glob("logs/worker-*/vllm-000.log")}
    return {worker: log for worker, log in logs.items() if "group" in log.read_text(encoding="utf-8")}


@pytest.mark.slow
def test_workers_whose_vllm_servers_are_killed_are_replaced_by_others_with_servers_of_their_own(
    fake_python: str, tmp_path: Path
) -> None:
    engine = {"engine.name": "vllm", "engine.vllm_python": fake_python, "engine.vllm_args": "--fake slow"}
    values = {**{key: value for key, value in SETTINGS.items() if not key.startswith("engine.")}, **engine}
    heard, killer = Recorder(), KillsServers(tmp_path / "two")
    for name, workers in (("one", 0), ("two", 2)):
        with pytest.raises(Interrupted):
            launch(
                load_config("arithmetic", {**values, "task.dev_problems": 24, "cluster.workers": workers}),
                tmp_path / name,
                listeners=[heard, killer] if workers else [],
                should_stop=partial(is_measured, tmp_path / name, 24),
            )
    assert dev_of(tmp_path / "one").read_bytes() == dev_of(tmp_path / "two").read_bytes()
    lost = [note.split()[1] for note in notes_of(heard.events) if " was lost (" in note]
    assert sorted(lost) == sorted(killer.killed) != []
    logs = logs_in(tmp_path / "two")
    assert logs.keys() > set(lost), "the last chunks were made by the server of another worker"
    assert [alive_in_group(group_in(log)) for log in logs.values()] == [[]] * len(logs)


# Processes by themselves, with a function in place of an engine.


@pytest.fixture
def source(tmp_path: Path) -> Iterator[LocalProcesses]:
    made = LocalProcesses(serve_script, tmp_path, gpus=["0", "3,4"])
    yield made
    made.close()


def events_of(source: LocalProcesses, number: int) -> list[WorkerEvent]:
    events: list[WorkerEvent] = []
    while len(events) < number:
        events += source.wait(PATIENCE_S)
    return events


def test_every_process_sees_its_own_gpus_and_a_replacement_those_of_the_lost_one(source: LocalProcesses) -> None:
    names = [source.start(ModelRef(path="m")) for _ in range(2)]
    ready = {e.worker: e.platform for e in events_of(source, 2) if isinstance(e, Ready)}
    assert [ready[name] for name in names] == ["0", "3,4"]
    source.kill(names[0])
    source.start(ModelRef(path="m"))
    (again,) = events_of(source, 1)
    assert isinstance(again, Ready)
    assert again.platform == "0"
    source.close()
    assert children() == []


def test_gpus_that_are_avoided_are_given_to_no_process_any_more(source: LocalProcesses) -> None:
    names = [source.start(ModelRef(path="m")) for _ in range(2)]
    events_of(source, 2)
    source.kill(names[0])
    assert not source.avoid(names[0])
    source.close()
    source.start(ModelRef(path="m"))
    (ready,) = events_of(source, 1)
    assert isinstance(ready, Ready)
    assert ready.platform == "3,4"


def test_a_mistake_in_a_worker_is_told_with_its_type_and_traceback() -> None:
    try:
        {}["carry"]
    except KeyError as error:
        lost = failure("w", error)
    assert isinstance(lost, Lost)
    assert lost.why == "KeyError: 'carry'"
    assert "in test_a_mistake_in_a_worker_is_told" in lost.traceback
    assert failure("w", EngineError("it died")) == Lost(worker="w", why="it died")
    assert failure("w", ValueError()).why == "ValueError"  # type: ignore[union-attr]
    assert isinstance(failure("w", ConfigError("a setting")), Refused)


def test_a_worker_that_is_refused_fails_or_dies_says_why(source: LocalProcesses) -> None:
    source.start(ModelRef(path="refused"))
    (refused,) = events_of(source, 1)
    assert isinstance(refused, Refused)
    assert str(refused.error) == "no such data"
    for path, why in (("broken", "a device failed"), ("dies", "it ended with exit code 3")):
        source.start(ModelRef(path=path))
        (lost,) = events_of(source, 1)
        assert isinstance(lost, Lost)
        assert why in lost.why


def test_a_frozen_worker_makes_neither_send_nor_close_wait(source: LocalProcesses) -> None:
    name = source.start(ModelRef(path="m"))
    events_of(source, 1)
    (pid,) = children()
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(3):
        source.send(name, "x" * (1 << 20))  # type: ignore[arg-type]
    assert source.wait(0.01) == []
    source.close()
    assert time.monotonic() - began < 30
    assert children() == []


@pytest.mark.parametrize(
    ("gpus", "each", "groups"),
    [
        ("0123", 1.0, ["0", "1", "2", "3"]),
        ("0123", 2.0, ["0,1", "2,3"]),
        ("012", 2.0, ["0,1"]),
        ("01", 0.5, ["0", "0", "1", "1"]),
        ("", 1.0, []),
    ],
)
def test_gpus_are_shared_out_among_workers(gpus: str, each: float, groups: list[str]) -> None:
    assert device_groups(list(gpus), each) == groups


# What a run takes, by its config and its GPUs.


def resolved_on(device: str) -> Any:
    return Resolved.model_construct(device=device)


def test_a_machine_with_several_gpus_has_a_worker_for_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("selftaught.commands.run_workers.visible_gpus", lambda: ["4", "5", "6"])

    def number(device: str = "cuda", *, from_python: tuple[str, ...] = (), **changes: Any) -> int:
        config = config_with(**changes)
        return sampling_processes(config, resolved_on(device), tmp_path, from_python=from_python).number

    assert number() == 3
    assert number(cluster__workers=0) == 0
    assert number(cluster__workers=2) == 2
    assert number(cluster__gpus_per_worker=2) == 0  # one worker would be no gain
    assert number("cpu") == 0
    assert number("cpu", cluster__workers=4) == 4
    assert number(from_python=("engine",)) == 0
    with pytest.raises(ConfigError, match=r"cluster.workers = 4, but 3 GPUs are visible, enough for 3"):
        number(cluster__workers=4)
    with pytest.raises(RefusedError, match="its own task from a Python program, which workers cannot have"):
        number(cluster__workers=2, from_python=("task", "method"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"compute.workers": 2, "training.batch_size": 2}, "leave the workers out, or --set compute.workers=1"),
        ({"engine.name": "openai", "engine.url": "http://127.0.0.1:1"}, "asks a server that you start"),
    ],
)
def test_workers_beside_what_excludes_them_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config_from_values({**LEAST, "method": "custom", "cluster.workers": 2, **changes})


def test_a_run_with_an_engine_of_a_program_has_no_worker_that_could_make_its_chunks(tmp_path: Path) -> None:
    given = FromPython(engine=lambda model: ScriptedEngine(lambda prompt, seed: "5"))
    with pytest.raises(Interrupted):
        launch(config_with(), tmp_path, given=given, should_stop=lambda: True)
    with pytest.raises(RefusedError, match="its own engine from a Python program"):
        ChunkMaker(tmp_path)
    assert Parts(tmp_path / "samples" / "000-dev.jsonl").read(0) is None

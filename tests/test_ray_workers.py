"""Workers in a Ray cluster: they are found, lost, ended and replaced; what cannot work there is refused in a line."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

if find_spec("ray") is None:
    pytest.skip("Ray is not installed (selftaught[cluster])", allow_module_level=True)

import ray

from builders import PATIENCE_S, checkpoint, config, output_of
from ray_nodes import Nodes, cluster_of
from selftaught.commands.cluster import in_its_cluster
from selftaught.commands.doctor_cluster import cluster_part
from selftaught.commands.run import launch
from selftaught.config.loading import load_config
from selftaught.engines.server.process import alive_in_group
from selftaught.machine import ray_cluster
from selftaught.machine.cluster import ClusterConfig, Needs
from selftaught.machine.devices import Machine
from selftaught.machine.ray_actors import end_leftovers
from selftaught.machine.ray_cluster import (
    Node,
    joined,
    look,
    nonce_in,
    reachable,
    refusals,
    refuse_too_few,
    unused_gpus,
)
from selftaught.records.errors import ConfigError, Interrupted, RefusedError, StoreError
from selftaught.records.samples import ModelRef, PlannedSample
from selftaught.stages.workers.protocol import (
    ChunkJob,
    FinishedChunk,
    Lost,
    Made,
    Ready,
    Refused,
    Told,
    Waits,
    WorkerEvent,
)
from selftaught.stages.workers.ray_workers import RayWorkers, _actor_class, _remaining
from selftaught.training import ray_ranks
from test_cli import selftaught
from test_cli import settings as in_settings
from vllm_servers import group_in

ONE_CPU = Needs(cpus=1, gpus=0)


def line_of(call: Callable[[], object], error: type[Exception] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        call()
    (line,) = str(caught.value).splitlines()
    return line


def node(name: str = "a", cpus: float = 8, gpus: float = 0, **fields: Any) -> Node:
    values: dict[str, Any] = {
        "id": name,
        "versions": {"selftaught": ray_cluster.__version__},
        "gpu_names": (),
        "sees_folder": True,
        **fields,
    }
    return Node(name=name, cpus=cpus, gpus=gpus, **values)


def test_a_cluster_that_is_not_there_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    line = line_of(lambda: reachable(address))
    assert line.startswith(f"cluster.address = '{address}': the Ray cluster cannot be joined from here ([Errno")
    assert "ray start --head" in line


@pytest.mark.parametrize("address", ["node-a", "node-a:", "node-a:http", ":6379", "ray://node-a:10001"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    assert "expected `auto` or HOST:PORT" in line_of(lambda: reachable(address))


def test_a_server_that_is_no_cluster_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "JOIN_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        line = line_of(lambda: reachable(f"127.0.0.1:{other.getsockname()[1]}"))
    assert "no answer in 1 s" in line


NO_TOKEN = (
    "gcs_client.cc:210: Failed to get cluster ID: Unauthenticated: InvalidAuthToken: Authentication token is missing"
)
NO_FILE = "AuthenticationError: RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty: /home/me/token"


@pytest.mark.parametrize(
    "script",
    [
        f"import sys; print({NO_TOKEN!r}, file=sys.stderr); print('ConnectionError: no'); sys.exit(1)",
        f"import sys; print({NO_FILE!r}); sys.exit(1)",
        f"import sys, time; print({NO_TOKEN!r}, file=sys.stderr, flush=True); time.sleep(60)",
    ],
)
def test_a_cluster_that_wants_another_token_is_refused_in_a_line_that_names_the_token(
    script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "JOIN_S", 1.0)
    monkeypatch.setattr(ray_cluster, "module_command", lambda *_: [sys.executable, "-S", "-c", script])
    line = line_of(lambda: reachable("auto"))
    assert "the Ray cluster wants a token, and this process has none or another one; set RAY_AUTH_MODE=token" in line


WITH_A_TOKEN = """
import os
from ray_nodes import cluster_of
from selftaught.machine.ray_cluster import reachable
from selftaught.records.errors import ConfigError

with cluster_of() as cluster:
    reachable(cluster.address)
    for token in ("", "b" * 64):
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token" if token else "disabled", token
        try:
            reachable(cluster.address)
        except ConfigError as error:
            print(error)
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", "a" * 64
"""


@pytest.mark.slow
def test_a_cluster_with_a_token_takes_those_who_have_it() -> None:
    """In a process of its own, because Ray reads the token once."""
    said = output_of(WITH_A_TOKEN, env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}).splitlines()
    assert len(said) == 2
    assert all("the Ray cluster wants a token, and this process has none or another one" in line for line in said)


@pytest.mark.slow  # it imports what a run does
def test_a_run_on_a_cluster_that_is_not_there_writes_nothing_and_the_doctor_says_so_too(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        config = load_config("arithmetic", [f"cluster.address={address}", "compute.workers=1"])
        line = line_of(lambda: launch(config, tmp_path / "new"))
        assert line.startswith(f"cluster.address = '{address}': the Ray cluster cannot be joined from here")
        assert not (tmp_path / "new").exists()
        assert cluster_part(config.cluster, None, tmp_path).refusals == (line,)


def test_a_cluster_without_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selftaught.machine.cluster.find_spec", lambda name: None)
    ClusterConfig().check()
    assert "pip install 'selftaught[cluster]'" in line_of(ClusterConfig(address="auto").check)


def test_above_one_a_worker_has_whole_gpus() -> None:
    for address in (None, "auto"):
        assert "cluster.gpus_per_worker = 1.5" in line_of(ClusterConfig(address=address, gpus_per_worker=1.5).check)
        ClusterConfig(address=address, gpus_per_worker=0.5).check()


def test_a_worker_needs_its_gpus_or_the_threads_of_the_run() -> None:
    settings = ClusterConfig(gpus_per_worker=2.0)
    assert str(settings.needs(Machine(device="cuda", dtype="bfloat16", threads=8))) == "1 CPU and 2 GPUs"
    assert str(settings.needs(Machine(device="cpu", dtype="float32", threads=4))) == "4 CPUs"


def test_too_few_gpus_are_refused_with_what_there_is() -> None:
    nodes = [node("a", gpus=2), node("b", gpus=2)]
    assert refuse_too_few(nodes, Needs(cpus=1, gpus=1), None) == 4
    assert refuse_too_few(nodes, Needs(cpus=1, gpus=0.5), None) == 8
    assert refuse_too_few(nodes, Needs(cpus=1, gpus=1), 3) == 3
    line = line_of(lambda: refuse_too_few(nodes, Needs(cpus=1, gpus=1), 5))
    assert "has room for 4, not for 5 workers with 1 CPU and 1 GPU each" in line
    assert "a has 8 CPUs and 2 GPUs, b has 8 CPUs and 2 GPUs" in line
    line = line_of(lambda: refuse_too_few([], Needs(cpus=1, gpus=1), None))
    assert "has room for 0, not for a worker with 1 CPU and 1 GPU each: no node is alive" in line


def test_a_node_without_the_package_or_the_folder_is_refused_if_a_worker_could_go_there() -> None:
    folder = Path("/shared/runs/a")
    good, small = node("good"), node("small", cpus=0, versions={})
    assert refusals([good, small], [ONE_CPU], folder) == []
    (line,) = refusals([good, node("bare", versions={}), node("bare-2", versions={})], [ONE_CPU], folder)
    assert line.startswith("nodes bare, bare-2: selftaught is not installed")
    (line,) = refusals([good, node("old", versions={"selftaught": "0.0.1"})], [ONE_CPU], folder)
    assert line.startswith("node old: selftaught 0.0.1, and here ")
    (line,) = refusals([good, node("far", sees_folder=False)], [ONE_CPU], folder)
    assert line.startswith("node far: does not see /shared/runs/a; put the run folder on")
    (line,) = refusals([good, node("dead", versions={}, sees_folder=None, problem="no process")], [ONE_CPU], folder)
    assert line.startswith("node dead: no process; see Ray's logs there")


LOST = node("lost", sees_folder=False)
"""As a machine that has another filesystem where the run folder is here."""


@pytest.mark.parametrize(
    ("settings", "nodes", "expected"),
    [
        ({"workers": 0}, [node("head", cpus=0), LOST], "node lost: does not see "),
        ({"workers": 1}, [node("head", cpus=8), node("lost", cpus=3, sees_folder=False)], "node lost: does not see "),
        ({"workers": 0}, [node("a", cpus=3), node("b", cpus=1)], "train_workers = 2: the cluster has room for 1 with"),
        ({"workers": 1}, [node("a", gpus=1)], "train_workers = 2: the cluster has room for 1 with 1 GPU each: a has"),
        ({"workers": 0}, [node("a"), node("b", versions={})], "node b: selftaught is not installed"),
        ({"workers": 0}, [node("a"), node("b")], ""),
        ({"workers": 0, "train_workers": 1}, [LOST], ""),
    ],
)
def test_what_the_ranks_of_a_training_need_is_looked_at_before_the_start_and_by_the_doctor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, int], nodes: list[Node], expected: str
) -> None:
    monkeypatch.setattr(ray_cluster, "joined", lambda address: nullcontext())
    monkeypatch.setattr(ray_cluster, "look", lambda nonce: nodes)
    monkeypatch.setattr(ray_cluster, "unused_gpus", lambda device: "")
    monkeypatch.setattr(ray_cluster, "free_now", lambda: "nothing")
    cluster = {"address": "auto", "train_workers": 2, **settings}
    device: Any = "cuda" if nodes[0].gpus else "cpu"
    machine = Machine(device=device, dtype="float32", threads=4, ranks=2)
    resolved: Any = SimpleNamespace(machine=machine, device=device)

    def start() -> None:
        with in_its_cluster(config(cluster=cluster), resolved, tmp_path / "run", from_python=()):
            pass

    refused = cluster_part(ClusterConfig(**cluster), resolved, tmp_path / "run").refusals
    if not expected:
        start()
        assert refused == ()
        return
    line = line_of(start)
    assert expected in line
    assert any(expected in said for said in refused)
    assert not list(tmp_path.iterdir())


def test_gpus_that_a_run_on_cpus_does_not_use_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 4.0})
    assert "uses none of the cluster's 4 GPUs; begin a new run on a node with a GPU" in unused_gpus("cpu")
    assert unused_gpus("cuda") == ""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    assert unused_gpus("cpu") == ""


def test_a_training_that_waits_for_room_says_so_and_ends_when_the_run_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_ranks, "QUIET_WAIT_S", 0.0)
    monkeypatch.setattr(ray_ranks, "free_now", lambda: "1 of 2 CPUs and 0 of 0 GPUs")
    notes: list[str] = []

    def stop_if_told() -> None:
        if notes:
            raise Interrupted("stopped")

    trainer = ray_ranks.RayRankTrainer(
        lambda training: pytest.fail("it has no room"),
        2,
        Needs(cpus=1, gpus=0),
        admit=lambda platforms: None,
        note=notes.append,
        raise_if_stopped=stop_if_told,
    )
    with pytest.raises(Interrupted):
        trainer._wait_for(SimpleNamespace(wait=lambda seconds: False))
    free = "1 of 2 CPUs and 0 of 0 GPUs"
    assert notes == [f"the training waits for 1 CPU for each of 2 ranks; free in the cluster: {free}"]


def test_a_model_that_a_rank_has_saved_where_the_run_does_not_see_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"123")
    saved = ray_ranks.Saved(checkpoint(), {"model.safetensors": 3})
    ray_ranks._wait_for_files(tmp_path, saved)
    monkeypatch.setattr(ray_ranks, "APPEARS_S", 0.1)
    for sizes in ({"model.safetensors": 4000}, {"model-2.safetensors": 4000}):
        there = ray_ranks.Saved(checkpoint(), {"config.json": 9, **sizes})
        (tmp_path / "config.json").write_bytes(b"123456789")
        line = line_of(lambda there=there: ray_ranks._wait_for_files(tmp_path, there), StoreError)  # type: ignore[misc]
        assert f"rank 0 has saved {next(iter(sizes))} with 4,000 bytes, which is not there" in line


WITHOUT_THE_PACKAGE = """
import sys
sys.modules["selftaught"] = None  # any import of it fails
from ray import cloudpickle
actor = cloudpickle.load(sys.stdin.buffer)
about = {"last": ["/of/the/user"], "threads": None, "version": "9.9"}
sys.path.insert(0, "/of/the/user")
print(sys.path[0] == "/of/the/user", actor(about).problem)
print(sys.path[-1])
"""


def test_what_is_sent_to_a_node_says_that_the_package_is_not_there_and_searches_the_users_folders_last() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE],
        input=ray.cloudpickle.dumps(_actor_class()),
        stdout=subprocess.PIPE,
        check=True,
    )
    first, last = done.stdout.decode().splitlines()
    assert first.startswith("True its Python has selftaught ")
    assert "and the run 9.9; install the same version there" in first
    assert last == "/of/the/user"


# What follows starts processes for four nodes.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with cluster_of(1, 1, 1) as started:
        yield started


@pytest.fixture
def member(cluster: Nodes) -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    with joined(cluster.address):
        assert signal.getsignal(signal.SIGTERM) is handler, "SIGTERM is the run's"
        yield


@pytest.fixture
def model(tmp_path: Path) -> ModelRef:
    (tmp_path / "model").mkdir()
    return ModelRef(path=str(tmp_path / "model"))


class Run:
    """A source of workers, and what it has told."""

    def __init__(self, run_dir: Path, model: ModelRef, maker: str = "ScriptedMaker") -> None:
        self.notes: list[str] = []
        self.waiting = set[str]()
        """Workers that have said that they have no place."""
        self.source = RayWorkers(run_dir, ONE_CPU, note=self.notes.append, maker=f"scripted_maker:{maker}")
        self.model = model
        self.told: list[WorkerEvent] = []

    def until(self, is_enough: Callable[[list[WorkerEvent]], bool]) -> list[WorkerEvent]:
        """What is told until it is enough, and not told before."""
        found: list[WorkerEvent] = []
        end = time.monotonic() + PATIENCE_S
        while not is_enough(found):
            assert time.monotonic() < end, f"told only {found}"
            events = self.source.wait(1.0)
            self.waiting |= {event.worker for event in events if isinstance(event, Waits)}
            found += [event for event in events if not isinstance(event, Waits)]
        return found

    def ready(self, number: int) -> list[str]:
        workers = [self.source.start(self.model) for _ in range(number)]
        self.until(lambda told: sum(isinstance(event, Ready) for event in told) == number)
        return workers

    def send(self, worker: str, stage: str, number: int = 0) -> None:
        planned = (PlannedSample(problem_id="p1", kind="rationale", index=0),)
        job = ChunkJob(
            number=number,
            stage=stage,
            kind="rationale",
            iteration=1,
            model=self.model,
            planned=planned,
            temperature=1.0,
            num_shots=0,
        )
        self.source.send(worker, job)

    def pid(self, worker: str) -> int:
        self.send(worker, "ok")
        told = self.until(lambda told: any(isinstance(event, Made) for event in told))
        (made,) = [event.result for event in told if isinstance(event, Made)]
        assert isinstance(made, FinishedChunk)
        return int(made.lines[0].split()[1])


@pytest.fixture
def run(member: None, tmp_path: Path, model: ModelRef) -> Iterator[Run]:
    started = Run(tmp_path, model)
    with started.source:
        yield started
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("cluster")]


def is_there(pid: int) -> bool:
    """Whether a process has memory; one that has ended and whose parent has not noticed yet has none."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def lost(events: Sequence[WorkerEvent]) -> dict[str, str]:
    return {event.worker: event.why for event in events if isinstance(event, Lost)}


@pytest.mark.slow
def test_jobs_are_done_in_order_and_tokens_are_told(run: Run) -> None:
    (worker,) = run.ready(1)
    for number in range(3):
        run.send(worker, "ok", number)
    told = run.until(lambda told: sum(event.tokens for event in told if isinstance(event, Told)) == 21)
    assert [event.result.number for event in told if isinstance(event, Made)] == [0, 1, 2]


@pytest.mark.slow
def test_results_that_come_at_nearly_the_same_time_are_told_in_the_order_of_the_jobs(run: Run) -> None:
    (worker,) = run.ready(1)
    numbers: list[int] = []
    for first in range(0, 120, 4):
        for number in range(first, first + 4):
            run.send(worker, "ok", number)
        time.sleep(0.1)  # all have come before anybody looks
        while len(numbers) < first + 4:
            told = run.until(lambda told: any(isinstance(event, Made) for event in told))
            numbers += [event.result.number for event in told if isinstance(event, Made)]
    assert numbers == list(range(120))


@pytest.mark.slow
def test_workers_that_die_hang_or_fail_are_told_and_replaced(run: Run) -> None:
    killed, frozen, failing = run.ready(3)
    pids = {worker: run.pid(worker) for worker in (killed, frozen, failing)}
    run.send(killed, "hang")
    run.send(failing, "dies")
    os.kill(pids[killed], signal.SIGKILL)
    told = run.until(lambda told: len(lost(told)) == 2)
    assert lost(told)[failing] == "the engine died"
    assert lost(told)[killed].startswith("Worker unexpectedly exits")
    assert {event.node for event in told if isinstance(event, Lost)} == {socket.gethostname()}
    run.send(frozen, "hang")
    os.kill(pids[frozen], signal.SIGSTOP)
    began = time.monotonic()
    run.source.kill(frozen)
    assert time.monotonic() - began < 4.0, "a call blocks; Ray ends one that hangs after 5 s"
    others = run.ready(3)
    assert not any(map(is_there, pids.values())), "their CPUs are used again"
    run.send(others[0], "wrong")
    told = run.until(lambda told: any(isinstance(event, Refused) for event in told))
    (refused,) = [event for event in told if isinstance(event, Refused)]
    assert (type(refused.error), str(refused.error)) == (ConfigError, "a setting is wrong")


@pytest.mark.slow
def test_close_returns_when_the_processes_are_gone_and_the_source_can_start_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frozen one is not waited for as long as it might take to close its engine; its end is."""
    from selftaught.stages.workers.ray_workers import GONE_S

    wait = ray.wait

    def waiting(of: Any, *, timeout: float, **how: Any) -> Any:
        return wait(of, timeout=5.0 if timeout == GONE_S else timeout, **how)

    monkeypatch.setattr(ray, "wait", waiting)
    first, second = run.ready(2)
    pids = [run.pid(first), run.pid(second)]
    run.send(first, "hang")
    os.kill(pids[1], signal.SIGSTOP)
    run.source.close()
    assert not any(map(is_there, pids))
    assert run.ready(1)


def test_a_frozen_worker_that_ray_has_not_ended_is_killed_and_another_process_is_not() -> None:
    """The last argument is what the process is known by."""
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    ours, another = (subprocess.Popen([*sleeps, name]) for name in ("SelftaughtWorker", "SomethingElse"))
    os.kill(ours.pid, signal.SIGSTOP)
    try:
        assert _remaining()([ours.pid, another.pid], 4.0) == []
        assert ours.wait(PATIENCE_S) == -signal.SIGKILL
        assert another.poll() is None
    finally:
        for process in (ours, another):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_the_server_of_a_worker_that_is_ended_at_work_is_gone_when_close_returns(
    member: None, tmp_path: Path, model: ModelRef, fake_python: str
) -> None:
    Path(model.path, "python").symlink_to(fake_python)
    run = Run(tmp_path, model, "ServingMaker")
    with run.source:
        (worker,) = run.ready(1)
        (log,) = Path(model.path).glob("*.log")
        assert len(alive_in_group(group_in(log))) == 4
        run.send(worker, "hang")
        run.source.close()
        assert not alive_in_group(group_in(log))


@pytest.mark.slow
def test_workers_without_a_place_say_what_they_wait_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.ready(3)  # on a busy machine they wait for their places, too
    monkeypatch.setattr("selftaught.stages.workers.ray_workers.WAITS_S", 1.0)
    others = {run.source.start(run.model) for _ in range(2)}
    run.until(lambda told: "2 workers have" in "".join(run.notes))
    expected = "2 workers have no place yet, with 1 CPU for each; free in the cluster: 0 of 3 CPUs and 0 of 0 GPUs"
    assert expected in run.notes
    assert run.waiting >= others


@pytest.mark.slow
def test_no_worker_starts_on_a_node_that_is_avoided(run: Run) -> None:
    first, second, third = run.ready(3)
    nodes = {worker: run.source._actors[worker].node_id for worker in (first, second, third)}
    run.source.kill(first)
    assert not run.source.avoid(first), "the two others have the other two nodes"
    run.source.kill(second)
    (again,) = run.ready(1)
    assert run.source._actors[again].node_id == nodes[second]
    run.source.kill(third)
    assert run.source.avoid(again), "that of the third"
    (last,) = run.ready(1)
    assert run.source._actors[last].node_id == nodes[third]


@pytest.mark.slow
def test_a_model_that_cannot_be_read_is_refused_by_the_first_worker(run: Run, tmp_path: Path) -> None:
    (tmp_path / "unreadable").mkdir()
    run.source.start(ModelRef(path=str(tmp_path / "unreadable")))
    (event,) = run.until(lambda told: len(told) > 0)
    assert isinstance(event, Refused)
    assert str(event.error).endswith("unreadable cannot be read")


@pytest.mark.slow
def test_a_node_with_another_version_is_refused_by_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selftaught.stages.workers.ray_workers.__version__", "9.9")
    run.source.start(run.model)
    (event,) = run.until(lambda told: len(told) > 0)
    assert isinstance(event, Refused)
    assert isinstance(event.error, RefusedError)
    assert event.node == socket.gethostname()
    assert str(event.error).startswith("its Python has selftaught")
    assert "and the run 9.9; install the same version" in str(event.error)


@pytest.mark.slow
def test_nodes_say_what_they_have_and_whether_they_see_the_folder(member: None, tmp_path: Path) -> None:
    with nonce_in(tmp_path / "runs" / "new") as nonce:
        nodes = look(nonce=nonce)
        assert [node.cpus for node in nodes].count(1.0) == 3
        assert refusals(nodes, [ONE_CPU], tmp_path) == []
        assert refuse_too_few(nodes, ONE_CPU, None) == 3
        assert all(node.versions["selftaught"] == ray_cluster.__version__ for node in nodes)
    assert list(tmp_path.iterdir()) == []
    (line,) = refusals(look(nonce=(nonce[0], nonce[1])), [ONE_CPU], tmp_path)
    assert "does not see" in line


@pytest.mark.slow
def test_the_doctor_shows_the_nodes_and_what_a_run_would_find_there(cluster: Nodes, tmp_path: Path) -> None:
    settings = {"cluster.address": cluster.address, "compute.threads": 1, "compute.workers": 1}
    settings |= {"cluster.train_workers": 2}
    elsewhere = tmp_path / "shared"
    elsewhere.mkdir()
    run_dir = ("--run-dir", str(elsewhere / "run"))
    done = selftaught("doctor", "arithmetic", "--problems", "0", *run_dir, *in_settings(settings), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    node = f"node {socket.gethostname()}: 1 CPU and 0 GPUs; selftaught {ray_cluster.__version__}, python "
    assert said.count(node) == 3
    assert said.count(f"; sees {elsewhere}") == 4
    assert "free now: 3 of 3 CPUs and 0 of 0 GPUs" in said
    assert "workers: 3 with 1 CPU each" in said
    assert "train workers: 2 with 1 CPU each" in said


DRIVER = """
import sys, time
from pathlib import Path
from selftaught.machine.cluster import Needs
from selftaught.machine.ray_cluster import joined
from selftaught.records.samples import ModelRef
from selftaught.stages.workers.protocol import Ready
from selftaught.stages.workers.ray_workers import RayWorkers

with joined(sys.argv[1]):
    source = RayWorkers(Path(sys.argv[2]), Needs(cpus=1, gpus=0), maker="scripted_maker:ScriptedMaker")
    workers = [source.start(ModelRef(path=sys.argv[2])) for _ in range(2)]
    ready = 0
    while ready < 2:
        ready += sum(isinstance(event, Ready) for event in source.wait(1.0))
    print(*(source._actors[worker].pid for worker in workers), flush=True)
    time.sleep(10_000)
"""


@pytest.mark.slow
def test_nothing_stays_of_a_driver_that_was_killed(cluster: Nodes, tmp_path: Path, model: ModelRef) -> None:
    command = [sys.executable, "-c", DRIVER, cluster.address, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        os.kill(pids[1], signal.SIGSTOP)
        driver.kill()
    with joined(cluster.address):
        started = Run(tmp_path, model)
        with started.source:
            started.ready(3)
            assert not any(map(is_there, pids))
        assert end_leftovers(tmp_path) == 0

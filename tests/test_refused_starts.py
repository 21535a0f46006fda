"""A run that is refused before it has sampled anything leaves nothing behind, and the corrected command works."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import BinaryIO

import pytest

from builders import LEAST
from selftaught.commands.run import launch
from selftaught.config.loading import config_from_values
from selftaught.config.settings import RunConfig
from selftaught.records.errors import EngineError, Interrupted, SelftaughtError
from selftaught.runs.store import RunStore
from selftaught.tracking.listeners import Recorder
from test_cli import QUICK, in_a_process, refused, selftaught, settings
from test_model_folder import set_in_config


def config_with(model: Path, **values: object) -> RunConfig:
    return config_from_values({**LEAST, **QUICK, "model.path": str(model), **values})


def begins(config: RunConfig, run_dir: Path) -> None:
    """The run samples something, and is stopped there."""
    with pytest.raises(Interrupted):
        launch(config, run_dir, should_stop=lambda: True)
    assert json.loads((run_dir / "run.json").read_text())["config"]["seed"] == config.seed


def a_token_without_a_row(model: Path) -> None:
    path = model / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["zz"] = 400
    path.write_text(json.dumps(values))


def no_end_token(model: Path) -> None:
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    (model / "generation_config.json").unlink()  # it names one, too


MODELS: dict[str, Callable[[Path], object]] = {
    "a model with another number of layers": set_in_config(num_hidden_layers=5),
    "a model whose numbers make none": set_in_config(pad_token_id=99),
    "a model of no known type": set_in_config(model_type="no-such-type"),
    "a model that does not continue text": set_in_config(model_type="t5", architectures=["T5ForConditionalGeneration"]),
    "weights that are cut off": lambda model: (model / "model.safetensors").write_bytes(b"cut"),
    "a token without a row": a_token_without_a_row,
    "no end token": no_end_token,
    "a quantised model": set_in_config(quantization_config={"quant_method": "fp8"}),
    "no tokenizer": lambda model: [path.unlink() for path in model.glob("tokenizer*")],
}
QUICKLY_REFUSED = ("a model with another number of layers", "a token without a row", "no tokenizer")
SETTINGS: dict[str, dict[str, object]] = {
    "a device that is not there": {"compute.device": "cuda"},
    "a server that does not answer": {
        "engine.name": "openai", "engine.url": "http://127.0.0.1:1", "engine.max_retries": 0,
    },
    "prompts beyond the context": {"sampling.max_new_tokens": 100_000},
}  # fmt: skip


@pytest.fixture
def model(adder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adder, tmp_path / "model"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICKLY_REFUSED else pytest.mark.slow) for name in MODELS]
)
def test_a_refused_model_leaves_no_folder_and_prints_nothing_but_the_error(
    name: str, model: Path, adder: Path, tmp_path: Path
) -> None:
    MODELS[name](model)
    run_dir, notes = tmp_path / "runs" / "r", Recorder()
    with pytest.raises(SelftaughtError) as caught:
        launch(config_with(model), run_dir, listeners=[notes])
    assert "\n" not in str(caught.value)
    assert not run_dir.parent.exists()
    assert notes.events == []
    begins(config_with(adder), run_dir)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_refused_setting_leaves_no_folder(name: str, adder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "r"
    with pytest.raises(SelftaughtError):
        launch(config_with(adder, **SETTINGS[name]), run_dir)
    assert not run_dir.parent.exists()


def test_what_stood_in_the_folder_stays_when_the_run_is_refused(adder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "r"
    (run_dir / "logs").mkdir(parents=True)
    mine = [run_dir / "notes.txt", run_dir / "logs" / "attempt-001.log", run_dir / "lock"]
    for path in mine:
        path.write_text("mine")
    for name in ("problems.jsonl", "prompts.jsonl"):
        (run_dir / name).write_text("mine")
        with pytest.raises(SelftaughtError, match=rf"{name}"):
            launch(config_with(adder), run_dir)
        assert (run_dir / name).read_text() == "mine"
        (run_dir / name).unlink()
    with pytest.raises(SelftaughtError):
        launch(config_with(adder, **SETTINGS["prompts beyond the context"]), run_dir)
    assert sorted(path for path in run_dir.rglob("*") if path.is_file()) == sorted(mine)
    assert all(path.read_text() == "mine" for path in mine)
    begins(config_with(adder), run_dir)


def test_a_run_that_fails_after_it_has_sampled_keeps_its_folder(
    adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins(config_with(adder), tmp_path / "r")
    before = {path: path.read_bytes() for path in (tmp_path / "r" / "samples").iterdir()}
    assert before

    def fail(*_: object, **__: object) -> None:
        raise EngineError("no more")

    monkeypatch.setattr("selftaught.commands.run.run", fail)
    for _ in range(2):
        with pytest.raises(EngineError, match="no more"):
            launch(config_with(adder), tmp_path / "r")
    assert {path: path.read_bytes() for path in (tmp_path / "r" / "samples").iterdir()} == before
    with pytest.raises(SelftaughtError, match="was started with seed = "):
        launch(config_with(adder, seed=7), tmp_path / "r")


def test_a_new_run_that_fails_after_it_has_sampled_keeps_its_folder(
    adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(setup: object) -> None:
        (tmp_path / "r" / "samples" / "000-dev.jsonl").write_text("{}\n")
        raise EngineError("no more")

    monkeypatch.setattr("selftaught.commands.run.run", fail)
    with pytest.raises(EngineError):
        launch(config_with(adder), tmp_path / "r")
    assert (tmp_path / "r" / "run.json").exists()
    assert (tmp_path / "r" / "lock").exists()


def test_a_log_that_the_error_names_stays(adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(setup: object) -> None:
        (tmp_path / "r" / "logs" / "vllm-000.log").write_text("why")
        raise EngineError("see the log")

    monkeypatch.setattr("selftaught.commands.run.run", fail)
    with pytest.raises(EngineError):
        launch(config_with(adder), tmp_path / "r")
    assert [path.name for path in (tmp_path / "r").rglob("*") if path.is_file()] == ["vllm-000.log"]


def test_a_lock_file_that_a_withdrawn_run_deletes_meanwhile_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, lock = tmp_path / "r", fcntl.flock
    with RunStore(run_dir) as first:

        def late(file: BinaryIO, how: int) -> None:
            """The second process has opened the file, and locks it only now."""
            if run_dir.exists() and os.path.samestat(os.stat(file.name), os.fstat(file.fileno())):
                monkeypatch.setattr("fcntl.flock", lock)
                first.write_json("run.json", {})
                first.withdraw()
                first.__exit__()
                assert not (run_dir / "lock").exists()
            lock(file, how)

        monkeypatch.setattr("fcntl.flock", late)
        with RunStore(run_dir), pytest.raises(SelftaughtError, match="another selftaught process"):
            RunStore(run_dir).__enter__()
        assert (run_dir / "samples").is_dir()


@pytest.mark.parametrize(
    ("name", "target", "start"),
    [
        ("a model with another number of layers", "r", selftaught),
        *(
            pytest.param(name, target, in_a_process, marks=pytest.mark.slow)
            for name, target in (
                ("a model with another number of layers", "r"),
                ("a quantised model", "r"),
                ("a token without a row", "r"),
                ("no tokenizer", "r"),
                ("nothing", "file/r"),
                ("nothing", "link"),
            )
        ),
    ],
)
def test_a_refused_start_is_one_line_on_the_terminal(
    name: str, target: str, start: Callable[..., CompletedProcess[str]], model: Path, tmp_path: Path
) -> None:
    MODELS.get(name, lambda model: None)(model)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("gone")
    values = {**QUICK, "model.path": model}
    done = start("run", "arithmetic", "--run-dir", target, *settings(values), cwd=tmp_path)
    assert done.stderr.splitlines() == [refused(done)]
    assert not (tmp_path / "r").exists()

"""Paths as people give them: homes, empty texts, and links that lead nowhere."""

import os
from pathlib import Path

import pytest

from builders import config
from selftaught.commands.run import with_absolute_paths
from selftaught.config.loading import load_config, with_homes
from selftaught.machine.paths import (
    given_name,
    given_path,
    link_to_nothing,
    with_home,
)
from selftaught.records.errors import ConfigError, StoreError
from selftaught.runs.reading import read_run_json
from selftaught.runs.store import RunStore
from selftaught.tasks import load_task
from selftaught.tasks.own.settings import OwnConfig
from test_cli import refused, selftaught


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_tilde_is_a_home(home: Path) -> None:
    assert with_home("~", "x") == str(home)
    assert with_home("~/a b/~c", "x") == f"{home}/a b/~c"
    assert with_home("~root/x", "x") == os.path.expanduser("~root/x")


@pytest.mark.parametrize(
    "text", ["a/b", "./~/x", "/x/~y", "builtin:adder", "own~er/na~me", "a~", "x/~", "owner/name", ""]
)
def test_only_a_tilde_at_the_beginning_is_a_home(home: Path, text: str) -> None:
    assert with_home(text, "x") == text


def test_the_home_of_an_unknown_user_is_refused_and_a_file_of_that_name_is_a_file(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"\Atask\.data = '~nobody-of-this-name/x': no home is known for .*\./~nob"):
        with_home("~nobody-of-this-name/x", "task.data")
    Path("~nobody-of-this-name").mkdir()
    assert with_home("~nobody-of-this-name/x", "x") == "~nobody-of-this-name/x"
    Path("~$draft.csv").write_text("")
    assert with_home("~$draft.csv", "x") == "~$draft.csv"


def test_every_path_of_a_config_may_begin_with_a_tilde(home: Path) -> None:
    keys = ["model.path", "task.data", "task.dev_data", "task.test_data", "task.prompt_file"]
    given = [*(f"{key}=~/x" for key in keys), "task.verifier_function=~/checks.py:f"]
    loaded = load_config("arithmetic", ["task.name=own", "task.verifier=python", *given])
    assert isinstance(loaded.task, OwnConfig)
    assert loaded.model.path == f"{home}/x"
    assert {getattr(loaded.task, key) for key in ("data", "dev_data", "test_data", "prompt_file")} == {f"{home}/x"}
    assert loaded.task.verifier_function == f"{home}/checks.py:f"
    assert with_homes(loaded) == loaded


def test_a_config_without_a_tilde_is_the_same_config(home: Path) -> None:
    own = {"name": "own", "data": "rows.jsonl", "verifier": "python", "verifier_function": "checks:f"}
    plain = config(model={"path": "owner/name"}, task=own)
    assert with_homes(plain) == plain
    assert with_absolute_paths(config(model={"path": "~"})).model.path == str(home)


@pytest.mark.parametrize("text", ["", " ", "\t", "\n", "  \n "])
def test_an_empty_path_is_refused(text: str) -> None:
    for give in (given_path, given_name):
        with pytest.raises(ConfigError, match=r"--run-dir is .*give one"):
            give(text, "--run-dir")


EMPTY = [
    ["run", "arithmetic", "--run-dir", "{}"],
    ["run", "--resume", "{}"],
    ["run", "{}"],
    ["eval", "{}"],
    ["show", "{}"],
    ["regrade", "{}"],
    ["report", "{}"],
    ["report", ".", "--out-dir", "{}"],
    ["tasks", "check", "{}"],
    ["init", "{}"],
    ["init", "rows.jsonl", "--out", "{}"],
    ["run", "arithmetic", "--set", "model.path={}"],
]


@pytest.mark.parametrize("arguments", EMPTY, ids=" ".join)
@pytest.mark.parametrize("empty", ["", "  "], ids=["empty", "blank"])
def test_an_empty_path_is_one_line_and_nothing_is_written(arguments: list[str], empty: str, tmp_path: Path) -> None:
    refused(selftaught(*(part.format(empty) for part in arguments), cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_nothing_is_called_so(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    assert link_to_nothing(link / "a" / "b") == f"{link} is a symbolic link to {tmp_path / 'gone'}, which is not there"
    assert link_to_nothing(tmp_path / "other") == ""
    with pytest.raises(StoreError, match=r"\Acannot create .*link is a symbolic link to .*gone, which is not there; "):
        RunStore(link).__enter__()
    with pytest.raises(StoreError, match=r"is a symbolic link to .*, which is not there"):
        read_run_json(link)
    (tmp_path / "gone").mkdir()
    assert link_to_nothing(link / "a") == ""
    with RunStore(link):
        assert (tmp_path / "gone" / "samples").is_dir()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "arithmetic", "--run-dir", "link"],
        ["run", "arithmetic", "--run-dir", "link/deeper"],
        ["run", "--resume", "link"],
        ["show", "link"],
        ["eval", "link"],
    ],
)
def test_a_run_folder_that_is_a_link_to_nothing_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    assert "is a symbolic link to gone, which is not there" in refused(selftaught(*arguments, cwd=tmp_path))


def test_a_task_is_loaded_from_a_home(home: Path) -> None:
    rows = [f'{{"question": "What is {n} and 1?", "answer": "{n + 1}"}}\n' for n in range(30)]
    (home / "rows.jsonl").write_text("".join(rows))
    settings = with_homes(config(task={"name": "own", "data": "~/rows.jsonl", "verifier": "numeric"})).task
    assert isinstance(settings, OwnConfig)
    assert len(load_task(settings).train) > 10

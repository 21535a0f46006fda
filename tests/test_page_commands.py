"""`selftaught report --html`, `view` and `score` at the command line."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from browsers import NAMES, browser_path, why_none
from builders import TESTS
from page_runs import page_run
from selftaught.cli.html import html_report
from selftaught.cli.view import view_command
from selftaught.records.errors import ConfigError
from test_cli import selftaught


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_run(tmp_path_factory.mktemp("runs") / "toy")


def test_the_page_is_written_where_it_is_asked_for(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other = page_run(tmp_path / "other")
    assert html_report([str(run_dir)], None) == run_dir / "report.html"
    assert html_report([str(run_dir), str(other)], None) == Path("report/report.html")
    assert html_report([str(run_dir), "both.html"], None) == Path("both.html")
    assert html_report([str(run_dir)], "deep/er") == Path("deep/er/report.html")
    pages = [run_dir / "report.html", *map(Path, ("report/report.html", "both.html", "deep/er/report.html"))]
    assert all(page.read_text(encoding="utf-8").startswith("<!doctype html>") for page in pages)
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_selection_is_told_of_with_the_command_that_shows_all(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from selftaught.report.web import report

    whole = report.page_data
    monkeypatch.setattr(report, "page_data", lambda run_dirs, max_bytes: whole(run_dirs, max_bytes=4_000))
    html_report([str(run_dir), str(tmp_path / "page.html")], None)
    (line,) = capsys.readouterr().err.splitlines()
    assert "samples, all of the problems that it shows" in line
    assert f"`selftaught view {run_dir}` shows every one" in line


@pytest.mark.parametrize(
    ("arguments", "out_dir", "said"),
    [(["page.html"], None, "give the folder of a run"), (["run", "page.html"], "there", "give one of them")],
)
def test_a_command_that_says_too_little_or_too_much_is_refused(
    arguments: list[str], out_dir: str | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        html_report(arguments, out_dir)


def test_the_server_without_its_libraries_names_the_extra_and_the_way_without(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'selftaught\[web\]'.*--html"):
        view_command([str(run_dir)])


def test_a_machine_without_a_browser_is_told_from_one_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser_path() is None
    assert "apt-get install chromium" in why_none()
    for name in NAMES[::-1]:
        (tmp_path / name).touch(mode=0o755)
        assert browser_path() == str(tmp_path / name)
    assert all(name in (TESTS.parent / ".ci" / "run").read_text() for name in NAMES)


@pytest.mark.slow
def test_without_a_browser_the_tests_of_the_page_are_skipped_with_a_reason(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    pytest.importorskip("axe_playwright_python")
    tests = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "slow", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(tests / "test_page_browser.py")],
        cwd=tests.parent,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 skipped" in done.stdout
    assert why_none() in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [("view",), ("report", "--html"), ("score",)])
def test_what_is_no_run_folder_is_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    done = selftaught(command[0], str(tmp_path), *command[1:])
    assert done.returncode == 2
    assert "is not a run folder" in done.stderr
    assert len(done.stderr.splitlines()) == 1

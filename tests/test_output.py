"""Nothing that a terminal, a pipe or a disk does to the output can end a program, and files are UTF-8 everywhere."""

import ast
import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builders import PACKAGE, PATIENCE_S
from selftaught.cli.output import width_of
from test_cli import QUICK, selftaught, settings
from test_report import FIRST, measurement, summary, write_run
from toy import folder_bytes

SECURED = "import sys; from selftaught.cli.output import *; secure(); "
HARD = "é – → ⟨日本⟩ 🧮 \ud800 \udcff \x85 \u202e"

TERMINALS = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "koi8-r, strict": {"PYTHONIOENCODING": "koi8-r:strict"},
    "shift-jis": {"PYTHONIOENCODING": "shift_jis"},
    "utf-16": {"PYTHONIOENCODING": "utf-16"},
    "utf-8": {"PYTHONIOENCODING": "utf-8:strict"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "POSIX locale": {"LC_ALL": "POSIX"},
    "unbuffered": {"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": "1"},
}
each_terminal = pytest.mark.parametrize("terminal", TERMINALS.values(), ids=TERMINALS)
slow = pytest.mark.slow  # the rows of a table that differ from its first ones in the value alone


def run(
    *arguments: str, env: Mapping[str, str] | None = None, shell: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The command, or a shell's program in which it is "$@"; what it prints may be no text."""
    command = [sys.executable, "-m", "selftaught", *arguments]
    if shell:
        command = ["bash", "-c", f"set -o pipefail; {shell}", "bash", *command]
    return subprocess.run(
        command, env={**os.environ, **(env or {})}, cwd=cwd, capture_output=True, check=False, timeout=PATIENCE_S
    )


@pytest.fixture(scope="module")
def hard_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with names that hardly any terminal can show."""
    classes = {"日本 – 🧮": (30, 50), "plain": (10, 50)}
    folder = tmp_path_factory.mktemp("é–日") / "run"
    return write_run(folder, summaries=[summary(classes=classes)], base=classes, result=1)


@each_terminal
def test_what_a_terminal_cannot_show_is_escaped(terminal: Mapping[str, str]) -> None:
    code = SECURED + f"[print({HARD!a}, file=f) for f in (sys.stdout, sys.stderr)]"
    env = {"LC_ALL": "C.UTF-8", **terminal, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout
    assert done.stderr


@pytest.mark.parametrize(
    "terminal",
    [pytest.param(env, marks=() if name == "C locale" else slow, id=name) for name, env in TERMINALS.items()],
)
def test_no_command_raises_on_what_a_terminal_cannot_show(terminal: Mapping[str, str], hard_run: Path) -> None:
    for arguments in (["report", str(hard_run)], ["show", str(hard_run)], ["tasks"], ["--help"]):
        done = run(*arguments, env=terminal)
        assert b"Traceback" not in done.stderr
        assert done.returncode == 0, done.stderr
    done = run("show", str(hard_run / "nichts – 日"), env=terminal)
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)


@slow
@pytest.mark.parametrize("name", ["latin-1", "C locale"])
def test_a_run_ends_with_its_report_on_a_terminal_that_cannot_show_it(name: str, tmp_path: Path) -> None:
    run_dir = tmp_path / ("run" if name == "C locale" else "é – 日")
    done = run("run", "arithmetic", "--run-dir", str(run_dir), *settings(QUICK), env=TERMINALS[name])
    assert done.returncode == 0, done.stderr
    assert "–" in (run_dir / "report.md").read_text(encoding="utf-8")
    assert (run_dir / "result.json").exists()
    assert b"next:" in done.stdout


@pytest.mark.parametrize(
    ("name", "env"),
    [("é", TERMINALS["C locale"]), (os.fsdecode(b"r\xe9"), {}), (os.fsdecode(b"r\xff"), TERMINALS["ascii"])],
)
def test_a_folder_that_libraries_could_not_save_a_model_in_is_refused_at_the_start(
    name: str, env: Mapping[str, str], tmp_path: Path
) -> None:
    """They take file names as UTF-8, and would fail after the first training."""
    done = run("run", "arithmetic", "--run-dir", str(tmp_path / name), *settings(QUICK), env=env)
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


CLOSED = {
    "all closed": ('"$@" <&- >&- 2>&-', 0),
    "output closed": ('"$@" >&-', 0),
    "errors closed": ('"$@" 2>&-', 0),
    "input closed": ('"$@" <&-', 0),
    "reader left": ('"$@" | true', 0),
    "both readers left": ('"$@" 2>&1 | true', 0),
    "disk full": ('"$@" > /dev/full', 2),
    "disk full for errors": ('"$@" 2> /dev/full', 0),
    "disk full for both": ('"$@" > /dev/full 2>&1', 2),
    "open for reading only": ('"$@" 1< /dev/null', 2),
}


@pytest.mark.parametrize(
    ("arguments", "shell", "code"),
    [
        pytest.param(
            command, *how, marks=() if command == "tasks" or name == "disk full" else slow, id=f"{command}, {name}"
        )
        for command in ("tasks", "tasks --json", "--help", "report")
        for name, how in CLOSED.items()
    ],
)
def test_output_that_goes_nowhere_is_no_traceback(arguments: str, shell: str, code: int, hard_run: Path) -> None:
    done = run(*arguments.split(), *([str(hard_run)] if arguments == "report" else []), shell=shell)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    lines = done.stderr.decode().splitlines()
    assert len(lines) == (code == 2 and "2>&1" not in shell)
    assert all("cannot write to standard output" in line for line in lines)


@pytest.mark.parametrize("shell", ['"$@" 2> /dev/full', '"$@" 2>&-', '"$@" 2>&1 >/dev/null | true'])
def test_a_mistake_keeps_its_exit_code_though_nobody_can_read_its_message(shell: str, tmp_path: Path) -> None:
    assert run("show", "nowhere", shell=shell, cwd=tmp_path).returncode == 2


@pytest.fixture(scope="module")
def read_to_its_end(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "read"
    assert selftaught("run", "arithmetic", "--run-dir", str(run_dir), *settings(QUICK)).returncode == 0
    return run_dir


@slow
@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ('"$@" 2>&1 | head -c 10', 0),
        ('"$@" <&- >&- 2>&-', 0),
        ('"$@" >/dev/full', 2),
    ],
    ids=["left", "closed", "full"],
)
def test_a_run_goes_on_to_its_end_without_readers_and_its_files_are_complete(
    shell: str, code: int, read_to_its_end: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    done = run("run", "arithmetic", "--run-dir", str(folder), *settings(QUICK), shell=shell)
    assert done.returncode == code, done.stderr
    assert (folder / "report.md").exists()
    assert (folder / "accuracy.png").exists()
    assert not any(b"accuracy on dev" in path.read_bytes() for path in folder.glob("*.json*"))
    names = ("samples", "examples", "left_out")
    assert folder_bytes(folder, *names) == folder_bytes(read_to_its_end, *names)


def test_a_terminal_that_another_program_made_non_blocking_gets_everything() -> None:
    parent, child = pty.openpty()
    os.set_blocking(child, False)
    read = bytearray()

    def reader() -> None:
        while len(read) < 500_000:
            read.extend(os.read(parent, 4096))

    thread = threading.Thread(target=reader)
    thread.start()
    code = SECURED + "print('x' * 500_000); sys.stdout.flush(); assert loss(sys.stdout) is None"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=child,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        timeout=PATIENCE_S,
    )
    thread.join(timeout=PATIENCE_S)
    assert (done.returncode, read.count(b"x")) == (0, 500_000)


def test_a_file_that_is_opened_later_does_not_get_what_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "data"
    code = SECURED + f"f = open({str(path)!r}, 'w', encoding='utf-8'); f.write('data'); f.flush(); print('talk'); "
    code += "import os; os.write(1, b'noise'); os.write(2, b'noise')"
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code], env=env, check=True)
    assert path.read_text() == "data"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [("", None), ("0", None), ("-3", None), ("many", None), ("80", 80), ("²", None)],
)
def test_the_width_is_that_of_columns_where_it_is_a_number(
    columns: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert width_of(io.StringIO()) == expected


ODD = [("TERM", "dumb"), ("NO_COLOR", "1"), ("COLUMNS", "0"), ("COLUMNS", "20")]


@pytest.mark.parametrize(
    "env",
    [{"HOME": ""}, *(pytest.param({name: value}, marks=slow) for name, value in ODD)],
)
def test_an_odd_environment_is_no_reason_to_fail(env: Mapping[str, str], hard_run: Path) -> None:
    for arguments in (["report", str(hard_run)], ["tasks"], ["--help"]):
        assert run(*arguments, env=env).returncode == 0


def test_a_report_of_measured_classes_is_uncut_at_any_width(hard_run: Path) -> None:
    assert measurement(FIRST).n == 100
    from selftaught.report.report import iteration_table
    from selftaught.report.tables import table_text

    header, rows = iteration_table(hard_run)
    for width in range(20, 201):
        text = table_text(header, rows, width)
        assert "…" not in text
        assert "71/200" in text.split()


def test_every_text_file_is_opened_with_an_encoding() -> None:
    """Otherwise it would be that of the user's locale."""
    assert not [line for path in PACKAGE.rglob("*.py") for line in opened_without(path)]


def opened_without(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        is_os = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "os"
        if name not in ("open", "fdopen", "read_text", "write_text", "TextIOWrapper"):
            continue
        if is_os and name == "open":  # a descriptor
            continue
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        is_binary = any("b" in mode and set(mode) <= set("rwaxb+") for mode in modes)
        if not is_binary and all(k.arg != "encoding" for k in node.keywords):
            yield f"{path}:{node.lineno}: {ast.unparse(node)}"

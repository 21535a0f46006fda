"""Processes of the package run Python's own modules, whatever files are in the folder that a user works in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from builders import PACKAGE, PATIENCE_S, problem
from selftaught.grading.verifiers import make_verifier
from selftaught.machine.children import environment, last_folders
from selftaught.records.errors import ConfigError
from selftaught.records.problems import Verdict
from test_cli import QUICK, settings

OTHERS = ["math_verify", "sympy", "torch", "numpy", "typer", "rich", "pydantic", "sitecustomize", "usercustomize"]
OTHERS += ["latex2sympy2_extended", "antlr4", "transformers", "wandb", "click", "utils", "simplejson", "cupy"]
BEFORE_THE_PACKAGE = {"importlib", "warnings", "contextlib", "collections", "functools", "types", "operator", "keyword"}
BEFORE_THE_PACKAGE |= {"reprlib", "sitecustomize", "usercustomize", "typing_extensions"}
"""What `python -m` itself imports before the package can change anything."""


def trapped(folder: Path, *, without: frozenset[str] = frozenset()) -> Path:
    """A folder with a module of every name that Python and the libraries have; a module that runs leaves a mark."""
    mark = folder / "executed"
    for name in sorted({*sys.stdlib_module_names, *OTHERS} - without - {"selftaught"}):
        trap = f"open({str(mark)!r}, 'a', encoding='utf-8').write({name + chr(10)!r})\nraise SystemExit({name!r})\n"
        (folder / f"{name}.py").write_text(trap)
    rows = [{"question": f"{n}?", "answer": f"x^{{{n}}}+1"} for n in range(1, 8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "own_checks.py").write_text(
        "import own_helper\n\ndef f(completion, problem):\n    return own_helper.YES\n"
    )
    (folder / "own_helper.py").write_text("YES = True\n")
    (folder / "c.toml").write_text('[task]\nname = "own"\ndata = "rows.jsonl"\n[sampling]\nnum_shots = 0\n')
    return folder


def run_in(folder: Path, command: list[str], *arguments: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    executed = (folder / "executed").read_text() if (folder / "executed").exists() else ""
    assert executed == ""
    assert done.returncode == 0, done.stderr


VERIFIERS = {
    "math": ["task.verifier=math"],
    "regex": ["task.verifier=regex", "task.answer_pattern=is (.*)"],
    "a module": ["task.verifier=python", "task.verifier_function=own_checks:f"],
    "a file": ["task.verifier=python", "task.verifier_function=own_checks.py:f"],
}
QUICKLY_TRIED = ("-P", "math")


@pytest.mark.parametrize(
    ("started_by", "verifier"),
    [
        pytest.param(started_by, name, marks=() if (started_by, name) == QUICKLY_TRIED else pytest.mark.slow)
        for started_by in ("-P", "-m")
        for name in VERIFIERS
    ],
)
def test_no_verifier_runs_a_module_of_the_current_folder_by_chance(
    started_by: str, verifier: str, tmp_path: Path
) -> None:
    if started_by == "-m":
        folder, command = trapped(tmp_path, without=frozenset(BEFORE_THE_PACKAGE)), [sys.executable, "-m", "selftaught"]
    else:
        folder, command = trapped(tmp_path), [sys.executable, "-P", "-m", "selftaught"]
    overrides = ["model.path=./model", "training.learning_rate=1e-5", *VERIFIERS[verifier]]
    run_in(folder, command, "tasks", "check", "c.toml", *(part for item in overrides for part in ("--set", item)))


@pytest.mark.slow
def test_a_complete_run_of_two_workers_runs_no_module_of_the_current_folder(tmp_path: Path) -> None:
    arguments = ["run", "arithmetic", "--run-dir", "run", *settings({**QUICK, "compute.workers": 2})]
    run_in(trapped(tmp_path), [sys.executable, "-P", "-m", "selftaught"], *arguments)


@pytest.mark.parametrize("name", ["json", "re", "logging", "math_verify", "random", "selftaught", "my.checks", "é"])
def test_a_file_is_a_verifier_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import json\nWORD = json.loads('\"yes\"')\n")
    path = tmp_path / f"{name}.py"
    path.write_text(
        "import json\nfrom beside import WORD\n\ndef f(completion, problem):\n    return completion == WORD\n"
    )
    verify = make_verifier("python", marker="", function=f"{path}:f")
    assert verify("yes", problem()).verdict is Verdict.CORRECT
    assert verify("no", problem()).verdict is Verdict.INCORRECT


def test_a_module_that_pythons_own_hides_is_an_error_that_names_the_file_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("def f(completion, problem):\n    return True\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"random \(.*random\.py\) has no 'f'; the file in this folder is random\.py:f"
    ):
        make_verifier("python", marker="", function="random:f")("x", problem())
    assert make_verifier("python", marker="", function="random.py:f")("x", problem()).verdict is Verdict.CORRECT


def test_users_folders_come_last_and_a_path_with_a_colon_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a:b"
    odd.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(odd), "relative", *sys.path])
    first = environment()["PYTHONPATH"].split(os.pathsep)
    assert str(tmp_path) not in first
    assert str(tmp_path / "relative") in first
    assert str(PACKAGE.parent) in first
    assert last_folders()[:2] == [str(tmp_path), str(odd)]

"""CONTRIBUTING.md does what it says: in a copy of the package, its examples are put where it puts them, and run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import selftaught
import test_layers
from builders import PACKAGE, PATIENCE_S
from selftaught import NullTrainer, ScriptedEngine
from selftaught.commands.check_task import check_task
from selftaught.records.problems import Verdict
from selftaught.records.samples import ModelRef
from selftaught.tasks import load_task
from selftaught.tasks.settings import TaskConfig
from toy import reply, toy_task

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the page is not part of an installed package")

TASK, ENGINE, TRAINER, METHOD, LISTENER = (
    "bakery.py",
    "src/selftaught/engines/echo.py",
    "src/selftaught/training/sgd.py",
    "src/selftaught/methods/shortest.py",
    "src/selftaught/tracking/accuracy.py",
)
WORDS = " 12 * 10 = 120.\n#### 120"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def files() -> dict[str, str]:
    """The content of each file that the page adds, by the name in its first line."""
    return {block.partition("\n")[0].removeprefix("# "): block.partition("\n")[2] for block in blocks("python")}


def names_in(file: str) -> dict[str, Any]:
    """What an example defines."""
    names: dict[str, Any] = {}
    exec(files()[file], names)
    return names


def apply(diff: str, folder: Path) -> None:
    """Put the added lines of a diff where its other lines stand, which must be there, once."""
    head, *hunks = diff.removesuffix("\n").split("\n@@\n")
    path = folder / head.removeprefix("--- src/")
    text = path.read_text(encoding="utf-8")
    for hunk in hunks:
        lines = hunk.split("\n")
        assert all(line[0] in "+ " for line in lines)
        before = "\n".join(line[1:] for line in lines if line[0] == " ")
        assert text.count(f"\n{before}\n") == 1, f"{path.name} has no such place, or several: {before}"
        text = text.replace(f"\n{before}\n", "\n" + "".join(f"{line[1:]}\n" for line in lines))
    path.write_text(text, encoding="utf-8")


def place_of(file: str, folder: Path) -> Path:
    return folder / ("selftaught/tasks/bakery/task.py" if file == TASK else file.removeprefix("src/"))


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for Python's path, with the package and all that the page adds to it."""
    folder = tmp_path_factory.mktemp("added")
    shutil.copytree(PACKAGE, folder / "selftaught")
    (folder / "selftaught/tasks/bakery").mkdir()
    (folder / "selftaught/tasks/bakery/__init__.py").write_text('"""The task `bakery`."""\n')
    for file, text in files().items():
        place = place_of(file, folder)
        assert not place.exists()
        place.write_text(text, encoding="utf-8")
    for diff in blocks("diff"):
        apply(diff, folder)
    return folder


def python(added: Path, *arguments: object, cwd: Path) -> str:
    """What a program says that imports the package with the additions; fails if the program fails."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(added)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


RUNS = """
import re
import sys

import selftaught
from selftaught.cli.app import main


def reply(prompt, seed):
    (number,) = re.findall(r"plus (\\d)", prompt)
    return f" {'Well, ' * (seed % 3)}so it is {number}.\\nThe answer is {number}"


rows = [{"question": f"What is 0 plus {n}?", "answer": n} for n in range(10)]
settings = {"model.path": "builtin:adder", "sampling.num_shots": 0, "training.name": "none", "loop.max_iterations": 1}
for method in ("star-twice", "star-shortest"):
    selftaught.run(
        {**settings, "method": method},
        task=selftaught.task_from_rows("sums", rows, dev_rows=1, test_rows=1),
        run_dir=method,
        engine=lambda model: selftaught.ScriptedEngine(reply),
        trainer=selftaught.NullTrainer,
    )
sys.argv = ["selftaught", "run", "bakery.toml", "--run-dir", "baked"]
main()
"""


@pytest.fixture(scope="module")
def runs(added: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each added method, and with one, `baked`, of the command with the added task and the added
    engine; all have the added listener."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "bakery.toml").write_text(
        f"""
        loop.max_iterations = 1
        model.path = "builtin:adder"
        task.name = "bakery"
        sampling.num_shots = 2
        engine = {{ name = "echo", words = {json.dumps(WORDS)} }}
        training.name = "none"
        """
    )
    python(added, "-c", RUNS, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def baked(runs: Path) -> Path:
    return runs / "baked"


def test_the_page_has_the_example_of_each_seam() -> None:
    assert list(files()) == [TASK, ENGINE, TRAINER, METHOD, LISTENER]
    assert all(re.match(r'""".+"""\n', text) for text in files().values())


@pytest.mark.parametrize("file", [TASK, ENGINE, TRAINER, METHOD, LISTENER])
def test_an_example_passes_the_linter_and_has_the_format(file: str) -> None:
    where = "src/selftaught/tasks/bakery/task.py" if file == TASK else file
    for command in (("check",), ("format", "--check")):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", where, "-"],
            input=files()[file],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_examples_keep_the_rule_of_imports(added: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = added / "selftaught"
    monkeypatch.setattr(test_layers, "PACKAGE", package)
    monkeypatch.setattr(test_layers, "SOURCES", sorted(package.rglob("*.py")))
    test_layers.test_a_room_imports_only_from_itself_and_from_rooms_before_it()
    test_layers.test_heavy_libraries_are_imported_at_the_top_only_by_the_files_that_own_them()
    test_layers.test_no_modules_import_each_other_in_a_circle()


def test_the_task_passes_its_check_and_a_run_as_a_file_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "bakery.py").write_text(files()[TASK])
    name = f"{tmp_path}/bakery.py:load"
    checked = check_task(name)
    assert checked.refusals == ()
    assert checked.facts["train"]["problems"] == 80
    task = load_task(TaskConfig(name=name))
    assert task.verifier(" 12 * 10 = 121.\n#### 121", task.train[0]).verdict is Verdict.INCORRECT
    settings = {
        "model.path": "builtin:adder",
        "task.name": name,
        "sampling.num_shots": 2,
        "training.name": "none",
        "loop.max_iterations": 1,
    }

    def open_engine(model: ModelRef) -> ScriptedEngine:
        return ScriptedEngine(lambda prompt, seed: WORDS)

    result = selftaught.run(settings, run_dir=tmp_path / "run", engine=open_engine, trainer=NullTrainer)
    assert (result.summaries[0].rationale.samples, result.summaries[0].rationale.correct) == (80, 1)


@pytest.mark.slow
def test_the_task_is_one_of_the_packages_by_its_folder_and_its_entry(added: Path, baked: Path) -> None:
    problems = Counter(problem["split"] for problem in lines_of(baked / "problems.jsonl"))
    assert problems == {"few_shot": 2, "train": 80, "dev": 2, "test": 2}
    assert "bakery" in python(added, "-m", "selftaught", "tasks", cwd=baked)
    assert "0 verdicts changed" in python(added, "-m", "selftaught", "regrade", ".", cwd=baked)


@pytest.mark.slow
def test_the_engine_is_one_by_its_file_and_its_line(baked: Path) -> None:
    samples = lines_of(baked / "samples/001-rationale.jsonl")
    assert {sample["completion"] for sample in samples} == {WORDS}
    assert [sample["problem_id"] for sample in samples if sample["verdict"] == "correct"] == ["10h"]
    assert json.loads((baked / "run.json").read_text())["resolved"]["engine"] == {"name": "echo", "words": WORDS}


@pytest.mark.slow
def test_the_listener_is_one_of_every_run_by_its_file_and_its_line(baked: Path) -> None:
    assert (baked / "accuracy.tsv").read_text() == "0\tdev\t0\t2\n1\tdev\t0\t2\n0\ttest\t0\t2\n"


def test_the_listener_hears_a_run_from_python(tmp_path: Path) -> None:
    listener = names_in(LISTENER)["AccuracyFile"](tmp_path)
    run_toy(tmp_path / "run", listeners=[listener])
    assert (tmp_path / "accuracy.tsv").read_text() == "0\tdev\t1\t2\n1\tdev\t1\t2\n0\ttest\t2\t3\n"


@pytest.mark.slow
def test_the_trainer_is_one_by_its_file_and_its_line(added: Path, adder: Path, tmp_path: Path) -> None:
    (tmp_path / "sums.toml").write_text(
        """
        method = "seeds-only"
        loop.max_iterations = 1
        model.path = "builtin:adder"
        task = { name = "arithmetic", dev_problems = 2, test_problems = 2 }
        sampling = { num_shots = 0, max_new_tokens = 8 }
        engine.compiled = "off"
        compute = { device = "cpu", threads = 1 }

        [training]
        name = "sgd"
        rate = 0.2
        batch_size = 5
        steps_first_iteration = 4
        max_epochs = 4
        num_rehearsed = 5
        """
    )
    python(added, "-m", "selftaught", "run", "sums.toml", "--run-dir", "run", cwd=tmp_path)
    trained = tmp_path / "run/checkpoints/001"
    assert (trained / "model.safetensors").read_bytes() != (adder / "model.safetensors").read_bytes()
    checkpoint = json.loads((trained / "checkpoint.json").read_text())
    assert checkpoint["examples"] == 5
    assert checkpoint["train"]["steps"] == 4
    assert checkpoint["train"]["last_loss"] < checkpoint["train"]["first_loss"]
    assert len(checkpoint["new_logprobs"]) == len(checkpoint["probe"]) > 0
    steps = lines_of(tmp_path / "run/metrics.jsonl")
    assert (steps[0]["step"], steps[-1]["step"]) == (1, 4)


@pytest.mark.slow
def test_a_method_is_one_by_its_line_of_settings_or_by_its_file_and_its_line(runs: Path) -> None:
    for method, number in (("star-twice", 2), ("star-shortest", 4)):
        samples = lines_of(runs / method / "samples/001-rationale.jsonl")
        assert Counter(sample["problem_id"] for sample in samples) == {s["problem_id"]: number for s in samples}
        assert len(samples) == 8 * number
    assert has_the_shortest(runs / "star-shortest")
    assert not has_the_shortest(runs / "star-twice")


def test_the_class_of_a_method_makes_a_run_from_python(tmp_path: Path) -> None:
    def longer_by_seed(prompt: str, seed: int) -> str:
        return reply(prompt, seed).replace("count", "count " * (1 + seed % 3))

    run_toy(
        tmp_path,
        settings={"sampling.num_samples": 4, "sampling.temperature": 1.0, "method": "custom"},
        engine=lambda model: ScriptedEngine(longer_by_seed),
        method=names_in(METHOD)["Shortest"],
    )
    assert has_the_shortest(tmp_path)


def has_the_shortest(run_dir: Path) -> bool:
    """Whether each problem is trained on once, by the shortest of its correct samples; counts that none is lost."""
    samples = [s for path in sorted(run_dir.glob("samples/001-rational*.jsonl")) for s in lines_of(path)]
    examples = lines_of(run_dir / "examples/001.jsonl")
    left_out = Counter(row["reason"] for row in lines_of(run_dir / "left_out/001.jsonl"))
    assert len(examples) + left_out.total() == len(samples)
    shortest: dict[str, int] = {}
    for sample in samples:
        if sample["verdict"] == "correct":
            length = len(sample["completion"])
            shortest[sample["problem_id"]] = min(length, shortest.get(sample["problem_id"], length))
    held_out = {row["problem_id"] for row in lines_of(run_dir / "left_out/001.jsonl") if "held out" in row["reason"]}
    trained_on = sorted((e["problem_id"], len(e["completion"])) for e in examples)
    return trained_on == sorted((id, n) for id, n in shortest.items() if id not in held_out) and (
        left_out["longer than another"] > 0
    )


def run_toy(folder: Path, *, settings: Mapping[str, Any] | None = None, **how: Any) -> None:
    values = {
        "model.path": "builtin:adder",
        "sampling": {"num_shots": 2, "num_shots_fine_tuned": 0, "max_new_tokens": 64},
        "training.name": "none",
        "loop.max_iterations": 1,
    }
    given: dict[str, Any] = {"engine": lambda model: ScriptedEngine(reply), "trainer": NullTrainer, **how}
    selftaught.run(values, settings=settings, task=toy_task(), run_dir=folder, **given)

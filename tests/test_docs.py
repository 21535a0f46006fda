"""The documents say what is: generated pages are up to date, commands exist, links lead somewhere, configs parse."""

import dataclasses
import importlib.util
import inspect
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import selftaught as package
from builders import PACKAGE
from selftaught.commands.check_task import check_task
from selftaught.commands.init import write_starter
from selftaught.config.loading import (
    flat_values,
    flatten,
    known_keys,
    load_config,
    shipped_configs,
)
from selftaught.methods.table import METHODS
from selftaught.records.measurements import IterationSummary, Measurement, SamplingCounts
from selftaught.records.problems import CheckResult, Problem, StoredProblem
from selftaught.records.prompts import StoredPrompt
from selftaught.records.samples import LeftOut, Sample
from selftaught.records.training import StepMetrics, TrainingExample, TrainingSummary
from selftaught.tasks import TASKS
from selftaught.tasks.rows.prompt_file import read_prompt_file
from test_cli import COMMANDS, selftaught
from test_layers import ROOMS
from test_report import summary, write_run

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")),
    *sorted((ROOT / "docs").glob("*.md")),
]
WRITTEN = ("README.md", "config.md", "cli.md", "results.md", "claims.md", "speed.md", "own-data.md", "real-model.md")
"""By scripts/make_docs.py, in part or completely."""
BASE = "gsm8k"
"""The shipped config that recipes are put on top of."""

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the docs are not part of an installed package")


@pytest.fixture(scope="module")
def pages() -> Any:
    return importlib.import_module("make_docs")


@pytest.fixture(scope="module")
def tables() -> Any:
    return importlib.import_module("result_tables")


@pytest.fixture(scope="module")
def documents(pages: Any) -> dict[Path, str]:
    texts: dict[Path, str] = pages.documents()
    return texts


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_from_the_code_and_from_results_is_up_to_date(documents: dict[Path, str], name: str) -> None:
    texts = {path.name: (path.read_text(), text) for path, text in documents.items()}
    assert set(texts) == set(WRITTEN)
    page, expected = texts[name]
    assert page == expected, "run python scripts/make_docs.py"


def test_the_page_of_commands_has_every_command(pages: Any) -> None:
    page = pages.cli_page()
    assert all(f"## `selftaught {command}`" in page for command in COMMANDS)


def test_a_marked_block_is_replaced_and_a_page_without_its_marks_is_refused(pages: Any) -> None:
    page = "before\n<!-- a:start -->\nold\n<!-- a:end -->\nafter\n"
    assert pages.filled(page, {"a": "new"}) == page.replace("old", "new")
    assert pages.filled(pages.filled(page, {"a": "new"}), {"a": "new"}) == page.replace("old", "new")
    with pytest.raises(ValueError, match="b:start"):
        pages.filled(page, {"b": "new"})


def test_the_recorded_seeds_of_a_method_are_listed_singly_with_mean_and_deviation(tables: Any) -> None:
    def run(seed: int, correct: int) -> dict[str, Any]:
        measured = {"correct": correct, "n": 10, "by_class": {"1": [correct, 10]}, "false_positive": 0}
        iteration = {"iteration": 1, "dev": measured, "seconds": {"train": 90.0}}
        test = {"base": {**measured, "correct": 1}, "best": measured}
        return {
            "method": "star",
            "seed": seed,
            "started": "2026-01-02T03:04:05+00:00",
            "best_iteration": 1,
            "test": test,
            "iterations": [{"iteration": 0, "dev": measured}, iteration],
        }

    runs = {f"star-seed{seed}": run(seed, correct) for seed, correct in enumerate((7, 8, 9))}
    table = list(tables.summary_of({"machine": "a machine", "runs": runs}))
    assert table[0] == "10 test problems, greedy; a machine, 2026-01-02."
    assert [row.split(" | ")[2][:4] for row in table if row.startswith("| `star`")] == ["7/10", "8/10", "9/10", "**0."]
    assert table[-1].startswith("| `star` | 3 seeds | **0.800 ± 0.100**")
    assert " | 1.5 |" in table[5]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_page_has_a_hole_left_to_fill(page: Path) -> None:
    assert not re.search(r"(?m)^(?!@@$).*@@", page.read_text())  # a line of @@ alone is of a diff


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_of_a_page_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("http"):
            file, _, heading = target.partition("#")
            other = page.parent / file if file else page
            assert other.exists(), target
            assert not heading or heading in anchors_of(other), target


def anchors_of(page: Path) -> set[str]:
    """What links to the headings of a page end with, as GitHub makes it."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/design.md", "docs/python.md", "docs/engines.md"])
def test_every_file_of_code_that_a_page_names_exists(name: str) -> None:
    prose = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
    of_the_user = {"bakery.py", "file.py", "task.py"}
    for path in set(re.findall(r"[\w/]+\.py\b", prose)) - of_the_user:
        assert any((place / path).exists() for place in (ROOT, PACKAGE)), path


def test_the_page_of_the_design_lists_the_rooms_in_the_order_of_imports() -> None:
    table = (ROOT / "docs" / "design.md").read_text().partition("| room | what is in it |")[2].partition("\n\n")[0]
    assert re.findall(r"(?m)^\| `(\w+)(?:\.py)?` \|", table) == list(ROOMS)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_name_of_the_package_that_a_page_has_exists(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in set(re.findall(r"\bselftaught(?:\.[a-z_0-9]+)+", prose)):
        module, _, attribute = name.rpartition(".")
        assert _exists(module, attribute), name


def _exists(module: str, attribute: str) -> bool:
    return (
        hasattr(importlib.import_module(module), attribute)
        or importlib.util.find_spec(f"{module}.{attribute}") is not None
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_that_a_page_shows_exists(page: Path) -> None:
    known = {command.split()[0] for command in COMMANDS}
    for command in re.findall(r"^\s*(?:\$ )?selftaught (\w+)", page.read_text(), flags=re.MULTILINE):
        assert command in known, command


def test_a_finished_run_is_recorded_and_its_record_becomes_a_page(tables: Any, tmp_path: Path) -> None:
    recorder = importlib.import_module("record_results")
    run_dir = write_run(tmp_path / "arithmetic-star", summaries=[summary()], result=1)
    recorder.write_record(tmp_path / "out.json", "a machine", {run_dir.name: recorder.record_of(run_dir)})
    page = tables.results_page(json.loads((tmp_path / "out.json").read_text()))
    assert "100 test problems, greedy; a machine, 2026-11-21." in page
    assert "| `star` | 0 | 55/100 0.550 [0.452, 0.644] | 6 | 1 |" in page
    assert "| 71/200 | 83/129 | 5 / 17 |" in page
    with pytest.raises(SystemExit, match="has not finished"):
        recorder.record_of(write_run(tmp_path / "unfinished", summaries=[summary()]))


def test_a_session_is_shortened_to_its_stages_and_its_table(pages: Any) -> None:
    lines = [
        "$ selftaught run x",
        "x, folder y",
        "base model  dev      1/2  [0.1, 0.9]  by class 1: 0.5",
        "    Input: 1",
    ]
    lines += [
        "iteration 1/2  rationale   9 samples",
        "iteration 2/2  rationale   9 samples",
        "",
        "iter  1",
        "0     0.5",
    ]
    assert pages.short_session("\n".join([*lines, "report z", "next:  x"])).splitlines() == [
        "$ selftaught run x",
        "base model  dev      1/2  [0.1, 0.9]",
        "iteration 1/2  rationale   9 samples",
        "…",
        "iter  1",
        "0     0.5",
        "next:  x",
    ]


def toml_blocks(page: Path) -> Iterator[str]:
    """The parts of configs on a page, each also with its commented lines; `[[example]]` is of prompt files."""
    for text in re.findall(r"```toml\n(.*?)```", page.read_text(), flags=re.DOTALL):
        if "[[example]]" not in text:
            yield from (text, re.sub(r"(?m)^# (?=\w+ = )", "", text))


def overrides_of(line: str) -> list[str]:
    items = re.findall(r"--set ([a-z_]+(?:\.[a-z_0-9]+)?=[^\s`)]+)", line)
    return [item for item in items if item not in ("section.key=value", "section.key=")]


def resolve_on_top(settings: Mapping[str, Any], folder: Path) -> Any:
    """The config of a file with the base's lines and these, which win."""
    values = {**flatten(tomllib.loads(shipped_configs()[BASE]), BASE), **settings}
    (folder / "run.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return load_config(str(folder / "run.toml"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_config_that_a_page_shows_resolves(page: Path, tmp_path: Path) -> None:
    for text in toml_blocks(page):
        settings = flatten(tomllib.loads(text), page.name)
        config = resolve_on_top(settings, tmp_path)
        assert {key for key in settings if key.startswith("task.")} <= set(flat_values(config))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_setting_that_a_page_passes_resolves(page: Path) -> None:
    for line in page.read_text().splitlines():
        if overrides := overrides_of(line):
            name = re.search(r"selftaught run ([\w-]+) ", line)
            # What is not said of one task may be a setting of any: a task of one's own has them all.
            shipped = (name[1], []) if name and name[1] in shipped_configs() else (BASE, ["task.name=tasks.py:load"])
            config = load_config(shipped[0], [*shipped[1], *overrides])
            assert {item.partition("=")[0] for item in overrides} <= set(flat_values(config))


def test_every_setting_is_used_by_a_shipped_config_a_named_method_or_a_page() -> None:
    used = {key for text in shipped_configs().values() for key in flatten(tomllib.loads(text), "shipped")}
    used |= {key for named in METHODS.values() for key in named.knobs}
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            used |= {key for text in toml_blocks(page) for key in flatten(tomllib.loads(text), page.name)}
            used |= {item.partition("=")[0] for item in overrides_of(page.read_text())}
    assert set(known_keys()) - used == set()


def test_the_walk_through_of_ones_own_data_leads_to_a_task_that_passes_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "own-data.md").read_text()
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, flags=re.DOTALL)
    (rows,) = [text for kind, text in blocks if kind == "jsonl"]
    (example,) = [text for kind, text in blocks if kind == "toml" and "[[example]]" in text]
    (plain,) = [text for kind, text in blocks if kind == "text"]
    (from_toml,) = read_prompt_file(example, "example.toml")
    first, second = read_prompt_file(plain, "example.txt")
    assert (first, second.answer, second.choices) == (from_toml, "B", ("a trout", "a swallow"))
    monkeypatch.chdir(tmp_path)
    Path("questions.jsonl").write_text(rows)
    write_starter("questions.jsonl", Path())
    unfilled = Path("questions-prompt.toml").read_text()
    Path("questions-prompt.toml").write_text(unfilled.replace('rationale = ""', 'rationale = "Count."'))
    assert check_task("questions.toml").refusals == ()


def python_blocks(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_program_that_the_page_of_the_library_shows_runs(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(python_blocks("python.md")[0], names)
    how = {
        "settings": {"model.path": "builtin:adder", "loop.max_iterations": 1},
        "engine": lambda model: package.ScriptedEngine(lambda prompt, seed: " The answer is 2"),
        "trainer": package.NullTrainer,
    }
    correct, n = names["doubles"](tmp_path / "run", **how)
    assert correct <= 1 < n


def test_the_comparison_that_the_page_of_the_library_shows_runs(tmp_path: Path) -> None:
    names: dict[str, Any] = {"selftaught": package}
    exec(python_blocks("python.md")[1], names)
    rows = [{"question": f"What is {n} plus {n}?", "answer": 2 * n} for n in range(30)]
    few_shot = [{"question": "What is 1 plus 2?", "rationale": "1 + 2 = 3.", "answer": 3}]
    how = {
        "model": "builtin:adder",
        "seeds": [4],
        "row_settings": {"star": {"loop.max_iterations": 1}},
        "engine": lambda model: package.ScriptedEngine(lambda prompt, seed: " The answer is 2"),
        "trainer": package.NullTrainer,
    }
    task = package.task_from_rows("doubles", rows, few_shot=few_shot, verifier="numeric")
    accuracies, p = names["with_and_without_hints"](task, tmp_path / "folder", **how)
    assert (set(accuracies), p) == ({"star", "star-no-rationalization"}, 1.0)
    assert (tmp_path / "folder" / "star-seed4" / "result.json").exists()


def test_the_page_of_the_library_lists_the_arguments_of_a_run_in_order() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    table = page.partition("| argument | |")[2].partition("\n\n")[0]
    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == list(inspect.signature(package.run).parameters)


def test_the_page_of_the_library_has_every_public_name() -> None:
    table = (ROOT / "docs" / "python.md").read_text().partition("| for | names |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(package.__all__)


def test_the_verifier_that_the_page_of_verifiers_shows_works() -> None:
    names: dict[str, Any] = {}
    exec(python_blocks("verifiers.md")[0], names)
    problem = Problem(id="1", question="Where does she live?", answer="Graz")
    assert names["same_city"]("She lives in graz.", problem) == (True, "graz")
    assert names["same_city"]("I do not know.", problem) == "unparseable"


RECORDS = (
    Sample,
    CheckResult,
    TrainingExample,
    LeftOut,
    StoredProblem,
    StoredPrompt,
    IterationSummary,
    SamplingCounts,
    TrainingSummary,
    Measurement,
    StepMetrics,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_page_of_the_run_folder_names_every_key(record: Any) -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", (ROOT / "docs" / "run-folder.md").read_text()))
    assert {field.name for field in dataclasses.fields(record)} <= named


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_config_resolves(name: str) -> None:
    assert load_config(name).task.name in TASKS


def test_the_readme_has_the_two_commands_each_on_one_line() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert any(line.strip().startswith("pip install . && selftaught run arithmetic") for line in lines)
    assert any(line.strip().startswith("pip install '.[test]' && pytest") for line in lines)


def test_the_readme_fits_on_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 115


def test_the_shipped_model_is_the_one_that_its_page_describes() -> None:
    from selftaught.models.weights import resolve_model

    page = (ROOT / "docs" / "tasks.md").read_text()
    assert str(resolve_model("builtin:adder").sha256) in page


def test_the_dry_run_of_the_readme_works() -> None:
    done = selftaught("run", "arithmetic", "--dry-run")
    assert done.returncode == 0, done.stderr

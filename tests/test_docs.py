"""The documents say what is: generated pages are up to date, commands exist, links lead somewhere, configs parse."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from selftaught.config import known_keys, load_config, shipped_configs
from selftaught.starter import write_starter
from selftaught.task_check import check_task
from selftaught.tasks import TASKS
from selftaught.tasks.prompt_file import read_prompt_file
from test_cli import COMMANDS, selftaught

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the docs are not part of an installed package")


@pytest.fixture(scope="module")
def pages() -> Any:
    """scripts/make_docs.py as a module."""
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_page_is_what_the_code_says(pages: Any) -> None:
    assert (ROOT / "docs" / "config.md").read_text() == pages.config_page()


def test_the_commands_page_is_what_the_help_says(pages: Any) -> None:
    page = pages.cli_page()
    assert (ROOT / "docs" / "cli.md").read_text() == page
    assert all(f"## `selftaught {command}`" in page for command in COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_page_has_a_hole_left_to_fill(page: Path) -> None:
    assert "@@" not in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_and_file_that_a_page_names_exists(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_that_a_page_shows_exists(page: Path) -> None:
    known = {command.split()[0] for command in COMMANDS}
    for command in re.findall(r"^\s*(?:\$ )?selftaught (\w+)", page.read_text(), flags=re.MULTILINE):
        assert command in known, command


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_setting_that_a_page_passes_is_known(page: Path) -> None:
    overrides = re.findall(r"--set ([a-z_]+(?:\.[a-z_0-9]+)?=[\w./:+-]+)", page.read_text())
    overrides = [item for item in overrides if item != "section.key=value"]
    assert {item.partition("=")[0] for item in overrides} <= set(known_keys())
    if overrides:
        assert load_config("arithmetic", overrides).task.name == "arithmetic"


def test_the_configs_that_the_page_of_engines_shows_resolve(tmp_path: Path) -> None:
    shown = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "engines.md").read_text(), flags=re.DOTALL)
    for name, whole in zip(("openai", "vllm"), shown, strict=True):
        for text in (whole, whole.replace("\n# ", "\n")):  # also with the lines that it leaves out
            (tmp_path / "run.toml").write_text(text)
            assert load_config(str(tmp_path / "run.toml")).engine.name == name


def test_the_walk_through_of_ones_own_data_shows_what_init_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "own-data.md").read_text()
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, flags=re.DOTALL)
    (rows,) = [text for kind, text in blocks if kind == "jsonl"]
    config, example = [text for kind, text in blocks if kind == "toml"]
    (plain,) = [text for kind, text in blocks if kind == "text"]
    monkeypatch.chdir(tmp_path)
    Path("questions.jsonl").write_text(rows)
    assert f"$ selftaught init questions.jsonl\n{write_starter('questions.jsonl', Path())}\n```" in page
    assert Path("questions.toml").read_text() == config
    (worked,) = read_prompt_file(example, "example.toml")
    first, second = read_prompt_file(plain, "example.txt")
    assert (first, second.answer, second.choices) == (worked, "B", ("a trout", "a swallow"))
    unfilled = Path("questions-prompt.toml").read_text()
    Path("questions-prompt.toml").write_text(unfilled.replace('rationale = ""', 'rationale = "Count."'))
    assert check_task("questions.toml").refusals == ()


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_config_resolves(name: str) -> None:
    assert load_config(name).task.name in TASKS


def test_the_readme_has_the_two_commands_each_on_one_line() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert any(line.strip().startswith("pip install . && selftaught run arithmetic") for line in lines)
    assert any(line.strip().startswith("pip install '.[test]' && pytest") for line in lines)


def test_the_readme_shows_figures_that_are_on_record() -> None:
    """Every `x/y` score of the README's result table stands in the recorded results."""
    readme = (ROOT / "README.md").read_text()
    recorded = json.loads((ROOT / "docs" / "results" / "arithmetic.json").read_text())
    scores = {f"{m['correct']}/{m['n']}" for run in recorded["runs"].values() for m in (run["base"], run["test"])}
    shown = set(re.findall(r"\b(\d+/492)\b", readme))
    assert shown
    assert shown <= scores


def test_the_shipped_model_is_the_one_that_its_page_describes() -> None:
    from selftaught.weights import resolve_model

    page = (ROOT / "docs" / "adder.md").read_text()
    assert str(resolve_model("builtin:adder").sha256) in page


def test_the_dry_run_of_the_readme_works() -> None:
    assert selftaught("run", "arithmetic", "--dry-run").returncode == 0

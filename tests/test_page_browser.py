"""The page in a real headless Chromium, from a file and from the server. Skipped where there is no browser."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from browsers import browser_path, why_none
from builders import PACKAGE, PATIENCE_S
from page_runs import HOSTILE, add_scores, begin, hostile_run, page_run
from selftaught.report.web.folders import ASKED, TABLE
from selftaught.report.web.page_data import page_data
from selftaught.report.web.report import write_html
from selftaught.report.web.selection import filters_from
from test_compare import Toy
from toy import toy_config, toy_task

pytestmark = pytest.mark.slow

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe_module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")

CHROMIUM = browser_path()
if CHROMIUM is None:
    pytest.skip(why_none(), allow_module_level=True)

VIEWS = {
    "runs": "runs",
    "run": "runs?run=toy",
    "problems": "problems",
    "problem": "problem?run=toy&id=bear",
    "samples": "samples?run=toy",
    "compared": "runs?run=star-seed1",
    "nothing": "samples?run=toy&verdict=correct&reason=incorrect",
    "beside": "problem?run=toy&id=bear&with=hostile&show=diff",
    "tokens": "problem?run=toy&id=ant&show=tokens",
}
SERIOUS = ("serious", "critical")


@dataclass(slots=True)
class Site:
    """The page of the runs under one address, and what its browser complained of."""

    address: str
    browser: Any
    wrong: list[str] = field(default_factory=list)

    def open(self, view: str = "runs", **context: Any) -> Any:
        """A new window at a view, when it is drawn."""
        opened = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        opened.set_default_timeout(1000 * PATIENCE_S)
        page = opened.new_page()
        page.on(
            "console", lambda m: self.wrong.append(f"console: {m.text}") if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", lambda request: self._look_at(request))
        page.goto(f"{self.address}#{view}")
        drawn(page)
        return page

    def _look_at(self, request: Any) -> None:
        if not request.url.startswith((self.address.partition("#")[0], "data:", "blob:")):
            self.wrong.append(f"request: {request.url}")


def drawn(page: Any) -> None:
    page.wait_for_selector("main[data-ready]")


def changed(page: Any, do: Any) -> None:
    """Do something that has the page drawn again, and wait for that."""
    before = page.evaluate("document.getElementById('main').dataset.ready")
    do()
    page.wait_for_function("before => document.getElementById('main').dataset.ready !== before", arg=before)


def choose(page: Any, name: str, value: str) -> None:
    changed(page, lambda: page.select_option(f'select[name="{name}"]', value))


def press(page: Any, key: str) -> None:
    changed(page, lambda: page.keyboard.press(key))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = [page_run(folder / "toy"), hostile_run(folder / "hostile")]
    for iteration in (1, 2):
        add_scores(made[0], iteration, "rationale")
    toy = Toy(folder / "toy-compare")
    toy.run("few-shot-cot", "star", seeds=(1, 2))
    toy.table()
    asked = toy.folder.asked()
    toy.folder.write_json(ASKED, {**asked, "cells": [*asked["cells"], "retry:1"]})
    return [*made, toy.folder.dir]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        arguments += ["--no-sandbox"] if os.getuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@contextmanager
def serving(*runs: Path) -> Iterator[str]:
    """The address of a server of runs, which has a process of its own and ends by itself when it is told to."""
    with subprocess.Popen(
        [sys.executable, "-m", "selftaught", "view", *map(str, runs), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            yield address
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def served(runs: list[Path]) -> Iterator[str]:
    with serving(*runs) as address:
        yield address


@pytest.fixture(params=["file", "served"])
def site(
    request: pytest.FixtureRequest, runs: list[Path], browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    if request.param == "file":
        path = write_html(runs, tmp_path_factory.mktemp("page") / "page.html").path
        address = path.as_uri()
    else:
        address = request.getfixturevalue("served")
    opened = Site(address=address, browser=browser)
    yield opened
    for context in browser.contexts:
        context.close()
    assert opened.wrong == []


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_loads_without_an_error_or_a_request_elsewhere(view: str, site: Site) -> None:
    page = site.open(VIEWS[view])
    assert page.inner_text("h1")
    assert "Not shown" not in page.inner_text("main")
    assert page.title().endswith("selftaught")


def test_every_chart_has_a_table_of_its_numbers(site: Site) -> None:
    page = site.open("runs?run=toy")
    figures = page.query_selector_all("figure")
    assert len(figures) >= 3
    for figure in figures:
        assert figure.query_selector("svg[role=img][aria-label]")
        assert len(figure.query_selector_all("details table tbody tr")) >= 2


def test_the_headline_has_the_measured_numbers(site: Site, runs: list[Path]) -> None:
    page = site.open("runs?run=toy")
    (run, *_) = page_data(runs)["runs"]
    dev = next(m for m in run["measured"] if (m["split"], m["iteration"]) == ("dev", 0))
    assert f"{dev['correct']}/{dev['n']}, base model" in page.inner_text("main")


FILTERS = [
    {"verdict": "correct", "stage": "rationale"},
    {"kept": "no", "reason": "unparseable"},
    {"check": "steps:failed", "iteration": "1"},
    {"source": "rationalization"},
]


@pytest.mark.parametrize("values", FILTERS, ids=str)
def test_filters_show_what_they_name_and_the_link_says_so(values: dict[str, str], site: Site, runs: list[Path]) -> None:
    page = site.open("samples?run=toy")
    for name, value in values.items():
        choose(page, name, value)
        assert f"{name}={value.replace(':', '%3A')}" in page.url
    (run, *_) = page_data(runs)["runs"]
    filters, problems = filters_from(values), {p["id"]: p for p in run["problems"]}
    expected = sum(filters.matches(s, problems[s["problem_id"]]) for s in run["samples"])
    assert re.match(rf"{expected} samples?$", page.inner_text(".count"))
    again = site.open(page.url.partition("#")[2])
    assert again.inner_text("main") == page.inner_text("main")


def test_a_text_is_searched_for_by_keys_alone(site: Site) -> None:
    page = site.open("runs")
    press(page, "/")
    page.wait_for_function("() => document.activeElement.id === 'search'")
    page.keyboard.type("A GUESS")
    press(page, "Enter")
    assert "q=A+GUESS" in page.url
    assert {link.inner_text() for link in page.query_selector_all("a.open")} == {"problem fox"}
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    press(page, "Enter")
    assert page.inner_text("h1") == "Problem fox"


def test_a_short_text_is_looked_for_as_a_line_and_the_page_says_so(site: Site) -> None:
    page = site.open("samples?run=toy&q=4&iteration=1&stage=rationalization")
    assert {link.inner_text() for link in page.query_selector_all("a.open")} == {"problem bear", "problem cat"}
    assert "as a line of its own" in page.inner_text("main")
    assert "as a line of its own" not in site.open("samples?run=toy&q=cou").inner_text("main")


def test_a_comparison_is_there_with_its_tests_and_leads_to_its_runs(site: Site, runs: list[Path]) -> None:
    page = site.open("runs")
    (against,) = [row["against"] for row in json.loads((runs[2] / TABLE).read_text())["rows"] if row["against"]]
    section = page.query_selector("section.comparison")
    captions = [caption.text_content() for caption in section.query_selector_all("caption")]
    named = ["Accuracy on test", "Difference to star in points, selected", "Difference to star in points, last"]
    assert [caption for caption in captions if caption in named] == named
    (row,) = section.query_selector_all('[aria-label^="Difference to star"][aria-label$="selected"] tbody tr')
    cells = ["few-shot-cot", "1, 2", "+0.0", "[+0.0, +0.0]", "+0 −0, +0 −0", "1.000, 1.000", "1.000", "1.000"]
    smallest = f"{100 * against['difference']['smallest']:.1f}"
    assert [cell.text_content() for cell in row.query_selector_all("th, td")] == [*cells, smallest]
    assert {button.inner_text() for button in section.query_selector_all(".legend button")} == {"few-shot-cot", "star"}
    assert len(section.query_selector_all("polygon.band")) == 1  # a row that trains nothing has one point
    assert "retry-seed1 has not begun" in section.inner_text()
    notes = json.loads((runs[2] / TABLE).read_text())["notes"]
    assert [note.inner_text() for note in section.query_selector_all(".notes li")] == notes
    assert any("Sharing saves up to" in note for note in notes)
    changed(page, lambda: section.query_selector('[aria-label="Accuracy on test"] tbody tr:last-child a').click())
    assert page.inner_text("h1") == "star-seed1"
    assert page.evaluate("document.activeElement.tagName") == "H1"
    changed(page, lambda: page.click("text=All runs"))
    assert page.inner_text("h1") == "6 runs"
    page = site.open("samples?run=star-seed1")
    for title in ("star-seed1", "6 runs"):
        press(page, "1")
        assert page.inner_text("h1") == title


def test_a_page_of_a_comparison_alone_is_called_after_it(browser: Any, runs: list[Path], tmp_path: Path) -> None:
    site = Site(address=write_html(runs[2:], tmp_path / "page.html").path.as_uri(), browser=browser)
    page = site.open("runs?split=test")
    assert page.inner_text("h1") == "toy-compare"
    assert page.input_value('select[name="split"]') == "test"
    assert site.wrong == []


def test_leaks_stand_beside_the_other_faults(site: Site, runs: list[Path]) -> None:
    page = site.open("runs?run=star-seed1")
    faults = page.query_selector('[aria-label="Verdicts and checks by stage"]')
    header = [cell.inner_text() for cell in faults.query_selector_all("thead th")]
    assert header[:6] == ["iteration, stage", "correct", "false positives", "leaks", "unparseable", "truncated"]
    lines = (runs[2] / "star-seed1" / "iterations.jsonl").read_text().splitlines()
    leak = json.loads(lines[0])["rationale"]["checks"]["leak"]
    (row,) = (r for r in faults.query_selector_all("tbody tr") if r.inner_text().startswith("1, without a hint"))
    assert row.query_selector_all("td")[2].inner_text() == f"{leak['n'] - leak['correct']} of {leak['n']}"


def test_what_saves_no_parquet_says_what_does(site: Site) -> None:
    actions = site.open("samples?run=toy").inner_text(".actions")
    assert ("selftaught view" in actions) == site.address.startswith("file:")
    assert ("Save as Parquet" in actions) != site.address.startswith("file:")


@pytest.mark.parametrize("view", ["runs", "problems", "samples", "problem"])
def test_a_link_to_a_run_that_is_not_there_leads_to_no_other(view: str, site: Site) -> None:
    assert "There is no run gone here" in site.open(f"{view}?run=gone&id=bear").inner_text("main")


def test_a_run_that_has_just_begun_has_every_view(browser: Any, tmp_path: Path) -> None:
    begin(tmp_path / "new", toy_task(), toy_config())
    held = write_html([tmp_path / "new"], tmp_path / "page.html").path.as_uri()
    with serving(tmp_path / "new") as served:
        for address in (held, served):
            site = Site(address=address, browser=browser)
            for view in ("runs", "problems", "samples", "problem?id=bear"):
                page = site.open(view)
                text = page.inner_text("main")
                assert "Not shown" not in text
                assert "undefined" not in text
                page.context.close()
            assert site.wrong == []


def test_a_server_that_ends_and_a_folder_that_is_damaged_are_told(browser: Any, tmp_path: Path) -> None:
    run_dir = page_run(tmp_path / "live")
    (run_dir / "result.json").unlink()
    with serving(run_dir) as address:
        site = Site(address=address, browser=browser)
        page = site.open("runs")
        with open(run_dir / "iterations.jsonl", "ab") as file:
            file.write(b"{}\n")
        page.keyboard.press("r")
        page.wait_for_function("() => document.querySelector('#live').innerText.includes('iterations.jsonl')")
        assert "live" in page.inner_text("h1")  # what was read before is still there
    page.keyboard.press("r")
    page.wait_for_function("() => document.querySelector('#live').innerText.includes('does not answer')")
    page.context.close()
    assert all(said.startswith("console: Failed to load resource") for said in site.wrong)


def test_keys_lead_to_every_view(site: Site) -> None:
    page = site.open("samples")
    for key, title in (("2", "Problems"), ("3", "Samples"), ("1", "6 runs")):
        press(page, key)
        assert page.inner_text("h1") == title
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")


def test_the_grid_is_walked_through_by_arrow_keys(site: Site) -> None:
    page = site.open("problems?run=toy&split=train")
    page.focus(".grids a[tabindex='0']")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label == "bear, iteration 2: solved by a hint alone"
    press(page, "Enter")
    assert page.inner_text("h1") == "Problem bear"
    assert page.inner_text(".column.opened h3") == "Iteration 2"


def test_the_next_problem_and_the_ways_to_show_one_have_keys(site: Site) -> None:
    page = site.open("problem?run=toy&id=bear")
    press(page, "n")
    assert page.inner_text("h1") == "Problem cat"
    press(page, "p")
    press(page, "d")
    assert "The same as in iteration 1." in page.inner_text("main")
    press(page, "d")
    assert page.query_selector_all(".token")


def test_a_problem_shows_the_hint_the_first_wrong_step_and_what_carried_loss(site: Site) -> None:
    page = site.open("problem?run=toy&id=bear")
    page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
    assert page.query_selector_all("ins")[-1].text_content() == " (answer: 4)"  # those before it are of examples
    assert page.inner_text(".loss") == " <r>count bear</r>\n4"
    assert "answer: 4" not in page.inner_text(".mask")
    assert "left out incorrect" in page.inner_text("main")


def test_a_second_attempt_without_a_hint_is_not_said_to_have_one(browser: Any, tmp_path: Path) -> None:
    retried = page_run(tmp_path / "retried", config=toy_config("retry", loop__patience=5))
    site = Site(address=write_html([retried], tmp_path / "page.html").path.as_uri(), browser=browser)
    assert "1, second attempt, again without a hint" in site.open("runs").inner_text("main")
    problems = site.open("problems").inner_text("main")
    assert "solved in the second attempt alone" in problems
    assert "solved by a hint" not in problems
    page = site.open("problem?id=bear")
    page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
    assert "second attempt, again without a hint" in page.inner_text("main")
    assert "with the hint" not in page.inner_text("main").lower()
    assert page.query_selector_all("ins") == []
    assert site.wrong == []


def test_a_mistake_is_marked_where_it_stands(browser: Any, tmp_path: Path) -> None:
    run_dir = page_run(tmp_path / "marked")
    path = run_dir / "samples" / "001-rationale.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    fox = next(line for line in lines if line["problem_id"] == "fox")
    fox["completion"] = " <r>\U0001f600 a guess</r>\n3"
    fox["checks"]["steps"]["at"] = [6, 13]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    site = Site(address=write_html([run_dir]).path.as_uri(), browser=browser)
    page = site.open("problem?id=fox")
    assert page.inner_text("mark") == "a guess"


def test_a_selection_is_saved(site: Site, tmp_path: Path) -> None:
    page = site.open("samples?run=toy&kept=yes&source=rationalization")
    with page.expect_download() as download:
        page.keyboard.press("e")
    path = tmp_path / "saved.jsonl"
    download.value.save_as(path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {line["problem_id"] for line in lines} == {"bear"}
    assert all(line["prompt"].endswith("Q: bear hinted (answer: 4)\nA:") for line in lines)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("show", ["text", "diff"])
def test_what_a_model_wrote_stays_text(name: str, show: str, site: Site) -> None:
    page = site.open(f"problem?run=hostile&id={name}&show={show}")
    for button in page.query_selector_all("text=Show all"):
        button.click()
    text, unseen = HOSTILE[name], r"[\x00-\x08\x0b-\x1f\u2028\u2029\u202e\u2066]"
    shown = re.sub(unseen, lambda found: f"U+{ord(found[0]):04X}", text)
    assert shown in page.text_content(".card .text")
    assert page.evaluate("window.broken") is None
    assert page.query_selector_all("main img, main script, main iframe, main .card svg") == []
    listed = site.open(f"samples?run=hostile&problem={name}")
    assert listed.evaluate("window.broken") is None
    assert listed.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_script_that_gets_into_the_page_all_the_same_does_not_run(site: Site) -> None:
    page = site.open("runs")
    code = "const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.body.append(s)"
    page.evaluate(code)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"window.broken = 1\">')")
    end = time.monotonic() + PATIENCE_S
    while len(site.wrong) < 2:  # the browser says what it refused
        assert time.monotonic() < end, site.wrong
        page.wait_for_timeout(50)
    assert page.evaluate("window.broken") is None
    site.wrong.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_window(width: int, scheme: str, site: Site) -> None:
    for view in VIEWS.values():
        # axe's own code is put into the page, which the page's policy would refuse.
        page = site.open(view, viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
        page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
        found = axe_module.Axe().run(page).response["violations"]
        faults = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in SERIOUS]
        assert faults == [], view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


def test_all_is_there_in_print(site: Site) -> None:
    page = site.open("problem?run=toy&id=bear")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("[...document.querySelectorAll('details')].every(node => node.open)")
    assert not page.is_visible("nav")
    assert page.is_visible(".loss")


def test_a_page_follows_a_run_that_goes_on(browser: Any, tmp_path: Path) -> None:
    run_dir = page_run(tmp_path / "live")
    (run_dir / "result.json").unlink()
    path = run_dir / "samples" / "002-dev.jsonl"
    line = path.read_bytes().splitlines(keepends=True)[-1]
    with serving(run_dir) as address:
        site = Site(address=address, browser=browser)
        page = site.open("samples?run=live&stage=dev&iteration=2")
        assert page.inner_text(".count") == "2 samples"
        with open(path, "ab") as file:
            file.write(line)
        page.wait_for_function("() => document.querySelector('.count').innerText === '3 samples'")
        assert page.inner_text("#live") == "live"
        page.context.close()
    assert site.wrong == []


def test_many_viewers_at_once_are_all_answered(served: str) -> None:
    import threading
    import urllib.request

    paths = ("api/runs", "api/samples?run=toy&q=count", "api/problem?run=toy&id=bear", "api/grid?run=hostile")
    statuses: list[int] = []

    def ask(path: str) -> None:
        with urllib.request.urlopen(served + path, timeout=PATIENCE_S) as reply:
            reply.read()
            statuses.append(reply.status)

    threads = [threading.Thread(target=ask, args=(paths[i % len(paths)],)) for i in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 50

"""The values that the page shows, and the one file that holds them; no browser."""

import html.parser
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import PACKAGE, step_metrics
from page_runs import HOSTILE, add_scores, hostile_run, page_run
from selftaught.records.errors import ConfigError, StoreError
from selftaught.records.samples import LeftOut
from selftaught.report.web.assets import MODULES, bundle, embedded, files, one_file
from selftaught.report.web.page_data import chosen_problems, page_data
from selftaught.report.web.report import write_html
from selftaught.report.web.selection import Filters, filters_from
from selftaught.runs.lines import dump
from selftaught.runs.store import append_metrics
from toy import toy_config


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_run(tmp_path_factory.mktemp("runs") / "toy")


@pytest.fixture(scope="module")
def shown(run_dir: Path) -> dict[str, Any]:
    (run,) = page_data([run_dir])["runs"]
    return run


def of(shown: dict[str, Any], problem: str, stage: str, iteration: int = 1) -> dict[str, Any]:
    (sample,) = (
        s for s in shown["samples"] if (s["problem_id"], s["stage"], s["iteration"]) == (problem, stage, iteration)
    )
    return sample


def test_every_sample_is_there_once_with_what_became_of_it(shown: dict[str, Any], run_dir: Path) -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (run_dir / "samples").iterdir())
    assert shown["samples_seen"] == len(shown["samples"]) == lines
    fates = {
        (problem, stage): (sample["kept"], sample["reason"], sample["source"])
        for problem, stage in (("ant", "rationale"), ("bear", "rationale"), ("bear", "rationalization"))
        for sample in [of(shown, problem, stage)]
    }
    assert fates == {
        ("ant", "rationale"): (True, None, "rationale"),
        ("bear", "rationale"): (False, "incorrect", None),
        ("bear", "rationalization"): (True, None, "rationalization"),
    }
    assert of(shown, "dingo", "rationale")["reason"] == "unparseable"
    assert of(shown, "gnu", "dev")["kept"] is None


def test_kept_and_left_out_of_the_page_are_those_of_the_summary(shown: dict[str, Any]) -> None:
    for iteration in shown["iterations"]:
        own = [s for s in shown["samples"] if s["iteration"] == iteration["iteration"] and s["kept"] is not None]
        assert sum(s["kept"] for s in own) == iteration["kept"]
        assert len(own) == iteration["seen"] == iteration["kept"] + sum(iteration["left_out"].values())
        assert iteration["adds_up"]


def test_what_a_later_iteration_decides_again_is_not_what_became_of_a_sample(tmp_path: Path) -> None:
    run_dir = page_run(tmp_path / "a")
    again = LeftOut(problem_id="cat", iteration=1, kind="rationale", index=0, reason="duplicate")
    with open(run_dir / "left_out" / "002.jsonl", "ab") as file:
        file.write(dump(LeftOut, again))
    (run,) = page_data([run_dir])["runs"]
    assert [of(run, "cat", "rationale", n)["reason"] for n in (1, 2)] == ["incorrect", "incorrect"]


def test_the_grid_tells_solved_from_solved_by_a_hint_and_from_unsolved(shown: dict[str, Any]) -> None:
    states = {row["id"]: row["states"] for row in shown["grid"]}
    expected = {"ant": "-ss", "bear": "-hh", "cat": "-uu", "fox": "-ss", "gnu": "sss", "hare": "uuu"}
    assert {id: states[id] for id in expected} == expected
    assert states["ibis"][0] == "s"


def test_a_problem_that_an_iteration_does_not_draw_is_not_sampled_there(tmp_path: Path) -> None:
    (run,) = page_data([page_run(tmp_path / "a", config=toy_config(task__problems_per_iteration=3))])["runs"]
    train = [row["states"] for row in run["grid"] if row["split"] == "train"]
    assert all(sum(states[n] != "-" for states in train) == 3 for n in (1, 2))


def test_a_prompt_stands_there_without_what_all_begin_with_and_is_whole_with_it(shown: dict[str, Any]) -> None:
    sample = of(shown, "bear", "rationalization")
    own = shown["prompts"][sample["prompt_sha256"]]
    assert "answer: 4" in own["text"]
    assert "bear" not in shown["prompts"][own["prefix"]]["text"]
    assert "lemur" in shown["prompts"][own["prefix"]]["text"]


def test_training_rows_are_the_prompt_without_the_hint(shown: dict[str, Any]) -> None:
    (row,) = (e for e in shown["examples"] if e["problem_id"] == "bear" and e["trained"] == 1)
    assert (row["source"], row["prompt"]) == ("rationalization", "Q: bear hinted\nA:")


def test_paths_and_names_of_this_machine_are_not_in_the_page(run_dir: Path) -> None:
    text = json.dumps(page_data([run_dir]))
    assert "somebody" not in text
    assert str(run_dir.parent) not in text


def test_scores_that_are_stored_are_in_the_page(tmp_path: Path) -> None:
    run_dir = page_run(tmp_path / "a")
    add_scores(run_dir, 1, "rationale")
    (run,) = page_data([run_dir])["runs"]
    scored = {tuple(score["key"]): score for score in run["scores"]}
    assert "".join(scored["ant", 1, "rationale", 0]["tokens"]) == of(run, "ant", "rationale")["completion"]


def test_an_unfinished_run_says_what_it_did_last(tmp_path: Path) -> None:
    run_dir = page_run(tmp_path / "a")
    (run_dir / "result.json").unlink()
    (run,) = page_data([run_dir])["runs"]
    assert run["state"]["finished"] is False
    assert re.fullmatch(r"iteration \d, \w+: \d+ samples so far", run["state"]["now"])
    append_metrics(run_dir, 3, step_metrics(step=40))
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write('{"iteration":3,"st')
    os.utime(run_dir / "metrics.jsonl", (2**32, 2**32))
    (run,) = page_data([run_dir])["runs"]
    assert run["state"]["now"] == "iteration 3, training: step 40 was logged last"


@pytest.mark.parametrize("wrong", ["missing", "twice"])
def test_what_is_no_run_folder_or_is_given_twice_is_refused(wrong: str, run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError if wrong == "missing" else ConfigError, match=r"not a run folder|one run"):
        page_data([tmp_path] if wrong == "missing" else [run_dir, run_dir.parent / "." / run_dir.name])


def test_more_than_fits_is_left_out_by_whole_problems_and_said(run_dir: Path, tmp_path: Path) -> None:
    whole = page_data([run_dir])["runs"][0]
    size = len(json.dumps(whole["samples"]))
    written = write_html([run_dir], tmp_path / "page.html", max_bytes=size // 3)
    assert 0 < written.samples < written.seen == len(whole["samples"])
    (part,) = page_data([run_dir], max_bytes=size // 3)["runs"]
    held = {s["problem_id"] for s in part["samples"]}
    assert part["samples"] == [s for s in whole["samples"] if s["problem_id"] in held]
    assert part["grid"] == whole["grid"]
    assert len(json.dumps(part["samples"])) <= size // 3 + 100


SIZES = st.lists(st.dictionaries(st.text(max_size=3), st.integers(1, 50), max_size=8), min_size=1, max_size=3)


@given(SIZES, st.integers(0, 300))
def test_chosen_problems_fit_and_are_all_of_them_where_all_fit(sizes: list[dict[str, int]], limit: int) -> None:
    chosen = chosen_problems(sizes, limit)
    total = sum(sum(size.values()) for size in sizes)
    if chosen is None:
        assert total <= limit
    else:
        assert total > limit
        assert sum(count for size in sizes for id, count in size.items() if id in chosen) <= limit


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_embedded_data_is_the_same_value_and_has_nothing_that_ends_an_element(value: Any) -> None:
    text = embedded({"value": value})
    assert json.loads(text) == {"value": value}
    assert not set("<>&\u2028\u2029") & set(text)
    text.encode("utf-8")


class _Elements(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""


def test_the_file_has_the_same_elements_whatever_a_model_wrote(run_dir: Path, tmp_path: Path) -> None:
    pages = []
    for folder in (run_dir, hostile_run(tmp_path / "hostile")):
        parser = _Elements()
        parser.feed(one_file(page_data([folder])))
        pages.append(parser)
    assert pages[0].tags == pages[1].tags
    assert pages[0].policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in pages[0].policy
    text = one_file(page_data([tmp_path / "hostile"]))
    assert HOSTILE["script"] not in text
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)


def test_a_page_that_cannot_be_written_is_one_line(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write the page"):
        write_html([run_dir], tmp_path / "file" / "page.html")


def test_modules_import_what_stands_before_them_and_the_bundle_imports_nothing() -> None:
    known: set[str] = set()
    for name in MODULES:
        code = files()[f"{name}.js"]
        imported = re.findall(r'from "\./(\w+)\.js"', code)
        assert set(imported) <= known, name
        assert len(imported) == code.count("\nimport ") + code.startswith("import "), (
            f"{name}: an import of another form"
        )
        known.add(name)
    assert not re.search(r"^(?:import|export) ", bundle(), re.MULTILINE)


def test_the_page_makes_no_markup_of_texts_and_runs_none() -> None:
    code = "\n".join(text for name, text in files().items() if name.endswith(".js"))
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert word not in code
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", code + files()["page.css"] + files()["index.html"])


def test_every_file_of_the_page_has_fewer_than_400_lines() -> None:
    assert all(len(text.splitlines()) < 400 for text in files().values())
    assert {path.name for path in (PACKAGE / "report" / "web" / "page").iterdir()} == set(files())


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"verdict": "correct", "iteration": "1", "kind": "rationale"}, {"ant", "eel", "fox"}),
        ({"check": "steps:failed", "verdict": "correct", "iteration": "1"}, {"fox"}),
        ({"kept": "yes", "source": "rationalization", "iteration": "1"}, {"bear"}),
        ({"reason": "unparseable", "iteration": "1", "kind": "rationale"}, {"dingo"}),
        ({"q": "A GUESS", "iteration": "1"}, {"fox"}),
        ({"q": "4", "iteration": "1", "kind": "rationalization"}, {"bear", "cat"}),
        ({"q": "Ue"}, set()),
        ({"stage": "dev", "iteration": "0", "class": "words"}, {"gnu", "hare"}),
        ({"problem": "cat", "iteration": "2"}, {"cat"}),
    ],
)
def test_a_filter_finds_the_samples_that_it_names(
    values: dict[str, str], found: set[str], shown: dict[str, Any]
) -> None:
    filters, problems = filters_from(values), {p["id"]: p for p in shown["problems"]}
    assert {s["problem_id"] for s in shown["samples"] if filters.matches(s, problems[s["problem_id"]])} == found


@pytest.mark.parametrize(
    "values",
    [
        {"nothing": "x"},
        {"iteration": "one"},
        {"iteration": "-1"},
        {"kept": "1"},
        {"check": "steps"},
        {"q": "a\0bc"},
    ],
)
def test_a_filter_that_does_not_exist_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        filters_from(values)


def test_an_empty_filter_asks_for_nothing() -> None:
    assert filters_from({"verdict": "", "q": ""}) == Filters()

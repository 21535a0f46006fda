"""The index beside a run folder and the server's replies; no browser and no port."""

import asyncio
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from page_runs import HOSTILE, add_scores, hostile_run, page_run
from selftaught.records.errors import ConfigError, StoreError
from selftaught.report.web.index import Index
from selftaught.report.web.page_data import page_data
from selftaught.report.web.selection import filters_from
from selftaught.report.web.server import application
from toy import toy_config

PORT = 8027
ALL = filters_from({})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return page_run(tmp_path / "toy")


@pytest.fixture
def index(run_dir: Path) -> Iterator[Index]:
    opened = Index(run_dir)
    yield opened
    opened.close()


def get(
    app: Any, path: str, *, host: str = f"127.0.0.1:{PORT}", method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a reply."""
    raw, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": raw,
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", host.encode())] if host else [],
        "scheme": "http",
        "server": ("127.0.0.1", PORT),
        "client": ("127.0.0.1", 1),
        "root_path": "",
        "http_version": "1.1",
    }
    sent: list[Mapping[str, Any]] = []
    asked = iter([True])

    async def receive() -> dict[str, Any]:
        if next(asked, None) is None:
            await asyncio.Event().wait()  # the browser stays connected
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


def ask(app: Any, what: str, **values: str) -> Any:
    status, _, body = get(app, f"/api/{what}?{urlencode(values)}")
    assert status == 200, body
    return json.loads(body)


FILTERS = [
    {},
    {"verdict": "correct", "kept": "yes"},
    {"kept": "no", "reason": "incorrect"},
    {"check": "steps:failed"},
    {"check": "extraction:passed"},
    {"q": "COUNT b"},
    {"q": 'say "'},
    {"q": "%_*"},
    {"q": "4"},
    {"q": "b"},
    {"q": "be"},
    {"q": '"'},
    {"q": "Ã"},
    {"source": "rationalization", "iteration": "2"},
    {"problem": "cat", "stage": "rationalization"},
    {"class": "words", "kind": "evaluation"},
    {"class": "none"},
]


@pytest.mark.parametrize("values", FILTERS, ids=str)
def test_the_index_finds_what_the_filters_mean(values: dict[str, str], index: Index, run_dir: Path) -> None:
    (run,) = page_data([run_dir])["runs"]
    problems, filters = {p["id"]: p for p in run["problems"]}, filters_from(values)
    expected = [s for s in run["samples"] if filters.matches(s, problems[s["problem_id"]])]
    found = index.samples(filters)
    assert index.count(filters) == len(expected)
    assert [{key: s[key] for key in e} for s, e in zip(found, expected, strict=True)] == expected


def test_served_and_held_pages_have_the_same_grid_and_problems(index: Index, run_dir: Path) -> None:
    add_scores(run_dir, 1, "rationale")
    (run,) = page_data([run_dir])["runs"]
    assert index.grid() == run["grid"]
    served = index.problem("bear")
    assert served is not None
    assert served["examples"] == [e for e in run["examples"] if e["problem_id"] == "bear"]
    assert served["prompts"].items() <= run["prompts"].items()
    assert [score["key"] for score in served["scores"]] == [["bear", 1, "rationale", 0]]
    assert index.problem("lemur") is None


def test_what_is_appended_is_taken_in_and_an_incomplete_line_waits(run_dir: Path) -> None:
    path = run_dir / "samples" / "002-rationale.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    index = Index(run_dir)
    some = filters_from({"iteration": "2", "stage": "rationale"})
    assert index.count(some) == 2
    version = index.version
    assert index.count(some) == 2
    assert index.version == version
    with open(path, "ab") as file:
        file.write(lines[2][20:])
    assert index.count(some) == 3
    with open(path, "ab") as file:
        file.writelines(lines[3:])
    assert index.count(some) == len(lines)
    assert index.count(filters_from({"iteration": "2", "kept": "yes", "stage": "rationale"})) == 3
    index.close()


def test_samples_are_undecided_until_their_iteration_has_chosen(run_dir: Path) -> None:
    for folder in ("examples", "left_out"):
        (run_dir / folder / "002.jsonl").rename(run_dir.parent / f"{folder}.jsonl")
    index = Index(run_dir)
    undecided = filters_from({"iteration": "2", "stage": "rationale"})
    assert {s["kept"] for s in index.samples(undecided)} == {None}
    for folder in ("examples", "left_out"):
        (run_dir.parent / f"{folder}.jsonl").rename(run_dir / folder / "002.jsonl")
    assert {s["kept"] for s in index.samples(undecided)} == {True, False}
    index.close()


def test_an_index_of_a_folder_that_was_changed_is_made_anew(index: Index, run_dir: Path) -> None:
    before = index.count(ALL)
    path = run_dir / "samples" / "001-rationale.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))
    assert index.count(ALL) == before - 1


def test_a_file_that_was_changed_and_has_grown_is_read_anew(index: Index, run_dir: Path) -> None:
    index.refresh()
    path = run_dir / "samples" / "001-rationale.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    changed = lines[0].replace(b'"verdict":"correct"', b'"verdict":"incorrect"')
    assert changed != lines[0]
    path.write_bytes(b"".join([changed, *lines[1:]]))
    (first,) = index.samples(filters_from({"problem": "ant", "iteration": "1", "stage": "rationale"}))
    assert first["verdict"] == "incorrect"
    assert index.count(filters_from({"problem": "ant", "iteration": "1", "verdict": "incorrect"})) == 1


@pytest.mark.parametrize("what", ["broken", "another program's", "another run's"])
def test_an_index_that_is_not_of_this_run_is_made_anew(what: str, run_dir: Path, tmp_path: Path) -> None:
    index = Index(run_dir)
    count = index.count(ALL)
    index.close()
    assert index.path == tmp_path / "toy.view.sqlite"
    if what == "broken":
        content = bytearray(index.path.read_bytes())
        content[2_000:20_000] = os.urandom(18_000)
        index.path.write_bytes(bytes(content))
    elif what == "another program's":
        index.path.write_text("no database")
    else:
        about = json.loads((run_dir / "run.json").read_text())
        (run_dir / "run.json").write_text(json.dumps({**about, "started": "2026-12-01T00:00:00+00:00"}))
    again = Index(run_dir)
    assert again.count(ALL) == count
    assert len(again.samples(ALL)) == count
    again.close()


def test_two_viewers_of_one_run_take_each_sample_in_once(run_dir: Path) -> None:
    one, other = Index(run_dir), Index(run_dir)
    threads = [threading.Thread(target=index.refresh) for index in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = sum(len(path.read_bytes().splitlines()) for path in (run_dir / "samples").iterdir())
    assert one.count(ALL) == other.count(ALL) == lines
    one.close()
    other.close()


def test_nothing_is_written_into_the_run_folder(run_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    app = application([run_dir], port=PORT)
    for what in ("runs", "state"):
        ask(app, what)
    ask(app, "samples", run="toy")
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_a_folder_beside_which_nothing_can_be_written_has_its_index_elsewhere(
    run_dir: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr("selftaught.report.web.index_files.os.access", lambda path, mode: False)
    monkeypatch.setattr("selftaught.report.web.index_files.tempfile.gettempdir", lambda: str(elsewhere))
    index = Index(run_dir)
    assert index.count(ALL) > 0
    assert index.path.is_relative_to(elsewhere)
    index.close()


def test_every_reply_says_what_a_browser_may_do_with_it(run_dir: Path) -> None:
    app = application([run_dir], port=PORT)
    for path in ("/", "/main.js", "/page.css", "/api/runs", "/api/samples?run=none", "/nothing"):
        _, headers, _ = get(app, path)
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host", ["", "evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80", "localhost:1"]
)
def test_only_the_host_that_it_serves_is_answered(host: str, run_dir: Path) -> None:
    app = application([run_dir], port=PORT)
    status, _, body = get(app, "/api/runs", host=host)
    assert status == 421
    assert b"toy" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_reading_is_answered(method: str, run_dir: Path) -> None:
    assert get(application([run_dir], port=PORT), "/api/runs", method=method)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/run.json",
        "/../toy/run.json",
        "/..%2ftoy%2frun.json",
        "//etc/passwd",
        "/page/../../report.py",
        "/api/samples?run=..",
        "/api/grid?run=/etc",
        "/api/problem?run=../toy&id=ant",
        "/api/export.jsonl?run=..",
    ],
)
def test_no_path_leads_out_of_what_is_served(path: str, run_dir: Path) -> None:
    assert get(application([run_dir], port=PORT), path)[0] == 404


@pytest.mark.parametrize("query", ["iteration=x", "offset=-1", "limit=x", "nothing=1", f"q={'a' * 1001}"])
def test_a_question_that_makes_no_sense_is_one_line(query: str, run_dir: Path) -> None:
    status, _, body = get(application([run_dir], port=PORT), f"/api/samples?run=toy&{query}")
    assert status == 400
    assert "\n" not in json.loads(body)["error"]


def test_pages_of_samples_follow_each_other(run_dir: Path) -> None:
    app = application([run_dir], port=PORT)
    whole = ask(app, "samples", run="toy", limit="200")
    parts = [ask(app, "samples", run="toy", limit="7", offset=str(n)) for n in range(0, whole["total"], 7)]
    assert [s for part in parts for s in part["samples"]] == whole["samples"]
    assert {part["total"] for part in parts} == {whole["total"]}


def test_the_version_changes_with_the_folder_and_only_then(run_dir: Path) -> None:
    app = application([run_dir], port=PORT)
    before = ask(app, "state")["version"]
    assert ask(app, "runs")["version"] == before == ask(app, "state")["version"]
    with open(run_dir / "samples" / "002-dev.jsonl", "ab") as file:
        file.write(b"{")
    assert ask(app, "state")["version"] != before


def test_a_selection_is_saved_with_its_prompts(run_dir: Path) -> None:
    app = application([run_dir], port=PORT)
    status, _, body = get(app, "/api/export.jsonl?run=toy&kept=yes&source=rationalization&iteration=1")
    (line,) = map(json.loads, body.decode().splitlines())
    assert status == 200
    assert line["problem_id"] == "bear"
    assert line["prompt"].endswith("Q: bear hinted (answer: 4)\nA:")


def test_a_selection_as_parquet_has_the_columns_of_trl(run_dir: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    app = application([run_dir], port=PORT)
    _, _, body = get(app, "/api/export.parquet?run=toy&iteration=1&kind=rationale")
    (tmp_path / "x.parquet").write_bytes(body)
    rows = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert list(rows[0])[:6] == ["step", "prompt", "completion", "correct", "steps", "advantage"]
    fox = next(row for row in rows if row["problem_id"] == "fox")
    assert (fox["step"], fox["correct"], fox["steps"]) == (1, 1.0, 0.0)


def test_hostile_texts_are_served_as_they_are(tmp_path: Path) -> None:
    app = application([hostile_run(tmp_path / "hostile")], port=PORT)
    for name, text in HOSTILE.items():
        samples = ask(app, "problem", run="hostile", id=name)["samples"]
        assert all(text in sample["completion"] for sample in samples)
        asked = urlencode({"run": "hostile", "q": text[:900].replace("\0", " ")})
        status, headers, _ = get(app, f"/api/samples?{asked}")
        assert status == 200
        assert headers["content-type"] == "application/json"


def test_a_damaged_folder_is_one_line_and_the_index_stays_usable(run_dir: Path) -> None:
    app = application([run_dir], port=PORT)
    path = run_dir / "samples" / "002-rationale.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b"{}\n")
    status, _, body = get(app, "/api/samples?run=toy")
    assert status == 500
    assert "002-rationale.jsonl" in json.loads(body)["error"]
    path.write_bytes(whole)
    assert ask(app, "samples", run="toy")["total"] > 0


def test_runs_that_are_none_or_given_twice_are_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run folder"):
        application([tmp_path / "none"], port=PORT)
    with pytest.raises(ConfigError, match="one run"):
        application([run_dir, run_dir], port=PORT)


def test_the_index_is_a_database_that_other_programs_read(index: Index) -> None:
    index.refresh()
    with sqlite3.connect(index.path) as connection:
        assert connection.execute("SELECT count(*) FROM samples").fetchone()[0] == index.count(ALL)
    connection.close()


def test_a_run_of_several_samples_for_a_problem_has_each(tmp_path: Path) -> None:
    config = toy_config(sampling__num_samples=2, sampling__temperature=0.7)
    index = Index(page_run(tmp_path / "k", config=config))
    found = index.samples(filters_from({"problem": "ant", "iteration": "1", "stage": "rationale"}))
    assert [s["index"] for s in found] == [0, 1]
    index.close()

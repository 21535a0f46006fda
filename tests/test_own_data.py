"""The user's own rows: read completely, split the same way every time, and refused in one line with file and line."""

import csv
import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import json_case, task_named
from selftaught.grading.signs import fold
from selftaught.prompts.rendering import render_completion, render_prompt
from selftaught.records.errors import SelftaughtError
from selftaught.records.problems import SPLITS, Task
from selftaught.tasks.fingerprint import data_sha256
from selftaught.tasks.rows.choice_answers import label_of
from selftaught.tasks.rows.columns import (
    Choices,
    as_text,
    choices,
    optional_texts,
    texts,
)
from selftaught.tasks.rows.files import Row, read_rows
from test_cli import refused, selftaught, settings

CASES: list[dict[str, Any]] = json_case("own_data.json")
ADDITIONS = [{"question": f"what is {n} + {n}?", "answer": 2 * n} for n in range(10)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_case(case: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The case's files; returns its [task] settings."""
    if "rows" in case:
        write_rows(folder / "train.jsonl", ADDITIONS[: case["rows"]])
    if "nested" in case:
        (folder / "train.jsonl").write_text('{"question": ' + "[" * case["nested"] + "\n")
    for name, content in case.get("files", {}).items():
        (folder / name).write_bytes(content.encode(case.get("encoding", "utf-8")))
    return {"data": "train.jsonl", **case.get("task", {})}


def one_line(action: Callable[[], Any]) -> str:
    with pytest.raises(SelftaughtError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def own(data: object, **settings: Any) -> Task:
    return task_named("own", data=str(data), **settings)


def questions(task: Task) -> dict[str, set[str]]:
    return {name: {p.question for p in task.split(name)} for name in ("train", "dev", "test")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_cannot_be_used_is_one_line_with_its_place(case: dict[str, Any], here: Path) -> None:
    task = write_case(case, here)
    message = one_line(lambda: task_named("own", **task))
    for words in case["says"]:
        assert words in message, message
    assert len(message) < 700


@pytest.mark.parametrize("name", ["a question column that does not exist", "one row", "a prompt file without answers"])
def test_the_command_reports_an_error_in_one_line_and_exits_with_2(name: str, here: Path) -> None:
    case = next(case for case in CASES if case["name"] == name)
    task = {f"task.{key}": value for key, value in write_case(case, here).items()}
    line = refused(selftaught("tasks", "check", "own", *settings(task), cwd=here))
    assert all(words in line for words in case["says"])


def test_a_hub_that_cannot_be_reached_is_one_line_that_names_the_local_way(here: Path) -> None:
    # conftest.py sets HF_HUB_OFFLINE for all tests.
    message = one_line(lambda: own("nobody/no-such-data"))
    assert "nobody/no-such-data: no such file here" in message
    assert "cannot be loaded from the Hugging Face hub" in message
    assert "give a local file (.jsonl" in message


# What is read


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)
VALUES = TEXTS | st.integers() | st.booleans() | st.lists(TEXTS) | st.dictionaries(TEXTS, TEXTS)
OBJECTS = st.lists(st.dictionaries(TEXTS, VALUES, min_size=1), min_size=1, max_size=8)


@given(OBJECTS, st.sampled_from(["\n", "\r\n", "\n\n", "\r\n \r\n"]), st.booleans(), st.booleans(), st.booleans())
def test_any_objects_are_read_back_whatever_the_line_ends(
    tmp_path_factory: pytest.TempPathFactory,
    objects: list[dict[str, Any]],
    end: str,
    has_mark: bool,
    escaped: bool,
    ends: bool,
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    text = end.join(json.dumps(value, ensure_ascii=escaped) for value in objects) + (end if ends else "")
    path.write_bytes((b"\xef\xbb\xbf" if has_mark else b"") + text.encode())
    rows = read_rows(str(path))
    assert [row.values for row in rows] == objects
    step = end.count("\n")
    assert [row.place for row in rows] == [f"{path}:{1 + step * i}" for i in range(len(objects))]


CELLS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)


@given(CELLS, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from([("csv", ","), ("tsv", "\t")]))
def test_any_cells_are_read_back_from_csv(
    tmp_path_factory: pytest.TempPathFactory,
    cells: list[tuple[str, str]],
    end: str,
    has_mark: bool,
    form: tuple[str, str],
) -> None:
    suffix, delimiter = form
    path = tmp_path_factory.mktemp("rows") / f"rows.{suffix}"
    with open(path, "w", encoding="utf-8-sig" if has_mark else "utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("question", "answer"), *cells])
    assert [tuple(row.values.values()) for row in read_rows(str(path))] == cells


def test_the_place_of_a_csv_row_is_the_line_where_it_begins(here: Path) -> None:
    (here / "rows.csv").write_text('question,answer\n"one\ntwo",1\n\nthree,3\n')
    assert [row.place for row in read_rows("rows.csv")] == ["rows.csv:2", "rows.csv:5"]


def test_a_row_of_ten_megabytes_is_read_from_json_and_csv(here: Path) -> None:
    long = "word " * 2_000_000
    write_rows(here / "rows.jsonl", [{"question": long, "answer": 1}])
    (here / "rows.csv").write_text(f"question,answer\n{long},1\n")
    before = csv.field_size_limit()
    assert read_rows("rows.jsonl")[0].values["question"] == long
    assert read_rows("rows.csv")[0].values["question"] == long
    assert csv.field_size_limit() == before


def test_parquet_rows_are_read_with_their_kinds(here: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"q": {"stem": "one?"}, "answer": 1.0, "choices": ["a", "b"]},
        {"q": {"stem": "two?"}, "answer": 2.5, "choices": None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), here / "rows.parquet")
    read = read_rows("rows.parquet")
    assert [dict(row.values) for row in read] == rows
    assert [row.place for row in read] == ["rows.parquet:1", "rows.parquet:2"]
    assert texts(read, "q.stem") == ["one?", "two?"]


def row(**values: Any) -> Row:
    return Row(place="x.jsonl:1", values=values)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("5", "5"),
        (5, "5"),
        (5.0, "5"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (True, "true"),
        (False, "false"),
        (" a ", " a "),
        (10**30, "1" + "0" * 30),
        (Decimal("5.00"), "5"),
        (Decimal("5.50"), "5.5"),
        (Decimal("0E-10"), "0"),
        (Decimal("-0.00"), "0"),
        (Decimal("1E+3"), "1000"),
        (Decimal("12345678901234567890123456789012345.678"), "12345678901234567890123456789012345.678"),
    ],
)
def test_a_value_becomes_the_text_that_json_writes(value: object, text: str) -> None:
    assert as_text(value, "x", "answer") == text


def test_integers_and_fractions_mix_and_gaps_are_empty_where_a_column_is_optional() -> None:
    rows = [row(answer=1), row(answer=None), row(answer=2.5), row()]
    assert optional_texts(rows, "answer") == ["1", "", "2.5", ""]


def test_a_key_with_a_dot_in_its_own_name_wins_over_a_nested_one() -> None:
    assert texts([row(**{"a.b": "flat", "a": {"b": "nested"}})], "a.b") == ["flat"]


@pytest.mark.parametrize(
    "given",
    [
        ["dog", "cat"],
        [{"label": "A", "text": "dog"}, {"label": "B", "text": "cat"}],
        {"label": ["A", "B"], "text": ["dog", "cat"]},
        {"text": ["dog", "cat"]},
        '["dog", "cat"]',
        "['dog', 'cat']",
        {"A": "dog", "B": "cat", "C": None},
        [{"key": "A", "value": "dog"}, {"key": "B", "value": "cat"}],
        "(A) dog (B) cat",
        "A) dog; B) cat",
    ],
)
def test_choices_are_read_in_every_shape_that_data_sets_give_them(given: object) -> None:
    result = choices(row(choices=given), "choices")
    assert (result.texts, result.labels) == (("dog", "cat"), ("A", "B"))


def test_two_choices_may_read_the_same_if_the_label_says_which_is_correct() -> None:
    given = choices(row(choices=["city", "coast", "city"]), "choices")
    assert label_of("C", given, "x") == "C"
    assert "may mean A: 'city' and C: 'city'" in one_line(lambda: label_of("city", given, "x"))


@pytest.mark.parametrize("answer", ["2", "(2)", "2.", " cat ", "CAT"])
def test_an_answer_is_a_choice_by_the_rows_own_label_or_by_its_text(answer: str) -> None:
    assert label_of(answer, Choices(texts=("dog", "cat"), labels=("1", "2")), "x") == "B"


# How rows are split


@given(st.integers(20, 80), st.integers(1, 20), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_new_row_moves_no_other_and_the_order_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, number: int, more: int, data_seed: int, rng: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    rows = [{"question": f"what is {n} + {n}?", "answer": 2 * n} for n in range(number + more)]
    few = questions(own(write_rows(folder / "few.jsonl", rows[:number]), data_seed=data_seed))
    rng.shuffle(rows)
    many = questions(own(write_rows(folder / "many.jsonl", rows), data_seed=data_seed))
    # A split has at least one row even if none is in its share; a row in the share replaces that one.
    if len(few["dev"]) > 1 and len(few["test"]) > 1:
        assert few["dev"] <= many["dev"]
        assert few["test"] <= many["test"]
    assert not many["dev"] & many["test"]
    assert set.union(*many.values()) == {row["question"] for row in rows}


def test_by_default_dev_and_test_take_a_tenth_each_and_at_most_500(tmp_path: Path) -> None:
    rows = [{"question": f"what is {n} + 1?", "answer": n + 1} for n in range(6000)]
    task = own(write_rows(tmp_path / "rows.jsonl", rows[:1000]))
    assert 70 < len(task.dev) < 130
    assert 70 < len(task.test) < 130
    task = own(write_rows(tmp_path / "rows.jsonl", rows))
    assert (len(task.dev), len(task.test), len(task.train)) == (500, 500, 5000)


def test_splits_have_the_sizes_that_the_settings_say(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ADDITIONS)
    task = own(data, dev_rows=2, test_rows=3)
    assert (len(task.dev), len(task.test), len(task.train)) == (2, 3, 5)
    assert questions(own(data, dev_rows=2, test_rows=3, data_seed=1)) != questions(task)


def test_splits_that_have_files_are_those_files(tmp_path: Path) -> None:
    task = own(
        write_rows(tmp_path / "train.jsonl", ADDITIONS[:5]),
        dev_data=write_rows(tmp_path / "dev.jsonl", ADDITIONS[5:7]),
        test_data=write_rows(tmp_path / "test.jsonl", ADDITIONS[7:]),
    )
    assert [len(task.split(name)) for name in ("train", "dev", "test")] == [5, 2, 3]


def test_a_row_that_is_a_few_shot_example_is_in_no_split_and_a_note_says_so(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ADDITIONS)
    measured = {*questions(own(data))["dev"], *questions(own(data))["test"]}
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("\n\n".join(f"Q: {q}\nA: As it is. The answer is 1" for q in sorted(measured)))
    task = own(data, prompt_file=str(prompt))
    left = questions(task)
    assert not measured & {*left["train"], *left["dev"], *left["test"]}
    assert len(task.few_shot) == len(measured)
    assert sum(map(len, left.values())) == len(ADDITIONS) - len(measured)
    (note,) = task.notes
    assert f"they are few-shot examples in the prompt: {len(measured)} (" in note
    assert own(data).notes == ()


# The text of prompts and completions


def test_a_hint_follows_its_question_and_the_answer_has_a_line_of_its_own(tmp_path: Path) -> None:
    rows = [{**row, "rationale": "Twice.\r\n\r\nSo.", "class": "sums"} for row in ADDITIONS]
    task = own(write_rows(tmp_path / "rows.jsonl", rows))
    problem = next(p for p in task.examples_and_problems() if p.question == "what is 3 + 3?")
    assert problem.class_name == "sums"
    assert render_prompt(task.prompt_format, problem, hint=False) == "Q: what is 3 + 3?\nA:"
    assert render_prompt(task.prompt_format, problem, hint=True) == "Q: what is 3 + 3? (Hint: the answer is 6.)\nA:"
    assert render_completion(task.prompt_format, problem) == " Twice.\nSo.\nThe answer is 6"


def test_choices_have_labels_and_the_hint_marks_the_correct_one(tmp_path: Path) -> None:
    rows = [{"question": f"pet {n}?", "answer": "cat", "choices": ["dog", "cat"]} for n in range(10)]
    task = own(write_rows(tmp_path / "rows.jsonl", rows))
    problem = task.train[0]
    assert problem.answer == "B"
    prompt = render_prompt(task.prompt_format, problem, hint=True)
    assert prompt == f"Q: {problem.question}\n(A) dog\n(B) cat (correct)\nA:"
    assert render_completion(task.prompt_format, problem) == " The answer is (B)"
    assert task.verifier(" Cats purr.\nThe answer is (B)", problem).verdict == "correct"


def test_answers_that_hold_solutions_are_split_at_the_marker(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"First {n}.\nThen #### {n}"} for n in range(10)]
    task = own(write_rows(tmp_path / "rows.jsonl", rows), answer_marker="####", verifier="numeric")
    problem = next(p for p in task.examples_and_problems() if p.question == "3?")
    assert (problem.rationale, problem.answer) == ("First 3.\nThen", "3")
    assert render_completion(task.prompt_format, problem) == " First 3.\nThen\n#### 3"


def test_a_marker_may_hold_braces(tmp_path: Path) -> None:
    task = own(write_rows(tmp_path / "rows.jsonl", ADDITIONS), answer_marker="{final}:")
    assert render_completion(task.prompt_format, replace(task.train[0], answer="8")).endswith("{final}: 8")


def test_answers_can_be_judged_by_a_pattern_and_by_ones_own_function(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ADDITIONS)
    judge = "def judge(completion, problem):\n    return completion.strip().endswith(problem.answer)\n"
    (tmp_path / "judge.py").write_text(judge)
    for how in (
        {"verifier": "regex", "answer_pattern": r"answer is (\d+)"},
        {"verifier": "python", "verifier_function": f"{tmp_path / 'judge.py'}:judge"},
    ):
        task = own(data, **how)
        problem = task.train[0]
        assert task.verifier(render_completion(task.prompt_format, problem), problem).verdict == "correct"
        assert task.verifier(" The answer is 99", problem).verdict == "incorrect"


def test_ids_are_the_rows_own_or_depend_on_the_question_alone(tmp_path: Path) -> None:
    named = own(write_rows(tmp_path / "rows.jsonl", [{**row, "id": n} for n, row in enumerate(ADDITIONS)]))
    assert {p.id for p in named.examples_and_problems()} == {str(n) for n in range(10)}
    plain = own(write_rows(tmp_path / "rows.jsonl", ADDITIONS))
    changed = own(write_rows(tmp_path / "rows.jsonl", [{**row, "answer": 1, "class": "x"} for row in ADDITIONS[::-1]]))
    assert {(p.question, p.id) for p in plain.examples_and_problems()} == {
        (p.question, p.id) for p in changed.examples_and_problems()
    }


def test_two_questions_that_read_the_same_with_other_choices_are_two_problems(tmp_path: Path) -> None:
    rows = [{"question": "which one?", "answer": "A", "choices": [f"dog {n}", "cat"]} for n in range(10)]
    assert len(own(write_rows(tmp_path / "rows.jsonl", rows)).examples_and_problems()) == 10


@given(st.lists(st.text(st.characters(categories=("L", "N", "P")), min_size=1)))
def test_folding_ignores_case_and_white_space(words: list[str]) -> None:
    assert fold("  " + "\t\n".join(words) + " ") == " ".join(words).casefold()


# The fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"question": "what?"},
        {"answer": "0"},
        {"id": "other"},
        {"class_name": "x"},
        {"rationale": "so"},
        {"choices": ("a", "b")},
    ],
)
@pytest.mark.parametrize("split", ["few_shot", "train", "dev", "test"])
def test_the_fingerprint_changes_with_any_field_of_any_problem(change: dict[str, Any], split: str) -> None:
    from toy import toy_task

    task = toy_task()
    problems = getattr(task, split)
    other = replace(task, **{split: (replace(problems[0], **change), *problems[1:])})
    assert data_sha256(other) != data_sha256(task) == data_sha256(toy_task())


@pytest.mark.parametrize("number", [0, 1, 255, 256, 257, 1000])
def test_the_fingerprint_is_the_sha256_of_every_split_as_json_however_many_problems_it_has(number: int) -> None:
    from toy import toy_problem, toy_task

    task = toy_task(train=tuple(toy_problem(f"word{k}", "easy\n") for k in range(number)))
    parts = {"few_shot": task.few_shot, **{split: task.split(split) for split in SPLITS}}
    written = [json.dumps([name, [list(asdict(p).values()) for p in problems]]) for name, problems in parts.items()]
    assert data_sha256(task) == hashlib.sha256("".join(written).encode()).hexdigest()

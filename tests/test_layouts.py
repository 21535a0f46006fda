"""The layouts that users' files have: what `init` decides for each, and its message where it cannot decide."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from builders import json_case
from selftaught.commands.check_task import check_task
from selftaught.commands.init import write_starter
from selftaught.commands.run import check_before_start
from selftaught.config.loading import load_config, parse_overrides
from selftaught.records.errors import ConfigError, RefusedError, StoreError
from selftaught.records.problems import Task
from selftaught.tasks import load_task
from selftaught.tasks.own.settings import OwnConfig
from selftaught.tasks.rows.prompt_file import few_shot_examples_in

LAYOUTS: list[dict[str, Any]] = json_case("layouts.json")
REFUSED: list[dict[str, Any]] = json_case("layouts_refused.json")
ROWS = 24

SHARED = Path(__file__).parents[2] / "shared" / "cases"
shared_cases = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of shared cases is not here")


def filled(value: Any, n: int) -> Any:
    """The row of a case with its numbers: {n}, and {m} for one more."""
    if isinstance(value, str):
        return value.replace("{n}", str(n)).replace("{m}", str(n + 1))
    if isinstance(value, list):
        return [filled(inner, n) for inner in value]
    if isinstance(value, dict):
        return {key: filled(inner, n) for key, inner in value.items()}
    return value


def rows_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    cycle = case.get("cycle", {})
    return [
        {
            key: filled(cycle[key][n % len(cycle[key])] if key in cycle else value, n)
            for key, value in case["row"].items()
        }
        for n in range(ROWS)
    ]


def write_case(case: dict[str, Any], folder: Path) -> Path:
    rows = rows_of(case)
    path = folder / f"rows.{case.get('file', 'jsonl')}"
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def begin(data: Path, overrides: tuple[str, ...] = (), **given: str) -> tuple[str, Path]:
    """What `init` prints, and its config, with the rationales filled in as a user would."""
    printed = write_starter(str(data), data.parent, overrides=parse_overrides(overrides), **given)
    prompt = data.parent / f"{data.stem}-prompt.toml"
    prompt.write_text(prompt.read_text(encoding="utf-8").replace('rationale = ""', 'rationale = "It is so."'), "utf-8")
    return printed, data.parent / f"{data.stem}.toml"


def all_problems(task: Task) -> list[Any]:
    return [*task.few_shot, *task.train, *task.dev, *task.test]


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda case: case["name"])
def test_a_layout_is_read_as_its_columns_are_meant(case: dict[str, Any], tmp_path: Path) -> None:
    printed, path = begin(write_case(case, tmp_path), **case.get("given", {}))
    config = load_config(str(path))
    given = config.task
    assert isinstance(given, OwnConfig)
    usual = type(given).model_fields
    wanted = {"data": given.data, "prompt_file": given.prompt_file, **case["settings"]}
    unusual = {key: value for key, value in given.model_dump().items() if value != usual[key].default}
    assert unusual == wanted
    task = load_task(config.task)
    same_question = [p for p in all_problems(task) if p.question == case["question"]]
    assert len(same_question) == case.get("of", 1)
    problem = next(p for p in same_question if list(p.choices) == case.get("choices", []))
    assert problem.answer == case["answer"]
    if "rationale" in case and problem not in task.few_shot:
        assert problem.rationale == case["rationale"]
    unused = case.get("unused", [])
    assert (f"columns not used: {', '.join(unused)}\n" in printed) == bool(unused)
    assert case.get("says", "") in path.read_text(encoding="utf-8")
    assert check_task(str(path)).refusals == ()
    check_before_start(config, task)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_a_layout_that_is_not_clear_is_refused_in_one_line_that_says_what_to_do(
    case: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, RefusedError)) as caught:
        begin(write_case(case, tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500 or caught.type is RefusedError  # it lists rows
    for words in case["says"]:
        assert words in message
    assert not (tmp_path / "rows.toml").exists()


def test_a_column_that_no_row_explains_is_read_as_the_user_says(tmp_path: Path) -> None:
    case = next(case for case in REFUSED if case["name"].startswith("numbers that count"))
    _, path = begin(write_case(case, tmp_path), ("task.answer_is=index1",))
    assert 'answer_is = "index1"' in path.read_text()
    assert {p.answer for p in all_problems(load_task(load_config(str(path)).task))} == {"A", "B"}


def test_init_refuses_a_setting_that_does_not_describe_rows(tmp_path: Path) -> None:
    data = write_case(LAYOUTS[0], tmp_path)
    for setting in ("loop.patience=2", "task.data=x"):
        with pytest.raises(ConfigError, match=r"takes settings of \[task\] that say how rows are read"):
            begin(data, (setting,))


# How answers are compared


@pytest.mark.parametrize(
    "answer",
    [
        "from $3 to $5",
        "$3-$5",
        "US$3 or CA$4",
        "C:\\Users\\ann",
        "\\\\server\\share",
        "costs $5, not $6",
        "a_b and c^d",
        "A$5-or-B$",
    ],
)
def test_signs_that_formulas_share_with_other_texts_are_no_latex(answer: str, tmp_path: Path) -> None:
    printed, _ = begin(write_case({"row": {"question": "Which, in case {n}?", "answer": answer}}, tmp_path))
    assert "verifier exact" in printed


def test_a_formula_among_words_does_not_make_the_words_formulas(tmp_path: Path) -> None:
    rows = {"question": "Which, in case {n}?", "answer": ""}
    printed, _ = begin(write_case({"row": rows, "cycle": {"answer": ["$x^2$", "shop {n}", "house {n}"]}}, tmp_path))
    assert "verifier exact, because 0 of 24 answers are numbers" in printed
    assert "8 hold LaTeX" in printed


@pytest.mark.parametrize(
    "answer", ["$x = 3$", "\\frac{{n}}{7}", "x^{2}", "$AB$", "5\\%", "\\text{yes}", "$3$", "\\(x\\) is \\pi", "a_{1}"]
)
def test_formulas_are_latex_also_beside_numbers(answer: str, tmp_path: Path) -> None:
    rows = {"question": "Which, in case {n}?", "answer": "{n}"}
    printed, _ = begin(write_case({"row": rows, "cycle": {"answer": ["{n}", answer, "x+{n}"]}}, tmp_path))
    assert "verifier math" in printed


@pytest.mark.parametrize(
    "answers",
    [
        *(["1\u202f100", "2\u00a0000", "3\u2009000.5"], ["5 %", "€5", "5 €"], ["1e5", "1/2", "-3"], ["５", "½"]),
        *(["5 (plums)", "7"], ["\u22125", "+5", "1,100"]),
    ],
)
def test_answers_are_numbers_if_the_verifier_reads_nothing_else_in_them(answers: list[str], tmp_path: Path) -> None:
    rows = {"question": "Which, in case {n}?", "answer": ""}
    assert "verifier numeric" in begin(write_case({"row": rows, "cycle": {"answer": answers}}, tmp_path))[0]


@pytest.mark.parametrize("gap", ["NA", "n/a", "None", "NaN", "-", "?"])
def test_a_gap_among_numbers_is_refused_until_the_user_says_that_it_is_an_answer(gap: str, tmp_path: Path) -> None:
    row = {"question": "Which, in case {n}?", "answer": ""}
    data = write_case({"row": row, "cycle": {"answer": [*map(str, range(11)), gap]}}, tmp_path)
    with pytest.raises(ConfigError, match=r"rows\.jsonl:12: the answer .* stands for no value"):
        begin(data)
    assert "verifier exact, because as given" in begin(data, ("task.verifier=exact",))[0]


def test_init_writes_a_pattern_with_its_verifier_and_refuses_one_that_no_verifier_uses(tmp_path: Path) -> None:
    data = write_case({"row": {"question": "Which, in case {n}?", "answer": "{n}"}}, tmp_path)
    pattern = "task.answer_pattern=is (.*)"
    with pytest.raises(ConfigError, match=r"answer_pattern is set, but only task\.verifier = 'regex' uses it"):
        begin(data, (pattern,))
    given = load_config(str(begin(data, ("task.verifier=regex", pattern))[1])).task
    assert isinstance(given, OwnConfig)
    assert (given.verifier, given.answer_pattern) == ("regex", "is (.*)")


# Files that exist already


def test_init_reports_a_link_to_nothing_in_place_of_its_file(tmp_path: Path) -> None:
    data = write_case(LAYOUTS[0], tmp_path)
    (tmp_path / "rows.toml").symlink_to("gone.toml")
    with pytest.raises(ConfigError, match=r"rows\.toml is a symbolic link to gone\.toml, which is not there; move it"):
        begin(data)


def test_a_folder_that_is_a_link_to_nothing_is_called_one(tmp_path: Path) -> None:
    data = write_case(LAYOUTS[0], tmp_path)
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(StoreError, match=r"out is a symbolic link to .*gone, which is not there"):
        write_starter(str(data), tmp_path / "out")


# The shared cases: files that once were read wrongly


def start_shared(name: str, folder: Path, *overrides: str) -> tuple[str, Task]:
    shutil.copy(SHARED / name, folder / name)
    printed, path = begin(folder / name, overrides)
    config = load_config(str(path))
    assert check_task(str(path)).refusals == ()
    return printed, load_task(config.task)


@shared_cases
def test_the_shared_case_of_numbers_over_numeric_choices_is_refused_until_the_user_decides(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"jsonl:1: the answer '1' may mean .* set task\.answer_is"):
        start_shared("F20_index_answers_over_numeric_choices.jsonl", tmp_path)
    _, task = start_shared("F20_index_answers_over_numeric_choices.jsonl", tmp_path, "task.answer_is=index0")
    for p in all_problems(task):
        assert p.choices["ABCD".index(p.answer)] == str(int(p.question.split()[2]) % 4)


@shared_cases
def test_the_shared_case_of_one_numeric_row_is_read_like_the_others(tmp_path: Path) -> None:
    _, task = start_shared("F20_one_numeric_row.jsonl", tmp_path)
    assert {p.question: p.answer for p in all_problems(task)}["Name of part 3?"] == "D"


@shared_cases
@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("F21_body_column_ignored.jsonl", "A crate has 7 plums and 2 are eaten.\nHow many are left? (house 0)"),
        ("F21_instruction_ignored.jsonl", "How many are left?\nA crate has 8 plums and 3 are eaten."),
        ("F21_choice_columns_ABCD_ignored.csv", "Which part of house 2 keeps rain off?"),
        ("F24_pretty_array.json", "A crate has 7 plums and 2 are eaten. How many are left?"),
        ("F40_empty_input_guessed.jsonl", "A crate has 7 plums and 2 are eaten. How many are left?"),
        ("F43_prices_taken_for_latex.jsonl", "A crate has 7 plums and 2 are eaten. How many are left?"),
        ("A_semicolon.csv", "A crate has 7 plums and 2 are eaten. How many are left?"),
        ("A_unnamed_index_column.csv", "A crate has 7 plums and 2 are eaten. How many are left?"),
    ],
)
def test_the_shared_layouts_are_read(name: str, question: str, tmp_path: Path) -> None:
    printed, task = start_shared(name, tmp_path)
    (problem,) = [p for p in all_problems(task) if p.question == question]
    assert "verifier math" not in printed
    if "ABCD" in name:
        assert problem.choices[int("ABCD".index(problem.answer))] == "a roof"


@shared_cases
def test_the_shared_float32_answers_are_as_they_were_written(tmp_path: Path) -> None:
    _, task = start_shared("F22_float32_answers.parquet", tmp_path)
    assert {float(p.answer) * 10 == int(p.question.split()[3]) for p in all_problems(task)} == {True}
    assert max(len(p.answer) for p in all_problems(task)) == 3


@shared_cases
def test_the_shared_latex_slip_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"formfeed\.jsonl:1: .*\\frac seems to be meant"):
        start_shared("F23_latex_slip_formfeed.jsonl", tmp_path)


@shared_cases
def test_the_shared_choices_lose_their_own_labels(tmp_path: Path) -> None:
    _, task = start_shared("F42_choices_with_own_labels.jsonl", tmp_path)
    assert {p.choices for p in all_problems(task)} >= {("5", "6", "7", "8", "9")}


@shared_cases
def test_the_shared_duplicates_are_all_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"6 rows ask what an earlier row asks.*:2 \(as 1\).*:12 \(as 11\)"):
        start_shared("A_duplicates_one_at_a_time.jsonl", tmp_path)


@shared_cases
@pytest.mark.parametrize("name", ["A_prompt_choices_on_one_line.txt", "F36_prompt_text_with_label.txt"])
def test_the_shared_prompt_files_are_read(name: str) -> None:
    examples = few_shot_examples_in(str(SHARED / name))
    assert examples[0].question == "What do people use to hold loose papers together?"
    assert examples[0].choices == ("clip", "cup", "lamp", "chair", "shoe")
    assert [p.answer for p in examples] == ["A", "B"][: len(examples)]

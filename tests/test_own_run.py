"""From a data file to a run: init, the prompt file filled in, tasks check, run, and the data changed under it."""

import json
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import LEAST
from selftaught.commands.check_task import check_task
from selftaught.commands.init import write_starter
from selftaught.commands.run import with_absolute_paths
from selftaught.commands.show import matching_samples, regraded
from selftaught.config.loading import (
    config_from_values,
    flatten,
    known_keys,
    load_config,
)
from selftaught.records.errors import ConfigError
from selftaught.records.problems import Problem
from selftaught.tasks import load_task
from selftaught.tasks.near_duplicates import THRESHOLD, near_duplicates, shingles
from test_cli import refused, selftaught, settings
from test_layouts import LAYOUTS, rows_of

ADDITIONS = [{"question": f"{a} + {b}", "answer": a + b} for a in range(10) for b in range(a, 10)]
SETTINGS = {
    "model.path": "builtin:adder",
    "sampling.max_new_tokens": 24,
    "training.num_rehearsed": 2,
    "training.steps_first_iteration": 2,
    "training.batch_size": 2,
    "training.learning_rate": 1e-5,
    "task.problems_per_iteration": 4,
    "loop.max_iterations": 1,
    "compute.threads": 1,
}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def fill_in(prompt: Path) -> None:
    """What a person does with the prompt file."""
    prompt.write_text(prompt.read_text().replace('rationale = ""', 'rationale = "Count on from the first number."'))


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which somebody went from rows.jsonl to a finished run, with relative paths."""
    folder = tmp_path_factory.mktemp("own")
    write_rows(folder / "rows.jsonl", ADDITIONS)
    done = selftaught("init", "rows.jsonl", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "init.txt").write_text(done.stdout)
    unfilled = selftaught("run", "rows.toml", *settings(SETTINGS), cwd=folder)
    assert "rows-prompt.toml:6: the rationale of the example is empty; fill in the prompt file" in refused(unfilled)
    assert not (folder / "runs").exists()
    fill_in(folder / "rows-prompt.toml")
    done = selftaught("run", "rows.toml", "--run-dir", "run", *settings(SETTINGS), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_init_says_what_to_do_next(began: Path) -> None:
    printed = (began / "init.txt").read_text()
    assert "wrote rows.toml and rows-prompt.toml" in printed
    assert "verifier numeric, because all 55 answers are numbers" in printed
    assert "selftaught tasks check rows.toml" in printed
    assert "selftaught run rows.toml" in printed


def test_a_run_on_ones_own_rows_trains_and_measures(began: Path) -> None:
    about = json.loads((began / "run" / "run.json").read_text())
    assert about["config"]["task.data"] == str(began / "rows.jsonl")
    assert about["config"]["task.prompt_file"] == str(began / "rows-prompt.toml")
    (iteration,) = [json.loads(line) for line in (began / "run" / "iterations.jsonl").read_text().splitlines()]
    assert iteration["examples_by_source"]["rehearsed"] >= 2
    assert iteration["dev"]["task"] == "own"


def test_a_run_is_carried_on_and_judged_again_from_another_folder(began: Path, tmp_path: Path) -> None:
    for command in (["run", "--resume"], ["regrade"], ["show"]):
        done = selftaught(*command, str(began / "run"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_the_same_config_is_the_same_run_and_another_one_is_refused(began: Path) -> None:
    again = selftaught("run", "rows.toml", "--run-dir", "run", *settings(SETTINGS), cwd=began)
    assert again.returncode == 0, again.stderr
    other = selftaught("run", "rows.toml", "--run-dir", "run", *settings({**SETTINGS, "task.dev_rows": 3}), cwd=began)
    assert "task.dev_rows = None, now 3" in refused(other)


@pytest.fixture
def changed(began: Path) -> Iterator[Path]:
    """The run's folder while its data has a row more."""
    rows = began / "rows.jsonl"
    before = rows.read_bytes()
    write_rows(rows, [*ADDITIONS, {"question": "10 + 10", "answer": 20}])
    yield began / "run"
    rows.write_bytes(before)


@pytest.mark.parametrize("command", ["run --resume", "eval"])
def test_a_run_whose_data_was_changed_is_not_carried_on_or_measured(command: str, changed: Path) -> None:
    line = refused(selftaught(*command.split(), str(changed)))
    assert "was started on other problems" in line
    assert "the data or the prompt file was changed" in line


def test_a_run_whose_data_was_changed_is_judged_again_and_shown_with_the_problems_that_it_was_started_on(
    changed: Path,
) -> None:
    assert [now for _, _, now in regraded(changed) if now is not None] == []
    answers = {row["question"]: str(row["answer"]) for row in ADDITIONS}
    for shown in matching_samples(changed, {}, limit=3, with_prompts=True):
        assert shown.prompt is not None
        assert shown.answer == answers[shown.prompt.text.rpartition("Q: ")[2].partition("\n")[0]]


def test_tasks_check_reports_the_task_of_a_config(began: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = selftaught("tasks", "check", "rows.toml", "--set", "model.path=builtin:adder", cwd=began)
    assert done.returncode == 0, done.stderr
    assert "lengths_in: tokens of builtin:adder" in done.stdout
    for prompt in ("# a prompt (problem", "# the same with its hint (problem", "# a row that is trained on"):
        assert prompt in done.stdout
    monkeypatch.chdir(began)
    checked = check_task("rows.toml")
    assert checked.refusals == ()
    facts = json.loads(json.dumps(checked.facts))
    assert sum(facts[split]["problems"] for split in ("train", "dev", "test")) == 55 - 4
    (left_out,) = facts["left_out"]["first"]
    assert "because they are few-shot examples in the prompt: 4 (" in left_out
    assert facts["failing_answers"] == {"number": 0, "first": []}
    assert facts["lengths_in"].startswith("words (no tokenizer: model.path = './model'")
    assert facts["few_shot_examples"]["there"] == 4
    plain, hinted, row = checked.prompts.values()
    assert "Hint: the answer is" not in plain
    assert "Hint: the answer is" in hinted
    assert "⟨from here on with loss⟩ Count on from the first number.\nThe answer is" in row


def test_without_a_prompt_file_there_are_no_few_shot_examples(began: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(began)
    with pytest.raises(
        ConfigError, match=r"sampling\.num_shots = 2, but task 'own' has 0 few-shot examples.*selftaught init"
    ):
        check_task("own", ["task.data=rows.jsonl", "sampling.num_shots=2"])


def test_tasks_check_counts_every_answer_that_fails_and_names_rows(tmp_path: Path) -> None:
    rows = [*ADDITIONS[:20], {"question": "two + two", "answer": "four"}, {"question": "one + two", "answer": "three"}]
    write_rows(tmp_path / "rows.jsonl", [{**row, "answer": str(row["answer"])} for row in rows])
    overrides = settings({"task.data": "rows.jsonl", "task.verifier": "numeric"})
    done = selftaught("tasks", "check", "own", *overrides, "--json", cwd=tmp_path)
    assert "2 reference answers or human solutions fail, first rows.jsonl:2" in refused(done)
    failing = json.loads(done.stdout)["failing_answers"]
    assert failing["number"] == 2
    assert {line.partition(": ")[0] for line in failing["first"]} == {"rows.jsonl:21", "rows.jsonl:22"}


def test_tasks_check_names_prompts_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*ADDITIONS[:20], {"question": " + ".join("1" * 600), "answer": 600}]
    write_rows(tmp_path / "rows.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    checked = check_task("own", ["task.data=rows.jsonl"])
    (refusal,) = checked.refusals
    assert "1 prompts and sampling.max_new_tokens = 256 exceed the model's context of 1024" in refusal
    assert checked.facts["prompts_that_do_not_fit"] == {"number": 1, "first": ["rows.jsonl:21"]}


def test_tasks_check_refuses_what_is_neither_a_task_nor_a_file() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown task 'nothing', and no such config file; known tasks: arithmetic, .*own"
    ):
        check_task("nothing")


# What init guesses


CASES = [
    ("numbers", [{"question": f"q{n}", "answer": f"${n},000.50"} for n in range(20)], {"verifier": "numeric"}),
    ("words", [{"question": f"q{n}", "answer": "yes" if n % 2 else "no"} for n in range(20)], {"verifier": "exact"}),
    (
        "one word among numbers",
        [{"question": f"q{n}", "answer": "two" if n == 2 else str(n)} for n in range(20)],
        {"verifier": "exact"},
    ),
    (
        "formulas",
        [{"problem": f"q{n}", "answer": f"\\frac{{{n}}}{{7}}"} for n in range(20)],
        {"verifier": "math", "question_key": "problem"},
    ),
    (
        "solutions that end on a number",
        [{"question": f"q{n}", "answer": f"It is so.\n#### {n}"} for n in range(20)],
        {"verifier": "numeric", "answer_marker": "####"},
    ),
    (
        "choices in nested objects",
        [
            {
                "id": f"r{n}",
                "answerKey": "AB"[n % 2],
                "question": {"stem": f"q{n}", "choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]},
            }
            for n in range(20)
        ],
        {
            "verifier": "choice",
            "question_key": "question.stem",
            "answer_key": "answerKey",
            "choices_key": "question.choices",
        },
    ),
    (
        "other names",
        [
            {"prompt": f"q{n}", "target": n, "category": "ab"[n % 2], "uid": n, "solution": f"Count to {n}."}
            for n in range(20)
        ],
        {
            "verifier": "numeric",
            "question_key": "prompt",
            "answer_key": "target",
            "class_key": "category",
            "id_key": "uid",
            "rationale_key": "solution",
        },
    ),
    (
        "choices, and no usual name",
        [
            {"problem": f"q{n}", "options": ["x", "y"], "target": "AB"[n % 2], "category": "ab"[n % 2], "uid": f"u{n}"}
            | {"solution": f"Count to {n}."}
            for n in range(20)
        ],
        {
            "verifier": "choice",
            "question_key": "problem",
            "answer_key": "target",
            "choices_key": "options",
            "class_key": "category",
            "id_key": "uid",
            "rationale_key": "solution",
        },
    ),
    (
        "ids that repeat",
        [{"question": f"q{n}", "answer": n, "id": n // 2} for n in range(20)],
        {"verifier": "numeric", "id_key": False},
    ),
]


@pytest.mark.parametrize(("rows", "guessed"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_init_guesses_the_columns_and_the_verifier_and_its_config_loads(
    rows: list[dict[str, Any]], guessed: dict[str, object], tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows)
    write_starter(str(data), tmp_path / "out")
    config = load_config(str(tmp_path / "out" / "rows.toml"), ["model.path=x"])
    settings = config.task.model_dump()
    usual = type(config.task).model_fields
    assert guessed == {
        key: value
        for key, value in settings.items()
        if (key.endswith("_key") or key in ("verifier", "answer_marker")) and value != usual[key].default
    }
    fill_in(tmp_path / "out" / "rows-prompt.toml")
    task = load_task(config.task)
    assert len(task.few_shot) == config.sampling.num_shots == 4
    assert not {example.question for example in task.few_shot} & {p.question for p in (*task.dev, *task.test)}


ROWS = {name: rows for name, rows, _ in CASES} | {
    case["name"]: rows_of(case) for case in LAYOUTS if case.get("file", "jsonl") == "jsonl"
}


@pytest.mark.parametrize("name", ROWS)
def test_init_writes_at_most_fifteen_keys_and_none_with_its_default(name: str, tmp_path: Path) -> None:
    write_starter(str(write_rows(tmp_path / "rows.jsonl", ROWS[name])), tmp_path)
    text = (tmp_path / "rows.toml").read_text(encoding="utf-8")
    written = flatten(tomllib.loads(text), "rows.toml")
    assert len(written) <= 15
    defaults = {key: field.default for key, field in known_keys().items()}
    assert not [key for key, value in written.items() if value == defaults[key]]
    (line,) = [line for line in text.splitlines() if line.startswith("learning_rate = ")]
    assert "for a model of" in line.partition("#")[2]


def test_false_leaves_out_a_column_of_a_usual_name(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{n}", "answer": "x", "id": f"r{n}", "class": "ab"[n % 2], "choices": ["x", "y"]}
        | {"rationale": f"Count to {n}."}
        for n in range(20)
    ]
    values = {**LEAST, "task.name": "own", "task.data": str(write_rows(tmp_path / "rows.jsonl", rows))}
    columns = {f"task.{name}_key": False for name in ("id", "class", "choices", "rationale")}
    used, left_out = (load_task(config_from_values(each).task).train[0] for each in (values, {**values, **columns}))
    assert (used.id[0], used.choices, used.answer) == ("r", ("x", "y"), "A")
    assert used.class_name in ("a", "b")
    assert used.rationale.startswith("Count")
    assert left_out.id[0] != "r"
    assert (left_out.choices, left_out.answer, left_out.class_name, left_out.rationale) == ((), "x", "all", "")
    with pytest.raises(ConfigError, match=r"have none \(task\.choices_key = false\); set task\.choices_key"):
        load_task(config_from_values({**values, **columns, "task.answer_is": "label"}).task)


def test_solutions_in_two_columns_are_refused_until_one_is_left_out(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": f"So.\n#### {n}", "rationale": "Other."} for n in range(20)]
    values = {**LEAST, "task.name": "own", "task.data": str(write_rows(tmp_path / "rows.jsonl", rows))}
    values |= {"task.answer_marker": "####"}
    with pytest.raises(ConfigError, match=r"set task\.rationale_key = false to leave those out"):
        load_task(config_from_values(values).task)
    task = load_task(config_from_values({**values, "task.rationale_key": False}).task)
    assert {problem.rationale for problem in task.train} == {"So."}


def test_the_examples_of_a_prompt_file_with_choices_do_not_favour_a_label(tmp_path: Path) -> None:
    choices = ["dog", "cat"]
    rows = [{"question": f"q{n}", "answer": choices[n > 15], "choices": choices} for n in range(30)]
    write_starter(str(write_rows(tmp_path / "rows.jsonl", rows)), tmp_path)
    examples = tomllib.loads((tmp_path / "rows-prompt.toml").read_text())["example"]
    assert sorted(example["answer"] for example in examples) == ["cat", "cat", "dog", "dog"]


def test_any_text_survives_the_prompt_file(tmp_path: Path) -> None:
    odd = 'a "quoted" \\path\\ \u200b tab\t é ☃ \U0001f600 # no comment\nnext line'
    rows = [{"question": f"{odd} {n}", "answer": odd, "rationale": odd} for n in range(20)]
    write_starter(str(write_rows(tmp_path / "rows.jsonl", rows)), tmp_path)
    config = load_config(str(tmp_path / "rows.toml"))
    assert {example.rationale for example in load_task(config.task).few_shot} == {odd}


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ADDITIONS)
    (tmp_path / "rows-prompt.toml").write_text("mine")
    with pytest.raises(ConfigError, match=r"rows-prompt\.toml: there already"):
        write_starter(str(data), tmp_path)
    assert (tmp_path / "rows-prompt.toml").read_text() == "mine"
    assert not (tmp_path / "rows.toml").exists()


def test_init_asks_for_the_column_that_it_cannot_guess(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"left": f"q{n}", "right": n} for n in range(20)])
    with pytest.raises(
        ConfigError, match=r"rows\.jsonl:1: .* holds the question among 'left', 'right'.*--question-key"
    ):
        write_starter(str(data), tmp_path)
    write_starter(str(data), tmp_path, question_key="left", answer_key="right")
    assert load_config(str(tmp_path / "rows.toml")).task.question_key == "left"


# Near-duplicates


def problem(id: str, question: str) -> Problem:
    return Problem(id=id, question=question, answer="1")


SENTENCE = "a farmer has twelve brown hens and each hen lays one egg on every day of the long week"


def test_questions_that_differ_in_a_word_are_near_and_others_are_not() -> None:
    others = ("other", "how many legs have three dogs and two cats together"), ("near", f"{SENTENCE} here")
    train = [problem(id, question) for id, question in others]
    (pair,) = near_duplicates({"train": train, "test": [problem("t", SENTENCE.upper())]}, ("test",))
    assert (pair.problem.id, pair.other.id, pair.other_split) == ("t", "near", "train")
    assert pair.likeness == pytest.approx(17 / 18)


def test_the_quick_search_gives_what_comparing_all_pairs_gives() -> None:
    rng, words = random.Random(0), SENTENCE.split()

    def question() -> str:
        return " ".join(word if rng.random() > 0.04 else rng.choice(words) for word in words)

    splits = {name: [problem(f"{name}{i}", question()) for i in range(60)] for name in ("train", "dev", "test")}
    pairs = {(p.problem.id, p.other.id) for p in near_duplicates(splits, ("test", "dev"))}
    expected = set()
    for measured, others in (("test", ("train", "dev")), ("dev", ("train",))):
        for p in splits[measured]:
            for other in (q for name in others for q in splits[name]):
                a, b = shingles(p), shingles(other)
                if len(a & b) / len(a | b) >= THRESHOLD:
                    expected.add((p.id, other.id))
    assert pairs == expected
    assert 100 < len(pairs) < 60 * 60 * 3


@pytest.mark.parametrize("answers", [["1,5"] * 30, ["1/0"] * 30])
def test_answers_that_the_numeric_verifier_does_not_read_are_not_guessed_to_be_numbers(
    answers: list[str], tmp_path: Path
) -> None:
    rows = [{"question": f"number {i}?", "answer": answer} for i, answer in enumerate(answers)]
    assert "verifier exact" in write_starter(str(write_rows(tmp_path / "rows.jsonl", rows)), tmp_path)


def test_a_question_with_a_blank_line_makes_a_prompt_file_that_can_be_read(tmp_path: Path) -> None:
    rows = [{"question": f"Given {i}.\n\nHow many?", "answer": i, "rationale": "So."} for i in range(30)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    write_starter(str(data), tmp_path)
    checked = check_task(str(tmp_path / "rows.toml"))
    assert checked.refusals == ()
    assert checked.facts["left_out"]["number"] == 1


def test_a_model_folder_is_kept_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    for given, kept in (("./model", str(tmp_path / "model")), ("owner/name", "owner/name")):
        config = config_from_values({**LEAST, "model.path": given})
        assert with_absolute_paths(config).model.path == kept

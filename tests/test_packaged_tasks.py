"""The tasks on released data sets: their files, splits, hints and few-shot examples, and a run of the loop on each."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import LEAST, config, problem, task_named, task_settings
from selftaught.commands.run import check_before_start
from selftaught.config.loading import config_from_values
from selftaught.grading.references import check_reference_answers, failing_solutions
from selftaught.prompts.rendering import render_completion, render_prompt
from selftaught.records.errors import ConfigError, RefusedError
from selftaught.records.problems import Problem, Task, Verdict
from selftaught.runs.reading import read_samples
from selftaught.tasks import load_task
from selftaught.tasks.reasoning_gym import task as gym
from toy import run_toy

DATA = os.environ.get("SELFTAUGHT_TEST_DATA", "")
real_files = pytest.mark.skipif(not DATA, reason="SELFTAUGHT_TEST_DATA does not name the folder with the data sets")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sum_row(number: int) -> dict[str, Any]:
    """A row in the form of GSM8K."""
    solution = f"There are {number} + 7 = <<{number}+7={number + 7}>>{number + 7} nuts.\n#### {number + 7:,}"
    return {"question": f"A squirrel has {number} nuts and finds 7. How many are there?", "answer": solution}


def choice_row(number: int, answer: str) -> dict[str, Any]:
    """A row in the form of CommonsenseQA."""
    choices = [{"label": label, "text": f"box {label.lower()}{number}"} for label in "ABCDE"]
    return {
        "answerKey": answer,
        "id": f"id{number}",
        "question": {"question_concept": "box", "choices": choices, "stem": f"Where is thing {number} kept?"},
    }


def with_choice(text: object) -> dict[str, Any]:
    """A row whose first choice is this."""
    row = choice_row(50, "A")
    row["question"]["choices"][0]["text"] = text
    return row


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    write_lines(tmp_path / "train.jsonl", [sum_row(n) for n in range(990, 1010)])
    write_lines(tmp_path / "test.jsonl", [sum_row(n) for n in range(2000, 2004)])
    return tmp_path


@pytest.fixture
def commonsenseqa(tmp_path: Path) -> Path:
    write_lines(tmp_path / "train.jsonl", [choice_row(n, "ABCDE"[n % 5]) for n in range(20)])
    write_lines(tmp_path / "dev.jsonl", [choice_row(n, "ABCDE"[n % 5]) for n in range(100, 105)])
    return tmp_path


def load(name: str, folder: Path, **settings: Any) -> Task:
    return task_named(name, data=str(folder), **{"dev_rows": 5, **settings})


def test_gsm8k_cuts_dev_from_train_and_keeps_the_official_test(gsm8k: Path) -> None:
    task = load("gsm8k", gsm8k)
    assert (len(task.train), len(task.dev), len(task.test)) == (15, 5, 4)
    assert {p.id for p in (*task.train, *task.dev)} == {f"train-{n}" for n in range(1, 21)}
    assert task.test[0].answer == "2,007"
    assert {p.id for p in load("gsm8k", gsm8k).dev} == {p.id for p in task.dev}
    assert {p.id for p in load("gsm8k", gsm8k, data_seed=1).dev} != {p.id for p in task.dev}


def test_which_rows_are_dev_does_not_depend_on_their_order(gsm8k: Path) -> None:
    before = {p.question for p in load("gsm8k", gsm8k).dev}
    write_lines(gsm8k / "train.jsonl", [sum_row(n) for n in reversed(range(990, 1010))])
    assert {p.question for p in load("gsm8k", gsm8k).dev} == before


def test_a_gsm8k_hint_is_the_final_number_without_the_solution(gsm8k: Path) -> None:
    task = load("gsm8k", gsm8k)
    first = task.train[0]
    hinted = render_prompt(task.prompt_format, first, hint=True)
    assert hinted == f"Q: {first.question} ({first.answer})\nA:"
    assert render_prompt(task.prompt_format, first, hint=False) == f"Q: {first.question}\nA:"
    assert render_completion(task.prompt_format, first).endswith(f"\n#### {first.answer}")


def test_a_commonsenseqa_hint_marks_the_correct_choice(commonsenseqa: Path) -> None:
    task = load("commonsenseqa", commonsenseqa)
    (seventh,) = [p for p in (*task.train, *task.dev) if p.id == "id7"]
    lines = render_prompt(task.prompt_format, seventh, hint=True).splitlines()
    assert lines[:2] == ["Q: Where is thing 7 kept?", "Answer Choices:"]
    assert lines[2:] == ["(A) box a7", "(B) box b7", "(C) box c7 (CORRECT)", "(D) box d7", "(E) box e7", "A:"]
    assert "(CORRECT)" not in render_prompt(task.prompt_format, seventh, hint=False)
    assert render_completion(task.prompt_format, seventh) == " the answer is box c7 (C)." or (
        render_completion(task.prompt_format, seventh) == " Therefore, the answer is box c7 (C)."
    )
    assert {p.id for p in task.test} == {f"id{n}" for n in range(100, 105)}, "the official dev file is test"


@pytest.mark.parametrize("mark", ["${}", "`{}`", "__{}__", "*{}", "«{}»", "${}$", "-{}", "{}%", "({})"])
def test_choices_may_begin_with_a_mark(tmp_path: Path, mark: str) -> None:
    def row(number: int) -> dict[str, Any]:
        made = choice_row(number, "ABCDE"[number % 5])
        for place, choice in enumerate(made["question"]["choices"]):
            choice["text"] = mark.format(number + 5 * place)
        return made

    write_lines(tmp_path / "train.jsonl", [row(n) for n in range(20)])
    write_lines(tmp_path / "dev.jsonl", [row(n) for n in range(100, 104)])
    task = load("commonsenseqa", tmp_path)
    check_reference_answers(task, task.examples_and_problems())


@pytest.mark.parametrize("name", ["gsm8k", "commonsenseqa"])
def test_the_same_rows_in_parquet_are_the_same_task(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    folder: Path = request.getfixturevalue(name)
    wanted = load(name, folder)
    for path, part in (("train.jsonl", "train"), ("test.jsonl", "test"), ("dev.jsonl", "validation")):
        if not (folder / path).exists():
            continue
        rows = [json.loads(line) for line in (folder / path).read_text(encoding="utf-8").splitlines()]
        if name == "commonsenseqa":  # the hub has other columns than the release
            rows = [
                {
                    "id": row["id"],
                    "question": row["question"]["stem"],
                    "choices": {key: [c[key] for c in row["question"]["choices"]] for key in ("label", "text")},
                    "answerKey": row["answerKey"],
                }
                for row in rows
            ]
        (folder / path).unlink()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{part}-00000-of-00001.parquet")
    task = load(name, folder)
    assert (task.train, task.dev, task.test) == (wanted.train, wanted.dev, wanted.test)


@pytest.mark.parametrize("name", ["gsm8k", "commonsenseqa"])
def test_the_few_shot_examples_pass_their_own_checks(name: str, request: pytest.FixtureRequest) -> None:
    task = load(name, request.getfixturevalue(name))
    assert len(task.few_shot) == 10
    check_reference_answers(task, task.few_shot)
    if task.check_steps is not None:
        for example in task.few_shot:
            for check in (task.check_steps, *task.other_checks.values()):
                result = check(example, render_completion(task.prompt_format, example))
                assert result.passed, (example.question, result.detail)
    else:
        assert set(Counter(example.answer for example in task.few_shot).values()) == {2}, "no label may be favored"


def test_a_flawed_released_solution_is_counted_and_a_flawed_few_shot_example_refused(gsm8k: Path) -> None:
    row = sum_row(5000)
    row["answer"] = "There are 5000 + 7 = 5008 nuts.\n#### 5007"
    write_lines(gsm8k / "test.jsonl", [row, sum_row(1)])
    task = load("gsm8k", gsm8k)
    check_reference_answers(task, (*task.few_shot, *task.test))
    assert failing_solutions(task, task.test) == {"test-1": "5000+7=5008 is wrong"}
    (gsm8k / "mine.toml").write_text(
        '[[example]]\nquestion = "How many?"\nrationale = "2 + 2 = 5."\nanswer = "5"\n', encoding="utf-8"
    )
    own = load("gsm8k", gsm8k, prompt_file=str(gsm8k / "mine.toml"))
    with pytest.raises(RefusedError, match="step check"):
        check_reference_answers(own, own.few_shot)


def test_a_training_row_that_is_a_few_shot_example_is_not_trained_on(gsm8k: Path) -> None:
    before = load("gsm8k", gsm8k)
    first = before.train[0]
    example = f"[[example]]\nquestion = {json.dumps(first.question)}\nrationale = '1 + 1 = 2'\nanswer = 2\n"
    (gsm8k / "mine.toml").write_text(example, encoding="utf-8")
    task = load("gsm8k", gsm8k, prompt_file=str(gsm8k / "mine.toml"))
    assert task.train == before.train[1:]
    assert (task.dev, before.notes) == (before.dev, ())
    assert task.notes == (f"rows in no split, because they are few-shot examples in the prompt: 1 ({first.id})",)


def test_a_question_that_is_also_in_test_is_refused(gsm8k: Path) -> None:
    write_lines(gsm8k / "test.jsonl", [sum_row(1000)])
    with pytest.raises(RefusedError, match="is also in"):
        load("gsm8k", gsm8k)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"question": "q", "answer": "no marker"}, "train.jsonl:21: the answer has no number after '####'"),
        ("gsm8k", {"question": "q"}, "train.jsonl:21: no key 'answer'"),
        ("commonsenseqa", choice_row(50, "F"), "train.jsonl:21: answerKey is 'F'"),
        ("commonsenseqa", {"id": "x", "question": "q", "answerKey": "A"}, "train.jsonl:21: the choices"),
        ("commonsenseqa", {"question": {"stem": "q"}}, "train.jsonl:21: no id or no question"),
        ("commonsenseqa", with_choice(None), "train.jsonl:21: a choice is None"),
        ("commonsenseqa", with_choice(""), "train.jsonl:21: a choice is ''"),
        ("commonsenseqa", with_choice("\ud800"), "train.jsonl:21: 'choices' holds half of a character pair"),
    ],
)
def test_a_row_that_is_not_as_released_is_named(
    name: str, row: dict[str, Any], message: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(name)
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(ConfigError) as error:
        load(name, folder)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"question_key": "q"}, "does not use it (it belongs to 'own')"),
        ({"variant": "main"}, "does not use it"),
        ({"answer_pattern": "x"}, "only task.verifier = 'regex' uses it"),
        ({"dev_rows": 20}, "too few to cut 20 for dev"),
        ({"verifier": "best"}, "best"),
        ({"prompt_file": "nowhere.toml"}, "nowhere.toml"),
    ],
)
def test_a_setting_that_cannot_be_honored_is_refused(gsm8k: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load("gsm8k", gsm8k, **settings)
    assert message in str(error.value)


def test_arithmetic_refuses_settings_that_it_would_ignore() -> None:
    for key, value in {"data": "x.jsonl", "dev_rows": 3, "verifier": "numeric", "extraction": "lenient"}.items():
        with pytest.raises(ConfigError, match=f"task.{key}"):
            task_named("arithmetic", **{key: value})
    settings = config(selection={"unique_by": "equations"}, sampling={"num_shots": 0})
    with pytest.raises(ConfigError, match="no equations to compare"):
        check_before_start(settings, task_named("arithmetic"))


def test_a_folder_without_the_files_says_which_are_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no train.jsonl, .parquet or train-\*-of-\*.parquet"):
        load("gsm8k", tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a file"):
        load("gsm8k", tmp_path / "rows.jsonl")


def solver(task: Task) -> Callable[[str, int], str]:
    """Answers problems whose id ends on an even digit at once, the others only with a hint."""
    by_question = {p.question: p for p in (*task.train, *task.dev, *task.test)}

    def reply(prompt: str, seed: int) -> str:
        last = prompt.rpartition("Q: ")[2]
        (known,) = [p for question, p in by_question.items() if last.startswith(question)]
        hinted = f"({known.answer})\nA:" in last or "(CORRECT)" in last
        if hinted or int(known.id[-1]) % 2 == 0:
            return render_completion(task.prompt_format, known) + "\n\nQ: and another"
        return " I do not know."

    return reply


@pytest.mark.parametrize(
    ("name", "checks"), [("gsm8k", {"steps", "equations", "grounding", "flow"}), ("commonsenseqa", set())]
)
def test_a_scripted_run_keeps_solved_and_hinted_problems_and_reports_the_checks(
    name: str, checks: set[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    task = load(name, request.getfixturevalue(name))
    values = {"task.name": name, "sampling.num_shots": 2, "sampling.num_shots_fine_tuned": 0, "loop.max_iterations": 1}
    values |= {"training.validation_share": 0.0, "training.steps_first_iteration": 1}
    outcome = run_toy(tmp_path / "run", config=config_from_values({**LEAST, **values}), task=task, reply=solver(task))
    (summary,) = outcome.summaries
    assert summary.rationale.correct == sum(int(p.id[-1]) % 2 == 0 for p in task.train)
    assert summary.rationale.correct + summary.rationalization.correct == len(task.train) == summary.examples
    assert set(summary.rationale.checks) - {"extraction"} == checks
    for rate in summary.rationale.checks.values():
        assert rate.correct == rate.n
    kept = [sample for _, sample in read_samples(tmp_path / "run") if sample.verdict is Verdict.CORRECT]
    assert kept
    assert not any("and another" in sample.completion for sample in kept)


def test_samples_with_the_same_equations_are_duplicates(gsm8k: Path) -> None:
    from builders import sample
    from selftaught.methods.selection import Rule, select

    task = load("gsm8k", gsm8k)
    texts = (" First 2 + 3 = 5.\n#### 5", " So 2 + 3 = 5 it is.\n#### 5", " 3 + 2 = 5.\n#### 5", " Five.\n#### 5")
    samples = [sample(index=i, completion=text) for i, text in enumerate((*texts, " It is 5.\n#### 5"))]
    selection = select(
        samples,
        Rule(
            require=("answer",),
            require_hinted=("answer",),
            unique_by="equations",
            max_per_problem=None,
            validation_share=0.0,
            seed=0,
        ),
        solution_key=task.solution_key,
    )
    assert [s.index for s in selection.kept] == [0, 2, 3], "one solution without equations may stay, as in RFT"


@real_files
@pytest.mark.parametrize(("name", "sizes"), [("gsm8k", (6973, 500, 1319)), ("commonsenseqa", (9241, 500, 1221))])
def test_every_reference_answer_of_the_released_files_verifies(name: str, sizes: tuple[int, int, int]) -> None:
    task = load_task(task_settings(name, data=str(Path(DATA) / name)))
    assert (len(task.train), len(task.dev), len(task.test)) == sizes
    check_reference_answers(task, (*task.few_shot, *task.train, *task.dev, *task.test))


@real_files
def test_nearly_all_released_solutions_of_gsm8k_pass_the_step_check() -> None:
    task = load_task(task_settings("gsm8k", data=str(Path(DATA) / "gsm8k")))
    failing = failing_solutions(task, (*task.train, *task.dev, *task.test))
    assert 200 < len(failing) < 300, "most of those were read by eye: no equation, or errors of the release"


def test_a_generator_of_reasoning_gym_is_a_task() -> None:
    pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")
    for name in ("chain_sum", "basic_arithmetic", "leg_counting"):
        task = task_named("reasoning-gym", variant=name, dev_rows=20, test_rows=30)
        assert (len(task.train), len(task.dev), len(task.test)) == (2000, 20, 30)
        check_reference_answers(task, (*task.dev, *task.test))
        first, second = task.test[:2]
        correct = f" Let me see.\nThe answer is {first.answer}."
        assert task.verifier(correct, first).verdict is Verdict.CORRECT
        assert task.verifier(correct + "\nQ: next?\nA: The answer is 0", first).verdict is Verdict.CORRECT
        assert task.verifier("The answer is banana", second).verdict is Verdict.INCORRECT
        assert task.verifier("I wonder", second).verdict is Verdict.UNPARSEABLE


class Generator:
    """A generator of reasoning-gym as its scorer sees it: full marks for the very answer, ValueError for "odd"."""

    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        if answer == "odd":
            raise ValueError(answer)
        return float(answer == entry["answer"])


@pytest.mark.parametrize(
    ("answer", "completion", "verdict", "prediction"),
    [
        ("5 < 6", "I see.\nThe answer is: **5 < 6**.", Verdict.CORRECT, "5 < 6"),
        ("12", "So it is \\boxed{12}.", Verdict.CORRECT, "12"),
        ("12", "The answer is 11. No, the answer is 12.\nQ: next?\nA: The answer is 1", Verdict.CORRECT, "12"),
        ("It rains.", "The answer is It rains.", Verdict.CORRECT, "It rains."),
        ("is it raining", "The answer is is it raining", Verdict.CORRECT, "is it raining"),
        ("1 2\n3  4", "The answer is:\n1 2\n3  4\n", Verdict.CORRECT, "1 2\n3  4"),
        ("12", "The answer is 11.", Verdict.INCORRECT, "11"),
        ("12", "The answer is odd", Verdict.UNPARSEABLE, None),
        ("12", "12", Verdict.UNPARSEABLE, None),
        ("12", "The answer is", Verdict.UNPARSEABLE, None),
        ("12", "The answer is " + "1" * 2_000, Verdict.UNPARSEABLE, None),
    ],
)
def test_the_answer_for_a_scorer_is_extracted_as_other_answers_are(
    answer: str, completion: str, verdict: Verdict, prediction: str | None
) -> None:
    verify = gym._verifier(Generator(), {"p": {"answer": answer}}, "The answer is")
    result = verify(completion, Problem(id="p", question="?", answer=answer))
    assert (result.verdict, result.prediction) == (verdict, prediction)


def test_generators_that_cannot_serve_are_refused_in_one_line() -> None:
    pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")
    for name, message in {
        None: "task.variant must be given; generators: ",
        "chain_sums": "no generator",
        "countdown": "as code",
        "game_of_life_halting": "full marks",
    }.items():
        with pytest.raises(ConfigError, match=message):
            task_named("reasoning-gym", variant=name)


def test_the_samples_of_a_verifier_with_two_extractions_say_whether_they_agree() -> None:
    from builders import sample
    from selftaught.methods.metrics import check_rates
    from selftaught.records.problems import CheckResult

    def sample_with(index: int, verdict: Verdict, agree: bool, steps: bool) -> Any:
        checks = {
            "steps": CheckResult(passed=steps, share=float(steps)),
            "extraction": CheckResult(passed=agree, share=float(agree)),
        }
        return sample(index=index, verdict=verdict, checks=checks)

    rates = check_rates(
        [
            sample_with(0, Verdict.CORRECT, True, True),
            sample_with(1, Verdict.CORRECT, False, False),
            sample_with(2, Verdict.INCORRECT, True, False),
        ]
    )
    assert (rates["steps"].correct, rates["steps"].n) == (1, 2), "over the correct answers"
    assert (rates["extraction"].correct, rates["extraction"].n) == (2, 3), "over all samples"
    assert problem().answer == "3"


def test_the_report_has_the_rates_of_checks_if_there_are_any() -> None:
    from builders import counts, summary
    from selftaught.methods.metrics import rate
    from selftaught.report.report import render_markdown
    from selftaught.report.run_tables import Run

    about = {"config": LEAST, "resolved": {}, "model": {}}
    checked = summary(rationale=counts(checks={"steps": rate(40, 60), "extraction": rate(99, 100)}))
    page = render_markdown(
        [Run(name="checked", about=about, summaries=(checked,), measured={}, result=None)], plot="accuracy.svg"
    )
    assert "| iteration | sampled | steps | extraction |" in page
    assert "| 1 | rationales | 40/60 0.667 [0.541, 0.773] | 99/100 0.990 [0.946, 0.998] |" in page
    plain = render_markdown(
        [Run(name="plain", about=about, summaries=(summary(),), measured={}, result=None)], plot="accuracy.svg"
    )
    assert "### Checks" not in plain

"""Tasks that a user's program gives: by the name of a function, found, looked at, and named when it fails."""

import json
import re
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import config, problem, problems, task_settings
from selftaught.commands.check_task import check_task
from selftaught.commands.run import default_run_dir, with_absolute_paths
from selftaught.commands.stored_run import task_of
from selftaught.config.loading import load_config, with_homes
from selftaught.grading.references import check_reference_answers
from selftaught.records.errors import ConfigError, RefusedError, SelftaughtError, VerifierError
from selftaught.records.problems import CheckResult, PromptFormat, Task, Verdict, Verification
from selftaught.tasks import load_task
from selftaught.tasks.outside import is_outside, short_name, taken
from test_cli import selftaught
from toy import FORMAT, toy_task

BAKERY = """
    from beside import HOURS
    from selftaught import Problem, Task
    from selftaught.grading.verifiers import make_verifier
    from selftaught.records.problems import PromptFormat

    FORMAT = PromptFormat(
        question="Q: {question}{hint}\\nA:",
        hint=" (The answer is {answer}.)",
        completion=" {rationale}\\n#### {answer}",
        answer_only=" #### {answer}",
    )


    def rolls(number):
        total = 12 * number
        return Problem(id=f"{number} hours", question=f"12 rolls an hour for {number} hours?", answer=str(total))


    def load(settings):
        return Task(
            name="bakery",
            prompt_format=FORMAT,
            verifier=make_verifier("numeric", marker="####"),
            few_shot=(),
            train=tuple(rolls(n) for n in range(1, 1 + HOURS + settings.data_seed)),
            dev=(rolls(100),),
            test=(rolls(200),),
        )


    def list_of_tasks(settings):
        return [load(settings)]


    def raises(settings):
        return json_of("{")


    def json_of(text):
        import json

        return json.loads(text)


    def leaves(settings):
        raise SystemExit(3)


    number = 3
"""
LEAST = ["--set", "model.path=builtin:adder", "--set", "training.learning_rate=1e-3"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with bakery.py, which is the current one; whatever is imported from it is forgotten afterwards."""
    (tmp_path / "bakery.py").write_text(textwrap.dedent(BAKERY))
    (tmp_path / "beside.py").write_text("HOURS = 3\n")
    (tmp_path / "broken.py").write_text("x = 1\n\n\ndef load(:\n")
    (tmp_path / "needs.py").write_text("import no_such_library\n")
    (tmp_path / "fails.py").write_text("x = 1\ny = x / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("beside", "bakery", "broken", "needs", "fails"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["bakery.py:load", "./bakery.py:load", "bakery:load"])
def test_a_function_of_a_file_or_module_gives_the_task_and_gets_the_settings(folder: Path, name: str) -> None:
    assert [p.answer for p in load_task(task_settings(name)).train] == ["12", "24", "36"]
    assert len(load_task(task_settings(name, data_seed=2)).train) == 5


def test_every_setting_of_the_section_may_be_passed_on(folder: Path) -> None:
    settings = {"variant": "x", "data": "y.jsonl", "answer_pattern": "z", "dev_rows": 3}
    assert load_task(task_settings("bakery.py:load", **settings)).name == "bakery"


MISTAKES = {
    "absent.py:load": r"task\.name = 'absent\.py:load': no such file in /.*; check the path",
    "bakery.py:laod": r"task\.name = 'bakery\.py:laod': bakery\.py .* has no 'laod'; give the name of the function",
    "bakery.py:number": r"bakery\.py:number is int, expected a function of a TaskConfig that returns a Task",
    "bakery.py:list_of_tasks": r"what it returned is list, expected a Task",
    "bakery.py:raises": r"JSONDecodeError: Expecting .* \(/.*/bakery\.py:43\); correct the function",
    "bakery.py:leaves": r"SystemExit: 3 \(/.*/bakery\.py:47\)",
    "broken.py:load": r"SyntaxError: .* \(/.*/broken\.py:4\); correct the file",
    "needs.py:load": r"ModuleNotFoundError: No module named 'no_such_library' \(/.*/needs\.py:1\); install it",
    "fails.py:load": r"ZeroDivisionError: division by zero \(/.*/fails\.py:2\); correct the file",
    "no_such.module:load": r"no module 'no_such' is installed or in /.*; run in the folder that holds it, or name its",
    "bakery.py:": r"task\.name is 'bakery\.py:', expected a task, `module:name` or `file\.py:name`; correct it",
    "bakery.py:two words": r"expected a task, `module:name` or `file\.py:name`",
    "object:riddles": r"the task 'riddles' was given from Python as a Task object, .*call that program again",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_function_that_gives_no_task_is_one_line_that_says_why(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"\A[^\n]*{MISTAKES[name]}[^\n]*\Z") as caught:
        load_task(task_settings(name))
    assert len(str(caught.value).splitlines()) == 1


def test_an_error_of_the_package_that_a_function_passes_on_keeps_its_words(folder: Path) -> None:
    (folder / "own_rows.py").write_text(
        "from selftaught.tasks.own.task import load as own\n\n\ndef load(settings):\n    return own(settings)\n"
    )
    with pytest.raises(ConfigError, match=r"\Arows\.jsonl: no such file"):
        load_task(task_settings("own_rows.py:load", data="rows.jsonl"))


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "a list": ({"train": list(problems("a", "b"))}, r"train is list, expected a tuple; write tuple\(…\) around it"),
    "a row": ({"dev": ({"question": "x"},)}, r"dev, problem 1 is dict, expected a Problem"),
    "a number": ({"test": (problem("t", answer=3),)}, r"test, problem 1 \('t'\): answer is 3, a int, expected a text"),
    "no text": ({"test": (problem("t", question=" "),)}, r"question is empty"),
    "choices": ({"train": (problem("t", choices=["x", "y"], answer="A"),)}, r"choices is list, expected a tuple"),
    "a label": ({"train": (problem("t", choices=("x", "y"), answer="x"),)}, r"the answer is 'x', expected .* A to B"),
    "half a pair": ({"train": (problem("t", question="\ud800"),)}, r"question holds half of a character pair"),
    "a verifier": ({"verifier": "numeric"}, r"verifier is str, expected a function"),
    "a check": ({"other_checks": {"flow": 3}}, r"other_checks\['flow'\] is int, expected a function"),
    "a format": ({"prompt_format": "Q: {question}"}, r"prompt_format is str, expected a PromptFormat"),
    "a field": ({"prompt_format": replace(FORMAT, question="{quesion}")}, r"does not render .*KeyError: 'quesion'"),
    "a name": ({"name": "a\nb"}, r"the name is 'a\\nb', expected a text on one line"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_part_of_a_task_that_is_not_what_the_record_says_is_refused(case: str) -> None:
    changes, message = CHANGES[case]
    with pytest.raises(ConfigError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        taken(toy_task(**changes), "it")


def test_a_task_that_is_right_keeps_what_it_holds_and_what_its_functions_say() -> None:
    task = toy_task(solution_key=str.upper, same_problem=lambda p: p.id, other_checks={"length": passes})
    same = taken(task, "it")
    assert replace(same, **{name: getattr(task, name) for name in FUNCTIONS}) == task
    assert same.verifier("<r>x</r>\n3", task.train[0]) == task.verifier("<r>x</r>\n3", task.train[0])
    assert same.solution_key is not None
    assert same.solution_key("x") == "X"
    assert same.other_checks["length"](task.train[0], "x").passed
    check_reference_answers(same, same.examples_and_problems())


FUNCTIONS = ("verifier", "check_steps", "other_checks", "solution_key", "same_problem")


def passes(problem: object, completion: str) -> CheckResult:
    return CheckResult(passed=True, share=1.0)


def fails(*given: object) -> Any:
    return {}["missing"]


FAILING: dict[str, tuple[dict[str, Any], Callable[[Task], object], str]] = {
    "verifier": ({"verifier": fails}, lambda t: t.verifier("x", t.train[0]), r"problem 'ant': the verifier raised Key"),
    "no verdict": (
        {"verifier": lambda text, problem: True},
        lambda t: t.verifier("x", t.train[0]),
        r"the verifier returned True, expected a Verification with a Verdict; correct the function",
    ),
    "a text for a verdict": (
        {"verifier": lambda text, problem: Verification(verdict="correct", prediction="3")},  # type: ignore[arg-type]
        lambda t: t.verifier("x", t.train[0]),
        r"the verifier returned Verification\(.*expected a Verification with a Verdict",
    ),
    "steps": (
        {"check_steps": fails},
        lambda t: t.check_steps and t.check_steps(t.train[0], "x"),
        r"problem 'ant': check_steps raised KeyError: 'missing' \(/.*test_outside_tasks\.py:\d+\)",
    ),
    "check": (
        {"other_checks": {"flow": fails}},
        lambda t: t.other_checks["flow"](t.train[0], "x"),
        r"problem 'ant': the check 'flow' raised",
    ),
    "key": (
        {"solution_key": lambda text: 3},
        lambda t: t.solution_key and t.solution_key("x"),
        r"task 'toy': solution_key returned 3, expected a str",
    ),
    "same": (
        {"same_problem": fails},
        lambda t: t.same_problem and t.same_problem(t.train[0]),
        r"problem 'ant': same_problem raised",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_function_of_a_task_that_fails_is_one_line_with_the_problem_and_the_line_of_code(case: str) -> None:
    changes, call, message = FAILING[case]
    with pytest.raises(VerifierError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        call(taken(toy_task(**changes), "it"))


def test_splits_and_reference_answers_are_held_to_the_rules_of_every_task(folder: Path) -> None:
    text = (folder / "bakery.py").read_text()
    (folder / "bakery.py").write_text(text.replace("rolls(100)", "rolls(2)"))
    with pytest.raises(RefusedError, match=r"problem id '2 hours' is in train and in dev; make ids unique"):
        load_task(task_settings("bakery.py:load"))
    (folder / "bakery.py").write_text(text.replace('"numeric"', '"choice"'))
    task = load_task(task_settings("bakery.py:load"))
    with pytest.raises(SelftaughtError, match="fails its own verifier"):
        check_reference_answers(task, task.train)


def test_the_file_becomes_absolute_so_that_a_run_can_be_carried_on_from_any_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = with_absolute_paths(config(task={"name": "bakery.py:load"}))
    assert found.task.name == f"{folder}/bakery.py:load"
    assert with_absolute_paths(config(task={"name": "bakery:load"})).task.name == "bakery:load"
    assert with_absolute_paths(config(task={"name": "absent.py:load"})).task.name == "absent.py:load"
    monkeypatch.setenv("HOME", str(folder))
    assert with_homes(config(task={"name": "~/bakery.py:load"})).task.name == f"{folder}/bakery.py:load"
    monkeypatch.chdir("/")
    assert task_of(found).name == "bakery"


NAMES = {
    "gsm8k": "gsm8k",
    "some where/bakery.py:load": "bakery",
    "bakery.py:hard": "bakery-hard",
    "shops.bakery:load": "bakery",
    "object:riddles": "riddles",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_of_a_run_is_named_after_the_file(name: str) -> None:
    assert short_name(name) == NAMES[name]
    assert str(default_run_dir(config(task={"name": name}))) == f"runs/{NAMES[name]}-custom"


def test_only_module_or_file_and_name_is_a_function() -> None:
    assert is_outside("a.b:c")
    assert not any(map(is_outside, ("gsm8k", "a.py", ":load", "a:", "a:b c", "object:x")))


def test_a_function_in_place_of_a_config_is_told_where_it_belongs(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'bakery\.py:load' names a function, expected a config"):
        load_config("bakery.py:load")


def test_tasks_check_takes_the_name_of_a_function(folder: Path) -> None:
    checked = check_task("bakery.py:load")
    assert checked.facts["task"] == "bakery"
    assert checked.facts["train"]["problems"] == 3
    assert checked.refusals == ()
    assert "12 rolls an hour for 1 hours? (The answer is 12.)" in "".join(checked.prompts.values())


def test_the_commands_work_with_a_function_and_its_mistakes_exit_with_2(folder: Path) -> None:
    (folder / "bakery.toml").write_text(
        '[model]\npath = "builtin:adder"\n[task]\nname = "bakery.py:load"\n'
        "[sampling]\nnum_shots = 0\nmax_new_tokens = 8\n[training]\nlearning_rate = 1e-3\n"
    )
    checked = selftaught("tasks", "check", "bakery.py:load", "--json", cwd=folder)
    assert json.loads(checked.stdout)["task"] == "bakery", checked.stderr
    dry = selftaught("run", "bakery.toml", "--dry-run", cwd=folder)
    assert dry.returncode == 0, dry.stderr
    assert "12 rolls an hour for 2 hours?" in dry.stdout
    failing = selftaught("tasks", "check", "bakery.py:raises", cwd=folder)
    assert failing.returncode == 2
    assert re.fullmatch(r"selftaught: task\.name = 'bakery\.py:raises': JSONDecodeError[^\n]+\n", failing.stderr)


def test_verdicts_of_a_task_from_outside_are_verdicts(folder: Path) -> None:
    task = load_task(task_settings("bakery.py:load"))
    assert task.verifier(" 12 * 3\n#### 36", task.train[2]).verdict is Verdict.CORRECT
    assert isinstance(task.prompt_format, PromptFormat)

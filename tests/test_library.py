"""The package called from Python: a run, its refusals, and tasks made of rows."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import selftaught
from builders import output_of, task_settings
from selftaught import NullTrainer, ScriptedEngine, Task
from selftaught.commands.library import Result
from selftaught.config.loading import config_from_settings, flat_values, load_config, shipped_configs
from selftaught.records.errors import ConfigError, Interrupted, RefusedError, StoreError, VerifierError
from selftaught.records.problems import CheckResult, Problem, Verdict
from selftaught.records.samples import ModelRef
from selftaught.tasks import load_task
from selftaught.tasks.fingerprint import data_sha256
from test_cli import selftaught as command
from toy import folder_bytes, reply, toy_task

SETTINGS = {
    "model.path": "builtin:adder",
    "sampling": {"num_shots": 2, "num_shots_fine_tuned": 0, "max_new_tokens": 64},
    "training": {"learning_rate": 1e-3, "batch_size": 2, "steps_first_iteration": 2, "validation_share": 0.0},
    "loop.max_iterations": 1,
}


def scripted(model: ModelRef) -> ScriptedEngine:
    return ScriptedEngine(reply)


def run_toy(folder: Path, **changes: Any) -> Result:
    given: dict[str, Any] = {"task": toy_task(), "engine": scripted, "trainer": NullTrainer, "run_dir": folder}
    return selftaught.run(SETTINGS, **{**given, **changes})


def test_a_run_from_python_returns_what_it_measured_and_leaves_a_run_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run_toy(tmp_path / "run")
    assert (result.base.correct, result.base.n) == (2, 3)
    assert [dev.correct for dev in result.dev] == [1, 1]
    assert result.test == result.base
    assert (result.best_iteration, result.model, result.run_dir) == (0, "builtin:adder", tmp_path / "run")
    assert result.summaries[0].rationale.correct == 3
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"]["correct"] == 2
    assert capfd.readouterr() == ("", "")


def test_what_a_killed_training_has_left_is_gone_when_the_run_ends(tmp_path: Path) -> None:
    """A training that no later start repeats, since the loop ends before it."""
    run_toy(tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    for name in ("002.tmp", "001.old", "notes.tmp"):
        (checkpoints / name).mkdir()
        (checkpoints / name / "model.safetensors").write_bytes(b"half of it")
    run_toy(tmp_path / "run")
    assert sorted(path.name for path in checkpoints.iterdir()) == ["001", "notes.tmp"], "and nothing of anybody else's"


def test_progress_is_printed_if_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_toy(tmp_path / "run", progress=True)
    assert "iteration 1/1  rationale" in capfd.readouterr().err


def test_the_same_call_carries_the_run_on(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_toy(tmp_path / "cut", should_stop=lambda: True)
    run_toy(tmp_path / "cut")
    run_toy(tmp_path / "whole")
    kept = ("samples", "examples", "left_out")
    assert folder_bytes(tmp_path / "cut", *kept) == folder_bytes(tmp_path / "whole", *kept)
    again = run_toy(tmp_path / "cut", engine=lambda model: pytest.fail("a finished run generates nothing"))
    assert again.dev == run_toy(tmp_path / "whole").dev


def test_the_command_says_that_only_the_program_can_carry_on_a_run_on_its_own_task(tmp_path: Path) -> None:
    run_toy(tmp_path / "run")
    done = command("run", "--resume", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "the task 'toy' was given from Python as a Task object" in done.stderr
    assert "call that program again" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert command("report", str(tmp_path / "run")).returncode == 0


def test_a_run_is_carried_on_with_what_it_was_started_with(tmp_path: Path) -> None:
    run_toy(tmp_path / "run")
    with pytest.raises(StoreError, match=r"with its own task and engine and trainer, now from Python with its own ta"):
        run_toy(tmp_path / "run", engine=None)
    with pytest.raises(RefusedError, match="was started on other problems"):
        run_toy(tmp_path / "run", task=toy_task(train=toy_task().train[:-1]))
    with pytest.raises(StoreError, match=r"was started with loop\.max_iterations = 1, now 2"):
        run_toy(tmp_path / "run", settings={"loop.max_iterations": 2})


def test_a_named_task_may_have_an_engine_of_the_program_and_the_command_does_not_take_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toys.py").write_text("from toy import toy_task\n\n\ndef load(settings):\n    return toy_task()\n")
    monkeypatch.chdir(tmp_path)
    by_name = {**SETTINGS, "task.name": "toys.py:load"}
    result = selftaught.run(by_name, engine=scripted, trainer=NullTrainer)
    assert result.test.correct == 2
    assert result.run_dir == Path("runs/toys-star")
    folder = tmp_path / result.run_dir
    monkeypatch.chdir("/")
    assert command("regrade", str(folder)).stderr.startswith("16 samples, 0 verdicts changed")
    done = command("run", "--resume", str(folder))
    assert done.returncode == 2
    assert "was started from Python with its own engine and trainer, now with nothing but its config" in done.stderr


WRONG: dict[str, tuple[Mapping[str, Any], str]] = {
    "overlap": ({"task": toy_task(dev=toy_task().train[:1])}, r"dev"),
    "no task": ({"task": "toy"}, r"task= is str, expected a Task"),
    "a verifier that fails": (
        {"task": toy_task(verifier=lambda *given: {}["x"])},
        r"the verifier raised KeyError: 'x'",
    ),
    "a setting of files": (
        {"settings": {"task.data": "x.jsonl"}},
        r"task\.data = 'x\.jsonl', but the task 'toy' is gi",
    ),
    "a setting that is none": ({"settings": {"loop": {"patiense": 3}}}, r"settings: unknown setting 'loop\.patiense'"),
    "a value": ({"settings": {"loop.patience": "3"}}, r"settings: loop\.patience = '3': expected a whole number"),
    "steps": ({"task": toy_task(check_steps=None), "settings": {"selection.require": ["steps"]}}, r"no step check"),
    "a folder": ({"run_dir": " "}, r"run_dir is ' ', expected a path"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_the_command_refuses_is_refused_before_there_is_a_folder(case: str, tmp_path: Path) -> None:
    changes, message = WRONG[case]
    with pytest.raises((ConfigError, RefusedError, VerifierError), match=rf"\A[^\n]*{message}[^\n]*\Z"):
        run_toy(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_config_is_a_file_a_name_or_settings_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[model]\npath = "builtin:adder"\n[training]\nlearning_rate = 1e-3\n')
    few = {"sampling": {"num_shots": 2, "max_new_tokens": 64}, "loop.max_iterations": 1}
    for number, config in enumerate((tmp_path / "c.toml", str(tmp_path / "c.toml"), SETTINGS)):
        folder = tmp_path / f"run-{number}"
        assert (
            selftaught.run(
                config, settings=few, task=toy_task(), engine=scripted, trainer=NullTrainer, run_dir=folder
            ).test.n
            == 3
        )
    with pytest.raises(ConfigError, match=r"config is list, expected a path, a task's name or a mapping of settings"):
        selftaught.run([], run_dir=tmp_path / "none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="neither a task with a shipped config"):
        selftaught.run("no-such-task", run_dir=tmp_path / "none")


def test_settings_in_python_are_those_of_a_file_and_of_the_command(tmp_path: Path) -> None:
    nested = {"method": "rft", "model": {"path": Path("builtin:adder")}, "task": {"name": "arithmetic"}}
    config = config_from_settings({**nested, "training.learning_rate": 1e-3}, {"seed": 3})
    assert (config.seed, config.method, config.model.path) == (3, "rft", "builtin:adder")
    assert config.rationalization.hints == "none"
    assert flat_values(load_config("arithmetic", {"loop": {"patience": 9}})) == flat_values(
        load_config("arithmetic", ["loop.patience=9"])
    )
    with pytest.raises(ConfigError, match=r"\Aconfig: rationalization\.hints = 'failed', but method .* fixes it"):
        config_from_settings({**nested, "rationalization.hints": "failed", "training.learning_rate": 1e-3})


ROWS = [{"question": f"what is {n} + {n}?", "answer": 2 * n} for n in range(1, 21)]
FEW_SHOT = [{"question": "what is 1 + 3?", "rationale": "1 + 3 = 4.", "answer": 4}]


def test_rows_in_python_are_the_task_that_the_same_rows_in_a_file_are(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "few.toml").write_text(
        '[[example]]\nquestion = "what is 1 + 3?"\nrationale = "1 + 3 = 4."\nanswer = 4\n'
    )
    how: dict[str, Any] = {"verifier": "numeric", "answer_marker": "####", "dev_rows": 3}
    in_file = load_task(
        task_settings("own", data=str(tmp_path / "rows.jsonl"), prompt_file=str(tmp_path / "few.toml"), **how)
    )
    in_python = selftaught.task_from_rows("sums", ROWS, few_shot=FEW_SHOT, **how)
    assert data_sha256(in_python) == data_sha256(in_file)
    assert (in_python.name, in_python.prompt_format) == ("sums", in_file.prompt_format)
    assert in_python.verifier(" so\n#### 2", in_python.train[0]) == in_file.verifier(" so\n#### 2", in_file.train[0])


VALUES = st.none() | st.integers(-3, 30) | st.sampled_from(["A", "b", "yes", " ", "a\x0cb", "the lake"]) | st.booleans()
ANY_ROWS = st.lists(
    st.fixed_dictionaries(
        {"question": st.sampled_from([f"question {n}" for n in range(20)]), "answer": VALUES},
        optional={"choices": st.lists(st.sampled_from(["yes", "no", "a lake"]), max_size=3), "id": st.integers(0, 9)},
    ),
    min_size=1,
    max_size=12,
)


@given(rows=ANY_ROWS)
def test_any_rows_are_read_or_refused_as_the_same_rows_in_a_file(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        in_file = read_or_refused(lambda: load_task(task_settings("own", data=str(path))))
    in_python = read_or_refused(lambda: selftaught.task_from_rows("rows", rows))
    # What rows and places are called differs, and nothing else does.
    in_file = re.sub(rf"{re.escape(str(path))}:(?=\d)|(?<=\(as )(?=\d)", "row ", in_file)
    assert in_python == in_file.replace(str(path), "task 'rows'")


def read_or_refused(make: Callable[[], Task]) -> str:
    try:
        return data_sha256(make())
    except (ConfigError, RefusedError) as error:
        return str(error).replace("task 'own'", "task 'rows'")


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_a_shipped_config_given_as_nested_settings_is_the_same_config(name: str) -> None:
    config = load_config(name)
    assert config_from_settings(config.model_dump()) == config
    assert config_from_settings(flat_values(config)) == config


def test_dev_and_test_may_be_given_and_choices_may_be_tuples() -> None:
    rows = [{"question": f"which flies, {n}?", "choices": ("a trout", f"swallow {n}"), "answer": "B"} for n in range(4)]
    task = selftaught.task_from_rows("birds", rows[:2], dev=rows[2:3], test=iter(rows[3:]))
    assert [len(task.split(name)) for name in ("train", "dev", "test")] == [2, 1, 1]
    assert task.verifier(" A swallow flies.\nThe answer is (B)", task.dev[0]).verdict is Verdict.CORRECT


ROWS_REFUSED: dict[str, tuple[Callable[[], Task], str]] = {
    "no answer": (lambda: rows_task([{"question": "x?"}]), r"row 1: no key 'answer'; the row has 'question'"),
    "an empty one": (
        lambda: rows_task([*ROWS, {"question": "x?", "answer": None}]),
        r"row 21: 'answer' is null; every",
    ),
    "another kind": (
        lambda: rows_task([*ROWS, {"question": "x?", "answer": "3"}]),
        r"row 21: 'answer' is a text, but a",
    ),
    "no row": (lambda: rows_task(["x"]), r"row 1: got 'x', expected a row such as"),
    "no rows": (lambda: rows_task([]), r"rows: none are given; expected at least one"),
    "no dev rows": (lambda: rows_task(ROWS, dev=[]), r"dev rows: none are given"),
    "a key": (lambda: rows_task([{1: 2}]), r"row 1: the key 1 is no text"),
    "twice": (lambda: rows_task([*ROWS, ROWS[3]]), r"row 21: the same question as row 4, with the same answer"),
    "across": (lambda: rows_task(ROWS, test=ROWS[:1]), r"test row 1 \(test\) asks the same as row 1 \(train\)"),
    "too few": (lambda: rows_task(ROWS[:2]), r"task 'sums': 2 rows are too few to cut test and dev"),
    "no choices": (
        lambda: rows_task(ROWS, verifier="choice"),
        r"the rows of task 'sums' have no choices under 'choices'",
    ),
    "a name": (lambda: rows_task(ROWS, verifier="numbers"), r"task\.verifier is 'numbers', expected one of exact"),
    "no setting": (lambda: rows_task(ROWS, question_kee="x"), r"task_from_rows: unknown setting 'task\.question_kee'"),
    "a file": (
        lambda: rows_task(ROWS, prompt_file="x"),
        r"prompt_file is of no use to rows that are given; leave it out",
    ),
    "a pattern": (lambda: rows_task(ROWS, answer_pattern="x"), r"only task\.verifier = 'regex' uses it"),
    "an example": (
        lambda: rows_task(ROWS, few_shot=[{"question": "x?"}]),
        r"few-shot row 1: .*no rationale",
    ),
    "its key": (
        lambda: rows_task(ROWS, few_shot=[{"query": "x?"}]),
        r"few-shot row 1: unknown key 'query' in an",
    ),
}


def rows_task(rows: Any, **how: Any) -> Task:
    return selftaught.task_from_rows("sums", rows, **how)


@pytest.mark.parametrize("case", ROWS_REFUSED)
def test_rows_that_a_file_may_not_hold_are_refused_with_their_number(case: str) -> None:
    make, message = ROWS_REFUSED[case]
    with pytest.raises((ConfigError, RefusedError), match=rf"\A[^\n]*{message}[^\n]*\Z"):
        make()


def says_ten(completion: str, problem: Problem) -> Any:
    if not completion.strip():
        return "unparseable"
    return completion.strip().endswith(problem.answer), completion.split()[-1]


def test_a_function_may_be_the_verifier_and_does_not_see_a_next_question() -> None:
    task = rows_task(ROWS, verifier=says_ten, check_steps=lambda problem, text: CheckResult(passed=True, share=1.0))
    problem = task.train[0]
    judged = task.verifier(f" so it is {problem.answer}\nQ: what is 7 + 7?\nA: 14", problem)
    assert (judged.verdict, judged.prediction) == (Verdict.CORRECT, problem.answer)
    assert task.verifier(" it is 0", problem).verdict is Verdict.INCORRECT
    assert task.verifier("", problem).prediction is None
    assert task.check_steps is not None
    with pytest.raises(TypeError, match="the function returned None, expected True or False"):
        rows_task(ROWS, verifier=lambda text, problem: None).verifier("x", problem)


def test_the_surface_waits_for_no_heavy_library() -> None:
    heavy = {"torch", "transformers", "trl", "datasets", "numba", "matplotlib", "rich", "typer"}
    made = "selftaught.run; selftaught.task_from_rows; selftaught.ScriptedEngine; selftaught.Engine"
    assert output_of(f"import selftaught, sys; {made}; print(*sorted({heavy!r} & set(sys.modules)))") == ""


def test_the_package_itself_imports_little() -> None:
    loaded = output_of("import selftaught, sys; print('pydantic' in sys.modules, 'selftaught.loop' in sys.modules)")
    assert loaded == "False False"

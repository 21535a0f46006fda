"""`selftaught predict`: a prediction for every row, kept through kills, and nothing of an answer in what is asked."""

import csv
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import held_runs
from builders import arithmetic, config
from selftaught.commands import predict as command
from selftaught.commands.evaluate import Asked, AskedSampling, Target, evaluate, find_target
from selftaught.commands.predict import Predicted, predict
from selftaught.engines.scripted import ScriptedEngine
from selftaught.grading.verifiers import make_verifier
from selftaught.records.errors import ConfigError, EngineError, RefusedError, StoreError
from selftaught.records.predictions import Drawn, Prediction
from selftaught.records.problems import Problem
from selftaught.records.sections import Value
from selftaught.runs.prediction_file import PredictionFile
from selftaught.tasks.own.questions import read_questions
from selftaught.tasks.own.settings import OwnConfig
from test_cli import refused, selftaught

SMALL: dict[str, Value] = {
    "compute.threads": 1,
    "compute.workers": 1,
    "compute.chunk_completions": 4,
    "engine.slots": 4,
    "engine.compiled": "off",  # saves every process the import
}
ADDER = AskedSampling(task_name="arithmetic", max_new_tokens=64, overrides=SMALL)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def sums() -> tuple[Problem, ...]:
    return tuple(p for p in arithmetic().test if p.class_name == "2")[:10]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, sums: Sequence[Problem]) -> tuple[Path, Predicted]:
    """Sums without their answers, and what the shipped model predicts for them."""
    folder = tmp_path_factory.mktemp("answered")
    file = write_rows(folder / "sums.jsonl", [{"question": p.question} for p in sums])
    return file, predict("builtin:adder", str(file), ADDER)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, int], str]], ScriptedEngine]:
    """Make `predict` ask a function in place of a model."""

    def install(reply: Callable[[str, int], str]) -> ScriptedEngine:
        engine = ScriptedEngine(reply)

        @contextmanager
        def opened(*_: object) -> Iterator[ScriptedEngine]:
            yield engine

        monkeypatch.setattr(command, "opened_engine", opened)
        return engine

    return install


def says(text: str) -> Callable[[str, int], str]:
    return lambda prompt, seed: text


def own_run(data: Path, **task: Value) -> Target:
    """A model that a run on a file has trained, as `find_target` gives it."""
    values = config(task={"name": "own", "data": str(data), **task}, sampling={"num_shots": 0})
    model = replace(find_target("builtin:adder", task="arithmetic").model, checkpoint=1)
    return Target(model, values, 1, 0)


def target_is(monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    monkeypatch.setattr(command, "find_target", lambda name, task: target)


# What is predicted


def test_every_row_has_a_line_in_the_order_of_the_rows(
    answered: tuple[Path, Predicted], sums: Sequence[Problem]
) -> None:
    file, predicted = answered
    assert predicted.out == file.with_name("sums.predictions.jsonl")
    lines = lines_of(predicted.out)
    assert [line["question"] for line in lines] == [p.question for p in sums]
    assert [line["id"] for line in lines] == list(range(1, len(sums) + 1))
    assert all(list(line) == ["id", "question", "prediction", "completion", "finish_reason"] for line in lines)
    assert any("<scratch>" in line["completion"] for line in lines)
    assert (predicted.rows, predicted.measured) == (len(sums), None)
    assert predicted.unparseable == sum(line["prediction"] is None for line in lines)


def test_the_answers_of_a_file_change_no_byte_and_measure_as_eval_does(
    answered: tuple[Path, Predicted], sums: Sequence[Problem], tmp_path: Path
) -> None:
    rows = [{"question": p.question, "answer": p.answer} for p in sums]
    predicted = predict("builtin:adder", str(write_rows(tmp_path / "sums.jsonl", rows)), ADDER)
    assert predicted.out.read_bytes() == answered[1].out.read_bytes()
    verifier = arithmetic().verifier
    completions = [line["completion"] for line in lines_of(predicted.out)]
    correct = sum(verifier(c, p).verdict == "correct" for c, p in zip(completions, sums, strict=True))
    assert predicted.measured is not None
    assert (predicted.measured.correct, predicted.measured.n) == (correct, len(sums))
    assert 0 < correct < len(sums)


def test_the_model_answers_the_problems_of_a_split_as_eval_measures_them(tmp_path: Path) -> None:
    asked = {"max_new_tokens": 64, "num_shots": 2, "overrides": {**SMALL, "task.dev_problems": 8}}
    target = find_target("builtin:adder", task="arithmetic")
    measured = evaluate(target, Asked(split="dev", **asked))
    by_class = [[p for p in arithmetic().dev if p.class_name == str(n)] for n in range(1, 6)]
    chosen = {p.id for group in by_class for p in group[:2]} - {by_class[3][1].id, by_class[4][1].id}
    rows = [{"question": p.question, "answer": p.answer} for p in arithmetic().dev if p.id in chosen]
    file = write_rows(tmp_path / "dev.jsonl", rows)
    predicted = predict("builtin:adder", str(file), AskedSampling(task_name="arithmetic", **asked))
    assert predicted.measured is not None
    assert (predicted.measured.n, predicted.measured.correct) == (measured.n, measured.correct)
    assert (predicted.unparseable, predicted.truncated) == (measured.unparseable, measured.truncated)


def test_of_several_completions_the_majority_wins_with_its_share(sums: Sequence[Problem], tmp_path: Path) -> None:
    file = write_rows(tmp_path / "sums.jsonl", [{"question": p.question} for p in sums[:4]])
    predicted = predict("builtin:adder", str(file), replace(ADDER, num_samples=4, temperature=1.0))
    lines = lines_of(predicted.out)
    assert len(lines) == 4
    for line in lines:
        drawn = [c["prediction"] for c in line["completions"]]
        votes = {p: drawn.count(p) for p in drawn if p is not None}
        assert line["votes"] == votes
        assert line["prediction"] == max(votes, key=votes.__getitem__, default=None)
        assert line["share"] == max(votes.values(), default=0) / 4
        assert line["completion"] == line["completions"][drawn.index(line["prediction"])]["completion"]
    assert any(len(line["votes"]) > 1 for line in lines)


def test_of_equally_many_votes_the_first_drawn_wins_and_the_unparseable_have_none(
    scripted: Callable[..., ScriptedEngine], tmp_path: Path, tiny: Path
) -> None:
    replies = iter([" no idea", " The answer is 9", " The answer is 4", " The answer is 4", " The answer is 9", " ?"])
    scripted(lambda prompt, seed: next(replies))
    file = write_rows(tmp_path / "q.jsonl", [{"question": "How many?"}])
    predict(str(tiny), str(file), AskedSampling(num_samples=6, max_new_tokens=50))
    (line,) = lines_of(tmp_path / "q.predictions.jsonl")
    assert (line["prediction"], line["share"], line["votes"]) == ("9", 2 / 6, {"9": 2, "4": 2})
    assert line["completion"] == " The answer is 9"


def test_a_model_outside_a_run_is_asked_the_question_alone_and_choices_get_their_text(
    scripted: Callable[..., ScriptedEngine], tmp_path: Path, tiny: Path
) -> None:
    engine = scripted(says(" A swallow flies. The answer is (B)"))
    rows = [{"stem": "Which flies?", "options": ["a trout", "a swallow"], "label": "a swallow", "id": "x7"}]
    rows += [{"stem": "Which swims?", "options": ["a trout", "a swallow"], "label": "a trout", "id": "x8"}]
    notes: list[str] = []
    file = write_rows(tmp_path / "q.jsonl", rows)
    predicted = predict(str(tiny), str(file), AskedSampling(max_new_tokens=50), note=notes.append)
    assert engine.requests[0].prompt == "Q: Which flies?\n(A) a trout\n(B) a swallow\nA:"
    first = lines_of(predicted.out)[0]
    assert (first["id"], first["prediction"], first["choice"]) == ("x7", "B", "a swallow")
    assert "question: stem; choices: options; id: id" in notes
    assert predicted.measured is not None
    assert (predicted.measured.correct, predicted.measured.n) == (1, 2)


def test_a_run_reads_the_columns_that_it_was_trained_on_and_says_which_rows_it_knows(
    scripted: Callable[..., ScriptedEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"body": f"Box {n}.", "ask": "How many?", "answer": n} for n in range(12)]
    data = write_rows(tmp_path / "train.jsonl", rows)
    target_is(monkeypatch, own_run(data, question_key="body + ask", verifier="numeric"))
    engine = scripted(says(" The answer is 3"))
    new = [{"body": " box  2. ", "ask": "how many?"}, {"body": "Box 99.", "ask": "How many?", "answer": 3}]
    file = write_rows(tmp_path / "new.jsonl", new)
    predicted = predict("run", str(file), AskedSampling(max_new_tokens=50))
    assert [r.prompt for r in engine.requests][1] == "Q: Box 99.\nHow many?\nA:"
    trained_on_box_2 = "Box 2." in {p.question.partition("\n")[0] for p in own_train(data)}
    assert predicted.known == trained_on_box_2
    assert predicted.measured is not None
    assert (predicted.measured.correct, predicted.measured.n) == (1, 1)


def own_train(data: Path) -> tuple[Problem, ...]:
    from builders import task_named

    return task_named("own", data=str(data), question_key="body + ask", verifier="numeric").train


def test_rows_that_the_shipped_model_has_seen_are_counted(
    scripted: Callable[..., ScriptedEngine], sums: Sequence[Problem], tmp_path: Path
) -> None:
    scripted(says("<scratch>\n</scratch>\n1 2"))
    rows = [{"question": p.question} for p in (*arithmetic().seen[:3], *sums[:2])]
    rows += [{"question": "what is 3 + 4?"}]  # no sum as the task writes it
    file = write_rows(tmp_path / "q.jsonl", rows)
    assert predict("builtin:adder", str(file), replace(ADDER, num_shots=0)).known == 3


@pytest.mark.parametrize(
    ("name", "completion", "prediction"),
    [
        ("numeric", " 3 * 4 = 12. The answer is 1,234.50", "1234.5"),
        ("numeric", " I do not know", None),
        ("exact", " The answer is **Graz**.", "Graz"),
        ("choice", " The answer is the second one (B)", None),
        ("choice", " The answer is (B)", "B"),
        ("math", r" The answer is \boxed{\frac{1}{2}}", "0.5"),
        ("math", r" The answer is $x^2$", "x^2"),
        ("math", r" The answer is $1,234$", "1234"),
        ("math", " The answer is (A)", "(A)"),
        ("math", r" The answer is \boxed{x +}", None),
        ("math", " I do not know", None),
        ("regex", " The answer is is 5 apples", "5"),
    ],
)
def test_a_verifier_reads_the_prediction_of_a_question_without_an_answer(
    name: str, completion: str, prediction: str | None
) -> None:
    verify = make_verifier(name, marker="The answer is", pattern=r"(\d+) apples")
    problem = Problem(id="1", question="?", answer="", choices=("x", "y") if name == "choice" else ())
    assert verify(completion, problem).prediction == prediction


def test_a_function_that_gives_verdicts_alone_is_refused(
    scripted: Callable[..., ScriptedEngine], tmp_path: Path, tiny: Path
) -> None:
    scripted(says(" 5"))
    (tmp_path / "checks.py").write_text(
        "def bare(text, problem):\n    return text.strip() == problem.answer\n\n"
        "def both(text, problem):\n    return text.strip() == problem.answer, text.strip()\n"
    )
    file = write_rows(tmp_path / "q.jsonl", [{"question": "How many?"}])

    def asked(function: str) -> AskedSampling:
        given: dict[str, Value] = {
            "task.verifier": "python",
            "task.verifier_function": f"{tmp_path}/checks.py:{function}",
        }
        return AskedSampling(max_new_tokens=50, overrides=given)

    with pytest.raises(Exception, match="a verdict without a prediction, which says nothing of a new question"):
        predict(str(tiny), str(file), asked("bare"))
    predict(str(tiny), str(file), asked("both"))
    assert lines_of(tmp_path / "q.predictions.jsonl")[0]["prediction"] == "5"


# What survives


def test_a_command_that_is_killed_carries_on_and_ends_with_the_same_bytes(
    answered: tuple[Path, Predicted], tmp_path: Path
) -> None:
    file, undisturbed = answered
    out = tmp_path / "killed.jsonl"
    arguments = [
        "predict",
        "builtin:adder",
        str(file),
        "-o",
        str(out),
        "--task",
        "arithmetic",
        "--max-new-tokens",
        "64",
    ]
    arguments += [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    process = held_runs.started([sys.executable, "-m", "selftaught", *arguments], out)
    held_runs.held(process)
    process.kill()
    process.communicate()
    saved = out.read_bytes()
    assert 0 < len(saved) < undisturbed.out.stat().st_size
    with open(out, "ab") as opened:
        opened.write(b'{"id":5,"question":"torn')
    done = selftaught(*arguments)
    assert done.returncode == 0, done.stderr
    assert "of 10 rows are on disk" in done.stderr
    assert "10 of 10 rows  " in done.stderr
    assert out.read_bytes() == undisturbed.out.read_bytes()


def prediction(number: int) -> Prediction:
    drawn = Drawn(prediction=None, completion="é\n", finish_reason="length")
    return Prediction(
        id=number, question="?", prediction="5", completion="5", finish_reason="end", completions=(drawn, drawn)
    )


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), chunk=st.integers(1, 4), cut=st.integers(0, 2_000))
def test_of_a_torn_file_the_complete_chunks_stay(
    tmp_path_factory: pytest.TempPathFactory, rows: int, chunk: int, cut: int
) -> None:
    out = tmp_path_factory.mktemp("torn") / "out.jsonl"
    ids = list(range(rows))
    with PredictionFile(out, ("id", "question", "prediction", "completion", "finish_reason", "completions")) as file:
        file.begin({})
        file.append([prediction(number) for number in ids])
        whole = out.read_bytes()
        out.write_bytes(whole[:cut])
        kept = file.saved(ids, chunk)
    lines = whole.splitlines(keepends=True)
    complete = whole[:cut].count(b"\n")
    assert kept == (rows if complete == rows else complete // chunk * chunk)
    assert (out.read_bytes() if out.exists() else b"") == b"".join(lines[:kept])


def test_a_finished_output_is_left_as_it_is_and_no_model_is_loaded(
    answered: tuple[Path, Predicted], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, predicted = answered
    about = predicted.out.with_name("sums.predictions.jsonl.about.json")
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in (predicted.out, about)]
    monkeypatch.delattr(command, "opened_engine")
    notes: list[str] = []
    assert predict("builtin:adder", str(file), ADDER, note=notes.append) == predicted
    assert "the predictions for all 10 rows are there; nothing is left to do" in notes[-1]
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in (predicted.out, about)] == before


def test_an_output_of_other_questions_settings_or_weights_is_refused_and_stays(
    answered: tuple[Path, Predicted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, predicted = answered
    before = predicted.out.read_bytes()

    def message(asked: AskedSampling = ADDER, source: Path = file, **more: Any) -> str:
        with pytest.raises(StoreError) as caught:
            predict("builtin:adder", str(source), asked, out=predicted.out, **more)
        return str(caught.value)

    assert "sampling.max_new_tokens = 64, now 65" in message(replace(ADDER, max_new_tokens=65))
    other = write_rows(tmp_path / "other.jsonl", [{"question": "1 + 2"}])
    assert "other questions (the file was changed)" in message(source=other)
    target = find_target("builtin:adder", task="arithmetic")
    target_is(monkeypatch, replace(target, model=replace(target.model, sha256="0" * 64)))
    assert "the weights of another model; give another name with -o" in message()
    assert predicted.out.read_bytes() == before


def test_an_output_that_predict_has_not_made_is_never_written_to(
    answered: tuple[Path, Predicted], tmp_path: Path
) -> None:
    for name in ("mine.jsonl", "mine.csv"):
        (tmp_path / name).write_text("mine\n")
        with pytest.raises(StoreError, match="is there already, and no mine"):
            predict("builtin:adder", str(answered[0]), ADDER, out=tmp_path / name)
        assert (tmp_path / name).read_text() == "mine\n"
    with pytest.raises(ConfigError, match="is the file of the questions"):
        predict("builtin:adder", str(answered[0]), ADDER, out=answered[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.csv", "mine.jsonl"]


def test_an_output_that_another_process_writes_is_refused(answered: tuple[Path, Predicted]) -> None:
    file, predicted = answered
    with open(predicted.out, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="is being written by another process"):
            predict("builtin:adder", str(file), ADDER)
    assert predict("builtin:adder", str(file), ADDER) == predicted


def test_a_damaged_line_is_named(answered: tuple[Path, Predicted], tmp_path: Path) -> None:
    file, predicted = answered
    out = tmp_path / "out.jsonl"
    about = predicted.out.with_name("sums.predictions.jsonl.about.json")
    out.with_name("out.jsonl.about.json").write_bytes(about.read_bytes())
    lines = predicted.out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join([lines[0], b"{}\n", *lines[2:]]))
    with pytest.raises(StoreError, match=r"out\.jsonl:2: id: field required"):
        predict("builtin:adder", str(file), ADDER, out=out)
    out.write_bytes(b"".join([lines[1], *lines[1:]]))
    with pytest.raises(StoreError, match=r"out\.jsonl:1: the row 2, expected 1"):
        predict("builtin:adder", str(file), ADDER, out=out)


def test_an_engine_that_fails_loses_nothing_and_the_rows_are_named(
    scripted: Callable[..., ScriptedEngine], tmp_path: Path, tiny: Path
) -> None:
    file = write_rows(tmp_path / "q.jsonl", [{"question": f"How many in {n}?"} for n in range(10)])
    asked = AskedSampling(max_new_tokens=50, overrides=SMALL)

    def fails(prompt: str, seed: int) -> str:
        if "in 9" in prompt:
            raise EngineError("the server is gone")
        return " The answer is 7"

    scripted(fails)
    with pytest.raises(
        EngineError, match=r"q\.jsonl:9 to .*q\.jsonl:10: the server is gone \(the rows before are saved"
    ):
        predict(str(tiny), str(file), asked)
    assert len(lines_of(tmp_path / "q.predictions.jsonl")) == 8
    engine = scripted(says(" The answer is 7"))
    assert predict(str(tiny), str(file), asked).rows == 10
    assert len(engine.requests) == 2


def test_ctrl_c_says_what_is_saved(
    scripted: Callable[..., ScriptedEngine], tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "q.jsonl", [{"question": f"How many in {n}?"} for n in range(6)])

    def stops(prompt: str, seed: int) -> str:
        if "in 5" in prompt:
            raise KeyboardInterrupt
        return " The answer is 7"

    scripted(stops)
    small = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    done = selftaught("predict", str(tiny), "q.jsonl", "--max-new-tokens", "50", *small, cwd=tmp_path)
    assert done.returncode == 130
    assert "stopped; 4 of 6 rows are saved in q.predictions.jsonl" in done.stderr


# Tables


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_has_the_values_of_the_lines(
    ending: str, scripted: Callable[..., ScriptedEngine], tmp_path: Path, tiny: Path
) -> None:
    replies = iter([' "So"\nThe answer is 4', " none", " The answer is 5", " none", " none", " none"])
    scripted(lambda prompt, seed: next(replies))
    file = write_rows(tmp_path / "q.jsonl", [{"question": "é, “how” many?", "id": 7}, {"question": "b", "id": 8}])
    out = tmp_path / f"out{ending}"
    predict(str(tiny), str(file), AskedSampling(num_samples=3, max_new_tokens=50), out=out)
    lines = lines_of(tmp_path / f"out{ending}.jsonl")
    rows: list[dict[str, Any]]
    if ending == ".csv":
        with open(out, encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        rows = [
            {**row, "id": int(row["id"]), "share": float(row["share"]), "prediction": row["prediction"] or None}
            for row in rows
        ]
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(out).to_pylist()
    for row in rows:
        row |= {key: json.loads(row[key]) for key in ("votes", "completions")}
    assert rows == lines
    assert [(row["id"], row["prediction"]) for row in rows] == [(7, "4"), (8, None)]
    out.unlink()  # as a kill before it was written leaves it
    predict(str(tiny), str(file), AskedSampling(num_samples=3, max_new_tokens=50), out=out)
    assert out.exists()


# What is refused


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (None, [], "q.jsonl: no such file"),
        ("", [], "q.jsonl: no rows"),
        ('{"question": "1 + 2"}\n{"question": \n', [], "q.jsonl:2: not JSON"),
        ('{"question": "1 + 2"}\n{"question": ""}\n', [], "q.jsonl:2: 'question' is empty"),
        ('{"x": "1 + 2"}\n{"x": "2 + 2"}\n', [], "cannot tell which key holds the question among 'x'"),
        ('{"x": "1 + 2"}\n', ["--question-key", "y"], "no key 'y'; the row has 'x'; name the column of the questions"),
        ('{"question": "1 + 2"}\n', ["-o", "out.txt"], "the ending '.txt' is not known; expected one of .jsonl, .csv"),
        ('{"question": "1 + 2"}\n', ["-o", "none/out.csv"], "expected a folder at none, but it is not there"),
        ('{"question": "1 + 2"}\n', ["-o", "q.jsonl/out.csv"], "expected a folder at q.jsonl"),
        ('{"question": "1 + 2"}\n', ["--samples", "2", "--temperature", "0"], "all 2 samples of a problem"),
        ('{"question": "1 + 2"}\n', ["--set", "sampling.num_shots=2"], "`predict` has an argument of its own for it"),
        ('{"question": "1 + 2"}\n', ["--task", "reasoning-gym"], "can read no answer to another question"),
        ('{"question": "1 + 2"}\n', ["--num-shots", "9999"], "few-shot examples; use at most that"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    content: str | None, more: list[str], message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "q.jsonl").write_text(content)
    task = [] if "--task" in more else ["--task", "arithmetic"]
    assert message in refused(selftaught("predict", "builtin:adder", "q.jsonl", *task, *more, cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ([] if content is None else ["q.jsonl"])


@pytest.mark.parametrize(
    ("target", "file", "message"),
    [
        ("nothing", "q.jsonl", "'nothing': no such folder"),
        ("q.jsonl", "q.jsonl", "'q.jsonl' is "),
        ("builtin:adder", "q.jsonl", "--task is needed"),
        ("builtin:none", "q.jsonl", "--task is needed"),
        ("builtin:adder", "somebody/questions", "somebody/questions: no such file"),
        ("builtin:adder", ".", ". is a folder; give one file"),
        ("builtin:adder", "p.jsonl", "p.jsonl: no such file"),
    ],
)
def test_a_target_that_is_no_model_and_a_file_that_is_none_are_refused(
    target: str, file: str, message: str, tmp_path: Path
) -> None:
    write_rows(tmp_path / "q.jsonl", [{"question": "1 + 2"}])
    task = ["--task", "arithmetic"] if file != "q.jsonl" else []
    assert message in refused(selftaught("predict", target, file, *task, cwd=tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    write_rows(tmp_path / "q.jsonl", [{"question": "1 + 2"}])
    tmp_path.chmod(0o500)
    assert "cannot write" in refused(
        selftaught("predict", "builtin:adder", "q.jsonl", "--task", "arithmetic", cwd=tmp_path)
    )


def test_a_prompt_longer_than_the_context_is_named_before_anything_is_generated(tmp_path: Path) -> None:
    rows = [{"question": "1 2 + 3 4"}, {"question": " ".join("1" * 2_000) + " + 1"}]
    write_rows(tmp_path / "q.jsonl", rows)
    done = selftaught("predict", "builtin:adder", "q.jsonl", "--task", "arithmetic", "--num-shots", "0", cwd=tmp_path)
    assert refused(done).startswith("selftaught: q.jsonl:2: a prompt of ")
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


def test_prompts_with_choices_need_rows_with_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"Which {n}?", "choices": ["x", "y"], "answer": "x"} for n in range(12)]
    target_is(monkeypatch, own_run(write_rows(tmp_path / "train.jsonl", rows), answer_is="text"))
    file = write_rows(tmp_path / "new.jsonl", [{"question": "Which?"}])
    with pytest.raises(ConfigError, match=r"new\.jsonl:1: no choices, but the prompts of this task have them"):
        predict("run", str(file), AskedSampling())


# How rows are read


def test_an_id_is_the_rows_own_if_all_have_one_and_else_its_line(tmp_path: Path) -> None:
    def ids(*rows: Mapping[str, Any]) -> tuple[str | int, ...]:
        return read_questions(str(write_rows(tmp_path / "q.jsonl", rows)), OwnConfig()).ids

    assert ids({"question": "a", "id": 5}, {"question": "b", "id": 5}) == (5, 5)
    assert ids({"question": "a", "id": "x"}, {"question": "b", "id": "y"}) == ("x", "y")
    assert ids({"question": "a", "id": "x"}, {"question": "b"}) == (1, 2)
    (tmp_path / "q.csv").write_text("question\n\na\nb\n")
    assert read_questions(str(tmp_path / "q.csv"), OwnConfig()).ids == (3, 4)
    (tmp_path / "q.json").write_text('[{"question": "a"}, {"question": "b"}]')
    assert read_questions(str(tmp_path / "q.json"), OwnConfig()).ids == (1, 2)


def test_the_same_question_may_stand_in_several_rows(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "q.jsonl", [{"question": q} for q in ("a", "b", "a")])
    read = read_questions(str(file), OwnConfig())
    assert [p.question for p in read.problems] == ["a", "b", "a"]
    assert len({p.id for p in read.problems}) == 3


def test_answers_that_cannot_be_read_are_said_and_do_not_stop_the_predictions(tmp_path: Path) -> None:
    rows = [{"question": q, "choices": ["x", "y"], "answer": "z"} for q in "ab"]
    read = read_questions(str(write_rows(tmp_path / "q.jsonl", rows)), OwnConfig())
    assert read.answers == {}
    assert "the answers under 'answer' are not used, not even to measure" in read.reading[1]
    solutions = [{"question": q, "answer": f"so it is\n#### {n}"} for n, q in enumerate("ab")]
    read = read_questions(str(write_rows(tmp_path / "q.jsonl", solutions)), OwnConfig())
    assert read.answers == {"1": "0", "2": "1"}
    assert {p.answer for p in read.problems} == {""}
    same = [{"question": "a"}, {"question": "a"}]  # no reason to look for another column
    assert read_questions(str(write_rows(tmp_path / "q.jsonl", same)), OwnConfig()).reading[0].startswith("question: ")
    some = [{"question": "a", "answer": None}, {"question": "b", "answer": "5"}]
    assert read_questions(str(write_rows(tmp_path / "q.jsonl", some)), OwnConfig()).answers == {"2": "5"}
    of_a_run = OwnConfig(data="train.jsonl")
    assert read_questions(str(tmp_path / "q.jsonl"), of_a_run).answers == {"2": "5"}
    shown = read_questions(str(tmp_path / "q.jsonl"), of_a_run, question_key="question + answer?")
    assert shown.answers == {}


def test_an_answer_that_its_verifier_rejects_is_said_and_not_counted(
    scripted: Callable[..., ScriptedEngine], tmp_path: Path, tiny: Path
) -> None:
    scripted(says(" The answer is 5"))
    file = write_rows(tmp_path / "q.jsonl", [{"question": "a", "answer": "5"}, {"question": "b", "answer": "five-ish"}])
    notes: list[str] = []
    asked = AskedSampling(max_new_tokens=50, overrides={"task.verifier": "numeric"})
    predicted = predict(str(tiny), str(file), asked, note=notes.append)
    assert predicted.measured is not None
    assert (predicted.measured.correct, predicted.measured.n) == (1, 1)
    assert any("1 answers are not used to measure, such as" in line and "q.jsonl:2" in line for line in notes)


def test_the_command_prints_counts_and_accuracy_or_one_json_object(
    answered: tuple[Path, Predicted], sums: Sequence[Problem], tmp_path: Path
) -> None:
    rows = [{"question": p.question, "answer": p.answer} for p in sums[:4]]
    write_rows(tmp_path / "q.jsonl", rows)
    small = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    arguments = ["predict", "builtin:adder", "q.jsonl", "--task", "arithmetic", "--max-new-tokens", "64", *small]
    done = selftaught(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("q.predictions.jsonl: 4 rows")
    assert "accuracy of the rows that have an answer: " in done.stdout
    assert "answers under 'answer' are never shown to the model" in done.stderr
    assert "4 of 4 rows  " in done.stderr
    again = json.loads(selftaught(*arguments, "--json", cwd=tmp_path).stdout)
    assert (again["out"], again["rows"], again["n"]) == ("q.predictions.jsonl", 4, 4)


def test_a_target_that_was_refused_can_be_corrected_under_the_same_name(
    scripted: Callable[..., ScriptedEngine], tmp_path: Path, tiny: Path
) -> None:
    file = write_rows(tmp_path / "q.jsonl", [{"question": "How many?"}])

    def fails(prompt: str, seed: int) -> str:
        raise RefusedError("no")

    scripted(fails)
    with pytest.raises(RefusedError):
        predict(str(tiny), str(file), AskedSampling(max_new_tokens=50))
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]
    scripted(says(" The answer is 5"))
    assert predict(str(tiny), str(file), AskedSampling(max_new_tokens=51)).rows == 1

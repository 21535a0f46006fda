"""The run folder stands alone: it stores its problems and prompts, and is read without data, model, loop or engine."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import output_of, problem, problems, task_settings
from selftaught.commands.evaluate import find_target
from selftaught.engines.scripted import ScriptedEngine
from selftaught.models.tokens import Codec
from selftaught.prompts.rendering import prompt_sha256, prompt_text
from selftaught.records.errors import ConfigError, StoreError
from selftaught.records.problems import Problem
from selftaught.records.prompts import Prompt, RenderedPrompt
from selftaught.runs.prompts import Render
from selftaught.runs.reading import (
    FORMAT,
    StoredProblems,
    StoredPrompts,
    read_problems,
    read_run_json,
    read_samples,
)
from selftaught.runs.store import RunStore
from selftaught.stages.sampling import sampling_spec
from selftaught.tasks import load_grader, load_task
from selftaught.tasks.settings import TaskConfig
from strategies import awkward_texts
from strategies import problems as any_problems
from test_cli import refused, selftaught, settings
from test_own_run import ADDITIONS, SETTINGS, fill_in, write_rows
from test_store import fresh_store, one_line_error
from toy import FEW_SHOT, TRAIN, reply, run_toy, toy_config, toy_task

ABOUT = {"format": FORMAT, "config": {}, "resolved": {}, "model": {}}


def fields_of(problem: Problem) -> dict[str, Any]:
    return {field.name: getattr(problem, field.name) for field in fields(Problem)}


def pairs(text: str) -> list[int]:
    """A tokenizer of two characters a token: many of its tokens span the end of a few-shot block."""
    return [sum(map(ord, text[i : i + 2])) for i in range(0, len(text), 2)]


# Problems.


@given(st.lists(any_problems(), max_size=4), st.lists(any_problems(), max_size=3))
def test_problems_and_few_shot_examples_are_read_as_they_were_written(
    train: list[Problem], few_shot: list[Problem]
) -> None:
    with fresh_store() as store:
        store.begin(toy_task(train=tuple(train), few_shot=tuple(few_shot)), ABOUT)
        stored = list(read_problems(store.dir))
    by_split = {split: [fields_of(p) for p in stored if p.split == split] for split in ("few_shot", "train", "dev")}
    assert by_split["train"] == list(map(fields_of, train))
    assert by_split["few_shot"] == list(map(fields_of, few_shot))
    assert by_split["dev"]


def test_a_problem_is_looked_up_by_its_id_and_a_few_shot_example_of_that_id_is_not_taken_for_it(tmp_path: Path) -> None:
    task = toy_task(
        few_shot=problems("a", "f", answer="7"), train=problems("b", "a"), dev=problems("c"), test=problems("d")
    )
    with RunStore(tmp_path) as store:
        store.begin(task, ABOUT)
    stored = StoredProblems(tmp_path)
    assert sorted(stored) == ["a", "b", "c", "d"]
    assert len(stored) == 4
    assert (stored["a"].split, stored["a"].answer) == ("train", "3")
    assert fields_of(stored["b"]) == fields_of(problem("b"))
    assert stored.get("z") is None


def test_a_folder_without_its_problems_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "problems.jsonl is missing" in one_line_error(lambda: StoredProblems(tmp_path))
    assert "problems.jsonl is missing" in one_line_error(lambda: list(read_problems(tmp_path)))


def test_problems_are_complete_before_run_json_says_that_the_run_is_begun(tmp_path: Path) -> None:
    order: list[str] = []

    class Watched(RunStore):
        def replace(self, path: Path, pieces: Any) -> None:
            super().replace(path, pieces)
            order.append(path.name)

    with Watched(tmp_path) as store:
        store.begin(toy_task(), ABOUT)
    assert order == ["problems.jsonl", "run.json"]


def test_a_start_that_fails_takes_back_problems_and_prompts(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run") as store:
        store.begin(toy_task(), ABOUT)
        store.append_prompts("", ["a prompt"], without_ids)
        store.withdraw()
    assert not (tmp_path / "run").exists()


def test_a_start_that_was_killed_before_run_json_is_begun_again_and_other_problems_are_not_overwritten(
    tmp_path: Path,
) -> None:
    path = tmp_path / "problems.jsonl"
    with RunStore(tmp_path) as store:
        store.begin(toy_task(), ABOUT)
        before = path.read_bytes()
        (tmp_path / "run.json").unlink()
        store.begin(toy_task(), ABOUT)
        assert path.read_bytes() == before
        for other in (b"mine\n", before + b"mine\n", b""):
            path.write_bytes(other)
            assert "is no file of this run" in one_line_error(lambda: store.begin(toy_task(), ABOUT))
            assert path.read_bytes() == other


# Prompts.


def without_ids(prompt: Prompt) -> RenderedPrompt:
    return RenderedPrompt(text=prompt_text(prompt), ids=None)


def in_pairs(prompt: Prompt) -> RenderedPrompt:
    return RenderedPrompt(text=prompt_text(prompt), ids=tuple(pairs(prompt_text(prompt))))


def appended(store: RunStore, prefix: str, endings: Sequence[str], render: Render) -> list[str]:
    prompts = [prefix + ending for ending in endings]
    store.append_prompts(prefix, prompts, render)
    return prompts


@given(st.lists(st.tuples(awkward_texts, st.lists(awkward_texts, max_size=3)), max_size=4), st.booleans())
def test_any_prompt_is_read_with_its_ids_and_stored_once(stages: list[tuple[str, list[str]]], has_ids: bool) -> None:
    render = in_pairs if has_ids else without_ids
    with fresh_store() as store:
        prompts = [prompt for prefix, endings in stages for prompt in appended(store, prefix, endings, render)]
        stored = StoredPrompts(store.dir)
        for prompt in prompts:
            read = stored[prompt_sha256(prompt)]
            assert read.text == prompt
            assert read.ids == (tuple(pairs(prompt)) if has_ids else None)
        path = store.dir / "prompts.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
    hashes = [json.loads(line)["sha256"] for line in lines]
    assert len(hashes) == len(set(hashes))
    assert set(map(prompt_sha256, prompts)) <= set(hashes)


def test_few_shot_examples_are_stored_once_for_all_their_prompts(tmp_path: Path) -> None:
    examples = "Q: one\nA: 1\n\n" * 100
    with RunStore(tmp_path) as store:
        appended(store, examples, ["Q: two\nA:", "Q: three\nA:"], in_pairs)
        appended(store, examples, ["Q: four\nA:"], in_pairs)
    content = (tmp_path / "prompts.jsonl").read_text()
    assert content.count("Q: one") == 100
    assert content.count("\n") == 4
    assert [len(json.loads(line)["ids"]) < 9 for line in content.splitlines()] == [False, True, True, True]


def test_the_prompts_of_a_killed_run_end_with_the_bytes_of_an_undisturbed_one() -> None:
    stages = [("P: é\n", ["a\u2028", "b", "a\u2028"]), ("", ["c"]), ("P: é\n", ["b", "d"])]
    with fresh_store() as store:
        path = store.dir / "prompts.jsonl"
        for prefix, endings in stages:
            appended(store, prefix, endings, in_pairs)
        content = path.read_bytes()
        for cut in range(len(content) + 1):
            path.write_bytes(content[:cut])
            again = RunStore(store.dir)
            again.cut_torn_tails()
            for prefix, endings in stages:
                appended(again, prefix, endings, in_pairs)
            assert path.read_bytes() == content


def test_a_prompt_that_the_folder_lacks_is_named(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append_prompts("", ["a prompt"], without_ids)
    assert "has no prompt 0123456789abcdef" in one_line_error(lambda: StoredPrompts(tmp_path)["0123456789abcdef"])


def test_a_line_that_is_no_prompt_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"text":"no hash"}\n')
    assert "expected the hash of a prompt" in one_line_error(lambda: StoredPrompts(tmp_path))
    with RunStore(tmp_path) as store:
        assert "expected the hash" in one_line_error(lambda: store.append_prompts("", ["a prompt"], without_ids))


def test_a_damaged_prompt_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    with RunStore(tmp_path) as store:
        store.append_prompts("", ["one", "two"], without_ids)
    path.write_text(path.read_text().replace('"two"', "2"))
    stored = StoredPrompts(tmp_path)
    assert stored[prompt_sha256("one")].text == "one"
    message = one_line_error(lambda: stored[prompt_sha256("two")])
    assert message.startswith(f"{path}:2: text: input should be a valid string")


# What a run stores.


class Encoding(ScriptedEngine):
    def render(self, prompt: Prompt) -> RenderedPrompt:
        return in_pairs(prompt)


@pytest.mark.parametrize("kind", [ScriptedEngine, Encoding])
def test_every_sample_names_a_stored_prompt_with_the_ids_that_the_engine_offers(
    kind: type[ScriptedEngine], tmp_path: Path
) -> None:
    task, config = toy_task(), toy_config()
    run_toy(tmp_path, task=task, config=config, open_engine=lambda model: kind(reply))
    prompts = StoredPrompts(tmp_path)
    by_id = {p.id: p for p in (*TRAIN, *task.dev, *task.test)}
    seen = 0
    for path, sample in read_samples(tmp_path):
        # The few-shot examples are in the prompts of the base model, not in those of a fine-tuned one.
        num_shots = 2 if sample.checkpoint is None else 0
        spec = sampling_spec(config, task, num_shots=num_shots, temperature=0.0, again="rationalization" in path.name)
        prompt = prompts[sample.prompt_sha256]
        assert prompt.text == spec.prompt(task, by_id[sample.problem_id])
        assert prompt.text.startswith(f"Q: {FEW_SHOT[0].question}") == (num_shots == 2)
        assert prompt.ids == (tuple(pairs(prompt.text)) if kind is Encoding else None)
        seen += 1
    assert seen > 20


def test_prompts_are_on_disk_before_their_chunk_is_generated(tmp_path: Path) -> None:
    class Watching(ScriptedEngine):
        def sample(self, requests: Any, params: Any) -> Iterator[Any]:
            for request in requests:
                assert StoredPrompts(tmp_path)[prompt_sha256(request.prompt)].text == request.prompt
            return super().sample(requests, params)

    run_toy(tmp_path, config=toy_config(loop__max_iterations=1), open_engine=lambda model: Watching(reply))


def generated_by(run_dir: Path) -> dict[str, set[int | None]]:
    models: dict[str, set[int | None]] = {}
    for path, sample in read_samples(run_dir):
        models.setdefault(path.stem, set()).add(sample.checkpoint)
    return models


def test_a_sample_says_which_model_of_the_run_generated_it(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config(loop__patience=9))
    models = generated_by(tmp_path)
    for stage, checkpoint in (("000-dev", None), ("001-rationale", None), ("001-rationalization", None)):
        assert models[stage] == {checkpoint}
    for stage, checkpoint in (("001-dev", 1), ("002-rationale", 1), ("002-dev", 2)):
        assert models[stage] == {checkpoint}


def test_the_first_samples_of_rft_come_from_checkpoint_0_and_not_from_the_base_model(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config("rft", loop__max_iterations=1))
    models = generated_by(tmp_path)
    assert (models["000-dev"], models["001-rationale"], models["001-dev"]) == ({None}, {0}, {1})


# Reading.


def test_reading_a_folder_imports_no_loop_engine_or_torch() -> None:
    loaded = set(output_of("import sys, selftaught.runs.reading; print(*sys.modules)").split())
    assert "selftaught.runs.reading" in loaded
    rooms = {f"selftaught.{room}" for room in ("loop", "engines", "training", "stages", "tasks", "models", "config")}
    assert not {name for name in loaded if ".".join(name.split(".")[:2]) in rooms}
    assert not {"torch", "transformers", "datasets", "numpy"} & loaded


SETTINGS_OF_TASKS = [
    task_settings("arithmetic", variant="restated"),
    task_settings("gsm8k", data="/nowhere", answer_marker="Answer:"),
    task_settings("commonsenseqa", data="/nowhere"),
    task_settings("own", data="/nowhere.jsonl"),
]


@pytest.mark.parametrize("task", SETTINGS_OF_TASKS, ids=lambda task: str(task.name))
def test_a_verifier_is_made_without_data(task: TaskConfig) -> None:
    judge = load_grader(task, [problem()])
    assert judge.verifier("no answer here", problem(choices=("x", "y"), answer="A")).verdict == "unparseable"
    assert (judge.check_steps is not None) == (task.name in ("arithmetic", "gsm8k"))


def test_ones_own_rows_are_judged_by_their_choices_if_they_have_any() -> None:
    chosen = problem(choices=("red", "blue"), answer="B")
    for rows, verdict in (([problem(), chosen], "correct"), ([problem()], "incorrect")):
        judge = load_grader(task_settings("own", data="/nowhere.jsonl"), iter(rows))
        assert judge.verifier("The answer is blue", chosen).verdict == verdict


def test_the_verifier_of_a_library_that_is_not_there_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match="needs its library") as caught:
        load_grader(task_settings("reasoning-gym", variant="chain_sum"), ())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", SETTINGS_OF_TASKS[:1], ids=lambda task: str(task.name))
def test_a_task_judges_as_the_verifier_that_is_made_without_it(task: TaskConfig) -> None:
    loaded, judge = load_task(task), load_grader(task, ())
    for p in loaded.dev[:20]:
        for completion in (f"{p.rationale}\n{p.answer}", f"{p.rationale}\n1", "1"):
            assert judge.verifier(completion, p) == loaded.verifier(completion, p)
            assert judge.check_steps
            assert loaded.check_steps
            assert judge.check_steps(p, completion) == loaded.check_steps(p, completion)


# A run whose data and model are gone.


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory, adder: Path) -> Path:
    """The folder of a finished run on own rows; its data, its prompt file and its model have been deleted."""
    folder = tmp_path_factory.mktemp("lonely")
    shutil.copytree(adder, folder / "model")
    write_rows(folder / "rows.jsonl", ADDITIONS)
    assert selftaught("init", "rows.jsonl", cwd=folder).returncode == 0
    fill_in(folder / "rows-prompt.toml")
    values = {**SETTINGS, "model.path": "model"}
    done = selftaught("run", "rows.toml", "--run-dir", "run", *settings(values), cwd=folder)
    assert done.returncode == 0, done.stderr
    evaluated = find_target(str(folder / "run" / "checkpoints" / "001"), task=None)
    assert evaluated.model.checkpoint == 1
    ids = {sha: prompt.ids for sha, prompt in stored_prompts(folder / "run").items()}
    codec = Codec(str(folder / "model"))
    for sha, prompt in stored_prompts(folder / "run").items():
        assert prompt_sha256(prompt.text) == sha
        assert ids[sha] == tuple(codec.encode_prompt(prompt.text))
    for path in folder.iterdir():
        if path.name != "run":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (folder / "run").rglob("*.safetensors"):
        path.unlink()
    return folder / "run"


def stored_prompts(run_dir: Path) -> dict[str, Any]:
    prompts = StoredPrompts(run_dir)
    return {sample.prompt_sha256: prompts[sample.prompt_sha256] for _, sample in read_samples(run_dir)}


def test_samples_are_shown_with_answer_prompt_and_model_when_data_and_model_are_gone(lonely: Path) -> None:
    done = selftaught("show", str(lonely), "--prompts", "--limit", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "answer '" in done.stdout
    assert "answer None" not in done.stdout
    assert "  > A:" in done.stdout
    assert "  by base  ended by" in done.stdout
    assert "  by checkpoint 001  ended by" in done.stdout
    as_json = selftaught("show", str(lonely), "--prompts", "--limit", "0", "--json")
    rows = [json.loads(line) for line in as_json.stdout.splitlines()]
    weights = {row["checkpoint"]: row["weights_sha256"] for row in rows}
    assert weights[None] == read_run_json(lonely)["model"]["sha256"][:16]
    assert weights[1] == json.loads((lonely / "checkpoints/001/checkpoint.json").read_text())["sha256"][:16]
    answers = {str(row["question"]): str(row["answer"]) for row in ADDITIONS}
    for row in rows:
        question = row["prompt"].rpartition("Q: ")[2].partition("\n")[0].partition(" (Hint")[0]
        assert row["answer"] == answers[question]
        assert row["prompt_ids"]
    plain = json.loads(selftaught("show", str(lonely), "--limit", "1", "--json").stdout)
    assert "prompt" not in plain


def test_a_run_is_judged_again_and_reported_when_data_and_model_are_gone(lonely: Path) -> None:
    done = selftaught("regrade", str(lonely))
    assert done.returncode == 0, done.stderr
    assert " samples, 0 verdicts changed" in done.stderr
    assert not done.stderr.startswith("0 samples")
    path = lonely / "samples" / "000-dev.jsonl"
    before = path.read_bytes()
    try:
        rows = [json.loads(line) for line in before.splitlines()]
        for row in rows:
            row["verdict"] = "correct" if row["verdict"] != "correct" else "incorrect"
        write_rows(path, rows)
        changed = selftaught("regrade", str(lonely), "--json")
        assert [json.loads(line)["checkpoint"] for line in changed.stdout.splitlines()] == [None] * len(rows)
    finally:
        path.write_bytes(before)
    done = selftaught("report", str(lonely))
    assert done.returncode == 0, done.stderr


def test_a_sample_whose_problem_is_gone_from_the_folder_is_refused_in_one_line(lonely: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lonely, tmp_path / "copy"))
    (copy / "problems.jsonl").write_bytes(b"")
    for command in ("show", "regrade"):
        assert "is not in problems.jsonl" in refused(selftaught(command, str(copy)))
    (copy / "problems.jsonl").unlink()
    for command in ("show", "regrade"):
        assert "problems.jsonl is missing" in refused(selftaught(command, str(copy)))


def test_an_older_folder_is_refused_with_what_can_read_it(lonely: Path, tmp_path: Path) -> None:
    about = read_run_json(lonely)
    (tmp_path / "run.json").write_text(json.dumps({**about, "format": 1}))
    with pytest.raises(StoreError, match="format is 1, this version reads 3; use the version of selftaught that"):
        read_run_json(tmp_path)

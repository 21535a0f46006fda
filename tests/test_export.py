"""A run handed on: the model and the data set load with the libraries that people use, and each says what it is."""

import getpass
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import selftaught as package
from builders import LEAST, output_of, run_python
from fake_hub import NAME, FakeHub, fake_hub
from selftaught.commands.export import export
from selftaught.config.loading import config_from_values, flat_values, load_config
from selftaught.config.public import config_text, public_values, repeating_command
from selftaught.methods.table import METHODS
from selftaught.models.licence import licence_of
from selftaught.records.errors import ConfigError, StoreError
from selftaught.records.prompts import Turn
from selftaught.records.samples import ModelRef, Sample
from selftaught.records.training import TrainingExample
from selftaught.runs.lines import adapter_of, dump, read_lines
from selftaught.runs.parquet import write_parts
from selftaught.runs.reading import StoredPrompts, read_problems, read_samples
from test_cli import QUICK
from test_cli import selftaught as command
from test_cli import settings as as_options
from test_library import SETTINGS, run_toy
from toy import reply


def better_once_trained(model: ModelRef) -> package.ScriptedEngine:
    """Solves all of dev and test after its first training, and nothing more than the toy model before."""

    def answer(prompt: str, seed: int) -> str:
        return reply(prompt.replace(" never", " easy"), seed) if model.iteration else reply(prompt, seed)

    return package.ScriptedEngine(answer)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toys"
    assert run_toy(folder, engine=better_once_trained).best_iteration == 1
    return folder


@pytest.fixture(scope="module")
def handed_on(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "toys"
    export(run_dir, out)
    return out


def loaded(folder: Path, config: str | None, cache: Path) -> Any:
    """The data set as `datasets` reads a folder."""
    import datasets

    return datasets.load_dataset(str(folder / "dataset"), config, cache_dir=str(cache))


def record(kind: type[Any], row: dict[str, Any]) -> Any:
    """A record of a row of the data set; what the row has besides is left out."""
    values = {key: row[key] for key in kind.__dataclass_fields__ if key in row}
    if "checks" in values:
        values["checks"] = {check.pop("name"): check for check in map(dict, values["checks"])}
    return adapter_of(kind).validate_json(json.dumps(values))


def test_load_dataset_reads_every_sample_example_and_problem_back_equal(
    run_dir: Path, handed_on: Path, tmp_path: Path
) -> None:
    samples, prompts = loaded(handed_on, "samples", tmp_path), StoredPrompts(run_dir)
    stored: dict[str, list[Sample]] = {}
    for path, sample in read_samples(run_dir):
        stored.setdefault(path.stem.partition("-")[2], []).append(sample)
    assert {stage: [record(Sample, row) for row in rows] for stage, rows in samples.items()} == stored
    answers = {problem.id: problem.answer for problem in read_problems(run_dir)}
    for row in samples["rationalization"]:
        assert row["prompt"] == prompts[row["prompt_sha256"]].text
        assert f"answer: {row['answer']}" in row["prompt"]
        assert row["answer"] == answers[row["problem_id"]]
    examples = list(read_lines(TrainingExample, run_dir / "examples" / "001.jsonl"))
    by_iteration = loaded(handed_on, "examples", tmp_path)["iteration_001"]
    assert [record(TrainingExample, row) for row in by_iteration] == examples
    assert loaded(handed_on, None, tmp_path)["train"].to_list() == by_iteration.to_list()
    problems = loaded(handed_on, "problems", tmp_path)
    assert [(split, row["id"]) for split in problems for row in problems[split]] == [
        (problem.split, problem.id) for problem in read_problems(run_dir)
    ]


PROMPTS = st.one_of(
    st.text(),
    st.lists(st.builds(Turn, role=st.sampled_from(["system", "user"]), content=st.text()), min_size=1).map(tuple),
)
EXAMPLES = st.builds(
    TrainingExample,
    problem_id=st.text(),
    prompt=st.just(""),
    completion=st.text(),
    completion_ids=st.none() | st.lists(st.integers(0, 2**31 - 1)).map(tuple),
    source=st.sampled_from(["rationale", "human"]),
    iteration=st.integers(0, 99),
    end_id=st.none() | st.integers(0, 2**31 - 1),
)


@settings(deadline=None, max_examples=30)
@given(prompt=PROMPTS, examples=st.lists(EXAMPLES, min_size=1, max_size=3))
def test_examples_of_texts_and_of_turns_are_equal_when_they_are_read_back(
    prompt: Any, examples: list[TrainingExample], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from dataclasses import replace

    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("run")
    examples = [replace(example, prompt=prompt) for example in examples]
    (folder / "examples").mkdir()
    (folder / "examples" / "003.jsonl").write_bytes(b"".join(dump(TrainingExample, e) for e in examples))
    (folder / "problems.jsonl").write_bytes(b"")
    (part,) = write_parts(folder, folder / "out")
    assert (part.config, part.split, part.rows) == ("examples", "iteration_003", len(examples))
    rows = pyarrow.parquet.read_table(folder / "out" / part.file).to_pylist()
    assert [record(TrainingExample, row) for row in rows] == examples


def test_the_model_is_the_checkpoints_and_loads_with_transformers(run_dir: Path, handed_on: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (handed_on / "model" / name).read_bytes() == (run_dir / "checkpoints" / "001" / name).read_bytes()
    assert not (handed_on / "model" / "checkpoint.json").exists()
    model = AutoModelForCausalLM.from_pretrained(handed_on / "model")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(handed_on / "model"))


def test_the_cards_have_the_front_matter_and_the_figures_that_a_reader_looks_for(handed_on: Path) -> None:
    from huggingface_hub import DatasetCard, ModelCard

    model = ModelCard.load(handed_on / "model" / "README.md")
    assert (model.data.license, model.data.library_name) == ("apache-2.0", "transformers")
    assert "base_model" not in model.data.to_dict(), "the shipped model is not on the hub"
    (result,) = model.data.eval_results
    assert (result.dataset_name, result.dataset_split, result.metric_value) == ("toy", "test", 1.0)
    assert "n = 3, 95 % interval 0.439 to 1.000" in result.metric_name
    data = DatasetCard.load(handed_on / "dataset" / "README.md")
    assert [c["config_name"] for c in data.data.configs] == ["training_set", "examples", "samples", "problems"]
    assert "license" not in data.data.to_dict()
    for text in (model.text, data.text):
        assert "3/3 1.000 [0.439, 1.000]" in text, "accuracy on test, with its interval"
        assert "| 1 | 3/6 | " in text, "counts of the iteration"
        assert "Base model builtin:adder: apache-2.0" in text
        assert "Data of the task toy: not stated" in text
        assert "False positives of iteration 1 on dev: 0/2." in text
        assert "started from Python with its own task and engine and trainer" in text
    named = set(data.text.split("`"))
    assert {*Sample.__dataclass_fields__, *TrainingExample.__dataclass_fields__, "prompt"} <= named


def test_the_card_says_how_failed_problems_were_sampled_again(tmp_path: Path) -> None:
    run_toy(tmp_path / "retried", settings={"method": "retry"})
    export(tmp_path / "retried", tmp_path / "out")
    text = (tmp_path / "out" / "dataset" / "README.md").read_text()
    assert "failed problems, sampled again without a hint |" in text
    assert "answer as a hint" not in text
    assert "hints accepted" not in text


def test_nothing_that_is_handed_on_names_this_machine(tmp_path: Path) -> None:
    """Its folders, its name, its user: in no card, setting, table or small file of the model."""
    import pyarrow.parquet

    prompts = tmp_path / "my prompts.toml"
    shown = '[[example]]\nquestion = "1 + 1?"\nrationale = "1 + 1 is 2."\nanswer = "2"\n'
    prompts.write_text(shown)
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"question": "{n} + 1?", "answer": {n + 1}}}\n' for n in range(2, 32))
    )
    base = tmp_path / "secret" / "my-model"
    shutil.copytree(Path(package.__file__).parent / "builtin" / "adder", base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "_name_or_path": str(base)}))
    (base / "LICENSE.txt").write_text("as you like")
    package.run(
        {**SETTINGS, "model.path": str(base), "task.name": "own", "task.data": str(tmp_path / "rows.jsonl")},
        settings={"task.prompt_file": str(prompts), "sampling.num_shots": 1},
        engine=lambda model: package.ScriptedEngine(lambda prompt, seed: " The answer is 3"),
        trainer=package.NullTrainer,
        run_dir=tmp_path / "runs" / "mine",
    )
    out = tmp_path / "out"
    export(tmp_path / "runs" / "mine", out, iteration=1)
    assert (out / "model" / "LICENSE.txt").read_text() == "as you like"
    private = {str(tmp_path), str(Path.home()), socket.gethostname(), "secret", f"/{getpass.getuser()}"}
    for path in (path for path in out.rglob("*") if path.is_file() and path.suffix != ".safetensors"):
        text = path.read_text() if path.suffix != ".parquet" else str(pyarrow.parquet.read_table(path).to_pylist())
        assert not [name for name in private if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)], path
    card = (out / "model" / "README.md").read_text()
    assert all(name in card for name in ("my-model", "rows.jsonl", "my prompts.toml", "its files: LICENSE.txt"))


def test_a_run_that_no_iteration_of_beat_the_base_model_hands_on_its_data_alone(tmp_path: Path) -> None:
    run_toy(tmp_path / "run")
    done = command("export", str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--json")
    assert "no iteration beat the base model on dev" in done.stderr
    assert json.loads(done.stdout)["model"] is None
    assert os.listdir(tmp_path / "out") == ["dataset"]
    assert "verdict" in loaded(tmp_path / "out", None, tmp_path / "cache")["rationale"].column_names
    assert "no model is handed on" in (tmp_path / "out" / "dataset" / "README.md").read_text()
    export(tmp_path / "run", tmp_path / "first", iteration=1)
    assert "iteration 1, not the run's result" in (tmp_path / "first" / "model" / "README.md").read_text()


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    for name, words in {"full": "is not empty", "file": "is a file", "link": "is a link"}.items():
        with pytest.raises(ConfigError, match=words):
            export(run_dir, tmp_path / name)
    with pytest.raises(ConfigError, match="finished iterations 1 to 1; give one of them"):
        export(run_dir, tmp_path / "out", iteration=2)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run_dir, unfinished)
    (unfinished / "result.json").unlink()
    with pytest.raises(StoreError, match="has no result yet; finish it with `selftaught run --resume"):
        export(unfinished, tmp_path / "out")
    (unfinished / "prompts.jsonl").unlink()
    with pytest.raises(StoreError, match="has no prompt"):
        export(unfinished, tmp_path / "out", iteration=1)
    assert sorted(os.listdir(tmp_path)) == ["file", "full", "link", "unfinished"]
    (tmp_path / "empty").mkdir()
    assert export(run_dir, tmp_path / "empty").model == tmp_path / "empty" / "model"


PARAMETERS = 642_560
"""Of the shipped model."""

KILLED = """
import os, signal, sys
from pathlib import Path
from selftaught.commands import export
def killed(*args): os.kill(os.getpid(), signal.SIGKILL)
export._write_model = killed
export.export(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_export_leaves_no_folder_of_that_name_and_the_next_one_begins_again(
    run_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run_python(KILLED, run_dir, out).returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["out.unfinished"]
    export(run_dir, out)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["out", *(path.name for path in out.rglob("*"))])
    assert not list(out.glob(".*"))
    (tmp_path / "other.unfinished").mkdir()
    (tmp_path / "other.unfinished" / "mine.txt").write_text("x")
    with pytest.raises(StoreError, match="was not made by this command"):
        export(run_dir, tmp_path / "other")


@pytest.mark.parametrize("limit", [3_000, 600_000], ids=["in the tables", "in the model"])
def test_a_disk_that_becomes_full_is_one_line_and_leaves_nothing(limit: int, run_dir: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        done = command("export", str(run_dir), "--to", str(tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "free some space" in done.stderr
    assert not os.listdir(tmp_path)


SETTING_CHANGES = {
    "rationalization.hints": "none",
    "selection.require": ("answer", "steps"),
    "selection.max_per_problem": 3,
    "sampling.top_k": 7,
    "training.window": "all",
    "model.system": "Say \"yes\",\nthen 'no': \\frac{1}{2} – ½",
    "task.choose": "unsolved-first",
    "loop.patience": 9,
    "training.num_rehearsed": 3,
}


@given(
    method=st.sampled_from(sorted(METHODS)),
    changes=st.dictionaries(st.sampled_from(sorted(SETTING_CHANGES)), st.just(None)),
)
@settings(deadline=None, max_examples=20)
def test_the_written_file_and_command_resolve_to_the_settings_of_the_run(
    method: str, changes: dict[str, None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    changed = {key: SETTING_CHANGES[key] for key in changes}
    values = flat_values(
        config_from_values({**LEAST, "training.num_rehearsed": 1, **METHODS[method].knobs, **changed, "method": method})
    )
    stored = json.loads(json.dumps(values))  # as run.json has them
    file = tmp_path_factory.mktemp("config") / "run.toml"
    file.write_text(config_text(stored), encoding="utf-8")
    repeat = repeating_command(stored, file=str(file), run_dir="runs/x")
    assert repeat is not None
    words = shlex.split(repeat)
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert words[:2] == ["selftaught", "run"]
    assert flat_values(load_config(words[2], overrides)) == values


def test_public_settings_have_no_address_and_of_a_path_the_last_name_alone() -> None:
    values = {"model.path": "/home/me/llm", "task.name": "/x/tasks.py:load", "engine.url": "http://me:1", "seed": 3}
    assert public_values({**values, "task.data": "openai/gsm8k"}) == {
        "model.path": "llm",
        "task.name": "tasks.py:load",
        "task.data": "openai/gsm8k",
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("card", "known"),
    [
        ("---\nlicense: llama3\n---\n# x", "llama3"),
        ("---\nlicense: [mit]\n---\n", "mit"),
        ("---\nlicense: {a: b\n---\n", None),
        ("no front matter", None),
    ],
)
def test_the_licence_of_a_model_is_what_its_card_states_or_nothing(
    card: str, known: str | None, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path, named="x").id == known


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub(public=(f"models/{NAME}/shown",)) as server:
        yield server


def push(run: Path, out: Path, *more: str, hub: str, **env: str) -> Any:
    code = "import sys; from selftaught.cli.app import main; sys.argv[0] = 'selftaught'; main()"
    given = {"HF_ENDPOINT": hub, "HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0", "HF_HOME": str(out.parent / "hf"), **env}
    return run_python(code, "export", run, "--to", out, *more, env=given)


@pytest.mark.slow
def test_an_export_is_pushed_as_a_private_model_and_a_private_data_set(
    run_dir: Path, hub: FakeHub, tmp_path: Path
) -> None:
    done = push(run_dir, tmp_path / "out", "--push-to-hub", f"{NAME}/toys", hub=hub.address)
    assert done.returncode == 0, done.stderr
    assert [(asked["type"], asked["visibility"]) for asked in hub.created] == [
        ("model", "private"),
        ("dataset", "private"),
    ]
    for kind, name in (("models", "model"), ("datasets", "dataset")):
        folder = tmp_path / "out" / name
        local = {
            f"{kind}/{NAME}/toys/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()
        }
        assert {path: content for path, content in hub.files.items() if path.startswith(kind)} == local


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_line(run_dir: Path, hub: FakeHub, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"HF_TOKEN": ""}, "this machine has no token of the Hugging Face hub; log in with `hf auth login`"),
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"),
        ({"hub": "http://127.0.0.1:9"}, "Connection refused"),
    ]
    for env, words in cases:
        done = push(run_dir, tmp_path / "out", "--push-to-hub", "toys", **{"hub": hub.address, **env})
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert words in done.stderr
    done = push(run_dir, tmp_path / "out", "--push-to-hub", f"{NAME}/shown", hub=hub.address)
    assert "the model someone/shown is there and public; give --public" in done.stderr
    assert not (tmp_path / "out").exists(), "all of that is known before anything is written"
    hub.refuses = "/commit/"
    done = push(run_dir, tmp_path / "out", "--push-to-hub", "toys", hub=hub.address)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "You may not write here" in done.stderr
    assert f"`hf upload {NAME}/toys {tmp_path / 'out' / 'model'}`" in done.stderr
    assert (tmp_path / "out" / "dataset" / "README.md").exists(), "the export stays"


ADAPTERS = {"training.lora_rank": 4, "training.learning_rate": 3e-3, "training.steps_first_iteration": 60}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, ADAPTERS], ids=["all weights", "adapters"])
def test_the_exported_model_answers_as_the_run_measured_it(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy, by transformers alone, in the run's number type, as the card's program does it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_dir = tmp_path / "run"
    values = {**QUICK, "training.steps_first_iteration": 30, "model.dtype": "float32", **changes}
    assert command("run", "arithmetic", "--run-dir", str(run_dir), *as_options(values)).returncode == 0
    checkpoint = run_dir / "checkpoints" / "001"
    assert (checkpoint / "adapter_model.safetensors").exists() == bool(changes)
    with monkeypatch.context() as patch:
        patch.setattr("selftaught.commands.export.free_bytes", lambda folder: 4 * PARAMETERS - 1)
        with pytest.raises(StoreError, match="the export needs up to 2 MiB"):
            export(run_dir, tmp_path / "out", iteration=1)
    export(run_dir, tmp_path / "out", iteration=1)
    names = {path.name for path in (tmp_path / "out" / "model").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "generation_config.json", "README.md"} <= names
    assert not [name for name in names if "adapter" in name], "merged: whoever loads it needs no peft"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype="auto")
    assert model.dtype is torch.float32
    rows = [row for row in loaded(tmp_path / "out", "samples", tmp_path / "cache")["dev"] if row["iteration"] == 1]
    assert len(rows) == 10
    before = [row for row in loaded(tmp_path / "out", "samples", tmp_path / "cache")["dev"] if row["iteration"] == 0]
    assert [row["completion"] for row in rows] != [row["completion"] for row in before], "the training changed them"
    for row in rows:
        inputs = tokenizer(row["prompt"], return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
        completion = tokenizer.decode(ids, skip_special_tokens=True)
        if row["finish_reason"] == "stop":
            completion = completion[: len(row["completion"])]
        assert completion == row["completion"]


def test_importing_the_cards_imports_no_library_of_the_hub() -> None:
    code = "import sys, selftaught.report.cards, selftaught.commands.export; print('huggingface_hub' in sys.modules)"
    assert output_of(code) == "False"

"""The run folder: what is read equals what was written, and a kill or a full disk leaves nothing incomplete."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import (
    PACKAGE,
    checkpoint,
    measurement,
    output_of,
    sample,
    step_metrics,
    steps_check,
    summary,
)
from selftaught.records.errors import StoreError
from selftaught.records.samples import LeftOut, PlannedSample, Sample
from selftaught.records.training import ProbeRow, TrainingExample
from selftaught.runs.reading import (
    FORMAT,
    dump_measurement,
    dump_sample,
    read_measurements,
    read_result,
    read_run_json,
    read_samples,
    read_summaries,
)
from selftaught.runs.stage_file import StageFile
from selftaught.runs.store import NO_WEIGHTS, RunStore, append_metrics
from strategies import samples

EXAMPLE = TrainingExample(
    problem_id="p1", prompt="Q:\n", completion=" 3", completion_ids=(1, 2), source="rationale", iteration=1
)


MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A folder where a sync costs nothing, if there is one, for tests that write a file hundreds of times."""


@contextmanager
def fresh_store() -> Iterator[RunStore]:
    """A store in a new folder, for property tests, whose examples must not share one."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, RunStore(Path(folder) / "run") as store:
        yield store


def written_in_chunks(store: RunStore, given_samples: list[Sample], chunk: int) -> Path:
    stage = StageFile(store.samples_path(1, "rationale"))
    for first in range(0, len(given_samples), chunk):
        stage.append(given_samples[first : first + chunk])
    return stage.path


def numbered(number: int) -> list[Sample]:
    return [sample(f"p{k}", completion=f"line\n{k} é \u2028 {{}}", index=k) for k in range(number)]


def planned(samples: list[Sample]) -> list[PlannedSample]:
    return [PlannedSample(problem_id=s.problem_id, kind=s.kind, index=s.index) for s in samples]


def one_line_error(action: Callable[[], Any]) -> str:
    with pytest.raises(StoreError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Samples.


@given(st.lists(samples(), max_size=6))
def test_any_samples_survive_being_written_and_read(given_samples: list[Sample]) -> None:
    with fresh_store() as store:
        path = written_in_chunks(store, given_samples, 4)
        assert list(store.samples(1, "rationale")) == given_samples
        again = store.samples_path(1, "again")
        StageFile(again).append(list(store.samples(1, "rationale")))
        assert not given_samples or again.read_bytes() == path.read_bytes()


@given(st.lists(samples(), min_size=1, max_size=6))
def test_a_sample_is_one_line_whatever_its_text(given_samples: list[Sample]) -> None:
    with fresh_store() as store:
        content = written_in_chunks(store, given_samples, 6).read_bytes()
    assert content.count(b"\n") == len(given_samples)
    assert content.endswith(b"\n")
    assert [json.loads(line) for line in content.splitlines()] == [dump_sample(s) for s in given_samples]


def test_read_samples_reads_file_by_file_and_skips_an_incomplete_last_line(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        StageFile(store.samples_path(2, "rationale")).append([sample("c", iteration=2)])
        StageFile(store.samples_path(1, "rationale")).append([sample("a"), sample("b")])
        with open(store.samples_path(1, "rationale"), "ab") as file:
            file.write(b'{"problem_id": "torn')
    assert [(path.name, s.problem_id) for path, s in read_samples(tmp_path)] == [
        ("001-rationale.jsonl", "a"),
        ("001-rationale.jsonl", "b"),
        ("002-rationale.jsonl", "c"),
    ]


# Damage.


def damaged(path: Path, line: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change one line (from 1) of a file of JSON lines; a change that is text replaces the line as it is."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    changed = change(json.loads(lines[line - 1]))
    lines[line - 1] = changed if isinstance(changed, str) else json.dumps(changed)
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda row: "no JSON", "the line: invalid json"),
        (lambda row: "", "the line: invalid json"),
        (lambda row: "[1]", "the line: "),
        (lambda row: {**row, "verdict": "perhaps"}, "verdict: input should be 'correct', 'incorrect' or 'unparseable'"),
        (lambda row: {**row, "index": "one"}, "index: input should be a valid integer"),
        (lambda row: {key: value for key, value in row.items() if key != "seed"}, "seed: field required"),
        (lambda row: {**row, "checks": {"steps": {}}}, "checks.steps.passed: field required"),
    ],
)
def test_a_damaged_line_is_an_error_that_names_file_and_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], what: str
) -> None:
    with RunStore(tmp_path) as store:
        path = written_in_chunks(store, numbered(3), 3)
        damaged(path, 2, change)
        before = path.read_bytes()
        for read in (
            lambda: list(store.samples(1, "rationale")),
            lambda: StageFile(path).read(planned(numbered(3)), [s.seed for s in numbered(3)]),
            lambda: list(read_samples(tmp_path)),
        ):
            assert one_line_error(read).startswith(f"{path}:2: {what}")
        assert path.read_bytes() == before


def test_damaged_lines_of_the_other_files_are_errors_too(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        for n in (1, 2):
            store.finish_iteration(summary(n))
            store.append_measurement(measurement(iteration=n))
        damaged(tmp_path / "iterations.jsonl", 2, lambda row: {**row, "examples": None})
        damaged(tmp_path / "evaluations.jsonl", 1, lambda row: {**row, "n": "many"})
        assert f"{tmp_path}/iterations.jsonl:2: examples: " in one_line_error(lambda: read_summaries(tmp_path))
        assert f"{tmp_path}/evaluations.jsonl:1: n: " in one_line_error(lambda: read_measurements(tmp_path))


def test_a_damaged_checkpoint_record_is_an_error(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.publish_checkpoint(store.new_checkpoint_dir(1), checkpoint(1, sha256=NO_WEIGHTS))
        (store.checkpoint_dir(1) / "checkpoint.json").write_text("{")
        assert "checkpoint.json:1: " in one_line_error(lambda: store.checkpoint(1))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"{", "not readable as JSON"),
        (b"\xff", "not readable as JSON"),
        (b"[]", "expected a JSON object, got list"),
        (b"{}", f"run folder format is None, this version reads {FORMAT}"),
        (f'{{"format": {FORMAT}, "config": {{}}}}'.encode(), "resolved, model missing"),
        (b'{"format": 99}', f"run folder format is 99, this version reads {FORMAT}"),
    ],
)
def test_a_damaged_or_foreign_run_json_is_an_error(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "run.json").write_bytes(content)
    assert what in one_line_error(lambda: read_run_json(tmp_path))


def test_a_folder_without_run_json_is_no_run_folder(tmp_path: Path) -> None:
    assert "is not a run folder" in one_line_error(lambda: read_run_json(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_result_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    assert one_line_error(lambda: read_result(tmp_path)).startswith(f"{tmp_path}/result.json: ")


# The files of one line per record.


@pytest.mark.parametrize("name", ["iterations.jsonl", "evaluations.jsonl", "metrics.jsonl"])
def test_an_incomplete_last_line_is_cut_off_at_any_byte_and_complete_lines_stay(name: str) -> None:
    with fresh_store() as store:
        for n in (1, 2):
            store.finish_iteration(summary(n))
            store.append_measurement(measurement(iteration=n))
            append_metrics(store.dir, n, step_metrics(n))
        path = store.dir / name
        content = path.read_bytes()
        first = content.index(b"\n") + 1
        for cut in range(len(content) + 1):
            path.write_bytes(content[:cut])
            store.cut_torn_tails()
            kept = len(content) if cut == len(content) else first if cut >= first else 0
            assert path.read_bytes() == content[:kept]


def test_cutting_torn_tails_of_an_empty_folder_does_nothing(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.cut_torn_tails()
        assert not (tmp_path / "iterations.jsonl").exists()


def test_summaries_and_measurements_are_read_as_they_were_written(tmp_path: Path) -> None:
    measured = measurement(
        split="test", num_samples=4, pass_at_k={"1": 0.5, "4": 1 / 3}, majority_at_k=0.1, false_positive=2
    )
    done = summary(1, dev=measured, warnings=("a\nb",), left_out={"over the cap": 2, "incorrect": 1})
    with RunStore(tmp_path) as store:
        store.finish_iteration(done)
        store.append_measurement(measured)
    assert read_summaries(tmp_path) == [done]
    assert read_measurements(tmp_path) == [measured]
    assert list(read_summaries(tmp_path)[0].left_out) == ["over the cap", "incorrect"]


def test_a_measurement_that_is_computed_again_adds_nothing(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        for m in (measurement(1), measurement(2), measurement(1), measurement(2)):
            store.append_measurement(m)
    assert read_measurements(tmp_path) == [measurement(1), measurement(2)]


def test_a_line_of_metrics_has_its_iteration(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        append_metrics(store.dir, 3, step_metrics(7, loss=0.25))
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) | {"iteration": 3, "step": 7, "loss": 0.25} == json.loads(line)


def test_metrics_are_json_for_any_reader_whatever_the_gradients(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    with RunStore(tmp_path) as store:
        append_metrics(store.dir, 1, step_metrics(grad_norm=float("inf")))
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)["grad_norm"] is None


def test_a_measurement_is_the_same_in_other_files_as_in_evaluations(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append_measurement(measurement())
    assert dump_measurement(measurement()) == json.loads((tmp_path / "evaluations.jsonl").read_text())


# Small files.


def test_the_hash_of_the_examples_is_that_of_their_file(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        digest = store.write_examples(1, [EXAMPLE, replace(EXAMPLE, completion="é\n", completion_ids=None)])
        content = store.examples_path(1).read_bytes()
    assert sha256(content).hexdigest() == digest
    rows = [json.loads(line) for line in content.splitlines()]
    assert [(row["completion"], row["completion_ids"]) for row in rows] == [(" 3", [1, 2]), ("é\n", None)]


def test_examples_written_again_replace_the_old_ones(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.write_examples(1, [EXAMPLE, EXAMPLE])
        store.write_examples(1, [EXAMPLE])
        assert store.examples_path(1).read_bytes().count(b"\n") == 1


def test_what_was_left_out_is_on_disk_with_its_reason(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.write_left_out(1, [LeftOut(problem_id="a", iteration=1, kind="rationale", index=0, reason="duplicate")])
    row = json.loads((tmp_path / "left_out" / "001.jsonl").read_text())
    assert row == {"problem_id": "a", "iteration": 1, "kind": "rationale", "index": 0, "reason": "duplicate"}


def test_replacing_leaves_no_temporary_file(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.write_json("result.json", {"é": [1, None]})
    assert json.loads((tmp_path / "result.json").read_text()) == {"é": [1, None]}
    assert not list(tmp_path.glob("*.tmp"))


def test_run_json_and_result_json_are_read_as_they_were_written(tmp_path: Path) -> None:
    description = {"format": FORMAT, "config": {"seed": 1}, "resolved": {}, "model": {"path": "é"}}
    result = {"best_iteration": 1, "checkpoint": "checkpoints/001", "base": {}, "test": {}}
    with RunStore(tmp_path) as store:
        store.write_json("run.json", description)
        store.write_json("result.json", result)
    assert read_run_json(tmp_path) == description
    assert read_result(tmp_path) == result


def test_the_result_of_an_unfinished_run_is_none(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None


def test_times_and_rates_are_not_in_samples_or_examples(tmp_path: Path) -> None:
    """A killed and resumed run must end with the same bytes."""
    with RunStore(tmp_path) as store:
        StageFile(store.samples_path(1, "rationale")).append([sample(checks=steps_check(passed=False))])
        store.write_examples(1, [EXAMPLE])
        keys = {key for path in tmp_path.glob("*/001*.jsonl") for key in json.loads(path.read_text())}
    assert not [key for key in keys if "second" in key or "time" in key or "per_s" in key]


def test_a_reader_of_a_file_that_is_replaced_can_finish_the_old_one(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.write_json("result.json", {"old": 1})
        with open(tmp_path / "result.json") as reader:
            store.write_json("result.json", {"new": 2})
            assert json.load(reader) == {"old": 1}
    assert json.loads((tmp_path / "result.json").read_text()) == {"new": 2}


# One writer.


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with RunStore(tmp_path), pytest.raises(StoreError, match="is being written by another selftaught process"):
        RunStore(tmp_path).__enter__()


def test_a_writer_that_was_refused_leaves_the_lock_to_the_first(tmp_path: Path) -> None:
    with RunStore(tmp_path):
        for _ in range(2):
            with pytest.raises(StoreError):
                RunStore(tmp_path).__enter__()


def test_the_folder_is_free_again_after_its_writer(tmp_path: Path) -> None:
    with RunStore(tmp_path):
        pass
    with RunStore(tmp_path) as store:
        store.write_json("run.json", {"second": True})
    assert json.loads((tmp_path / "run.json").read_text()) == {"second": True}


def test_a_writer_in_another_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from selftaught.runs.store import RunStore\n"
            "with RunStore(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="another selftaught process"):
            RunStore(tmp_path).__enter__()
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / "lock").exists()
    with RunStore(tmp_path):
        pass


# Failed writes. A limit on file sizes replaces a full disk: its error (EFBIG) comes from the same calls.

LIMITED = """
import resource, sys
from pathlib import Path
from builders import sample
from selftaught.records.errors import StoreError
from selftaught.runs.stage_file import StageFile
from selftaught.runs.store import RunStore

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
store = RunStore(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    {action}
except StoreError as error:
    print(error)
"""


def failed_write(action: str, folder: Path, limit: int) -> str:
    message = output_of(LIMITED.format(action=action), folder, limit)
    assert message
    assert "\n" not in message
    return message


def test_nothing_is_left_of_a_chunk_that_does_not_fit(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        path = written_in_chunks(store, numbered(4), 4)
        content = path.read_bytes()
    action = f"StageFile(Path({str(path)!r})).append([sample(index=k) for k in range(50)])"
    message = failed_write(action, tmp_path, len(content) + 2000)
    assert message.startswith(f"cannot append to {path}: File too large; free some space")
    assert path.read_bytes() == content


def test_a_first_chunk_that_does_not_fit_leaves_an_empty_stage(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        path = store.samples_path(1, "rationale")
        failed_write(f"StageFile(Path({str(path)!r})).append([sample() for k in range(50)])", tmp_path, 2000)
        assert path.read_bytes() == b""


def test_nothing_is_left_of_a_line_that_does_not_fit(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.finish_iteration(summary(1))
    content = (tmp_path / "iterations.jsonl").read_bytes()
    action = "from builders import summary; store.finish_iteration(summary(2))"
    assert "cannot append to" in failed_write(action, tmp_path, len(content) + 100)
    assert (tmp_path / "iterations.jsonl").read_bytes() == content


@pytest.mark.parametrize("size", [500, 100_000])  # below and above the size of Python's buffer: flush fails, or write
def test_a_file_that_cannot_be_replaced_is_as_before(tmp_path: Path, size: int) -> None:
    with RunStore(tmp_path) as store:
        store.write_json("result.json", {"a": 1})
    content = (tmp_path / "result.json").read_bytes()
    message = failed_write(f"store.replace(folder / 'result.json', [b'x' * {size}])", tmp_path, 300)
    assert message.startswith(f"cannot write {tmp_path}/result.json: File too large; free some space")
    assert (tmp_path / "result.json").read_bytes() == content
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_is_left_of_a_checkpoint_whose_record_does_not_fit(tmp_path: Path) -> None:
    with RunStore(tmp_path):
        pass
    action = (
        "from builders import checkpoint; from selftaught.records.training import ProbeRow; "
        "probe = ProbeRow(prompt='p' * 5000, completion='', old_logprobs=()); "
        f"store.publish_checkpoint(store.new_checkpoint_dir(1), checkpoint(1, sha256='{NO_WEIGHTS}', probe=(probe,)))"
    )
    assert "cannot write" in failed_write(action, tmp_path, 2000)
    assert RunStore(tmp_path).checkpoint(1) is None
    assert not RunStore(tmp_path).checkpoint_dir(1).exists()


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        message = one_line_error(lambda folder=folder: RunStore(folder).__enter__())  # type: ignore[misc]
        assert message.startswith(f"cannot create {folder}: ")
        assert message.endswith("check the path and its permissions")


def test_appending_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in one_line_error(lambda: StageFile(tmp_path / "file" / "x.jsonl").append([sample()]))


def test_replacing_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = RunStore(tmp_path)
    assert "Not a directory" in one_line_error(lambda: store.replace(tmp_path / "file" / "x.json", [b"{}"]))


# Kills. The process ends itself at its k-th file operation, for every k until it finishes without a kill.

KILLED = """
import json, os, sys
from pathlib import Path
from builders import checkpoint
from selftaught.runs.store import RunStore

def work(store):
    {work}

def state(store):
    {state}

root, states = Path(sys.argv[1]), []
for kill_at in range(200):
    with RunStore(root / str(kill_at)) as store:
        {prepare}
        child = os.fork()
        if child == 0:
            operations = 0
            def kill(event, arguments):
                global operations
                if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
                    if operations == kill_at:
                        os._exit(9)
                    operations += 1
            sys.addaudithook(kill)
            work(store)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        states.append(state(store))
        if status == 0:
            break
print(json.dumps(states))
"""


def states_after_kills(folder: Path, *, work: str, state: str, prepare: str = "pass") -> list[Any]:
    states: list[Any] = json.loads(output_of(KILLED.format(work=work, state=state, prepare=prepare), folder))
    assert len(states) > 3
    return states


def test_a_file_replaced_while_the_process_is_killed_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    states = states_after_kills(
        tmp_path,
        prepare="(store.dir / 'x.json').write_bytes(b'old')",
        work="store.replace(store.dir / 'x.json', [b'new' * 100_000])",
        state="content = (store.dir / 'x.json').read_bytes(); return content[:3].decode() + str(len(content))",
    )
    assert set(states) == {"old3", "new300000"}
    assert states == sorted(states, reverse=True)


NEW_CHECKPOINT = """
    folder = store.new_checkpoint_dir(1)
    for name in ('config.json', 'model.safetensors', 'tokenizer.json'):
        (folder / name).write_text(NAME)
    store.publish_checkpoint(folder, checkpoint(1, sha256=NAME))
"""
CHECKPOINT_FILES = {"config.json", "model.safetensors", "tokenizer.json", "checkpoint.json"}
CHECKPOINT_STATE = """
    folder = store.checkpoint_dir(1)
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.exists() else None
"""


def test_a_checkpoint_published_while_the_process_is_killed_is_complete_or_missing(tmp_path: Path) -> None:
    states = states_after_kills(tmp_path, work=NEW_CHECKPOINT.replace("NAME", "'new'"), state=CHECKPOINT_STATE)
    assert None in states
    assert all(state is None or set(state) == CHECKPOINT_FILES for state in states)
    assert states[-1]["model.safetensors"] == "new"


def test_a_checkpoint_replaced_while_the_process_is_killed_is_complete_or_missing(tmp_path: Path) -> None:
    states = states_after_kills(
        tmp_path,
        prepare=NEW_CHECKPOINT.replace("NAME", "'old'").strip().replace("\n    ", "\n        "),
        work=NEW_CHECKPOINT.replace("NAME", "'new'"),
        state=CHECKPOINT_STATE,
    )
    assert states[-1]["model.safetensors"] == "new"
    assert all(state is None or set(state) == CHECKPOINT_FILES for state in states)


# Checkpoints.


def test_a_published_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    row = ProbeRow(prompt="p", completion="c\n", old_logprobs=(-0.1, -1e-9))
    record = checkpoint(7, probe=(row,), new_logprobs=((-0.25, -2.0),), started_from_sha256="ef")
    with RunStore(tmp_path) as store:
        temporary = store.new_checkpoint_dir(7)
        (temporary / "model.safetensors").write_bytes(b"weights")
        store.publish_checkpoint(temporary, record)
        assert store.checkpoint(7) == record
        assert (store.checkpoint_dir(7) / "model.safetensors").read_bytes() == b"weights"
        assert not temporary.exists()
        assert record.ref(tmp_path).path == str(store.checkpoint_dir(7))


@pytest.mark.parametrize(
    ("files", "what"), [({}, "none are here"), ({"model-2.safetensors": b""}, "a file of them is empty here")]
)
def test_a_checkpoint_whose_weights_were_saved_elsewhere_is_not_published(
    tmp_path: Path, files: dict[str, bytes], what: str
) -> None:
    with RunStore(tmp_path) as store:
        temporary = store.new_checkpoint_dir(1)
        for name, content in files.items():
            (temporary / "model-1.safetensors").write_bytes(b"weights")
            (temporary / name).write_bytes(content)
        message = one_line_error(lambda: store.publish_checkpoint(temporary, checkpoint(1)))
        assert message.startswith(f"{temporary}: the training of iteration 1 has saved its weights, and {what}; put")
        assert store.checkpoint(1) is None


def test_an_iteration_without_a_checkpoint_has_none(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.new_checkpoint_dir(1)  # a training that has begun
        assert store.checkpoint(1) is None


def test_files_of_a_killed_training_are_not_in_the_folder_of_the_next(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        (store.new_checkpoint_dir(1) / "model.safetensors").write_bytes(b"half")
        assert list(store.new_checkpoint_dir(1).iterdir()) == []

"""The points of a run: the same live and afterwards, each once, each axis in order, and nothing of the machine."""

import getpass
import json
import re
import shutil
import socket
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import counts, measurement, summary
from recording_tracker import RecordingTracker
from selftaught.config.settings import TrackingConfig
from selftaught.methods.metrics import rate
from selftaught.records.training import TrainingSummary
from selftaught.runs.reading import LoggedStep, read_steps
from selftaught.tracking.copies import files_to_send
from selftaught.tracking.folder import COLUMNS, HIDDEN, RunFolder, spaced, without_places
from selftaught.tracking.listeners import Recorder
from selftaught.tracking.mirror import message_of
from selftaught.tracking.mirror_process import Ended, Opening, Session, as_line
from selftaught.tracking.points import (
    ITERATION_GROUPS,
    LONGEST_TEXT,
    STEP_GROUP,
    Files,
    Row,
    StepRows,
    Texts,
    capped,
    counted,
    counts_row,
    iteration_row,
    later_row,
    measured_row,
    result_row,
    work_of,
)
from tracked import STEPS, scripted_run

SPLITS = ("dev", "test", "extrapolation")

NO_WORK = work_of(None, is_low_rank=False)


def step(iteration: int, number: int, **fields: object) -> LoggedStep:
    values = {"loss": 1.0, "learning_rate": 0.1, "grad_norm": 2.0, "seconds": 0.5 * number, "tokens": 10 * number}
    return LoggedStep(**{"iteration": iteration, "step": number, **values, **fields})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """A finished run of two iterations, and what it told."""
    recorder, folder = Recorder(), tmp_path_factory.mktemp("points") / "run"
    scripted_run(folder, recorder)
    return folder, recorder


def rows_of(folder: Path, settings: TrackingConfig | None = None) -> list[Row]:
    return [item for item in RunFolder(folder, settings or TrackingConfig()).items() if isinstance(item, Row)]


def session_of(folder: Path) -> Session:
    """An open tracked run, in this process."""
    opening = Opening(
        tracker="recording",
        module="recording_tracker",
        run_dir=str(folder),
        settings=TrackingConfig(),
        how="whole",
        attempt=1,
        server_s=1.0,
        close_s=1.0,
    )
    (folder / "tracking").mkdir(exist_ok=True)
    return Session(opening, folder / "tracking")


def test_what_a_tracker_gets_live_is_what_the_folder_gives_afterwards(finished: tuple[Path, Recorder]) -> None:
    folder, recorder = finished
    session = session_of(folder)
    messages = [message for event in recorder.events if (message := message_of(event, 1)) is not None]
    session.listen(map(as_line, [*messages, Ended(is_finished=False)]))
    assert isinstance(session.tracker, RecordingTracker)
    live = {item.key: item for item in session.tracker.items}
    afterwards = {item.key: item for item in RunFolder(folder, TrackingConfig()).items()}
    assert live == afterwards


def test_a_step_that_did_not_come_moves_no_later_one_on_its_axis(finished: tuple[Path, Recorder]) -> None:
    folder, recorder = finished
    messages = [message for event in recorder.events if (message := message_of(event, 1)) is not None]
    steps = [m for m in messages if isinstance(m, LoggedStep) and not (m.iteration == 1 and m.step == STEPS)]
    session = session_of(folder)
    session.listen(map(as_line, steps))
    assert isinstance(session.tracker, RecordingTracker)
    at = [item.at for item in session.tracker.items if isinstance(item, Row)]
    assert at == [n for n in range(1, 2 * STEPS + 1) if n != STEPS]


def test_every_point_is_there_once_and_each_axis_in_order(finished: tuple[Path, Recorder]) -> None:
    rows = rows_of(finished[0])
    at = defaultdict(list)
    for row in rows:
        for name in row.values:
            at[name].append(row.at)
    assert all(places == sorted(set(places)) for places in at.values())
    assert at["train/loss"] == list(range(1, 2 * STEPS + 1))
    assert at["dev/accuracy"] == [0, 1, 2]
    for name in (
        "rationale/solve_rate",
        "rationalization/solve_rate",
        "rationale/false_positive",
        "rationale/unparseable",
        "rationale/truncated",
        "selection/train_used",
        "training/loss",
        "speed/rationale_tokens_per_s",
        "speed/dev_flop_per_s",
    ):
        assert at[name] == [1, 2]
    groups = {name.split("/")[0] for name in at}
    assert groups <= {STEP_GROUP, *ITERATION_GROUPS}, "a name whose axis is not defined"


def documented() -> re.Pattern[str]:
    """The names of charts in the table of docs/tracking.md: a word in capitals stands for any name, … for anything."""
    page = (Path(__file__).parents[1] / "docs" / "tracking.md").read_text()
    cells = [
        line.split("|")[1] for line in page.splitlines() if re.match(r"\| `[^|]*\| `(train/step|iteration)` \|", line)
    ]
    names = [name for cell in cells for name in re.findall("`(.+?)`", cell)]
    names += [name.replace("dev/", f"{split}/") for name in names for split in SPLITS]
    patterns = [re.sub("[A-Z]+", "[^/]+", re.escape(name)).replace("…", ".+") for name in names]
    return re.compile("|".join(patterns))


def test_every_point_has_a_name_that_the_page_on_trackers_explains(finished: tuple[Path, Recorder]) -> None:
    """Also those that this run has not: of a training with validation, of `eval` with several samples."""
    of_all = summary(
        train=TrainingSummary(
            steps=1,
            tokens=1,
            seconds=1.0,
            first_loss=1.0,
            last_loss=1.0,
            validation_loss=1.0,
            dev_answer_loss=1.0,
            noise_scale=1.0,
            notes=(),
        )
    )
    classes = {"by_class": {"3": rate(1, 2)}, "false_positive": 1}
    several = measurement(pass_at_k={"4": 0.8}, majority_at_k=0.7, **classes)
    rows = [
        *rows_of(finished[0]),
        iteration_row(of_all, work_of(100, is_low_rank=False)),
        *(measured_row(measurement(split=split, **classes)) for split in SPLITS),
        later_row(several, 1, task="other"),
        result_row(1, 0.1, 0.2),
    ]
    names = {name for row in rows for name in row.values}
    assert {"train/loss", "training/validation_loss", "extrapolation/class/3", "eval/toy/dev/pass@4"} <= names
    assert sorted(name for name in names if not documented().fullmatch(name)) == []


def test_the_result_is_a_point_once_there_is_one(finished: tuple[Path, Recorder], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    measured = {"accuracy": 0.25}
    result = {"best_iteration": 2, "checkpoint": "checkpoints/002", "base": measured, "test": {"accuracy": 0.75}}
    (folder / "result.json").write_text(json.dumps(result))
    (row,) = (row for row in rows_of(folder) if row.key == "result")
    assert row.at == 2
    assert row.values["result/test_accuracy"] == 0.75


def test_a_redone_training_stands_once_with_the_steps_of_its_last_time(tmp_path: Path) -> None:
    lines = [step(1, k) for k in (1, 2, 3)] + [step(2, k) for k in (1, 2)] + [step(2, k, loss=0.5) for k in (1, 3)]
    path = tmp_path / "metrics.jsonl"
    text = "".join(json.dumps({name: getattr(s, name) for name in s.__slots__}) + "\n" for s in lines)
    path.write_text(text + '{"iteration": 2, "st')
    assert [(s.iteration, s.step, s.loss) for s in read_steps(tmp_path)] == [
        *[(1, k, 1.0) for k in (1, 2, 3)],
        *[(2, k, 0.5) for k in (1, 3)],
    ]
    steps = StepRows(NO_WORK)
    assert [steps.row(s).at for s in read_steps(tmp_path)] == [1, 2, 3, 4, 6]


def test_rates_are_between_two_logged_lines_and_the_first_step_of_a_training_has_none() -> None:
    steps = StepRows(work_of(1000, is_low_rank=False))
    first, second, redone = (steps.row(s).values for s in (step(1, 1), step(1, 3), step(1, 1)))
    assert "train/tokens_per_s" not in first
    assert "train/tokens_per_s" not in redone
    assert second["train/steps_per_s"] == pytest.approx(2.0)
    assert second["train/tokens_per_s"] == pytest.approx(20.0)
    assert second["train/flop_per_s"] == pytest.approx(20.0 * 6 * 1000)


def test_the_noise_scale_of_a_step_is_a_ratio_of_sums_and_absent_where_there_is_none() -> None:
    steps = StepRows(NO_WORK)
    told = (step(1, 1, noise=(-1.0, 2.0)), step(1, 2), step(1, 3, noise=(3.0, 6.0)), step(2, 1, noise=(None, 1.0)))
    rows = [steps.row(s).values for s in told]
    assert [row.get("train/noise_scale") for row in rows] == [None, None, 4.0, None]


def test_numbers_that_are_not_there_are_left_out_and_a_rate_of_nothing_is_no_rate() -> None:
    assert "train/loss" not in StepRows(NO_WORK).row(step(1, 1, loss=None)).values
    assert counts_row(1, "rationale", counts(samples=0, correct=0, incorrect=0)).values == {"rationale/samples": 0}
    assert "dev/false_positive" not in measured_row(measurement(false_positive=None)).values
    assert not [name for name in iteration_row(summary(), NO_WORK).values if name.endswith("flop_per_s")]


def test_a_low_rank_training_is_reckoned_without_the_gradients_of_frozen_weights() -> None:
    assert work_of(100, is_low_rank=True).trained == 400
    assert work_of(100, is_low_rank=False).trained == 600
    assert work_of(100, is_low_rank=True).generated == 200


def test_rounds_of_one_stage_are_counted_together() -> None:
    first = counts(samples=4, correct=1, incorrect=3, false_positive=1, checks={"steps": rate(0, 1)})
    second = counts(samples=6, correct=4, incorrect=2, truncated=1, false_positive=0, checks={"steps": rate(4, 4)})
    values = counts_row(1, "rationale", counted(counted(None, first), second)).values
    assert values["rationale/solve_rate"] == 0.5
    assert values["rationale/truncated"] == 0.1
    assert values["rationale/false_positive"] == 0.2
    assert values["rationale/check/steps"] == 0.8


def test_what_eval_measured_has_its_own_names_and_another_task_is_named() -> None:
    assert "eval/test/accuracy" in later_row(measurement(split="test"), 1, task="toy").values
    assert "eval/toy/test/accuracy" in later_row(measurement(split="test"), 1, task="other").values
    several = measurement(pass_at_k={"1": 0.5, "4": 0.8}, majority_at_k=0.7)
    assert {"eval/dev/pass@4", "eval/dev/majority"} <= later_row(several, 2, task="toy").values.keys()


def test_a_table_has_both_kinds_one_type_in_each_column_and_no_text_without_end(
    finished: tuple[Path, Recorder],
) -> None:
    items = list(RunFolder(finished[0], TrackingConfig(table_rows=4)).items())
    tables = [item for item in items if isinstance(item, Texts) and item.name.startswith("samples/")]
    assert [table.name for table in tables] == ["samples/iteration-001", "samples/iteration-002"]
    for table in tables:
        assert Counter(row[1] for row in table.rows) == {"rationale": 2, "rationalization": 2}
        assert [{type(value) for value in column} for column in zip(*table.rows, strict=True)] == [
            {int if name == "tokens" else str} for name in COLUMNS
        ]
    none = [item for item in RunFolder(finished[0], TrackingConfig(table_rows=0)).items() if isinstance(item, Texts)]
    assert not [table for table in none if table.name.startswith("samples/")]
    long = capped("a" * 10 * LONGEST_TEXT)
    assert len(long) < LONGEST_TEXT + 50
    assert "characters …]" in long


@given(st.integers(0, 500), st.integers(0, 60))
def test_the_samples_of_a_table_are_spread_over_all(n: int, wanted: int) -> None:
    chosen = sorted(spaced(n, wanted))
    assert len(chosen) == min(n, wanted)
    gaps = [b - a for a, b in pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("key", "value", "sent"),
    [
        ("model.path", "/home/ann/models/qwen", "…/qwen"),
        ("model.path", "~/models/qwen", "…/qwen"),
        ("model.path", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("task.name", "/home/ann/bakery.py:load", "…/bakery.py:load"),
        ("engine.url", "http://ann.lan:8000", HIDDEN),
        ("engine.vllm_args", "--api-key 123", HIDDEN),
        ("selection.require", ["answer", "/etc/x"], ["answer", "…/x"]),
        ("seed", 3, 3),
    ],
)
def test_a_setting_goes_out_without_the_place_that_it_names(key: str, value: object, sent: object) -> None:
    assert without_places(key, value) == sent


def test_files_are_asked_for_and_a_model_without_weights_is_not_sent(
    finished: tuple[Path, Recorder], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    for n in (1, 2):
        (folder / "checkpoints" / f"{n:03d}").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / f"{n:03d}" / "config.json").write_text("{}")
    for path in folder.glob("checkpoints/*/*.safetensors"):
        path.unlink()
    (folder / "checkpoints" / "002" / "model.safetensors").touch()

    def sent(*artifacts: str) -> list[str]:
        settings = TrackingConfig(artifacts=artifacts)  # type: ignore[arg-type]
        return [item.path for item in RunFolder(folder, settings).items() if isinstance(item, Files)]

    assert sent() == []
    assert sent("checkpoints") == ["checkpoints/002"]
    assert sent("training_sets") == ["examples/001.jsonl", "examples/002.jsonl"]


def test_of_a_checkpoint_goes_out_what_is_the_models_without_the_place_of_its_base(tmp_path: Path) -> None:
    folder, scratch = tmp_path / "002", tmp_path / "scratch"
    (folder / "templates").mkdir(parents=True)
    scratch.mkdir()
    kept = {
        "adapter_model.safetensors": "weights",
        "config.json": '{"model_type": "llama", "_name_or_path": "HuggingFaceTB/SmolLM2-135M"}',
        "tokenizer.json": '{"vocab": {"/path": 0}}',
        "templates/tool.jinja": "{{ x }}",
    }
    places = {
        "adapter_config.json": '{"base_model_name_or_path": "/home/ann/qwen", "r": 2}',
        "tokenizer_config.json": '{"name_or_path": "~/qwen", "vocab_file": "/home/ann/v.json", "pad_token": "/"}',
        "checkpoint.json": '{"started_from": "/home/ann/qwen"}',
    }
    for name, text in {**kept, **places}.items():
        (folder / name).write_text(text)
    sent = {name: path.read_text() for name, path in files_to_send(folder, scratch).items()}
    assert {name: sent.pop(name) for name in kept} == kept
    assert {name: json.loads(text) for name, text in sent.items()} == {
        "adapter_config.json": {"base_model_name_or_path": "…/qwen", "r": 2},
        "tokenizer_config.json": {"name_or_path": "…/qwen", "vocab_file": "…/v.json", "pad_token": "/"},
    }
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "/home/ann/qwen"
    assert files_to_send(folder / "config.json", scratch) == {"config.json": folder / "config.json"}


def test_what_a_run_has_resolved_goes_out_beside_the_settings_that_said_auto(
    finished: tuple[Path, Recorder], tmp_path: Path
) -> None:
    about = json.loads((finished[0] / "run.json").read_text())
    about["config"] |= {"engine.name": "vllm", "engine.slots": "auto", "training.batch_size": 2}
    about["resolved"] = {
        "dtype": "bfloat16",
        "training_bytes": None,
        "chat": {"thinking": False, "settings": {"a": 1}},
        "engine": {"name": "vllm", "slots": 64, "url": "http://ann.lan:8000", "vllm_python": "/home/ann/bin/python"},
        "training": {"batch_size": 2, "micro_batch_tokens": 512},
    }
    (tmp_path / "run.json").write_text(json.dumps(about))
    said = RunFolder(tmp_path, TrackingConfig()).description()
    assert {key: value for key, value in said.items() if key.startswith("resolved.")} == {
        "resolved.dtype": "bfloat16",
        "resolved.chat.thinking": False,
        "resolved.engine.slots": 64,
        "resolved.engine.url": HIDDEN,
        "resolved.engine.vllm_python": HIDDEN,
        "resolved.training.micro_batch_tokens": 512,
    }
    assert said["engine.slots"] == "auto"


def test_nothing_that_describes_a_run_names_the_machine_or_its_user(finished: tuple[Path, Recorder]) -> None:
    said = json.dumps(RunFolder(finished[0], TrackingConfig()).description())
    assert str(finished[0].parent) not in said
    for name in (socket.gethostname(), getpass.getuser()):
        assert not re.search(rf"\b{re.escape(name)}\b", said)
    assert "git_commit" not in said

"""Listeners hear what happens in order; one that fails is reported once, and the run ends as without it."""

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from builders import measurement, sample, step_metrics
from selftaught.commands.run import fixed_settings
from selftaught.commands.run_json import with_changeable
from selftaught.commands.track import tell_later, track
from selftaught.config.loading import config_from_values, flat_values
from selftaught.records.errors import ConfigError
from selftaught.records.events import (
    ChunkSaved,
    Event,
    IterationEnded,
    ModelTrained,
    Note,
    SampleMade,
    SplitMeasured,
    StageBegan,
    StageEnded,
    StepTaken,
    TokensGenerated,
)
from selftaught.runs.lines import dump
from selftaught.runs.store import RunStore
from selftaught.tracking.files import LogFile, MetricsFile
from selftaught.tracking.folder import read_later
from selftaught.tracking.listeners import Listeners, Recorder
from selftaught.tracking.mirror_process import State
from selftaught.tracking.terminal import Terminal
from selftaught.tracking.text import LONGEST_TEXT, text_of
from selftaught.tracking.trackers import TRACKERS, check_trackers
from toy import FORMAT, TRAIN, folder_bytes, run_toy, toy_config
from tracked import scripted_run


class Broken:
    """Fails at the n-th event, or when it is closed."""

    def __init__(self, at: int | None, *, error: Exception | None = None) -> None:
        self.heard = 0
        self._at, self._error = at, error or OSError("no space left")

    def tell(self, event: Event) -> None:
        self.heard += 1
        if self.heard == self._at:
            raise self._error

    def close(self) -> None:
        if self._at is None:
            raise self._error


def test_a_run_tells_what_happens_in_order_and_says_what_was_there_when_it_is_carried_on(tmp_path: Path) -> None:
    config = toy_config(loop__max_iterations=1)
    first, again = Recorder(), Recorder()
    run_toy(tmp_path, config=config, tell=first.tell, chunk=4)
    (tmp_path / "iterations.jsonl").unlink()
    run_toy(tmp_path, config=config, tell=again.tell, chunk=4)

    def told(recorder: Recorder) -> list[object]:
        names = []
        for event in recorder.events:
            match event:
                case StageBegan(stage=stage, total=total, done=done):
                    names.append(f"{stage} {done} of {total}")
                case ChunkSaved(samples=number, is_first=is_first):
                    names.append(f"saved {number}{' first' if is_first else ''}")
                case StageEnded(stage=stage, counts=counts):
                    names.append(f"{stage} ended {counts.correct} of {counts.samples}")
                case SampleMade() | TokensGenerated():
                    pass
                case _:
                    names.append(type(event).__name__)
        return names

    trained = ["SplitMeasured", "IterationEnded"]
    assert told(first) == [
        *["dev 0 of 2", "saved 2 first", "dev ended 1 of 2", "SplitMeasured"],
        *["rationale 0 of 6", "saved 4 first", "saved 2", "rationale ended 3 of 6"],
        *["rationalization 0 of 3", "saved 3 first", "rationalization ended 1 of 3"],
        *["train 0 of 2", "ModelTrained"],
        *["dev 0 of 2", "saved 2 first", "dev ended 1 of 2", *trained],
        *["test 0 of 3", "saved 3 first", "test ended 2 of 3", "SplitMeasured"],
    ]
    assert told(again) == [
        *["dev 2 of 2", "dev ended 1 of 2", "SplitMeasured"],
        *["rationale 6 of 6", "rationale ended 3 of 6", "rationalization 3 of 3", "rationalization ended 1 of 3"],
        *["dev 2 of 2", "dev ended 1 of 2", *trained],
        *["test 3 of 3", "test ended 2 of 3", "SplitMeasured"],
    ]


def test_a_stage_ends_with_the_tokens_of_its_samples(tmp_path: Path) -> None:
    recorder = Recorder()
    run_toy(tmp_path, config=toy_config(loop__max_iterations=1), tell=recorder.tell)
    tokens = sum(e.tokens for e in recorder.events if isinstance(e, StageEnded))
    assert tokens == sum(e.sample.num_tokens for e in recorder.events if isinstance(e, SampleMade)) > 0


@pytest.mark.parametrize("tells", [True, False])
def test_the_terminal_counts_tokens_while_they_are_generated_and_none_twice(
    tells: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selftaught.tracking.terminal.PLAIN_EVERY_S", 0.0)
    terminal = Terminal(Console(file=sys.stdout, force_terminal=False, width=200), 8)
    terminal.tell(StageBegan(iteration=1, stage="rationale", total=2))
    if tells:
        terminal.tell(TokensGenerated(tokens=30))
        assert "rationale: 0 of 2  0 correct  30 tokens" in capsys.readouterr().out
    terminal.tell(SampleMade(sample=sample(num_tokens=20)))
    assert f"rationale: 1 of 2  1 correct  {30 if tells else 20} tokens" in capsys.readouterr().out


@pytest.mark.parametrize("at", [1, 3, 17])
def test_a_listener_that_fails_is_reported_once_and_the_run_and_the_others_go_on(at: int, tmp_path: Path) -> None:
    broken, before, after = Broken(at), Recorder(), Recorder()
    with Listeners([before, broken, after]) as tell:
        run_toy(tmp_path / "a", config=toy_config(loop__max_iterations=1), tell=tell)
    run_toy(tmp_path / "b", config=toy_config(loop__max_iterations=1))
    assert broken.heard == at
    assert before.notes == after.notes == ["Broken failed and is told nothing more: no space left"]
    assert len(before.events) == len(after.events) > at
    assert folder_bytes(tmp_path / "a", "samples", "examples") == folder_bytes(tmp_path / "b", "samples", "examples")


def test_a_listener_that_fails_at_the_report_of_another_ones_failure_is_reported_too() -> None:
    recorder = Recorder()
    with Listeners([Broken(1), Broken(1, error=ValueError()), recorder]) as tell:
        tell(Note(text="hello"))
        tell(Note(text="again"))
    assert recorder.notes == [
        "Broken failed and is told nothing more: ValueError",
        "Broken failed and is told nothing more: no space left",
        "hello",
        "again",
    ]


def test_a_listener_that_cannot_be_closed_does_not_hide_how_the_run_ended() -> None:
    recorder = Recorder()
    with pytest.raises(KeyError), Listeners([Broken(None), recorder]):
        raise KeyError
    assert recorder.notes == ["Broken failed and is told nothing more: no space left"]


def test_an_error_of_the_run_itself_is_not_the_listeners() -> None:
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="of the run"), Listeners([recorder]):
        raise RuntimeError("of the run")
    assert recorder.events == []


def test_metrics_have_the_first_the_last_and_every_nth_step(tmp_path: Path) -> None:
    listener = MetricsFile(tmp_path, every=4)
    for step in range(1, 11):
        listener.tell(StepTaken(iteration=2, steps=10, metrics=step_metrics(step)))
    listener.tell(Note(text="no step"))
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["iteration"], line["step"]) for line in written] == [(2, 1), (2, 4), (2, 8), (2, 10)]


def test_every_start_has_a_log_of_its_own_with_the_lines_of_the_terminal(tmp_path: Path) -> None:
    with RunStore(tmp_path):
        for text in ("first start", "second start"):
            log = LogFile(tmp_path, 8)
            log.tell(SampleMade(sample=sample()))
            log.tell(Note(text=text))
            log.close()
    assert {p.name: p.read_text() for p in (tmp_path / "logs").iterdir()} == {
        "attempt-001.log": "first start\n",
        "attempt-002.log": "second start\n",
    }


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    recorder = Recorder()
    with Listeners([LogFile(tmp_path / "nowhere", 8), recorder]) as tell:
        tell(Note(text="a"))
        tell(Note(text="b"))
    assert len(recorder.notes) == 3
    assert "LogFile failed and is told nothing more" in recorder.notes[0]


def test_text_of_a_model_is_shown_whole_or_cut_in_its_middle_and_never_interpreted() -> None:
    completion = "\x1b[31mred\nline " + "x" * 2 * LONGEST_TEXT
    event = ChunkSaved(
        iteration=1,
        stage="rationale",
        samples=1,
        first=sample(completion=completion),
        prompt=FORMAT.question,
        problem=TRAIN[0],
        is_first=True,
    )
    text = text_of(event, 8)
    assert text is not None
    assert "\x1b" not in text
    assert "      | \\x1b[31mred\n      | line xx" in text
    assert "characters …]" in text


@pytest.mark.parametrize("kind", [ModelTrained, SplitMeasured, IterationEnded])
def test_every_event_that_ends_something_has_a_line(kind: type, tmp_path: Path) -> None:
    recorder = Recorder()
    run_toy(tmp_path, config=toy_config(loop__max_iterations=1), tell=recorder.tell)
    events = [event for event in recorder.events if isinstance(event, kind)]
    assert events
    assert all(text_of(event, 8) for event in events)


def test_a_tracker_that_is_not_installed_is_one_line_that_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selftaught.tracking.trackers.find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(ConfigError, match=rf"^tracking.backends names {name}, .*install selftaught\[{name}\]"):
            check_trackers([name])


def test_a_tracker_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="wandb, trackio, tensorboard"):
        check_trackers(["neptune"])
    with pytest.raises(ConfigError, match='"wandb" or "trackio" or "tensorboard"'):
        toy_config(tracking__backends=["neptune"])


def test_the_settings_of_tracking_may_differ_when_a_run_is_carried_on() -> None:
    other = {"tracking__backends": ["wandb"], "tracking__project": "p", "tracking__log_every_steps": 3}
    assert fixed_settings(toy_config(**other)) == fixed_settings(toy_config())
    about = json.loads(json.dumps({"config": flat_values(toy_config()), "resolved": {}}))
    now = json.loads(json.dumps(with_changeable(about, toy_config(**other))))
    assert config_from_values(now["config"]) == toy_config(**other)


def test_a_measurement_that_no_tracker_can_take_is_kept_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`eval` has measured it by then: a tracker that was taken off this machine, or a damaged file, is no error."""
    tracking = tmp_path / "run" / "tracking"
    tracking.mkdir(parents=True)
    (tracking / "wandb.json").write_text("{")
    state = State(id="x", where="y", offline=False, settings=toy_config().tracking)
    (tracking / "trackio.json").write_bytes(dump(State, state))
    monkeypatch.setattr("selftaught.tracking.trackers.find_spec", lambda name: None)
    notes: list[str] = []
    tell_later(tmp_path / "run", measurement(), note=notes.append)
    assert [note.partition(":")[0] for note in notes] == [
        "wandb has not got this measurement",
        "trackio has not got this measurement",
    ]
    assert "needs the package trackio" in notes[1]
    assert f"selftaught track {tmp_path / 'run'} --backend trackio" in notes[1]
    assert read_later(tmp_path / "run") == [measurement()]


def test_a_run_without_trackers_is_sent_to_those_that_are_named_and_no_others(tmp_path: Path) -> None:
    scripted_run(tmp_path / "run", Recorder())
    with pytest.raises(ConfigError, match=r"started without trackers.*--backend"):
        track(tmp_path / "run", [], note=lambda text: None)
    tell_later(tmp_path / "run", measurement(), note=lambda text: None)
    assert not (tmp_path / "run" / "tracking").exists()

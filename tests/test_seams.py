"""A new engine and a new trainer are one entry each in a table: everything else follows from the entry.

These tests add an entry and run with it from the settings to the result, without changing anything else.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import pytest
from pydantic import Field

from builders import arithmetic, config
from selftaught import engines, training
from selftaught.commands.run import launch
from selftaught.config.loading import config_from_values, flat_values, known_keys, load_config
from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine, EngineConfig
from selftaught.engines.scripted import ScriptedEngine
from selftaught.machine.devices import Machine, given_or
from selftaught.machine.opening import Opening
from selftaught.prompts.rendering import render_completion, render_prompt
from selftaught.records.errors import ConfigError, Interrupted, StoreError
from selftaught.records.samples import ModelRef
from selftaught.records.sections import OrAuto, Text
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.tracking.listeners import Recorder
from selftaught.training.none import NullTrainer
from selftaught.training.settings import TrainingConfig
from selftaught.training.trainer import Trainer


class SolverConfig(EngineConfig):
    """An engine that knows the solution of every `every`-th problem of the task."""

    name: Literal["solver"] = Field("solver", description="a script that knows solutions")
    every: OrAuto = Field("auto", description="The solver solves one problem of so many.")
    place: Text = Field("here", description="Where the solver is.")
    may_change: ClassVar[frozenset[str]] = frozenset({"place"})

    def check(self) -> None:
        if self.place == "nowhere":
            raise ConfigError("engine.place = 'nowhere': there is no solver; name another place")

    def versions(self) -> Mapping[str, str]:
        return {"solver": "1.2"}

    def resolved(self, machine: Machine) -> Self:
        return self.model_copy(update={"every": given_or(self.every, 2)})

    def completions_at_a_time(self, machine: Machine) -> int:
        return 3

    def opener(self, opening: Opening) -> Callable[[ModelRef], Engine]:
        task = arithmetic()
        known = (*task.train[:: int(self.every)], *task.dev[:: int(self.every)], *task.test[:: int(self.every)])
        solutions = {
            render_prompt(task.prompt_format, problem, hint=False): render_completion(task.prompt_format, problem)
            for problem in known
        }

        def open_engine(model: ModelRef) -> Engine:
            opening.note(f"the solver opens {model.iteration} {self.place}")
            return ScriptedEngine(lambda prompt, seed: solutions.get(prompt, "I do not know"))

        return open_engine


class CountingTrainer(NullTrainer):
    def __init__(self, pace: int) -> None:
        self.pace = pace

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        for step in range(1, training.plan.steps + 1):
            tokens = self.pace * step
            on_step(StepMetrics(step=step, loss=1.0, learning_rate=0.0, grad_norm=1.0, seconds=0.0, tokens=tokens))
        checkpoint = super().fine_tune(training, on_step)
        return replace(checkpoint, train=replace(checkpoint.train, steps=training.plan.steps))


class CountingConfig(TrainingConfig):
    name: Literal["counting"] = Field("counting", description="counts steps and trains nothing")
    pace: OrAuto = Field("auto", description="Tokens of a step.")

    def check(self) -> None:
        if self.pace == 13:
            raise ConfigError("training.pace = 13 brings bad luck; choose another")

    def versions(self) -> Mapping[str, str]:
        return {"counting": "0.1"}

    def opener(self, opening: Opening) -> Callable[[], Trainer]:
        return lambda: CountingTrainer(given_or(self.pace, 7))


SMALL: dict[str, Any] = {
    "task.name": "arithmetic",
    "task.problems_per_iteration": 12,
    "task.dev_problems": 6,
    "task.test_problems": 6,
    "sampling.max_new_tokens": 200,
    "sampling.num_shots": 0,
    "training.steps_first_iteration": 4,
    "loop.max_iterations": 2,
    "tracking.log_every_steps": 1,
    "compute.device": "cpu",
    "compute.threads": 1,
}


@pytest.fixture
def solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "ENGINES", MappingProxyType({**engines.ENGINES, "solver": SolverConfig}))


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRAINERS", MappingProxyType({**training.TRAINERS, "counting": CountingConfig}))


def solved_by_script(adder: Path, **more: Any) -> RunConfig:
    given = {key.replace("__", "."): value for key, value in more.items()}
    return config_from_values(
        {**SMALL, "model.path": str(adder), "engine.name": "solver", "training.name": "none", **given}
    )


def about(run_dir: Path) -> Any:
    return json.loads((run_dir / "run.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("solver")
def test_a_new_engine_is_one_entry_from_the_settings_to_the_result(adder: Path, tmp_path: Path) -> None:
    notes = Recorder()
    outcome = launch(solved_by_script(adder), tmp_path / "run", listeners=[notes])
    dev = outcome.measured["test"][0]
    assert 0 < dev.correct < dev.n
    assert all(s.examples == s.rationale.correct > 0 for s in outcome.summaries)
    assert "the solver opens 0 here" in notes.notes
    written = about(tmp_path / "run")
    assert written["resolved"]["engine"] == {"name": "solver", "every": 2, "place": "here"}
    assert written["resolved"]["chunk_completions"] == 12
    assert written["versions"]["solver"] == "1.2"
    assert {key for key in written["config"] if key.startswith("engine.")} == {
        "engine.name",
        "engine.every",
        "engine.place",
    }


@pytest.mark.usefixtures("solver")
def test_a_run_with_a_new_engine_is_carried_on_with_what_may_change_and_with_nothing_else(
    adder: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        launch(solved_by_script(adder), tmp_path, should_stop=lambda: True)
    notes = Recorder()
    launch(solved_by_script(adder, engine__place="there"), tmp_path, listeners=[notes])
    assert "the solver opens 1 there" in notes.notes
    assert about(tmp_path)["resolved"]["engine"]["place"] == "here"
    with pytest.raises(StoreError, match=r"was started with engine\.every = 'auto', now 5; carry on with"):
        launch(solved_by_script(adder, engine__every=5), tmp_path, listeners=[notes])


@pytest.mark.usefixtures("solver")
def test_a_new_engine_is_checked_before_anything_is_written(adder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no solver"):
        launch(solved_by_script(adder, engine__place="nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("solver")
def test_the_settings_of_a_new_engine_are_known_named_and_refused_like_all_others() -> None:
    assert {"engine.every", "engine.place"} <= set(known_keys())
    assert flat_values(load_config("arithmetic", ["engine.name=solver", "engine.every=3"]))["engine.every"] == 3
    for override, message in {
        "engine.evry=3": "did you mean 'engine.every'?",
        "engine.every=0": 'engine.every = 0: expected a whole number ≥ 1 or "auto"',
        "engine.slots=3": "does not use it (it belongs to 'local')",
        "engine.name=slover": 'expected "local" or "openai" or "vllm" or "solver"',
    }.items():
        chosen = [] if override.startswith("engine.name") else ["engine.name=solver"]
        with pytest.raises(ConfigError) as caught:
            load_config("arithmetic", [*chosen, override])
        assert message in str(caught.value)
    assert "`solver` (a script that knows solutions)" in known_keys()["engine.name"].description


@pytest.mark.usefixtures("solver", "counting")
def test_a_new_trainer_is_one_entry_from_the_settings_to_the_result(adder: Path, tmp_path: Path) -> None:
    outcome = launch(solved_by_script(adder, training__name="counting"), tmp_path)
    trained = [s.train for s in outcome.summaries if s.train is not None]
    assert trained
    assert all(train.steps > 0 for train in trained)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["tokens"] for line in lines[: trained[0].steps]] == [7 * n for n in range(1, trained[0].steps + 1)]
    written = about(tmp_path)
    assert written["versions"]["counting"] == "0.1"
    assert written["config"]["training.pace"] == "auto"
    assert "training.learning_rate" not in written["config"]


@pytest.mark.usefixtures("solver", "counting")
def test_a_new_trainer_is_checked_before_anything_is_written(adder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="brings bad luck"):
        launch(solved_by_script(adder, training__name="counting", training__pace=13), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_with_the_trainer_none_the_local_engine_samples_every_iteration_from_the_same_weights(
    adder: Path, tmp_path: Path
) -> None:
    values = {**SMALL, "model.path": str(adder), "training.name": "none", "training.start_from": "previous"}
    values |= {"training.num_rehearsed": 5, "sampling.max_new_tokens": 20, "engine.slots": 4}
    outcome = launch(config_from_values(values), tmp_path)
    weights = {path.read_bytes() for path in (tmp_path / "checkpoints").glob("*/model.safetensors")}
    assert weights == {(adder / "model.safetensors").read_bytes()}
    assert len(outcome.summaries) == 2


def test_every_entry_has_its_own_name_and_opens_something() -> None:
    for table, base in ((engines.ENGINES, EngineConfig), (training.TRAINERS, TrainingConfig)):
        for name, entry in table.items():
            assert entry.model_fields["name"].default == name
            assert entry.opener is not base.opener  # type: ignore[attr-defined]
    assert config().engine.name == "local"
    assert config().training.name == "sft"

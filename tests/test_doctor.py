"""`selftaught doctor`: what a run refuses is listed, what is measured is what runs, and what follows is a sentence."""

import io
import json
import re
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from builders import LEAST, arithmetic
from selftaught.cli.doctor import print_part
from selftaught.commands import doctor, doctor_measure, doctor_model, memory_check
from selftaught.commands.doctor import EXTRAS, Asked, examine, installed_part
from selftaught.commands.doctor_advice import Sampled, advice
from selftaught.commands.doctor_measure import plan_of, rows_like_a_runs, sample, time_steps
from selftaught.commands.doctor_text import Part, duration, part_text, row_lines
from selftaught.commands.dry_run import ShownRow
from selftaught.commands.memory_check import fit_memory
from selftaught.config.loading import config_from_values, known_keys
from selftaught.config.resolving import resolve
from selftaught.config.settings import RunConfig
from selftaught.engines.scripted import ScriptedEngine
from selftaught.methods.table import METHODS
from selftaught.models.weights import resolve_model
from selftaught.prompts.rendering import render_completion, render_prompt
from selftaught.records.errors import RefusedError
from selftaught.records.measurements import SamplingCounts
from selftaught.records.problems import Verdict
from selftaught.tasks import load_task
from selftaught.training import sft_config
from test_cli import QUICK, refused, selftaught, settings

SMALL = {
    **QUICK,
    "sampling.num_shots": 0,
    "engine.compiled": "off",
    "compute.device": "cpu",
    "compute.chunk_completions": 8,
}
PARTS = ["installed", "device", "model", "memory", "time", "worth"]


def parts_of(target: str | None, **asked: Any) -> dict[str, Part]:
    return {part.name: part for part in examine(target, Asked(**asked))}


def text_of(part: Part) -> str:
    return part_text(part)


def overrides(**values: object) -> list[str]:
    return [f"{key.replace('__', '.')}={value}" for key, value in {**SMALL, **values}.items()]


def config_with(**values: object) -> RunConfig:
    return config_from_values({**LEAST, **SMALL, **values})


# The sentence


def counts(samples: int, correct: int, *, unparseable: int = 0, truncated: int = 0, wrong: int | None = None) -> Any:
    return SamplingCounts(
        samples=samples,
        correct=correct,
        incorrect=samples - correct - unparseable,
        unparseable=unparseable,
        truncated=truncated,
        false_positive=wrong,
    )


def sampled(rationale: Any, hinted: Any = None, **fields: Any) -> Sampled:
    values: dict[str, Any] = {
        "max_new_tokens": 256,
        "num_shots": 4,
        "task_shots": 8,
        "is_chat": False,
        "has_instruction": True,
        "requires_steps": False,
        "trains_on_samples": True,
        "kept": 100.0,
        "batch_size": 8,
        "problems": 400,
        **fields,
    }
    return Sampled(rationale=rationale, rationalization=hinted, **values)


NONE = counts(32, 0)
SENTENCES = {
    "nothing": (sampled(NONE, NONE), "0 of 32, hinted 0 of 32: nothing to start from; an easier task or a larger"),
    "nothing without hints": (sampled(NONE), "0 of 32: nothing to start from without hints; .*method = 'star'"),
    "copied": (
        sampled(counts(32, 3), counts(29, 20, wrong=18)),
        "18 of the 20 hinted ones fail the step check.*method = 'star-checked'",
    ),
    "copied, and left out already": (
        sampled(counts(32, 6), counts(26, 20, wrong=18), requires_steps=True),
        "worth starting",
    ),
    "copied, left out, and nothing else": (
        sampled(NONE, counts(32, 20, wrong=20), requires_steps=True),
        "all 20 hinted ones fail .* nothing to start from",
    ),
    "no step check": (sampled(counts(32, 3), counts(29, 20)), "worth starting"),
    "solved": (sampled(counts(32, 30), counts(2, 1)), "30 of 32, hinted 1 of 2: little left to learn"),
    "all solved": (sampled(counts(32, 32), counts(0, 0)), "32 of 32: little left to learn"),
    "truncated": (sampled(counts(32, 4, truncated=12)), r"12 of 32 are truncated at 256.*sampling\.max_new_tokens"),
    "truncated hinted": (sampled(counts(32, 4), counts(28, 0, truncated=20)), "20 of 28 are truncated"),
    "truncated and therefore unparseable": (
        sampled(counts(32, 0, truncated=30, unparseable=30), NONE),
        "30 of 32 are truncated",
    ),
    "unparseable turns": (sampled(counts(32, 2, unparseable=20), is_chat=True), r"task\.instruction"),
    "unparseable text": (sampled(counts(32, 2, unparseable=20)), r"sampling\.num_shots = 8, now 4"),
    "unparseable without examples": (
        sampled(counts(32, 2, unparseable=20), task_shots=0, num_shots=0),
        r"task\.prompt_file",
    ),
    "unparseable with all examples": (sampled(counts(32, 2, unparseable=20), num_shots=8), "take a model that follows"),
    "few": (sampled(counts(32, 1), counts(31, 0), kept=3.1, problems=100), r"3 rationales, fewer than one batch of 8"),
    "deaf": (sampled(counts(32, 8), counts(24, 0)), "hints have no effect"),
    "good": (sampled(counts(32, 8), counts(24, 12)), "worth starting: .* 100 rationales, and 13% to 42%"),
    "wrong without an answer to copy": (
        sampled(counts(32, 3), counts(29, 20, wrong=18), shows="nothing"),
        "in the second attempt 20 of 29: 18 of the 20 correct second attempts fail .* add 'steps'",
    ),
    "deaf to what is no answer": (sampled(counts(32, 8), counts(24, 0), shows="text"), "worth starting: "),
    "a control": (sampled(NONE, trains_on_samples=False), "trains on nothing that is sampled"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_what_follows_is_the_sentence_of_the_table(case: str) -> None:
    given, expected = SENTENCES[case]
    assert re.search(expected, advice(given)), advice(given)
    assert unknown_names(advice(given)) == set()


def unknown_names(text: str) -> set[str]:
    """Settings and methods that a text names and that do not exist."""
    settings_named = set(re.findall(r"\b[a-z]+\.[a-z_]+\b", text))
    return (settings_named - known_keys().keys()) | (set(re.findall(r"method = '([^']*)'", text)) - METHODS.keys())


@st.composite
def some_counts(draw: st.DrawFn, *, with_steps: bool) -> SamplingCounts:
    samples = draw(st.integers(0, 40))
    correct = draw(st.integers(0, samples))
    return counts(
        samples,
        correct,
        unparseable=draw(st.integers(0, samples - correct)),
        truncated=draw(st.integers(0, samples)),
        wrong=draw(st.integers(0, correct)) if with_steps else None,
    )


@given(st.data())
def test_the_sentence_is_one_line_and_names_only_settings_and_methods_that_exist(data: st.DataObject) -> None:
    with_steps = data.draw(st.booleans())
    rationale = data.draw(some_counts(with_steps=with_steps).filter(lambda c: c.samples > 0))
    hinted = data.draw(st.none() | some_counts(with_steps=with_steps))
    fields = {
        name: data.draw(st.booleans()) for name in ("is_chat", "has_instruction", "requires_steps", "trains_on_samples")
    }
    shots = {"num_shots": data.draw(st.integers(0, 9)), "task_shots": data.draw(st.integers(0, 9))}
    text = advice(sampled(rationale, hinted, kept=data.draw(st.floats(0, 500)), **fields, **shots))
    assert "\n" not in text
    assert text.startswith(f"{rationale.correct} of {rationale.samples}")
    assert unknown_names(text) == set()


# The shipped model, end to end


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The parts of the shipped task, by the command, as JSON; with a check that nothing is left on the disk."""
    folder, temporary = tmp_path_factory.mktemp("cwd"), tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        done = selftaught("doctor", "arithmetic", "--problems", "8", "--json", *settings(SMALL), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    left = [path.name for path in temporary.iterdir() if not path.name.startswith("torch")]  # what an import makes
    assert not left
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_shipped_task_gets_all_parts_in_their_order_and_nothing_is_refused(examined: list[dict[str, Any]]) -> None:
    assert [part["part"] for part in examined] == PARTS
    assert not any(part["refused"] for part in examined)
    _, device, model, memory, _, _ = examined
    assert (device["device"], device["dtype"]) == ("cpu", "float32")
    assert model["parameters"] == 642_560
    assert model["row"]["end"] == "<end>"
    assert "<end>" not in model["row"]["learned"]
    assert set(model["prompts"]) == {"rationale", "rationalization"}
    assert 0 < memory["training"]["bytes"] < memory["free_memory_bytes"]


def test_time_is_measured_by_stage_and_adds_up(examined: list[dict[str, Any]]) -> None:
    time, worth = examined[4:]
    seconds, planned = time["iteration"]["seconds"], time["iteration"]["completions"]
    assert planned["rationale"] == QUICK["task.problems_per_iteration"]
    assert planned["dev"] == QUICK["task.dev_problems"]
    each = time["sampling"]["seconds"] / time["sampling"]["completions"]
    assert seconds["rationale"] == pytest.approx(each * planned["rationale"])
    assert seconds["training"] == pytest.approx(time["step_seconds"] * time["iteration"]["steps"])
    assert time["run_seconds"] > sum(seconds.values())
    assert worth["rationale"]["n"] == 8
    assert worth["rationalization"]["n"] == 8 - worth["rationale"]["correct"]
    assert worth["advice"].startswith(f"{worth['rationale']['correct']} of 8")


def test_only_training_problems_are_sampled_and_failed_ones_alone_get_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch)
    config, base = config_with(**{"sampling.max_new_tokens": 1000}), resolve_model("builtin:adder")
    task = load_task(config.task)
    found = sample(config, task, base, resolve(config, base, None), 6)
    known = {render_prompt(task.prompt_format, p, hint=hint) for p in task.train for hint in (False, True)}
    assert {request.prompt for request in engine.requests} <= known
    assert found.rationalization is not None
    assert (len(found.rationale.samples), len(found.rationalization.samples)) == (6, 6)
    assert not any(s.verdict is Verdict.CORRECT for s in found.rationale.samples)
    assert all(s.verdict is Verdict.CORRECT for s in found.rationalization.samples)


def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """Let the doctor ask a function, which is right if it gets a hint."""
    by_prompt = {
        render_prompt(arithmetic().prompt_format, p, hint=True): render_completion(arithmetic().prompt_format, p)
        for p in arithmetic().train
    }
    engine = ScriptedEngine(lambda prompt, seed: by_prompt.get(prompt, "<scratch>\n</scratch>\n9 9"))

    @contextmanager
    def opened(*_: object) -> Iterator[ScriptedEngine]:
        yield engine

    monkeypatch.setattr(doctor_measure, "opened_engine", opened)
    return engine


def test_quick_sampling_is_timed_on_as_many_problems_as_a_run_samples_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripted(monkeypatch)
    config, base = config_with(**{"engine.slots": 16}), resolve_model("builtin:adder")
    found = sample(config, load_task(config.task), base, resolve(config, base, None), 6)
    assert (len(found.rationale.samples), found.rationale.timed.completions) == (6, 8)  # a chunk
    monkeypatch.setattr(doctor_measure, "QUICK_S", 0.0)
    found = sample(config, load_task(config.task), base, resolve(config, base, None), 6)
    assert found.rationale.timed.completions == 6


def test_the_plan_counts_what_the_loop_would_do_at_these_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    config, base = (
        config_with(**{"loop.max_iterations": 3, "sampling.max_new_tokens": 1000}),
        resolve_model("builtin:adder"),
    )
    task = load_task(config.task)
    found = sample(config, task, base, resolve(config, base, None), 6)
    plan = plan_of(config, task, found)
    assert plan.completions == {"rationale": 24, "rationalization": 24, "dev": 10}
    assert plan.kept == 24
    assert plan.test == 2 * (10 + len(task.extrapolation))
    assert plan.steps == 6
    assert plan.all_steps == 6 + 7 + 8


def test_a_batch_that_the_accepted_samples_do_not_fill_is_filled_up_for_the_timing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = scripted(monkeypatch)
    engine.reply = lambda prompt, seed: "<scratch>\n</scratch>\n9 9"
    config, base = config_with(**{"training.num_rehearsed": 0}), resolve_model("builtin:adder")
    task = replace(load_task(config.task), few_shot=())
    found = sample(config, task, base, resolve(config, base, None), 3)
    assert {row.source for row in rows_like_a_runs(config, task, found)} == {"rationale", "rationalization"}


def test_a_trainer_without_steps_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    of_sft = {key for key in known_keys() if key.startswith("training.")} - {"training.steps_first_iteration"}
    values = {key: value for key, value in {**LEAST, **SMALL}.items() if key not in of_sft}
    config, base = config_from_values({**values, "training.name": "none"}), resolve_model("builtin:adder")
    task = load_task(config.task)
    found = sample(config, task, base, resolve(config, base, None), 2)
    rows = rows_like_a_runs(config, task, found)
    assert rows
    monkeypatch.setattr(tempfile, "TemporaryDirectory", None)  # which would get a copy of the model
    assert time_steps(config, base, resolve(config, base, None), rows) is None


# Refusals


def test_a_config_that_does_not_fit_is_refused_as_a_run_refuses_it_and_nothing_is_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_check, "free_memory_bytes", lambda device: 300 << 20)
    monkeypatch.setattr(memory_check, "used_memory_bytes", lambda: 0)
    parts = parts_of("arithmetic", overrides=overrides(), problems=4)
    assert list(parts) == PARTS[:-1]
    config = config_with(**{"model.path": "builtin:adder"})
    base = resolve_model("builtin:adder")
    with pytest.raises(RefusedError) as error:
        fit_memory(config, load_task(config.task), base, resolve(config, base, None))
    (refusal,) = parts["memory"].refusals
    assert refusal.split("needs about")[0] == str(error.value).split("needs about")[0]
    assert "training.lora_rank=16" in refusal
    assert "training: needs about" in text_of(parts["memory"])
    assert "not measured" in text_of(parts["time"])


def test_what_is_refused_ends_with_exit_code_2_and_the_other_parts_are_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sft_config, "find_spec", lambda name: None)
    values = {**SMALL, "training.lora_rank": 4, "sampling.num_shots": 500}
    done = selftaught("doctor", "arithmetic", "--problems", "0", *settings(values))
    message = refused(done)
    assert "(and 1 more, above)" in message
    assert "needs the package peft" in message
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("# ")] == [
        "# Installed",
        "# Device",
        "# Model and prompts",
        "# Memory and disk",
    ]
    assert sum(line.startswith("refused: ") for line in lines) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/model/here"], "no such folder"),
        (["no-such.toml"], "neither a task with a shipped config"),
        (["arithmetic", "--task", "gsm8k"], "names its own task"),
        (["builtin:adder", "--task", "nothing"], "unknown task 'nothing'"),
        (["arithmetic", "--set", "sampling.num_shot=3"], "did you mean"),
    ],
)
def test_what_cannot_be_examined_is_refused_and_the_machine_is_described_all_the_same(
    arguments: list[str], message: str
) -> None:
    done = selftaught("doctor", *arguments)
    assert message in refused(done)
    assert "# Device" in done.stdout


def test_a_file_of_weights_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "GGUF" in refused(selftaught("doctor", str(tmp_path / "model.gguf")))


def test_several_gpus_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name, value in {
        "is_available": True,
        "device_count": 2,
        "get_device_name": "a GPU",
        "mem_get_info": (8 << 30, 8 << 30),
        "is_bf16_supported": True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    config = config_with(**{"compute.device": "auto", "engine.compiled": "auto"})
    part, _ = doctor_model.device_part(config, resolve_model("builtin:adder"))
    assert "CUDA_VISIBLE_DEVICES" in text_of(part)
    assert "a GPU" in text_of(part)


# A model alone


def test_a_model_alone_gets_four_parts_and_is_told_what_a_task_adds() -> None:
    parts = parts_of("builtin:adder")
    assert list(parts) == PARTS[:4]
    assert not any(part.refusals for part in parts.values())
    assert "--task NAME" in text_of(parts["memory"])


def test_a_model_with_a_task_is_examined_with_the_settings_of_the_tasks_config() -> None:
    parts = parts_of("builtin:adder", task="arithmetic", problems=0)
    assert parts["model"].facts["prompts"]["rationale"].count("Input:") == 1  # its config asks for no examples
    assert not any(part.refusals for part in parts.values())


def test_this_machine_alone_has_two_parts() -> None:
    assert list(parts_of(None)) == PARTS[:2]


# What is installed


def test_a_missing_extra_is_named_with_what_it_adds_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    assert "pip install" not in text_of(installed_part())
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "peft" else object())
    text = text_of(installed_part())
    assert "pip install 'selftaught[lora]'" in text
    assert "training.lora_rank" in text
    assert "selftaught[math]: installed" in text


def test_the_extras_are_those_of_pyproject() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"]
    assert EXTRAS.keys() == declared.keys() - {"test"}
    for name, extra in EXTRAS.items():
        assert sorted(extra.packages) == sorted(re.split(r"[<>=!~\[]", item)[0] for item in declared[name])


# How it looks


ROW = Part(
    name="model",
    title="Model",
    lines=row_lines(
        ShownRow(what="a row", problem_id="p", prompt="Q: 1\x1b[2J\nA:", num_tokens=9, learned=(1, 2, 3)),
        " two",
        "<end>",
    ),
    refusals=("no [bold]room[/bold]",),
)


def printed(capsys: pytest.CaptureFixture[str], **console: Any) -> str:
    file = io.StringIO()
    print_part(ROW, Console(file=file, soft_wrap=True, **console))
    return file.getvalue() + capsys.readouterr().out


def test_without_a_terminal_what_is_learned_stands_between_marks(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    assert "Q: 1\\x1b[2J\nA:⟨ two⟩⟪<end>⟫" in text
    assert "\x1b" not in text
    assert "refused: no [bold]room[/bold]" in text


def test_on_a_terminal_prompt_learned_tokens_and_end_have_colours_of_their_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = printed(capsys, force_terminal=True, color_system="standard")
    style_of = {shown: code for code, shown in re.findall(r"\x1b\[([\d;]+)m([^\x1b]*)\x1b\[0m", text)}
    assert len({style_of[shown] for shown in ("A:", " two", "<end>")}) == 3
    assert "⟨" not in text
    assert "\x1b[2J" not in text
    assert "[bold]room[/bold]" in text


def test_a_terminal_without_colours_gets_the_marks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "⟨ two⟩⟪<end>⟫" in printed(capsys, force_terminal=True, color_system="standard")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0042, "4.2 ms"), (0.4, "0.4 s"), (12.2, "12 s"), (210, "3.5 min"), (6000, "1.7 h"), (200_000, "2.3 days")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text

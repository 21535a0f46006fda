"""A prompt that is longer than the model's context is found before anything is sampled, and named by file and line."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import LEAST, arithmetic, config, few_shot_example, problem
from chat_models import CHAT_MODELS, PLAIN, save_tokenizer
from selftaught.commands.evaluate import Asked, evaluate, find_target
from selftaught.commands.prompt_check import room_of
from selftaught.commands.run import launch
from selftaught.config.loading import config_from_values
from selftaught.models.tokens import Codec
from selftaught.prompts.chat import as_chat
from selftaught.records.errors import RefusedError
from selftaught.records.problems import Problem, Task
from selftaught.records.prompts import ChatSettings
from selftaught.records.samples import SamplingParams
from selftaught.stages.prompt_lengths import Ask, Room, asks_of_run, too_long
from selftaught.stages.sampling import SamplingSpec, sampling_spec
from test_cli import QUICK
from test_own_run import ADDITIONS, SETTINGS, write_rows

MODELS = {"plain": PLAIN, **{name: CHAT_MODELS[name] for name in ("chatml", "llama 3", "gemma 3", "qwen 3", "mistral")}}
questions = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=30)
    | st.sampled_from(["<|im_end|>", "the baker " * 9, "一二三" * 5, "\n\n", "é" * 20]),
    min_size=1,
    max_size=12,
)


@cache
def codec_of(name: str) -> Codec:
    model = MODELS[name]
    chat = None if model.template is None else ChatSettings(date="2026-01-01")
    return Codec(str(save_tokenizer(model, Path(mkdtemp()))), chat=chat)


def task_for(name: str, problems: Sequence[Problem]) -> Task:
    task = replace(arithmetic(), few_shot=tuple(few_shot_example(id) for id in "ab"), train=tuple(problems))
    return task if name == "plain" else as_chat(task, system=None, opens_thought=False, answer_only=False)


@given(st.sampled_from(sorted(MODELS)), questions, st.integers(0, 2), st.booleans(), st.integers(-6, 40))
def test_the_prompts_found_too_long_are_those_that_are(
    name: str, texts: list[str], num_shots: int, hint: bool, over: int
) -> None:
    problems = tuple(problem(str(i), question=f"q{text}") for i, text in enumerate(texts))
    task, codec = task_for(name, problems), codec_of(name)
    spec = SamplingSpec(
        few_shot=task.few_shot[:num_shots],
        params=SamplingParams(temperature=0.0, max_new_tokens=7, stop=()),
        hint=hint,
    )
    lengths = [len(codec.encode_prompt(prompt)) for prompt in spec.prompts(task, problems)]
    context = max(1, max(lengths) + 7 - over)
    found = too_long(Room(codec=codec, context=context), task, [Ask(spec=spec, problems=problems)])
    assert list(found) == [p.id for p, n in zip(problems, lengths, strict=True) if n + 7 > context]
    assert too_long(Room(codec=codec, context=None), task, [Ask(spec=spec, problems=problems)]) == {}


def test_prompts_that_fit_by_their_bytes_are_not_encoded(adder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, task = config(), arithmetic()
    room, encoded, encode = room_of(settings, adder, None), [], Codec.encode_prompt
    monkeypatch.setattr(Codec, "encode_prompt", lambda codec, p: encoded.append(p) or encode(codec, p))
    assert too_long(room, task, asks_of_run(settings, task)) == {}
    assert len(encoded) <= len(asks_of_run(settings, task))


def test_a_run_asks_with_and_without_hints_and_measures_as_the_config_says() -> None:
    task = arithmetic()
    plain, hinted = asks_of_run(config(task={"dev_problems": 5, "test_problems": 7}), task)
    assert len(plain.problems) == len(task.train) + 5 + 7 + len(task.extrapolation)
    assert (plain.spec.hint, hinted.spec.hint) == (False, True)
    assert hinted.problems == task.train
    none = asks_of_run(config(rationalization={"hints": "none"}, sampling={"num_shots_fine_tuned": 3}), task)
    assert [len(ask.problems) for ask in none][1:] == [0]
    assert len(none[0].spec.few_shot) == max(config().sampling.num_shots, 3)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([{"question": " + ".join("1" * 600), "answer": 600}], r"^rows\.jsonl:21: a prompt of \d+ tokens and 24 new"),
        ([{"question": " + ".join("1" * n), "answer": n} for n in (600, 700)], r"^rows\.jsonl:21 \(and 1 more\): a pr"),
    ],
)
def test_a_run_names_the_place_of_a_question_that_does_not_fit_and_samples_nothing(
    rows: list[dict[str, object]], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("rows.jsonl"), [*ADDITIONS[:20], *rows])
    more = {
        "sampling.num_shots": 0,
        "training.num_rehearsed": 0,
        "task.dev_problems": "all",
        "task.test_problems": "all",
    }
    given = {**LEAST, **SETTINGS, **more, "task.name": "own", "task.data": "rows.jsonl"}
    with pytest.raises(RefusedError) as caught:
        launch(config_from_values(given), tmp_path / "run")
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert re.search(line, message), message
    assert "exceed the model's context of 1024; shorten the question" in message
    assert not (tmp_path / "run").exists()


def test_a_prompt_that_only_its_hint_makes_too_long_is_refused(adder: Path, tmp_path: Path) -> None:
    task, settings = arithmetic(), {**LEAST, **QUICK}
    codec = Codec(str(adder))
    at_start = config_from_values(settings)
    num_shots = at_start.sampling.num_shots
    specs = {
        hint: sampling_spec(at_start, task, num_shots=num_shots, temperature=0.0, again=hint) for hint in (False, True)
    }
    # The shipped model has a token for each character, so that the longest text has the most.
    longest = {
        hint: len(codec.encode_prompt(max(spec.prompts(task, task.train), key=len))) for hint, spec in specs.items()
    }
    new = 1024 - longest[True] + 1
    assert longest[False] + new <= 1024
    with pytest.raises(RefusedError, match=r"^problem '.*: a prompt of \d+ tokens, its hint included, and"):
        launch(config_from_values({**settings, "sampling.max_new_tokens": new}), tmp_path / "r")


def test_eval_refuses_before_it_samples() -> None:
    target = find_target("builtin:adder", task="arithmetic")
    asked = Asked(split="dev", max_new_tokens=1020)
    with pytest.raises(RefusedError, match=r"^problem '.*exceed the model's context of 1024; .*nothing was sampled$"):
        evaluate(target, asked)

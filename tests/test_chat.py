"""Prompts as turns: what stands in them, what is trained on, and that all who use a model render them alike."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from builders import few_shot_example, problem, task_named
from selftaught.commands.dry_run import describe
from selftaught.commands.evaluate import Asked, evaluate, find_target
from selftaught.commands.init import write_starter
from selftaught.commands.run import launch
from selftaught.config.chat import ChatResolved, resolve_chat
from selftaught.config.loading import config_from_values, load_config
from selftaught.config.settings import ModelConfig
from selftaught.grading.judging import judge
from selftaught.models.tokens import Codec
from selftaught.prompts.chat import as_chat, chat_format_of
from selftaught.prompts.rendering import prompt_sha256, prompt_text, render_completion, render_prompt
from selftaught.records.errors import ConfigError, RefusedError
from selftaught.records.problems import CheckResult, Problem, PromptFormat, Verdict
from selftaught.records.prompts import ChatSettings, Turn
from selftaught.runs.reading import StoredPrompts, read_run_json, read_samples
from strategies import awkward_texts, problems, prompt_formats
from toy import FORMAT, toy_task

CHAT = chat_format_of(FORMAT)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}{% endif %}",
)
CLOCK = '{{ strftime_now("%d %b %Y") }}\n' + CHATML


@pytest.fixture
def chat_adder(adder: Path, tmp_path: Path) -> Path:
    """The shipped model, given a chat template."""
    return with_template(adder, tmp_path / "chat", CHATML)


def with_template(adder: Path, folder: Path, template: str) -> Path:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(adder), AutoTokenizer.from_pretrained(adder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():  # all tokens are about as likely, so that completions end somewhere
        model.get_output_embeddings().weight.mul_(0.01)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(path: Path, **model: Any) -> ModelConfig:
    return ModelConfig.model_validate({"path": str(path), **model})


def chat_config(path: Path, run_dir: Path, **changes: Any) -> Any:
    return config_from_values(
        {
            **{
                "model.path": str(path),
                "task.name": "arithmetic",
                "task.problems_per_iteration": 6,
                "task.dev_problems": 4,
                "task.test_problems": 4,
                "sampling.num_shots": 0,
                "sampling.max_new_tokens": 60,
                "sampling.temperature": 1.0,
                "rationalization.temperature": 1.0,
                "selection.require": [],
                "selection.require_hinted": [],
                "training.learning_rate": 1e-4,
                "training.batch_size": 2,
                "training.steps_first_iteration": 1,
                "loop.max_iterations": 1,
                "compute.device": "cpu",
                "compute.threads": 1,
                "engine.compiled": "off",
            },
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )


@given(prompt_formats(), problems(answer="GOLD"), st.lists(problems(), max_size=2))
def test_the_hint_stands_in_the_turns_of_users_alone(
    fmt: PromptFormat, problem: Problem, few_shot: list[Problem]
) -> None:
    chat = chat_format_of(fmt)
    plain = render_prompt(chat, problem, hint=False, few_shot=few_shot)
    hinted = render_prompt(chat, problem, hint=True, few_shot=few_shot)
    assert (
        [turn.role for turn in plain]
        == [turn.role for turn in hinted]
        == ["user", "assistant"] * len(few_shot) + ["user"]
    )
    for without, with_hint in zip(plain, hinted, strict=True):
        assert (without == with_hint) == (without.role == "assistant")
    assert "GOLD" in hinted[-1].content


@given(prompt_formats(), problems(), awkward_texts)
def test_turns_without_a_hint_do_not_depend_on_the_answer(fmt: PromptFormat, problem: Problem, other: str) -> None:
    chat = chat_format_of(fmt)
    changed = replace(problem, answer=other, rationale=other)
    assert render_prompt(chat, changed, hint=False) == render_prompt(chat, problem, hint=False)


@pytest.mark.parametrize(
    ("system", "roles"),
    [(None, ["user"]), ("", ["system", "user"]), ("Be brief.", ["system", "user"])],
)
def test_a_system_text_absent_empty_and_given_are_three_things(system: str | None, roles: list[str]) -> None:
    task = as_chat(toy_task(), system=system, opens_thought=False, answer_only=False)
    prompt = render_prompt(task.prompt_format, task.train[0], hint=False)
    assert not isinstance(prompt, str)
    assert [turn.role for turn in prompt] == roles
    assert system is None or prompt[0].content == system


@pytest.mark.parametrize("name", ["gsm8k", "commonsenseqa", "arithmetic"])
def test_every_packaged_task_says_how_to_answer(name: str) -> None:
    module = __import__(f"selftaught.tasks.{name}.task", fromlist=["task"])
    fmt = module.PROMPT_FORMAT if name == "arithmetic" else module.prompt_format()
    assert fmt.instruction
    assert chat_format_of(fmt).instruction == fmt.instruction


def test_a_task_without_an_instruction_gets_one_that_shows_its_answer_format() -> None:
    fmt = PromptFormat(
        question="{question}{hint}", hint="", completion="{rationale}\n= {answer}", answer_only=" = {answer}"
    )
    assert chat_format_of(fmt).instruction.endswith("in this form: = <answer>")


def test_a_model_that_is_taught_answers_alone_is_not_told_to_reason() -> None:
    task = as_chat(toy_task(), system=None, opens_thought=False, answer_only=True)
    (turn,) = render_prompt(task.prompt_format, task.train[0], hint=False)
    assert "without any reasoning" in turn.content
    assert "step by step" not in turn.content


def test_few_shot_completions_are_those_of_the_text_form_without_white_space_around() -> None:
    example = few_shot_example()
    assert render_completion(CHAT, example) == render_completion(FORMAT, example).strip()


def test_prompts_with_other_turns_have_other_hashes() -> None:
    one = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"))
    others = [
        (Turn("user", "a\n\nb\n\nc"),),
        (*one[:2], Turn("user", "")),
        (Turn("system", "a"), *one[1:]),
        "a\n\nb\n\nc",
    ]
    assert len({prompt_sha256(prompt) for prompt in [one, *others]}) == 5
    assert prompt_text(one) == "a\n\nb\n\nc"


def test_what_follows_the_thought_is_judged_and_places_of_mistakes_are_in_the_completion() -> None:
    opened = as_chat(toy_task(), system=None, opens_thought=True, answer_only=False)
    bear = opened.train[1]
    answer = render_completion(opened.prompt_format, bear)
    judged = judge(opened, bear, f"4? no\n</think>\n{answer}")
    assert judged.verification.verdict is Verdict.CORRECT
    assert judged.checks["steps"].passed
    # The toy's step check looks for the word "count": in the thought it counts for nothing.
    guessed = judge(opened, bear, "I count it\n</think>\n<r>a guess</r>\n4")
    assert guessed.verification.verdict is Verdict.CORRECT
    assert not guessed.checks["steps"].passed
    wrong = CheckResult(passed=False, share=0.0, detail="at its beginning", at=(0, 3))
    placed = judge(replace(opened, check_steps=lambda problem, text: wrong), bear, "so</think>abc")
    assert placed.checks["steps"].at == (10, 13)


def test_a_thought_that_never_ends_is_unparseable_and_says_so() -> None:
    opened = as_chat(toy_task(), system=None, opens_thought=True, answer_only=False)
    bear = opened.train[1]
    judged = judge(opened, bear, render_completion(opened.prompt_format, bear))
    assert (judged.verification.verdict, judged.verification.prediction) == (Verdict.UNPARSEABLE, None)
    assert judged.checks["thought"].detail == "the thought never ends"


def test_auto_is_chat_for_a_tokenizer_with_a_template(adder: Path, chat_adder: Path) -> None:
    assert resolve_chat(settings(adder), adder) is None
    assert resolve_chat(settings(chat_adder), chat_adder) == ChatResolved(thinking=None, date=None, opens_thought=False)
    assert resolve_chat(settings(chat_adder, prompt_format="plain"), chat_adder) is None


def test_a_template_that_reads_the_clock_gets_a_date_that_stays(adder: Path, tmp_path: Path) -> None:
    folder = with_template(adder, tmp_path / "clock", CLOCK)
    fixed = resolve_chat(settings(folder, template_date="2026-07-26"), folder)
    assert fixed is not None
    assert fixed.date == "2026-07-26"
    prompt = Codec(str(folder), chat=fixed.settings).render((Turn("user", "1"),))
    assert prompt.text.startswith("26 Jul 2026\n")
    today = resolve_chat(settings(folder), folder)
    assert today is not None
    assert today.date is not None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"thinking": True}, "no such switch"),
        ({"template_date": "2026-07-26"}, "does not read the clock"),
        ({"prompt_format": "plain", "system": "x"}, 'model.prompt_format is "plain"'),
        ({"prompt_format": "plain", "thinking": False}, 'model.prompt_format is "plain"'),
    ],
)
def test_settings_that_the_template_cannot_serve_are_refused(
    chat_adder: Path, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_chat(settings(chat_adder, **model), chat_adder)


def test_settings_for_turns_are_refused_for_a_model_without_a_template(adder: Path) -> None:
    with pytest.raises(ConfigError, match="has no chat template"):
        resolve_chat(settings(adder, system="Be brief."), adder)
    with pytest.raises(RefusedError, match="has no chat template"):
        resolve_chat(settings(adder, prompt_format="chat"), adder)


def test_a_date_that_is_none_is_refused(adder: Path, tmp_path: Path) -> None:
    folder = with_template(adder, tmp_path / "clock", CLOCK)
    with pytest.raises(ConfigError, match="expected a date such as"):
        resolve_chat(settings(folder, template_date="26.7.2026"), folder)


ALWAYS_OPENS = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")


@pytest.mark.parametrize(("template", "switch"), [(THINKING, {"model__thinking": True}), (ALWAYS_OPENS, {})])
def test_few_shot_examples_are_refused_for_a_model_that_thinks(
    adder: Path, tmp_path: Path, template: str, switch: dict[str, Any]
) -> None:
    folder = with_template(adder, tmp_path / "thinking", template)
    with pytest.raises(ConfigError, match=r"sampling.num_shots = 2, but the model thinks"):
        launch(chat_config(folder, tmp_path, sampling__num_shots=2, **switch), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_switch_for_thinking_must_be_set(adder: Path, tmp_path: Path) -> None:
    folder = with_template(adder, tmp_path / "thinking", THINKING)
    with pytest.raises(ConfigError, match=r"model.thinking is not set; set model.thinking=false"):
        resolve_chat(settings(folder), folder)
    for thinking in (False, True):
        resolved = resolve_chat(settings(folder, thinking=thinking), folder)
        assert resolved is not None
        assert (resolved.thinking, resolved.opens_thought) == (thinking, thinking)


def test_a_run_in_turns_samples_and_trains_on_the_same_prompt_ids(chat_adder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    launch(chat_config(chat_adder, run_dir), run_dir)
    assert read_run_json(run_dir)["resolved"]["chat"] == {"thinking": None, "date": None, "opens_thought": False}
    codec, stored = Codec(str(chat_adder), chat=ChatSettings()), StoredPrompts(run_dir)
    rows = [json.loads(line) for line in (run_dir / "examples" / "001.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        turns = tuple(Turn(**turn) for turn in row["prompt"])
        prompt = stored[prompt_sha256(turns)]
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        expected = codec.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert prompt.ids == tuple(expected)
        assert prompt.text == codec.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert "correct answer" not in prompt.text
    hinted = [sample for _, sample in read_samples(run_dir) if sample.kind == "rationalization"]
    for sample in hinted:
        assert "The correct answer is" in stored[sample.prompt_sha256].text


@pytest.mark.slow
def test_the_few_shot_turns_are_stored_once(chat_adder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    launch(chat_config(chat_adder, run_dir, sampling__num_shots=2), run_dir)
    lines = [json.loads(line) for line in (run_dir / "prompts.jsonl").read_text().splitlines()]
    heads = [line for line in lines if line["prefix"] is None]
    assert len(heads) == 2  # with and without hints
    assert all(head["text"].count("<|im_start|>assistant") == 2 for head in heads)
    assert all(line["text"].count("<|im_start|>assistant") == 1 for line in lines if line["prefix"])


@pytest.mark.slow
def test_a_run_s_model_is_measured_with_the_run_s_prompts(adder: Path, tmp_path: Path) -> None:
    folder = with_template(adder, tmp_path / "clock", CLOCK)
    run_dir = tmp_path / "run"
    launch(chat_config(folder, run_dir, model__template_date="2020-02-02"), run_dir)
    target = find_target(str(run_dir), task=None)
    before = [sample.completion for _, sample in read_samples(run_dir) if sample.kind == "evaluation"]
    assert before
    evaluate(target, Asked(split="dev"))
    with pytest.raises(ConfigError, match="rendered as in the run"):
        evaluate(target, Asked(split="dev", overrides={"model.thinking": True}))


def test_a_dry_run_shows_what_the_template_makes(chat_adder: Path, tmp_path: Path) -> None:
    config = chat_config(chat_adder, tmp_path)
    text = describe(config, task_named("arithmetic"), chat_adder)
    assert "<|im_end|>\n<|im_start|>assistant\n⟨the model continues here⟩" in text


def test_init_writes_a_full_config_without_examples_for_a_chat_model(chat_adder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i} + 1 ?", "answer": str(i + 1)}) + "\n" for i in range(40)))
    printed = write_starter(str(data), tmp_path / "out", model=str(chat_adder))
    assert not (tmp_path / "out" / "rows-prompt.toml").exists()
    assert "look over task.instruction" in printed
    config = load_config(str(tmp_path / "out" / "rows.toml"))
    assert (config.model.path, config.sampling.num_shots) == (str(chat_adder), 0)
    assert config.task.instruction.endswith("in this form: The answer is <answer>")
    outcome = launch(
        chat_config(
            chat_adder,
            tmp_path,
            **{f"task.{key}": value for key, value in config.task.model_dump(exclude_none=True).items()},
            task__problems_per_iteration=4,
        ),
        tmp_path / "run",
    )
    assert len(outcome.summaries) == 1


def test_init_decides_the_switch_of_a_model_that_can_think(adder: Path, tmp_path: Path) -> None:
    model, data = with_template(adder, tmp_path / "thinking", THINKING), tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i} + 1 ?", "answer": str(i + 1)}) + "\n" for i in range(40)))
    write_starter(str(data), tmp_path / "out", model=str(model))
    config = load_config(str(tmp_path / "out" / "rows.toml"))
    chat = resolve_chat(config.model, model)
    assert chat is not None
    assert chat.thinking is False


@pytest.mark.slow
def test_a_template_that_changes_during_a_run_is_found_before_the_training(chat_adder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    launch(chat_config(chat_adder, run_dir), run_dir)
    for path in (*run_dir.glob("checkpoints/*"), *run_dir.glob("iterations.jsonl"), run_dir / "result.json"):
        if path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path)
    (chat_adder / "chat_template.jinja").write_text(CHATML.replace("assistant\n", "assistant"))
    with pytest.raises(RefusedError, match="tokenizer or its template was changed"):
        launch(chat_config(chat_adder, run_dir), run_dir)


def test_an_unused_problem_field_is_no_part_of_the_turns() -> None:
    assert render_prompt(CHAT, problem(class_name="3"), hint=False) == render_prompt(CHAT, problem(), hint=False)

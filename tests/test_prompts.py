"""Prompts and completions are rendered by one format, and no hint reaches a prompt that is trained on."""

import os
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from builders import GOLDEN, arithmetic, few_shot_example, problem
from selftaught.prompts.rendering import prompt_sha256, render_completion, render_prompt
from selftaught.records.problems import Problem, PromptFormat
from selftaught.tasks.arithmetic.task import PROMPT_FORMAT, scratchpad
from strategies import awkward_texts, problems, prompt_formats
from toy import FORMAT

ADDITION = problem("259+624", question="6 2 4 + 2 5 9", answer="8 8 3", rationale=scratchpad(624, 259, "paper"))
FEW_SHOT = (
    problem("1+2", question="1 + 2", answer="3", rationale=scratchpad(1, 2, "paper")),
    problem("57+98", question="5 7 + 9 8", answer="1 5 5", rationale=scratchpad(57, 98, "paper")),
)

few_shot_lists = st.lists(problems(), max_size=3)


def test_the_prompts_of_arithmetic_match_the_golden_file() -> None:
    """UPDATE_GOLDEN=1 rewrites the file; review the difference like code."""
    fmt = arithmetic().prompt_format
    prompts = {
        "without a hint, as it is trained on": render_prompt(fmt, ADDITION, hint=False),
        "with a hint": render_prompt(fmt, ADDITION, hint=True),
        "without a hint, two few-shot examples": render_prompt(fmt, ADDITION, hint=False, few_shot=FEW_SHOT),
        "with a hint, two few-shot examples": render_prompt(fmt, ADDITION, hint=True, few_shot=FEW_SHOT),
        "completion": render_completion(fmt, ADDITION),
        "completion without a rationale": render_completion(fmt, replace(ADDITION, rationale="")),
    }
    got = "".join(f"=== {name}\n{text}<end>\n" for name, text in prompts.items())
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / "prompts.txt").write_text(got, encoding="utf-8")
    assert got == (GOLDEN / "prompts.txt").read_text(encoding="utf-8")


@given(prompt_formats(), problems(), awkward_texts, few_shot_lists)
def test_a_prompt_without_a_hint_does_not_depend_on_the_answer(
    fmt: PromptFormat, problem: Problem, other: str, few_shot: list[Problem]
) -> None:
    changed = replace(problem, answer=other, rationale=other)
    assert render_prompt(fmt, changed, hint=False, few_shot=few_shot) == render_prompt(
        fmt, problem, hint=False, few_shot=few_shot
    )


@given(problems(), few_shot_lists)
def test_a_prompt_with_a_hint_has_the_answer(problem: Problem, few_shot: list[Problem]) -> None:
    prompt = render_prompt(PROMPT_FORMAT, problem, hint=True, few_shot=few_shot)
    assert prompt.endswith(f"Input:\n{problem.question}\nTarget: {problem.answer}\n")


@given(prompt_formats(), problems(answer="GOLD"), few_shot_lists)
def test_prompts_with_and_without_hints_differ_by_the_hints_alone(
    fmt: PromptFormat, problem: Problem, few_shot: list[Problem]
) -> None:
    with_empty_hints = replace(fmt, hint="")
    assert render_prompt(with_empty_hints, problem, hint=True, few_shot=few_shot) == render_prompt(
        fmt, problem, hint=False, few_shot=few_shot
    )


def test_few_shot_examples_have_the_hint_where_the_question_has_it() -> None:
    few_shot = (few_shot_example("s1", answer="7"), few_shot_example("s2", answer="8"))
    assert render_prompt(FORMAT, problem(answer="9"), hint=True, few_shot=few_shot).count("(answer: ") == 3
    assert "(answer: " not in render_prompt(FORMAT, problem(answer="9"), hint=False, few_shot=few_shot)


@given(prompt_formats(), problems(), problems(), st.booleans())
def test_a_few_shot_example_is_its_own_prompt_and_completion(
    fmt: PromptFormat, problem: Problem, example: Problem, hint: bool
) -> None:
    """A few-shot example must match what the model is to write, to the character."""
    prompt = render_prompt(fmt, problem, hint=hint, few_shot=[example])
    text = render_prompt(fmt, example, hint=hint) + render_completion(fmt, example)
    assert prompt == text + fmt.separator + render_prompt(fmt, problem, hint=hint)


def test_few_shot_examples_are_in_the_given_order() -> None:
    few_shot = [few_shot_example(name) for name in ("s1", "s2", "s3")]
    prompt = render_prompt(FORMAT, problem(), hint=False, few_shot=few_shot)
    positions = [prompt.index(f"what is {name}?") for name in ("s1", "s2", "s3", "p1")]
    assert positions == sorted(positions)


def test_braces_in_a_problem_are_text() -> None:
    with_braces = problem(question="{answer} {hint} {0}", answer="{question}")
    assert render_prompt(FORMAT, with_braces, hint=True) == "Q: {answer} {hint} {0} (answer: {question})\nA:"
    assert render_completion(FORMAT, replace(with_braces, rationale="{answer}")) == " <r>{answer}</r>\n{question}"


def test_a_problem_without_a_rationale_is_completed_by_its_answer_alone() -> None:
    assert render_completion(FORMAT, problem(rationale="")) == " 3"


def test_a_prompt_is_identified_by_16_hex_digits_of_its_sha256() -> None:
    # printf 'a' | sha256sum  ->  ca978112ca1bbdca...
    assert prompt_sha256("a") == "ca978112ca1bbdca"

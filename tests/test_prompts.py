"""One renderer lays everything out, and no hint reaches a prompt that is trained on."""

import os
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from builders import GOLDEN, arithmetic, problem, worked
from selftaught.problems import Problem, PromptFormat
from selftaught.prompts import prompt_sha256, render_completion, render_prompt
from selftaught.tasks.arithmetic import PROMPT_FORMAT, scratchpad
from strategies import awkward_texts, problems, prompt_formats
from toy import FORMAT

ADDITION = problem("259+624", question="6 2 4 + 2 5 9", answer="8 8 3", rationale=scratchpad(624, 259, "paper"))
SHOTS = (
    problem("1+2", question="1 + 2", answer="3", rationale=scratchpad(1, 2, "paper")),
    problem("57+98", question="5 7 + 9 8", answer="1 5 5", rationale=scratchpad(57, 98, "paper")),
)

shot_lists = st.lists(problems(), max_size=3)


def test_the_prompts_of_arithmetic_match_the_golden_file() -> None:
    """UPDATE_GOLDEN=1 rewrites the file; read the difference like code."""
    fmt = arithmetic().prompt_format
    prompts = {
        "unhinted, also the prompt that is trained on": render_prompt(fmt, ADDITION, hint=False),
        "hinted": render_prompt(fmt, ADDITION, hint=True),
        "unhinted, two shots": render_prompt(fmt, ADDITION, hint=False, few_shot=SHOTS),
        "hinted, two shots": render_prompt(fmt, ADDITION, hint=True, few_shot=SHOTS),
        "completion": render_completion(fmt, ADDITION),
        "completion without a rationale": render_completion(fmt, replace(ADDITION, rationale="")),
    }
    got = "".join(f"=== {name}\n{text}<end>\n" for name, text in prompts.items())
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / "prompts.txt").write_text(got, encoding="utf-8")
    assert got == (GOLDEN / "prompts.txt").read_text(encoding="utf-8")


@given(prompt_formats(), problems(), awkward_texts, shot_lists)
def test_the_unhinted_prompt_does_not_depend_on_the_answer(
    fmt: PromptFormat, asked: Problem, other: str, shots: list[Problem]
) -> None:
    changed = replace(asked, answer=other, rationale=other)
    assert render_prompt(fmt, changed, hint=False, few_shot=shots) == render_prompt(
        fmt, asked, hint=False, few_shot=shots
    )


@given(problems(), shot_lists)
def test_the_hint_is_in_the_hinted_prompt(asked: Problem, shots: list[Problem]) -> None:
    hinted = render_prompt(PROMPT_FORMAT, asked, hint=True, few_shot=shots)
    assert hinted.endswith(f"Input:\n{asked.question}\nTarget: {asked.answer}\n")


@given(prompt_formats(), problems(answer="GOLD"), shot_lists)
def test_a_hinted_prompt_differs_from_the_unhinted_one_by_the_hints_alone(
    fmt: PromptFormat, asked: Problem, shots: list[Problem]
) -> None:
    blind = replace(fmt, hint="")
    assert render_prompt(blind, asked, hint=True, few_shot=shots) == render_prompt(
        fmt, asked, hint=False, few_shot=shots
    )


def test_worked_examples_show_the_hint_where_the_question_does() -> None:
    shots = (worked("s1", answer="7"), worked("s2", answer="8"))
    assert render_prompt(FORMAT, problem(answer="9"), hint=True, few_shot=shots).count("(answer: ") == 3
    assert "(answer: " not in render_prompt(FORMAT, problem(answer="9"), hint=False, few_shot=shots)


@given(prompt_formats(), problems(), problems(), st.booleans())
def test_a_worked_example_is_the_prompt_that_it_answers_and_its_completion(
    fmt: PromptFormat, asked: Problem, shot: Problem, hint: bool
) -> None:
    """So that what a base model sees worked out is what it is asked to write, to the character."""
    prompt = render_prompt(fmt, asked, hint=hint, few_shot=[shot])
    example = render_prompt(fmt, shot, hint=hint) + render_completion(fmt, shot)
    assert prompt == example + fmt.separator + render_prompt(fmt, asked, hint=hint)


def test_worked_examples_stand_in_the_order_given() -> None:
    prompt = render_prompt(FORMAT, problem(), hint=False, few_shot=[worked("s1"), worked("s2"), worked("s3")])
    places = [prompt.index(f"what is {name}?") for name in ("s1", "s2", "s3", "p1")]
    assert places == sorted(places)


def test_braces_in_a_problem_are_text() -> None:
    asked = problem(question="{answer} {hint} {0}", answer="{question}")
    assert render_prompt(FORMAT, asked, hint=True) == "Q: {answer} {hint} {0} (answer: {question})\nA:"
    assert render_completion(FORMAT, replace(asked, rationale="{answer}")) == " <r>{answer}</r>\n{question}"


def test_a_problem_without_a_rationale_is_completed_by_its_answer_alone() -> None:
    assert render_completion(FORMAT, problem(rationale="")) == " 3"


def test_prompts_are_told_apart_by_16_hex_digits_of_their_sha256() -> None:
    # printf 'a' | sha256sum  ->  ca978112ca1bbdca...
    assert prompt_sha256("a") == "ca978112ca1bbdca"

"""The task `gsm8k`: grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168).

The prompt is that of Zelikman et al. 2022: `Q: …`, `A:`, a solution, `#### 72`. A hint is only the final number, in
brackets after the question (the authors' code gives the complete solution there, which a model can copy). Dev is cut
from train; test is the official test file.

The released solutions keep their calculator annotations (`<<48/2=24>>`). The few-shot examples have none: annotations
write every step twice, which a small model does not imitate well, and the step check reads bare equations as exactly.
"""

from collections.abc import Iterable
from functools import partial
from typing import Literal

from selftaught.grading.checks.solutions import (
    check_equations,
    check_flow,
    check_grounding,
    check_steps,
    equations_key,
)
from selftaught.grading.statements import AnswerPlace
from selftaught.records.errors import ConfigError
from selftaught.records.problems import Grader, Problem, PromptFormat, Task
from selftaught.tasks.released import (
    NEXT_QUESTION,
    STOP,
    Split,
    as_template,
    cut_dev,
    few_shot_examples,
    released_rows,
    verifier_of,
    without_few_shot,
)
from selftaught.tasks.rows.columns import texts
from selftaught.tasks.rows.files import Row
from selftaught.tasks.settings import RowsConfig

HUB_ID, HUB_CONFIG = "openai/gsm8k", "main"
TRAIN, TEST = Split(("train",), "train"), Split(("test",), "test")
MARKER = "####"


class Gsm8kConfig(RowsConfig):
    name: Literal["gsm8k"] = "gsm8k"


def load(settings: Gsm8kConfig) -> Task:
    """The task. Raises ConfigError for rows that are missing or not as released."""
    place = _place(settings)
    judge = grader(settings, ())
    train, dev = cut_dev(_problems(settings, TRAIN), settings, name="gsm8k")
    few_shot = few_shot_examples(settings, name="gsm8k")
    train, notes = without_few_shot(train, few_shot)
    return Task(
        name="gsm8k",
        prompt_format=prompt_format(place.marker, settings.instruction),
        verifier=judge.verifier,
        few_shot=few_shot,
        train=train,
        notes=notes,
        dev=dev,
        test=_problems(settings, TEST),
        check_steps=judge.check_steps,
        other_checks=judge.other_checks,
        solution_key=partial(equations_key, place=place),
        has_flawed_solutions=True,
    )


def grader(settings: Gsm8kConfig, problems: Iterable[Problem]) -> Grader:
    """The verifier and the checks, which depend on the settings alone."""
    place = _place(settings)
    return Grader(
        verifier=verifier_of(settings, name="numeric", marker=place.marker),
        check_steps=partial(check_steps, place=place),
        other_checks={
            "equations": partial(check_equations, place=place),
            "grounding": partial(check_grounding, place=place),
            "flow": partial(check_flow, place=place),
        },
    )


def _place(settings: Gsm8kConfig) -> AnswerPlace:
    return AnswerPlace(marker=settings.answer_marker or MARKER, next_question=NEXT_QUESTION)


def prompt_format(marker: str = MARKER, instruction: str | None = None) -> PromptFormat:
    end = f"{as_template(marker)} {{answer}}"
    return PromptFormat(
        question="Q: {question}{hint}\nA:",
        hint=" ({answer})",
        completion=" {rationale}\n" + end,
        answer_only=" " + end,
        stop=STOP,
        instruction=instruction
        or "Solve the problem step by step, one short sentence with its calculation on each line, and no formatting. "
        f"End with a line that has only {marker} and the final number, such as: {marker} 42",
    )


def _problems(settings: Gsm8kConfig, split: Split) -> tuple[Problem, ...]:
    rows = released_rows(settings, split, hub_id=HUB_ID, hub_config=HUB_CONFIG)
    answers = texts(rows, "answer")
    return tuple(
        _problem(f"{split.hub}-{number}", question, answer, row)
        for number, (question, answer, row) in enumerate(zip(texts(rows, "question"), answers, rows, strict=True), 1)
    )


def _problem(id: str, question: str, solution: str, row: Row) -> Problem:
    rationale, marker, answer = solution.rpartition(MARKER)
    if not marker or not answer.strip():
        raise ConfigError(f"{row.place}: the answer has no number after {MARKER!r}; give the files as released")
    # A blank line would end a completion.
    lines = [line.rstrip() for line in rationale.strip().splitlines() if line.strip()]
    return Problem(id=id, question=question.strip(), answer=answer.strip(), rationale="\n".join(lines))

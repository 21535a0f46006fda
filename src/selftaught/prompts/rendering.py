"""Render problems as text, for generation, training, evaluation and `--dry-run` alike."""

import hashlib
from collections.abc import Iterable, Sequence

from selftaught.records.problems import LABELS, Problem, PromptFormat


def render_prompt(fmt: PromptFormat, problem: Problem, *, hint: bool, few_shot: Sequence[Problem] = ()) -> str:
    """The text that a model completes: few-shot examples, then the question.

    With `hint`, the question and the question of every few-shot example have their reference answers beside them
    (Zelikman et al. 2022, section 3.2). Without it, the text does not depend on `problem.answer`.
    """
    return render_prompts(fmt, [problem], hint=hint, few_shot=few_shot)[0]


def render_prompts(
    fmt: PromptFormat, problems: Iterable[Problem], *, hint: bool, few_shot: Sequence[Problem] = ()
) -> list[str]:
    """One prompt per problem, as by `render_prompt`; the few-shot examples are rendered once for all of them."""
    before = render_few_shot(fmt, few_shot, hint=hint)
    return [before + _question(fmt, problem, hint=hint) for problem in problems]


def render_few_shot(fmt: PromptFormat, few_shot: Sequence[Problem], *, hint: bool) -> str:
    """What all prompts with these few-shot examples begin with; empty without examples."""
    return "".join(
        _question(fmt, example, hint=hint) + render_completion(fmt, example) + fmt.separator for example in few_shot
    )


def render_completion(fmt: PromptFormat, problem: Problem) -> str:
    """What follows the question of a few-shot example: rationale and answer, or only the answer without a rationale."""
    choice = problem.choices[LABELS.index(problem.answer)] if problem.choices else ""
    if problem.rationale:
        return fmt.completion.format(rationale=problem.rationale, answer=problem.answer, choice=choice)
    return fmt.answer_only.format(answer=problem.answer, choice=choice)


def prompt_sha256(prompt: str) -> str:
    """The first 16 hex digits: enough to distinguish prompts, and short for a file with one on every line."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def _question(fmt: PromptFormat, problem: Problem, *, hint: bool) -> str:
    hint_text = fmt.hint.format(answer=problem.answer) if hint else ""
    beside_choice = bool(problem.choices) and "{hint}" in fmt.choice
    choices = "".join(
        fmt.choice.format(label=label, text=text, hint=hint_text if label == problem.answer else "")
        for label, text in zip(LABELS, problem.choices, strict=False)
    )
    return fmt.question.format(question=problem.question, choices=choices, hint="" if beside_choice else hint_text)

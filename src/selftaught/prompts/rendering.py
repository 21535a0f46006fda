"""Render problems as prompts, for generation, training, evaluation and `--dry-run` alike.

A `PromptFormat` makes texts, a `ChatFormat` the turns of a conversation.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from selftaught.records.problems import LABELS, ChatFormat, Problem, PromptFormat
from selftaught.records.prompts import Prompt, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What a prompt shows of an answer."""

    text: str
    """All of it, as it stands in the prompt."""
    label: str
    """The choice beside which it stands, in a format that puts it there; empty without choices."""


def own_hint(fmt: PromptFormat | ChatFormat, problem: Problem, *, answer: str | None = None) -> Hint:
    """The problem's reference answer as a hint, or another answer in its place; with choices, the label of one."""
    shown = problem.answer if answer is None else answer
    choice = problem.choices[LABELS.index(shown)] if problem.choices else ""
    return Hint(text=fmt.hint.format(answer=shown, choice=choice), label=shown if problem.choices else "")


def render_prompt(
    fmt: PromptFormat | ChatFormat, problem: Problem, *, hint: bool, few_shot: Sequence[Problem] = ()
) -> Prompt:
    """What a model completes: few-shot examples, then the question.

    With `hint`, the question and the question of every few-shot example have their reference answers beside them
    (Zelikman et al. 2022, section 3.2). Without it, the prompt does not depend on `problem.answer`.
    """
    return render_prompts(fmt, [problem], hint=hint, few_shot=few_shot)[0]


def render_prompts(
    fmt: PromptFormat | ChatFormat,
    problems: Iterable[Problem],
    *,
    hint: bool,
    few_shot: Sequence[Problem] = (),
    shown: Callable[[Problem], Hint] | None = None,
) -> list[Prompt]:
    """One prompt per problem, as by `render_prompt`; the few-shot examples are rendered once for all of them.

    With `hint`, `shown` says what the problems have beside them; None is their reference answers. Few-shot examples
    have their own answers in any case.
    """

    def question(problem: Problem) -> str:
        return _question(fmt, problem, _hint(fmt, problem, shown) if hint else None)

    if isinstance(fmt, ChatFormat):
        turns = _few_shot_turns(fmt, few_shot, hint=hint)
        return [(*turns, Turn("user", question(problem))) for problem in problems]
    before = _few_shot_text(fmt, few_shot, hint=hint)
    return [before + question(problem) for problem in problems]


def render_few_shot(fmt: PromptFormat | ChatFormat, few_shot: Sequence[Problem], *, hint: bool) -> Prompt:
    """What all prompts with these few-shot examples begin with: a text, empty without examples, or turns."""
    if isinstance(fmt, ChatFormat):
        return _few_shot_turns(fmt, few_shot, hint=hint)
    return _few_shot_text(fmt, few_shot, hint=hint)


def render_completion(fmt: PromptFormat | ChatFormat, problem: Problem) -> str:
    """What follows the question of a few-shot example: rationale and answer, or only the answer without a rationale."""
    choice = _choice(problem)
    if problem.rationale:
        return fmt.completion.format(rationale=problem.rationale, answer=problem.answer, choice=choice)
    return fmt.answer_only.format(answer=problem.answer, choice=choice)


def prompt_sha256(prompt: Prompt) -> str:
    """The first 16 hex digits: enough to distinguish prompts, and short for a file with one on every line.

    Of a text it is the hash of the text; of turns that of their JSON, a list of [role, content].
    """
    if not isinstance(prompt, str):
        prompt = json.dumps([[turn.role, turn.content] for turn in prompt], ensure_ascii=False)
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def prompt_text(prompt: Prompt) -> str:
    """A prompt for people to read, and for an engine without a tokenizer: of turns, their contents with blank lines
    between them."""
    return prompt if isinstance(prompt, str) else "\n\n".join(turn.content for turn in prompt)


def _few_shot_text(fmt: PromptFormat, few_shot: Sequence[Problem], *, hint: bool) -> str:
    return "".join(
        _question(fmt, example, own_hint(fmt, example) if hint else None)
        + render_completion(fmt, example)
        + fmt.separator
        for example in few_shot
    )


def _few_shot_turns(fmt: ChatFormat, few_shot: Sequence[Problem], *, hint: bool) -> tuple[Turn, ...]:
    """The system's turn, if there is one, and two turns for each example."""
    system = () if fmt.system is None else (Turn("system", fmt.system),)
    return (
        *system,
        *(
            turn
            for example in few_shot
            for turn in (
                Turn("user", _question(fmt, example, own_hint(fmt, example) if hint else None)),
                Turn("assistant", render_completion(fmt, example)),
            )
        ),
    )


def _hint(fmt: PromptFormat | ChatFormat, problem: Problem, shown: Callable[[Problem], Hint] | None) -> Hint:
    return own_hint(fmt, problem) if shown is None else shown(problem)


def _question(fmt: PromptFormat | ChatFormat, problem: Problem, hint: Hint | None) -> str:
    text, beside = ("", "") if hint is None else (hint.text, hint.label)
    beside_choice = bool(problem.choices) and "{hint}" in fmt.choice
    choices = "".join(
        fmt.choice.format(label=label, text=choice, hint=text if label == beside else "")
        for label, choice in zip(LABELS, problem.choices, strict=False)
    )
    instruction = {"instruction": fmt.instruction} if isinstance(fmt, ChatFormat) else {}
    return fmt.question.format(
        question=problem.question, choices=choices, hint="" if beside_choice else text, **instruction
    )


def _choice(problem: Problem) -> str:
    """The text of the correct choice; empty for a problem without choices."""
    return problem.choices[LABELS.index(problem.answer)] if problem.choices else ""

"""Render problems as prompts, for generation, training, evaluation and `--dry-run` alike.

A `PromptFormat` makes texts, a `ChatFormat` the turns of a conversation.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence

from selftaught.records.problems import LABELS, ChatFormat, Problem, PromptFormat
from selftaught.records.prompts import Prompt, Turn


def render_prompt(
    fmt: PromptFormat | ChatFormat, problem: Problem, *, hint: bool, few_shot: Sequence[Problem] = ()
) -> Prompt:
    """What a model completes: few-shot examples, then the question.

    With `hint`, the question and the question of every few-shot example have their reference answers beside them
    (Zelikman et al. 2022, section 3.2). Without it, the prompt does not depend on `problem.answer`.
    """
    return render_prompts(fmt, [problem], hint=hint, few_shot=few_shot)[0]


def render_prompts(
    fmt: PromptFormat | ChatFormat, problems: Iterable[Problem], *, hint: bool, few_shot: Sequence[Problem] = ()
) -> list[Prompt]:
    """One prompt per problem, as by `render_prompt`; the few-shot examples are rendered once for all of them."""
    if isinstance(fmt, ChatFormat):
        turns = _few_shot_turns(fmt, few_shot, hint=hint)
        return [(*turns, Turn("user", _question(fmt, problem, hint=hint))) for problem in problems]
    before = _few_shot_text(fmt, few_shot, hint=hint)
    return [before + _question(fmt, problem, hint=hint) for problem in problems]


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
        _question(fmt, example, hint=hint) + render_completion(fmt, example) + fmt.separator for example in few_shot
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
                Turn("user", _question(fmt, example, hint=hint)),
                Turn("assistant", render_completion(fmt, example)),
            )
        ),
    )


def _question(fmt: PromptFormat | ChatFormat, problem: Problem, *, hint: bool) -> str:
    hint_text = fmt.hint.format(answer=problem.answer, choice=_choice(problem)) if hint else ""
    beside_choice = bool(problem.choices) and "{hint}" in fmt.choice
    choices = "".join(
        fmt.choice.format(label=label, text=text, hint=hint_text if label == problem.answer else "")
        for label, text in zip(LABELS, problem.choices, strict=False)
    )
    instruction = {"instruction": fmt.instruction} if isinstance(fmt, ChatFormat) else {}
    return fmt.question.format(
        question=problem.question, choices=choices, hint="" if beside_choice else hint_text, **instruction
    )


def _choice(problem: Problem) -> str:
    """The text of the correct choice; empty for a problem without choices."""
    return problem.choices[LABELS.index(problem.answer)] if problem.choices else ""

"""The turns of a conversation, for a model with a chat template, made of a task's text form."""

from dataclasses import replace

from selftaught.records.problems import ChatFormat, PromptFormat, Task

QUESTION = "{question}{hint}\n\n{instruction}"
HINT = "\n\nThe correct answer is {answer}. Write the reasoning that leads to it."
QUESTION_WITH_CHOICES = "{question}\n{choices}{hint}\n{instruction}"
HINT_BELOW_CHOICES = "\nThe correct answer is ({answer}) {choice}. Write the reasoning that leads to it.\n"
CHOICE = "({label}) {text}\n"
STEP_BY_STEP = "Think step by step. Then write the answer on a line of its own, in this form:"
AT_ONCE = "Answer at once, without any reasoning, in this form:"


def as_chat(task: Task, *, system: str | None, opens_thought: bool, answer_only: bool) -> Task:
    """The task for a model that is asked in turns. `system` and `opens_thought` are as in `ChatFormat`; with
    `answer_only` the model is told to answer without reasoning."""
    chat = chat_format_of(task.prompt_format)
    if answer_only:
        shown = _shown(chat.answer_only, has_choices=bool(chat.choice))
        chat = replace(chat, instruction=f"{AT_ONCE} {shown}")
    return replace(task, prompt_format=replace(chat, system=system, opens_thought=opens_thought))


def chat_format_of(fmt: PromptFormat | ChatFormat) -> ChatFormat:
    """The turns for a task: what follows the question of a few-shot example stays as it is in text."""
    assert isinstance(fmt, PromptFormat), "a task comes with a text form"
    has_choices = bool(fmt.choice)
    end = fmt.answer_only.strip()
    return ChatFormat(
        question=QUESTION_WITH_CHOICES if has_choices else QUESTION,
        hint=HINT_BELOW_CHOICES if has_choices else HINT,
        instruction=fmt.instruction or f"{STEP_BY_STEP} {_shown(end, has_choices=has_choices)}",
        completion=fmt.completion.strip(),
        answer_only=end,
        choice=CHOICE if has_choices else "",
    )


def _shown(end: str, *, has_choices: bool) -> str:
    return end.format(answer="<letter>" if has_choices else "<answer>", choice="<choice>")

"""The task `commonsenseqa`: questions with five choices (Talmor et al. 2019, arXiv 1811.00937).

The prompt is that of Zelikman et al. 2022: `Q: …`, `Answer Choices:`, the choices, `A:`, a rationale that ends on
`Therefore, the answer is … (B).` A hint marks the correct choice with `(CORRECT)`. Dev is cut from train, and the
official dev file is the test split, because the answers of the official test file were never published. There are no
human solutions and no check of the reasoning.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from selftaught.grading.signs import fold_space
from selftaught.records.errors import ConfigError
from selftaught.records.problems import (
    LABELS,
    Grader,
    Problem,
    PromptFormat,
    Task,
)
from selftaught.tasks.released import (
    STOP,
    Split,
    as_template,
    cut_dev,
    few_shot_examples,
    released_rows,
    verifier_of,
    without_few_shot,
)
from selftaught.tasks.rows.columns import as_text
from selftaught.tasks.rows.files import Row
from selftaught.tasks.settings import RowsConfig

HUB_ID = "tau/commonsense_qa"
TRAIN = Split(("train", "train_rand_split"), "train")
TEST = Split(("dev", "dev_rand_split"), "validation")
MARKER = "the answer is"


class CommonsenseqaConfig(RowsConfig):
    name: Literal["commonsenseqa"] = "commonsenseqa"


def load(settings: CommonsenseqaConfig) -> Task:
    """The task. Raises ConfigError for rows that are missing or not as released."""
    marker = settings.answer_marker or MARKER
    train, dev = cut_dev(_problems(settings, TRAIN), settings, name="commonsenseqa")
    few_shot = few_shot_examples(settings, name="commonsenseqa")
    train, notes = without_few_shot(train, few_shot)
    return Task(
        name="commonsenseqa",
        prompt_format=prompt_format(marker, settings.instruction),
        verifier=grader(settings, ()).verifier,
        few_shot=few_shot,
        train=train,
        notes=notes,
        dev=dev,
        test=_problems(settings, TEST),
    )


def grader(settings: CommonsenseqaConfig, problems: Iterable[Problem]) -> Grader:
    """The verifier, which depends on the settings alone."""
    return Grader(verifier=verifier_of(settings, name="choice", marker=settings.answer_marker or MARKER))


def prompt_format(marker: str = MARKER, instruction: str | None = None) -> PromptFormat:
    end = f"{as_template(marker)} {{choice}} ({{answer}})."
    if marker == MARKER:
        end = f"Therefore, {end}"
    return PromptFormat(
        question="Q: {question}\nAnswer Choices:\n{choices}A:",
        hint=" (CORRECT)",
        choice="({label}) {text}{hint}\n",
        completion=" {rationale} " + end,
        answer_only=" " + end,
        stop=STOP,
        instruction=instruction
        or "Reason in two or three sentences about which choice fits best. Then end with a sentence in this form: "
        + end.format(choice="<choice>", answer="<letter>"),
    )


def _problems(settings: CommonsenseqaConfig, split: Split) -> tuple[Problem, ...]:
    return tuple(_problem(row) for row in released_rows(settings, split, hub_id=HUB_ID))


def _problem(row: Row) -> Problem:
    """The problem of a row as released (the question is an object) or as on the hub (all keys at the top)."""
    values = row.values
    question = values.get("question")
    stem, given = values.get("question"), values.get("choices")
    if isinstance(question, Mapping):
        stem, given = question.get("stem"), question.get("choices")
    id, label = values.get("id"), values.get("answerKey")
    labels, texts = _choices(given)
    if not (isinstance(id, str) and id and isinstance(stem, str) and as_text(stem, row.place, "question").strip()):
        raise ConfigError(f"{row.place}: no id or no question; give the files as released")
    if len(texts) < 2 or labels != list(LABELS[: len(texts)]):
        raise ConfigError(
            f"{row.place}: the choices are labeled {labels}, expected A, B, C, …; give the files as released"
        )
    for text in texts:
        if not (isinstance(text, str) and as_text(text, row.place, "choices").strip()):
            raise ConfigError(f"{row.place}: a choice is {text!r}, expected a text; give the files as released")
    if label not in labels:
        raise ConfigError(
            f"{row.place}: answerKey is {label!r}, expected one of {', '.join(labels)}; use a file with answers"
        )
    return Problem(id=id, question=fold_space(stem), answer=str(label), choices=tuple(text.strip() for text in texts))


def _choices(given: Any) -> tuple[list[Any], list[Any]]:
    """Labels and texts; both empty for a value in neither the released form nor the hub's."""
    if isinstance(given, Mapping):
        labels, texts = given.get("label"), given.get("text")
    elif isinstance(given, list) and all(isinstance(choice, Mapping) for choice in given):
        labels, texts = [choice.get("label") for choice in given], [choice.get("text") for choice in given]
    else:
        return [], []
    if not (isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts)):
        return [], []
    return labels, texts

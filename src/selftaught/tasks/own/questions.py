"""Read the rows of a file as new questions, for `predict`: their answers, if there are any, stay apart from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selftaught.records.errors import ConfigError
from selftaught.records.problems import Problem
from selftaught.tasks.own.layouts import layout_of_questions
from selftaught.tasks.own.settings import ColumnsConfig, OwnConfig
from selftaught.tasks.own.task import answers_and_solutions
from selftaught.tasks.rows.choice_answers import labels_of
from selftaught.tasks.rows.columns import Choices, as_text, choices_of, column, has_key, joined_texts
from selftaught.tasks.rows.files import Row, read_rows
from selftaught.tasks.settings import TaskConfig

SOLUTION_MARKER = "####"
"""Where every answer has it, answers are solutions that end on it and the final answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The rows of a file, in their order."""

    problems: tuple[Problem, ...]
    """Without answers; the id is the number of the row, from 1."""
    ids: tuple[str | int, ...]
    """The rows' own ids if every row has one, else the lines where the rows begin (their numbers, where several rows
    are on a line)."""
    places: tuple[str, ...]
    """File and line."""
    answers: Mapping[str, str]
    """Problem id -> reference answer, as in `Problem.answer`; empty for a file without readable answers."""
    reading: tuple[str, ...]
    """How the columns were read, in sentences."""


def read_questions(
    source: str, settings: TaskConfig, *, question_key: str | None = None, with_choices: bool | None = None
) -> Questions:
    """The questions of a file.

    Columns are named by the settings of a task `own` that has data, else guessed as `init` does. `question_key` takes
    the place of the settings' one. `with_choices` says whether prompts have choices; None leaves that to the file.
    Raises ConfigError, with file and line, for what cannot be read, and for a file without questions or without the
    choices that the prompts need.
    """
    rows = read_rows(source)
    keys = _keys(rows, settings, question_key, with_choices)
    questions = _questions(rows, keys["question"])
    named: list[Choices] = []
    if keys["choices"]:
        named = choices_of(rows, keys["choices"])
    elif with_choices:
        raise ConfigError(
            f"{rows[0].place}: no choices, but the prompts of this task have them; give every row a column of them, as "
            "the training data has (docs/own-data.md)"
        )
    problems = tuple(
        Problem(id=str(number), question=question.strip(), answer="", choices=named[number - 1].texts if named else ())
        for number, question in enumerate(questions, start=1)
    )
    answers, note = _answers(rows, keys, settings, named)
    ids, what = _ids(rows, keys["id"])
    used = {"question": keys["question"], "choices": keys["choices"], "id": what}
    return Questions(
        problems=problems,
        ids=ids,
        places=tuple(row.place for row in rows),
        answers=answers,
        reading=("; ".join(f"{name}: {key}" for name, key in used.items() if key), *([note] if note else [])),
    )


def _keys(
    rows: Sequence[Row], settings: TaskConfig, question_key: str | None, with_choices: bool | None
) -> dict[str, str]:
    """question, choices, id, answer -> key; "" for what the rows do not have."""
    if isinstance(settings, ColumnsConfig) and settings.data:
        keys = {
            "question": question_key or settings.question_key,
            "choices": settings.choices_key or "",
            "id": settings.id_key or "",
            "answer": settings.answer_key,
        }
        if not with_choices:
            keys["choices"] = ""
        return {name: key if name == "question" or (key and has_key(rows, key)) else "" for name, key in keys.items()}
    given = {"question_key": question_key} if question_key else {}
    given |= {"choices_key": ""} if with_choices is False else {}
    return dict(layout_of_questions(rows, given).keys)


def _questions(rows: Sequence[Row], key: str) -> list[str]:
    try:
        return joined_texts(rows, key)
    except ConfigError as error:
        if has_key(rows, key):
            raise
        raise ConfigError(f"{error}; name the column of the questions with --question-key") from error


def _ids(rows: Sequence[Row], key: str) -> tuple[tuple[str | int, ...], str]:
    """The rows' ids, and where they are from."""
    values = column(rows, key) if key else []
    if values and all(value is not None and str(value).strip() for value in values):
        if all(isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53 for value in values):
            return tuple(values), key
        return tuple(as_text(value, row.place, key) for row, value in zip(rows, values, strict=True)), key
    lines = tuple(int(row.place.rpartition(":")[2]) for row in rows)
    if len(set(lines)) == len(lines):
        return lines, "the line" if not key else f"the line, because not every row has {key!r}"
    return tuple(range(1, len(rows) + 1)), "the number of the row"


def _answers(
    rows: Sequence[Row], keys: Mapping[str, str], settings: TaskConfig, named: Sequence[Choices]
) -> tuple[dict[str, str], str]:
    """Problem id -> reference answer, of the rows that have one; and a sentence about them."""
    key = keys["answer"]
    if not key or key in (part.strip().removesuffix("?") for part in keys["question"].split("+")):
        return {}, ""
    with_one = [i for i, value in enumerate(column(rows, key)) if value is not None and str(value).strip()]
    if not with_one:
        return {}, ""
    answered = [rows[i] for i in with_one]
    how = settings if isinstance(settings, ColumnsConfig) and settings.data else OwnConfig()
    marker = how.answer_marker or getattr(settings, "answer_marker", None)
    if not marker and all(SOLUTION_MARKER in str(value) for value in column(answered, key)):
        marker = SOLUTION_MARKER
    how = how.model_copy(update={"answer_key": key, "rationale_key": False, "answer_marker": marker})
    try:
        answers, _ = answers_and_solutions(answered, how)
        if named:
            answer_is = "auto" if how.answer_is == "boxed" else how.answer_is
            places = [row.place for row in answered]
            answers, _ = labels_of(answers, [named[i] for i in with_one], places, answer_is=answer_is)
    except ConfigError as error:
        return {}, f"the answers under {key!r} are not used, not even to measure: {error}"
    return (
        {str(i + 1): answer.strip() for i, answer in zip(with_one, answers, strict=True)},
        f"answers under {key!r} are never shown to the model; they measure the predictions at the end",
    )

"""The task `own`: anybody's questions and answers, from files or given as rows, as the [task] settings describe them.

A prompt writes the question after `Q:`, the choices as `(A) …` lines, and ends on `A:`. A completion ends on `The
answer is …`, or on the marker that the settings give. Dev and test are files of their own, or are cut from `data` by a
hash of the question, so that a new row does not move the others.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from selftaught.grading.control_characters import control_character_in
from selftaught.grading.signs import fold
from selftaught.grading.statements import last_box
from selftaught.grading.verifiers import make_verifier
from selftaught.records.errors import ConfigError, RefusedError
from selftaught.records.problems import Check, Grader, Problem, PromptFormat, Task, Verifier
from selftaught.records.seeds import seed_for, uniform
from selftaught.tasks.own.settings import ColumnsConfig
from selftaught.tasks.rows.choice_answers import labels_of
from selftaught.tasks.rows.columns import (
    choices_of,
    has_key,
    joined_texts,
    note_of_labels,
    optional_texts,
    texts,
)
from selftaught.tasks.rows.files import Row, read_rows
from selftaught.tasks.rows.prompt_file import few_shot_examples_in, note_of_few_shot

MARKER = "The answer is"
NEXT_QUESTION = ("\nQ:",)
SHARE = 0.1
"""Share of the rows that dev and test each take by default."""
MOST_ROWS = 500
"""Limit on the rows that dev and test each take by default; with 500 an accuracy is known to about four points."""
REPEATS_LISTED = 20
OPTIONAL_KEYS = ("choices_key", "id_key", "class_key", "rationale_key")

READING = {
    "label": "label",
    "text": "text",
    "label or text": "label or text",
    "index0": "number, counted from 0",
    "index1": "number, counted from 1",
}
"""What `choice_answers.labels_of` reports -> its name in messages."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A problem and the place (file and line) of its row."""

    problem: Problem
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The rows that a task is made of. Splits that are not among them are cut from train."""

    source: str
    """What messages call the rows of train."""
    rows: Mapping[str, Sequence[Row]]
    """train, dev, test -> rows, each split with at least one; dev and test may be left out."""
    few_shot: tuple[Problem, ...]


def load(settings: ColumnsConfig) -> Task:
    """The task of the settings' files.

    Raises ConfigError, with file and line, for what cannot be read; RefusedError for a problem that occurs twice, and
    for one that a measured split shares with train or with the few-shot examples.
    """
    return task_of("own", settings, _given_by_files(settings))


def task_of(
    name: str,
    settings: ColumnsConfig,
    given: Given,
    *,
    verifier: Verifier | None = None,
    check_steps: Check | None = None,
) -> Task:
    """The task of rows, whose columns the settings describe; `verifier` takes the place of the settings' one.

    Raises as `load` does, with the rows' own places.
    """
    splits, reading = _splits(settings, given)
    train = tuple(placed.problem for placed in splits["train"])
    has_choices = any(problem.choices for problem in (*given.few_shot, *train))
    if settings.verifier == "choice" and not has_choices:
        raise ConfigError(
            f"task.verifier = 'choice', but the rows of {given.source} have no choices"
            f"{_under(settings.choices_key)}; set task.choices_key, or use another verifier"
        )
    return Task(
        name=name,
        prompt_format=prompt_format(
            settings.answer_marker or MARKER, with_choices=has_choices, instruction=settings.instruction or ""
        ),
        verifier=verifier or grader(settings, [*given.few_shot, *train]).verifier,
        few_shot=given.few_shot,
        train=train,
        dev=tuple(placed.problem for placed in splits["dev"]),
        test=tuple(placed.problem for placed in splits["test"]),
        check_steps=check_steps,
        same_problem=same_problem,
        notes=note_of_few_shot([placed.place for placed in splits["few_shot"]]),
        reading=reading,
    )


def grader(settings: ColumnsConfig, problems: Iterable[Problem]) -> Grader:
    """The verifier of the settings; without one it is `choice` for problems with choices, else `exact`."""
    name = settings.verifier or ("choice" if any(problem.choices for problem in problems) else "exact")
    # The user's own pattern says where the answer is, unless the user gives a marker too.
    without = "" if name == "regex" else MARKER
    return Grader(
        verifier=make_verifier(
            name,
            marker=settings.answer_marker or without,
            extraction=settings.extraction,
            pattern=settings.answer_pattern or "",
            function=settings.verifier_function or "",
            next_question=NEXT_QUESTION,
        )
    )


def _under(key: str | Literal[False]) -> str:
    return " (task.choices_key = false)" if key is False else f" under {key!r}"


def places(settings: ColumnsConfig) -> dict[str, str]:
    """Problem id -> file and line of its row."""
    splits, _ = _splits(settings, _given_by_files(settings))
    return {placed.problem.id: placed.place for rows in splits.values() for placed in rows}


def prompt_format(marker: str, *, with_choices: bool, instruction: str = "") -> PromptFormat:
    """The text around questions and answers; the answer is on a line of its own, after the marker."""
    end = marker.replace("{", "{{").replace("}", "}}") + (" ({answer})" if with_choices else " {answer}")
    return PromptFormat(
        question="Q: {question}\n{choices}A:" if with_choices else "Q: {question}{hint}\nA:",
        hint=" (correct)" if with_choices else " (Hint: the answer is {answer}.)",
        completion=" {rationale}\n" + end,
        answer_only=" " + end,
        choice="({label}) {text}{hint}\n" if with_choices else "",
        stop=("\n\n", "\nQ:"),
        instruction=instruction,
    )


def same_problem(problem: Problem) -> str:
    """Two problems are the same if question and choices read the same, the choices in any order."""
    return "\n".join([fold(problem.question), *sorted(map(fold, problem.choices))])


def _given_by_files(settings: ColumnsConfig) -> Given:
    if not settings.data:
        raise ConfigError(
            "task.data must be given: a file (jsonl, csv, parquet) or a hub id; `selftaught init` writes it"
        )
    for split in ("dev", "test"):
        if getattr(settings, f"{split}_data") and (number := getattr(settings, f"{split}_rows")):
            raise ConfigError(
                f"task.{split}_rows = {number} cuts {split} from train, but task.{split}_data is a file; leave out one"
            )
    few_shot = (
        few_shot_examples_in(settings.prompt_file, marker=settings.answer_marker or "") if settings.prompt_file else ()
    )
    files = {"train": settings.data, "dev": settings.dev_data, "test": settings.test_data}
    rows = {split: read_rows(source) for split, source in files.items() if source}
    return Given(source=settings.data, rows=rows, few_shot=few_shot)


def _splits(settings: ColumnsConfig, given: Given) -> tuple[dict[str, list[_Placed]], tuple[str, ...]]:
    """The rows of train, dev, test and the few-shot examples ("few_shot") as problems, each problem once; and how they
    were read."""
    # All splits together: a column has one kind of value, and answers name their choices in one way, in all of them.
    problems, reading = _problems([row for rows in given.rows.values() for row in rows], settings, given.source)
    remaining = iter(problems)
    splits = {split: [next(remaining) for _ in rows] for split, rows in given.rows.items()}
    _refuse_repeats(splits, given.few_shot)
    return _cut(splits, settings, given), reading


def _problems(rows: Sequence[Row], settings: ColumnsConfig, source: str) -> tuple[list[_Placed], tuple[str, ...]]:
    for name in OPTIONAL_KEYS:
        key = getattr(settings, name)
        if key and key != ColumnsConfig.model_fields[name].default and not has_key(rows, key):
            joined_texts(rows[:1], key)  # raises, and names the nearest key
    questions = joined_texts(rows, settings.question_key)
    answers, solutions = answers_and_solutions(rows, settings)
    given: list[tuple[str, ...]] = [()] * len(rows)
    reading: tuple[str, ...] = ()
    if settings.choices_key and has_key(rows, settings.choices_key):
        named = choices_of(rows, settings.choices_key)
        answers, how = labels_of(answers, named, [row.place for row in rows], answer_is=settings.answer_is)
        given = [one.texts for one in named]
        reading = (f"answers name their choices by {READING[how]}", *note_of_labels(rows, named))
    elif settings.answer_is not in ("auto", "boxed"):
        raise ConfigError(
            f"task.answer_is = {settings.answer_is!r} says how answers name choices, but the rows of {source} "
            f"have none{_under(settings.choices_key)}; set task.choices_key, or remove it"
        )
    classes = optional_texts(rows, settings.class_key)
    no_class = "none" if any(classes) else "all"
    ids = optional_texts(rows, settings.id_key)
    has_ids = any(ids)
    placed = []
    for i, row in enumerate(rows):
        problem = Problem(
            id=ids[i],
            question=questions[i].strip(),
            answer=answers[i].strip(),
            choices=given[i],
            class_name=classes[i] or no_class,
            rationale=solutions[i],
        )
        if not problem.id:
            if has_ids:
                raise ConfigError(f"{row.place}: no id under {settings.id_key!r}, though other rows have one")
            # From its question, so that a row keeps its seeds when the order of the file changes.
            problem = replace(problem, id=f"{seed_for('own', same_problem(problem)):014x}")
        placed.append(_Placed(problem, row.place))
    return placed, reading


def answers_and_solutions(rows: Sequence[Row], settings: ColumnsConfig) -> tuple[list[str], list[str]]:
    """Answers and human solutions. Where the answer column holds solutions with the marker (as GSM8K's does), they are
    its two parts; with `answer_is = "boxed"` the column holds solutions, and an answer is the content of the last box.

    Blank lines in a solution become line ends, because a completion ends at a blank line.
    """
    answers = texts(rows, settings.answer_key)
    solutions = optional_texts(rows, settings.rationale_key)
    marker = settings.answer_marker
    if settings.answer_is == "boxed":
        solutions, answers = answers, [last_box(answer) for answer in answers]
        for row, answer in zip(rows, answers, strict=True):
            if not answer:
                raise ConfigError(
                    f"{row.place}: {settings.answer_key!r} has no \\boxed{{…}} with an answer, which task.answer_is = "
                    "'boxed' asks for; correct the row"
                )
    elif marker and any(marker in answer for answer in answers):
        if any(solutions):
            raise ConfigError(
                f"{rows[0].place}: {settings.answer_key!r} holds solutions that end on {marker!r}, but there are "
                f"others under {settings.rationale_key!r}; set task.rationale_key = false to leave those out"
            )
        for i, row in enumerate(rows):
            before, separator, after = answers[i].rpartition(marker)
            if not separator or not after.strip():
                raise ConfigError(
                    f"{row.place}: {settings.answer_key!r} has no answer after {marker!r}, as other rows have; correct "
                    "the row"
                )
            if wrong := control_character_in(after):
                raise ConfigError(f"{row.place}: the answer in {settings.answer_key!r} {wrong}")
            solutions[i], answers[i] = before, after
    return answers, [re.sub(r"\s*\n\s*\n\s*", "\n", solution.replace("\r\n", "\n")).strip() for solution in solutions]


def _refuse_repeats(splits: Mapping[str, Sequence[_Placed]], few_shot: Sequence[Problem]) -> None:
    """Raise RefusedError, with all cases in one message, for questions and ids that occur twice."""
    ids: dict[str, str] = {}
    first_of: dict[str, tuple[str, _Placed]] = {}
    examples = {same_problem(example): example for example in few_shot}
    across: list[str] = []
    repeated: list[tuple[_Placed, _Placed]] = []
    same_id: list[str] = []
    for split, rows in splits.items():
        for placed in rows:
            problem, place, key = placed.problem, placed.place, same_problem(placed.problem)
            if key in first_of:
                first_split, first = first_of[key]
                if first_split == split:
                    repeated.append((first, placed))
                else:
                    across.append(f"{place} ({split}) asks the same as {first.place} ({first_split})")
                continue
            if problem.id in ids:
                same_id.append(f"{place}: the id {problem.id!r} is also at {ids[problem.id]}")
            ids.setdefault(problem.id, place)
            first_of[key] = split, placed
            if split != "train" and key in examples:
                across.append(f"{place} ({split}) asks the same as {examples[key].id} of the prompt file")
    if repeated:
        raise RefusedError(_repeats(repeated))
    if same_id:
        raise RefusedError(f"{_first(same_id)}; make ids unique")
    if across:
        raise RefusedError(
            f"{_first(across)}; a measured problem must not be trained on and dev must not hold test's, remove it "
            "from one of them"
        )


def _first(cases: Sequence[str]) -> str:
    return "; ".join(cases[:3]) + (f" (and {len(cases) - 3} more)" if len(cases) > 3 else "")


def _repeats(repeated: Sequence[tuple[_Placed, _Placed]]) -> str:
    """The message for rows that ask the same question as an earlier row of their split."""
    others = [pair for pair in repeated if fold(pair[0].problem.answer) != fold(pair[1].problem.answer)]
    if len(repeated) == 1:
        ((first, placed),) = repeated
        return (
            f"{placed.place}: the same question as {first.place}, with {'another' if others else 'the same'} answer "
            f"({first.problem.answer!r}, {placed.problem.answer!r}); keep one of the rows"
        )
    listed = [
        f"{placed.place} (as {first.place.rpartition(':')[2]}{', another answer' if (first, placed) in others else ''})"
        for first, placed in [*others, *(pair for pair in repeated if pair not in others)][:REPEATS_LISTED]
    ]
    more = f" and {len(repeated) - len(listed)} more" if len(repeated) > len(listed) else ""
    return (
        f"{len(repeated)} rows ask what an earlier row asks, {len(others)} of them with another answer: "
        f"{', '.join(listed)}{more}; keep one row of each question"
    )


def _cut(splits: dict[str, list[_Placed]], settings: ColumnsConfig, given: Given) -> dict[str, list[_Placed]]:
    """Cut the splits that have no rows of their own from train.

    Rows are ordered by a hash of the question and the data seed; test takes the first, dev the next. Without a number
    each takes the rows in its tenth of the hash's range, so that a new row moves no other (above MOST_ROWS it may move
    one). Rows that are few-shot examples go to "few_shot", because their prompts would hold their own answers.
    """
    rows, few_shot = splits["train"], set(map(same_problem, given.few_shot))
    train = [p for p in rows if same_problem(p.problem) not in few_shot]
    hashes = {id(p): uniform(seed_for("own", settings.data_seed, same_problem(p.problem)), 0) for p in train}
    order = sorted(train, key=lambda p: (hashes[id(p)], p.place))
    start, below = 0, 0.0
    cut: dict[str, list[_Placed]] = {}
    for split in ("test", "dev"):
        if split in splits:
            continue
        in_share = sum(below <= hashes[id(p)] < below + SHARE for p in order)
        below += SHARE
        number = getattr(settings, f"{split}_rows") or min(max(in_share, 1), MOST_ROWS)
        cut[split] = order[start : start + number]
        start += number
    if start >= len(train):
        raise ConfigError(
            f"{given.source}: {len(rows)} rows are too few to cut {' and '.join(cut)} ({start} rows) and leave "
            "some to train on; add rows, or set task.dev_rows and task.test_rows lower"
            + (f" ({len(rows) - len(train)} rows are few-shot examples)" if len(train) < len(rows) else "")
        )
    measured = {id(p) for problems in cut.values() for p in problems}
    return {
        **splits,
        **cut,
        "train": [p for p in train if id(p) not in measured],
        "few_shot": [p for p in rows if same_problem(p.problem) in few_shot],
    }

"""Guess what the columns of a data file are, by the names that public data sets give to their columns.

A name alone does not decide; the values must agree with it. A column that is empty in most rows, or has the same text
in all of them, is no question, and columns are choices only if the answers name them. Every column that is not used is
reported.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from selftaught.grading.signs import fold
from selftaught.grading.statements import last_box
from selftaught.records.errors import ConfigError
from selftaught.tasks.own.settings import OwnConfig
from selftaught.tasks.rows.choice_answers import labels_of, share_named
from selftaught.tasks.rows.columns import (
    choices_of,
    column,
    has_key,
    key_names,
    texts,
)
from selftaught.tasks.rows.files import Row

KEYS = {
    "question": (
        *("question", "problem", "prompt", "query", "instruction", "input", "goal", "question_stem", "stem"),
        *("question_text", "problem_text", "query_text", "ctx", "ctx_a", "sentence", "sentence1", "question1", "text"),
        *("hypothesis", "claim", "statement", "title", "q"),
    ),
    "answer": (
        *("answer", "answerkey", "answer_key", "final_answer", "correct_answer", "expected_answer", "ground_truth"),
        *("right_answer", "gold_answer", "reference_answer", "target", "label", "correct", "answer_idx"),
        *("answer_index", "answer_label", "correct_option", "correct_choice", "correct_label", "correct_index"),
        *("correct_idx", "cop", "gold", "gold_label", "output", "response", "completion", "a"),
    ),
    "choices": (
        *("choices", "options", "endings", "candidates", "answer_choices", "answer_options", "possible_answers"),
        *("alternatives", "option_list", "choice_list"),
    ),
    "id": ("id", "_id", "qid", "uid", "question_id", "unique_id"),
    "class": ("class", "category", "subject", "subject_name", "topic", "level", "type"),
    "rationale": ("rationale", "solution", "explanation", "reasoning", "cot", "worked_solution", "exp"),
}
"""Names that data sets give to their columns, the likeliest first. The last part of a dotted key counts too; `Correct
Answer`, `correct-answer` and `correctAnswer` are one name."""

CONTEXT = (
    *("title", "body", "passage", "context", "story", "paragraph", "article", "background", "document", "premise"),
    *("scenario", "situation", "support", "table", "dialogue", "dialog", "excerpt", "vignette", "narrative"),
    *("evidence",),
)
"""Columns that belong before the question, if they hold text."""
BEFORE = {"question": ("text", "instruction"), "problem": ("instruction",), "input": ("instruction",)}
"""Name of the question's column -> further columns that belong before it."""
AFTER = {
    "instruction": ("input", "context"),
    "question": ("input",),
    "prompt": ("input",),
    "ctxa": ("ctx_b",),
    "sentence1": ("sentence2",),
    "question1": ("question2",),
}
"""Name of the question's column -> columns that belong after it."""
SUBJECTS = ("text", "sentence", "hypothesis", "claim", "statement", "title", "ctx")
"""Columns that a question which is the same in all rows may be about."""
CHOICE_NAMES = ("", "option", "opt", "op", "choice", "answer", "ans", "sol", "solution", "ending", "candidate")
"""Beginnings of the names of choice columns, before A, B, C, … or 1, 2, 3, …"""
CHOICE_LISTS = ("answers",)
"""Lists of choices, if another column says which of them is correct; else they are answers."""
MOST_CLASSES = 50
MOSTLY = 0.5
"""The column of the question or the answer has a text in more than this share of the rows."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file."""

    keys: Mapping[str, str]
    """question, answer, choices, id, class, rationale -> key, "" for none."""
    answer_is: str
    notes: tuple[str, ...]
    """Where the decision differs from what a name suggests."""
    unused: tuple[str, ...]
    """Columns, by name."""


def layout_of(rows: Sequence[Row], given: Mapping[str, Any]) -> Layout:
    """Guess the layout; `given` are settings of [task] that the user has decided.

    Raises ConfigError where the question, the answer, or the meaning of answers cannot be decided.
    """
    notes: list[str] = []
    keys = {name: str(given.get(f"{name}_key") or "") for name in KEYS}
    answer_is = str(given.get("answer_is", "auto"))
    used = {part for key in keys.values() for part in _columns_in(rows, key)}
    keys["choices"] = keys["choices"] or _likeliest_key(rows, "choices", used)
    keys["question"] = keys["question"] or _question_key(rows, {*used, keys["choices"]}, keys["choices"], notes)
    used |= {*_columns_in(rows, keys["question"]), keys["choices"]}
    columns = () if keys["choices"] or "choices_key" in given else _choice_columns(rows, used)
    keys["answer"] = keys["answer"] or _likeliest_key(rows, "answer", {*used, *columns})
    if not keys["answer"] and _is_boxed(rows, solution := _likeliest_key(rows, "rationale", used)):
        keys["answer"], keys["rationale"], answer_is = solution, "", "boxed"
    for name in ("question", "answer"):
        if not keys[name]:
            raise ConfigError(_no_column_message(rows, name))
    if columns and _name_choices(rows, keys["answer"], " + ".join(columns)):
        keys["choices"] = " + ".join(columns)
    elif not keys["choices"] and "choices_key" not in given and _list_of_choices(rows, keys["answer"], used):
        keys["choices"] = _list_of_choices(rows, keys["answer"], used)
    elif columns:
        notes.append(f"The columns {', '.join(map(repr, columns))} are not used as choices: answers do not name them.")
    used |= {keys["answer"], *_columns_in(rows, keys["choices"])}
    for name in ("id", "class", "rationale"):
        if f"{name}_key" not in given and not (name == "rationale" and answer_is == "boxed"):
            keys[name] = keys[name] or _likeliest_key(rows, name, used)
            used.add(keys[name])
    _drop_unusable_keys(rows, keys, given, notes)
    if keys["choices"] and answer_is == "auto":
        named = choices_of(rows, keys["choices"])
        _, how = labels_of(texts(rows, keys["answer"]), named, [row.place for row in rows])
        answer_is = how if how != "label or text" else "auto"
    used = {part for key in keys.values() for part in _columns_in(rows, key)}
    for name in ("choices", "id", "class", "rationale"):
        # The default key must be switched off if there is such a column and it is not used.
        usual = str(OwnConfig.model_fields[f"{name}_key"].default)
        keys[name] = keys[name] or ("" if f"{name}_key" in given or has_key(rows, usual) else usual)
    return Layout(keys, answer_is, tuple(notes), _unused(rows, used))


def layout_of_questions(rows: Sequence[Row], given: Mapping[str, Any]) -> Layout:
    """Guess the layout of rows that may have no answers: the question, choices, an id and, if there is one, the answer.

    Columns such as A, B, C are choices by their names alone. Raises ConfigError where no column is the question.
    """
    notes: list[str] = []
    keys = {name: str(given.get(f"{name}_key") or "") for name in KEYS}
    used = {part for key in keys.values() for part in _columns_in(rows, key)}
    if "choices_key" not in given:
        keys["choices"] = _likeliest_key(rows, "choices", used)
    keys["question"] = keys["question"] or _question_key(rows, {*used, keys["choices"]}, keys["choices"], notes)
    # Of a few rows, all may ask the same.
    keys["question"] = keys["question"] or _key_with_text(rows, "question", {*used, keys["choices"]})
    if not keys["question"]:
        raise ConfigError(_no_column_message(rows, "question"))
    used |= {*_columns_in(rows, keys["question"]), keys["choices"]}
    if "choices_key" not in given and not keys["choices"]:
        keys["choices"] = " + ".join(_choice_columns(rows, used))
    used |= set(_columns_in(rows, keys["choices"]))
    for name in ("answer", "id"):
        if f"{name}_key" not in given:
            keys[name] = _likeliest_key(rows, name, used) or _key_with_text(rows, name, used)
            used.add(keys[name])
    return Layout(keys, "auto", tuple(notes), _unused(rows, used))


def _question_key(rows: Sequence[Row], used: set[str], choices_key: str, notes: list[str]) -> str:
    """The question's column, joined with those that belong to it.

    A question may be the same in all rows if it is about something that differs: a text, or choices.
    """
    main = _likeliest_key(rows, "question", used)
    same = [key for key in _keys_named(rows, KEYS["question"], used) if _share(rows, key) == 1]
    same = [key for key in same if not _is_informative(rows, key)]
    repeated = next((key for key in same if _last_name(key) not in SUBJECTS), "")
    if not main and repeated and _has_subject(rows, used, choices_key):
        main = repeated
    name = _last_name(main)
    after = AFTER.get(name, ())
    before = [other for other in (*CONTEXT, *BEFORE.get(name, ())) if other not in after]
    parts = list(_parts_named(rows, before, {*used, main}, notes))
    parts.insert(0 if name == "title" else len(parts), main)
    parts += _parts_named(rows, after, {*used, main}, notes)
    if name in SUBJECTS and repeated and repeated not in parts:
        at = len(parts) if _last_name(repeated) in ("question", "query", "questiontext") else 0
        parts.insert(at, repeated)
    for key in _keys_named(rows, KEYS["question"], used):
        if key not in parts and f"{key}?" not in parts and not _is_informative(rows, key):
            problem = "is empty in most rows" if _share(rows, key) <= MOSTLY else "is the same in all rows"
            notes.append(f"The key {key!r} is not used for the question: it {problem}.")
    return " + ".join(parts) if main else ""


def _has_subject(rows: Sequence[Row], used: set[str], choices_key: str) -> bool:
    """Whether there are choices or a text that differ from row to row, which one question may be about."""
    columns = [choices_key] if choices_key else list(_choice_columns(rows, used))
    return any(_differs(rows, key) for key in (*columns, *_parts_named(rows, CONTEXT, used, [])))


def _parts_named(rows: Sequence[Row], names: Sequence[str], used: set[str], notes: list[str]) -> Iterator[str]:
    """The columns of these names that have texts, with `?` after those that are empty in some rows."""
    for key in _keys_named(rows, names, used):
        values = [value for value in column(rows, key) if value is not None]
        is_context = any(_last_name(key) == _name(name) for name in CONTEXT)
        if is_context and any(isinstance(value, bool | int | float) for value in values):
            continue
        if any(
            isinstance(value, dict) or (isinstance(value, list) and not (is_context and _is_texts(value)))
            for value in values
        ):
            if is_context and not any(inner.startswith(f"{key}.") for inner in _all_keys(rows)):
                notes.append(f"The key {key!r} is not used for the question: it holds more than texts.")
            continue
        share = _share(rows, key)
        words = {fold(str(value)) for value in values}
        is_filler = len(rows) > 1 and len(words) == 1 and len(next(iter(words)).split()) <= 2
        if share > 0 and not is_filler:
            yield key if share == 1 else f"{key}?"


def _is_texts(value: Sequence[Any]) -> bool:
    return all(isinstance(inner, str) for inner in value)


def _list_of_choices(rows: Sequence[Row], answer_key: str, used: set[str]) -> str:
    """A column of lists whose elements the answers name by label or number; "" if there is none."""
    answers = [str(value) for value in column(rows, answer_key)]
    if not all(re.fullmatch(r"\s*\(?([A-Za-z]|\d{1,2}(\.0)?)\)?\s*", answer) for answer in answers):
        return ""
    for key in _keys_named(rows, CHOICE_LISTS, {*used, answer_key}):
        lists = column(rows, key)
        if not all(isinstance(value, list) and len(value) > 1 for value in lists):
            continue
        in_lists = sum(
            fold(answer) in {fold(str(inner)) for inner in value} for answer, value in zip(answers, lists, strict=True)
        )
        if in_lists <= len(rows) * MOSTLY and _name_choices(rows, answer_key, key):
            return key
    return ""


def _keys_named(rows: Sequence[Row], names: Sequence[str], used: set[str]) -> Iterator[str]:
    """The keys of the rows that have these names, in the names' order."""
    free = [key for key in _all_keys(rows) if key not in used and key.partition(".")[0] not in used]
    for name in map(_name, names):
        yield from (key for key in free if name == _name(key))
        yield from (key for key in free if name != _name(key) and name == _last_name(key))


def _likeliest_key(rows: Sequence[Row], name: str, used: set[str]) -> str:
    """The key that is most likely the column `name`, or "" if no column can be it."""
    for key in _keys_named(rows, KEYS[name], used):
        values = [value for value in column(rows, key) if value is not None]
        if not values:
            continue
        if name == "choices":
            if all(isinstance(value, list | dict | str) for value in values):
                return key
        elif not any(isinstance(value, list | dict) for value in values) and (
            name not in ("question", "answer")
            or (_is_informative(rows, key) if name == "question" else _share(rows, key) > MOSTLY)
        ):
            return key
    return ""


def _key_with_text(rows: Sequence[Row], name: str, used: set[str]) -> str:
    """The first key with the name of the column `name` that has a text in some row; "" if there is none."""
    named = _keys_named(rows, KEYS[name], used)
    return next((key for key in named if any(isinstance(value, str) and value for value in column(rows, key))), "")


def _choice_columns(rows: Sequence[Row], used: set[str]) -> tuple[str, ...]:
    """Columns such as A, B, C, D · option_a, option_b · opa, opb · choice1, choice2 · ending0, ending1 · sol1, sol2."""
    free = {_name(key): key for key in _all_keys(rows) if key not in used}
    best: tuple[str, ...] = ()
    for name in CHOICE_NAMES:
        for ends in ("abcdefghij", "123456789", "0123456789"):
            names = takewhile(free.__contains__, (name + end for end in ends))
            best = max(best, tuple(map(free.__getitem__, names)), key=len)
    return best if len(best) > 1 else ()


def _name_choices(rows: Sequence[Row], answer_key: str, choices_key: str) -> bool:
    """Whether the answers of most rows name a text of these columns; otherwise the columns are no choices."""
    try:
        return share_named(texts(rows, answer_key), choices_of(rows, choices_key)) > MOSTLY
    except ConfigError:
        return False


def _drop_unusable_keys(rows: Sequence[Row], keys: dict[str, str], given: Mapping[str, Any], notes: list[str]) -> None:
    """Set the id or the class to "", with a note, where its values cannot serve."""
    ids = [str(value) for value in column(rows, keys["id"]) if value is not None] if keys["id"] else []
    if keys["id"] and "id_key" not in given and (len(ids) < len(rows) or len(set(ids)) < len(ids)):
        notes.append(f"The key {keys['id']!r} is not used as the id, because it is not in every row or not unique.")
        keys["id"] = ""
    classes = {str(value) for value in column(rows, keys["class"]) if value is not None} if keys["class"] else set()
    if (
        keys["class"]
        and "class_key" not in given
        and not 2 <= len(classes) <= min(MOST_CLASSES, max(2, len(rows) // 2))
    ):
        values = f"{len(classes)} value{'s' * (len(classes) != 1)}"
        notes.append(f"The key {keys['class']!r} is not used as the class: {values} in {len(rows)} rows.")
        keys["class"] = ""


def _no_column_message(rows: Sequence[Row], name: str) -> str:
    """Why no column is the question or the answer, and what to do."""
    place, keys = rows[0].place, _all_keys(rows)
    for key in keys:
        value = next((value for value in column(rows, key) if value), None)
        turns = [turn for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []
        if turns and all({"role", "from", "speaker"} & turn.keys() for turn in turns):
            return (
                f"{place}: {key!r} is a chat, a list of turns; write each row as one question and its answer, such as "
                '{"question": …, "answer": …}'
            )
    for key in _keys_named(rows, (*KEYS[name], f"{name}s", "answers_spans"), set()):
        value = next((value for value in column(rows, key) if value is not None), None)
        inner = [part for part in keys if part.startswith(f"{key}.")]
        if isinstance(value, dict) and inner:
            return (
                f"{place}: {key!r} is an object; name the key in it that holds the {name} ({', '.join(inner[:6])}) "
                f"with --{name}-key"
            )
        if isinstance(value, list):
            return (
                f"{place}: {key!r} is a list, but a row has one {name}; write it as one text or number into a column "
                f"of its own, and give that with --{name}-key KEY if it is called otherwise than {name!r}"
            )
        if value is None or not _is_informative(rows, key):
            return (
                f"{place}: the column {key!r} is empty in most rows or the same in all of them, so it cannot be the "
                f"{name}; give another of {', '.join(map(repr, keys[:20]))} with --{name}-key KEY"
            )
    return (
        f"{place}: cannot tell which key holds the {name} among {', '.join(map(repr, keys[:20]))}; give it with "
        f"--{name}-key KEY"
    )


def _is_boxed(rows: Sequence[Row], key: str) -> bool:
    return bool(key) and all(last_box(str(value)) for value in column(rows, key))


def _is_informative(rows: Sequence[Row], key: str) -> bool:
    """Whether a column has a text in most rows, and not the same text in all of them."""
    return bool(_share(rows, key) > MOSTLY and (_differs(rows, key) or len(rows) == 1))


def _differs(rows: Sequence[Row], key: str) -> bool:
    values = column(rows, key.removesuffix("?"))
    return len({fold(str(value)) for value in values if value is not None}) > 1


def _share(rows: Sequence[Row], key: str) -> float:
    """Share of the rows that have a text under a key."""
    return sum(1 for value in column(rows, key) if value is not None and value != [] and str(value).strip()) / len(rows)


def _all_keys(rows: Sequence[Row]) -> list[str]:
    """The keys of all rows, because the first row may lack some."""
    return list(dict.fromkeys(key for row in rows for key in key_names(row.values)))


def _columns_in(rows: Sequence[Row], key: str) -> list[str]:
    if not key:
        return []
    if any(key in row.values for row in rows):
        return [key]
    return [part.strip().removesuffix("?") for part in key.split("+")]


def _last_name(key: str) -> str:
    return _name(key.rpartition(".")[2])


def _name(key: str) -> str:
    """A name without the differences in how people write it: capitals, blanks, `_` and `-`."""
    return re.sub(r"[\s_-]", "", key.casefold()) or key


def _unused(rows: Sequence[Row], used: set[str]) -> tuple[str, ...]:
    """Columns that no setting names, neither themselves nor a key inside them."""
    heads = {key.partition(".")[0] for key in used}
    return tuple(dict.fromkeys(key for row in rows for key in row.values if key not in used and key not in heads))

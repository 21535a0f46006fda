"""`selftaught init`: look at a data file, and write a config and a prompt file for it.

What is guessed stands in the config with the reason beside it, so that a wrong guess is seen and corrected there.
"""

import json
import os
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selftaught.amounts import read_quantity
from selftaught.commands import command
from selftaught.errors import ConfigError, StoreError
from selftaught.paths import link_to_nothing
from selftaught.problems import LABELS, Problem
from selftaught.settings import TaskConfig
from selftaught.tasks import own
from selftaught.tasks.columns import has_key, key_names, texts
from selftaught.tasks.rows import Row, read_rows

KEYS = {
    "question": ("question", "problem", "prompt", "input", "query", "instruction", "stem", "text"),
    "answer": ("answer", "answerkey", "answer_key", "final_answer", "correct_answer", "target", "label", "output"),
    "choices": ("choices", "options", "endings", "candidates"),
    "id": ("id", "_id", "qid", "uid", "question_id", "unique_id"),
    "class": ("class", "category", "subject", "topic", "level", "type"),
    "rationale": ("rationale", "solution", "explanation", "reasoning", "cot", "worked_solution"),
}
"""Names that data sets give to their columns, the likeliest first; also the last part of a dotted key."""

EXAMPLES = 4
"""Worked examples that the prompt file has room for."""
MOST_CLASSES = 50
NUMBER = re.compile(r"[-+−]?\s*[$€£]?\s*\d[\d,]*(\.\d+)?([eE][-+]?\d+)?\s*(/\s*\d+|%)?")
LATEX = re.compile(r"\\[a-zA-Z]+|\$[^$]+\$|\^\{|_\{")
LONG = 8
"""Words; the exact comparison of longer answers hardly ever succeeds."""


@dataclass(frozen=True, slots=True)
class _Guess:
    """Settings of [task], and why."""

    keys: dict[str, str]
    verifier: str
    verifier_reason: str
    marker: str = ""
    marker_reason: str = ""
    notes: list[str] = field(default_factory=list)


def write_starter(data: str, out_dir: Path, *, question_key: str = "", answer_key: str = "") -> str:
    """Write NAME.toml and NAME-prompt.toml for a file or hub id; returns what to do next.

    Raises ConfigError for data that cannot be read, columns that cannot be told, and files that exist already.
    """
    rows = read_rows(data)
    guess = _guess(rows, question_key, answer_key)
    settings = TaskConfig.model_validate(
        {"name": "own", "data": data, "answer_marker": guess.marker, **_key_settings(guess)}
    )
    task = own.load(settings)  # raises for what a run could not use either
    name = re.sub(r"[^\w.-]", "-", Path(data).stem) or "own"
    config_path, prompt_path = out_dir / f"{name}.toml", out_dir / f"{name}-prompt.toml"
    if there := [str(path) for path in (config_path, prompt_path) if os.path.lexists(path)]:
        link = f" ({found})" if (found := link_to_nothing(Path(there[0]))) else ""
        raise ConfigError(
            f"{' and '.join(there)}: there already{link}; move it away, or give another folder with --out DIR"
        )
    problems = _examples(task.train)
    sizes = (len(task.train), len(task.dev), len(task.test))
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        config_path.write_text(_config_text(data, str(prompt_path), guess, len(problems), sizes), encoding="utf-8")
        prompt_path.write_text(_prompt_text(problems), encoding="utf-8")
    except OSError as error:
        reason = link_to_nothing(out_dir) or error.strerror
        raise StoreError(f"cannot write to {out_dir}: {reason}; check the path and its permissions") from error
    filled = all(problem.rationale for problem in problems)
    step = "look over the worked solutions" if filled else "write the rationales of the worked examples"
    return "\n".join(
        [
            f"wrote {config_path} and {prompt_path}",
            f"{len(rows)} rows; verifier {guess.verifier}, because {guess.verifier_reason}",
            f"1. {step} in {prompt_path}",
            f"2. set model.path in {config_path} to your model",
            f"3. {command('tasks', 'check', config_path)}",
            f"4. {command('run', config_path)}",
        ]
    )


def _guess(rows: Sequence[Row], question_key: str, answer_key: str) -> _Guess:
    keys = {"question": question_key, "answer": answer_key}
    for name in KEYS:
        keys[name] = keys.get(name) or _key_named(rows, name, taken=set(keys.values()))
    for name in ("question", "answer"):
        if not keys[name]:
            raise ConfigError(
                f"{rows[0].place}: cannot tell which key holds the {name} among "
                f"{', '.join(map(repr, key_names(rows[0].values)))}; give it with --{name}-key KEY"
            )
    notes = []
    ids = [str(value) for value in _column(rows, keys["id"])]
    if keys["id"] and (len(ids) < len(rows) or len(set(ids)) < len(ids)):
        notes.append(f"The key {keys['id']!r} is not used as the id, because it is not in every row or not unique.")
        keys["id"] = ""
    classes = {str(value) for value in _column(rows, keys["class"])}
    if keys["class"] and not 2 <= len(classes) <= min(MOST_CLASSES, len(rows) // 2):
        notes.append(f"The key {keys['class']!r} is not used as the class: {len(classes)} values in {len(rows)} rows.")
        keys["class"] = ""
    answers = texts(rows, keys["answer"])
    marker, reason = "", ""
    if all("####" in answer for answer in answers):
        marker, reason = "####", "every answer is a worked solution that ends on #### and the final answer"
        answers = [answer.rpartition("####")[2] for answer in answers]
        keys["rationale"] = ""
    verifier, why = _verifier(rows, answers, has_choices=bool(keys["choices"]))
    for name in ("choices", "id", "class", "rationale"):
        usual = str(TaskConfig.model_fields[f"{name}_key"].default)
        keys[name] = keys[name] or ("" if has_key(rows, usual) else usual)
    return _Guess(keys, verifier, why, marker, reason, notes)


def _key_named(rows: Sequence[Row], name: str, *, taken: set[str]) -> str:
    """The key of the rows that is most likely called this, or "" if none is."""
    there = [key for key in key_names(rows[0].values) if key not in taken]
    for wanted in KEYS[name]:
        for key in there:
            last = key.rpartition(".")[2].casefold()
            value = next(iter(_column(rows[:1], key)), None)
            fits = isinstance(value, list | dict | str) if name == "choices" else not isinstance(value, list | dict)
            if wanted in (key.casefold(), last) and fits:
                return key
    return ""


def _column(rows: Sequence[Row], key: str) -> Iterator[object]:
    """The values that a column has; none for a key that no row has."""
    for row in rows:
        value: object = row.values
        for part in [key] if key in row.values else key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            yield value


def _verifier(rows: Sequence[Row], answers: Sequence[str], *, has_choices: bool) -> tuple[str, str]:
    if has_choices:
        return "choice", "the rows have choices"
    # As the verifier reads them, and nothing but a number: "3 apples" is no reason to compare numbers.
    numbers = [bool(NUMBER.fullmatch(answer.strip())) and read_quantity(answer) is not None for answer in answers]
    if all(numbers):
        return "numeric", f"all {len(rows)} answers are numbers"
    latex = sum(LATEX.search(answer) is not None for answer in answers)
    if latex:
        return "math", f"{latex} of {len(rows)} answers hold LaTeX"
    odd = numbers.index(False)
    counted = (
        f"{sum(numbers)} of {len(rows)} answers are numbers ({answers[odd].strip()[:40]!r} at {rows[odd].place} is not)"
    )
    words = statistics.median(len(answer.split()) for answer in answers)
    if words > LONG:
        return (
            "exact",
            f"{counted}; mind that answers have {words:g} words in the middle, and must be met word for word",
        )
    return "exact", f"{counted}; answers are short texts"


def _key_settings(guess: _Guess) -> dict[str, str]:
    """The keys that are not what the settings have by default."""
    found = {f"{name}_key": key for name, key in guess.keys.items()}
    return {name: key for name, key in found.items() if key != TaskConfig.model_fields[name].default}


def _examples(problems: Sequence[Problem]) -> list[Problem]:
    """A few short problems, the answers of choices taking turns, so that no label is favoured."""
    short = sorted(problems, key=lambda p: (len(p.question), p.id))
    typical = [*short[len(short) // 4 :], *short[: len(short) // 4]]
    most = min(EXAMPLES, max(1, len(problems) - 1))
    if not typical[0].choices:
        return typical[:most]
    labels = sorted({problem.answer for problem in typical})
    turns = [[p for p in typical if p.answer == label] for label in labels]
    return [group[i] for i in range(most) for group in turns if i < len(group)][:most]


def _config_text(data: str, prompt: str, guess: _Guess, shots: int, sizes: tuple[int, int, int]) -> str:
    keys = _key_settings(guess)
    lines = [
        f"# STaR on {data}, written by `selftaught init`. Every key is explained in docs/config.md.",
        'method = "star"',
        "seed = 0",
        "",
        "[model]",
        'path = "./model"  # your model: a folder in Hugging Face format, or a hub id',
        "",
        "[task]",
        'name = "own"',
        f"data = {_quoted(data)}  # {sum(sizes)} rows; paths are from the folder that you run in",
        f"prompt = {_quoted(prompt)}  # the worked examples: fill it in first",
        *(f"{name} = {_quoted(key)}{_why_key(name, key)}" for name, key in keys.items()),
        f"verifier = {_quoted(guess.verifier)}  # {guess.verifier_reason}",
    ]
    if guess.marker:
        lines.append(f"answer_marker = {_quoted(guess.marker)}  # {guess.marker_reason}")
    lines += [
        "# dev and test are cut from the rows by a hash of the question: "
        f"train {sizes[0] - shots}, dev {sizes[1]}, test {sizes[2]} rows, and {shots} as worked examples.",
        "# Set dev_rows and test_rows for other sizes, or dev_data and test_data if you have files for them.",
        *(f"# {note}" for note in guess.notes),
        "",
        "[sampling]",
        f"shots = {shots}  # as many as the prompt file holds",
        f"shots_after_first = {shots}",
        "max_new_tokens = 256  # a longer completion is cut and counts as truncated",
        "",
        "[training]",
        "learning_rate = 1e-5  # for a model below a billion parameters; the paper's 1e-6 is for six billion",
        "warmup_steps = 5",
        "",
        "[loop]",
        "max_iterations = 4",
        "",
    ]
    return "\n".join(lines)


def _why_key(name: str, key: str) -> str:
    return "  # by its name" if key else f"  # the column {name.removesuffix('_key')!r} is left out"


def _prompt_text(problems: Sequence[Problem]) -> str:
    lines = [
        "# Worked examples: the prompt that teaches the model to reason before it answers.",
        "# The questions are rows of your data, which then are in no split; change them as you like.",
        "# Write each rationale as you would have the model reason: a few plain sentences or steps, no blank line,",
        "# without the answer's own line, which is added.",
        "",
    ]
    for problem in problems:
        answer = problem.answer if not problem.choices else problem.choices[LABELS.index(problem.answer)]
        choices = [f"choices = {json.dumps(problem.choices, ensure_ascii=False)}"] if problem.choices else []
        if problem.choices and problem.choices.count(answer) > 1:
            answer = problem.answer
        todo = "  # the row's own solution; edit it as you like" if problem.rationale else "  # write it: why is it so?"
        lines += [
            "[[example]]",
            f"question = {_quoted(_without_blank_lines(problem.question))}",
            *choices,
            f"rationale = {_quoted(problem.rationale)}{todo}",
            f"answer = {_quoted(answer)}",
            "",
        ]
    return "\n".join(lines)


def _without_blank_lines(question: str) -> str:
    """A blank line is where a completion ends. Problems are told apart by their words, so this is the same one."""
    return re.sub(r"\s*\n\s*\n\s*", "\n", question)


def _quoted(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but for the control character DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

"""`selftaught init`: look at a data file, and write a config and a prompt file for it.

What is guessed stands in the config with the reason beside it, so that a wrong guess is seen and corrected there.
"""

import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selftaught.amounts import read_quantity
from selftaught.commands import command
from selftaught.config import config_without_training
from selftaught.errors import ConfigError, RefusedError, StoreError
from selftaught.paths import link_to_nothing
from selftaught.problems import LABELS, Problem, Task
from selftaught.settings import TaskConfig
from selftaught.statements import last_box
from selftaught.tasks import own
from selftaught.tasks.choice_answers import named_by
from selftaught.tasks.columns import Choices, has_key, texts
from selftaught.tasks.layouts import KEYS, layout_of
from selftaught.tasks.rows import Row, read_rows

DECIDED = frozenset({*(f"{name}_key" for name in KEYS), "answer_is", "answer_marker", "verifier"})
"""Settings that have their own place in the config."""
ANSWER_IS = {
    "label": "every row can be read so: a choice's label",
    "text": "every row can be read so: a choice's text",
    "index0": "every row can be read so: a choice's number, counted from 0",
    "index1": "every row can be read so: a choice's number, counted from 1",
    "boxed": "the column holds whole solutions, with the answer in the last box",
}
EXAMPLES = 4
"""Worked examples that the prompt file has room for."""
IN_BRACKETS = re.compile(r"\s*\([^()\d]+\)\s*\Z")
"""A unit behind a number, as in "5 (plums)"."""
GAPS = frozenset({"na", "n/a", "n.a.", "#n/a", "nan", "null", "none", "nil", "missing", "unknown", "-", "–", "—", "?"})
"""What stands for no value in a column of numbers."""
MOSTLY = 0.5
COMMAND = re.compile(
    r"\\(?:[dt]?frac|sqrt|boxed|text|mathrm|mathbf|mathbb|mathcal|left|right|cdots?|times|div|pm|mp|leq?|geq?|neq?|infty|"
    r"in|cup|cap|emptyset|pi|alpha|beta|gamma|delta|theta|lambda|mu|sigma|omega|phi|rho|sin|cos|tan|sec|csc|cot|log|ln|exp|"
    r"circ|angle|overline|vec|hat|bar|binom|begin|sum|prod|int|lim|to|mod|pmod|equiv|approx|sim|ldots|dots|%|\$)"
    r"(?![a-zA-Z])"
)
"""Of LaTeX, by name: a backslash also stands in paths."""
FORMULA = re.compile(r"\$(?!\s)([^$]+)(?<!\s)\$(?!\d)")
"""As Markdown has it: "from $3 to $5" is none. What stands in it is no prose either."""
SCRIPT = re.compile(r"[\w)\]}][\^_]\{")
PROSE = re.compile(r"[^\W\d_]{2,}")
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
    answer_is: str = "auto"
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    others: Mapping[str, Any] = field(default_factory=dict)
    """Settings of [task] that the user gave and that nothing is guessed about."""


def write_starter(
    data: str,
    out_dir: Path,
    *,
    question_key: str = "",
    answer_key: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """Write NAME.toml and NAME-prompt.toml for a file or hub id; returns what to do next.

    `overrides` are settings by `task.key` that are not to be guessed. Raises ConfigError for data that cannot be read,
    columns that cannot be told, and files that exist already.
    """
    rows = read_rows(data)
    guess = _guess(rows, _given(question_key, answer_key, overrides or {}))
    values = {"data": data, "answer_marker": guess.marker, **_key_settings(guess), **guess.others}
    config = config_without_training({f"task.{key}": value for key, value in {"name": "own", **values}.items()})
    try:
        task = own.load(config.task)  # raises for what a run could not use either
    except RefusedError as error:
        if not guess.unused:
            raise
        raise RefusedError(
            f"{error} (columns not used: {', '.join(guess.unused)}; give one that belongs to the question with "
            "--question-key 'COLUMN + …')"
        ) from error
    name = re.sub(r"[^\w.-]", "-", Path(data).stem) or "own"
    config_path, prompt_path = out_dir / f"{name}.toml", out_dir / f"{name}-prompt.toml"
    if there := [_what_is_there(path) for path in (config_path, prompt_path) if os.path.lexists(path)]:
        raise ConfigError(f"{' and '.join(there)}; move it away, or give another folder with --out DIR")
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
            *_read_as(guess, task),
            f"1. {step} in {prompt_path}",
            f"2. set model.path in {config_path} to your model",
            f"3. {command('tasks', 'check', config_path)}",
            f"4. {command('run', config_path)}",
        ]
    )


def _given(question_key: str, answer_key: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What the user has decided, by the names of the settings of [task]."""
    given = {}
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        if section != "task" or name in ("name", "data", "prompt_file"):
            raise ConfigError(
                f"--set {key}: `init` takes settings of [task] that say how rows are read, such as task.answer_is; "
                "write others into the config afterwards"
            )
        given[name] = value
    if question_key:
        given["question_key"] = question_key
    if answer_key:
        given["answer_key"] = answer_key
    return given


def _what_is_there(path: Path) -> str:
    return link_to_nothing(path) or f"{path}: there already"


def _read_as(guess: _Guess, task: Task) -> list[str]:
    """What was understood of the columns, wherever that is more than a name, and what is not used."""
    said = [f"question: {guess.keys['question']}; answer: {guess.keys['answer']}"]
    if task.train[0].choices:
        said[0] += f"; choices: {guess.keys['choices']}"
    said += task.reading
    said += [note[0].lower() + note[1:].removesuffix(".") for note in guess.notes]
    if guess.unused:
        said.append(f"columns not used: {', '.join(guess.unused)}")
    return said


def _guess(rows: Sequence[Row], given: Mapping[str, Any]) -> _Guess:
    layout = layout_of(rows, given)
    keys = dict(layout.keys)
    answers = texts(rows, keys["answer"])
    marker, reason = str(given.get("answer_marker", "")), "as given"
    if not marker and layout.answer_is != "boxed" and all("####" in answer for answer in answers):
        marker, reason = "####", "every answer is a worked solution that ends on #### and the final answer"
        keys["rationale"] = "" if has_key(rows, keys["rationale"]) else keys["rationale"]
    if marker:
        answers = [answer.rpartition(marker)[2] for answer in answers]
    if layout.answer_is == "boxed":
        answers = [last_box(answer) for answer in answers]
    if given.get("verifier"):
        verifier, why = str(given["verifier"]), "as given"
    else:
        verifier, why = _verifier(rows, answers, has_choices=has_key(rows, keys["choices"]))
    others = {key: value for key, value in given.items() if key not in DECIDED}
    return _Guess(
        keys, verifier, why, marker, reason, layout.answer_is, list(layout.notes), list(layout.unused), others
    )


def _verifier(rows: Sequence[Row], answers: Sequence[str], *, has_choices: bool) -> tuple[str, str]:
    if has_choices:
        return "choice", "the rows have choices"
    # As the verifier reads them, and nothing but a number: "3 apples" is no reason to compare numbers.
    bare = [IN_BRACKETS.sub("", answer) for answer in answers]
    numbers = list(map(_is_number, bare))
    if all(numbers):
        units = "" if bare == list(answers) else ", with units in brackets"
        return "numeric", f"all {len(rows)} answers are numbers{units}"
    gaps = [i for i, answer in enumerate(bare) if answer.strip().casefold() in GAPS]
    if gaps and sum(numbers) > len(numbers) * MOSTLY and sum(numbers) + len(gaps) == len(numbers):
        raise ConfigError(
            f"{rows[gaps[0]].place}: the answer {answers[gaps[0]].strip()!r} stands for no value, and all others are "
            f"numbers{f' ({len(gaps)} rows are like it)' if len(gaps) > 1 else ''}; remove the row, or say with --set "
            "task.verifier=exact that it is an answer"
        )
    latex = sum(map(_has_latex, answers))
    words = sum(not _has_latex(answer) and PROSE.search(answer) is not None for answer in answers)
    if latex > words:
        return "math", f"{latex} of {len(rows)} answers hold LaTeX"
    odd = numbers.index(False)
    counted = (
        f"{sum(numbers)} of {len(rows)} answers are numbers ({answers[odd].strip()[:40]!r} at {rows[odd].place} is not)"
    )
    if latex:
        counted += f", {latex} hold LaTeX"
    length = statistics.median(len(answer.split()) for answer in answers)
    if length > LONG:
        return (
            "exact",
            f"{counted}; mind that answers have {length:g} words in the middle, and must be met word for word",
        )
    return "exact", f"{counted}; answers are short texts"


def _is_number(answer: str) -> bool:
    """Whether an answer is a number, as the verifier reads it, and nothing else but signs such as € and %."""
    quantity = None if re.search(r"[\\{}*^]|\$.*\$", answer) else read_quantity(answer)
    return quantity is not None and not any(map(str.isalnum, answer[: quantity.start] + answer[quantity.end :]))


def _has_latex(answer: str) -> bool:
    if COMMAND.search(answer) or SCRIPT.search(answer):
        return True
    inside = [found[1] for found in FORMULA.finditer(answer)]
    return any(text.isupper() or not PROSE.search(text) for text in inside)


def _key_settings(guess: _Guess) -> dict[str, str]:
    """The keys that are not what the settings have by default."""
    found = {f"{name}_key": key for name, key in guess.keys.items()}
    if guess.answer_is != "auto":
        found["answer_is"] = guess.answer_is
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


def _config_text(data: str, prompt: str, guess: _Guess, num_shots: int, sizes: tuple[int, int, int]) -> str:
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
        f"prompt_file = {_quoted(prompt)}  # the few-shot examples: fill it in first",
        *(f"{name} = {_quoted(key)}{_why_key(name, key)}" for name, key in keys.items()),
        f"verifier = {_quoted(guess.verifier)}  # {guess.verifier_reason}",
    ]
    lines += [f"{key} = {_toml(value)}  # as given" for key, value in guess.others.items()]
    if guess.marker:
        lines.append(f"answer_marker = {_quoted(guess.marker)}  # {guess.marker_reason}")
    lines += [
        "# dev and test are cut from the rows by a hash of the question: "
        f"train {sizes[0] - num_shots}, dev {sizes[1]}, test {sizes[2]} rows, and {num_shots} as few-shot examples.",
        "# Set dev_rows and test_rows for other sizes, or dev_data and test_data if you have files for them.",
        *(f"# {note}" for note in guess.notes),
        *([f"# Columns that are not used: {', '.join(map(_in_comment, guess.unused))}."] if guess.unused else []),
        "",
        "[sampling]",
        f"num_shots = {num_shots}  # as many as the prompt file holds",
        "",
        "[training]",
        "learning_rate = 1e-5  # for a model below a billion parameters; the paper's 1e-6 is for six billion",
        "",
    ]
    return "\n".join(lines)


def _why_key(name: str, key: str) -> str:
    if name == "answer_is":
        return f"  # {ANSWER_IS[key]}"
    if name == "question_key" and " + " in key:
        return "  # columns that are read one after the other, by their names; `?` may be empty"
    if name == "choices_key" and " + " in key:
        return "  # a column for each choice, by their names"
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
        answer = _answer_that_reads(problem)
        choices = [f"choices = {json.dumps(problem.choices, ensure_ascii=False)}"] if problem.choices else []
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


def _answer_that_reads(problem: Problem) -> str:
    """The answer of a worked example as a person would write it: the right choice's text, unless that is another's
    text or label too."""
    if not problem.choices:
        return problem.answer
    text = problem.choices[LABELS.index(problem.answer)]
    given = Choices(texts=problem.choices, labels=tuple(LABELS[: len(problem.choices)]))
    for answer in (text, problem.answer):
        if named_by(answer, given) == {LABELS.index(problem.answer)}:
            return answer
    return f"({problem.answer}) {text}"


def _in_comment(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)[1:-1]


def _toml(value: object) -> str:
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _without_blank_lines(question: str) -> str:
    """A blank line is where a completion ends. Problems are told apart by their words, so this is the same one."""
    return re.sub(r"\s*\n\s*\n\s*", "\n", question)


def _quoted(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but for the control character DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

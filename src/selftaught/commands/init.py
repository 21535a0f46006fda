"""`selftaught init`: look at a data file, and write a config and a prompt file for it.

Every guess stands in the config with its reason beside it, so that a person sees a wrong one and corrects it there.
"""

import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from selftaught.config.loading import config_without_training
from selftaught.grading.amounts import read_quantity
from selftaught.grading.statements import last_box
from selftaught.machine.command_lines import command
from selftaught.machine.paths import link_to_nothing
from selftaught.models.adapters import tokenizer_folder
from selftaught.models.folder import has_chat_template, has_thinking_switch
from selftaught.models.weights import check_model_path
from selftaught.prompts.chat import chat_format_of
from selftaught.records.errors import ConfigError, RefusedError, StoreError
from selftaught.records.problems import LABELS, Problem, Task
from selftaught.tasks.own import task as own
from selftaught.tasks.own.layouts import KEYS, layout_of
from selftaught.tasks.own.settings import OwnConfig
from selftaught.tasks.rows.choice_answers import named_by
from selftaught.tasks.rows.columns import Choices, has_key, texts
from selftaught.tasks.rows.files import Row, read_rows

DECIDED = frozenset({*(f"{name}_key" for name in KEYS), "answer_is", "answer_marker", "verifier"})
"""Settings of [task] that have their own place in the config."""
ANSWER_IS = {
    "label": "every row can be read so: a choice's label",
    "text": "every row can be read so: a choice's text",
    "index0": "every row can be read so: a choice's number, counted from 0",
    "index1": "every row can be read so: a choice's number, counted from 1",
    "boxed": "the column holds complete solutions, with the answer in the last box",
}
EXAMPLES = 4
"""Few-shot examples in a prompt file."""
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
    """question, answer, choices, id, class, rationale -> key, "" for a column that is not to be used."""
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
    question_key: str | None = None,
    answer_key: str | None = None,
    model: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """Write NAME.toml for a file or hub id, and NAME-prompt.toml unless `model` has a chat template; returns what to do
    next.

    `overrides` are settings by `task.key` that are not to be guessed. Raises ConfigError for data that cannot be read,
    for columns that cannot be guessed, and for files that exist already.
    """
    rows = read_rows(data)
    given = _given(question_key, answer_key, overrides or {})
    guess = _guess(rows, given)
    values = {"data": data, "answer_marker": guess.marker or None, **_key_settings(guess), **guess.others}
    values["verifier"] = given.get("verifier")
    config = config_without_training({f"task.{key}": value for key, value in {"name": "own", **values}.items()})
    try:
        task = own.load(cast(OwnConfig, config.task))  # raises what a run would raise
    except RefusedError as error:
        if not guess.unused:
            raise
        raise RefusedError(
            f"{error} (columns not used: {', '.join(guess.unused)}; give one that belongs to the question with "
            "--question-key 'COLUMN + …')"
        ) from error
    name = re.sub(r"[^\w.-]", "-", Path(data).stem) or "own"
    config_path, prompt_path = out_dir / f"{name}.toml", out_dir / f"{name}-prompt.toml"
    is_chat = model is not None and has_chat_template(tokenizer_folder(check_model_path(model)))
    written = [config_path] if is_chat else [config_path, prompt_path]
    if existing := [_what_exists(path) for path in written if os.path.lexists(path)]:
        raise ConfigError(f"{' and '.join(existing)}; move it away, or give another folder with --out DIR")
    problems = [] if is_chat else _examples(task.train)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        prompt = None if is_chat else _Prompt(str(prompt_path), len(problems))
        config_path.write_text(_config_text(data, model, prompt, guess, task), encoding="utf-8")
        if not is_chat:
            prompt_path.write_text(_prompt_text(problems), encoding="utf-8")
    except OSError as error:
        reason = link_to_nothing(out_dir) or error.strerror
        raise StoreError(f"cannot write to {out_dir}: {reason}; check the path and its permissions") from error
    is_filled_in = all(problem.rationale for problem in problems)
    step = "look over the human solutions" if is_filled_in else "write the rationales of the few-shot examples"
    steps = [
        f"look over task.instruction in {config_path}" if is_chat else f"{step} in {prompt_path}",
        *([] if model else [f"set model.path in {config_path} to your model"]),
        command("tasks", "check", config_path),
        command("run", config_path),
    ]
    return "\n".join(
        [
            f"wrote {' and '.join(map(str, written))}",
            f"{len(rows)} rows; verifier {guess.verifier}, because {guess.verifier_reason}",
            *_read_as(guess, task),
            *(f"{number}. {text}" for number, text in enumerate(steps, start=1)),
        ]
    )


def _given(question_key: str | None, answer_key: str | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What the user has decided, by the names of the settings of [task]."""
    given: dict[str, Any] = {}
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


def _what_exists(path: Path) -> str:
    return link_to_nothing(path) or f"{path}: there already"


def _read_as(guess: _Guess, task: Task) -> list[str]:
    """How the columns are read, and which are not used."""
    lines = [f"question: {guess.keys['question']}; answer: {guess.keys['answer']}"]
    if task.train[0].choices:
        lines[0] += f"; choices: {guess.keys['choices']}"
    lines += task.reading
    lines += [note[0].lower() + note[1:].removesuffix(".") for note in guess.notes]
    if guess.unused:
        lines.append(f"columns not used: {', '.join(guess.unused)}")
    return lines


def _guess(rows: Sequence[Row], given: Mapping[str, Any]) -> _Guess:
    layout = layout_of(rows, given)
    keys = dict(layout.keys)
    answers = texts(rows, keys["answer"])
    marker, reason = str(given.get("answer_marker") or ""), "as given"
    if not marker and layout.answer_is != "boxed" and all("####" in answer for answer in answers):
        marker, reason = "####", "every answer is a solution that ends on #### and the final answer"
        if keys["rationale"] and has_key(rows, keys["rationale"]):
            keys["rationale"] = ""
    if marker:
        answers = [answer.rpartition(marker)[2] for answer in answers]
    if layout.answer_is == "boxed":
        answers = [last_box(answer) for answer in answers]
    if given.get("verifier"):
        verifier, why = str(given["verifier"]), "as given"
    else:
        verifier, why = _verifier(rows, answers, has_choices=bool(keys["choices"]) and has_key(rows, keys["choices"]))
    defaults = {key: setting.default for key, setting in OwnConfig.model_fields.items()}
    others = {key: value for key, value in given.items() if key not in DECIDED and value != defaults.get(key)}
    return _Guess(
        keys, verifier, why, marker, reason, layout.answer_is, list(layout.notes), list(layout.unused), others
    )


def _verifier(rows: Sequence[Row], answers: Sequence[str], *, has_choices: bool) -> tuple[str, str]:
    if has_choices:
        return "choice", "the rows have choices"
    # Answers with words, such as "3 apples", are no reason to compare numbers; a unit in brackets is left aside.
    without_units = [IN_BRACKETS.sub("", answer) for answer in answers]
    numbers = list(map(_is_number, without_units))
    if all(numbers):
        units = "" if without_units == list(answers) else ", with units in brackets"
        return "numeric", f"all {len(rows)} answers are numbers{units}"
    gaps = [i for i, answer in enumerate(without_units) if answer.strip().casefold() in GAPS]
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
    other = numbers.index(False)
    counts = f"{sum(numbers)} of {len(rows)} answers are numbers "
    counts += f"({answers[other].strip()[:40]!r} at {rows[other].place} is not)"
    if latex:
        counts += f", {latex} hold LaTeX"
    length = statistics.median(len(answer.split()) for answer in answers)
    if length > LONG:
        return (
            "exact",
            f"{counts}; mind that the median answer has {length:g} words, all of which a completion must repeat",
        )
    return "exact", f"{counts}; answers are short texts"


def _is_number(answer: str) -> bool:
    """Whether an answer is a number, as the verifier reads it, with nothing beside it but signs such as € and %."""
    quantity = None if re.search(r"[\\{}*^]|\$.*\$", answer) else read_quantity(answer)
    return quantity is not None and not any(map(str.isalnum, answer[: quantity.start] + answer[quantity.end :]))


def _has_latex(answer: str) -> bool:
    if COMMAND.search(answer) or SCRIPT.search(answer):
        return True
    formulas = [match[1] for match in FORMULA.finditer(answer)]
    return any(formula.isupper() or not PROSE.search(formula) for formula in formulas)


def _key_settings(guess: _Guess) -> dict[str, str | Literal[False]]:
    """The keys that differ from the settings' defaults; False for a column that is not to be used."""
    settings: dict[str, str | Literal[False]] = {f"{name}_key": key or False for name, key in guess.keys.items()}
    settings["answer_is"] = guess.answer_is
    return {name: value for name, value in settings.items() if value != OwnConfig.model_fields[name].default}


def _examples(problems: Sequence[Problem]) -> list[Problem]:
    """A few short problems; those with choices have each label as their answer about equally often."""
    short = sorted(problems, key=lambda p: (len(p.question), p.id))
    typical = [*short[len(short) // 4 :], *short[: len(short) // 4]]
    most = min(EXAMPLES, max(1, len(problems) - 1))
    if not typical[0].choices:
        return typical[:most]
    labels = sorted({problem.answer for problem in typical})
    by_label = [[p for p in typical if p.answer == label] for label in labels]
    return [group[i] for i in range(most) for group in by_label if i < len(group)][:most]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A file of few-shot examples."""

    path: str
    num_shots: int


def _config_text(data: str, model: str | None, prompt: _Prompt | None, guess: _Guess, task: Task) -> str:
    """The config; without a prompt file the model is told how to answer instead."""
    has_switch = model is not None and prompt is None and has_thinking_switch(tokenizer_folder(check_model_path(model)))
    sizes = (len(task.train), len(task.dev), len(task.test))
    num_shots = prompt.num_shots if prompt else 0
    fmt = task.prompt_format
    lines = [
        f"# STaR on {data}, written by `selftaught init`. docs/config.md explains every key; a key that is left out",
        "# keeps its default.",
        "",
        "[model]",
        f"path = {_quoted(model or './model')}"
        + (
            "  # your model: a folder in Hugging Face format, or a hub id"
            if prompt
            else "  # it has a chat template, so it is asked in turns (prompt_format)"
        ),
        *(["thinking = false  # true lets it think first, which takes a larger sampling.max_new_tokens"] * has_switch),
        "",
        "[task]",
        'name = "own"',
        f"data = {_quoted(data)}  # {sum(sizes)} rows; paths are from the folder that you run in",
        f"prompt_file = {_quoted(prompt.path)}  # the few-shot examples: fill it in first"
        if prompt
        else f"instruction = {_quoted(chat_format_of(fmt).instruction)}  # what the model is told below every question",
        *(f"{name} = {_toml(value)}{_why_key(name, value)}" for name, value in _key_settings(guess).items()),
        f"verifier = {_quoted(guess.verifier)}  # {guess.verifier_reason}",
    ]
    lines += [f"{key} = {_toml(value)}  # as given" for key, value in guess.others.items()]
    if guess.marker:
        lines.append(f"answer_marker = {_quoted(guess.marker)}  # {guess.marker_reason}")
    lines += [
        "# A hash of the question divides the rows: "
        f"train {sizes[0] - num_shots}, dev {sizes[1]}, test {sizes[2]}"
        + (f", and {num_shots} as few-shot examples." if prompt else "."),
        "# Set dev_rows and test_rows for other sizes, or dev_data and test_data if you have files for them.",
        *(f"# {note}" for note in guess.notes),
        *([f"# Columns that are not used: {', '.join(map(_without_control, guess.unused))}."] if guess.unused else []),
        "",
        "[sampling]",
        f"num_shots = {num_shots}  # "
        + ("as many as the prompt file holds" if prompt else "the instruction says how to answer"),
        "",
        "[training]",
        "learning_rate = 1e-5  # for a model of 0.1 to 1 billion parameters; the paper's 1e-6 is for six billion",
        "",
    ]
    return "\n".join(lines)


def _why_key(name: str, value: str | Literal[False]) -> str:
    if value is False:
        return f"  # the column {name.removesuffix('_key')!r} is not used"
    if name == "answer_is":
        return f"  # {ANSWER_IS[value]}"
    if name == "question_key" and " + " in value:
        return "  # columns that are read one after the other, by their names; `?` may be empty"
    if name == "choices_key" and " + " in value:
        return "  # a column for each choice, by their names"
    return "  # by its name"


def _prompt_text(problems: Sequence[Problem]) -> str:
    lines = [
        "# The few-shot examples: the prompt that teaches the model to reason before it answers.",
        "# The questions are rows of your data, and these rows are in no split; change them as you like.",
        "# Write each rationale as you would have the model reason: a few plain sentences or steps, no blank line.",
        "# The line with the answer is added to it.",
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
    """The answer of a few-shot example as a person would write it: the correct choice's text, unless another choice has
    that as its text or label, too."""
    if not problem.choices:
        return problem.answer
    text = problem.choices[LABELS.index(problem.answer)]
    choices = Choices(texts=problem.choices, labels=tuple(LABELS[: len(problem.choices)]))
    for answer in (text, problem.answer):
        if named_by(answer, choices) == {LABELS.index(problem.answer)}:
            return answer
    return f"({problem.answer}) {text}"


def _without_control(name: str) -> str:
    """A name with its control characters and line ends escaped, for a comment."""
    return json.dumps(name, ensure_ascii=False)[1:-1]


def _toml(value: object) -> str:
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _without_blank_lines(question: str) -> str:
    """The question as it may stand in a prompt, where a blank line ends a completion. Only words make two problems
    different, so this is the same problem."""
    return re.sub(r"\s*\n\s*\n\s*", "\n", question)


def _quoted(text: str) -> str:
    """A TOML string: the escapes of JSON are those of TOML, except that JSON does not escape DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

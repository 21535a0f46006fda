"""Read a prompt file: few-shot examples that a person writes, in TOML or as plain text.

TOML, for every example:

    [[example]]
    question = "Tom has 3 pens and buys 4 more. How many has he now?"
    rationale = "He had 3. 3 + 4 = 7."
    answer = "7"
    choices = ["6", "7"]       # only where the problems have choices; the answer is then one of them, or its label

Plain text, with a blank line between two examples:

    Q: Tom has 3 pens and buys 4 more. How many has he now?
    A: He had 3. 3 + 4 = 7. The answer is 7.

`Question:` and `Answer:` work as well, and both parts may have several lines. Choices are written as `(A) …`, `A) …` or
`A. …` before the `A:`, one a line or all in one line, with or without `Answer Choices:` before them. The answer is what
follows the marker (`the answer is`, `####`, or the task's own): a label, a text, or both.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from selftaught.machine.paths import LFS_POINTER
from selftaught.records.errors import ConfigError
from selftaught.records.problems import LABELS, Problem
from selftaught.tasks.rows.choice_answers import label_of
from selftaught.tasks.rows.columns import as_text, choices_of
from selftaught.tasks.rows.files import Row
from selftaught.tasks.rows.labels import labelled_list

MARKERS = ("####", "the answer is")

_KEYS = ("question", "rationale", "answer", "choices")
_TABLE = re.compile(r"\s*\[\[\s*example\s*\]\]")
_QUESTION = re.compile(r"\s*(q|question)\s*:", re.IGNORECASE)
_ANSWER = re.compile(r"\s*(a|answer)\s*:", re.IGNORECASE)
_CHOICE = re.compile(r"\s*\(([A-Za-z])\)\s*(.*)")
_COLON_CHOICE = re.compile(r"\s*([A-Za-z]):\s+(.*)")
_ONE_CHOICE = (
    *(_CHOICE, re.compile(r"\s*([A-Za-z])\s?\)\s*(.*)"), re.compile(r"\s*([A-Za-z])\.\s+(.*)"), _COLON_CHOICE),
)
_CHOICES_INLINE = re.compile(r"\s+(?:(?:answer\s+)?(?:choices|options)\s*:\s*|(?=\(A\)\s))", re.IGNORECASE)
_CHOICES = re.compile(r"\s*(?:answer\s+)?(?:choices|options)\s*:\s*", re.IGNORECASE)
_LEAD_IN = re.compile(r"(?:^|(?<=[\s.!?;,:]))(so|thus|hence|therefore|then)\s*,?\s*$", re.IGNORECASE)


def read_prompt_file(text: str, where: str, *, markers: Sequence[str] = ()) -> tuple[Problem, ...]:
    """The few-shot examples in their order, with ids `example-1`, `example-2`, …

    `where` is the file's name for messages; `markers` are texts right before the answer that the plain-text form
    accepts besides MARKERS. The answer of an example with choices becomes its label. Raises ConfigError with file and
    line: no example, a question, rationale or answer that is missing or empty, an answer that is none of the choices,
    a blank line inside a part (a completion ends there), an unknown key.
    """
    # Where files were concatenated, a byte order mark is also in the middle.
    text = re.sub(r"^\ufeff", "", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    is_toml = where.lower().endswith(".toml") or any(_TABLE.match(line) for line in text.splitlines())
    examples = list(_from_toml(text, where) if is_toml else _from_text(text, where, (*markers, *MARKERS)))
    problems = tuple(_with_choices(examples))
    if not problems:
        form = "[[example]] tables" if is_toml else "paragraphs of `Q: …` and `A: …` lines"
        raise ConfigError(f"{where}: no few-shot examples; expected {form}")
    return problems


def few_shot_examples_in(path: str, *, marker: str = "") -> tuple[Problem, ...]:
    """The examples in a user's prompt file; `marker` is the task's own. Raises ConfigError like `read_prompt_file`."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: the prompt file cannot be read ({error.strerror}); `selftaught init` writes one to fill in"
        ) from error
    if text.encode().startswith(LFS_POINTER):
        raise ConfigError(
            f"{path} is a Git LFS pointer, not the file that it refers to; fetch that with `git lfs pull`"
        )
    return read_prompt_file(text, path, markers=(marker,) if marker else ())


def few_shot_examples_of(rows: Sequence[Row]) -> tuple[Problem, ...]:
    """The examples in rows with the keys question, rationale, answer and perhaps choices, as `read_prompt_file` reads
    those of a file. Raises ConfigError with the row's place."""
    return tuple(_with_choices([_example_of_row(number, row) for number, row in enumerate(rows, start=1)]))


def note_of_few_shot(places: Sequence[str]) -> tuple[str, ...]:
    """A task's note about rows that are few-shot examples: in a split, their prompts would hold their own answers."""
    if not places:
        return ()
    where = ", ".join(places[:3]) + (", …" if len(places) > 3 else "")
    return (f"rows in no split, because they are few-shot examples in the prompt: {len(places)} ({where})",)


def _from_toml(text: str, where: str) -> Iterator[tuple[Problem, Row | None]]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+)", str(error))
        raise ConfigError(f"{where}:{at[1] if at else len(text.splitlines())}: not TOML: {error}") from error
    examples = table.pop("example", [])
    if table or not isinstance(examples, list) or not all(isinstance(example, dict) for example in examples):
        raise ConfigError(f"{where}: expected nothing but [[example]] tables, got {', '.join(table) or 'example'!r}")
    lines = [number for number, line in enumerate(text.splitlines(), start=1) if _TABLE.match(line)]
    for number, example in enumerate(examples, start=1):
        place = f"{where}:{lines[number - 1]}" if number <= len(lines) else where
        yield _example_of_row(number, Row(place=place, values=example))


def _from_text(text: str, where: str, markers: Sequence[str]) -> Iterator[tuple[Problem, Row | None]]:
    lines = text.split("\n")
    blocks: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if number == 1 or not lines[number - 2].strip():
            blocks.append((number, []))
        blocks[-1][1].append(line)
    for number, (first, block) in enumerate(blocks, start=1):
        yield _example(number, _parts(block, f"{where}:{first}", markers), f"{where}:{first}")


def _parts(block: Sequence[str], place: str, markers: Sequence[str]) -> dict[str, Any]:
    """The question, choices, rationale and answer of a paragraph."""
    if not _QUESTION.match(block[0]):
        raise ConfigError(f"{place}: an example begins with `Q:`, got {block[0].strip()[:40]!r}; see docs/own-data.md")
    starts = [i for i, line in enumerate(block) if _ANSWER.match(line)]
    if len(starts) > 1 and _lists_choices(block[starts[0] : starts[-1]]):
        starts = starts[-1:]  # the first `A:` is a choice's label
    if len(starts) != 1 or sum(bool(_QUESTION.match(line)) for line in block) > 1:
        raise ConfigError(
            f"{place}: an example has one `Q:` and one `A:`, got {len(starts)} `A:`; put a blank line between examples"
        )
    above, below = block[: starts[0]], block[starts[0] :]
    question, options = _question_and_choices(above, place)
    parts: dict[str, Any] = {"question": _QUESTION.sub("", "\n".join(question), count=1).strip()}
    if options:
        parts["choices"] = options
    solution = _ANSWER.sub("", "\n".join(below), count=1).strip()
    matches = [match for marker in markers for match in re.finditer(re.escape(marker), solution, re.IGNORECASE)]
    if not matches:
        known = " or ".join(f"`{marker}`" for marker in dict.fromkeys(markers))
        raise ConfigError(f"{place}: the example states no answer; end its `A:` part with {known} and the answer")
    last = max(matches, key=lambda match: (match.start(), match.end()))
    parts["rationale"] = _LEAD_IN.sub("", solution[: last.start()].rstrip()).rstrip()
    parts["answer"] = solution[last.end() :].strip().removeprefix(":").strip().removesuffix(".")
    return parts


def _lists_choices(lines: Sequence[str]) -> bool:
    """Whether lines are `A: …`, `B: …`, and so on."""
    matches = [_COLON_CHOICE.match(line) for line in lines]
    labels = [match[1].upper() for match in matches if match]
    return len(labels) == len(lines) > 1 and labels == list(LABELS[: len(labels)])


def _question_and_choices(block: Sequence[str], place: str) -> tuple[list[str], list[str]]:
    """The lines of the question, and the choices: one or several in a line, with or without `Answer Choices:`."""
    inline = _CHOICES_INLINE.search(block[0])
    if inline is not None and labelled_list(block[0][inline.end() :]):
        block = [block[0][: inline.start()], block[0][inline.end() :], *block[1:]]
    headers = [_CHOICES.match(line) for line in block[1:]]
    lines = [line[header.end() :] if header else line for line, header in zip(block[1:], headers, strict=True)]
    for i, line in enumerate(lines):
        if labelled_list(line):
            labelled = list(takewhile(lambda other: any(form.match(other) for form in _ONE_CHOICE), lines[i + 1 :]))
            listed = labelled_list(" ".join([line, *labelled]))
            if listed is None:
                raise ConfigError(f"{place}: the choices are out of order; label them A, B, C, …, one a line")
            rest = [*lines[:i], *lines[i + 1 + len(labelled) :]]
            return [block[0], *filter(str.strip, rest)], list(listed[1])
    for form in _ONE_CHOICE:
        matches = {i: match for i, line in enumerate(lines) if (match := form.match(line))}
        labels = [match[1].upper() for match in matches.values()]
        # Any letter in brackets is a label. A letter without brackets may begin a sentence: "A. Smith".
        if not matches or (form is not _CHOICE and (len(matches) < 2 or labels[0] != "A")):
            continue
        if labels == list(LABELS[: len(labels)]):
            rest = [line for i, line in enumerate(lines) if i not in matches and line.strip()]
            return [block[0], *rest], [match[2].strip() for match in matches.values()]
        first = min(matches)
        if listed := labelled_list(" ".join(lines[first:])):
            return [block[0], *filter(str.strip, lines[:first])], list(listed[1])
        wrong, due = next((label, due) for label, due in zip(labels, LABELS, strict=False) if label != due)
        raise ConfigError(f"{place}: choice ({wrong}), expected ({due}); label them A, B, C, … in order")
    if any(headers):
        raise ConfigError(f"{place}: no choices after `Answer Choices:`; write them as `(A) …`, one a line")
    return [*block], []


def _example_of_row(number: int, row: Row) -> tuple[Problem, Row | None]:
    if unknown := [key for key in row.values if key not in _KEYS]:
        raise ConfigError(f"{row.place}: unknown key {unknown[0]!r} in an example; known: {', '.join(_KEYS)}")
    return _example(number, row.values, row.place)


def _example(number: int, values: Mapping[str, Any], place: str) -> tuple[Problem, Row | None]:
    """An example, and the row of its choices. Choices are read later, from all examples together, because their labels
    are recognized by all of them."""
    texts = {}
    for key in ("question", "rationale", "answer"):
        if values.get(key) is None:
            raise ConfigError(f"{place}: the example has no {key}; an example is a question, a rationale and an answer")
        texts[key] = as_text(values[key], place, key).strip()
        if not texts[key]:
            raise ConfigError(f"{place}: the {key} of the example is empty; fill in the prompt file")
        if re.search(r"\n[ \t]*\n", texts[key]):
            raise ConfigError(f"{place}: the {key} holds a blank line, and a completion ends there; remove it")
    problem = Problem(
        id=f"example-{number}", question=texts["question"], rationale=texts["rationale"], answer=texts["answer"]
    )
    return problem, Row(place=place, values=values) if "choices" in values else None


def _with_choices(examples: Sequence[tuple[Problem, Row | None]]) -> Iterator[Problem]:
    rows = [row for _, row in examples if row is not None]
    remaining = iter(choices_of(rows, "choices"))
    for problem, row in examples:
        if row is None:
            yield problem
        else:
            given = next(remaining)
            yield replace(problem, choices=given.texts, answer=label_of(problem.answer, given, row.place))

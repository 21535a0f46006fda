"""The problems of the benchmarks: GSM8K from its released files, and the shipped arithmetic task."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selftaught.grading.answers import AnswerRule
from selftaught.grading.verifiers import tagged_line
from selftaught.prompts.rendering import prompt_text, render_completion, render_prompt
from selftaught.records.errors import ConfigError
from selftaught.records.problems import ChatFormat, Problem, PromptFormat, Task

NUM_SHOTS = 6
WARM_UP = 32

FORMAT = PromptFormat(
    question="Question: {question}{hint}\nAnswer:",
    hint=" (The answer is {answer}.)",
    completion=" {rationale}\n#### {answer}",
    answer_only=" #### {answer}",
)
RULE = AnswerRule(opener="####", closer="####", pattern=r"-?[0-9][0-9,]*(\.[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The prompts of a generation benchmark, and those of its warm-up."""

    texts: tuple[str, ...]
    warm_up: tuple[str, ...]
    """Of the same kind with another prefix, so that no cache holds anything of what is timed."""


def read_problems(data_dir: Path, split: str) -> tuple[Problem, ...]:
    """The problems of one released file, in its order. Raises ConfigError for a file that is not there or not GSM8K."""
    path = data_dir / f"{split}.jsonl"
    if not path.is_file():
        raise ConfigError(
            f"--data {data_dir}: there is no {path.name}; give a folder with train.jsonl and test.jsonl of GSM8K as "
            "released (github.com/openai/grade-school-math, folder grade_school_math/data)"
        )
    problems = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rationale, marker, answer = row["answer"].partition("\n#### ")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}:{number}: not a GSM8K row ({type(error).__name__}); fetch it again") from error
        if not marker:
            raise ConfigError(f"{path}:{number}: the answer has no line that begins with ####; fetch it again")
        problems.append(
            Problem(id=f"{split}-{number}", question=row["question"], answer=answer.strip(), rationale=rationale)
        )
    return tuple(problems)


def few_shot_prompts(train: Sequence[Problem], number: int) -> Prompts:
    """Prompts of the problems after the first six, which are the few-shot examples.

    The warm-up has the same few-shot examples in the opposite order, before the last problems of the file.
    """
    few_shot, problems = train[:NUM_SHOTS], train[NUM_SHOTS : NUM_SHOTS + number]
    if len(train) < NUM_SHOTS + number:
        raise ConfigError(
            f"--n {number} needs {NUM_SHOTS + number} rows, but the file has {len(train)} rows; use a smaller --n"
        )
    return Prompts(
        texts=tuple(prompt_text(render_prompt(FORMAT, p, hint=False, few_shot=few_shot)) for p in problems),
        warm_up=tuple(
            prompt_text(render_prompt(FORMAT, p, hint=False, few_shot=few_shot[::-1])) for p in train[-WARM_UP:]
        ),
    )


def training_pairs(problems: Sequence[Problem], fmt: PromptFormat | ChatFormat) -> list[tuple[str, str]]:
    """(prompt without few-shot examples, completion) of the problems' own solutions."""
    return [(prompt_text(render_prompt(fmt, p, hint=False)), render_completion(fmt, p)) for p in problems]


def gsm8k_task(train: Sequence[Problem], number: int) -> Task:
    """A task whose few-shot examples are the first six problems, and which trains on the next ones; no dev or test."""
    return Task(
        name="gsm8k-benchmark",
        prompt_format=FORMAT,
        verifier=tagged_line(RULE),
        few_shot=tuple(train[:NUM_SHOTS]),
        train=tuple(train[NUM_SHOTS : NUM_SHOTS + number]),
        dev=(),
        test=(),
    )

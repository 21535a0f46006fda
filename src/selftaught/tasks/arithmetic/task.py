"""The task `arithmetic`: d-digit plus d-digit addition with a scratchpad that shows every step.

After Zelikman et al. 2022, sections 4.1 to 4.3; the scratchpad is that of Nye et al. 2021 (arXiv 2112.00114). For
624 + 259, first variant `paper`, where each line shows the next pair of digits still to add, the result so far and
the carry, then variant `restated`, where each line shows all the digits still to add:

    6 2 4 + 2 5 9 , C: 0            6 2 4 + 2 5 9 , C: 0
    2 + 5 , 3 C: 1                  6 2 + 2 5 , 3 C: 1
    6 + 2 , 8 3 C: 0                6 + 2 , 8 3 C: 0
    , 8 8 3 C: 0                    , 8 8 3 C: 0
    0 8 8 3                         0 8 8 3

Problems are generated, so that the task works offline. The same problem is the same unordered pair. Classes are the
numbers of digits. No other file depends on digits.
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from random import Random
from typing import Literal

from selftaught.grading.answers import AnswerRule
from selftaught.grading.signs import fold_space
from selftaught.grading.verifiers import tagged_line
from selftaught.records.errors import ConfigError
from selftaught.records.problems import (
    CheckResult,
    Grader,
    Problem,
    PromptFormat,
    Task,
)
from selftaught.records.seeds import generator
from selftaught.tasks.settings import SeededConfig, VariantConfig

Variant = Literal["paper", "restated"]
VARIANTS: tuple[Variant, ...] = ("paper", "restated")

PROMPT_FORMAT = PromptFormat(
    question="Input:\n{question}\nTarget:{hint}\n",
    hint=" {answer}",
    completion="{rationale}\n{answer}",
    answer_only="{answer}",
    instruction="Write the scratchpad as in the examples, then the sum on the last line.",
)
ANSWER_RULE = AnswerRule(opener="<scratch>", closer="</scratch>", pattern=r"[0-9]( [0-9])*")

STATE = re.compile(r"((?P<rest>[0-9 ]+ \+ [0-9 ]+) )?, ((?P<done>[0-9]( [0-9])*) )?C: (?P<carry>[0-9])")
"""A line of the scratchpad: the digits still to add, the result digits so far, the carry."""

TRAIN_DIGITS = (1, 2, 3, 4, 5)
EXTRAPOLATION_DIGITS = (6, 7, 8, 9, 10)
TRAIN_PER_CLASS = 2_000
DEV_PER_CLASS = 50
TEST_PER_CLASS = 120
EXTRAPOLATION_PER_CLASS = 20
ONE_DIGIT_HELD_OUT = 12
"""Of the 45 one-digit pairs, dev and test take this many each; the other 21 are seen."""

SEEN_PER_CLASS = {1: 21, 2: 1_500, 3: 50, 4: 50, 5: 50}
"""Problems that `builtin:adder` was trained on; the same for every data seed, because the model is shipped."""
FEW_SHOT_PER_CLASS = 50


class ArithmeticConfig(SeededConfig, VariantConfig):
    name: Literal["arithmetic"] = "arithmetic"


def load(settings: ArithmeticConfig) -> Task:
    """The task; its splits are a function of the data seed. Raises ConfigError for an unknown variant."""
    form, data_seed = _form(settings), settings.data_seed
    seen = seen_problems(form)
    train, dev, test = _splits(form, data_seed, frozenset(p.id for p in seen))
    judge = grader(settings, ())
    return Task(
        name="arithmetic",
        prompt_format=PROMPT_FORMAT,
        verifier=judge.verifier,
        few_shot=_few_shot_examples(seen),
        train=train,
        dev=dev,
        test=test,
        extrapolation=_extrapolation(form, data_seed),
        seen=seen,
        check_steps=judge.check_steps,
        same_problem=_same_problem,
    )


def grader(settings: ArithmeticConfig, problems: Iterable[Problem]) -> Grader:
    """The verifier and the step check. Raises ConfigError for an unknown variant."""
    return Grader(verifier=tagged_line(ANSWER_RULE), check_steps=partial(check_scratchpad, variant=_form(settings)))


def _form(settings: ArithmeticConfig) -> Variant:
    variant = settings.variant
    form: Variant = "restated" if variant == "restated" else "paper"
    if variant and variant != form:
        raise ConfigError(f"task.variant = {variant!r}: arithmetic knows {', '.join(VARIANTS)}")
    return form


def seen_problems(variant: Variant) -> tuple[Problem, ...]:
    """The problems that `builtin:adder` was trained on; the few-shot examples are among them."""
    problems: list[Problem] = []
    for digits, number in SEEN_PER_CLASS.items():
        rng = generator("arithmetic", "seen", digits)
        problems += _take(_pairs(digits, rng, used=set()), number, variant)
    return tuple(problems)


def scratchpad(a: int, b: int, variant: Variant) -> str:
    """The steps of adding two numbers with the same number of digits, from <scratch> to </scratch>."""
    return "\n".join(["<scratch>", *_lines(a, b, variant), "</scratch>"])


def spaced(number: int) -> str:
    return " ".join(str(number))


def check_scratchpad(problem: Problem, completion: str, *, variant: Variant) -> CheckResult:
    """Recompute every line of a scratchpad.

    A line follows from the state on the line before it. All lines before the first wrong one are correct, so their
    state is the true one, and a comparison with the true scratchpad, line by line, is this recomputation. `share` is
    the share of lines before the first wrong one; `detail` is its number (from 1) and its mistake: copy, order, digit,
    carry, form, missing line, extra line or final mismatch.
    """
    a, b = _operands(problem)
    expected = ["<scratch>", *_lines(a, b, variant), "</scratch>", spaced(a + b)]
    placed = list(_placed_lines(completion))
    written = [fold_space(line) for line, _ in placed]
    for number, want in enumerate(expected, start=1):
        have = written[number - 1] if number <= len(written) else None
        if have != want:
            is_answer = number == len(expected) and have is not None
            mistake = "final mismatch" if is_answer else _mistake(have, want, expected[number:], written[number:])
            return CheckResult(
                passed=False,
                share=(number - 1) / len(expected),
                detail=f"line {number}: {mistake}",
                at=placed[number - 1][1] if have and mistake != "missing line" else None,
            )
    if len(written) > len(expected):
        number = len(expected) + 1
        at = placed[number - 1][1] if written[number - 1] else None
        return CheckResult(passed=False, share=1.0, detail=f"line {number}: extra line", at=at)
    return CheckResult(passed=True, share=1.0)


def _placed_lines(completion: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """The lines from the first to the last that are not blank, each with its place (from, up to) without the white
    space around it."""
    text = completion.rstrip()
    end = len(text) - len(text.lstrip())
    for line in text.lstrip().splitlines(keepends=True):
        start, end = end, end + len(line)
        first = start + len(line) - len(line.lstrip())
        yield line, (first, max(first, start + len(line.rstrip())))


def _lines(a: int, b: int, variant: Variant) -> Iterator[str]:
    left, right = str(a), str(b)
    assert len(left) == len(right), f"operands must have the same number of digits, got {a} and {b}"
    done, carry = "", 0
    yield f"{spaced(a)} + {spaced(b)} , C: 0"
    for column in range(len(left) - 1, -1, -1):
        total = int(left[column]) + int(right[column]) + carry
        done, carry = str(total % 10) + done, total // 10
        first = 0 if variant == "restated" else max(0, column - 1)
        rest = f"{' '.join(left[first:column])} + {' '.join(right[first:column])} " if column else ""
        yield f"{rest}, {' '.join(done)} C: {carry}"
    yield f"{carry} {' '.join(done)}"


def _mistake(have: str | None, want: str, expected_after: list[str], written_after: list[str]) -> str:
    """The kind of mistake on the first wrong line, from the line itself and from the lines after it."""
    if have is None or have in expected_after:
        return "missing line"
    if want in written_after[:1] or want == "</scratch>":
        return "extra line"
    written, true = STATE.fullmatch(have), STATE.fullmatch(want)
    if true is None:
        return "digit" if re.fullmatch(ANSWER_RULE.pattern, have) else "form"
    if written is None:
        return "form"
    if written["rest"] != true["rest"]:
        sides = [sorted((line["rest"] or "").split(" + ")) for line in (written, true)]
        return "order" if sides[0] == sides[1] else "copy"
    if written["done"] != true["done"]:
        return "digit" if (written["done"] or "")[1:] == (true["done"] or "")[1:] else "copy"
    return "carry"


def _operands(problem: Problem) -> tuple[int, int]:
    left, _, right = problem.question.partition("+")
    return int(left.replace(" ", "")), int(right.replace(" ", ""))


def _same_problem(problem: Problem) -> str:
    if not re.fullmatch(r"[0-9 ]*[0-9][0-9 ]*\+[0-9 ]*[0-9][0-9 ]*", problem.question):
        return problem.question  # a new question may be anything
    return "+".join(str(n) for n in sorted(_operands(problem)))


def _problem(a: int, b: int, variant: Variant) -> Problem:
    low, high = sorted((a, b))
    return Problem(
        id=f"{low}+{high}",
        question=f"{spaced(a)} + {spaced(b)}",
        answer=spaced(a + b),
        class_name=str(len(str(a))),
        rationale=scratchpad(a, b, variant),
    )


def _pairs(digits: int, rng: Random, used: set[str]) -> Iterator[tuple[int, int]]:
    """Pairs of numbers with this many digits, uniform, in either order, each unordered pair once."""
    low, high = 10 ** (digits - 1), 10**digits - 1
    if digits == 1:
        listed = [(a, b) for a in range(low, high + 1) for b in range(a, high + 1)]
        rng.shuffle(listed)
        candidates = iter([(b, a) if rng.random() < 0.5 else (a, b) for a, b in listed])
    else:
        candidates = iter(lambda: (rng.randint(low, high), rng.randint(low, high)), None)
    for a, b in candidates:
        key = "+".join(str(n) for n in sorted((a, b)))
        if key not in used:
            used.add(key)
            yield a, b


def _take(pairs: Iterator[tuple[int, int]], number: int, variant: Variant) -> list[Problem]:
    return [_problem(*next(pairs), variant) for _ in range(number)]


def _splits(variant: Variant, data_seed: int, seen_ids: frozenset[str]) -> tuple[tuple[Problem, ...], ...]:
    train: list[Problem] = []
    dev: list[Problem] = []
    test: list[Problem] = []
    for digits in TRAIN_DIGITS:
        rng = generator("arithmetic", data_seed, digits)
        pairs = _pairs(digits, rng, used=set(seen_ids))
        dev += _take(pairs, ONE_DIGIT_HELD_OUT if digits == 1 else DEV_PER_CLASS, variant)
        test += _take(pairs, ONE_DIGIT_HELD_OUT if digits == 1 else TEST_PER_CLASS, variant)
        if digits > 1:
            train += _take(pairs, TRAIN_PER_CLASS, variant)
    one_digit = [p for p in seen_problems(variant) if p.class_name == "1"]
    return (*one_digit, *train), tuple(dev), tuple(test)


def _extrapolation(variant: Variant, data_seed: int) -> tuple[Problem, ...]:
    problems: list[Problem] = []
    for digits in EXTRAPOLATION_DIGITS:
        rng = generator("arithmetic", data_seed, "extrapolation", digits)
        problems += _take(_pairs(digits, rng, used=set()), EXTRAPOLATION_PER_CLASS, variant)
    return tuple(problems)


def _few_shot_examples(seen: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """One problem of each class in turn, so that the first ten examples hold every class twice."""
    classes = [[p for p in seen if p.class_name == str(d)][:FEW_SHOT_PER_CLASS] for d in TRAIN_DIGITS]
    return tuple(group[i] for i in range(FEW_SHOT_PER_CLASS) for group in classes if i < len(group))

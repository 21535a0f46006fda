"""Whether a rationale gives its answer away instead of leading to it: a leak of the hint. Pure text, any task.

A model that sees the answer may write it down and reason around it. Four signs of that are looked for in the reasoning,
which is the completion without its conclusion; docs/verifiers.md states them for users. Each may also stand in honest
reasoning, so the rate of samples without a hint is reported beside that of samples with one.

A text is looked at as it is, never run, in time linear in it; of a long one its first LONGEST characters.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from itertools import pairwise
from string import Formatter

from selftaught.grading.checks.equations import close, evaluate, find_equations
from selftaught.grading.checks.solutions import CONSTANTS, numbers_of
from selftaught.grading.choices import choices_in
from selftaught.grading.signs import fold
from selftaught.prompts.rendering import own_hint
from selftaught.records.problems import LABELS, ChatFormat, Check, CheckResult, Problem, PromptFormat, Task

LONGEST = 20_000
"""Characters of a reasoning that are looked at."""

EARLY = 0.3
"""Share of the reasoning before which an answer that nothing has led to is early."""

SHORTEST_ANSWER = 4
"""Characters of an answer in words that is looked for; shorter ones are words of any text."""

COMMON = frozenset({"true", "false", "none", "both", "neither", "valid", "invalid", "unknown", "equal"})
"""Answers in words that are not looked for, either."""

_KIND = r"(?:correct|right|given|provided|marked|stated|known|expected|reference|supplied|final)"
MENTION = re.compile(
    rf"\b(?:correct|given|provided|marked|known|expected|reference|supplied)\s(?:final\s)?(?:answer|solution|result)\b"
    r"|\b(?:the|this|that|a|as|per|by)\shints?\b(?!\sof\b)|\bhint(?:ed|s)?\s(?:answer|is|says?|tells?|gives?|states?)\b"
    rf"|\b(?:we|i|you)\s(?:already\s)?know\s(?:that\s)?(?:the\s)?(?:{_KIND}\s)?(?:answer|result|solution)\b"
    rf"|\bknowing\s(?:that\s)?the\s(?:{_KIND}\s)?(?:answer|result)\b"
    r"|\banswer\s(?:is|was)\s(?:already\s)?(?:given|provided|known|marked|stated)\b"
    rf"|\b(?:get|arrive|come|lead|add\sup)\s(?:to|at|us\sto)\sthe\s{_KIND}\s(?:answer|result|number|total)\b"
    r"|\b(?:work|working|worked)\sbackwards?\sfrom\sthe\sanswer\b",
    re.IGNORECASE,
)
"""Words of somebody who has been told the answer."""

REASON = re.compile(
    r"\b(?:because|since|as|so|if|when|where|which|who|that|used?|thus|hence|therefore|means?|due)\b", re.IGNORECASE
)
"""Words by which a sentence says why."""
NEGATION = re.compile(
    r"\b(?:not|no|nor|never|neither|cannot|unlike|rather|instead|than|without)\b|n['’]t\b", re.IGNORECASE
)

_NUMBER = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d]|[.,]\d)")
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?=\S)[^.!?\n]*)*")


def check_leak(problem: Problem, completion: str, *, fmt: PromptFormat | ChatFormat) -> CheckResult:
    """Passes if none of the signs is found; `detail` names the first one, and `at` its place in the completion."""
    text = reasoning_of(completion, fmt)[:LONGEST]
    found = _mention(problem, text, fmt) or (
        _of_choices(problem, text) if problem.choices else _of_numbers(problem, text) or _of_words(problem, text)
    )
    if found is None:
        return CheckResult(passed=True, share=1.0)
    detail, (start, end) = found
    return CheckResult(passed=False, share=start / max(1, len(text)), detail=detail, at=(start, end))


def reasoning_of(completion: str, fmt: PromptFormat | ChatFormat) -> str:
    """A completion up to its conclusion: to the last place with the text that the task's format has between rationale
    and answer; without one, to its last line, or in a single line to its last sentence."""
    if between := _between(fmt):
        pattern = re.compile(r"\s{1,20}".join(map(re.escape, between.split())), re.IGNORECASE)
        *_, last = [None, *pattern.finditer(completion)]
        if last is not None:
            return completion[: last.start()]
    kept = completion.rstrip()
    line = kept.rfind("\n")
    if line >= 0 and kept[:line].strip():
        return completion[:line]
    *_, sentence = [None, *_SENTENCE.finditer(kept)]
    return "" if sentence is None else completion[: sentence.start()]


def _between(fmt: PromptFormat | ChatFormat) -> str:
    """The text of a completion's template that follows the rationale."""
    parts = list(Formatter().parse(fmt.completion))
    after = [literal for (_, field, *_), (literal, *_) in pairwise(parts) if field == "rationale"]
    return after[0].strip() if after else ""


Found = tuple[str, tuple[int, int]] | None
"""A sign, in words, and where it stands."""


def _mention(problem: Problem, text: str, fmt: PromptFormat | ChatFormat) -> Found:
    """The text speaks of the hint, or repeats the mark around it."""
    if match := MENTION.search(text):
        return f"speaks of the answer as known ({match[0]!r})", match.span()
    hint = own_hint(fmt, problem).text.strip()
    if hint and fold(hint) not in (fold(problem.answer), ""):
        at = text.lower().find(hint.lower())
        if at >= 0 and len(text.lower()) == len(text):
            return f"repeats the hint ({hint!r})", (at, at + len(hint))
    return None


def _of_numbers(problem: Problem, text: str) -> Found:
    """The answer is computed with, or stands in the text, before anything gives it; or a wrong equation gives it."""
    gold = evaluate(problem.answer.replace(",", "").replace("$", "").strip())
    if gold is None or any(close(gold, number) for number in numbers_of(problem.question)):
        return None
    derived: list[tuple[int, int]] = []
    results = []
    for equation in find_equations(text):
        first = equation.sides[0] if equation.sides else None
        gives = _has((*equation.results, *(100 * result for result in equation.results)), gold)  # $0.25 is 25 cents
        if not derived and first is not None and first.computes and _has(first.numbers, gold) and gold not in CONSTANTS:
            return f"computes with the answer before anything gives it ({equation.text})", equation.at
        if gives and equation.error and not derived:
            return f"a wrong equation gives the answer ({equation.text})", equation.at
        if gives:
            derived.append(equation.at)
        results.append(equation)
    if results and not derived:
        return "has equations, and none gives the answer", results[-1].at
    for match in _NUMBER.finditer(text) if gold not in CONSTANTS else ():
        if evaluate(match[0].replace(",", "")) == gold:
            line = text.find("\n", match.end())
            if match.start() >= EARLY * len(text) or any(start < (line % (len(text) + 1)) for start, _ in derived):
                return None  # also in "20 hours, because 1500 / 75 = 20"
            return "states the answer before anything gives it", match.span()
    return None


def _has(numbers: tuple[Fraction, ...], gold: Fraction) -> bool:
    return any(close(gold, number) for number in numbers)


def _of_choices(problem: Problem, text: str) -> Found:
    """The correct choice is named early, in a sentence that gives no reason; or the end argues for another choice."""
    sentences = list(_sentences(text))
    for start, sentence in sentences:
        if start >= EARLY * len(text):
            break
        is_named = any(problem.answer in labels for labels in choices_in(sentence, problem.choices))
        if is_named and not REASON.search(sentence):
            return "names the answer at its beginning, without a reason", (start, start + len(sentence))
    if sentences:
        start, sentence = sentences[-1]
        named = [labels for labels in choices_in(sentence, problem.choices) if labels]
        if named and not any(problem.answer in labels for labels in named) and not NEGATION.search(sentence):
            other = LABELS[min(map(LABELS.index, named[-1]))]
            return f"argues for another choice ({other}) than it states", (start, start + len(sentence))
    return None


def _of_words(problem: Problem, text: str) -> Found:
    """An answer in words stands at the beginning, and not in the question."""
    words = fold(problem.answer).split()
    if evaluate(problem.answer) is not None or len(" ".join(words)) < SHORTEST_ANSWER or " ".join(words) in COMMON:
        return None
    pattern = re.compile(r"(?<!\w)" + r"\s{1,20}".join(map(re.escape, words)) + r"(?!\w)", re.IGNORECASE)
    if pattern.search(problem.question):
        return None
    match = pattern.search(text)
    if match is not None and match.start() < EARLY * len(text):
        return "states the answer at its beginning", match.span()
    return None


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    return ((match.start(), match[0]) for match in _SENTENCE.finditer(text) if match[0].strip())


def checks_of_any(task: Task) -> dict[str, Check]:
    """The checks by name that need nothing of a task but its format and its choices."""
    checks: dict[str, Check] = {"leak": partial(check_leak, fmt=task.prompt_format)}
    if any(problem.choices for problem in (*task.train, *task.dev)):
        checks["label"] = partial(check_label, fmt=task.prompt_format)
    return checks


def check_label(problem: Problem, completion: str, *, fmt: PromptFormat | ChatFormat) -> CheckResult:
    """Of a problem with choices: the conclusion does not put a label beside the text of another choice.

    Passes for a conclusion that names no choice, or only one way.
    """
    start = len(reasoning_of(completion, fmt))
    conclusion = completion[start : start + LONGEST]
    first = next(choices_in(conclusion, problem.choices), None) if problem.choices else None
    if first is None or first:
        return CheckResult(passed=True, share=1.0)
    return CheckResult(
        passed=False, share=0.0, detail="label and text of the answer disagree", at=(start, len(completion))
    )

"""What the prompt of a second attempt shows a failed problem: its answer, or, as a control, something else. Pure.

Few-shot examples keep their own answers, so that a control differs from STaR in the hint of the problem alone. A hint
is a function of the run's seed, the iteration and the task, so that it is the same in every chunk and after any kill.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from selftaught.grading.signs import fold
from selftaught.methods.settings import Shows
from selftaught.prompts.rendering import Hint, own_hint
from selftaught.records.problems import LABELS, ChatFormat, Problem, PromptFormat, Task
from selftaught.records.seeds import generator

AGAIN: Mapping[Shows, str] = {
    "answer": "with the answer as a hint",
    "nothing": "again without a hint",
    "shuffled": "with another problem's answer as a hint",
    "text": "with random letters as a hint",
}
"""How failed problems are sampled in their second attempt, for people."""

TRIES = 100
"""Random positions that are tried for a swap, before a longer search."""

NUM_WORDS, WORD_LETTERS = 3, 5
"""Of a random text: always as many, so that it does not tell even the length of the answer."""


def hints_of(task: Task, shows: Shows, *, seed: int, iteration: int) -> Callable[[Problem], Hint] | None:
    """What training problems are shown in an iteration; None if there is no hint at all.

    Raises KeyError later for a problem that is not in train, and here ValueError if `shuffled` finds no other answer.
    """
    fmt = task.prompt_format
    if shows == "nothing":
        return None
    if shows == "text":
        return lambda problem: _random_text(fmt, problem, generator(seed, iteration, "text hint", problem.id))
    if shows == "shuffled":
        answers = shuffled_answers(task.train, seed=seed, iteration=iteration)
        return lambda problem: own_hint(fmt, problem, answer=answers[problem.id])
    return lambda problem: own_hint(fmt, problem)


def longest_hints(task: Task, shows: Shows, *, seed: int) -> Callable[[Problem], Hint] | None:
    """For each problem a hint that is as long as any that it can get, in characters: for checks of lengths."""
    fmt = task.prompt_format
    if shows != "shuffled":
        return hints_of(task, shows, seed=seed, iteration=1)
    longest = max((p.answer for p in task.train), key=len, default="")

    def hint(problem: Problem) -> Hint:
        labels = LABELS[: len(problem.choices)]
        hints = [own_hint(fmt, problem, answer=answer) for answer in labels or [longest]]
        return max(hints, key=lambda hint: len(hint.text))

    return hint


def shuffled_answers(problems: Sequence[Problem], *, seed: int, iteration: int) -> dict[str, str]:
    """Problem id -> the answer of another problem, never its own.

    The answers of a class are dealt out among its problems, as far as that gives nobody its own answer; whoever is left
    gets a random other answer of its class, else of all problems. A problem with choices gets a label of its own
    choices: the text of another problem's choice would not be among them, and no completion could follow it. Two
    answers are one if they differ in case and white space only. Raises ValueError for a problem to which no other
    answer can be given.
    """
    random = generator(seed, iteration, "shuffled hints")
    everything = sorted({p.answer for p in problems})
    classes: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        classes[problem.class_name].append(problem)
    given: dict[str, str] = {}
    for group in classes.values():
        dealt = _dealt(group, random)
        among = sorted({p.answer for p in group})
        for problem, answer in zip(group, dealt, strict=True):
            given[problem.id] = (
                answer if _is_other(problem, answer) else _any_other(problem, (among, everything), random)
            )
    return given


def _dealt(group: Sequence[Problem], random: Random) -> list[str]:
    """The answers of the group in another order; one that nobody could swap away stays with its own problem."""
    dealt = [problem.answer for problem in group]
    random.shuffle(dealt)
    for i, problem in enumerate(group):
        if _is_other(problem, dealt[i]):
            continue
        for j in (random.randrange(len(group)) for _ in range(TRIES)):
            if _is_other(problem, dealt[j]) and _is_other(group[j], dealt[i]):
                dealt[i], dealt[j] = dealt[j], dealt[i]
                break
    return dealt


def _any_other(problem: Problem, pools: Iterable[Sequence[str]], random: Random) -> str:
    """A random other answer of the first pool that has one; for a problem with choices, at last one of its labels."""
    for pool in (*pools, LABELS[: len(problem.choices)]):
        if others := [answer for answer in pool if _is_other(problem, answer)]:
            return random.choice(others)
    raise ValueError(f"problem {problem.id!r} has the answer {problem.answer!r}, and no problem has another one")


def _is_other(problem: Problem, answer: str) -> bool:
    """Whether the answer is not the problem's own, and one that the problem could have."""
    if not problem.choices:
        return fold(answer) != fold(problem.answer)
    texts: Mapping[str, str] = dict(zip(LABELS, problem.choices, strict=False))
    return answer in texts and fold(texts[answer]) != fold(texts[problem.answer])


def _random_text(fmt: PromptFormat | ChatFormat, problem: Problem, random: Random) -> Hint:
    """Words of random letters where the answer would stand; where the format marks the correct choice, beside any."""
    words = ("".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=WORD_LETTERS)) for _ in range(NUM_WORDS))
    text = " ".join(words)
    has_place = fmt.hint.format(answer="", choice="") != fmt.hint
    label = random.choice(LABELS[: len(problem.choices)]) if problem.choices else ""
    return Hint(text=fmt.hint.format(answer=text, choice=text) if has_place else f" ({text})", label=label)

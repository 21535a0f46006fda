"""Which samples are trained on, and why the others are left out. Pure; the order of samples is irrelevant.

Every sample is either kept or left out. Samples held out for validation are left out, with that reason.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from selftaught.grading.signs import fold
from selftaught.methods.settings import Keep, Knobs, Requirement, UniqueBy
from selftaught.records.problems import Task, Verdict
from selftaught.records.samples import LeftOut, Sample, sample_key
from selftaught.records.seeds import seed_for, uniform


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    kept: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    """Accepted samples of the problems whose samples serve to measure the validation loss."""
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is accepted, and what of it is kept."""

    require: tuple[Requirement, ...]
    """Of a sample without a hint."""
    require_hinted: tuple[Requirement, ...]
    unique_by: UniqueBy
    max_per_problem: int | None
    validation_share: float
    """Of the problems with kept samples, 0 to 1, whose samples are held out."""
    seed: int
    never_held_out: Set[str] = frozenset()
    """Problems that are trained on in another form, such as rehearsed few-shot examples."""
    keep: Keep = "accepted"


def rule_of(knobs: Knobs, task: Task) -> Rule:
    """The rule of a run's settings."""
    return Rule(
        require=knobs.selection.require,
        require_hinted=knobs.selection.require_hinted,
        unique_by=knobs.selection.unique_by,
        max_per_problem=knobs.selection.max_per_problem,
        validation_share=knobs.training.validation_share,
        seed=knobs.seed,
        never_held_out={p.id for p in task.few_shot[: knobs.training.num_rehearsed]},
        keep=knobs.selection.keep,
    )


def select(samples: Iterable[Sample], rule: Rule, *, solution_key: Callable[[str], str] | None = None) -> Selection:
    """Leave out what is not accepted, duplicates and what exceeds the cap; then hold out a share of the problems.

    Within a problem, samples are in the order of their iterations, then rationales before rationalizations, then by
    index. Of duplicates the first is kept, and `max_per_problem` counts kept samples. `solution_key` is the task's key
    of a completion, for `unique_by="equations"`.
    """
    key_of = _key_of(rule.unique_by, solution_key)
    ordered = sorted(samples, key=sample_key)
    kept, left_out = _kept(ordered, rule, key_of)
    if rule.keep == "random-matched":
        kept, left_out = _random_matched(ordered, rule, key_of, number=len(kept))
    held_out = [
        s
        for s in kept
        if s.problem_id not in rule.never_held_out
        and uniform(seed_for(rule.seed, "validation", s.problem_id), 0) < rule.validation_share
    ]
    if len(held_out) == len(kept):
        held_out = []  # else nothing would be left to train on
    held_out_ids = {s.problem_id for s in held_out}
    left_out += [leave_out(s, "held out for validation") for s in held_out]
    return Selection(
        kept=tuple(s for s in kept if s.problem_id not in held_out_ids),
        held_out=tuple(held_out),
        left_out=tuple(sorted(left_out, key=sample_key)),
    )


def _kept(samples: Iterable[Sample], rule: Rule, key_of: Callable[[Sample], str]) -> tuple[list[Sample], list[LeftOut]]:
    """What passes, without duplicates and within the cap, and the rest; of sorted samples."""
    kept: list[Sample] = []
    left_out: list[LeftOut] = []
    for _, of_problem in groupby(samples, key=lambda s: s.problem_id):
        keys: set[str] = set()
        for sample in of_problem:
            key = key_of(sample)
            reason = rejection(sample, rule)
            if reason is None and key in keys:
                reason = "duplicate"
            if reason is None and rule.max_per_problem is not None and len(keys) >= rule.max_per_problem:
                reason = "over the cap"
            if reason is None:
                keys.add(key)
                kept.append(sample)
            else:
                left_out.append(leave_out(sample, reason))
    return kept, left_out


def _random_matched(
    samples: Iterable[Sample], rule: Rule, key_of: Callable[[Sample], str], *, number: int
) -> tuple[list[Sample], list[LeftOut]]:
    """`number` of the samples that state an answer, correct or not, drawn uniformly; and the rest.

    Duplicates and the cap are treated as they are in what is matched: the draw is from what is left without duplicates,
    and passes over a problem that is at its cap. There are enough of them if what passes must state an answer.
    """
    pool, left_out = _kept(samples, replace(rule, **_ANY_ANSWER), key_of)
    of_problem: Counter[str] = Counter()
    drawn: set[tuple[str, int, str, int]] = set()
    for sample in sorted(pool, key=lambda s: seed_for(rule.seed, "random-matched", *sample_key(s))):
        if len(drawn) < number and of_problem[sample.problem_id] != rule.max_per_problem:
            of_problem[sample.problem_id] += 1
            drawn.add(sample_key(sample))
    left_out += [leave_out(s, "not drawn") for s in pool if sample_key(s) not in drawn]
    return [s for s in pool if sample_key(s) in drawn], left_out


_ANY_ANSWER: Mapping[str, Any] = {
    "require": ("parseable",),
    "require_hinted": ("parseable",),
    "max_per_problem": None,
}


def rejection(sample: Sample, rule: Rule) -> str | None:
    """Why a sample is not accepted; None if it is. A completion that was cut off, or is empty, is never accepted."""
    required = rule.require_hinted if sample.kind == "rationalization" else rule.require
    if "answer" in required and sample.verdict is not Verdict.CORRECT:
        return str(sample.verdict)
    if "parseable" in required and sample.verdict is Verdict.UNPARSEABLE:
        return str(sample.verdict)
    if sample.finish_reason == "length":
        return "truncated"
    if not sample.completion:
        return "empty"
    if "steps" in required and not ("steps" in sample.checks and sample.checks["steps"].passed):
        return "wrong steps"
    if "no-leak" in required and not ("leak" in sample.checks and sample.checks["leak"].passed):
        return "leaks the answer"
    return None


def leave_out(sample: Sample, reason: str) -> LeftOut:
    return LeftOut(
        problem_id=sample.problem_id,
        iteration=sample.iteration,
        kind=sample.kind,
        index=sample.index,
        reason=reason,
    )


def _key_of(unique_by: UniqueBy, solution_key: Callable[[str], str] | None) -> Callable[[Sample], str]:
    if unique_by != "equations":
        return _KEYS[unique_by]
    assert solution_key is not None, "check_before_start refuses a task without a key for its solutions"
    return lambda sample: solution_key(sample.completion)


_KEYS: Mapping[UniqueBy, Callable[[Sample], str]] = {
    "none": lambda s: f"{s.iteration}/{s.kind}/{s.index}",
    "text": lambda s: s.completion,
    "normalized-text": lambda s: fold(s.completion),
}

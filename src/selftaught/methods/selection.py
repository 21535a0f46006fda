"""Which samples are trained on, and why the others are left out. Pure; the order of samples is irrelevant.

Every sample is either kept or left out. Samples held out for validation are left out, with that reason.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from selftaught.grading.signs import fold
from selftaught.methods.settings import Keep, Knobs, Requirement, UniqueBy
from selftaught.records.problems import Task, Verdict
from selftaught.records.samples import LeftOut, Sample, SampleKey, sample_key
from selftaught.records.seeds import seed_for, uniform


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which samples are trained on. Each part is in the order of keys."""

    kept: tuple[SampleKey, ...]
    held_out: tuple[SampleKey, ...]
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

    Samples are looked at one at a time, for a matched draw twice. What is held of each is its key, and of an accepted
    one the hash of the text that duplicates have in common.
    """
    key_of = _key_of(rule.unique_by, solution_key)
    kept, left_out = _kept(samples, rule, key_of)
    if rule.keep == "random-matched":
        kept, left_out = _random_matched(samples, rule, key_of, number=len(kept))
    held_out = [
        key
        for key in kept
        if key.problem_id not in rule.never_held_out
        and uniform(seed_for(rule.seed, "validation", key.problem_id), 0) < rule.validation_share
    ]
    if len(held_out) == len(kept):
        held_out = []  # else nothing would be left to train on
    held_out_ids = {key.problem_id for key in held_out}
    left_out += [leave_out(key, "held out for validation") for key in held_out]
    return Selection(
        kept=tuple(key for key in kept if key.problem_id not in held_out_ids),
        held_out=tuple(held_out),
        left_out=tuple(sorted(left_out, key=sample_key)),
    )


def _kept(
    samples: Iterable[Sample], rule: Rule, key_of: Callable[[Sample], str]
) -> tuple[list[SampleKey], list[LeftOut]]:
    """What passes, in the order of keys, without duplicates and within the cap; and the rest."""
    passed: list[tuple[SampleKey, bytes]] = []
    left_out: list[LeftOut] = []
    for sample in samples:
        reason = rejection(sample, rule)
        if reason is None:
            passed.append((sample_key(sample), text_hash(key_of(sample))))
        else:
            left_out.append(leave_out(sample, reason))
    passed.sort()
    kept: list[SampleKey] = []
    for _, of_problem in groupby(passed, key=lambda pair: pair[0].problem_id):
        texts: set[bytes] = set()
        for key, text in of_problem:
            if text in texts:
                left_out.append(leave_out(key, "duplicate"))
            elif rule.max_per_problem is not None and len(texts) >= rule.max_per_problem:
                left_out.append(leave_out(key, "over the cap"))
            else:
                texts.add(text)
                kept.append(key)
    return kept, left_out


def _random_matched(
    samples: Iterable[Sample], rule: Rule, key_of: Callable[[Sample], str], *, number: int
) -> tuple[list[SampleKey], list[LeftOut]]:
    """`number` of the samples that state an answer, correct or not, drawn uniformly; and the rest.

    Duplicates and the cap are treated as they are in what is matched: the draw is from what is left without duplicates,
    and passes over a problem that is at its cap. There are enough of them if what passes must state an answer.
    """
    pool, left_out = _kept(samples, replace(rule, **_ANY_ANSWER), key_of)
    of_problem: Counter[str] = Counter()
    drawn: set[SampleKey] = set()
    for key in sorted(pool, key=lambda key: seed_for(rule.seed, "random-matched", *key)):
        if len(drawn) < number and of_problem[key.problem_id] != rule.max_per_problem:
            of_problem[key.problem_id] += 1
            drawn.add(key)
    left_out += [leave_out(key, "not drawn") for key in pool if key not in drawn]
    return [key for key in pool if key in drawn], left_out


_ANY_ANSWER: Mapping[str, Any] = {
    "require": ("parseable",),
    "require_hinted": ("parseable",),
    "max_per_problem": None,
}


def rejection(sample: Sample, rule: Rule) -> str | None:
    """Why a sample is not accepted; None if it is. A completion that was cut off, or is empty, is never accepted."""
    required = rule.require_hinted if sample.kind == "rationalization" else rule.require
    if "answer" in required and sample.verdict is not Verdict.CORRECT:
        return sample.verdict.value
    if "parseable" in required and sample.verdict is Verdict.UNPARSEABLE:
        return sample.verdict.value
    if sample.finish_reason == "length":
        return "truncated"
    if not sample.completion:
        return "empty"
    if "steps" in required and not ("steps" in sample.checks and sample.checks["steps"].passed):
        return "wrong steps"
    if "no-leak" in required and not ("leak" in sample.checks and sample.checks["leak"].passed):
        return "leaks the answer"
    return None


def leave_out(sample: Sample | SampleKey, reason: str) -> LeftOut:
    key = sample_key(sample)
    return LeftOut(problem_id=key.problem_id, iteration=key.iteration, kind=key.kind, index=key.index, reason=reason)


def text_hash(text: str) -> bytes:
    """16 bytes that stand for a text where the texts of a million samples are told apart."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


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

"""Samples -> training examples, and the samples left out with their reasons. Pure; the order of samples is irrelevant.

Every sample is either kept or left out. Samples held out for validation are left out, with that reason.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from selftaught.grading.signs import fold
from selftaught.prompts.rendering import render_completion, render_prompt, render_prompts
from selftaught.records.problems import Problem, PromptFormat, Verdict
from selftaught.records.samples import LeftOut, Sample, sample_key
from selftaught.records.seeds import seed_for, uniform
from selftaught.records.training import TrainingExample

Accept = Literal["answer", "answer+steps"]
UniqueBy = Literal["none", "text", "normalized-text", "equations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    kept: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    """Accepted samples of the problems whose samples serve to measure the validation loss."""
    left_out: tuple[LeftOut, ...]


def select(
    samples: Iterable[Sample],
    *,
    accept: Accept,
    unique_by: UniqueBy,
    max_per_problem: int | None,
    validation_share: float,
    seed: int,
    never_held_out: Set[str] = frozenset(),
    solution_key: Callable[[str], str] | None = None,
) -> Selection:
    """Leave out what is not accepted, duplicates and what exceeds the cap; then hold out a share of the problems.

    Within a problem, samples are in the order of their iterations, then rationales before rationalizations, then by
    index. Of duplicates the first is kept, and `max_per_problem` counts kept samples. Problems that are trained on in
    another form, such as rehearsed few-shot examples, are `never_held_out`. `solution_key` is the task's key of a
    completion, for `unique_by="equations"`.
    """
    kept: list[Sample] = []
    left_out: list[LeftOut] = []
    key_of = _key_of(unique_by, solution_key)
    for _, of_problem in groupby(sorted(samples, key=sample_key), key=lambda s: s.problem_id):
        keys: set[str] = set()
        for sample in of_problem:
            key = key_of(sample)
            reason = _rejection(sample, accept)
            if reason is None and key in keys:
                reason = "duplicate"
            if reason is None and max_per_problem is not None and len(keys) >= max_per_problem:
                reason = "over the cap"
            if reason is None:
                keys.add(key)
                kept.append(sample)
            else:
                left_out.append(_leave_out(sample, reason))
    held_out = [
        s
        for s in kept
        if s.problem_id not in never_held_out
        and uniform(seed_for(seed, "validation", s.problem_id), 0) < validation_share
    ]
    if len(held_out) == len(kept):
        held_out = []  # else nothing would be left to train on
    held_out_ids = {s.problem_id for s in held_out}
    left_out += [_leave_out(s, "held out for validation") for s in held_out]
    return Selection(
        kept=tuple(s for s in kept if s.problem_id not in held_out_ids),
        held_out=tuple(held_out),
        left_out=tuple(sorted(left_out, key=sample_key)),
    )


def examples_from_samples(
    samples: Sequence[Sample], problems: Mapping[str, Problem], fmt: PromptFormat
) -> list[TrainingExample]:
    """Training examples from accepted samples: the prompt has no hint, even if the sample's own prompt had one."""
    prompts = render_prompts(fmt, (problems[s.problem_id] for s in samples), hint=False)
    return [
        TrainingExample(
            problem_id=s.problem_id,
            prompt=prompt,
            completion=s.completion,
            completion_ids=s.token_ids,
            source="rationalization" if s.kind == "rationalization" else "rationale",
            iteration=s.iteration,
            index=s.index,
        )
        for s, prompt in zip(samples, prompts, strict=True)
    ]


def examples_from_solutions(problems: Sequence[Problem], fmt: PromptFormat, *, iteration: int) -> list[TrainingExample]:
    """Training examples from the data: the human solution, or the answer alone of a problem without one."""
    prompts = render_prompts(fmt, problems, hint=False)
    return [
        TrainingExample(
            problem_id=p.id,
            prompt=prompt,
            completion=render_completion(fmt, p),
            completion_ids=None,
            source="human" if p.rationale else "answer",
            iteration=iteration,
        )
        for p, prompt in zip(problems, prompts, strict=True)
    ]


def rehearsed_examples(
    few_shot: Iterable[Problem], fmt: PromptFormat, *, with_hints: bool, iteration: int
) -> list[TrainingExample]:
    """Training examples from few-shot examples: each without a hint and, if the method uses hints, also with one.

    No other prompts with hints are trained on. The hints here are the few-shot examples' own answers, so that no
    training problem's answer reaches a prompt.
    """
    return [
        TrainingExample(
            problem_id=p.id,
            prompt=render_prompt(fmt, p, hint=hint),
            completion=render_completion(fmt, p),
            completion_ids=None,
            source="rehearsed",
            iteration=iteration,
            index=int(hint),
        )
        for p in few_shot
        for hint in ((False, True) if with_hints else (False,))
    ]


def _rejection(sample: Sample, accept: Accept) -> str | None:
    if sample.verdict is not Verdict.CORRECT:
        return str(sample.verdict)
    if sample.finish_reason == "length":
        return "truncated"
    if accept == "answer+steps" and not sample.checks["steps"].passed:
        return "wrong steps"
    return None


def _leave_out(sample: Sample, reason: str) -> LeftOut:
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

"""From a selection to what is trained on. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from selftaught.methods.selection import Selection
from selftaught.prompts.rendering import render_completion, render_prompt, render_prompts
from selftaught.records.errors import NothingAccepted
from selftaught.records.problems import ChatFormat, Problem, PromptFormat, Task, by_id
from selftaught.records.samples import LeftOut, Sample
from selftaught.records.training import TrainingExample
from selftaught.training.settings import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """What an iteration trains on, what measures the validation loss, and the samples that are left out."""

    examples: tuple[TrainingExample, ...]
    validation: tuple[TrainingExample, ...]
    left_out: tuple[LeftOut, ...]
    """Sorted by `sample_key`; those held out for validation are among them."""


def training_set(
    training: TrainingConfig,
    task: Task,
    iteration: int,
    selection: Selection,
    problems: Sequence[Problem],
    *,
    with_hints: bool,
) -> TrainingSet:
    """The selected samples, human solutions by config, and the rehearsed few-shot examples.

    `problems` are those of the iteration. The only prompts with a hint are those of rehearsed few-shot examples
    (`rehearsed_examples`), if the method uses hints. Raises NothingAccepted if there is no example.
    """
    fmt, train = task.prompt_format, by_id(task.train)
    rehearsed = task.few_shot[: training.num_rehearsed]
    held_out = {s.problem_id for s in selection.held_out}
    others = [p for p in problems if p.id not in held_out]
    if training.target == "answer":
        rehearsed, others = without_rationales(rehearsed), list(without_rationales(others))
    examples = examples_from_samples(selection.kept, train, fmt)
    if training.target == "answer":
        examples += examples_from_solutions(others, fmt, iteration=iteration)
    elif training.human_solutions:
        examples += examples_from_solutions([p for p in others if p.rationale], fmt, iteration=iteration)
    examples += rehearsed_examples(rehearsed, fmt, with_hints=with_hints, iteration=iteration)
    if not examples:
        counts = Counter(i.reason for i in selection.left_out).most_common()
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts)
        raise NothingAccepted(
            f"iteration {iteration}: no sample was accepted ({reasons or 'none was generated'}), so there is nothing "
            "to train on; look at `selftaught show`, raise sampling.num_shots, set training.num_rehearsed, or use a "
            "stronger model"
        )
    return TrainingSet(
        examples=tuple(examples),
        validation=tuple(examples_from_samples(selection.held_out, train, fmt)),
        left_out=selection.left_out,
    )


def without_rationales(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    return tuple(replace(p, rationale="") for p in problems)


def examples_from_samples(
    samples: Sequence[Sample], problems: Mapping[str, Problem], fmt: PromptFormat | ChatFormat
) -> list[TrainingExample]:
    """Training examples from accepted samples: the prompt has no hint, even if the sample's own prompt had one."""
    prompts = render_prompts(fmt, (problems[s.problem_id] for s in samples), hint=False)
    return [
        TrainingExample(
            problem_id=s.problem_id,
            prompt=prompt,
            completion=s.completion,
            completion_ids=s.token_ids,
            end_id=s.end_id,
            source="rationalization" if s.kind == "rationalization" else "rationale",
            iteration=s.iteration,
            index=s.index,
        )
        for s, prompt in zip(samples, prompts, strict=True)
    ]


def examples_from_solutions(
    problems: Sequence[Problem], fmt: PromptFormat | ChatFormat, *, iteration: int
) -> list[TrainingExample]:
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
    few_shot: Iterable[Problem], fmt: PromptFormat | ChatFormat, *, with_hints: bool, iteration: int
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

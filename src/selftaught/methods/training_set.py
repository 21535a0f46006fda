"""From a selection to what is trained on. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from selftaught.methods.selection import Selection
from selftaught.prompts.rendering import render_completion, render_prompt, render_prompts
from selftaught.records.errors import NothingAccepted
from selftaught.records.problems import ChatFormat, Problem, PromptFormat, Task, by_id
from selftaught.records.prompts import Prompt
from selftaught.records.samples import Kind, LeftOut, Sample, SampleKey, sample_key
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
    samples: Iterable[Sample],
    problems: Sequence[Problem],
    *,
    with_hints: bool,
) -> TrainingSet:
    """The selected samples, human solutions by config, and the rehearsed few-shot examples.

    `samples` are what the selection was made of, in any order; of those that were not selected nothing is held.
    `problems` are those of the iteration. The only prompts with a hint are those of rehearsed few-shot examples
    (`rehearsed_examples`), if the method uses hints. Raises NothingAccepted if there is no example.
    """
    fmt, train = task.prompt_format, by_id(task.train)
    rehearsed = task.few_shot[: training.num_rehearsed]
    held_out = {key.problem_id for key in selection.held_out}
    others = [p for p in problems if p.id not in held_out]
    if training.target == "answer":
        rehearsed, others = without_rationales(rehearsed), list(without_rationales(others))
    examples, validation = _chosen(selection, samples, train, fmt)
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
        validation=tuple(validation),
        left_out=selection.left_out,
    )


def without_rationales(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    return tuple(replace(p, rationale="") for p in problems)


def _chosen(
    selection: Selection, samples: Iterable[Sample], problems: Mapping[str, Problem], fmt: PromptFormat | ChatFormat
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """The examples of a selection, those that are kept and those that are held out, in the order of their keys."""
    held_out = set(selection.held_out)
    chosen = held_out.union(selection.kept)
    examples = examples_from_samples((s for s in samples if sample_key(s) in chosen), problems, fmt)
    if len(examples) != len(chosen):
        raise ValueError(
            f"{len(chosen)} samples were selected, and {len(examples)} of them found again: samples are read more than "
            "once, so give a list, or a Rereadable"
        )
    examples.sort(key=_key_of)
    return [e for e in examples if _key_of(e) not in held_out], [e for e in examples if _key_of(e) in held_out]


def _key_of(example: TrainingExample) -> SampleKey:
    """The key of the sample that an example was made from."""
    kind: Kind = "rationalization" if example.source == "rationalization" else "rationale"
    return SampleKey(example.problem_id, example.iteration, kind, example.index)


def examples_from_samples(
    samples: Iterable[Sample], problems: Mapping[str, Problem], fmt: PromptFormat | ChatFormat
) -> list[TrainingExample]:
    """Training examples from accepted samples: the prompt has no hint, even if the sample's own prompt had one. The
    examples of a problem share one prompt."""

    @cache
    def prompt(problem_id: str) -> Prompt:
        return render_prompt(fmt, problems[problem_id], hint=False)

    return [
        TrainingExample(
            problem_id=problems[s.problem_id].id,
            prompt=prompt(s.problem_id),
            completion=s.completion,
            completion_ids=s.token_ids,
            end_id=s.end_id,
            source="rationalization" if s.kind == "rationalization" else "rationale",
            iteration=s.iteration,
            index=s.index,
        )
        for s in samples
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

"""Decide what to do next: which problems, which samples, how many steps, when to stop. Pure and seeded."""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Literal

from selftaught.records.problems import Problem, Verdict
from selftaught.records.samples import Kind, PlannedSample, Sample
from selftaught.records.seeds import generator
from selftaught.tasks.settings import Choice
from selftaught.training.settings import TrainingConfig


def choose_problems(
    train: Sequence[Problem], *, how: Choice, number: int | Literal["all"], solved: Set[str], seed: int, iteration: int
) -> list[Problem]:
    """The training problems of one iteration, in the order of `train`.

    "random" chooses anew each iteration, so that iterations share problems. "random-per-class" does so with the same
    number of each class, as far as a class has them. "unsolved-first" takes problems without a correct answer so far
    before the others, and chooses at random within both groups.
    """
    if isinstance(number, str) or number >= len(train):
        return list(train)
    positions = list(range(len(train)))
    generator(seed, iteration, "problems").shuffle(positions)
    if how == "unsolved-first":
        positions.sort(key=lambda i: train[i].id in solved)  # stable, so each group stays shuffled
    if how == "random-per-class":
        chosen = {p.id for p in spread_over_classes([train[i] for i in positions], number)}
        return [p for p in train if p.id in chosen]
    return [train[i] for i in sorted(positions[:number])]


def spread_over_classes(problems: Sequence[Problem], number: int | Literal["all"]) -> tuple[Problem, ...]:
    """The first problems of each class in turn, `number` in all, in the order of `problems`."""
    if isinstance(number, str) or number >= len(problems):
        return tuple(problems)
    rank: dict[str, int] = {}
    keyed = []
    for position, problem in enumerate(problems):
        rank[problem.class_name] = rank.get(problem.class_name, -1) + 1
        keyed.append((rank[problem.class_name], position))
    return tuple(problems[position] for position in sorted(p for _, p in sorted(keyed)[:number]))


def planned_samples(problems: Iterable[Problem], *, kind: Kind, num_samples: int) -> Iterator[PlannedSample]:
    """Every sample of a stage, in the order in which they are generated and stored."""
    return (PlannedSample(problem_id=p.id, kind=kind, index=k) for p in problems for k in range(num_samples))


def solved_ids(samples: Iterable[Sample]) -> set[str]:
    """The problems with a correct answer that was sampled without a hint."""
    return {s.problem_id for s in samples if s.kind == "rationale" and s.verdict is Verdict.CORRECT}


def problems_to_hint(problems: Iterable[Problem], solved: Set[str]) -> list[Problem]:
    """The failed problems, which get a hint; a problem that was solved without one never does."""
    return [p for p in problems if p.id not in solved]


def scheduled_steps(iteration: int, training: TrainingConfig) -> int:
    """Optimizer steps of an iteration (from 1) by the schedule: int(first * growth^(iteration-1)).

    40 and 1.2 are the paper's (Zelikman et al. 2022, section 4.1), where thousands of examples are accepted.
    """
    try:
        return max(1, int(training.steps_first_iteration * training.steps_growth ** (iteration - 1)))
    except OverflowError:
        return sys.maxsize


def steps_for(iteration: int, training: TrainingConfig, *, num_examples: int) -> int:
    """The scheduled steps of an iteration, at most `training.max_epochs` epochs over its examples.

    A small model may get few examples, and the same steps would repeat them many times. The limit is rounded up to a
    full step.
    """
    most = max(1, math.ceil(training.max_epochs * num_examples / training.batch_size))
    return min(scheduled_steps(iteration, training), most)


def best_iteration(accuracies: Sequence[float]) -> int:
    """Position of the highest dev accuracy, the earliest one if several are equal; position 0 is the base model."""
    return max(range(len(accuracies)), key=lambda i: (accuracies[i], -i))


def weights_to_keep(accuracies: Sequence[float]) -> frozenset[int]:
    """The iterations whose models a run may still need: the best one so far and the last one, by the dev accuracies of
    the base model and of the iterations that are measured.

    The best one is the result, the next iteration samples and maybe starts from the last one. A model that is worse
    than an earlier one, or only equal to it, can never become the best one. 0 stands for a model that was trained
    before iteration 1, which is needed until that is measured; the base model is not the run's to delete.
    """
    best, last = best_iteration(accuracies), len(accuracies) - 1
    return frozenset({best or last, last})


def has_plateaued(accuracies: Sequence[float], *, patience: int) -> bool:
    """Whether none of the last `patience` iterations raised dev accuracy above all earlier ones.

    `accuracies[0]` is the base model's.
    """
    if len(accuracies) <= patience:
        return False
    return max(accuracies[-patience:]) <= max(accuracies[:-patience])

"""Rates with their counts and intervals. Pure: samples in, records out."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from types import MappingProxyType

from selftaught.grading.signs import fold
from selftaught.records.measurements import Changes, IterationSummary, Measurement, Rate, SamplingCounts
from selftaught.records.problems import Problem, Task, Verdict
from selftaught.records.samples import Sample

OF_ALL = ("extraction", "label")
"""Checks of how the answer is stated, which are over all samples."""

LUCK_SAMPLES = 4
"""Samples of a problem below which its solve rate says nothing of luck."""

Z_95 = 1.959963984540054


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927), within [0, 1]; (0, 1) if n is 0."""
    if n == 0:
        return (0.0, 1.0)
    rate, z2 = correct / n, Z_95**2
    center = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At rates of 0 and 1 rounding can move a bound past the rate.
    return (min(max(0.0, center - half), rate), max(min(1.0, center + half), rate))


def rate(correct: int, n: int) -> Rate:
    return Rate(n=n, correct=correct, accuracy=correct / n if n else 0.0, interval=wilson_interval(correct, n))


def rate_text(rate: Rate | Measurement, *, digits: int = 3, with_counts: bool = True) -> str:
    """A rate for people to read: 65/492 0.132 [0.105, 0.165]."""
    low, high = rate.interval
    counts = f"{rate.correct}/{rate.n} " if with_counts else ""
    return f"{counts}{rate.accuracy:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that at least one of k completions, chosen at random among n, is correct (Chen et al. 2021, eq. 1).

    Raises ValueError unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k needs 0 <= correct <= n and 1 <= k <= n, got n={n}, correct={correct}, k={k}")
    return 1.0 - comb(n - correct, k) / comb(n, k)


def votes_of(samples: Sequence[Sample]) -> dict[str, int]:
    """How many samples have each prediction, the one drawn first (by index) first; without the unparseable ones."""
    return dict(Counter(s.prediction for s in sorted(samples, key=lambda s: s.index) if s.prediction is not None))


def majority_prediction(samples: Sequence[Sample]) -> str | None:
    """The most frequent prediction, of equally frequent ones the first by index; None without any prediction."""
    votes = votes_of(samples)
    return max(votes, key=votes.__getitem__) if votes else None


def chance_of_luck(share_correct: float, num_choices: int) -> float:
    """How probable it is that a correct completion was a guess: P(guessed | correct), 0 to 1.

    A model that knows the answer with probability q, and else guesses among c choices, is correct with probability
    q + (1 - q) / c, which `share_correct` estimates; a share below chance counts as q = 0. With c = 5 and q = 0.2, 44 %
    of the correct completions are guesses. Raises ValueError for a share outside [0, 1] or fewer than 2 choices.
    """
    if not 0.0 <= share_correct <= 1.0 or num_choices < 2:
        raise ValueError(f"luck needs a share in [0, 1] and 2 choices or more, got {share_correct} and {num_choices}")
    chance = 1.0 / num_choices
    knows = max(0.0, (share_correct - chance) / (1.0 - chance))
    guessed = (1.0 - knows) * chance
    return guessed / (knows + guessed)


def changes(before: Iterable[Sample], after: Iterable[Sample]) -> Changes:
    """What the first completions of two measurements of the same problems solve and do not solve."""
    then, now = (
        {s.problem_id: s.verdict is Verdict.CORRECT for s in samples if s.index == 0} for samples in (before, after)
    )
    both = then.keys() & now.keys()
    return Changes(
        n=len(both),
        gained=sum(now[id] and not then[id] for id in both),
        lost=sum(then[id] and not now[id] for id in both),
    )


def count_for(task: Task, samples: Iterable[Sample]) -> SamplingCounts:
    """The samples of one stage of a task, counted."""
    return count_samples(
        samples,
        has_step_check=task.check_steps is not None,
        solution_key=task.solution_key,
        num_choices={p.id: len(p.choices) for p in task.train if p.choices},
    )


def count_samples(
    samples: Iterable[Sample],
    *,
    has_step_check: bool,
    solution_key: Callable[[str], str] | None = None,
    num_choices: Mapping[str, int] = MappingProxyType({}),
) -> SamplingCounts:
    """`solution_key` tells different solutions apart, by default by their text; `num_choices` is of the problems that
    have choices."""
    samples = list(samples)
    verdicts = Counter(s.verdict for s in samples)
    key_of = solution_key or fold
    solutions: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.verdict is Verdict.CORRECT:
            solutions[sample.problem_id].add(key_of(sample.completion))
    return SamplingCounts(
        samples=len(samples),
        correct=verdicts[Verdict.CORRECT],
        incorrect=verdicts[Verdict.INCORRECT],
        unparseable=verdicts[Verdict.UNPARSEABLE],
        truncated=sum(s.finish_reason == "length" for s in samples),
        false_positive=sum(s.is_false_positive for s in samples) if has_step_check else None,
        checks=check_rates(samples),
        ended=sum(s.finish_reason == "end" for s in samples),
        complete_tokens=sum(s.num_tokens for s in samples if s.finish_reason != "length"),
        solved=len(solutions),
        solutions=sum(map(len, solutions.values())),
        lucky=_lucky(samples, num_choices),
    )


def _lucky(samples: Sequence[Sample], num_choices: Mapping[str, int]) -> float | None:
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        verdicts[sample.problem_id].append(sample.verdict is Verdict.CORRECT)
    if not verdicts or any(len(v) < LUCK_SAMPLES or num_choices.get(id, 0) < 2 for id, v in verdicts.items()):
        return None
    return sum(sum(v) * chance_of_luck(sum(v) / len(v), num_choices[id]) for id, v in verdicts.items() if any(v))


def check_rates(samples: Iterable[Sample]) -> dict[str, Rate]:
    """How many of the samples with a correct answer passed each check; of those in OF_ALL, how many of all samples."""
    passed: dict[str, list[bool]] = {}
    for sample in samples:
        for name, result in sample.checks.items():
            if name in OF_ALL or sample.verdict is Verdict.CORRECT:
                passed.setdefault(name, []).append(result.passed)
    return {name: rate(sum(results), len(results)) for name, results in passed.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a model was measured on, and how."""

    task: str
    split: str
    iteration: int
    num_shots: int
    temperature: float
    has_step_check: bool


def measure(problems: Sequence[Problem], samples: Sequence[Sample], conditions: Conditions) -> Measurement:
    """Accuracy is over each problem's first completion; pass@k and majority@k need K > 1 samples per problem.

    Raises ValueError if a problem lacks a sample or the problems differ in their number of samples.
    """
    by_problem: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda s: s.index):
        by_problem[sample.problem_id].append(sample)
    numbers = {len(by_problem[problem.id]) for problem in problems}
    if len(numbers) != 1 or 0 in numbers or len(by_problem) != len(problems):
        raise ValueError(f"every problem needs the same number of samples, at least 1; got {sorted(numbers)}")
    (num_samples,) = numbers
    first = {problem.id: by_problem[problem.id][0] for problem in problems}
    is_correct = {pid: sample.verdict is Verdict.CORRECT for pid, sample in first.items()}
    total = rate(sum(is_correct.values()), len(problems))
    return Measurement(
        task=conditions.task,
        split=conditions.split,
        iteration=conditions.iteration,
        num_shots=conditions.num_shots,
        temperature=conditions.temperature,
        num_samples=num_samples,
        n=total.n,
        correct=total.correct,
        accuracy=total.accuracy,
        interval=total.interval,
        by_class=_by_class(problems, is_correct),
        unparseable=sum(s.verdict is Verdict.UNPARSEABLE for s in first.values()),
        truncated=sum(s.finish_reason == "length" for s in first.values()),
        false_positive=sum(s.is_false_positive for s in first.values()) if conditions.has_step_check else None,
        checks=check_rates(first.values()),
        tokens=sum(s.num_tokens for s in samples),
        pass_at_k=_pass_at_powers_of_two(list(by_problem.values()), num_samples) if num_samples > 1 else {},
        majority_at_k=_majority_at_k(by_problem) if num_samples > 1 else None,
    )


def solve_rate_gap(summary: IterationSummary) -> float | None:
    """How much more often hinted completions are correct than unhinted ones, -1 to 1; None if there are not both.

    The hinted ones are of the problems that failed without a hint.
    """
    hinted, unhinted = summary.rationalization, summary.rationale
    if not (hinted.samples and unhinted.samples):
        return None
    return hinted.correct / hinted.samples - unhinted.correct / unhinted.samples


def mean_over_classes(by_class: Mapping[str, Rate]) -> float:
    return sum(rate.accuracy for rate in by_class.values()) / len(by_class) if by_class else 0.0


def _by_class(problems: Sequence[Problem], is_correct: Mapping[str, bool]) -> dict[str, Rate]:
    groups: dict[str, list[bool]] = {}
    for problem in problems:
        groups.setdefault(problem.class_name, []).append(is_correct[problem.id])
    return {name: rate(sum(group), len(group)) for name, group in groups.items()}


def _pass_at_powers_of_two(groups: Sequence[Sequence[Sample]], k_max: int) -> dict[str, float]:
    ks = sorted({2**i for i in range(k_max.bit_length()) if 2**i <= k_max} | {k_max})
    counts = [sum(s.verdict is Verdict.CORRECT for s in group) for group in groups]
    return {str(k): sum(pass_at_k(k_max, correct, k) for correct in counts) / len(counts) for k in ks}


def _majority_at_k(by_problem: Mapping[str, Sequence[Sample]]) -> float:
    correct = 0
    for group in by_problem.values():
        winner = majority_prediction(group)
        correct += any(s.prediction == winner and s.verdict is Verdict.CORRECT for s in group)
    return correct / len(by_problem)

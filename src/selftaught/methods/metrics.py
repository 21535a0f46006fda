"""Rates with their counts and intervals. Pure: samples in, records out."""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb, sqrt
from types import MappingProxyType

from selftaught.grading.signs import fold
from selftaught.methods.selection import text_hash
from selftaught.records.measurements import Changes, IterationSummary, Measurement, Rate, SamplingCounts
from selftaught.records.problems import Problem, Task, Verdict
from selftaught.records.samples import FinishReason, Sample

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


def solved_first(samples: Iterable[Sample]) -> dict[str, bool]:
    """By problem, whether its first completion is correct."""
    return {s.problem_id: s.verdict is Verdict.CORRECT for s in samples if s.index == 0}


def changes(before: Mapping[str, bool], after: Mapping[str, bool]) -> Changes:
    """What two measurements of the same problems solve and do not solve, each as `solved_first` has it."""
    both = before.keys() & after.keys()
    return Changes(
        n=len(both),
        gained=sum(after[id] and not before[id] for id in both),
        lost=sum(before[id] and not after[id] for id in both),
    )


class SampleCounter:
    """Counts samples as they come, and holds none: of a correct one a hash, by which solutions are told apart."""

    def __init__(
        self,
        *,
        has_step_check: bool,
        solution_key: Callable[[str], str] | None = None,
        num_choices: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`solution_key` tells different solutions apart, by default by their text; `num_choices` is of the problems
        that have choices."""
        self._has_step_check, self._key_of, self._num_choices = has_step_check, solution_key or fold, num_choices
        self._verdicts: Counter[Verdict] = Counter()
        self._endings: Counter[FinishReason] = Counter()
        self._checks = _CheckCounter()
        self._false_positives = self._complete_tokens = 0
        self._solved: set[str] = set()
        self._solutions: set[bytes] = set()
        self._of_problem: dict[str, list[int]] = {}
        """By problem its samples and the correct ones of them; only where there are choices to guess among."""

    @property
    def samples(self) -> int:
        return self._verdicts.total()

    @property
    def correct(self) -> int:
        return self._verdicts[Verdict.CORRECT]

    def add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            is_correct = sample.verdict is Verdict.CORRECT
            self._verdicts[sample.verdict] += 1
            self._endings[sample.finish_reason] += 1
            self._checks.add(sample)
            self._false_positives += sample.is_false_positive
            self._complete_tokens += sample.num_tokens if sample.finish_reason != "length" else 0
            if is_correct:
                id = sys.intern(sample.problem_id)
                self._solved.add(id)
                self._solutions.add(text_hash(f"{len(id)} {id}{self._key_of(sample.completion)}"))
            if self._num_choices:
                of_problem = self._of_problem.setdefault(sample.problem_id, [0, 0])
                of_problem[0] += 1
                of_problem[1] += is_correct

    def counts(self) -> SamplingCounts:
        return SamplingCounts(
            samples=self.samples,
            correct=self.correct,
            incorrect=self._verdicts[Verdict.INCORRECT],
            unparseable=self._verdicts[Verdict.UNPARSEABLE],
            truncated=self._endings["length"],
            false_positive=self._false_positives if self._has_step_check else None,
            checks=self._checks.rates(),
            ended=self._endings["end"],
            complete_tokens=self._complete_tokens,
            solved=len(self._solved),
            solutions=len(self._solutions),
            lucky=self._lucky(),
        )

    def _lucky(self) -> float | None:
        groups, choices = self._of_problem, self._num_choices
        if not groups or any(n < LUCK_SAMPLES or choices.get(id, 0) < 2 for id, (n, _) in groups.items()):
            return None
        return sum(c * chance_of_luck(c / n, choices[id]) for id, (n, c) in groups.items() if c)


def counter_for(task: Task) -> SampleCounter:
    """What counts the samples of one stage of a task."""
    return SampleCounter(
        has_step_check=task.check_steps is not None,
        solution_key=task.solution_key,
        num_choices={p.id: len(p.choices) for p in task.train if p.choices},
    )


class _CheckCounter:
    """How many of the samples with a correct answer passed each check; of those in OF_ALL, how many of all samples."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        """By name, how many were checked and how many of them passed."""

    def add(self, sample: Sample) -> None:
        for name, result in sample.checks.items():
            if name in OF_ALL or sample.verdict is Verdict.CORRECT:
                counts = self._counts.setdefault(name, [0, 0])
                counts[0] += 1
                counts[1] += result.passed

    def rates(self) -> dict[str, Rate]:
        return {name: rate(passed, n) for name, (n, passed) in self._counts.items()}


def check_rates(samples: Iterable[Sample]) -> dict[str, Rate]:
    """The rates of checks over some samples, as in `SamplingCounts`."""
    counter = _CheckCounter()
    for sample in samples:
        counter.add(sample)
    return counter.rates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a model was measured on, and how."""

    task: str
    split: str
    iteration: int
    num_shots: int
    temperature: float
    has_step_check: bool


def without_text(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Samples as far as a measurement looks at them: text and token ids are most of what a sample takes of memory."""
    return (replace(s, completion="", token_ids=None) for s in samples)


def measure(problems: Sequence[Problem], samples: Sequence[Sample], conditions: Conditions) -> Measurement:
    """Accuracy is over each problem's first completion; pass@k and majority@k need K > 1 samples per problem. Texts are
    not looked at (`without_text`).

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

"""AdaSTaR (Koh et al. 2025, arXiv 2505.16322): sample the problems that were learned from least, and stop when enough.

Every problem has two numbers: the last iteration in which it counts as sampled, t (0 at first), and its win rate then,
w (the share of its attempts that were accepted, 0 at first). An iteration visits the problems in the order of (t, w):
those not sampled for longest, of these the hardest. It stops as soon as what it has accepted fills its training, which
is `steps * batch_size` examples (Algorithm 1, "AdaD"). Then only the first floor(m * alpha^2) of the m visited problems
get t = this iteration and w = their new win rate; the others keep their numbers and come first again, so that a weak
model meets the same problems more often (Algorithm 1, "AdaC").

What the paper leaves open, and what is done here:

- alpha is the share of the visited problems with an accepted attempt, as in the authors' code; the paper says training
  accuracy. floor is the paper's; the authors' code rounds.
- Problems with equal (t, w) are visited in an order drawn from the run's seed; the authors' code takes them by id.
- A problem's attempts are `sampling.num_samples` samples without a hint, and one with it if none of them is correct
  (unless `rationalization.hints = "none"`). What is accepted, `selection.require` and `require_hinted` say.
- Samples are made a chunk at a time, so that an iteration may sample problems beyond those that fill its training.
  Those samples are stored and left out of training with the reason "beyond the batch", and change no t and no w: the
  iteration is what it would be if problems were sampled one by one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from selftaught.methods.method import Draw, StandardMethod
from selftaught.methods.plan import problems_to_hint, scheduled_steps, solved_ids
from selftaught.methods.selection import leave_out, rejection, rule_of
from selftaught.methods.settings import Knobs
from selftaught.methods.training_set import TrainingSet
from selftaught.records.problems import Problem, Task
from selftaught.records.samples import PlannedSample, Rereadable, Sample
from selftaught.records.seeds import seed_for


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a problem: the order of these is the order in which problems are visited."""

    last_sampled: int
    """t: the last iteration in which it counts as sampled; 0 for none."""
    win_rate: float
    """w: accepted attempts of all attempts in that iteration, 0 to 1."""


class AdaStar(StandardMethod):
    """The standard method with its own choice of problems and its own end of sampling."""

    def __init__(self, knobs: Knobs, task: Task) -> None:
        super().__init__(knobs, task)
        self._rule = rule_of(knobs, task)
        self._tie = {p.id: seed_for(knobs.seed, "adastar", p.id) for p in task.train}
        self.standing = {p.id: Standing(0, 0.0) for p in task.train}
        self._order: list[Problem] = []
        """All problems, as this iteration visits them."""
        self._drawn = 0
        """Problems of the order that have been drawn."""
        self._unhinted: list[Problem] = []
        """Of these, the failed ones that still need a hint."""
        self._attempts: dict[str, list[bool]] = {}
        """By problem, whether each attempt of this iteration was accepted."""
        self._visited: tuple[Problem, ...] = ()

    @property
    def remembers(self) -> bool:
        return True

    def begin(self, iteration: int) -> None:
        self.iteration = iteration
        self._order = sorted(
            self.task.train,
            key=lambda p: (self.standing[p.id].last_sampled, self.standing[p.id].win_rate, self._tie[p.id]),
        )
        self._drawn, self._unhinted, self._attempts, self._visited = 0, [], {}, ()
        self.problems = ()

    def next_samples(self, limit: int) -> Draw | None:
        if self._unhinted:
            hinted, self._unhinted = self._unhinted[:limit], self._unhinted[limit:]
            return self._draw("rationalization", hinted, 1)
        missing = self._batch() - self._accepted()
        left = self._order[self._drawn :]
        num_samples = self.knobs.sampling.num_samples
        if missing <= 0 or not left or not num_samples:
            self._end()
            return None
        # As many problems as should fill what is missing, by the yield so far: fewer would be slow, more in vain.
        per_problem = max(self._accepted(), 1) / self._drawn if self._drawn else num_samples
        number = max(1, min(ceil(missing / per_problem), limit // num_samples, len(left)))
        self._drawn += number
        return self._draw("rationale", left[:number], num_samples)

    def add(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            self._attempts.setdefault(sample.problem_id, []).append(rejection(sample, self._rule) is None)
        if samples and samples[0].kind == "rationale" and self.knobs.rationalization.hints != "none":
            drawn = self._order[: self._drawn]
            new = {s.problem_id for s in samples}
            self._unhinted = problems_to_hint([p for p in drawn if p.id in new], solved_ids(samples))

    def training_set(self, samples: Iterable[Sample], earlier: Iterable[Sample]) -> TrainingSet:
        visited = {p.id for p in self._visited}
        among = Rereadable(lambda: (s for s in samples if s.problem_id in visited))
        chosen = self.select(among)
        beyond = [leave_out(s, "beyond the batch") for s in samples if s.problem_id not in visited]
        return self.as_training_set(replace(chosen, left_out=(*chosen.left_out, *beyond)), among)

    def _draw(
        self, kind: Literal["rationale", "rationalization"], problems: Sequence[Problem], num_samples: int
    ) -> Draw:
        planned = (PlannedSample(problem_id=p.id, kind=kind, index=k) for p in problems for k in range(num_samples))
        return Draw(kind=kind, planned=tuple(planned), total=None)

    def _batch(self) -> int:
        """beta: the training examples that the iteration's steps see."""
        training = self.knobs.training
        return scheduled_steps(self.iteration, training) * training.batch_size

    def _accepted(self) -> int:
        return sum(map(sum, self._attempts.values()))

    def _end(self) -> None:
        """Find the problems that fill the batch, in order, and update the standing of the first of them."""
        if self.problems or not self._attempts:
            return
        accepted = number = solved = 0
        for problem in self._order[: self._drawn]:
            if accepted >= self._batch():
                break
            attempts = self._attempts[problem.id]
            accepted, number, solved = accepted + sum(attempts), number + 1, solved + any(attempts)
        self._visited = tuple(self._order[:number])
        self.problems = self._visited
        # Whole numbers, because floor(m * (s / m)^2) of a rounded quotient can be one too low.
        for problem in self._visited[: solved * solved // number]:
            attempts = self._attempts[problem.id]
            self.standing[problem.id] = Standing(self.iteration, sum(attempts) / len(attempts))

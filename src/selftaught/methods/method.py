"""The seam of a method: what to sample next, and what to train on; and the standard method, which settings steer."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from selftaught.methods.plan import choose_problems, planned_samples, problems_to_hint, solved_ids
from selftaught.methods.selection import Selection, rule_of, select
from selftaught.methods.settings import Knobs
from selftaught.methods.training_set import TrainingSet, training_set
from selftaught.records.problems import Problem, Task
from selftaught.records.samples import PlannedSample, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The next samples to make: one chunk, which is generated and saved as a whole."""

    kind: Literal["rationale", "rationalization"]
    """Without or with the answer as a hint."""
    planned: tuple[PlannedSample, ...]
    """At least one, all of this kind, in the order in which they are stored."""
    total: int | None
    """Samples of this kind in the iteration; None if the method decides as it goes.

    With a number, the draws of this kind do not depend on their samples: until so many are drawn, the next ones may be
    asked for before the samples of the last ones are added, and are the same. So several chunks can be made at a time.
    """


class Method(Protocol):
    """Decides what an iteration samples and trains on. One object lives as long as the process of its run.

    It is a fold: its state is a function of what it was begun with and of the samples that were added, in their order,
    and of nothing else (no clock, no random numbers but from seeds). So it is rebuilt from the run folder, by the same
    calls with the samples that are on disk, and a killed run decides as it would have without the kill.
    """

    @property
    def remembers(self) -> bool:
        """Whether an iteration depends on the samples of earlier ones. If not, finished ones are not read again."""
        ...

    @property
    def problems(self) -> Sequence[Problem]:
        """The training problems of the iteration that has begun, as far as they are decided."""
        ...

    def begin(self, iteration: int) -> None:
        """Iteration `iteration` begins, counted from 1; all samples of the one before have been added."""
        ...

    def next_samples(self, limit: int) -> Draw | None:
        """At most `limit` samples to make now; None if this iteration samples no more.

        All samples that were drawn before have been added, except as `Draw.total` says.
        """
        ...

    def add(self, samples: Sequence[Sample]) -> None:
        """The samples of a draw, in its order; draws are added in the order in which they were drawn."""
        ...

    def training_set(self, samples: Sequence[Sample], earlier: Iterable[Sample]) -> TrainingSet:
        """What the iteration trains on, once it samples no more.

        `samples` are those of this iteration, in the order in which they were added; `earlier` are those of all
        iterations before it, read from disk only if they are looked at. Every sample that is looked at is trained on,
        or held out, or left out with a reason. Raises NothingAccepted if nothing is left to train on.
        """
        ...


class StandardMethod:
    """Every method of the family that settings describe: sample chosen problems, hint the failed ones, select.

    A method that differs in one answer overrides that one: `choose`, or `training_set`.
    """

    def __init__(self, knobs: Knobs, task: Task) -> None:
        self.knobs, self.task = knobs, task
        self.iteration = 0
        self.problems: Sequence[Problem] = ()
        self.solved: frozenset[str] = frozenset()
        """Problems with a correct answer without a hint in earlier iterations; complete only if `remembers`."""
        self._solved_now: set[str] = set()
        self._drawing: Literal["rationale", "rationalization"] = "rationale"
        self._planned: Iterator[PlannedSample] = iter(())
        self._total = 0

    @property
    def remembers(self) -> bool:
        return self.knobs.task.choose == "unsolved-first"

    def begin(self, iteration: int) -> None:
        self.solved |= self._solved_now
        self._solved_now = set()
        self.iteration = iteration
        self.problems = self.choose()
        self._plan("rationale", self.problems, num_samples=self.knobs.sampling.num_samples)

    def choose(self) -> Sequence[Problem]:
        """The training problems of the iteration that begins."""
        return choose_problems(
            self.task.train,
            how=self.knobs.task.choose,
            number=self.knobs.task.problems_per_iteration,
            solved=self.solved,
            seed=self.knobs.seed,
            iteration=self.iteration,
        )

    def next_samples(self, limit: int) -> Draw | None:
        planned = tuple(islice(self._planned, limit))
        if not planned and self._drawing == "rationale" and self.knobs.rationalization.hints != "none":
            failed = problems_to_hint(self.problems, self._solved_now)
            self._plan("rationalization", failed, num_samples=1)
            planned = tuple(islice(self._planned, limit))
        return Draw(kind=self._drawing, planned=planned, total=self._total) if planned else None

    def add(self, samples: Sequence[Sample]) -> None:
        self._solved_now |= solved_ids(samples)

    def training_set(self, samples: Sequence[Sample], earlier: Iterable[Sample]) -> TrainingSet:
        among = [*earlier, *samples] if self.knobs.training.window == "all" else samples
        return self.as_training_set(self.select(among))

    def select(self, samples: Iterable[Sample]) -> Selection:
        """Select as the settings say."""
        return select(samples, rule_of(self.knobs, self.task), solution_key=self.task.solution_key)

    def as_training_set(self, selection: Selection) -> TrainingSet:
        """The training examples of a selection, with what the settings add to them."""
        return training_set(
            self.knobs.training,
            self.task,
            self.iteration,
            selection,
            self.problems,
            with_hints=self.knobs.rationalization.gives_hints,
        )

    def _plan(
        self, kind: Literal["rationale", "rationalization"], problems: Sequence[Problem], *, num_samples: int
    ) -> None:
        self._drawing = kind
        self._planned = planned_samples(problems, kind=kind, num_samples=num_samples)
        self._total = len(problems) * num_samples

"""A finished cell of a comparison as numbers: everything that its row in the table needs, read from its run folder."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from selftaught.comparison.plan import Cell
from selftaught.records.errors import StoreError
from selftaught.records.measurements import Measurement
from selftaught.records.problems import Verdict
from selftaught.records.training import TrainingExample, TrainingSummary
from selftaught.report.run_tables import Run, read_run
from selftaught.runs.lines import read_lines
from selftaught.runs.reading import read_measurements, read_passes, read_problems, read_samples
from selftaught.runs.store import RunStore
from selftaught.tracking.points import work_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OnTest:
    """A model on test."""

    iteration: int
    """That trained it; 0 is the base model."""
    measurement: Measurement
    solved: tuple[bool, ...]
    """By problem, in the order of the file."""
    unhinted: int
    hinted: int
    """Training problems that the last training before the model had, with a rationale or solution, or only with a
    rationalization; 0 of the base model."""
    steps: int
    """Optimizer steps between the base model and this one."""
    loss_tokens: int | None
    """Tokens with loss in them; None if the trainer does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a run took. All but the seconds as if it were alone: what it shares with others is counted too."""

    steps: int
    """Optimizer steps of all trainings."""
    generated: int
    """Tokens of all completions."""
    trained: int
    """Tokens that went through the model in training."""
    flops: float | None
    """2 for each parameter and generated token, 6 (4 with adapters) for each trained one; None without parameters."""
    seconds: float
    """Of the iterations, each in the process that finished it: sampling, training and measuring on dev. What was taken
    from the shared samples took none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """An iteration in the plots."""

    iteration: int
    accuracy: float
    """On dev."""
    tokens: int
    """Generated to train on, and trained on, in all iterations up to this one; measuring is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished cell."""

    cell: Cell
    problems: tuple[str, ...]
    """Of test, by id, in the order in which they were measured."""
    data_sha256: str
    base_sha256: str | None
    """Of all problems, and of the base model's weights."""
    train: int
    """Training problems that there are."""
    base: OnTest
    selected: OnTest
    """The best on dev."""
    last: OnTest
    """The last iteration, whatever it is like on dev."""
    work: Work
    points: tuple[Point, ...]
    passes: Mapping[int, Measurement] = field(default_factory=dict)
    """By iteration, where several completions of each dev problem were sampled: pass@k."""


def read_cell(cell: Cell, run_dir: Path) -> Result | None:
    """The numbers of a finished run; None for one that has not finished.

    Raises StoreError for a damaged folder, and for a run whose last iteration was not measured on test.
    """
    if not (run_dir / "run.json").exists():
        return None
    run = read_run(run_dir)
    if run.result is None:
        return None
    best, last = int(run.result["best_iteration"]), len(run.summaries)
    tested = {m.iteration: m for m in read_measurements(run_dir) if m.split == "test"}
    solved, tokens = _sampled(run_dir, {0, best, last})
    if missing := {0, best, last} - (solved.keys() & tested.keys()):
        raise StoreError(
            f"{run_dir}: the model of iteration {min(missing)} was not measured on test; it is no run of a comparison "
            "(loop.test_last), so begin it anew"
        )
    first = RunStore(run_dir).checkpoint(0)
    trainings = {**({0: first.train} if first else {}), **{s.iteration: s.train for s in run.summaries}}

    def of(iteration: int) -> OnTest:
        return _tested(run_dir, run, tested[iteration], tuple(solved[iteration].values()), trainings)

    return Result(
        cell=cell,
        problems=tuple(solved[0]),
        data_sha256=str(run.about.get("data_sha256")),
        base_sha256=run.about["model"].get("sha256"),
        train=sum(problem.split == "train" for problem in read_problems(run_dir)),
        base=of(0),
        selected=of(best),
        last=of(last),
        work=_work(run, trainings.values(), tokens.total()),
        points=_points(run, trainings, tokens),
        passes={m.iteration: m for m in read_passes(run_dir)},
    )


def _sampled(run_dir: Path, iterations: set[int]) -> tuple[dict[int, dict[str, bool]], Counter[tuple[str, int]]]:
    """Of some iterations, which test problems their models solve; and the tokens of all completions, by what they were
    sampled for (to `train` on, or to `measure`) and iteration."""
    solved: dict[int, dict[str, bool]] = {}
    tokens: Counter[tuple[str, int]] = Counter()
    for path, sample in read_samples(run_dir):
        tokens["measure" if sample.kind == "evaluation" else "train", sample.iteration] += sample.num_tokens
        if path.name == f"{sample.iteration:03d}-test.jsonl" and sample.iteration in iterations:
            solved.setdefault(sample.iteration, {})[sample.problem_id] = sample.verdict is Verdict.CORRECT
    return solved, tokens


def _tested(
    run_dir: Path,
    run: Run,
    measurement: Measurement,
    solved: tuple[bool, ...],
    trainings: Mapping[int, TrainingSummary],
) -> OnTest:
    n = measurement.iteration
    continues = run.setting("training.start_from") == "previous"
    lineage = [t for k, t in trainings.items() if n and (k == n or (continues and k < n))]
    loss = [t.loss_tokens for t in lineage]
    used = _used(run_dir, n) if n else Counter()
    return OnTest(
        iteration=n,
        measurement=measurement,
        solved=solved,
        unhinted=used["unhinted"],
        hinted=used["hinted"],
        steps=sum(t.steps for t in lineage),
        loss_tokens=None if None in loss else sum(t for t in loss if t is not None),
    )


def _used(run_dir: Path, iteration: int) -> Counter[str]:
    """How many problems an iteration trained on; few-shot examples are none of train."""
    kinds: dict[str, str] = {}
    for example in read_lines(TrainingExample, run_dir / "examples" / f"{iteration:03d}.jsonl"):
        if example.source == "rationalization":
            kinds.setdefault(example.problem_id, "hinted")
        elif example.source != "rehearsed":
            kinds[example.problem_id] = "unhinted"
    return Counter(kinds.values())


def _work(run: Run, trainings: Iterable[TrainingSummary], generated: int) -> Work:
    trainings = list(trainings)
    trained = sum(t.tokens for t in trainings)
    is_low_rank = bool(run.about["config"].get("training.lora_rank"))
    of_token = work_of(run.about["model"].get("parameters"), is_low_rank=is_low_rank)
    flops = None
    if of_token.generated is not None and of_token.trained is not None:
        flops = of_token.generated * generated + of_token.trained * trained
    return Work(
        steps=sum(t.steps for t in trainings),
        generated=generated,
        trained=trained,
        flops=flops,
        seconds=sum(sum(s.seconds.values()) for s in run.summaries),
    )


def _points(
    run: Run, trainings: Mapping[int, TrainingSummary], sampled: Mapping[tuple[str, int], int]
) -> tuple[Point, ...]:
    points, tokens = [], 0
    for iteration, dev in enumerate(run.dev):
        # A training before the first iteration makes the model that this one samples with, not the base model.
        trained = {iteration, 0} if iteration == 1 else {iteration} - {0}
        tokens += sum(trainings[n].tokens for n in trained if n in trainings)
        tokens += sampled.get(("train", iteration), 0)
        points.append(Point(iteration=iteration, accuracy=dev.accuracy, tokens=tokens))
    return tuple(points)

"""What a tracker gets of a whole run folder, finished or not: every item once, each axis in order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from selftaught.config.settings import TrackingConfig
from selftaught.records.measurements import IterationSummary, Measurement
from selftaught.records.samples import Sample
from selftaught.records.training import TrainingExample
from selftaught.runs.lines import read_lines
from selftaught.runs.reading import (
    StoredProblems,
    read_measurements,
    read_passes,
    read_problems,
    read_result,
    read_run_json,
    read_steps,
    read_summaries,
)
from selftaught.tracking.points import (
    ITERATION,
    Files,
    Item,
    Row,
    StepRows,
    Texts,
    Work,
    capped,
    counts_row,
    iteration_row,
    later_row,
    measured_row,
    result_row,
    warnings_table,
    work_of,
)

KINDS = ("rationale", "rationalization")
COLUMNS = (
    "problem_id",
    "kind",
    "verdict",
    "question",
    "completion",
    "prediction",
    "answer",
    "tokens",
    "finish_reason",
    "seed",
)
HIDDEN = "(not sent)"
FREE_TEXT = ("engine.url", "engine.vllm_args", "engine.vllm_python", "engine.api_key_env")
"""Settings that may hold a host, a path or a secret in any form."""


class RunFolder:
    """A run folder as a tracker sees it; it is read when it is asked, so it may grow meanwhile."""

    def __init__(self, run_dir: Path, settings: TrackingConfig) -> None:
        """Raises StoreError for what is no run folder."""
        self.dir, self._settings = run_dir, settings
        self._about = read_run_json(run_dir)
        self._problems: StoredProblems | None = None
        self._num_train: int | None = None

    @property
    def work(self) -> Work:
        parameters = self._about["model"].get("parameters")
        return work_of(parameters, is_low_rank=bool(self._about["config"].get("training.lora_rank")))

    def description(self) -> dict[str, Any]:
        """The resolved config and what else describes a run, without paths, hosts and secrets."""
        about = self._about
        resolved = {
            key: value for key, value in about["resolved"].items() if isinstance(value, str | int) and value is not None
        }
        return {
            **{key: without_places(key, value) for key, value in about["config"].items()},
            **{f"resolved.{key}": value for key, value in resolved.items()},
            **{f"version.{name}": number for name, number in about.get("versions", {}).items()},
            "model.sha256": about["model"].get("sha256"),
            "model.parameters": about["model"].get("parameters"),
            "data_sha256": about.get("data_sha256"),
            "started": about.get("started"),
        }

    def items(self) -> Iterator[Item]:
        """Everything that is there so far."""
        steps = StepRows(self.work)
        by_training = {n: list(of) for n, of in groupby(read_steps(self.dir), key=lambda step: step.iteration)}
        measurements = read_measurements(self.dir)
        summaries = read_summaries(self.dir)
        passes = read_passes(self.dir)
        yield from map(measured_row, (*_measured_at(measurements, 0, "dev"), *_measured_at(passes, 0, "dev")))
        yield from map(steps.row, by_training.pop(0, []))
        for summary in summaries:
            yield from map(steps.row, by_training.pop(summary.iteration, []))
            yield from self.of_iteration(summary)
            yield from map(measured_row, _measured_at(measurements, summary.iteration, "dev"))
            yield from map(measured_row, _measured_at(passes, summary.iteration, "dev"))
        for unfinished in by_training.values():
            yield from map(steps.row, unfinished)
        yield from (measured_row(m) for m in measurements if m.split != "dev" or m.iteration > len(summaries))
        if (result := read_result(self.dir)) is not None:
            base, test = (result[name]["accuracy"] for name in ("base", "test"))
            yield result_row(int(result["best_iteration"]), base, test)
        task = measurements[0].task if measurements else None
        for number, measurement in enumerate(read_later(self.dir), start=1):
            yield later_row(measurement, number, task=task)

    def of_iteration(self, summary: IterationSummary) -> Iterator[Item]:
        """Of a finished iteration, all but its optimizer steps and its measurement."""
        n = summary.iteration
        counts = {"rationale": summary.rationale, "rationalization": summary.rationalization}
        shown: list[Sample] = []
        for kind in KINDS:
            yield counts_row(n, kind, counts[kind])
            wanted = spaced(counts[kind].samples, self._settings.table_rows // len(KINDS))
            lengths, samples = _looked_through(self._samples(n, kind), wanted)
            shown += samples
            if lengths:
                yield Row(key=f"lengths/{kind}/{n}", axis=ITERATION, at=n, values=lengths.values(kind))
        yield Row(key=f"selection/{n}", axis=ITERATION, at=n, values=self._used(n))
        yield iteration_row(summary, self.work)
        if shown:
            yield self._table(n, shown)
        if (warnings := warnings_table(summary)) is not None:
            yield warnings
        yield from self._files(n)

    def _samples(self, n: int, kind: str) -> Iterator[Sample]:
        return read_lines(Sample, self.dir / "samples" / f"{n:03d}-{kind}.jsonl")

    def _used(self, n: int) -> dict[str, float]:
        """The share of the training problems that the training set has a sampled solution of."""
        examples = read_lines(TrainingExample, self.dir / "examples" / f"{n:03d}.jsonl")
        used = {example.problem_id for example in examples if example.source in KINDS}
        if self._num_train is None:
            self._num_train = sum(problem.split == "train" for problem in read_problems(self.dir))
        return {"selection/train_used": len(used) / self._num_train} if self._num_train else {}

    def _table(self, n: int, samples: Sequence[Sample]) -> Texts:
        self._problems = self._problems or StoredProblems(self.dir)
        problems = {s.problem_id: self._problems[s.problem_id] for s in samples}
        rows: list[tuple[str | int, ...]] = [
            (
                s.problem_id,
                s.kind,
                str(s.verdict),
                capped(problems[s.problem_id].question),
                capped(s.completion),
                capped(s.prediction or ""),
                capped(problems[s.problem_id].answer),
                s.num_tokens,
                s.finish_reason,
                str(s.seed),
            )
            for s in samples
        ]
        name = f"samples/iteration-{n:03d}"
        return Texts(key=f"samples/{n}", name=name, iteration=n, columns=COLUMNS, rows=tuple(rows))

    def _files(self, n: int) -> Iterator[Files]:
        if "checkpoints" in self._settings.artifacts and (self.dir / "checkpoints" / f"{n:03d}").is_dir():
            yield Files(key=f"checkpoint/{n}", kind="checkpoint", iteration=n, path=f"checkpoints/{n:03d}")
        if "training_sets" in self._settings.artifacts:
            yield Files(key=f"training-set/{n}", kind="training-set", iteration=n, path=f"examples/{n:03d}.jsonl")


def read_later(run_dir: Path) -> list[Measurement]:
    """What `eval` measured of a tracked run."""
    return list(read_lines(Measurement, run_dir / "tracking" / "evaluations.jsonl"))


def without_places(key: str, value: Any) -> Any:
    """A setting without what says where on which machine something is: of a path its last part is left."""
    if isinstance(value, list | tuple):
        return [without_places(key, item) for item in value]
    if not isinstance(value, str):
        return value
    if key in FREE_TEXT or "://" in value:
        return HIDDEN
    return f"…/{value.rpartition('/')[2]}" if value.startswith(("/", "~")) else value


def spaced(n: int, wanted: int) -> set[int]:
    """Numbers below n, as many as are wanted, at even distances."""
    return {i * n // wanted for i in range(wanted)} if 0 < wanted < n else set(range(min(n, wanted)))


@dataclass(slots=True)
class _Lengths:
    samples: int = 0
    tokens: int = 0
    ended: int = 0
    ended_tokens: int = 0
    scored_tokens: int = 0
    logprob: float = 0.0

    def add(self, sample: Sample) -> None:
        self.samples += 1
        self.tokens += sample.num_tokens
        if sample.finish_reason != "length":
            self.ended += 1
            self.ended_tokens += sample.num_tokens
        if sample.logprob is not None:
            self.scored_tokens += sample.num_tokens
            self.logprob += sample.logprob

    def __bool__(self) -> bool:
        return self.samples > 0

    def values(self, kind: str) -> dict[str, float]:
        values = {f"{kind}/tokens_mean": self.tokens / self.samples}
        if self.ended:
            values[f"{kind}/tokens_mean_ended"] = self.ended_tokens / self.ended
        if self.scored_tokens:
            values[f"{kind}/logprob_per_token"] = self.logprob / self.scored_tokens
        return values


def _looked_through(samples: Iterable[Sample], wanted: set[int]) -> tuple[_Lengths, list[Sample]]:
    """The lengths of all samples, and those whose positions are wanted."""
    lengths, chosen = _Lengths(), []
    for position, sample in enumerate(samples):
        lengths.add(sample)
        if position in wanted:
            chosen.append(sample)
    return lengths, chosen


def _measured_at(measurements: Iterable[Measurement], iteration: int, split: str) -> list[Measurement]:
    return [m for m in measurements if m.iteration == iteration and m.split == split]

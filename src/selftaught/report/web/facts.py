"""Samples, problems and training examples of a run folder as the page shows them: plain values, ready for JSON.

Functions of the run folder. A sample's `fate` is what its own iteration made of it: later iterations of a method that
trains on all samples so far decide again, and their lists are not read here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from selftaught.records.problems import StoredProblem
from selftaught.records.samples import LeftOut, Sample
from selftaught.records.training import TrainingExample
from selftaught.runs.lines import adapter_of, read_lines
from selftaught.runs.reading import dump_sample

STAGES = ("rationale", "rationalization", "dev", "test", "extrapolation")
"""In the order in which a run makes them."""
NOT_SHOWN = ("token_ids", "seed", "weights_sha256", "end_id")
"""Fields of a sample that the page has no use for; `selftaught show --json` prints them."""

Key = tuple[str, str, int]
"""A sample within an iteration: problem id, kind, index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of a sample."""

    kept: bool
    reason: str | None = None
    """Why it was left out."""
    source: str | None = None
    """Of the training example that it became."""


def stage_of(path: Path) -> str:
    """The stage of a file of samples, `002-rationale.jsonl`."""
    return path.stem.partition("-")[2]


def sample_values(sample: Sample, stage: str, fate: Fate | None) -> dict[str, Any]:
    """A sample for the page; `fate` is None for one that measures, and for one whose iteration has not decided yet."""
    values = dump_sample(sample)
    for name in NOT_SHOWN:
        del values[name]
    return {
        **values,
        "stage": stage,
        "kept": None if fate is None else fate.kept,
        "reason": None if fate is None else fate.reason,
        "source": None if fate is None else fate.source,
    }


def problem_values(problem: StoredProblem) -> dict[str, Any]:
    return cast(dict[str, Any], adapter_of(StoredProblem).dump_python(problem, mode="json"))


def fates_of(run_dir: Path, iteration: int) -> dict[Key, Fate]:
    """Of the samples that an iteration made. Empty as long as it has not chosen what it trains on.

    Raises StoreError for a damaged file.
    """
    name, fates = f"{iteration:03d}.jsonl", dict[Key, Fate]()
    for left in read_lines(LeftOut, run_dir / "left_out" / name):
        if left.iteration == iteration:
            fates[left.problem_id, left.kind, left.index] = Fate(kept=False, reason=left.reason)
    for example in read_lines(TrainingExample, run_dir / "examples" / name):
        if example.iteration == iteration and example.source in ("rationale", "rationalization"):
            fates[example.problem_id, example.source, example.index] = Fate(kept=True, source=example.source)
    return fates


def example_values(example: TrainingExample, trained: int) -> dict[str, Any]:
    """A row of the training set of iteration `trained`, by what carries loss: `completion` and one end token."""
    values = cast(dict[str, Any], adapter_of(TrainingExample).dump_python(example, mode="json"))
    del values["completion_ids"]
    return {**values, "trained": trained}


def read_examples(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The rows of all training sets but for rehearsed few-shot examples, which may have the ids of problems."""
    for path in sorted((run_dir / "examples").glob("*.jsonl")):
        for example in read_lines(TrainingExample, path):
            if example.source != "rehearsed":
                yield example_values(example, int(path.stem))


WORTH = {"-": 0, "u": 1, "h": 2, "s": 3}
"""Of several samples of a problem in an iteration, the best counts."""

Solved = Iterable[tuple[str, str, int, bool]]
"""(problem id, stage, iteration, whether it was solved) of samples; of a measurement, of first completions alone."""


def states_of(problems: Iterable[StoredProblem], solved: Solved, iterations: int) -> list[dict[str, Any]]:
    """The rows of the grid: each problem with a letter for every iteration from 0 on.

    `s` solved without a hint, `h` solved by a hint alone, `u` unsolved, `-` not sampled.
    """
    known: dict[str, list[str]] = {}
    for id, stage, iteration, is_solved in solved:
        states = known.setdefault(id, ["-"] * (iterations + 1))
        state = "u" if not is_solved else "h" if stage == "rationalization" else "s"
        if WORTH[state] > WORTH[states[iteration]]:
            states[iteration] = state
    return [
        {"id": problem.id, "class": problem.class_name, "split": problem.split, "states": "".join(known[problem.id])}
        for problem in problems
        if problem.split != "few_shot" and problem.id in known
    ]

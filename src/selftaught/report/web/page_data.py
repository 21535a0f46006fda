"""All that the page shows of runs, as one value that is ready for JSON: what a report of one file holds.

More samples than fit are left out by whole problems, the same ones in every run, since a problem through the iterations
is what the page is for; the overview and the grid are always of everything.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selftaught import __version__
from selftaught.records.prompts import StoredPrompt
from selftaught.report.web.facts import (
    Fate,
    Key,
    fates_of,
    problem_values,
    read_examples,
    sample_values,
    stage_of,
    states_of,
)
from selftaught.report.web.folders import comparison_values, look_at
from selftaught.report.web.overview import overview
from selftaught.runs.lines import read_lines
from selftaught.runs.reading import PROMPTS, StoredProblems, read_problems, read_samples
from selftaught.runs.scores import SCORES, read_scores

FORMAT = 1
"""Of this value; a page reads its own only, which comes with it."""
MAX_BYTES = 20_000_000
"""Of the samples in one file, as JSON."""


def page_data(folders: Sequence[Path], *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The overview, the grid, the problems and the samples of runs; of more than `max_bytes` of samples a selection.

    Of a comparison that is among the folders, its runs and its table. Raises ConfigError for a run that is given twice,
    StoreError for a folder that is neither or is damaged.
    """
    given = look_at(folders)
    runs = given.runs
    views = {name: overview(run_dir, name=name) for name, run_dir in runs.items()}  # refuses what is no run folder
    sizes = [_Sizes.of(run_dir) for run_dir in runs.values()]
    chosen = chosen_problems([size.by_problem for size in sizes], max_bytes)
    return {
        "format": FORMAT,
        "version": __version__,
        "comparisons": comparison_values(given),
        "runs": [
            {
                **view,
                "grid": states_of(read_problems(run_dir), size.solved, size.iterations),
                "samples_seen": size.samples,
                **_texts(run_dir, chosen),
            }
            for (name, run_dir), view, size in zip(runs.items(), views.values(), sizes, strict=True)
        ],
    }


@dataclass(slots=True)
class _Sizes:
    """What one pass over a run's samples tells: how much of the page each problem takes, and which were solved."""

    by_problem: dict[str, int] = field(default_factory=dict)
    solved: list[tuple[str, str, int, bool]] = field(default_factory=list)
    samples: int = 0
    iterations: int = 0

    @classmethod
    def of(cls, run_dir: Path) -> "_Sizes":
        sizes = cls()
        for path, sample in read_samples(run_dir):
            stage = stage_of(path)
            values = sample_values(sample, stage, None)
            sizes.add(sample.problem_id, values)
            if sample.kind != "evaluation" or sample.index == 0:
                sizes.solved.append((sample.problem_id, stage, sample.iteration, sample.verdict == "correct"))
            sizes.samples += 1
            sizes.iterations = max(sizes.iterations, sample.iteration)
        for example in read_examples(run_dir):
            sizes.add(example["problem_id"], example)
        for path in sorted((run_dir / SCORES).glob("*.jsonl")):
            for scored in read_scores(path):
                sizes.add(scored.problem_id, {"tokens": scored.tokens, "logprobs": scored.logprobs})
        return sizes

    def add(self, problem: str, values: Mapping[str, Any]) -> None:
        self.by_problem[problem] = self.by_problem.get(problem, 0) + len(_json(values))


def chosen_problems(sizes: Sequence[Mapping[str, int]], max_bytes: int) -> frozenset[str] | None:
    """The problems whose samples fit, by the bytes that each takes in each run; None if all do.

    The order is that of a hash of the id, so that they are spread over classes and splits, and are the same problems
    however many there are of them.
    """
    total: dict[str, int] = {}
    for size in sizes:
        for problem, count in size.items():
            total[problem] = total.get(problem, 0) + count
    if sum(total.values()) <= max_bytes:
        return None
    chosen, left = set(), max_bytes
    for problem in sorted(total, key=lambda id: hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()):
        if total[problem] <= left:
            chosen.add(problem)
            left -= total[problem]
    return frozenset(chosen)


def _texts(run_dir: Path, chosen: frozenset[str] | None) -> dict[str, Any]:
    """The samples of the chosen problems with their prompts, training examples and scores, and the problems."""

    def is_chosen(problem: str) -> bool:
        return chosen is None or problem in chosen

    problems = StoredProblems(run_dir)
    samples = [values for values in _samples(run_dir) if is_chosen(values["problem_id"])]
    examples = [values for values in read_examples(run_dir) if is_chosen(values["problem_id"])]
    ids = dict.fromkeys(row["problem_id"] for row in (*samples, *examples))
    return {
        "samples": samples,
        "examples": examples,
        "problems": [problem_values(problems[id]) for id in ids if id in problems],
        "prompts": prompt_texts(run_dir, {row["prompt_sha256"] for row in samples}),
        "scores": [
            {"key": [s.problem_id, s.iteration, s.kind, s.index], "tokens": s.tokens, "logprobs": s.logprobs}
            for path in sorted((run_dir / SCORES).glob("*.jsonl"))
            for s in read_scores(path)
            if is_chosen(s.problem_id)
        ],
    }


def _samples(run_dir: Path) -> Iterator[dict[str, Any]]:
    fates: dict[int, dict[Key, Fate]] = {}
    for path, sample in read_samples(run_dir):
        n = sample.iteration
        if sample.kind != "evaluation" and n not in fates:
            fates = {n: fates_of(run_dir, n)}
        fate = None if sample.kind == "evaluation" else fates[n].get((sample.problem_id, sample.kind, sample.index))
        yield sample_values(sample, stage_of(path), fate)


def prompt_texts(run_dir: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """The prompts of some hashes, with the texts that they begin with: `prefix` is the hash of such a text."""
    found: dict[str, dict[str, Any]] = {}
    prefixes: dict[str, StoredPrompt] = {}
    for stored in read_lines(StoredPrompt, run_dir / PROMPTS):
        if stored.prefix is None:
            prefixes[stored.sha256] = stored
        if stored.sha256 in wanted:
            found[stored.sha256] = {"prefix": stored.prefix, "text": stored.text}
            if stored.prefix in prefixes:
                found[stored.prefix] = {"prefix": None, "text": prefixes[stored.prefix].text}
    return found


def _json(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))

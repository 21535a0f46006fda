"""Read a run folder: records, one at a time, and look-ups by key, in memory of a few bytes for each record.

docs/run-folder.md describes every file. Whoever reads a folder needs neither the loop nor an engine, a model or data.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from selftaught.machine.paths import what_is_there_of_a_run
from selftaught.records.errors import StoreError
from selftaught.records.measurements import IterationSummary, Measurement
from selftaught.records.problems import StoredProblem
from selftaught.records.prompts import RenderedPrompt, StoredPrompt
from selftaught.records.samples import Sample
from selftaught.runs.lines import adapter_of, as_store_error, complete_lines, parsed, read_json, read_lines

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedStep:
    """A line of metrics.jsonl; None for a number that was not finite."""

    iteration: int
    step: int
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    seconds: float
    tokens: int
    noise: tuple[float | None, float | None] | None = None
    peak_bytes: int | None = None


FORMAT = 3
PROBLEMS, PROMPTS, SERVED = "problems.jsonl", "prompts.jsonl", "served"

_SHA256 = re.compile(rb'\{"sha256":"([0-9a-f]{16})",')


def read_run_json(run_dir: Path) -> dict[str, Any]:
    """The content of run.json. Raises StoreError if the folder is not a run folder or has another format."""
    path = run_dir / "run.json"
    if not os.path.isfile(path):  # False, not an error, for a name that no file could have
        raise StoreError(f"{run_dir} is not a run folder{what_is_there_of_a_run(run_dir)}")
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise StoreError(
            f"{path}: run folder format is {content.get('format')!r}, this version reads {FORMAT}; "
            "use the version of selftaught that began the run"
        )
    if missing := [name for name in ("resolved", "config", "model") if not isinstance(content.get(name), dict)]:
        raise StoreError(f"{path}: {', '.join(missing)} missing or damaged; restore the file or start a new run")
    return content


def read_result(run_dir: Path) -> dict[str, Any] | None:
    """The content of result.json, or None for a run that has not finished."""
    path = run_dir / "result.json"
    if not path.exists():
        return None
    content = read_json(path)
    kinds = {"best_iteration": int, "checkpoint": str, "base": dict, "test": dict}
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            raise StoreError(f"{path}: {name!r} is missing or damaged; delete the file and run the same command again")
    return content


def read_summaries(run_dir: Path) -> list[IterationSummary]:
    return list(read_lines(IterationSummary, run_dir / "iterations.jsonl"))


def read_measurements(run_dir: Path) -> list[Measurement]:
    return list(read_lines(Measurement, run_dir / "evaluations.jsonl"))


def read_passes(run_dir: Path) -> list[Measurement]:
    """The measurements of dev in several samples a problem, in the order in which they were made."""
    return list(read_lines(Measurement, run_dir / "passes.jsonl"))


def read_steps(run_dir: Path) -> list[LoggedStep]:
    """The logged steps of a run, each once: of a training that was redone those of its last time."""
    steps: dict[tuple[int, int], LoggedStep] = {}
    for line in read_lines(LoggedStep, run_dir / "metrics.jsonl"):
        if line.step == 1:
            steps = {key: step for key, step in steps.items() if key[0] != line.iteration}
        steps[line.iteration, line.step] = line
    return list(steps.values())


def died_in_training(run_dir: Path) -> tuple[int, int, int | None] | None:
    """(iteration, its last logged step, most bytes of memory) of a training whose process died; None if none did.

    The step is 0 where none was logged, the memory None where it is not known. A training that ends with an error, or
    is stopped, leaves no temporary folder.
    """
    left = sorted((run_dir / "checkpoints").glob("*.tmp"))
    iterations = [int(path.stem) for path in left if path.stem.isdigit()]
    if not iterations:
        return None
    iteration, step, peak = iterations[-1], 0, 0
    metrics = run_dir / "metrics.jsonl"
    for line in complete_lines(metrics) if metrics.exists() else ():
        values = json.loads(line)
        if values.get("iteration") == iteration:
            step, known = int(values["step"]), int(values.get("peak_bytes") or 0)
            peak = known if step == 1 else max(peak, known)  # a training that is redone begins at step 1
    return iteration, step, peak or None


def read_samples(run_dir: Path) -> Iterator[tuple[Path, Sample]]:
    """Every sample of a run with its file, file by file in the order of names; skips an incomplete last line."""
    for path in sorted((run_dir / "samples").glob("*.jsonl")):
        for sample in read_lines(Sample, path):
            yield path, sample


def read_problems(run_dir: Path) -> Iterator[StoredProblem]:
    """The problems of a run and its few-shot examples, as the run was begun with them. Raises StoreError if the file is
    not there."""
    return read_lines(StoredProblem, _there(run_dir / PROBLEMS))


class StoredProblems(Mapping[str, StoredProblem]):
    """The problems of a run by id, without the few-shot examples."""

    def __init__(self, run_dir: Path) -> None:
        """Raises StoreError if the file is not there or is damaged."""
        self._path = _there(run_dir / PROBLEMS)
        self._places: dict[str, int] = {}
        for (start, _), problem in zip(_starts(self._path), read_lines(StoredProblem, self._path), strict=True):
            if problem.split != "few_shot":
                self._places[problem.id] = start

    def __getitem__(self, id: str) -> StoredProblem:
        return _record_at(StoredProblem, self._path, self._places[id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class StoredPrompts:
    """The rendered prompts of a run by the hash that samples carry."""

    def __init__(self, run_dir: Path) -> None:
        """Raises StoreError if the file is damaged; without a file there are no prompts."""
        self._path = run_dir / PROMPTS
        self._places: dict[str, int] = {}
        if self._path.exists():
            self._places = {sha256_of_line(line, self._path): start for start, line in _starts(self._path)}
        self._prefix: tuple[str | None, RenderedPrompt] = (None, RenderedPrompt(text="", ids=()))
        """The few-shot block that was used last: the prompts of a stage share one."""

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._places

    def __getitem__(self, sha256: str) -> RenderedPrompt:
        """The complete prompt. Raises StoreError if the run folder does not have it."""
        stored = self.record(sha256)
        if stored.prefix is None:
            return RenderedPrompt(text=stored.text, ids=stored.ids)
        if self._prefix[0] != stored.prefix:
            self._prefix = stored.prefix, self[stored.prefix]
        prefix = self._prefix[1]
        if stored.ids is None or prefix.ids is None:
            return RenderedPrompt(text=prefix.text + stored.text, ids=None)
        ids = (*prefix.ids[: stored.num_shared_ids], *stored.ids)
        return RenderedPrompt(text=prefix.text + stored.text, ids=ids)

    def record(self, sha256: str) -> StoredPrompt:
        """The prompt as it is stored, maybe without what it begins with. Raises StoreError if it is not there."""
        if sha256 not in self._places:
            raise StoreError(f"{self._path} has no prompt {sha256}; restore the file or start a new run")
        return _record_at(StoredPrompt, self._path, self._places[sha256])


def dump_measurement(measurement: Measurement) -> dict[str, Any]:
    """A measurement as in evaluations.jsonl, for other JSON files and outputs."""
    return cast(dict[str, Any], adapter_of(Measurement).dump_python(measurement, mode="json"))


def dump_sample(sample: Sample) -> dict[str, Any]:
    return cast(dict[str, Any], adapter_of(Sample).dump_python(sample, mode="json"))


def sha256_of_line(line: bytes, path: Path) -> str:
    """The hash that a line of prompts.jsonl begins with: looking a prompt up takes no parsing of all others."""
    match = _SHA256.match(line)
    if match is None:
        raise StoreError(
            f"{path}: a line begins with {line[:30]!r}, expected the hash of a prompt; restore the file or start a new "
            "run"
        )
    return match[1].decode()


def _there(path: Path) -> Path:
    if not path.exists():
        raise StoreError(f"{path} is missing; restore the file or start a new run")
    return path


def _starts(path: Path) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a file, each with the byte that it starts at."""
    start = 0
    for line in complete_lines(path):
        yield start, line
        start += len(line)


def _record_at(kind: type[R], path: Path, start: int) -> R:
    """The record of the line that starts at a byte. Raises StoreError, with its number, for a damaged one."""
    with as_store_error(path, "read"), open(path, "rb") as file:
        file.seek(start)
        line = file.readline()
    try:
        return next(parsed(kind, [line], path))
    except StoreError:
        number = 1 + sum(1 for other, _ in _starts(path) if other < start)
        return next(parsed(kind, [line], path, first=number))

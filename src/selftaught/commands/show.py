"""Read the samples of a run: filter them, verify them again. Writes nothing."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from selftaught.commands.run import config_of_run, task_of_run
from selftaught.methods.metrics import rate_text
from selftaught.records.errors import ConfigError, SelftaughtError
from selftaught.records.measurements import Measurement
from selftaught.records.problems import (
    SPLITS,
    Problem,
    Task,
    Verdict,
    Verification,
)
from selftaught.records.samples import Kind, Sample
from selftaught.runs.store import read_samples

MAX_VALUES = 20
"""Values of a field that are listed if no sample matches."""


def matching_samples(
    run_dir: Path, wanted: Mapping[str, str | int], *, limit: int, note: Callable[[str], None]
) -> Iterator[tuple[Path, Sample, str | None]]:
    """Samples whose fields equal those of `wanted`, with file and reference answer; at most `limit` (0: all).

    If the data of the task is missing, there are no reference answers, and `note` gets the reason. Raises ConfigError
    for a kind or verdict that does not exist.
    """
    for field, known in (("kind", get_args(Kind)), ("verdict", tuple(Verdict))):
        if field in wanted and wanted[field] not in known:
            raise ConfigError(f"--{field} {wanted[field]}: expected one of {', '.join(known)}")
    problems: dict[str, Problem] = {}
    config_of_run(run_dir)  # raises if the folder is not a run folder
    try:
        problems = _problems(task_of_run(run_dir))
    except SelftaughtError as error:
        note(f"reference answers are not shown: {error}")
    matches = (
        (path, sample, problems[sample.problem_id].answer if sample.problem_id in problems else None)
        for path, sample in read_samples(run_dir)
        if all(getattr(sample, field) == value for field, value in wanted.items())
    )
    return islice(matches, limit or None)


def no_match_text(run_dir: Path, wanted: Mapping[str, str | int]) -> str:
    """The message if no sample matches `wanted`: which values the samples of the run have instead."""
    counts_by_field: dict[str, Counter[str]] = {field: Counter() for field in wanted}
    number = 0
    for _, sample in read_samples(run_dir):
        number += 1
        for field, counts in counts_by_field.items():
            counts[str(getattr(sample, field))] += 1
    if not number:
        return f"{run_dir} has no samples yet"
    filters = " and ".join(f"{field} {value!r}" for field, value in wanted.items())
    parts = [f"{field}: {_values(counts, str(wanted[field]))}" for field, counts in counts_by_field.items()]
    return f"none of {number} samples has {filters}; there are, by {'; by '.join(parts)}"


def _values(counts: Counter[str], wanted: str) -> str:
    """Values with their counts; of more than MAX_VALUES, the three that are most similar to the wanted one."""
    listed = sorted(counts) if len(counts) <= MAX_VALUES else difflib.get_close_matches(wanted, counts, n=3, cutoff=0)
    more = f" and {len(counts) - len(listed)} others" if len(counts) > len(listed) else ""
    return ", ".join(f"{value} ({counts[value]})" for value in listed) + more


def regraded(run_dir: Path) -> Iterator[tuple[Path, Sample, Verification | None]]:
    """Every sample, with its present verification if that differs in verdict or prediction from the saved one."""
    task = task_of_run(run_dir)
    problems = _problems(task)
    for path, sample in read_samples(run_dir):
        problem = problems.get(sample.problem_id)
        if problem is None:
            raise ConfigError(
                f"{path}: problem {sample.problem_id!r} is not in task {task.name!r} any more; regrade with the "
                "version that made the run"
            )
        now = task.verifier(sample.completion, problem)
        is_same = (now.verdict, now.prediction) == (sample.verdict, sample.prediction)
        yield path, sample, None if is_same else now


def sample_text(path: Path, sample: Sample, answer: str | None) -> str:
    """A sample for people to read; control characters in the completion are escaped."""
    checks = "".join(
        f"  {name}: {'passed' if c.passed else f'failed at {c.detail}'} ({c.share:.2f})"
        for name, c in sample.checks.items()
    )
    logprob = "–" if sample.logprob is None else f"{sample.logprob:.3f}"
    return "\n".join(
        [
            f"{path.stem}  problem {sample.problem_id}  {sample.kind} {sample.index}  {sample.verdict}  "
            f"prediction {sample.prediction!r}  answer {answer!r}",
            f"  ended by {sample.finish_reason}  {sample.num_tokens} tokens  log-probability {logprob}{checks}",
            *(f"  | {_printable(line)}" for line in sample.completion.split("\n")),
        ]
    )


def change_json(path: Path, sample: Sample, now: Verification) -> dict[str, Any]:
    return {
        "file": path.name,
        "problem_id": sample.problem_id,
        "kind": sample.kind,
        "index": sample.index,
        "was": sample.verdict,
        "now": now.verdict,
        "prediction": now.prediction,
    }


def change_text(path: Path, sample: Sample, now: Verification) -> str:
    return (
        f"{path.name}  {sample.problem_id}  {sample.kind} {sample.index}: {sample.verdict} -> {now.verdict} "
        f"(prediction {now.prediction!r})"
    )


def measurement_text(m: Measurement) -> str:
    """A measurement for people to read: every rate with its count and interval."""
    lines = [
        f"{m.task} {m.split}, {m.num_shots} few-shot examples, {m.num_samples} samples per problem at temperature "
        f"{m.temperature}",
        f"accuracy  {rate_text(m)}",
        *(f"  {name}  {rate_text(rate)}" for name, rate in m.by_class.items()),
        f"unparseable {m.unparseable}  truncated {m.truncated}  false positives "
        + ("–" if m.false_positive is None else str(m.false_positive)),
    ]
    if m.checks:
        lines.append("checks  " + "  ".join(f"{name} {rate.correct}/{rate.n}" for name, rate in m.checks.items()))
    if m.pass_at_k:
        rates = "  ".join(f"pass@{k} {rate:.3f}" for k, rate in m.pass_at_k.items())
        lines.append(f"{rates}  majority@{m.num_samples} {m.majority_at_k:.3f}  (n = {m.n} problems)")
    return "\n".join(lines)


def _problems(task: Task) -> dict[str, Problem]:
    return {problem.id: problem for split in SPLITS for problem in task.split(split)}


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)

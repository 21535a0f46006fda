"""Read the samples of a run: filter them, verify them again. Needs the run folder alone, and writes nothing."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from selftaught.commands.stored_run import chat_of_run, config_of_run
from selftaught.grading.judging import verify
from selftaught.methods.metrics import rate_text
from selftaught.records.errors import ConfigError, StoreError
from selftaught.records.measurements import Measurement
from selftaught.records.problems import (
    StoredProblem,
    Verdict,
    Verification,
)
from selftaught.records.prompts import RenderedPrompt
from selftaught.records.samples import Kind, Sample
from selftaught.runs.reading import (
    PROBLEMS,
    StoredProblems,
    StoredPrompts,
    dump_sample,
    read_problems,
    read_run_json,
    read_samples,
)
from selftaught.tasks import load_grader

MAX_VALUES = 20
"""Values of a field that are listed if no sample matches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSample:
    """A sample with what the run folder knows of it."""

    path: Path
    """Its file."""
    sample: Sample
    answer: str
    """The reference answer."""
    prompt: RenderedPrompt | None
    """What it was generated from; None if it was not asked for."""


def matching_samples(
    run_dir: Path, wanted: Mapping[str, str | int], *, limit: int, with_prompts: bool = False
) -> Iterator[ShownSample]:
    """Samples whose fields equal those of `wanted`; at most `limit` (0: all).

    Raises ConfigError for a kind or verdict that does not exist, StoreError for a folder that is not a run folder or
    that lacks a sample's problem or prompt.
    """
    for field, known in (("kind", get_args(Kind)), ("verdict", tuple(Verdict))):
        if field in wanted and wanted[field] not in known:
            raise ConfigError(f"--{field} {wanted[field]}: expected one of {', '.join(known)}")
    read_run_json(run_dir)  # raises if the folder is not a run folder
    return islice(_matching(run_dir, wanted, with_prompts=with_prompts), limit or None)


def _matching(run_dir: Path, wanted: Mapping[str, str | int], *, with_prompts: bool) -> Iterator[ShownSample]:
    problems: StoredProblems | None = None
    prompts: StoredPrompts | None = None
    for path, sample in read_samples(run_dir):
        if any(getattr(sample, field) != value for field, value in wanted.items()):
            continue
        problems = problems or StoredProblems(run_dir)
        if with_prompts and prompts is None:
            prompts = StoredPrompts(run_dir)
        yield ShownSample(
            path=path,
            sample=sample,
            answer=_problem_of(sample, path, problems).answer,
            prompt=None if prompts is None else prompts[sample.prompt_sha256],
        )


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
    """Every sample, with its present verification if that differs in verdict or prediction from the saved one.

    The verifier is made from the settings of the run. Raises ConfigError if it needs a function or a library that is
    not here, StoreError for a folder that is not a run folder or that lacks a sample's problem.
    """
    config = config_of_run(run_dir)
    taught = (problem for problem in read_problems(run_dir) if problem.split in ("few_shot", "train"))
    verifier = load_grader(config.task, taught).verifier
    chat = chat_of_run(run_dir)
    opens_thought = chat is not None and chat.opens_thought
    problems = StoredProblems(run_dir)
    for path, sample in read_samples(run_dir):
        problem = _problem_of(sample, path, problems)
        now = verify(verifier, problem, sample.completion, opens_thought=opens_thought)
        is_same = (now.verdict, now.prediction) == (sample.verdict, sample.prediction)
        yield path, sample, None if is_same else now


def sample_text(shown: ShownSample) -> str:
    """A sample for people to read; control characters in prompt and completion are escaped."""
    sample = shown.sample
    checks = "".join(
        f"  {name}: {'passed' if c.passed else f'failed at {c.detail}'} ({c.share:.2f})"
        for name, c in sample.checks.items()
    )
    logprob = "–" if sample.logprob is None else f"{sample.logprob:.3f}"
    return "\n".join(
        [
            f"{shown.path.stem}  problem {sample.problem_id}  {sample.kind} {sample.index}  {sample.verdict}  "
            f"prediction {sample.prediction!r}  answer {shown.answer!r}",
            f"  by {model_name(sample)}  ended by {sample.finish_reason}  {sample.num_tokens} tokens  "
            f"log-probability {logprob}{checks}",
            *(f"  > {_printable(line)}" for line in (shown.prompt.text.split("\n") if shown.prompt else ())),
            *(f"  | {_printable(line)}" for line in sample.completion.split("\n")),
        ]
    )


def sample_json(shown: ShownSample) -> dict[str, Any]:
    """A sample as in its file, with the reference answer and, if it was asked for, the prompt."""
    prompt = {} if shown.prompt is None else {"prompt": shown.prompt.text, "prompt_ids": shown.prompt.ids}
    return {**dump_sample(shown.sample), "answer": shown.answer, **prompt}


def model_name(sample: Sample) -> str:
    """Which model of the run generated a sample: `base`, or `checkpoint 003`."""
    return "base" if sample.checkpoint is None else f"checkpoint {sample.checkpoint:03d}"


def change_json(path: Path, sample: Sample, now: Verification) -> dict[str, Any]:
    return {
        "file": path.name,
        "problem_id": sample.problem_id,
        "kind": sample.kind,
        "index": sample.index,
        "checkpoint": sample.checkpoint,
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


def _problem_of(sample: Sample, path: Path, problems: Mapping[str, StoredProblem]) -> StoredProblem:
    problem = problems.get(sample.problem_id)
    if problem is None:
        raise StoreError(
            f"{path}: problem {sample.problem_id!r} is not in {PROBLEMS}; one of the two files was changed, restore it"
        )
    return problem


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)

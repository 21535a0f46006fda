"""Models, requests, completions and samples, as frozen records: the words of what is generated.

One record is one line on disk (`runs/`). Nothing in this room does I/O or knows a task, a model or a library.

`iteration` means the same in every record: the pass of the outer loop, counted from 1, that the record belongs to. 0 is
before the first pass: the base model, what is sampled to measure it, and a fine-tuning that precedes the loop.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from selftaught.records.problems import CheckResult, Verdict
from selftaught.records.prompts import Prompt

Kind = Literal["rationale", "rationalization", "evaluation"]
"""Why a completion was sampled: without a hint, with a hint, or to measure a model on dev or test."""


FinishReason = Literal["end", "stop", "length"]
"""How a completion ended: the end token, a stop string, or the limit on new tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """A model as data: where its weights are and what they hash to."""

    path: str
    sha256: str | None = None
    """Of the weight files, in name order; None for a model that has no files (the scripted engine)."""
    iteration: int = 0
    """The iteration that trained the model; 0 for the base model and for one trained before the first iteration."""
    checkpoint: int | None = None
    """The number of the run's checkpoint, which is that of its iteration; None for a model that no run trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    temperature: float
    """0 is greedy."""
    top_p: float = 1.0
    """In (0, 1]; 1 is no limit."""
    top_k: int | None = None
    """None is no limit."""
    max_new_tokens: int = 256
    """Tokens, the end token included."""
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion to generate."""

    prompt: Prompt
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine generated for one request; `request` is its position in the sequence of requests."""

    request: int
    text: str
    """Without the stop string and what follows it."""
    token_ids: tuple[int, ...] | None
    """The ids that decode to `text`, without the end token; None if the engine does not know them."""
    finish_reason: FinishReason
    logprob: float | None
    """Sum over the generated tokens of their log-probability at temperature 1 (nats)."""
    num_tokens: int
    """Generated tokens, with the end token and those that were cut off; tokens/s counts these."""
    end_id: int | None = None
    """The end token that was generated, if `finish_reason` is "end" and the engine knows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """Log-probabilities (nats, temperature 1) of the tokens of one given completion, in order."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSample:
    """One sample to make; with the run seed and the iteration it determines the sample's seed."""

    problem_id: str
    kind: Kind
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A completion with its provenance and verdict: facts, written once and never changed."""

    problem_id: str
    iteration: int
    """The iteration that the sample is made for; 0 is before the first. A rationale or rationalization is sampled from
    the model that the iteration starts with, an evaluation sample from the model that the iteration trained."""
    kind: Kind
    index: int
    seed: int
    prompt_sha256: str
    """First 16 hex digits of the SHA-256 of the prompt (`prompts.rendering.prompt_sha256`)."""
    weights_sha256: str | None
    """First 16 hex digits of the hash of the weights that generated it (`ModelRef.sha256`); None for a model without
    files."""
    checkpoint: int | None
    """Which model of the run generated it: the number of a checkpoint, or None for the base model."""
    completion: str
    token_ids: tuple[int, ...] | None
    num_tokens: int
    finish_reason: FinishReason
    logprob: float | None
    prediction: str | None
    verdict: Verdict
    checks: Mapping[str, CheckResult] = field(default_factory=dict)
    """Results of checks by name: `steps` is the task's exact check of the reasoning, `extraction` passes if strict and
    lenient extraction give the same verdict, `thought` fails for a thought that never ends, `leak` for reasoning that
    gives the answer away, `label` for a choice whose label and text disagree."""
    end_id: int | None = None
    """As in `Completion`."""

    @property
    def is_false_positive(self) -> bool:
        """Whether the answer is correct and the reasoning wrong; always False without a step check."""
        steps = self.checks.get("steps")
        return self.verdict is Verdict.CORRECT and steps is not None and not steps.passed


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A sample that is not trained on, and why."""

    problem_id: str
    iteration: int
    kind: Kind
    index: int
    reason: str


class SampleKey(NamedTuple):
    """What identifies a sample within a run; samples are sorted by it."""

    problem_id: str
    iteration: int
    kind: Kind
    index: int  # type: ignore[assignment]  # hides the method of tuples, which nobody needs of a key


def sample_key(sample: Sample | LeftOut | SampleKey) -> SampleKey:
    # A million keys are held at a time, and many have the same problem.
    return SampleKey(sys.intern(sample.problem_id), sample.iteration, sample.kind, sample.index)


class Rereadable(Iterable[Sample]):
    """Samples that are read anew each time they are iterated over, so that none need be in memory but the one that is
    looked at."""

    def __init__(self, read: Callable[[], Iterator[Sample]]) -> None:
        """`read` begins with the first sample, and gives the same ones each time."""
        self._read = read

    def __iter__(self) -> Iterator[Sample]:
        return self._read()

"""Predictions for new questions, as frozen records: one record is one line of what `predict` writes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from selftaught.records.samples import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One of several completions of a question."""

    prediction: str | None
    completion: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model answers to the question of one row."""

    id: str | int
    """The row's own, or where it stands in its file."""
    question: str
    prediction: str | None
    """The answer that was read from the completion, of K completions the most frequent one; with choices its label
    (A, B, C, … in the row's order). None if no answer can be read."""
    choice: str | None = None
    """With choices: the text of the predicted one."""
    share: float | None = None
    """With K completions: the votes for the prediction / K, 0 to 1."""
    votes: Mapping[str, int] = field(default_factory=dict)
    """With K completions: how many of them have each prediction, the one drawn first first."""
    completion: str
    """Rationale and answer; of K completions the first with the prediction."""
    finish_reason: FinishReason
    """Of `completion`."""
    completions: tuple[Drawn, ...] = ()
    """With K > 1: all of them, as drawn."""

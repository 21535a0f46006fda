"""The protocol of whatever generates completions.

An engine generates with one fixed set of weights; new weights mean a new engine. Heavy libraries are imported only
when an engine that needs them is opened.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from selftaught.records.samples import (
    Completion,
    Request,
    SamplingParams,
    TokenScores,
)


class Engine(Protocol):
    """Generates completions with one fixed set of weights."""

    @property
    def serves(self) -> str | None:
        """What a server that the run does not start states as the place of its weights; "" if it states none.

        None for an engine that loads the weights itself.
        """
        ...

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        """One completion per request, in the order in which they finish; `Completion.request` is the position.

        The tokens are a function of (weights, requests, params) and the engine's own settings: nothing carries over
        from one call to the next. Raises RefusedError for a prompt that does not fit the context.
        """
        ...

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        """Log-probabilities of given completions (nats, temperature 1), one record per request, in order.

        Raises RefusedError for a prompt without tokens, EngineError if the engine cannot score.
        """
        ...

    def close(self) -> None:
        """Release the memory; the engine cannot be used afterwards."""
        ...


@runtime_checkable
class EncodesPrompts(Protocol):
    """What an engine with a tokenizer offers besides: the ids that it generates from, for the run folder."""

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """The token ids of a prompt. Raises RefusedError for one without tokens."""
        ...

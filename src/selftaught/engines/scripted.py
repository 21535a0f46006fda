"""An engine that answers from a function: for tests and docs."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from selftaught.models.tokens import cut_at_stop
from selftaught.prompts.rendering import prompt_text
from selftaught.records.samples import (
    Completion,
    Request,
    SamplingParams,
    TokenScores,
)

REQUESTS = 10_000
"""What an engine keeps of requests: those of a million samples would not fit into memory."""


class ScriptedEngine:
    """Completions are `reply(prompt, seed)`, cut at the first stop string; tokens are characters. Of a prompt that is
    turns, `reply` gets the contents (`prompts.rendering.prompt_text`).

    `requests` has the last `REQUESTS` requests, for tests to look at.
    """

    def __init__(self, reply: Callable[[str, int], str]) -> None:
        self.reply = reply
        self.requests: deque[Request] = deque(maxlen=REQUESTS)

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        for position, request in enumerate(requests):
            self.requests.append(request)
            text, was_cut = cut_at_stop(self.reply(prompt_text(request.prompt), request.seed), params.stop)
            is_long = len(text) > params.max_new_tokens
            yield Completion(
                request=position,
                text=text[: params.max_new_tokens],
                token_ids=None,
                finish_reason="length" if is_long else "stop" if was_cut else "end",
                logprob=None,
                num_tokens=min(len(text), params.max_new_tokens),
            )

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        """Every character has log-probability 0."""
        return [
            TokenScores(token_ids=tuple(map(ord, text)), logprobs=(0.0,) * len(text))
            for _, text in zip(requests, completions, strict=True)
        ]

    def close(self) -> None:
        pass

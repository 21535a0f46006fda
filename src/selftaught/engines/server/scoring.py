"""Log-probabilities of given tokens from a completions server, in one of two ways; the first use tries which.

By echo (OpenAI's completions API; vLLM has it): the server scores the prompt itself, one request per row.
By bias (llama.cpp): a bias makes the server sample the given token, one request per token; the server states the
log-probability that the token has without the bias.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from selftaught.engines.server.replies import read_echo, read_reply
from selftaught.engines.server.transport import RequestRejected
from selftaught.records.errors import EngineError

Row = tuple[Sequence[int], Sequence[int]]
"""Ids of a prompt and of its completion."""
CompleteAll = Callable[[Sequence[dict[str, Any]], str], list[Any]]
"""Answers to completion requests, in order; the text names them in errors."""
Scoring = Callable[[CompleteAll, Sequence[Row]], list[tuple[float, ...]]]

WHO = "a request for log-probabilities"
BIAS = 100
"""Added to the logit of the token to be sampled; the most that the API allows."""


class BiasIgnored(EngineError):
    """The server did not sample the token that has the bias, or did not give its log-probability."""


def find_scoring(complete_all: CompleteAll, probe: Sequence[int], url: str) -> Scoring:
    """The way in which this server can score, tried on the ids `probe`. Raises EngineError if there is none."""
    with suppress(RequestRejected):
        (answer,) = complete_all([_echo_body(probe)], WHO)
        if read_echo(answer, tokens=len(probe), who=WHO) is not None:
            return score_by_echo
    problem = "it counts the bias in the log-probabilities of sampled tokens"
    pair = (probe[0], next((i for i in probe if i != probe[0]), probe[0] ^ 1))
    try:
        logprobs = score_by_bias(complete_all, [(probe, pair[:1]), (probe, pair[1:])])
        # Two tokens at one place share the probability; if the bias were counted, each would have nearly all of it.
        if sum(math.exp(row[0]) for row in logprobs) <= 1.001:
            return score_by_bias
    except (RequestRejected, BiasIgnored) as error:
        problem = str(error)
    raise EngineError(
        f"{url} cannot give the log-probabilities of given tokens (it does not echo those of the prompt; {problem}), "
        "so a run cannot check which weights it serves, as it must; use vLLM, llama.cpp or engine.name = "
        "'local' (`selftaught eval` works without)"
    )


def score_by_echo(complete_all: CompleteAll, rows: Sequence[Row]) -> list[tuple[float, ...]]:
    """One request per row."""
    scores = []
    answers = complete_all([_echo_body([*prompt, *completion]) for prompt, completion in rows], WHO)
    for (prompt, completion), answer in zip(rows, answers, strict=True):
        logprobs = read_echo(answer, tokens=len(prompt) + len(completion), who=WHO)
        if logprobs is None:
            raise EngineError(
                f"{WHO}: got no log-probabilities for a prompt of {len(prompt) + len(completion)} tokens, expected one "
                "for each; see what the server logs"
            )
        scores.append(logprobs[len(prompt) - 1 :])
    return scores


def score_by_bias(complete_all: CompleteAll, rows: Sequence[Row]) -> list[tuple[float, ...]]:
    """One request per token, row by row, so that the server's prefix cache holds the tokens before it."""
    places = [(prompt, completion, t) for prompt, completion in rows for t in range(len(completion))]
    answers = complete_all([_bias_body([*p, *c[:t]], c[t]) for p, c, t in places], WHO)
    logprobs = []
    for (_, completion, t), answer in zip(places, answers, strict=True):
        reply = read_reply(answer, who=WHO)
        if not reply.token_ids or not reply.logprobs or reply.token_ids[0] != completion[t]:
            raise BiasIgnored(
                f"{WHO}: got tokens {reply.token_ids} with log-probabilities {reply.logprobs}, expected token "
                f"{completion[t]}, which logit_bias asks for, and its own"
            )
        logprobs.append(reply.logprobs[0])
    values = iter(logprobs)
    return [tuple(islice(values, len(completion))) for _, completion in rows]


def _echo_body(ids: Sequence[int]) -> dict[str, Any]:
    # The new token is not read: some servers refuse a limit of no new tokens.
    return {"prompt": list(ids), "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 1.0, "seed": 1}


def _bias_body(ids: Sequence[int], token: int) -> dict[str, Any]:
    return {
        "prompt": list(ids),
        "max_tokens": 1,
        "logprobs": 1,
        "temperature": 0.0,
        "seed": 1,
        "logit_bias": {str(token): BIAS},
    }

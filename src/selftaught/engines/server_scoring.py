"""Log-probabilities of given tokens from a completions server, in one of two ways; the first use finds out which.

`echo` (OpenAI's completions API; vLLM has it): the server scores the prompt itself, one request per row.
`forced` (llama.cpp): every token is drawn with a bias that leaves no other, one request per token; the server states
the log-probability that the token has without the bias.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from selftaught.engines.replies import read_echo, read_reply
from selftaught.engines.transport import TurnedDown
from selftaught.errors import EngineError

Row = tuple[Sequence[int], Sequence[int]]
"""Ids of a prompt and of its completion."""
AskAll = Callable[[Sequence[dict[str, Any]], str], list[Any]]
"""Answers to completion requests, in order; the text names them in errors."""
Scoring = Callable[[AskAll, Sequence[Row]], list[tuple[float, ...]]]

WHO = "a request for log-probabilities"
BIAS = 100
"""Added to the logit of the token to be drawn; the most that the API allows."""


class NotForced(EngineError):
    """The server did not draw the token that the bias left, or did not give its log-probability."""


def find_scoring(ask_all: AskAll, probe: Sequence[int], url: str) -> Scoring:
    """The way in which this server scores, tried on the ids `probe`. Raises EngineError if there is none."""
    with suppress(TurnedDown):
        (answer,) = ask_all([_echo_body(probe)], WHO)
        if read_echo(answer, tokens=len(probe), who=WHO) is not None:
            return score_by_echo
    problem = "it counts the bias in the log-probabilities of drawn tokens"
    pair = (probe[0], next((i for i in probe if i != probe[0]), probe[0] ^ 1))
    try:
        logprobs = score_by_force(ask_all, [(probe, pair[:1]), (probe, pair[1:])])
        # Two tokens that exclude each other: were the bias counted, each would have nearly all of the probability.
        if sum(math.exp(row[0]) for row in logprobs) <= 1.001:
            return score_by_force
    except (TurnedDown, NotForced) as error:
        problem = str(error)
    raise EngineError(
        f"{url} cannot give the log-probabilities of given tokens (it does not echo those of the prompt; {problem}), "
        "so it cannot be proven which weights it serves, and a run needs that; use vLLM, llama.cpp or engine.name = "
        "'local' (`selftaught eval` works without)"
    )


def score_by_echo(ask_all: AskAll, rows: Sequence[Row]) -> list[tuple[float, ...]]:
    """One request per row."""
    found = []
    answers = ask_all([_echo_body([*prompt, *completion]) for prompt, completion in rows], WHO)
    for (prompt, completion), answer in zip(rows, answers, strict=True):
        scored = read_echo(answer, tokens=len(prompt) + len(completion), who=WHO)
        if scored is None:
            raise EngineError(
                f"{WHO}: got no log-probabilities for a prompt of {len(prompt) + len(completion)} tokens, expected one "
                "for each; see what the server logs"
            )
        found.append(scored[len(prompt) - 1 :])
    return found


def score_by_force(ask_all: AskAll, rows: Sequence[Row]) -> list[tuple[float, ...]]:
    """One request per token, row by row, so that the server's prefix cache holds what comes before it."""
    places = [(prompt, completion, t) for prompt, completion in rows for t in range(len(completion))]
    answers = ask_all([_forced_body([*p, *c[:t]], c[t]) for p, c, t in places], WHO)
    logprobs = []
    for (_, completion, t), answer in zip(places, answers, strict=True):
        reply = read_reply(answer, who=WHO)
        if not reply.token_ids or not reply.logprobs or reply.token_ids[0] != completion[t]:
            raise NotForced(
                f"{WHO}: got tokens {reply.token_ids} with log-probabilities {reply.logprobs}, expected token "
                f"{completion[t]}, which logit_bias asks for, and its own"
            )
        logprobs.append(reply.logprobs[0])
    found = iter(logprobs)
    return [tuple(islice(found, len(completion))) for _, completion in rows]


def _echo_body(ids: Sequence[int]) -> dict[str, Any]:
    # One token is drawn and left unread: not every server takes a limit of none.
    return {"prompt": list(ids), "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 1.0, "seed": 1}


def _forced_body(ids: Sequence[int], token: int) -> dict[str, Any]:
    return {
        "prompt": list(ids),
        "max_tokens": 1,
        "logprobs": 1,
        "temperature": 0.0,
        "seed": 1,
        "logit_bias": {str(token): BIAS},
    }

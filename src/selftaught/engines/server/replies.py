"""Checks a server's answer to one completion request: JSON in, a record or an EngineError out. Pure."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from selftaught.records.errors import EngineError

LARGEST_ID = (1 << 31) - 1
FINISH_REASONS = ("stop", "length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The one choice of a completion answer; None stands for what the server leaves out."""

    text: str
    finish: Literal["stop", "length"]
    stop_string: str | None
    """The stop string that ended it (vLLM gives it)."""
    token_ids: tuple[int, ...] | None
    logprobs: tuple[float, ...] | None
    """Of the generated tokens that the server lists (llama.cpp leaves out those of a stop string)."""
    prompt_tokens: int | None
    completion_tokens: int | None


def read_reply(body: object, *, who: str) -> Reply:
    """Check an answer to a request for one completion. Raises EngineError for one that does not keep to the API."""
    choice = _only_choice(body, who)
    text = choice.get("text")
    if not isinstance(text, str):
        raise _wrong(who, "text", text, "a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(who, "text", text, "Unicode without lone surrogates") from error
    finish = choice.get("finish_reason")
    if finish != "stop" and finish != "length":
        raise _wrong(who, "finish_reason", finish, " or ".join(map(repr, FINISH_REASONS)))
    ids, logprobs = _logprobs(choice.get("logprobs"), who)
    if choice.get("token_ids") is not None:
        ids = _ids(choice["token_ids"], who)
    stop_reason = choice.get("stop_reason")
    usage = body.get("usage") if isinstance(body, Mapping) else None
    if usage is not None and not isinstance(usage, Mapping):
        raise _wrong(who, "usage", usage, "an object")
    return Reply(
        text=text,
        finish="stop" if finish == "stop" else "length",
        stop_string=stop_reason if isinstance(stop_reason, str) else None,
        token_ids=ids,
        logprobs=logprobs,
        prompt_tokens=_count(usage, "prompt_tokens", who),
        completion_tokens=_count(usage, "completion_tokens", who),
    )


def read_echo(body: object, *, tokens: int, who: str) -> tuple[float, ...] | None:
    """Log-probabilities of a prompt's tokens but the first, from an answer to `echo` in OpenAI's form.

    None if the server has not scored the prompt. Raises EngineError for an answer that does not keep to the API.
    """
    logprobs = _only_choice(body, who).get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, Mapping) else None
    if not isinstance(values, list) or len(values) < tokens:
        return None
    return tuple(_logprob(value, who) for value in values[1:tokens])


def read_models(body: object, *, who: str) -> list[Mapping[str, Any]]:
    """The entries of /v1/models, each with an `id` of text. Raises EngineError for anything else."""
    data = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(data, list) or not all(isinstance(m, Mapping) and isinstance(m.get("id"), str) for m in data):
        raise _wrong(who, "its list of models", body, "an object with data: [{id: text}, …]")
    return data


def _only_choice(body: object, who: str) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise _wrong(who, "the answer", body, "a JSON object")
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise _wrong(who, "choices", choices, "a list of one")
    if len(choices) != 1:
        raise EngineError(f"{who}: got {len(choices)} choices, expected 1; the server does not keep to the API")
    if not isinstance(choices[0], Mapping):
        raise _wrong(who, "choices[0]", choices[0], "an object")
    return choices[0]


def _logprobs(value: object, who: str) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
    """(ids, log-probabilities) in either form: OpenAI's parallel lists, or llama.cpp's list of objects."""
    if value is None:
        return None, None
    if not isinstance(value, Mapping):
        raise _wrong(who, "logprobs", value, "an object")
    if value.get("content") is not None:
        content = value["content"]
        if not isinstance(content, list) or not all(isinstance(item, Mapping) for item in content):
            raise _wrong(who, "logprobs.content", content, "a list of objects")
        item_ids = [item.get("id") for item in content]
        ids = None if None in item_ids else _ids(item_ids, who)
        return ids, tuple(_logprob(item.get("logprob"), who) for item in content)
    numbers = value.get("token_logprobs")
    if numbers is None:
        return None, None
    if not isinstance(numbers, list):
        raise _wrong(who, "logprobs.token_logprobs", numbers, "a list of numbers")
    return None, tuple(_logprob(number, who) for number in numbers)


def _logprob(value: object, who: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < _as_float(value) < 1e-3:
        raise _wrong(who, "a log-probability", value, "a finite number, at most 0")
    return _as_float(value)


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _ids(value: object, who: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(i, int) and not isinstance(i, bool) and 0 <= i <= LARGEST_ID for i in value
    ):
        raise _wrong(who, "token ids", value, "a list of token ids")
    return tuple(value)


def _count(usage: Mapping[str, Any] | None, key: str, who: str) -> int | None:
    value = usage.get(key) if usage is not None else None
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_ID):
        raise _wrong(who, f"usage.{key}", value, "a count")
    return value


def _wrong(who: str, what: str, got: object, expected: str) -> EngineError:
    return EngineError(
        f"{who}: got {what} = {reprlib.repr(got)}, expected {expected}; see that engine.url is a server with OpenAI's "
        "completions API"
    )

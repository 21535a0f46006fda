"""Any JSON that a server sends is read as a reply, or refused with one EngineError that names the request."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from selftaught.engines.server.replies import (
    Reply,
    read_echo,
    read_models,
    read_reply,
)
from selftaught.records.errors import EngineError

leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


def sometimes(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, anything)


logprobs = st.one_of(
    st.fixed_dictionaries({"token_logprobs": sometimes(st.lists(st.floats(-50, 0)))}),
    st.fixed_dictionaries(
        {"content": sometimes(st.lists(sometimes(st.fixed_dictionaries({"id": st.integers(), "logprob": leaves}))))}
    ),
)
choices = st.fixed_dictionaries(
    {"text": sometimes(st.text()), "finish_reason": sometimes(st.sampled_from(["stop", "length"]))},
    optional={
        "logprobs": sometimes(logprobs),
        "token_ids": sometimes(st.lists(st.integers(0, 300))),
        "stop_reason": anything,
    },
)
bodies = sometimes(
    st.fixed_dictionaries(
        {"choices": sometimes(st.lists(sometimes(choices), min_size=1, max_size=1))},
        optional={"usage": sometimes(st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens"]), leaves))},
    )
)


def outcome(read: Any, body: Any, **arguments: Any) -> Any:
    """What a body is read as; None if it is refused with the documented error."""
    try:
        return read(body, who="request 7", **arguments)
    except EngineError as error:
        message = str(error)
    assert message.startswith("request 7: ")
    assert "\n" not in message
    return None


@given(bodies)
@example({"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": [-(10**400)]}}]})
@example({"choices": [{"text": "a", "finish_reason": ["stop"]}]})
def test_any_answer_is_a_reply_or_an_error_of_the_engine(body: Any) -> None:
    reply = outcome(read_reply, body)
    if reply is not None:
        assert isinstance(reply, Reply)
        choice = body["choices"][0]
        assert (reply.text, reply.finish) == (choice["text"], choice["finish_reason"])
        assert json.loads(json.dumps(reply.text)) == reply.text
        assert all(value < 1e-3 for value in reply.logprobs or ())
        assert all(i >= 0 for i in reply.token_ids or ())


@given(bodies, st.integers(0, 5))
def test_any_answer_to_an_echo_has_a_number_for_every_token_but_the_first_or_none(body: Any, tokens: int) -> None:
    scores = outcome(read_echo, body, tokens=tokens)
    assert scores is None or len(scores) == max(tokens - 1, 0)


@given(sometimes(st.fixed_dictionaries({"data": sometimes(st.lists(st.dictionaries(st.just("id"), leaves)))})))
def test_any_list_of_models_has_names_or_is_an_error(body: Any) -> None:
    models = outcome(read_models, body)
    assert models is None or all(isinstance(model["id"], str) for model in models)


def test_both_forms_of_log_probabilities_are_read() -> None:
    text = {"text": "ab", "finish_reason": "stop"}
    parallel = {**text, "logprobs": {"token_logprobs": [-1, -2.5]}, "token_ids": [4, 5], "stop_reason": "\n"}
    objects = {**text, "logprobs": {"content": [{"id": 4, "logprob": -1}, {"id": 5, "logprob": -2.5}]}}
    for choice, stop_string in ((parallel, "\n"), (objects, None)):
        reply = read_reply({"choices": [choice], "usage": {"completion_tokens": 2}}, who="request 7")
        assert (reply.token_ids, reply.logprobs, reply.stop_string) == ((4, 5), (-1.0, -2.5), stop_string)

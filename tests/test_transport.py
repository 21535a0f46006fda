"""Servers that are busy, slow, broken or answer nonsense: a request is retried, or fails with a line that names it."""

import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import PATIENCE_S
from misbehaving import Handler, answer, completion, misbehaving
from selftaught.engines.server import transport
from selftaught.engines.server.openai import DIALECTS, OpenAIEngine
from selftaught.engines.server.transport import Server, as_they_finish
from selftaught.models.tokens import Codec
from selftaught.records.errors import EngineError, RefusedError, SelftaughtError
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
)
from selftaught.records.seeds import seed_for

PARAMS = SamplingParams(temperature=0.0, max_new_tokens=8)
REQUESTS = [Request(prompt=f"1 + {i} =", seed=seed_for(i)) for i in range(3)]


def server(address: str, **changes: Any) -> Server:
    return Server(**{"url": address, "timeout_s": 120.0, "max_retries": 2, "backoff_s": 0.01, **changes})


def opened(address: str, adder: Path, **changes: Any) -> OpenAIEngine:
    return OpenAIEngine(ModelRef(path=str(adder)), server=server(address, **changes), concurrency=2)


class AfterOpening:
    """Answers the requests of the engine's opening well, and passes later ones to `act` with their number."""

    def __init__(self, act: Callable[[Handler, dict[str, Any], int], None]) -> None:
        self.act, self.number, self.lock = act, -2, threading.Lock()

    def __call__(self, handler: Handler, body: dict[str, Any]) -> None:
        with self.lock:
            self.number += 1
            number = self.number
        if number <= 0:
            usage = {"prompt_tokens": 18, "completion_tokens": 1}  # as the shipped model's tokenizer counts the probe
            answer(handler, 200, {**completion(body, "1"), "usage": usage})
        else:
            self.act(handler, body, number)


def counted(body: dict[str, Any], **choice: Any) -> dict[str, Any]:
    """A good answer to a prompt that was sent as ids."""
    assert isinstance(body["prompt"], list)
    return completion(body, **choice)


def sampled(adder: Path, act: Callable[[Handler, dict[str, Any], int], None], **changes: Any) -> list[Completion]:
    with misbehaving(AfterOpening(act)) as (address, _):
        return list(opened(address, adder, **changes).sample(REQUESTS, PARAMS))


def problem(adder: Path, act: Callable[[Handler, dict[str, Any], int], None], **changes: Any) -> str:
    """The one line with which sampling fails."""
    with pytest.raises(SelftaughtError) as caught:
        sampled(adder, act, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Tried again.


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_request_is_tried_again_after_a_passing_failure(adder: Path, status: int) -> None:
    def act(handler: Handler, body: dict[str, Any], number: int) -> None:
        if number <= 2:
            answer(handler, status, "busy")
        else:
            answer(handler, 200, counted(body))

    completions = sampled(adder, act)
    assert sorted(c.request for c in completions) == [0, 1, 2]
    assert all(c.text == " ok" for c in completions)


@pytest.mark.parametrize("as_date", [False, True])
def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(adder: Path, as_date: bool) -> None:
    times: list[float] = []

    def act(handler: Handler, body: dict[str, Any], number: int) -> None:
        times.append(time.monotonic())
        if number == 1:
            later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
            answer(handler, 429, "busy", retry_after=later if as_date else "1")
        else:
            answer(handler, 200, counted(body))

    with misbehaving(AfterOpening(act)) as (address, _):
        list(opened(address, adder).sample(REQUESTS[:1], PARAMS))
    assert times[1] - times[0] >= 0.9  # a date has whole seconds


@pytest.mark.parametrize("value", ["-1", "soon", "", "9" * 400, "1e9", "Wed, 99 Oct 2015 07:28:00 GMT", "\xb2", "0"])
def test_an_invalid_time_to_come_back_is_ignored(value: str) -> None:
    assert transport._retry_after(value) == 0.0


@given(st.text(max_size=40))
def test_any_time_to_come_back_is_read_as_a_number_of_seconds(value: str) -> None:
    assert transport._retry_after(value) >= 0.0


def test_a_server_that_fails_for_ever_is_given_up_with_the_request_named(adder: Path) -> None:
    message = problem(adder, lambda handler, body, number: answer(handler, 500, "out\nof memory"))
    assert message.startswith("request ")
    assert "its prompt ends '1 + " in message
    assert "failed 3 times, at last with HTTP 500: 'out\\nof memory'" in message


def test_no_retry_means_one_try(adder: Path) -> None:
    with misbehaving(AfterOpening(lambda handler, body, number: answer(handler, 500, ""))) as (address, handler):
        engine = opened(address, adder, max_retries=0)
        before = len(handler.seen)
        with pytest.raises(EngineError, match="failed 1 times"):
            list(engine.sample(REQUESTS[:1], PARAMS))
        assert len(handler.seen) == before + 1


def test_a_server_that_never_answers_is_given_up_in_time(adder: Path) -> None:
    release = threading.Event()

    def hang(handler: Handler, body: dict[str, Any], number: int) -> None:
        release.wait(PATIENCE_S)

    message = problem(adder, hang, timeout_s=0.3, max_retries=1)  # which comes before any answer does
    release.set()
    assert "no complete answer within 0.3 s" in message


def test_an_answer_that_trickles_does_not_outlive_its_time(adder: Path) -> None:
    def trickle(handler: Handler, body: dict[str, Any], number: int) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "100000")
        handler.end_headers()
        for _ in range(20 * PATIENCE_S):  # or until nobody reads it any more
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    assert "no complete answer within 0.3 s" in problem(adder, trickle, timeout_s=0.3, max_retries=1)


def test_a_broken_connection_is_tried_again_and_then_named(adder: Path) -> None:
    def cut(handler: Handler, body: dict[str, Any], number: int) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')

    assert "failed 3 times, at last with RemoteProtocolError" in problem(adder, cut)


def test_a_server_that_is_not_there_is_named_with_its_address(adder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(EngineError, match=rf"{address}/v1/models failed 3 times, at last with ConnectError"):
            opened(address, adder)


# Not tried again.


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, "bad field", "got HTTP 400: 'bad field', expected HTTP 200; see what the server logs"),
        (401, "no", "engine.api_key_env"),
        (403, "no", "engine.api_key_env"),
        (404, "no", "check engine.url and engine.model"),
        (302, "elsewhere", "got HTTP 302"),
        (418, "x" * 10**6, "got HTTP 418: 'xxx"),
    ],
)
def test_a_request_that_the_server_turns_down_fails_at_once(adder: Path, status: int, body: str, expected: str) -> None:
    with misbehaving(AfterOpening(lambda handler, sent, number: answer(handler, status, body))) as (address, handler):
        engine = opened(address, adder)
        before = len(handler.seen)
        with pytest.raises(EngineError) as caught:
            list(engine.sample(REQUESTS[:1], PARAMS))
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 600
    assert len(handler.seen) == before + 1


def test_a_prompt_that_exceeds_the_servers_context_is_refused(adder: Path) -> None:
    words = {"error": {"message": "This model's maximum context length is 2048 tokens."}}
    with (
        misbehaving(AfterOpening(lambda h, b, n: answer(h, 400, words))) as (address, _),
        pytest.raises(RefusedError, match=r"^request 0 .*lower .* or sampling\.max_new_tokens"),
    ):
        list(opened(address, adder).sample(REQUESTS[:1], PARAMS))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"choices": [{"text": " ok", "fin',
        b"<html><body>502 Bad Gateway</body></html>",
        b"\xff\xfe",
        b"[" * 100_000,
        b"NaN",
        b"[1]",
        b"null",
        b"9" * 5000,
        b'{"choices": []}',
        b'{"choices": [{"text": "a", "finish_reason": "stop"}, {"text": "b", "finish_reason": "stop"}]}',
        b'{"choices": {"text": "a"}}',
        b'{"choices": [{"finish_reason": "stop"}]}',
        b'{"choices": [{"text": 3, "finish_reason": "stop"}]}',
        b'{"choices": [{"text": "a"}]}',
        b'{"choices": [{"text": "a", "finish_reason": "content_filter"}]}',
        b'{"choices": [{"text": "\\ud800", "finish_reason": "stop"}]}',
        b'{"choices": [{"text": "a", "finish_reason": "stop"}], "usage": 3}',
        b'{"choices": [{"text": "a", "finish_reason": "stop"}], "usage": {"completion_tokens": "3"}}',
        b'{"choices": [{"text": "a", "finish_reason": "stop"}], "usage": {"completion_tokens": -3}}',
        b'{"choices": [{"text": "a", "finish_reason": "stop"}], "usage": {"completion_tokens": 9}}',
        b'{"choices": [{"text": "a", "finish_reason": "stop"}], "usage": {"prompt_tokens": 99}}',
        b'{"choices": [{"text": "a", "finish_reason": "length"}], "usage": {"completion_tokens": 3}}',
        b'{"choices": [{"text": "a", "finish_reason": "stop", "token_ids": [1.5]}]}',
        b'{"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": [1e999]}}]}',
        b'{"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": [2.5]}}]}',
        b'{"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"content": [3]}}]}',
    ],
)
def test_an_invalid_answer_fails_with_one_line_that_names_the_request(adder: Path, body: bytes) -> None:
    message = problem(adder, lambda handler, sent, number: answer(handler, 200, body))
    assert message.startswith("request ")
    assert len(message) < 700


def test_a_body_without_end_is_cut_off(adder: Path) -> None:
    def flood(handler: Handler, body: dict[str, Any], number: int) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(transport.LARGEST_BODY * 2))
        handler.end_headers()
        for _ in range(2 * transport.LARGEST_BODY >> 20):
            handler.wfile.write(b" " * (1 << 20))

    assert "more than 64 MiB" in problem(adder, flood, timeout_s=60.0)


def test_what_came_before_a_failure_reached_the_caller(adder: Path) -> None:
    def act(handler: Handler, body: dict[str, Any], number: int) -> None:
        answer(handler, 200 if number == 1 else 400, counted(body))

    with misbehaving(AfterOpening(act)) as (address, _):
        engine = OpenAIEngine(ModelRef(path=str(adder)), server=server(address), concurrency=1)
        completions = engine.sample(REQUESTS, PARAMS)
        assert next(completions).request == 0
        with pytest.raises(EngineError, match=r"^request 1 "):
            next(completions)


# What is sent.


def test_the_key_is_sent_and_never_printed(adder: Path) -> None:
    act = AfterOpening(lambda handler, body, number: answer(handler, 401, "wrong key s3cret-k3y"))
    with misbehaving(act) as (address, handler):
        engine = opened(address, adder, key="s3cret-k3y")
        with pytest.raises(EngineError) as caught:
            list(engine.sample(REQUESTS[:1], PARAMS))
    assert handler.headers_seen[-1]["authorization"] == "Bearer s3cret-k3y"
    assert "s3cret" not in f"{caught.value} {server('http://h', key='s3cret-k3y')!r}"


@pytest.mark.parametrize("owner", ["me", "vllm", "llamacpp"])
def test_a_server_gets_the_fields_that_it_knows_and_no_others(adder: Path, owner: str) -> None:
    models = {"data": [{"id": "m", "owned_by": owner}]}
    act = AfterOpening(lambda handler, body, number: answer(handler, 200, counted(body)))
    with misbehaving(act, models=models) as (address, handler):
        how = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=8, stop=("\n",))
        list(opened(f"{address}/v1/", adder).sample(REQUESTS[:1], how))
    body = handler.seen[-1]
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("m", 0.7, 0.9, 8)
    assert body["stop"] == ["\n"]
    assert body.get("top_k", 0) == 0, "no limit; null would mean the server's own default"
    known = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs", "stream", "stop"}
    ends = {"stop_token_ids"} if owner == "vllm" else set()
    assert body.keys() - known == ({"top_k"} | DIALECTS[owner].keys() | ends if owner in DIALECTS else set())
    assert not ends or body["stop_token_ids"] == sorted(Codec(str(adder)).end_ids)


def test_several_models_without_engine_model_and_no_model_at_all_are_errors(adder: Path) -> None:
    for models in ({"data": []}, {"data": [{"id": "a"}, {"id": "b"}]}):
        with (
            misbehaving(lambda handler, body: None, models=models) as (address, _),
            pytest.raises(EngineError, match=r"serves (0|2) models .*set engine\.model"),
        ):
            opened(address, adder)


def test_an_invalid_list_of_models_is_an_error(adder: Path) -> None:
    for models in ("<html>", [], {"data": 3}, {"data": [{"id": 3}]}, {}):
        with misbehaving(lambda handler, body: None, models=models) as (address, _), pytest.raises(EngineError):
            opened(address, adder)


# Log-probabilities of given tokens.


def scored(adder: Path, act: Callable[[Handler, dict[str, Any], int], None]) -> list[tuple[float, ...]]:
    with misbehaving(AfterOpening(act)) as (address, _):
        requests = [Request(prompt="Input:\n", seed=0), Request(prompt="Target:\n1", seed=0)]
        return [s.logprobs for s in opened(address, adder).score(requests, ["1 2", ""])]


def test_a_server_that_echoes_scores_a_row_in_one_request(adder: Path) -> None:
    def echo(handler: Handler, body: dict[str, Any], number: int) -> None:
        assert body["echo"]
        values = [None, *(-float(i) for i in body["prompt"][1:]), -99.0]
        answer(handler, 200, completion(body, logprobs={"token_logprobs": values}))

    assert scored(adder, echo) == [(-5.0, -6.0), ()]  # the ids of "1" and "2", which the server gave as numbers


def biased(handler: Handler, body: dict[str, Any], number: int, *, states: Callable[[int], float]) -> None:
    """Samples the token that has the bias; refuses to echo."""
    if "echo" in body:
        answer(handler, 400, "echo is not supported")
        return
    (token,) = map(int, body["logit_bias"])
    content = [{"id": token, "logprob": states(token)}]
    answer(handler, 200, completion(body, text="x", finish_reason="length", logprobs={"content": content}))


def test_a_server_that_samples_the_token_with_a_bias_scores_token_by_token(adder: Path) -> None:
    logprobs = scored(adder, lambda h, b, n: biased(h, b, n, states=lambda token: -float(token)))
    assert logprobs == [(-5.0, -6.0), ()]


def test_a_server_that_counts_the_bias_cannot_score(adder: Path) -> None:
    """Its numbers, all near zero, would always be nearer to those of the weights just trained."""
    with pytest.raises(EngineError, match=r"it counts the bias .* a run cannot check which weights it serves"):
        scored(adder, lambda h, b, n: biased(h, b, n, states=lambda token: -1e-6))


def test_a_server_that_ignores_the_bias_cannot_score(adder: Path) -> None:
    def ignore(handler: Handler, body: dict[str, Any], number: int) -> None:
        content = [{"id": 7, "logprob": -1.0}]
        answer(handler, 200, completion(body, text="x", logprobs={"content": content}))

    with pytest.raises(EngineError, match=r"cannot give .* expected token \d+, which logit_bias asks for"):
        scored(adder, ignore)


# What a completion is made of.


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("1 2\nInput:", "stop", ("1 2", "stop")),
        ("1 2\n", "length", ("1 2", "stop")),
        ("\n1", "stop", ("", "stop")),
        ("1 2", "length", ("1 2", "length")),
    ],
)
def test_a_stop_string_that_the_server_leaves_in_is_cut_off_here(
    adder: Path, text: str, finish: str, expected: tuple[str, str]
) -> None:
    def act(handler: Handler, body: dict[str, Any], number: int) -> None:
        usage = {"completion_tokens": 8}
        answer(handler, 200, {**counted(body, text=text, finish_reason=finish), "usage": usage})

    how = SamplingParams(temperature=0.0, max_new_tokens=8, stop=("Input:", "\n"))
    with misbehaving(AfterOpening(act)) as (address, _):
        (completion,) = opened(address, adder).sample(REQUESTS[:1], how)
    assert (completion.text, completion.finish_reason) == expected
    assert (completion.token_ids, completion.logprob, completion.num_tokens) == (None, None, 8)


# The limit on requests at a time.


def test_no_more_requests_are_open_at_a_time_than_the_limit() -> None:
    state = {"open": 0, "most": 0}
    lock, as_many_as_may_be = threading.Lock(), threading.Event()

    def act(handler: Handler, body: dict[str, Any]) -> None:
        with lock:
            state["open"] += 1
            state["most"] = max(state.values())
            if state["most"] == 3:
                as_many_as_may_be.set()
        as_many_as_may_be.wait(PATIENCE_S)
        time.sleep(0.02)  # for a fourth one to come
        with lock:
            state["open"] -= 1
        answer(handler, 200, {})

    with misbehaving(act) as (address, _):
        jobs = [lambda connection, i=i: connection.request("/", {}, who=str(i)) for i in range(20)]
        assert list(as_they_finish(server(address), jobs, concurrency=3)) == [{}] * 20
    assert state["most"] == 3


def test_an_error_that_is_not_the_servers_is_raised_unchanged() -> None:
    async def job(connection: Any) -> None:
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        list(as_they_finish(server("http://127.0.0.1:9"), [job, job], concurrency=2))


def test_the_engine_works_where_an_event_loop_runs_already(adder: Path) -> None:
    import asyncio

    async def in_a_loop() -> int:
        return len(sampled(adder, lambda handler, body, number: answer(handler, 200, counted(body))))

    assert asyncio.run(in_a_loop()) == 3

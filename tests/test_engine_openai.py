"""The engine `openai` against a real server: llama.cpp, serving a small random model that is made here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_server import make_model, needs_llama_cpp, serving, to_gguf
from selftaught.engines.server.openai import OpenAIEngine, server_seed
from selftaught.engines.server.transport import Server
from selftaught.models.tokens import cut_at_stop
from selftaught.records.errors import EngineError, RefusedError
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
)

pytestmark = needs_llama_cpp


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    with serving(to_gguf(model, model / "model.gguf"), context=2048) as address:
        yield address


@pytest.fixture(scope="module")
def engine(model: Path, address: str) -> OpenAIEngine:
    return opened(model, address)


def opened(model: Path, address: str, **settings: Any) -> OpenAIEngine:
    server = Server(url=address, timeout_s=30, max_retries=0)
    return OpenAIEngine(ModelRef(path=str(model)), server=server, **settings)


def params(**changes: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_new_tokens": 12, **changes})


def requests(number: int) -> list[Request]:
    return [Request(prompt=f"Input:\n{i} + 3 4\nTarget:\n", seed=i * 7919) for i in range(number)]


def sampled(engine: Any, jobs: list[Request], how: SamplingParams) -> list[Completion]:
    return sorted(engine.sample(jobs, how), key=lambda c: c.request)


def local(model: Path) -> Any:
    from selftaught.engines.local.engine import LocalEngine, LocalSettings

    return LocalEngine(ModelRef(path=str(model)), LocalSettings(dtype="float32", device="cpu", threads=1, slots=8))


def test_greedy_completions_are_those_of_the_local_engine(engine: OpenAIEngine, model: Path) -> None:
    """Text, ids, end, count and log-probability: the same model, by another program."""
    jobs = requests(6)
    ours, theirs = sampled(local(model), jobs, params()), sampled(engine, jobs, params())
    assert [(c.text, c.finish_reason, c.num_tokens) for c in theirs] == [
        (c.text, c.finish_reason, c.num_tokens) for c in ours
    ]
    assert [c.token_ids for c in theirs] == [c.token_ids for c in ours]
    # llama.cpp keeps keys and values in half precision.
    assert [c.logprob for c in theirs] == pytest.approx([c.logprob for c in ours], abs=0.1)


def test_scores_are_those_of_the_local_engine(engine: OpenAIEngine, model: Path) -> None:
    jobs, texts = requests(3), ["1 2 + 3", " C: 0", "</scratch>\n7 7"]
    ours, theirs = local(model).score(jobs, texts), engine.score(jobs, texts)
    assert [s.token_ids for s in ours] == [s.token_ids for s in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=0.05)


def test_many_samples_with_seeds_repeat_whatever_is_sampled_beside_them(engine: OpenAIEngine) -> None:
    jobs, how = requests(48), params(temperature=1.0, top_p=0.9, top_k=40)
    first = sampled(engine, jobs, how)
    assert [c.request for c in first] == list(range(48))
    # Text and ids; the last digits of a sum of log-probabilities depend on the server's batches.
    assert [(c.text, c.token_ids) for c in sampled(engine, jobs, how)] == [(c.text, c.token_ids) for c in first]
    alone = sampled(engine, jobs[17:18], how)[0]
    assert (alone.text, alone.token_ids) == (first[17].text, first[17].token_ids)
    assert len({c.text for c in first}) > 24


def test_the_tokens_of_every_completion_are_told_as_it_arrives(model: Path, address: str) -> None:
    told: list[int] = []
    engine = opened(model, address, on_tokens=told.append)
    assert told == []  # the requests that it is opened with are not the run's
    for number, completion in enumerate(engine.sample(requests(5), params(temperature=1.0)), start=1):
        assert len(told) == number
        assert told[-1] == completion.num_tokens > 0


def test_another_seed_gives_another_completion(engine: OpenAIEngine) -> None:
    jobs = [Request(prompt="Input:\n", seed=seed) for seed in range(16)]
    assert len({c.text for c in sampled(engine, jobs, params(temperature=1.0))}) > 8


def test_a_completion_is_cut_at_the_first_stop_string(engine: OpenAIEngine) -> None:
    uncut = sampled(engine, requests(1), params())[0].text
    stop = (uncut[6:8], uncut[3:5])
    completion = sampled(engine, requests(1), params(stop=stop))[0]
    assert completion.text == cut_at_stop(uncut, stop)[0]
    assert completion.finish_reason == "stop"
    assert not any(s in completion.text for s in stop)


def test_prompts_are_sent_as_ids_so_that_no_begin_token_is_added(engine: OpenAIEngine) -> None:
    assert engine._sends_ids


def test_the_server_names_the_file_that_it_serves(engine: OpenAIEngine, model: Path) -> None:
    assert engine.serves == str(model / "model.gguf")


def test_a_prompt_longer_than_the_context_is_refused(engine: OpenAIEngine) -> None:
    with pytest.raises(RefusedError, match="longer than the server's context"):
        list(engine.sample([Request(prompt="1 2 + 3 4\n" * 400, seed=0)], params()))


def test_a_completion_that_the_servers_context_cut_short_is_refused(engine: OpenAIEngine) -> None:
    with pytest.raises(RefusedError, match="its context is too short"):
        list(engine.sample(requests(1), params(max_new_tokens=5000, temperature=0.3)))


def test_an_empty_prompt_is_refused(engine: OpenAIEngine) -> None:
    with pytest.raises(RefusedError, match="no tokens"):
        list(engine.sample([Request(prompt="", seed=0)], params()))


def test_no_request_gives_no_completion(engine: OpenAIEngine) -> None:
    assert list(engine.sample([], params())) == []


def test_a_reader_who_stops_early_ends_the_open_requests(engine: OpenAIEngine) -> None:
    completions = engine.sample(requests(40), params(max_new_tokens=200, temperature=1.0))
    assert next(completions).num_tokens > 0
    completions.close()  # type: ignore[attr-defined]  # a generator
    assert len(sampled(engine, requests(2), params())) == 2


def test_the_tokenizer_of_another_model_is_refused(address: str, adder: Path) -> None:
    with pytest.raises(EngineError, match=r"serve the model of model\.path"):
        opened(adder, address)


def test_a_served_name_that_the_server_does_not_know_is_an_error(model: Path, address: str) -> None:
    with pytest.raises(EngineError, match=r"engine\.model = 'xyzzy', but .* serves '.*model.gguf'"):
        opened(model, address, served_name="xyzzy")


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 2, 2**31 - 1, 2**31, 2**53 - 1])
def test_a_servers_seed_is_in_the_range_that_every_server_takes(seed: int) -> None:
    assert 1 <= server_seed(seed) < 2**31

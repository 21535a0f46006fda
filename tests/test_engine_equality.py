"""The local engine compared with transformers: the same tokens and log-probabilities in any slots and batches.

In float64 they are exactly the same, by torch's own operations, since the compiled ones are for float32 and bfloat16.
In float32 only rounding may change a token, with the compiled operations and without.
"""

import gc
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selftaught.engines.local.cpu.fused import FusedAttention
from selftaught.engines.local.cpu.packing import PackedLinear
from selftaught.engines.local.engine import LocalEngine
from selftaught.engines.local.forward import Runner
from selftaught.engines.local.prefixes import prefix_groups, shared_length
from selftaught.engines.local.rows import Endings, Row
from selftaught.engines.local.slot_batch import SlotBatch
from selftaught.engines.local.slots import SlotCache
from selftaught.models.tokens import cut_at_stop
from selftaught.records.errors import RefusedError
from selftaught.records.samples import Completion, Request, SamplingParams
from test_engine_attention import as_on_a_gpu
from tiny_models import (
    HEADS,
    KINDS,
    NEAR_TIE,
    ModelFolder,
    codec_of,
    generated,
    ids_of,
    near_ties,
    open_engine,
    plain_logits,
    sample,
    texts_of,
)

ENOUGH = {1: 34, 16: 40, 128: 150}
"""Slots, and a number of prompts that refills some of them and makes two groups worth a prefix each."""

both_ways = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])


@pytest.mark.parametrize(("heads", "expected"), [("nothing", [0]), ("a prefix", [20]), ("two prefixes", [38, 38])])
@pytest.mark.parametrize("number", sorted(ENOUGH.values()))
def test_the_prompts_of_these_tests_share_what_they_should(
    adder: Path, number: int, heads: str, expected: list[int]
) -> None:
    prompts = [codec_of(adder).encode_prompt(text) for text in texts_of(number, *HEADS[heads])]
    assert [shared_length([prompts[i] for i in group]) for group in prefix_groups(prompts)] == expected
    assert len({len(prompt) for prompt in prompts}) > 4


@pytest.mark.parametrize("slots", sorted(ENOUGH))
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt-neox"])
def test_greedy_tokens_in_slots_are_exactly_those_of_generate(
    kind: str, heads: str, slots: int, model_of: ModelFolder
) -> None:
    folder, texts, notes = model_of(kind), texts_of(ENOUGH[slots], *HEADS[heads]), list[str]()
    engine = open_engine(folder, slots=slots, prefill_tokens=64, note=notes.append)
    assert ids_of(sample(engine, texts)) == generated(folder, texts)
    assert notes == []


@pytest.mark.parametrize("slots", [16, 128])
@pytest.mark.parametrize("heads", HEADS)
def test_greedy_tokens_and_scores_by_the_attention_of_a_gpu_are_those_of_generate(
    heads: str, slots: int, model_of: ModelFolder
) -> None:
    folder, texts, notes = model_of("qwen3"), texts_of(ENOUGH[slots], *HEADS[heads]), list[str]()
    usual = open_engine(folder, slots=slots, prefill_tokens=64)
    requests, answers = [Request(prompt=text, seed=0) for text in texts], ["123", "45"] * (len(texts) // 2)
    expected = usual.score(requests, answers)
    with as_on_a_gpu():
        engine = open_engine(folder, slots=slots, prefill_tokens=64, note=notes.append)
        assert ids_of(sample(engine, texts)) == generated(folder, texts)
        for ours, theirs in zip(engine.score(requests, answers), expected, strict=True):
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-10)
    assert notes == []


@pytest.mark.parametrize("kind", ["mistral", "llama with biases"])
def test_models_with_a_long_window_or_with_biases_are_run_in_slots_too(kind: str, model_of: ModelFolder) -> None:
    folder, texts, notes = model_of(kind), texts_of(40, *HEADS["two prefixes"]), list[str]()
    assert ids_of(sample(open_engine(folder, note=notes.append), texts)) == generated(folder, texts)
    assert notes == []


@pytest.mark.parametrize("slots", sorted(ENOUGH))
@pytest.mark.parametrize("heads", ["nothing", "two prefixes"])
def test_greedy_tokens_of_the_fallback_are_exactly_those_of_generate(
    heads: str, slots: int, model_of: ModelFolder
) -> None:
    folder, texts, notes = model_of("gpt-j"), texts_of(ENOUGH[slots], *HEADS[heads]), list[str]()
    assert ids_of(sample(open_engine(folder, slots=slots, note=notes.append), texts)) == generated(folder, texts)
    assert ["an attention of its own" in note for note in notes] == [True]


def test_positions_that_depend_on_the_length_are_left_to_generate(model_of: ModelFolder) -> None:
    folder, texts, notes = model_of("llama with dynamic positions"), texts_of(20, *HEADS["a prefix"]), list[str]()
    assert ids_of(sample(open_engine(folder, note=notes.append), texts)) == generated(folder, texts)
    assert ["rotary positions (dynamic) depend on the length" in note for note in notes] == [True]


def far_from_ties(
    folder: Path, texts: Sequence[str], ours: Sequence[list[int] | None], theirs: Sequence[list[int]]
) -> list[str]:
    """The prompts whose tokens first differ where the two likeliest tokens are not nearly equal."""
    codec, differing = codec_of(folder), []
    for text, a, b in zip(texts, ours, theirs, strict=True):
        ends = [[*(a or ()), codec.end_id], [*b, codec.end_id]]
        if a != b:
            same = next(i for i, (x, y) in enumerate(zip(*ends, strict=False)) if x != y)
            top = plain_logits(folder, [*codec.encode_prompt(text), *b[:same]])[-1].topk(2).values
            if float(top[0] - top[1]) >= NEAR_TIE:
                differing.append(text)
    return differing


@both_ways
@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        pytest.param(
            kind,
            "nothing" if kind == "llama with one key head" else "two prefixes",
            marks=() if kind in ("llama", "qwen3", "gpt-neox") else pytest.mark.slow,
        )
        for kind in KINDS
    ],
)
def test_in_float32_only_near_ties_are_sampled_otherwise_than_by_generate(
    kind: str, heads: str, compiled: bool, model_of: ModelFolder
) -> None:
    folder, texts = model_of(kind), texts_of(40, *HEADS[heads])
    ours = ids_of(sample(open_engine(folder, dtype="float32", compiled=compiled), texts))
    theirs = generated(folder, texts, dtype=torch.float32)
    assert far_from_ties(folder, texts, ours, theirs) == []
    # The check detects a single wrong token, and a completion that ends too early.
    forged = [[*ids] for ids in theirs]
    wrong = max(range(len(forged)), key=lambda i: len(forged[i]))
    forged[wrong][-1] = (forged[wrong][-1] + 1) % 20
    assert far_from_ties(folder, texts, forged, theirs) == [texts[wrong]]
    forged[wrong] = theirs[wrong][:-1]
    assert far_from_ties(folder, texts, forged, theirs) == [texts[wrong]]


def test_soft_caps_are_left_to_generate(model_of: ModelFolder) -> None:
    notes: list[str] = []
    open_engine(model_of("gemma2"), dtype="float32", note=notes.append)
    assert ["its attention uses softcap" in note for note in notes] == [True]


def without_logprobs(completions: Sequence[Completion]) -> list[Completion]:
    """transformers' generate gives float32 logits, whose last bits depend on the batch."""
    return [replace(c, logprob=None) for c in completions]


@pytest.mark.parametrize("kind", ["llama", "gpt-j"])
@pytest.mark.parametrize("heads", ["nothing", "two prefixes"])
def test_sampled_tokens_are_the_same_in_any_number_of_slots(kind: str, heads: str, model_of: ModelFolder) -> None:
    folder, texts = model_of(kind), texts_of(40, *HEADS[heads])
    how = {"temperature": 1.0, "top_p": 0.9, "top_k": 5}
    one, seven, many = (sample(open_engine(folder, slots=slots), texts, **how) for slots in (1, 7, 128))
    assert without_logprobs(one) == without_logprobs(seven) == without_logprobs(many)
    assert ids_of(one) != generated(folder, texts)


def test_sampled_tokens_are_the_same_with_and_without_a_shared_prefix(model_of: ModelFolder) -> None:
    folder, texts = model_of("llama"), texts_of(20, *HEADS["a prefix"])
    how = {"temperature": 1.0, "top_p": 0.9, "top_k": 5}
    engine = open_engine(folder)
    together = sample(engine, texts, **how)
    params = SamplingParams(max_new_tokens=10, **how)
    for i, text in enumerate(texts):  # a prompt by itself shares nothing
        (alone,) = engine.sample([Request(prompt=text, seed=i)], params)
        assert (alone.token_ids, alone.logprob) == (together[i].token_ids, together[i].logprob)


def uses_kernels(engine: LocalEngine) -> bool:
    """Whether this engine generates in slots with the compiled operations; else it must do so without them."""
    kernels = [engine._kernels is not None, any(isinstance(m, FusedAttention) for m in engine._model.modules())]
    assert engine._why_not_slots is None
    assert len(set(kernels)) == 1
    return kernels[0]


@both_ways
@pytest.mark.parametrize(
    ("kind", "how"), [("llama", {}), ("qwen3", {"top_k": 5, "top_p": 0.9})], ids=["all tokens", "top-k and top-p"]
)
def test_in_float32_refilled_slots_sample_the_tokens_of_the_plain_model(
    kind: str, how: dict[str, Any], compiled: bool, model_of: ModelFolder
) -> None:
    folder, texts = model_of(kind), texts_of(40, *HEADS["two prefixes"])
    engine = open_engine(folder, dtype="float32", compiled=compiled, slots=3, prefill_tokens=64)
    assert uses_kernels(engine) is compiled
    params = SamplingParams(temperature=1.0, max_new_tokens=12, **how)
    completions = list(engine.sample([Request(prompt=text, seed=i) for i, text in enumerate(texts)], params))
    end = [codec_of(folder).end_id]
    for c in completions:
        ids = [*(c.token_ids or ()), *(end if c.finish_reason == "end" else [])]
        assert len(ids) == c.num_tokens
        ties = near_ties(folder, texts[c.request], c.request, ids, params)
        assert sum(ties) < 3
    assert {c.finish_reason for c in completions} == {"end", "length"}
    # The check detects a single wrong token.
    longest = max(completions, key=lambda c: c.num_tokens)
    wrong = [*(longest.token_ids or ())]
    wrong[5] = next(i for i in range(3, 20) if i != wrong[5])
    with pytest.raises(AssertionError):
        near_ties(folder, texts[longest.request], longest.request, wrong, params)


@both_ways
def test_in_float32_stop_strings_cut_greedy_completions_as_text(compiled: bool, model_of: ModelFolder) -> None:
    folder, texts = model_of("llama"), texts_of(40, *HEADS["a prefix"])
    stops, codec = ("2 2", "7 7", "5 2", ", 2", "9 9"), codec_of(folder)
    engine = open_engine(folder, dtype="float32", compiled=compiled, slots=3)
    assert uses_kernels(engine) is compiled
    completions = sample(engine, texts, stop=stops, max_new_tokens=40)
    greedy, compared = SamplingParams(temperature=0.0), 0
    for i, (completion, ids) in enumerate(zip(completions, generated(folder, texts, max_new_tokens=40), strict=True)):
        if any(near_ties(folder, texts[i], i, ids, greedy)):
            continue
        expected, is_cut = cut_at_stop(codec.decode(ids, after=codec.encode_prompt(texts[i])), stops)
        assert completion.text == expected
        assert (completion.finish_reason == "stop") == is_cut
        compared += 1
    assert compared > 30
    assert {c.finish_reason for c in completions} >= {"stop"}
    assert len({c.finish_reason for c in completions}) > 1


def test_a_cache_for_a_single_slot_gives_the_same_tokens(model_of: ModelFolder) -> None:
    folder, texts = model_of("llama"), texts_of(34, *HEADS["two prefixes"])
    assert ids_of(sample(open_engine(folder, cache_bytes=1, prefill_tokens=1), texts)) == generated(folder, texts)


def test_rows_that_end_far_apart_are_moved_together_and_get_the_same_tokens(model_of: ModelFolder) -> None:
    folder, texts = model_of("llama"), texts_of(48, *HEADS["a prefix"])
    params = SamplingParams(temperature=1.0, max_new_tokens=60)
    alone = sample(open_engine(folder, slots=1), texts, temperature=1.0, max_new_tokens=60)
    assert len({c.num_tokens for c in alone}) > 15
    engine, codec, widths = open_engine(folder), codec_of(folder), list[int]()

    class Watched(Runner):
        def step(self, cache: SlotCache, shared: int, ids: Sequence[int], own_positions: Sequence[int]) -> Tensor:
            widths.append(len(ids))
            return super().step(cache, shared, ids, own_positions)

    rows = [Row(request=i, seed=i, prompt_ids=codec.encode_prompt(text)) for i, text in enumerate(texts)]
    batch = SlotBatch(
        Watched(engine._model, torch.device("cpu")),
        rows,
        shared=20,
        num_slots=32,
        length=10 + 60,
        prefill_tokens=100,
        append_tokens=lambda logits, rows: engine._append_tokens(logits, rows, params),
        endings=Endings(codec, params),
    )
    assert sorted(batch.run(), key=lambda c: c.request) == alone
    assert widths[0] == 32
    assert widths[-1] <= 2
    assert all(a >= b for a, b in pairwise(widths))


def test_rows_that_end_at_their_first_token_are_empty_and_make_room(model_of: ModelFolder) -> None:
    folder, texts = model_of("llama"), texts_of(100, *HEADS["a prefix"])
    how = {"temperature": 3.0, "max_new_tokens": 4}
    few = sample(open_engine(folder, slots=4), texts, **how)
    at_once = [c for c in few if c.num_tokens == 1]
    assert len(at_once) > 1
    assert {(c.text, c.token_ids, c.finish_reason) for c in at_once} == {("", (), "end")}
    assert few == sample(open_engine(folder, slots=128), texts, **how)


def test_a_limit_of_one_token_ends_every_row_as_its_prompt_is_run(model_of: ModelFolder) -> None:
    folder, texts = model_of("llama"), texts_of(10, "")
    completions = sample(open_engine(folder, slots=3), texts, max_new_tokens=1)
    assert ids_of(completions) == generated(folder, texts, max_new_tokens=1)
    assert {c.num_tokens for c in completions} == {1}


def test_a_stop_string_that_spans_tokens_ends_rows_in_slots_that_were_filled_again(model_of: ModelFolder) -> None:
    folder, texts = model_of("llama"), texts_of(40, *HEADS["a prefix"])
    how = {"temperature": 1.0, "max_new_tokens": 40}
    uncut = sample(open_engine(folder, slots=40), texts, **how)
    stops = ("2 2", "7 7", "5 2", ", 2", "9 9")
    cut = sample(open_engine(folder, slots=3), texts, stop=stops, **how)
    for a, b in zip(uncut, cut, strict=True):
        places = [a.text.find(stop) for stop in stops if stop in a.text]
        assert b.text == (a.text[: min(places)] if places else a.text)
        assert (b.finish_reason == "stop") == bool(places)
    assert len({c.finish_reason for c in cut}) == 3


def test_rows_of_the_fallback_end_apart(model_of: ModelFolder) -> None:
    folder, texts, notes = model_of("gpt-j"), texts_of(24, ""), list[str]()
    how = {"temperature": 1.0, "max_new_tokens": 12, "stop": ("3", "0 0")}
    engine = open_engine(folder, slots=10, note=notes.append)
    together, alone = sample(engine, texts, **how), sample(open_engine(folder, slots=1), texts, **how)
    assert without_logprobs(together) == without_logprobs(alone)
    assert {c.finish_reason for c in together} == {"end", "stop", "length"}
    assert len({c.num_tokens for c in together}) > 5
    sample(engine, texts[:2])
    engine.score([Request(prompt=texts[0], seed=0)], ["1"])
    assert len(notes) == 1


@pytest.mark.parametrize("kind", ["llama", "gpt-neox", "gpt-j"])
def test_sampling_leaves_no_tensor_to_the_collector(kind: str, model_of: ModelFolder) -> None:
    """The collector counts objects and not their bytes, so it may come late."""
    engine, texts, alive = open_engine(model_of(kind), slots=4), texts_of(20, *HEADS["a prefix"]), []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            sample(engine, texts, max_new_tokens=8)
            alive.append(sum(issubclass(type(x), Tensor) for x in gc.get_objects()))
    finally:
        gc.enable()
    assert alive[2] == alive[0] > 0


@pytest.mark.parametrize(
    ("heads", "dtype", "compiled"),
    [(heads, "float64", False) for heads in HEADS] + [("two prefixes", "float32", way) for way in (False, True)],
)
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt-neox", "gpt-j"])
def test_scores_are_those_of_a_plain_forward_pass(
    kind: str, heads: str, dtype: str, compiled: bool, model_of: ModelFolder
) -> None:
    folder, texts = model_of(kind), texts_of(40, *HEADS[heads])
    completions = ["", *texts_of(39, "", "+1", seed=1)]
    requests = [Request(prompt=text, seed=0) for text in texts]
    scores = open_engine(folder, dtype=dtype, compiled=compiled, prefill_tokens=50).score(requests, completions)
    # Without slots log-probabilities are float32 for every type of the model.
    limit = 1e-4 if dtype == "float32" else 1e-9 if kind != "gpt-j" else 1e-5
    for text, completion, score in zip(texts, completions, scores, strict=True):
        prompt = codec_of(folder).encode_prompt(text)
        assert codec_of(folder).decode(score.token_ids, after=prompt).replace(" ", "") == completion
        logprobs = plain_logits(folder, [*prompt, *score.token_ids]).log_softmax(-1)
        expected = [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(score.token_ids)]
        assert score.logprobs == pytest.approx(expected, abs=limit)
    assert (scores[0].token_ids, scores[0].logprobs) == ((), ())


def test_only_empty_completions_and_none_at_all_are_scored_too(model_of: ModelFolder) -> None:
    engine = open_engine(model_of("llama"))
    scores = engine.score([Request(prompt="12", seed=0)] * 2, ["", ""])
    assert [(s.token_ids, s.logprobs) for s in scores] == [((), ()), ((), ())]
    assert engine.score([], []) == []


@pytest.mark.parametrize("kind", ["llama", "gpt-j"])
def test_a_completion_that_does_not_fit_the_context_is_refused(kind: str, model_of: ModelFolder) -> None:
    engine, prompt = open_engine(model_of(kind)), Request(prompt="1" * 100, seed=0)
    (score,) = engine.score([prompt], ["2" * 156])
    assert len(score.logprobs) == 156
    with pytest.raises(RefusedError, match="exceed the model's context of 256"):
        engine.score([prompt], ["2" * 157])


@pytest.mark.parametrize(
    ("dtype", "compiled"),
    [("float64", False), ("float32", False), ("float32", True)],
    ids=["float64", "plain", "compiled"],
)
def test_the_logprob_of_a_completion_is_the_sum_of_its_scores(
    dtype: str, compiled: bool, model_of: ModelFolder
) -> None:
    folder, texts = model_of("llama"), texts_of(40, *HEADS["two prefixes"])
    engine = open_engine(folder, dtype=dtype, compiled=compiled)
    completions = sample(engine, texts, temperature=1.0, top_k=3)
    scores = engine.score([Request(prompt=text, seed=0) for text in texts], [c.text for c in completions])
    limit = 2e-6 if dtype == "float64" else 2e-4
    compared = 0
    for completion, score in zip(completions, scores, strict=True):
        if completion.finish_reason == "length" and score.token_ids == completion.token_ids:
            assert completion.logprob == pytest.approx(sum(score.logprobs), abs=limit)
            compared += 1
    assert compared > 10


def test_packed_weights_in_bfloat16_score_nearly_as_float32(model_of: ModelFolder) -> None:
    folder, texts = model_of("llama with biases"), texts_of(40, *HEADS["two prefixes"])
    engine = open_engine(folder, dtype="bfloat16")
    layers = [module for module in engine._model.modules() if isinstance(module, PackedLinear)]
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this build of torch has no oneDNN")
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not layers  # and the model generates all the same
        assert ids_of(sample(engine, texts)) == ids_of(sample(open_engine(folder, dtype="bfloat16"), texts))
        pytest.skip("this processor has no bfloat16")
    assert len(layers) == 2 * 4 + 1  # queries, keys and values are one layer, gate and up another
    requests, completions = [Request(prompt=text, seed=0) for text in texts], texts_of(40, "", seed=1)
    ours = engine.score(requests, completions)
    plain = open_engine(folder, dtype="float32").score(requests, completions)
    gaps = [abs(a - b) for x, y in zip(ours, plain, strict=True) for a, b in zip(x.logprobs, y.logprobs, strict=True)]
    spread = [value for score in plain for value in score.logprobs]
    assert sum(gaps) / len(gaps) < 0.05 * (max(spread) - min(spread))
    assert max(gaps) > 0  # it is bfloat16
    assert sample(engine, texts) == sample(open_engine(folder, dtype="bfloat16"), texts)

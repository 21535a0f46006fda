"""Sampling a token: the distribution of the definition, no token that is ruled out, each row by itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selftaught.engines.local.token_sampling import BLOCK, CANDIDATES, sample_tokens
from selftaught.records.samples import SamplingParams
from selftaught.records.seeds import uniform

MANY = 4_000
SIZES = [1, 2, 255, 256, 257, 300, 511, 512, 513, 700]
"""Around the sizes of blocks and of candidates, and beyond them."""


def expected_probs(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Probabilities [V] by the definition: temperature, then top-k, then the nucleus of what is left."""
    probs = (logits.double() / params.temperature).softmax(-1)
    order = sorted(range(len(probs)), key=lambda i: -float(probs[i]))[: params.top_k]
    total, before = sum(float(probs[i]) for i in order), 0.0
    kept = torch.zeros_like(probs)
    for i in order:
        if before >= params.top_p * total:
            break
        kept[i] = probs[i]
        before += float(probs[i])
    return kept / kept.sum()


def logits_of(size: int, *, spread: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


WAYS = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_k": 600},
    {"top_p": 0.9},
    {"top_p": 0.3, "temperature": 1.5},
    {"top_p": 0.9999},  # more than CANDIDATES tokens where the vocabulary has them
    {"top_k": 40, "top_p": 0.8},
]


@pytest.mark.parametrize("size", [20, 300, 700, 5_000])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_evenly_spaced_numbers_sample_every_token_as_often_as_its_probability(size: int, way: dict[str, float]) -> None:
    params, logits = SamplingParams(**{"temperature": 1.0, **way}), logits_of(size)  # type: ignore[arg-type]
    number = 1_000 if size > 1_000 else MANY
    numbers = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    counts = torch.zeros(size)
    for part in numbers.split(500):
        tokens, _ = sample_tokens(logits.expand(len(part), -1), params, part)
        counts += tokens.bincount(minlength=size)
    probs = expected_probs(logits, params)
    # A token's numbers are one interval, so its count is off by less than one.
    assert float((counts - number * probs).abs().max()) < 1.001
    assert int(counts[probs == 0].sum()) == 0


@pytest.mark.parametrize("size", [20, 300, 700])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_numbers_of_seeds_sample_the_distribution(size: int, way: dict[str, float]) -> None:
    params, logits = SamplingParams(**{"temperature": 1.0, **way}), logits_of(size)  # type: ignore[arg-type]
    numbers = torch.tensor([uniform(seed, 3) for seed in range(MANY)], dtype=torch.float64)
    tokens, _ = sample_tokens(logits.expand(MANY, -1), params, numbers)
    counts, expected = tokens.bincount(minlength=size), MANY * expected_probs(logits, params)
    common = expected >= 5
    cells = [*zip(counts[common].tolist(), expected[common].tolist(), strict=True)]
    if float(expected[~common].sum()) >= 5:
        cells.append((int(counts[~common].sum()), float(expected[~common].sum())))
    chi2 = sum((count - mean) ** 2 / mean for count, mean in cells)
    free = max(1, len(cells) - 1)
    # 99.99 % quantile of chi-square with `free` degrees of freedom (Wilson and Hilferty 1931).
    assert chi2 < free * (1 - 2 / (9 * free) + 3.72 * math.sqrt(2 / (9 * free))) ** 3


def test_the_check_of_the_distribution_sees_a_wrong_temperature() -> None:
    numbers = (torch.arange(MANY, dtype=torch.float64) + 0.5) / MANY
    logits = logits_of(20)
    tokens, _ = sample_tokens(logits.expand(MANY, -1), SamplingParams(temperature=1.1), numbers)
    wrong = expected_probs(logits, SamplingParams(temperature=1.0))
    assert float((tokens.bincount(minlength=20) - MANY * wrong).abs().max()) > 10


ways = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([None, 1, 3, 40, 600]),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 0.999, 1.0]),
)
rows = st.builds(
    lambda size, seeds, spread, dtype: torch.stack([logits_of(size, spread=spread, seed=s) for s in seeds]).to(dtype),
    st.sampled_from(SIZES),
    st.lists(st.integers(0, 999), min_size=1, max_size=6),
    st.sampled_from([0.1, 1.0, 10.0]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
fractions = st.floats(0.0, 1.0, exclude_max=True) | st.sampled_from([0.0, 5e-324, 0.5, 1 - 2**-53])


@settings(max_examples=2 * settings().max_examples)
@given(logits=rows, params=ways, data=st.data())
def test_a_token_that_is_ruled_out_is_never_sampled(
    logits: torch.Tensor, params: SamplingParams, data: st.DataObject
) -> None:
    size = logits.shape[1]
    numbers = torch.tensor(data.draw(st.lists(fractions, min_size=len(logits), max_size=len(logits))))
    for row in logits:
        never = data.draw(st.sets(st.integers(0, size - 1), max_size=min(size - 1, 20)))
        row[list(never)] = float("-inf")
    tokens, _ = sample_tokens(logits, params, numbers.double())
    for row, token in zip(logits, tokens.tolist(), strict=True):
        assert 0 <= token < size
        assert row[token] > float("-inf")
        if params.temperature == 0.0:
            assert token == int(row.argmax())
            continue
        likelier = row[row > row[token]].double()
        if params.top_k:
            assert len(likelier) < params.top_k
        probs = (row.double() / params.temperature).softmax(-1)
        total = float(probs.topk(min(params.top_k or size, size)).values.sum())
        before = float(probs[row > row[token]].sum())
        assert before < params.top_p * total * (1 + 1e-5) + 1e-12


@given(size=st.sampled_from([3, 256, 257, 600]), params=ways, number=fractions, only=st.integers(0, 2))
def test_a_single_possible_token_is_sampled_with_any_number(
    size: int, params: SamplingParams, number: float, only: int
) -> None:
    logits = torch.full((1, size), float("-inf"))
    place = [0, size // 2, size - 1][only]
    logits[0, place] = 0.0
    tokens, logprobs = sample_tokens(logits, params, torch.tensor([number], dtype=torch.float64))
    assert (tokens.tolist(), logprobs.tolist()) == ([place], [0.0])


@given(logits=rows, params=ways, data=st.data())
def test_a_row_does_not_depend_on_the_rows_beside_it(
    logits: torch.Tensor, params: SamplingParams, data: st.DataObject
) -> None:
    numbers = torch.tensor(data.draw(st.lists(fractions, min_size=len(logits), max_size=len(logits)))).double()
    together = [t.tolist() for t in sample_tokens(logits, params, numbers)]
    alone = [sample_tokens(logits[i : i + 1], params, numbers[i : i + 1]) for i in range(len(logits))]
    assert together == [[int(t) for t, _ in alone], [float(p) for _, p in alone]]


def test_a_row_that_needs_more_candidates_leaves_the_others_as_they_are() -> None:
    flat, peaked = torch.zeros(3 * CANDIDATES), torch.zeros(3 * CANDIDATES)
    peaked[7] = 50.0
    params, number = SamplingParams(temperature=1.0, top_p=0.9), torch.tensor([0.99, 0.99], dtype=torch.float64)
    both, _ = sample_tokens(torch.stack([flat, peaked]), params, number)
    alone, _ = sample_tokens(flat[None], params, number[:1])
    assert both.tolist() == [int(alone), 7]
    assert (
        len(set(sample_tokens(flat.expand(1_000, -1), params, torch.arange(1_000).double() / 1_000)[0].tolist())) > 900
    )


@given(size=st.sampled_from(SIZES), seed=st.integers(0, 999), spread=st.sampled_from([0.1, 3.0]), data=st.data())
def test_without_limits_larger_numbers_sample_later_tokens_of_the_vocabulary(
    size: int, seed: int, spread: float, data: st.DataObject
) -> None:
    logits = logits_of(size, seed=seed, spread=spread)
    numbers = torch.tensor(sorted(data.draw(st.lists(fractions, min_size=2, max_size=50)))).double()
    tokens, _ = sample_tokens(logits.expand(len(numbers), -1), SamplingParams(temperature=1.0), numbers)
    assert tokens.tolist() == sorted(tokens.tolist())
    # And each number falls into its token's part of the distribution function.
    ends = logits.softmax(-1).cumsum(-1)
    for number, token in zip(numbers.tolist(), tokens.tolist(), strict=True):
        start = float(ends[token - 1]) if token else 0.0
        assert start - 1e-9 <= number <= float(ends[token]) + 1e-9


@given(logits=rows, params=ways, number=fractions)
def test_log_probabilities_are_those_of_the_model_itself(
    logits: torch.Tensor, params: SamplingParams, number: float
) -> None:
    tokens, logprobs = sample_tokens(logits, params, torch.full((len(logits),), number, dtype=torch.float64))
    expected = logits.double().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    assert logprobs.dtype == (torch.float64 if logits.dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(logprobs.double(), expected, atol=1e-5, rtol=1e-5)


def test_logits_that_are_not_finite_show_in_the_log_probability() -> None:
    logits = torch.zeros(3, BLOCK + 1)
    logits[0, 4] = float("nan")
    logits[1, 4] = float("inf")
    for way in ({"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}):
        _, logprobs = sample_tokens(logits, SamplingParams(**way), torch.full((3,), 0.5, dtype=torch.float64))
        assert logprobs.isfinite().tolist() == [False, False, True]

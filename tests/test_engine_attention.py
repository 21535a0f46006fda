"""Attention of tokens to a prefix and to their slots, compared with softmax by its definition in float64."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selftaught.engines.local.slots import (
    PrefillPass,
    PrefixPass,
    SlotCache,
    StepPass,
    attend,
    attend_plainly,
    padded_batches,
)

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2}

sizes = st.integers(1, 9)


@given(
    dtype=st.sampled_from(list(TOLERANCE)),
    shape=st.tuples(sizes, st.integers(1, 3), sizes, st.sampled_from([4, 8, 20])),
    number=st.integers(1, 40),
    kind=st.sampled_from(["plain", "mask", "causal"]),
    seed=st.integers(0, 99),
)
def test_the_kernel_for_the_cpu_is_attention_in_plain_operations(
    dtype: torch.dtype, shape: tuple[int, int, int, int], number: int, kind: str, seed: int
) -> None:
    batch, heads, tokens, size = shape
    number = tokens if kind == "causal" else number
    rng = torch.Generator().manual_seed(seed)
    q = torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)
    k, v = (torch.randn(batch, heads, number, size, generator=rng, dtype=torch.float64).to(dtype) for _ in range(2))
    mask = None
    if kind == "mask":  # as a step makes it: every row sees its own first tokens
        visible = torch.randint(1, number + 1, (batch, 1, 1, 1), generator=rng)
        hidden = torch.arange(number) >= visible
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf")).expand(-1, -1, tokens, -1)
    how = {"scale": 0.7, "mask": mask, "is_causal": kind == "causal"}
    out, lse = attend(q, k, v, **how)
    expected, expected_lse = attend_plainly(q, k, v, **how)
    exact, exact_lse = softmax_by_definition(q, k, v, scale=0.7, mask=mask, is_causal=kind == "causal")
    for result in (out, expected):
        torch.testing.assert_close(result.double(), exact, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    for result in (lse, expected_lse):
        torch.testing.assert_close(result.double(), exact_lse, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert out.dtype == expected.dtype == dtype


def softmax_by_definition(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None = None, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    q, k, v = q.double(), k.double(), v.double()
    scores = torch.einsum("bhtd,bhld->bhtl", q, k) * scale
    if mask is not None:
        scores = scores + mask
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
    return torch.einsum("bhtl,bhld->bhtd", scores.softmax(-1), v), scores.exp().sum(-1).log()


@given(
    dtype=st.sampled_from(list(TOLERANCE)),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    prefix=st.integers(0, 12),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=20),
    seed=st.integers(0, 99),
    batched=st.booleans(),
)
def test_attention_in_slots_is_attention_over_prefix_prompt_and_new_token(
    dtype: torch.dtype, kv_heads: int, group: int, prefix: int, lengths: list[int], seed: int, batched: bool
) -> None:
    with as_on_a_gpu() if batched else nullcontext():
        compare_with_the_definition(dtype, kv_heads, group, prefix, lengths, seed)


def as_on_a_gpu() -> AbstractContextManager[pytest.MonkeyPatch]:
    """Attention takes many sequences in one call, in torch's plain operations."""

    @contextmanager
    def patched() -> Iterator[pytest.MonkeyPatch]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("selftaught.engines.local.slots.is_batched", lambda device: True)
            patch.setattr("selftaught.engines.local.slots.attend", attend_plainly)
            yield patch

    return patched()


def compare_with_the_definition(
    dtype: torch.dtype, kv_heads: int, group: int, prefix: int, lengths: list[int], seed: int
) -> None:
    size, scale, rng = 8, 0.5, torch.Generator().manual_seed(seed)
    cpu = torch.device("cpu")

    def tensors(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        heads = (kv_heads * group, kv_heads, kv_heads)
        return tuple(  # type: ignore[return-value]
            torch.randn(1, h, tokens, size, generator=rng, dtype=torch.float64).to(dtype) for h in heads
        )

    sequences = [tensors(prefix + length + 1) for length in lengths]
    first = sequences[0]
    for sequence in sequences:  # all begin alike
        for tensor, shared in zip(sequence, first, strict=True):
            tensor[:, :, :prefix] = shared[:, :, :prefix]

    def part(a: int, *ends: int) -> list[Tensor]:
        spans = zip(sequences, ends, strict=True)
        return [torch.cat(parts, 2) for parts in zip(*([t[:, :, a:b] for t in s] for s, b in spans), strict=True)]

    cache = SlotCache(len(lengths), max(lengths) + 1)
    if prefix:
        out = PrefixPass(cache).attend(0, *(t[:, :, :prefix] for t in first), scale)
        compare(out, [causal(*first, scale)[:, :, :prefix]], dtype)
    slots = list(reversed(range(len(lengths))))  # not in the order of the row
    prefill = PrefillPass(cache, lengths, slots, cpu)
    out = prefill.attend(0, *part(prefix, *(prefix + length for length in lengths)), scale)
    expected = [causal(*w, scale) for w in sequences]
    compare(out, [e[:, :, prefix:-1] for e in expected], dtype)
    step = StepPass(cache, lengths[::-1], dtype, cpu)
    new = [torch.cat([w[i][:, :, -1:] for w in reversed(sequences)], 2) for i in range(3)]
    compare(step.attend(0, *new, scale), [e[:, :, -1:] for e in reversed(expected)], dtype)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.sampled_from([1, 10_000, 1 << 23]))
def test_padded_batches_hold_every_token_once_and_little_padding(lengths: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selftaught.engines.local.slots.BATCH_SCORES", most)
        batches = padded_batches(lengths, torch.device("cpu"))
    places = torch.cat([batch.scatter for batch in batches])
    assert sorted(places.tolist()) == list(range(sum(lengths)))
    for batch in batches:
        sequences, width = batch.gather.shape
        assert torch.equal(batch.gather.flatten()[batch.within], batch.scatter)
        assert 2 * len(batch.scatter) >= sequences * width
        assert sequences == 1 or sequences * width**2 <= most


def test_on_a_gpu_prompts_of_similar_length_share_one_call_and_so_do_all_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(q: Tensor, *rest: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
        calls.append(q.shape[0])
        return attend_plainly(q, *rest, **how)

    monkeypatch.setattr("selftaught.engines.local.slots.is_batched", lambda device: True)
    monkeypatch.setattr("selftaught.engines.local.slots.attend", counted)
    lengths, cpu = [50 + i for i in range(40)], torch.device("cpu")
    cache = SlotCache(40, 100)
    total = sum(lengths)
    prefill = PrefillPass(cache, lengths, range(40), cpu)
    prefill.attend(0, torch.randn(1, 4, total, 8), torch.randn(1, 2, total, 8), torch.randn(1, 2, total, 8), 0.5)
    step = StepPass(cache, lengths, torch.float32, cpu)
    step.attend(0, torch.randn(1, 4, 40, 8), torch.randn(1, 2, 40, 8), torch.randn(1, 2, 40, 8), 0.5)
    assert calls == [40, 40]


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    return softmax_by_definition(q, k, v, scale=scale, is_causal=True)[0]


def compare(out: Tensor, expected: list[Tensor], dtype: torch.dtype) -> None:
    """`out` [1, N, H, D] against parts [1, H, n, D] in double."""
    joined = torch.cat(expected, 2).transpose(1, 2)
    torch.testing.assert_close(out.double(), joined, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])

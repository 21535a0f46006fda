"""The operations that numba compiles, compared with float64, and models that they are not used for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama import modeling_llama
from transformers.models.llama.configuration_llama import LlamaConfig

from selftaught.engines.local.cpu import CpuKernels
from selftaught.engines.local.cpu.attention import attend_in_slots
from selftaught.engines.local.cpu.decoder import TABLE_STEP, Decoder, decoder_of
from selftaught.engines.local.cpu.fused import (
    FusedAttention,
    FusedMlp,
    FusedNorm,
    fuse_layers,
)
from selftaught.engines.local.cpu.likeliest import likeliest
from selftaught.engines.local.forward import Runner, use_slots
from selftaught.engines.local.slots import PrefillPass, SlotAttention, SlotCache
from tiny_models import ModelFolder, generated, ids_of, open_engine, plain_model, sample, texts_of

HALF, SINGLE = torch.bfloat16, torch.float32
NEAR = {HALF: 2e-2, SINGLE: 2e-6}
"""Of numbers around 1."""


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, prefix: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """q [H, D] over k, v [K, T, D] and the prefix's [K, P, D] in float64: output [H, D], own log-sum-exp [H]."""
    group = q.shape[0] // k.shape[0]
    k, v = (x.double().repeat_interleave(group, 0) for x in (k, v))
    own = torch.einsum("hd,htd->ht", q.double(), k) * scale
    scores = own
    if prefix is not None:
        more_k, more_v = (x.double().repeat_interleave(group, 0) for x in prefix)
        scores = torch.cat([torch.einsum("hd,htd->ht", q.double(), more_k) * scale, own], 1)
        v = torch.cat([more_v, v], 1)
    return torch.einsum("ht,htd->hd", scores.softmax(-1), v), own.logsumexp(-1)


@pytest.mark.parametrize("dtype", [HALF, SINGLE])
@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize(
    ("size", "group"),
    [
        *((6, 2), (16, 1), (64, 3)),
        *(pytest.param(*shape, marks=pytest.mark.slow) for shape in ((8, 2), (20, 1), (32, 1), (80, 4), (128, 7))),
    ],
)
def test_compiled_attention_is_attention_over_prefix_and_slot(
    size: int, group: int, with_prefix: bool, dtype: torch.dtype
) -> None:
    kv_heads, num_slots, length = 2, 5, 40
    held = (
        random(num_slots, kv_heads, length, size, dtype=dtype, seed=1),
        random(num_slots, kv_heads, length, size, dtype=dtype, seed=2),
    )
    slots, positions = torch.tensor([3, 0, 4]), torch.tensor([0, 39, 17])
    q = random(kv_heads * group, 3, size, dtype=dtype, seed=3)
    k, v = (random(kv_heads, 3, size, dtype=dtype, seed=seed) for seed in (4, 5))
    scale, shared, prefix = size**-0.5, None, None
    if with_prefix:
        prefix = tuple(random(kv_heads, 11, size, dtype=dtype, seed=seed) for seed in (6, 7))
        alone = [exact_attention(q[:, n], *prefix, scale, None) for n in range(3)]
        by_token = [torch.stack(parts, 1).unflatten(0, (kv_heads, group)) for parts in zip(*alone, strict=True)]
        shared = (by_token[0].flatten(1, 2)[None].to(dtype), by_token[1].flatten(1, 2)[None].float())
    expected_held = tuple(x.clone() for x in held)
    for target, new in zip(expected_held, (k, v), strict=True):
        target[slots, :, positions] = new.transpose(0, 1)
    out = attend_in_slots(SlotAttention(q, (k, v), held, slots, positions, scale, shared), threads=1)
    assert all(torch.equal(a, b) for a, b in zip(held, expected_held, strict=True))
    for n in range(3):
        keys, values = (x[slots[n], :, : positions[n] + 1] for x in held)
        expected, _ = exact_attention(q[:, n], keys, values, scale, prefix)
        assert (out[0, n].double() - expected).abs().max() < NEAR[dtype]


@pytest.mark.parametrize("dtype", [HALF, SINGLE])
@pytest.mark.parametrize(("bad", "where"), [("nan", "k"), ("nan", "q"), ("inf", "k")])
def test_a_score_that_is_not_a_number_makes_its_token_not_a_number_and_no_other(
    bad: str, where: str, dtype: torch.dtype
) -> None:
    held = tuple(random(3, 1, 20, 64, dtype=dtype, seed=seed).abs() for seed in (1, 2))
    q = random(1, 3, 64, dtype=dtype, seed=3).abs()
    (q if where == "q" else held[0])[0, 1 if where == "q" else 0, ..., 5] = float(bad)
    broken = 1 if where == "q" else 0
    call = SlotAttention(q, None, held, torch.arange(3), torch.tensor([12, 12, 12]), 0.125)
    out = attend_in_slots(call, threads=1)
    assert [bool(torch.isnan(token).all()) for token in out[0].flatten(1)] == [n == broken for n in range(3)]
    assert torch.isfinite(out[0][[n for n in range(3) if n != broken]]).all()


@pytest.mark.parametrize("dtype", [HALF, SINGLE])
def test_neither_threads_nor_the_tokens_beside_it_change_a_bit_of_a_token(dtype: torch.dtype) -> None:
    def run(tokens: list[int], threads: int, *, written_before: bool = False) -> Tensor:
        cache = SlotCache(9, 30)
        cache.own[0] = tuple(random(9, 2, 30, 16, dtype=dtype, seed=seed) for seed in (1, 2))  # type: ignore[assignment]
        q = random(4, 9, 16, dtype=dtype, seed=3)[:, tokens]
        k, v = (random(2, 9, 16, dtype=dtype, seed=seed)[:, tokens] for seed in (4, 5))
        slots, positions = torch.tensor(tokens), torch.tensor([3 * n for n in tokens])
        if written_before:
            cache.write(0, slots, positions, k[None], v[None])
        new = None if written_before else (k, v)
        return attend_in_slots(SlotAttention(q, new, cache.own[0], slots, positions, 0.25), threads=threads)[0]

    together = run(list(range(9)), 1)
    assert torch.equal(run(list(range(9)), 2), together)
    assert torch.equal(run(list(range(9)), 1, written_before=True), together)
    assert torch.equal(run([2, 7], 1), together[[2, 7]])


def test_tokens_of_one_slot_attend_to_each_other_on_any_thread() -> None:
    cache = SlotCache(1, 64, CpuKernels(2))
    cache.own[0] = tuple(torch.full((1, 1, 64, 16), float("nan")) for _ in range(2))  # type: ignore[assignment]
    q, k, v = (random(1, 64, 16, dtype=SINGLE, seed=seed) for seed in (1, 2, 3))
    slot_pass = PrefillPass(cache, [64], [0], torch.device("cpu"))
    out = slot_pass.attend(0, q[None], k[None], v[None], 0.25)
    expected = nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=True, scale=0.25
    )
    assert (out[0].transpose(0, 1).double() - expected).abs().max() < 2e-6


@given(
    st.lists(
        st.lists(st.floats(-90, 90, width=32) | st.just(float("-inf")), min_size=64, max_size=64),
        min_size=1,
        max_size=5,
    ),
    st.integers(18, 64),
    st.sampled_from([HALF, SINGLE]),
    st.sampled_from([1, 2]),
)
@settings(deadline=None, max_examples=60)
@pytest.mark.slow
def test_the_likeliest_token_is_the_same_as_torchs_and_the_first_among_equals(
    values: list[list[float]], size: int, dtype: torch.dtype, threads: int
) -> None:
    for row in values:
        row[17] = max(row[17], -80.0)  # a row of only minus infinity has no likeliest token
    logits = torch.tensor(values).to(dtype)[:, :size].contiguous()
    tokens, logprobs = likeliest(logits, threads)
    best = logits.log_softmax(-1, dtype=torch.float32).max(-1)
    assert tokens.tolist() == [int((row == row.max()).nonzero()[0]) for row in logits]
    assert (logprobs - best.values).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [HALF, SINGLE])
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_logit_that_is_not_finite_makes_only_its_rows_log_probability_not_finite(
    bad: str, dtype: torch.dtype
) -> None:
    logits = random(3, 96, dtype=dtype, seed=0)
    logits[1, 50] = float(bad)
    _, logprobs = likeliest(logits, 1)
    assert torch.isfinite(logprobs).tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", [HALF, SINGLE])
@pytest.mark.parametrize("threads", [1, 2])
def test_fused_layers_give_the_numbers_of_the_plain_ones(dtype: torch.dtype, threads: int) -> None:
    config = LlamaConfig(hidden_size=96, intermediate_size=160, hidden_act="silu", mlp_bias=True)
    torch.manual_seed(0)
    norm, mlp = modeling_llama.LlamaRMSNorm(96, eps=1e-5).to(dtype), modeling_llama.LlamaMLP(config).to(dtype)
    nn.init.normal_(norm.weight)
    with torch.inference_mode():
        x = random(1, 33, 96, dtype=dtype, seed=1) * 5
        for plain, fused in ((norm, FusedNorm(norm, threads)), (mlp, FusedMlp(mlp, threads))):
            expected, actual = plain(x).float(), fused(x).float()
            # Half a unit of the last place before a rounding can be a unit after it.
            assert (actual - expected).abs().max() <= 2 * torch.finfo(dtype).eps * expected.abs().max()
            assert (actual - expected).abs().mean() <= 0.5 * torch.finfo(dtype).eps * expected.abs().max()


def test_the_norms_of_heads_are_fused_too(model_of: ModelFolder) -> None:
    engine = open_engine(model_of("qwen3"), dtype="float32")
    layers = [m for m in engine._model.modules() if isinstance(m, FusedAttention)]
    assert {type(norm) for layer in layers for norm in (layer.q_norm, layer.k_norm)} == {FusedNorm}


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama with biases", "llama with yarn positions"])
@pytest.mark.parametrize("dtype", [HALF, SINGLE])
def test_the_shorter_forward_pass_gives_the_logits_of_the_models_own(
    kind: str, dtype: torch.dtype, model_of: ModelFolder
) -> None:
    engine = open_engine(model_of(kind), dtype=str(dtype).removeprefix("torch."))
    assert isinstance(engine._kernels, CpuKernels)
    runner = Runner(engine._model, torch.device("cpu"), engine._kernels)
    decoder = decoder_of(engine._model)
    assert isinstance(decoder, Decoder)
    logits = []
    for runs_the_model in (decoder, None):
        runner._decoder = runs_the_model
        cache = SlotCache(3, 12, engine._kernels)
        runner.prefill_prefix(cache, [3, 4, 5])
        first = runner.prefill(cache, 3, [[6, 7], [8], [9, 10, 11]], [0, 1, 2])
        logits.append((first, runner.step(cache, 3, [5, 6, 7], [2, 1, 3])))
    for shorter, own in zip(*logits, strict=True):
        assert torch.equal(shorter, own)


def test_the_shorter_forward_pass_is_used_only_for_models_that_it_knows(model_of: ModelFolder) -> None:
    model = open_engine(model_of("qwen3"), dtype="float32")._model
    layers = model.model.layers
    assert decoder_of(model) is not None
    plain, layers[1].mlp = layers[1].mlp, nn.Identity()
    assert decoder_of(model) is None
    layers[1].mlp = plain
    model.__class__ = type("Qwen3ForCausalLM", (type(model),), {})  # another class with a known name
    assert decoder_of(model) is None


def test_the_table_of_rotary_positions_grows_with_the_sequences(model_of: ModelFolder) -> None:
    decoder = decoder_of(open_engine(model_of("qwen3"), dtype="float32")._model)
    assert decoder is not None
    few, many = torch.tensor([3, 0]), torch.tensor([3, 0, 2 * TABLE_STEP - 1])
    near, far = decoder.rotary_tables(few), decoder.rotary_tables(many)
    expected = decoder._rotary(decoder._embedding, many[None])
    for a, b, c in zip(near, far, expected, strict=True):
        assert torch.equal(a[few], b[few])
        assert torch.equal(b[many], c[0])


class Parent(nn.Module):
    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        self.dtype, self.device = torch.float32, torch.device("cpu")
        for name, layer in layers.items():
            self.add_module(name, layer)


class SquaredMLP(modeling_llama.LlamaMLP):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) ** 2 * self.up_proj(x))  # type: ignore[no-any-return]


def test_layers_that_only_look_like_others_stay_as_they_are() -> None:
    config = LlamaConfig(hidden_size=32, intermediate_size=64)
    gelu = LlamaConfig(hidden_size=32, intermediate_size=64, hidden_act="gelu")
    odd = LlamaConfig(hidden_size=32, intermediate_size=48)
    gemma = Gemma2RMSNorm(32)
    gemma.variance_epsilon = gemma.eps
    nn.init.normal_(gemma.weight)
    parent = Parent(
        squared=SquaredMLP(config),
        gelu=modeling_llama.LlamaMLP(gelu),
        odd=modeling_llama.LlamaMLP(odd),
        gemma=gemma,
        good=modeling_llama.LlamaMLP(config),
    )
    replaced = fuse_layers(parent, threads=1, with_attention=True)
    assert [name for _, name, _ in replaced] == ["good"]


class LlamaAttention(modeling_llama.LlamaAttention):  # type: ignore[misc]
    """It has the name of a class that is fused."""

    def forward(self, *arguments: Any, **more: Any) -> tuple[Tensor, Any]:
        out, weights = super().forward(*arguments, **more)
        return 2 * out, weights


def test_a_model_whose_fused_logits_are_wrong_is_run_with_its_own_layers(model_of: ModelFolder) -> None:
    engine = open_engine(model_of("llama"), dtype="float32")
    assert sum(isinstance(m, FusedAttention) for m in engine._model.modules()) == 2
    model = plain_model(model_of("llama"), SINGLE)
    layer = model.model.layers[0]
    layer.self_attn.__class__ = LlamaAttention
    try:
        assert use_slots(model, torch.device("cpu"), CpuKernels(1)) is None
        assert type(layer.self_attn) is LlamaAttention
    finally:
        plain_model.cache_clear()


@pytest.mark.parametrize(("dtype", "suits"), [("float32", True), ("bfloat16", True), ("float64", False)])
def test_the_kernels_are_for_float32_and_bfloat16(dtype: str, suits: bool, model_of: ModelFolder) -> None:
    engine = open_engine(model_of("llama"), dtype=dtype)
    assert (engine._kernels is not None) is suits
    assert any(isinstance(m, FusedAttention) for m in engine._model.modules()) is suits


def test_an_engine_without_kernels_runs_the_models_own_layers(model_of: ModelFolder) -> None:
    engine = open_engine(model_of("llama"), dtype="float32", compiled=False)
    assert {type(m).__module__.partition(".")[0] for m in engine._model.modules()} <= {"torch", "transformers"}


def test_a_sliding_window_that_is_too_short_falls_back_to_generate_with_the_models_own_attention(
    model_of: ModelFolder, tmp_path: Path
) -> None:
    folder, notes = model_of("mistral"), list[str]()
    engine = open_engine(folder, dtype="float32", note=notes.append)
    texts = ["1" * 150 + text for text in texts_of(6, "")]
    ids = ids_of(sample(engine, texts, max_new_tokens=60))
    assert ["sliding window" in note for note in notes] == [True]
    assert ids == generated(folder, texts, dtype=SINGLE, max_new_tokens=60)

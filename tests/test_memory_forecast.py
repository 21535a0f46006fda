"""The forecast of memory: what autograd keeps, what a training takes at its peak, and how it is made to fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from selftaught.machine.devices import Machine, NumberType
from selftaught.models.forecast import (
    SamplingWork,
    TrainingWork,
    forecast_sampling,
    forecast_training,
    layer_bytes_per_token,
)
from selftaught.models.shape import Shape, shape_from, shape_of
from selftaught.training.fitting import MOST_TOKENS, Fitted, Rows, Switches, fit
from selftaught.training.micro_batches import collator_of, loss_of
from selftaught.training.models import prepare
from selftaught.training.sft_config import SftConfig

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 50,
}
GEMMA = {**SMALL, "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SMALL),
    "qwen3": ("Qwen3Config", {**SMALL, "head_dim": 32}),
    "gemma3, padded": ("Gemma3TextConfig", {**GEMMA, "sliding_window": 32}),
    "gemma3, packed": ("Gemma3TextConfig", {**GEMMA, "sliding_window": 500}),
}
ROW, ROWS = 64, 4

QWEN = Shape(
    parameters=494_032_768,
    largest=136_134_656,
    vocabulary=151_936,
    hidden=896,
    layers=24,
    inner=4864,
    queries=896,
    keys=128,
    heads=14,
    gated=True,
    tied=True,
    norm="rms",
    norms_after=0,
    head_norms=False,
    linear_widths=24 * (4 * 896 + 2 * 128 + 896 + 3 * (896 + 4864)),
    window=None,
    exchangeable=True,
    context=32_768,
    file_bytes=988_097_824,
)
"""Qwen2.5-Coder-0.5B."""


def made(kind: str, layers: int) -> tuple[Any, Shape]:
    name, values = KINDS[kind]
    config = getattr(transformers, name)(**values, num_hidden_layers=layers)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    return model, shape_from(config, {n: tuple(p.shape) for n, p in model.named_parameters()}, file_bytes=0)


def kept_by_autograd(model: Any, settings: SftConfig, compute: torch.dtype) -> int:
    """Bytes that a forward pass over four rows keeps for the backward pass, without weights."""
    prepared = prepare(model.to(compute), settings, compute=compute, longest=ROW, seed=0)
    weights = {p.untyped_storage().data_ptr() for p in prepared.model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    labels = [-100] * (ROW - 4) + [5] * 4
    rows = [{"input_ids": [5] * ROW * ROWS, "labels": labels * ROWS, "seq_lengths": [ROW] * ROWS}]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_of(prepared.model.train(), collator_of(prepared)(rows), 1.0)
    return sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights)


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_keeps_what_the_forecast_says(kind: str, dtype: NumberType, rank: int | None) -> None:
    settings = SftConfig(learning_rate=1e-3, lora_rank=rank)
    work = TrainingWork(
        dtype=dtype,
        device="cpu",
        tokens=ROW * ROWS,
        loss_tokens=4 * ROWS,
        longest=ROW,
        accumulates=False,
        lora_rank=rank,
    )
    (small, shape), (large, _) = made(kind, 2), made(kind, 4)
    compute = getattr(torch, dtype)
    difference = kept_by_autograd(large, settings, compute) - kept_by_autograd(small, settings, compute)
    assert difference / 2 / work.tokens == pytest.approx(layer_bytes_per_token(shape, work), rel=0.015)


def test_the_shape_comes_from_the_config_and_the_headers(adder: Path) -> None:
    shape = shape_of(str(adder))
    assert (shape.parameters, shape.vocabulary, shape.hidden, shape.layers, shape.inner) == (642_560, 21, 128, 3, 384)
    assert shape.linear_widths == 3 * (4 * 256 + 3 * 512)
    assert shape.tied
    assert shape.gated
    assert shape.norm == "rms"
    assert shape.file_bytes == (adder / "model.safetensors").stat().st_size


CPU = Machine(device="cpu", dtype="bfloat16", threads=2)
STEP = Rows(longest=600, loss_tokens=250, batch_size=8)
OPEN = Switches("auto", "auto", "auto")


def fitted(
    free: int, switches: Switches = OPEN, *, rank: int | None = None, machine: Machine = CPU, rows: Rows = STEP
) -> Fitted:
    return fit(switches, rows, QWEN, machine, lora_rank=rank, is_split=False, free=free)


def test_half_a_billion_parameters_are_trained_in_16_gib_and_adapters_in_6() -> None:
    for machine in (CPU, replace(CPU, dtype="float32")):
        assert fitted(16 << 30, machine=machine).forecast.bytes <= 16 << 30
        assert fitted(6 << 30, rank=16, machine=machine).forecast.bytes <= 6 << 30


def test_with_much_memory_nothing_is_changed() -> None:
    found = fitted(1 << 40)
    assert found.lines == ()
    assert found.switches[1:] == (False, False)


def test_with_little_memory_every_change_is_said() -> None:
    found = fitted(0, rows=Rows(longest=4000, loss_tokens=3900, batch_size=8))  # longer than a micro-batch of `auto`
    assert found.switches[1:] == (True, True)
    for setting in ("activation_checkpointing", "logits_in_pieces"):
        assert any(f"training.{setting} = true" in line for line in found.lines)
    less = fitted(fitted(1 << 40).forecast.bytes - (1 << 30))
    assert less.switches[1:] == (False, False)
    (line,) = less.lines
    assert f"training.micro_batch_tokens = {less.switches.micro_batch_tokens} in place of" in line


@given(st.integers(8, 40), st.integers(8, 40))
def test_less_memory_never_needs_more(a: int, b: int) -> None:
    less, more = sorted((a, b))
    assert fitted(less << 28).forecast.bytes <= fitted(more << 28).forecast.bytes


@given(
    tokens=st.one_of(st.just("auto"), st.integers(1, 1 << 15)),
    recomputes=st.sampled_from(["auto", True, False]),
    pieces=st.sampled_from(["auto", True, False]),
    free=st.integers(0, 1 << 35),
)
def test_what_the_settings_say_is_kept_and_the_rest_is_resolved(
    tokens: Any, recomputes: Any, pieces: Any, free: int
) -> None:
    asked = Switches(tokens, recomputes, pieces)
    found = fitted(free, asked).switches
    assert "auto" not in found
    assert all(setting in ("auto", got) for setting, got in zip(asked, found, strict=True))
    assert tokens != "auto" or int(found.micro_batch_tokens) <= MOST_TOKENS
    assert fitted(free, found).switches == found  # as on a resume


def test_recomputed_layers_and_pieces_of_logits_take_less() -> None:
    work = TrainingWork(dtype="bfloat16", device="cpu", tokens=4096, loss_tokens=2048, longest=512, accumulates=True)
    whole = forecast_training(QWEN, work).bytes
    assert forecast_training(QWEN, replace(work, recomputes=True)).bytes < whole
    assert forecast_training(QWEN, replace(work, in_pieces=True)).bytes < whole
    assert forecast_training(QWEN, replace(work, workers=2)).bytes > whole


def test_a_generation_holds_no_more_keys_and_values_than_its_cache() -> None:
    work = SamplingWork(
        dtype="bfloat16",
        device="cpu",
        slots=128,
        shared=900,
        length=400,
        cache_bytes=1 << 30,
        prefill_tokens=2048,
        is_greedy=True,
        packs=False,
    )
    parts = {part.name: part.bytes for part in forecast_sampling(QWEN, work).parts}
    of_token = 2 * QWEN.layers * QWEN.keys * 2
    assert parts["keys and values"] == of_token * (128 * 400 + 900)
    (small,) = (p.bytes for p in forecast_sampling(QWEN, replace(work, cache_bytes=64 << 20)).parts if "keys" in p.name)
    assert small <= (64 << 20) + 900 * of_token


def test_ranks_on_a_cpu_share_the_memory_and_ranks_on_gpus_have_their_own() -> None:
    def needed(device: Any, ranks: int) -> int:
        machine = Machine(device=device, dtype="bfloat16", threads=1, ranks=ranks)
        rows = Rows(longest=100, loss_tokens=50, batch_size=16)
        found = fit(Switches(200, False, False), rows, QWEN, machine, lora_rank=None, is_split=True, free=1 << 50)
        return found.forecast.needed

    assert needed("cpu", 3) == 3 * needed("cpu", 1)
    assert needed("cuda", 3) == needed("cuda", 1)

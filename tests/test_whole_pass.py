"""The pass of a small model in one call: its logits, tokens that do not depend on their neighbours, whom it is for."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from selftaught.engines import whole_pass
from selftaught.engines.compiled import Compiled
from selftaught.engines.decoder import Decoder, decoder_of
from selftaught.engines.forward import Runner, prepare
from selftaught.engines.local import LocalEngine
from selftaught.engines.packing import PackedLinear
from selftaught.engines.slots import SlotCache
from selftaught.engines.whole_pass import BLOCK, PANEL, TALL, WholePass, in_panels, is_small
from tiny_models import ModelFolder, generated, ids_of, open_engine, plain_logits, sample, texts_of

KIND = "llama in whole vectors"
LENGTH = 40

sequences = st.lists(st.lists(st.integers(3, 19), min_size=2, max_size=LENGTH), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def engine(model_of: ModelFolder) -> LocalEngine:
    return open_engine(model_of(KIND), dtype="float32")


def run(
    engine: LocalEngine, rows: Sequence[list[int]], slots: Sequence[int] | None = None, length: int = LENGTH
) -> tuple[Tensor, Tensor]:
    """Logits of every sequence after all of its tokens but the last, and after the last in a step of its own."""
    runner = engine._runner
    assert isinstance(runner._decoder, WholePass)
    cache = SlotCache(len(rows), length, engine._compiled)
    first = runner.prompts(cache, 0, [row[:-1] for row in rows], slots or range(len(rows)))
    by_slot = [rows[(slots or range(len(rows))).index(slot)] for slot in range(len(rows))]
    return first, runner.step(cache, 0, [row[-1] for row in by_slot], [len(row) - 1 for row in by_slot])


@settings(deadline=None)
@given(sequences)
def test_its_logits_are_those_of_the_model(engine: LocalEngine, model_of: ModelFolder, rows: list[list[int]]) -> None:
    first, last = run(engine, rows)
    for row, before, after in zip(rows, first, last, strict=True):
        expected = plain_logits(model_of(KIND), row)[-2:]
        assert (torch.stack([before, after]).double() - expected).abs().max() < 2e-4 * expected.abs().max()


@settings(deadline=None)
@given(sequences.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(range(len(rows))))))
def test_a_token_is_the_same_whatever_shares_its_pass(
    engine: LocalEngine, rows_and_slots: tuple[list[list[int]], list[int]]
) -> None:
    rows, slots = rows_and_slots
    first, by_slot = run(engine, rows, slots)
    for row, slot, before in zip(rows, slots, first, strict=True):
        alone, after = run(engine, [row])
        assert torch.equal(alone[0], before)
        assert torch.equal(after[0], by_slot[slot])


def test_a_pass_of_several_blocks_is_the_same_as_short_ones(engine: LocalEngine) -> None:
    rows = [[3 + (i * k) % 17 for k in range(2 + i % (LENGTH - 1))] for i in range(2 * BLOCK + 1)]
    assert sum(len(row) - 1 for row in rows) > 20 * BLOCK
    for found, alone in zip(zip(*run(engine, rows), strict=True), (run(engine, [row]) for row in rows), strict=True):
        assert torch.equal(torch.stack(found), torch.cat(alone))


@settings(deadline=None)
@given(st.integers(1, 5).map(lambda n: n * TALL), st.integers(1, 40), st.integers(1, 3 * PANEL), st.booleans())
def test_products_with_panels_are_those_with_the_weight(number: int, depth: int, width: int, adds: bool) -> None:
    draw = torch.Generator().manual_seed(number + 100 * depth + 10_000 * width)
    linear = nn.Linear(depth, width, bias=False)
    x = torch.randn(number, depth, generator=draw)
    panels = in_panels(linear)
    out = torch.randn(number, panels.shape[0] * PANEL, generator=draw)
    expected = nn.functional.linear(x.double(), linear.weight.double()).detach()
    expected = nn.functional.pad(expected, (0, out.shape[1] - width)) + (out.double() if adds else 0.0)
    whole_pass.linear_of_panels(adds)(x.data_ptr(), panels.data_ptr(), out.data_ptr(), number, depth, out.shape[1])
    assert (out - expected).abs().max() < 1e-4


def test_a_shared_prefix_goes_by_layers(engine: LocalEngine) -> None:
    runner = Runner(engine._model, torch.device("cpu"), engine._compiled)
    by_layers = Runner(engine._model, torch.device("cpu"), engine._compiled)
    by_layers._decoder = decoder_of(engine._model)
    found = []
    for each in (runner, by_layers):
        cache = SlotCache(2, 12, engine._compiled)
        each.prefix(cache, [3, 4, 5])
        first = each.prompts(cache, 3, [[6, 7], [8]], [0, 1])
        found.append((first, each.step(cache, 3, [5, 6], [2, 1])))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("length", [100, 569, 654, 752, 1023, 2303, 4096])
def test_its_logits_are_those_of_the_model_in_slots_of_any_length(length: int, model_of: ModelFolder) -> None:
    """The longer the slots, the more memory a kernel asks for on the way, none of which may be in use already."""
    folder = model_of("llama with one key head")
    rows = [[3 + (i * k) % 17 for k in range(2 + 8 * i)] for i in range(12)]
    first, last = run(open_engine(folder, dtype="float32"), rows, length=length)
    for row, before, after in zip(rows, first, last, strict=True):
        expected = plain_logits(folder, row)[-2:]
        assert (torch.stack([before, after]).double() - expected).abs().max() < 2e-4 * expected.abs().max()


def test_a_token_that_the_model_does_not_know_is_an_error(engine: LocalEngine) -> None:
    known = engine._model.model.embed_tokens.num_embeddings
    run(engine, [[3, known - 1]])
    with pytest.raises(IndexError, match=f"token {known} is not among the {known}"):
        run(engine, [[3, known]])


class Wrong(Compiled):
    """Its passes without a shared prefix are off."""

    def decoder(self, model: Any) -> Any:
        right = super().decoder(model)
        if right is None:
            return None

        def decode(ids: Tensor, positions: Tensor, tokens: Any, keep: Tensor) -> Tensor:
            logits = right(ids, positions, tokens, keep)
            return logits if not hasattr(tokens, "slots") or tokens.cache.prefix else logits + 1.0

        return decode


def test_the_check_of_a_models_logits_sees_it(model_of: ModelFolder) -> None:
    """A model whose compiled pass is off is run by its own layers."""
    for compiled, is_right in ((Compiled(1), True), (Wrong(1), False)):
        model = AutoModelForCausalLM.from_pretrained(model_of(KIND), dtype=torch.float32).eval()
        assert prepare(model, torch.device("cpu"), compiled) is None
        assert (decoder_of(model) is not None) == is_right


def pass_of(engine: LocalEngine, threads: int = 1) -> Any:
    compiled = engine._compiled
    assert isinstance(compiled, Compiled)
    compiled._threads = threads
    return compiled.decoder(engine._model)


@pytest.mark.parametrize("kind", ["llama with biases", "qwen3"])
def test_models_with_biases_or_norms_of_heads_go_by_layers(kind: str, model_of: ModelFolder) -> None:
    assert isinstance(pass_of(open_engine(model_of(kind), dtype="float32")), Decoder)


def test_models_on_several_threads_go_by_layers(model_of: ModelFolder) -> None:
    engine = open_engine(model_of(KIND), dtype="float32")
    assert isinstance(pass_of(engine), WholePass)
    assert isinstance(pass_of(engine, threads=2), Decoder)


@pytest.mark.parametrize("size", [{"vocab_size": 9000}, {"intermediate_size": 8192}])
def test_models_with_a_large_weight_go_by_layers(size: dict[str, int], model_of: ModelFolder, tmp_path: Path) -> None:
    """One that is packed, and of a type that has other attributes than a linear layer's."""
    folder = tmp_path / "large"
    shutil.copytree(model_of(KIND), folder)
    config = {**json.loads((folder / "config.json").read_text()), **size}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    engine = open_engine(folder, dtype="float32")
    assert any(isinstance(layer, PackedLinear) for layer in engine._model.modules())
    assert isinstance(engine._runner._decoder, Decoder)
    texts = texts_of(5, "")
    assert ids_of(sample(engine, texts)) == generated(folder, texts, dtype=torch.float32)


class Adapted(nn.Linear):
    """As PEFT's layers: it has a weight, and computes something else."""


def test_models_with_layers_that_are_more_than_their_weight_go_by_layers(model_of: ModelFolder) -> None:
    model = open_engine(model_of(KIND), dtype="float32")._model
    assert is_small(model)
    plain = model.model.layers[1].self_attn.o_proj
    model.model.layers[1].self_attn.o_proj = Adapted(plain.in_features, plain.out_features, bias=False)
    assert not is_small(model)

"""The pass of a small model in one call: its logits, tokens that do not depend on their neighbours, whom it is for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from selftaught.engines import whole_pass
from selftaught.engines.compiled import Compiled
from selftaught.engines.decoder import Decoder, decoder_of
from selftaught.engines.forward import Runner
from selftaught.engines.local import LocalEngine
from selftaught.engines.slots import SlotCache
from selftaught.engines.whole_pass import BLOCK, PANEL, TALL, WholePass, in_panels, is_small
from tiny_models import ModelFolder, open_engine, plain_logits

KIND = "llama in whole vectors"
LENGTH = 40

sequences = st.lists(st.lists(st.integers(3, 19), min_size=2, max_size=LENGTH), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def engine(model_of: ModelFolder) -> LocalEngine:
    return open_engine(model_of(KIND), dtype="float32")


def run(engine: LocalEngine, rows: Sequence[list[int]], slots: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """Logits of every sequence after all of its tokens but the last, and after the last in a step of its own."""
    runner = Runner(engine._model, torch.device("cpu"), engine._compiled)
    assert isinstance(runner._decoder, WholePass)
    cache = SlotCache(len(rows), LENGTH, engine._compiled)
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
    whole_pass._linear(adds)(x.data_ptr(), panels.data_ptr(), out.data_ptr(), number, depth, out.shape[1])
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


def pass_of(folder: Path, threads: int = 1) -> Any:
    engine = open_engine(folder, dtype="float32")
    compiled = engine._compiled
    assert isinstance(compiled, Compiled)
    compiled._threads = threads
    return compiled.decoder(engine._model)


@pytest.mark.parametrize("kind", ["llama with biases", "qwen3"])
def test_models_with_biases_or_norms_of_heads_go_by_layers(kind: str, model_of: ModelFolder) -> None:
    assert isinstance(pass_of(model_of(kind)), Decoder)


def test_models_on_several_threads_go_by_layers(model_of: ModelFolder) -> None:
    assert isinstance(pass_of(model_of(KIND)), WholePass)
    assert isinstance(pass_of(model_of(KIND), threads=2), Decoder)


def test_models_with_weights_that_fit_no_cache_go_by_layers(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_small(engine._model)
    monkeypatch.setattr(whole_pass, "WORTH_PACKING", engine._model.model.layers[0].mlp.down_proj.weight.numel())
    assert not is_small(engine._model)

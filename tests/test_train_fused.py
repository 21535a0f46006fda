"""Layers with passes of their own in training: the numbers and gradients of transformers' layers, and who gets them."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from selftaught.settings import TrainingConfig
from selftaught.training import fused_layers, packed_attention
from selftaught.training.fused_layers import _gated_forward, _norm_forward, fuse
from selftaught.training.loss import weighted_loss
from selftaught.training.models import Exchanged, own_forward, set_up
from selftaught.training.packed_attention import packed_logits, why_not_packed
from selftaught.training.trl_trainer import packed

KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "mistral": (MistralForCausalLM, MistralConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
}
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 37,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
}


def made(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    model, config = KINDS[kind]
    found = model(config(**{**SHAPE, "num_key_value_heads": 2, **changes})).float()
    for name, parameter in found.named_parameters():
        if "norm" in name or "bias" in name:  # ones and zeros, which would hide a mistake
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    return found


def feature(lengths: list[int], *, seed: int = 0) -> dict[str, list[int]]:
    ids = torch.randint(37, (sum(lengths),), generator=torch.Generator().manual_seed(seed)).tolist()
    return {"input_ids": ids, "labels": ids, "seq_lengths": lengths}


def gradients(model: Any, lengths: list[int]) -> tuple[float, dict[str, Tensor]]:
    inputs = packed([feature(lengths)])
    # The first token of a row has no place before it.
    inputs["logits_to_keep"], targets = inputs["logits_to_keep"][1:], inputs.pop("targets")[1:]
    model.zero_grad()
    loss = weighted_loss(model(**inputs, use_cache=False).logits[0], targets, torch.tensor(1 / 7))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


def exchanged(model: Any) -> set[str]:
    """Classes whose `forward` was exchanged."""
    return {type(layer).__name__ for layer in model.modules() if isinstance(vars(layer).get("forward"), Exchanged)}


LENGTHS = [40, 3, 38, 1, 17, 39]


@pytest.mark.parametrize(
    ("lengths", "threads"),
    [([7], 1), ([1, 2, 3], 1), ([40, 3, 38, 1, 17, 39], 1), ([40, 3, 38, 1, 17, 39], 2), ([300, 5, 290], 1)],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_fused_layers_have_the_loss_and_the_gradients_of_plain_ones(
    kind: str, lengths: list[int], threads: int
) -> None:
    model = made(kind)
    exact = made(kind).double()
    for each in (model, exact):
        assert why_not_packed(each, longest=300) is None
    plain_loss, plain = gradients(model, lengths)
    fuse(model, longest=12, threads=threads)
    assert len(exchanged(model)) == (2 if kind == "qwen3" else 3)
    loss, found = gradients(model, lengths)
    exact_loss, expected = gradients(exact, lengths)
    assert abs(loss - exact_loss) <= 2 * abs(plain_loss - exact_loss) + 1e-5 * abs(exact_loss)
    for name, gradient in expected.items():
        size = gradient.abs().max()
        error, plain_error = (float((x[name] - gradient).abs().max() / size) for x in (found, plain))
        assert error <= 3 * plain_error + 1e-5, name


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.sampled_from([(4, 4), (4, 2), (4, 1)]))
def test_rows_of_any_lengths_get_the_gradients_of_plain_layers(lengths: list[int], heads: tuple[int, int]) -> None:
    model = made("llama", num_attention_heads=heads[0], num_key_value_heads=heads[1])
    assert why_not_packed(model, longest=30) is None
    _, plain = gradients(model, [*lengths, 2])
    fuse(model, longest=12, threads=1)
    _, found = gradients(model, [*lengths, 2])
    for name, gradient in plain.items():
        assert (found[name] - gradient).abs().max() <= 2e-4 * gradient.abs().max(), name


def test_the_gradients_of_a_norm_and_of_a_gated_layer_are_right_for_large_and_small_numbers() -> None:
    config = LlamaConfig(**SHAPE)
    for layer, forward in ((LlamaRMSNorm(64), _norm_forward), (LlamaMLP(config), _gated_forward)):
        exact = copy.deepcopy(layer).double()
        for scale in (1e-3, 1.0, 100.0):
            x, weight = (torch.randn(3, 9, 64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
            inputs = [(x * scale).requires_grad_(), (x.double() * scale).requires_grad_()]
            (forward(layer, inputs[0], parts=1) * weight).sum().backward()
            (exact(inputs[1]) * weight).sum().backward()
            found, expected = (
                [*module.parameters(), value] for module, value in zip((layer, exact), inputs, strict=True)
            )
            for a, b in zip(found, expected, strict=True):
                assert (a.grad - b.grad).abs().max() <= 1e-5 * b.grad.abs().max(), (type(layer).__name__, scale)
                a.grad = b.grad = None


def test_the_bits_are_decided_by_the_number_of_threads_and_not_by_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for there in (2, 2, 1):  # where a run is carried on there may be fewer CPUs
        monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", there)
        model = made("llama")
        assert why_not_packed(model, longest=40) is None
        fuse(model, longest=12, threads=2)
        found.append(gradients(model, LENGTHS)[1])
    for gradient in found[1:]:
        assert all(torch.equal(found[0][name], gradient[name]) for name in gradient)


class Dropping(LlamaMLP):
    """Drops numbers out without a layer of its own for it, as some models do."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(super().forward(x), 0.5, self.training)


class Scaled(LlamaMLP):
    """Takes more than its input."""

    def forward(self, x: Tensor, scale: float) -> Tensor:  # type: ignore[override]
        return super().forward(x) * scale


class Halved(torch.nn.Module):
    def __init__(self, mlp: LlamaMLP) -> None:
        super().__init__()
        self.mlp = mlp
        mlp.__class__ = Scaled

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x, 0.5)


def test_a_layer_that_only_looks_like_one_keeps_its_forward() -> None:
    model = made("llama", hidden_act="gelu")
    own = model.model.norm.forward = lambda x: x * 2.0  # another norm
    assert why_not_packed(model, longest=12) is None
    fuse(model, longest=12, threads=1)
    assert exchanged(model) == {"LlamaRMSNorm", "LlamaAttention"}
    own_forward(model)
    assert model.model.norm.forward is own


def test_a_layer_that_drops_numbers_out_or_gives_only_zeros_keeps_its_forward() -> None:
    model = made("llama").eval()
    model.model.layers[0].mlp.__class__ = Dropping
    torch.nn.init.zeros_(model.model.layers[1].mlp.down_proj.weight)
    assert why_not_packed(model, longest=12) is None
    fuse(model, longest=12, threads=1)
    assert exchanged(model) == {"LlamaRMSNorm", "LlamaAttention"}
    assert not model.training


def test_a_model_that_calls_its_layers_in_another_way_keeps_all_of_them() -> None:
    model = made("llama")
    model.model.layers[1].mlp = Halved(model.model.layers[1].mlp)
    assert why_not_packed(model, longest=12) is None
    before = packed_logits(model, 12)
    fuse(model, longest=12, threads=1)
    assert exchanged(model) == set()
    assert torch.equal(packed_logits(model, 12), before)


def test_a_model_whose_attention_is_another_under_a_known_name_keeps_all_its_layers() -> None:
    class Doubled(LlamaAttention):
        def forward(self, *arguments: Any, **more: Any) -> Any:
            out, weights = super().forward(*arguments, **more)
            return 2 * out, weights

    Doubled.__name__ = "LlamaAttention"
    model = made("llama")
    model.model.layers[1].self_attn.__class__ = Doubled
    assert why_not_packed(model, longest=12) is None
    before = packed_logits(model, 12)
    fuse(model, longest=12, threads=1)
    assert exchanged(model) == set()
    assert torch.equal(packed_logits(model, 12), before)


@pytest.mark.parametrize(
    ("kind", "changes", "values", "threads", "expected"),
    [
        ("llama", {}, {}, 1, {"LlamaRMSNorm", "LlamaMLP", "LlamaAttention"}),
        ("llama", {"attention_dropout": 0.1}, {}, 1, {"LlamaRMSNorm", "LlamaMLP"}),
        ("llama", {}, {"lora_rank": 4}, 1, set()),
        ("llama", {}, {}, 0, set()),
        ("mistral", {"sliding_window": 8}, {}, 1, set()),
    ],
    ids=["plain", "dropout", "adapters", "not on a CPU", "padded"],
)
def test_layers_are_exchanged_where_they_have_another_form(
    kind: str, changes: dict[str, Any], values: dict[str, Any], threads: int, expected: set[str]
) -> None:
    config = TrainingConfig(batch_size=2, **values)
    model, _ = set_up(made(kind, **changes), config, compute=torch.float32, longest=20, seed=1, threads=threads)
    assert exchanged(model) == expected
    own_forward(model)
    assert exchanged(model) == set()


def test_rows_too_long_to_be_taken_whole_go_by_the_attention_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("llama")
    assert why_not_packed(model, longest=40) is None
    _, plain = gradients(model, LENGTHS)
    fuse(model, longest=12, threads=1)
    monkeypatch.setattr(packed_attention, "LONGEST_WHOLE", 20)
    _, found = gradients(model, LENGTHS)
    for name, gradient in plain.items():
        assert (found[name] - gradient).abs().max() <= 2e-4 * gradient.abs().max(), name


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_large_layers_of_one_input_are_products_of_their_own(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no copy of their weights is kept until the backward pass."""
    model = made(kind)
    assert why_not_packed(model, longest=40) is None
    fuse(model, longest=12, threads=1)
    _, joined = gradients(model, LENGTHS)
    monkeypatch.setattr(fused_layers, "WORTH_PACKING", 1)
    monkeypatch.setattr(fused_layers, "linear", None)  # what joins them is not called
    _, apart = gradients(model, LENGTHS)
    for name, gradient in joined.items():
        assert (apart[name] - gradient).abs().max() <= 2e-4 * gradient.abs().max(), name


def test_the_names_of_the_weights_stay() -> None:
    model = made("llama")
    names = set(model.state_dict())
    assert why_not_packed(model, longest=12) is None
    fuse(model, longest=12, threads=1)
    assert set(model.state_dict()) == names

"""A small model's loss and gradient in compiled layers: the numbers of autograd, and which models get them."""

from pathlib import Path
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
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP

from builders import task_named
from selftaught.records import ModelRef, StepMetrics, TrainingPlan
from selftaught.selection import examples_from_solutions
from selftaught.settings import TrainingConfig
from selftaught.tokens import IGNORED
from selftaught.training import models, whole_gradient
from selftaught.training.micro_batches import collator_of, end_to_end, loss_of, packed, padded
from selftaught.training.models import set_up
from selftaught.training.packed_attention import why_not_packed
from selftaught.training.sft import SftTrainer
from selftaught.training.whole_gradient import WholeGradient, whole_gradient_of

TASK = task_named("arithmetic")

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
    "head_dim": 32,  # the shipped model's: kernels are compiled for each size
    "vocab_size": 37,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
    "pad_token_id": None,
}
SHARE = 1 / 7


def made(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    model, config = KINDS[kind]
    found = model(config(**{**SHAPE, "num_key_value_heads": 2, **changes})).float()
    for name, parameter in found.named_parameters():
        if "norm" in name or "bias" in name:  # ones and zeros, which would hide a mistake
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    return found


def with_packed_attention(kind: str, **changes: Any) -> Any:
    found = made(kind, **changes)
    assert why_not_packed(found, longest=12) is None
    return found


def feature(lengths: list[int], *, seed: int = 0, prompt: int = 1) -> dict[str, list[int]]:
    """Rows of random ids whose first `prompt` are not learned."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(37, (n,), generator=generator).tolist() for n in lengths]
    return {
        "input_ids": [i for row in rows for i in row],
        "labels": [i for row in rows for i in [IGNORED] * min(prompt, len(row)) + row[prompt:]],
        "seq_lengths": lengths,
    }


def gradients(model: Any, rows: dict[str, list[int]], whole: Any = None) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = loss_of(model, (packed if whole is None else end_to_end)([rows]), SHARE, whole=whole)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


def whole_of(model: Any, longest: int = 40) -> WholeGradient:
    found = whole_gradient_of(model, longest=longest)
    assert found is not None
    return found


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= share * gradient.abs().max(), name


SHAPES = {
    "as shipped": {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "shared keys": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "one key head": {"num_attention_heads": 4, "num_key_value_heads": 1, "rms_norm_eps": 0.1},
    "wide heads": {"head_dim": 64, "num_key_value_heads": 2},
    "hidden above all": {
        "hidden_size": 288,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "vocabulary above all": {"vocab_size": 259, "intermediate_size": 32},
    "one layer": {"num_hidden_layers": 1, "vocab_size": 48},
    "long rope": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
}


@pytest.mark.parametrize(
    "lengths", [[1, 3], [7], [1, 2, 3], [40, 3, 38, 1, 17, 39, 64, 128, 5], [300, 5, 290]], ids=str
)
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *(("llama", name) for name in SHAPES if name != "wide heads"),
        pytest.param("llama", "wide heads", marks=pytest.mark.slow),  # compiled for this test alone
        ("mistral", "shared keys"),
    ],
)
def test_loss_and_gradients_are_those_of_autograd(kind: str, shape: str, lengths: list[int]) -> None:
    model, exact = (with_packed_attention(kind, **SHAPES[shape]) for _ in range(2))
    exact = exact.double()
    rows = feature(lengths, prompt=1)
    plain_loss, plain = gradients(model, rows)
    loss, found = gradients(model, rows, whole_of(model, max(lengths)))
    exact_loss, expected = gradients(exact, rows)
    assert abs(loss - exact_loss) <= 2 * abs(plain_loss - exact_loss) + 1e-6 * abs(exact_loss)
    for name, gradient in expected.items():
        size = gradient.abs().max()
        error, plain_error = (float((x[name] - gradient).abs().max() / size) for x in (found, plain))
        assert error <= 3 * plain_error + 1e-5, name


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=9), st.sampled_from([(4, 4), (4, 2), (4, 1)]), st.integers(1, 9)
)
def test_rows_of_any_lengths_get_the_gradients_of_autograd(
    lengths: list[int], heads: tuple[int, int], prompt: int
) -> None:
    model = with_packed_attention("llama", num_attention_heads=heads[0], num_key_value_heads=heads[1])
    rows = feature([*lengths, prompt + 1], prompt=prompt)  # some row has something to learn
    _, plain = gradients(model, rows)
    _, found = gradients(model, rows, whole_of(model, 60))
    assert_near(found, plain, 2e-4)


def test_a_token_whose_embedding_is_not_trained_gets_no_gradient_as_an_input() -> None:
    for tied in (True, False):
        model = with_packed_attention("llama", pad_token_id=3, tie_word_embeddings=tied)
        rows = feature([40, 40, 40])
        assert 3 in rows["input_ids"]
        _, plain = gradients(model, rows)
        _, found = gradients(model, rows, whole_of(model))
        assert_near(found, plain, 1e-4)
        assert bool(found["model.embed_tokens.weight"][3].any()) == tied  # as an output it is learned


def test_a_block_of_rows_without_anything_to_learn_adds_nothing() -> None:
    model = with_packed_attention("llama")
    rows = feature([150, 30, 150])
    rows["labels"][:180] = [IGNORED] * 180
    alone = {name: numbers[180:] if name != "seq_lengths" else numbers[2:] for name, numbers in rows.items()}
    loss, found = gradients(model, rows, whole_of(model))
    expected_loss, expected = gradients(model, alone, whole_of(model))
    assert loss == expected_loss
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_micro_batch_without_anything_to_learn_has_neither_loss_nor_gradient() -> None:
    model = with_packed_attention("llama")
    loss, found = gradients(model, feature([30, 1, 140], prompt=200), whole_of(model))
    assert loss == 0.0
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_gradients_are_right_for_small_and_large_numbers(scale: float) -> None:
    model, exact = (with_packed_attention("llama", rms_norm_eps=1e-6) for _ in range(2))
    whole = whole_of(model)
    for each in (model, exact):
        with torch.no_grad():
            each.model.embed_tokens.weight.mul_(scale)
            each.model.layers[1].mlp.gate_proj.weight.mul_(scale)
    rows = feature([40, 17, 90])
    _, plain = gradients(model, rows)
    _, found = gradients(model, rows, whole)
    _, expected = gradients(exact.double(), rows)
    for name, gradient in expected.items():
        size = gradient.abs().max()
        error, plain_error = (float((x[name] - gradient).abs().max() / size) for x in (found, plain))
        assert error <= 3 * plain_error + 1e-5, name


def test_what_memory_held_before_changes_no_bit() -> None:
    model = with_packed_attention("llama", vocab_size=37, tie_word_embeddings=True)
    whole, rows = whole_of(model), feature([40, 3, 38, 1, 64, 128, 5], prompt=2)
    loss, found = gradients(model, rows, whole)
    torch.use_deterministic_algorithms(True)  # fills new tensors with no numbers at all
    try:
        assert torch.empty(3).isnan().all()
        again, same = gradients(model, rows, whole)
    finally:
        torch.use_deterministic_algorithms(False)
    assert again == loss
    assert all(torch.equal(found[name], same[name]) for name in found)


def test_the_gradient_is_that_of_what_is_made_of_the_loss() -> None:
    model = with_packed_attention("llama")
    whole, inputs = whole_of(model), end_to_end([feature([9, 4])])
    targets = inputs.pop("targets")
    weights = list(model.parameters())
    once = torch.autograd.grad(whole.loss(inputs, targets, SHARE), weights)
    thrice = torch.autograd.grad(3.0 * whole.loss(inputs, targets, SHARE), weights)
    for x, y in zip(once, thrice, strict=True):
        assert torch.allclose(3.0 * x, y, rtol=1e-6)


def test_weights_that_have_changed_since_are_those_that_count() -> None:
    model = with_packed_attention("llama", tie_word_embeddings=True)
    whole, rows = whole_of(model), feature([20, 30])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
            parameter.data = parameter.data.clone()  # another place, as in a process that shares them
    loss, found = gradients(model, rows, whole)
    plain_loss, plain = gradients(model, rows)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert_near(found, plain, 1e-4)


@pytest.mark.parametrize(
    ("name", "value"), [("input_ids", 37), ("input_ids", -1), ("targets", 37), ("logits_to_keep", -1)]
)
def test_an_id_or_a_place_that_there_is_not_is_an_error_and_never_read(name: str, value: int) -> None:
    model = with_packed_attention("llama")
    inputs = end_to_end([feature([9, 4])])
    inputs[name].view(-1)[0] = value
    with pytest.raises(IndexError, match="are not all in"):
        loss_of(model, inputs, SHARE, whole=whole_of(model))


class Dropping(LlamaMLP):
    """Drops numbers out without a layer of its own for it, as some models do."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(super().forward(x), 0.5, self.training)


class Doubled(LlamaAttention):
    def forward(self, *arguments: Any, **more: Any) -> Any:
        out, weights = super().forward(*arguments, **more)
        return 2 * out, weights


Doubled.__name__ = "LlamaAttention"


class OneMore(LlamaForCausalLM):
    pass


def a_class_of_its_own() -> Any:
    model = OneMore(made("llama").config).float()
    assert why_not_packed(model, longest=12) is None
    return model


def other_layer(place: str, kind: type) -> Any:
    model = with_packed_attention("llama")
    getattr(model.model.layers[1], place).__class__ = kind
    return model


def with_nothing_in(name: str) -> Any:
    model = with_packed_attention("llama")
    torch.nn.init.zeros_(model.get_parameter(name))
    return model


def frozen() -> Any:
    model = with_packed_attention("llama")
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    return model


def listened_to() -> Any:
    model = with_packed_attention("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: output * 1.0005)
    return model


def without_layers() -> Any:
    return made("llama", num_hidden_layers=0)


def own_norm() -> Any:
    model = with_packed_attention("llama")
    model.model.norm.forward = lambda x: x * 2.0
    return model


OTHERS = {
    "another gate": lambda: with_packed_attention("llama", hidden_act="gelu"),
    "biases": lambda: with_packed_attention("qwen2"),
    "norms of heads": lambda: with_packed_attention("qwen3"),
    "small heads": lambda: with_packed_attention("llama", head_dim=8),
    "large layers": lambda: with_packed_attention("llama", hidden_size=512, intermediate_size=544, num_hidden_layers=1),
    "rare dropout of attention": lambda: with_packed_attention("llama", attention_dropout=1e-5),
    "a hook": listened_to,
    "no layers": without_layers,
    "dropout inside a layer": lambda: other_layer("mlp", Dropping),
    "another attention under its name": lambda: other_layer("self_attn", Doubled),
    "another norm": own_norm,
    "a class of its own": a_class_of_its_own,
    "a frozen weight": frozen,
    "zeros, which say nothing": lambda: with_nothing_in("model.layers.1.mlp.down_proj.weight"),
    "another number type": lambda: with_packed_attention("llama").double(),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_model_that_is_another_is_left_to_autograd(other: str) -> None:
    model = OTHERS[other]()
    model.eval()
    assert whole_gradient_of(model, longest=40) is None
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_the_models_that_other_tests_train_either_way_are_trained_either_way(tiny: Path, vector_wide: Path) -> None:
    for folder, is_taken in ((tiny, False), (vector_wide, True)):
        model = models.load_float32(str(folder))
        assert why_not_packed(model, longest=12) is None
        assert (whole_gradient_of(model, longest=40) is not None) == is_taken


def test_rows_whose_attention_would_take_too_much_memory_are_left_to_autograd() -> None:
    model = with_packed_attention("llama")
    assert whole_gradient_of(model, longest=whole_gradient.LONGEST_SQUARE) is not None
    assert whole_gradient_of(model, longest=whole_gradient.LONGEST_SQUARE + 1) is None


@pytest.mark.parametrize(
    ("threads", "compute", "values", "changes", "collate"),
    [
        (1, torch.float32, {}, {}, end_to_end),
        (2, torch.float32, {}, {}, packed),
        (0, torch.float32, {}, {}, packed),
        (1, torch.bfloat16, {}, {}, packed),
        (1, torch.float32, {"lora_rank": 4}, {}, packed),
        (1, torch.float32, {}, {"sliding_window": 8}, padded),
    ],
    ids=["one thread", "two threads", "not on a CPU", "bfloat16", "adapters", "padded"],
)
def test_micro_batches_are_collated_for_the_pass_that_takes_them(
    threads: int, compute: torch.dtype, values: dict[str, Any], changes: dict[str, Any], collate: Any
) -> None:
    kind = "mistral" if changes else "llama"
    config = TrainingConfig(batch_size=2, **values)
    ready = set_up(made(kind, **changes), config, compute=compute, longest=20, seed=1, threads=threads)
    assert (ready.whole is not None) == (collate is end_to_end)
    assert collator_of(ready) is collate


def test_a_training_with_it_goes_the_way_that_it_goes_without(adder: Path, tmp_path: Path) -> None:
    examples = examples_from_solutions(TASK.shots[:8], TASK.prompt_format, (), iteration=1)
    settings = TrainingConfig(batch_size=4, learning_rate=1e-3, noise_scale=True)
    found: dict[int, list[StepMetrics]] = {1: [], 2: []}
    for threads, steps in found.items():
        SftTrainer(settings, dtype="float32", device="cpu", threads=threads).fine_tune(
            examples,
            validation=(),
            start=ModelRef(path=str(adder)),
            out_dir=tmp_path,
            plan=TrainingPlan(iteration=1, steps=5, seed=1, examples_sha256="x"),
            on_step=steps.append,
        )
    for with_it, without in zip(*found.values(), strict=True):
        assert with_it.loss == pytest.approx(without.loss, rel=1e-3)
        assert with_it.grad_norm == pytest.approx(without.grad_norm, rel=1e-2)
        assert (with_it.noise is None) == (without.noise is None) == ((with_it.step - 1) % 4 > 0)
        assert with_it.noise is None or with_it.noise == pytest.approx(without.noise, rel=2e-2)
    assert found[1][0].loss != found[2][0].loss  # sums in another order: it was another pass


def test_without_numba_a_model_is_left_to_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "selftaught.training.whole_gradient", None)
    ready = models.set_up(
        made("llama"), TrainingConfig(batch_size=2), compute=torch.float32, longest=20, seed=1, threads=1
    )
    assert ready.whole is None

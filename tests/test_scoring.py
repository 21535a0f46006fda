"""Log-probabilities of given tokens: a row gets the same as alone, in any batch and with any logits left out."""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPTJConfig, LlamaConfig

from selftaught.models.scoring import completion_logprobs, in_batches

VOCABULARY = 50
CONFIGS = {
    "llama": LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=VOCABULARY
    ),
    "gpt-j": GPTJConfig(n_embd=16, n_layer=2, n_head=2, rotary_dim=4, n_positions=64, vocab_size=VOCABULARY),
}

ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12)
rows = st.lists(st.tuples(ids, ids), max_size=10)


class AllLogits(torch.nn.Module):
    """A model that can only compute logits at every position."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> Any:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


@cache
def model(kind: str) -> Any:
    torch.manual_seed(0)
    loaded = AutoModelForCausalLM.from_config(CONFIGS[kind.removesuffix(", all logits")]).eval()
    return AllLogits(loaded) if kind.endswith(", all logits") else loaded


def alone(kind: str, prompt: list[int], completion: list[int]) -> list[float]:
    tokens = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logits = model(kind)(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits[0]
    predicted = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return [float(predicted[i, token]) for i, token in enumerate(completion)]


@pytest.mark.parametrize("kind", [*CONFIGS, "llama, all logits"])
@given(rows=rows, limit=st.sampled_from([1, 20, 60, 4096]))
def test_every_row_gets_the_log_probabilities_that_it_gets_alone(
    kind: str, rows: list[tuple[list[int], list[int]]], limit: int
) -> None:
    by_row = completion_logprobs(model(kind), rows, device=torch.device("cpu"), batch_tokens=limit)
    assert len(by_row) == len(rows)
    for row, logprobs in zip(rows, by_row, strict=True):
        assert list(logprobs) == pytest.approx(alone(kind, *row), abs=1e-5)


@given(rows=st.lists(st.tuples(ids, ids), min_size=1, max_size=30), tokens=st.integers(1, 200), kept=st.integers(1, 99))
def test_batches_hold_every_row_once_and_keep_to_both_limits(
    rows: list[tuple[list[int], list[int]]], tokens: int, kept: int
) -> None:
    batches = in_batches(rows, tokens=tokens, positions=kept)
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    for batch in batches:
        longest = max(len(rows[i][0]) + len(rows[i][1]) for i in batch)
        shortest = min(len(rows[i][0]) for i in batch)
        assert len(batch) == 1 or (len(batch) * longest <= tokens and len(batch) * (longest - shortest + 1) <= kept)

"""What makes a training fit the memory leaves its gradients as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from selftaught.training import loss
from selftaught.training.loss import ends_with_head
from selftaught.training.micro_batches import collator_of, loss_of
from selftaught.training.models import load_for_training, prepare
from selftaught.training.sft_config import SftConfig

ROWS = [[3, 4, 5, 6, 7, 8, 9], [9, 8, 7, 6], [4, 4, 5, 6, 3]]


def gradients(tiny: Path, *, longest: int = 7, **changes: Any) -> dict[str, torch.Tensor]:
    """By parameter, of one micro-batch of three rows."""
    settings = SftConfig(learning_rate=1e-3, **changes)
    model = load_for_training(str(tiny), settings, compute=torch.float32)
    prepared = prepare(model, settings, compute=torch.float32, longest=longest, seed=0)
    ids = [i for row in ROWS for i in row]
    labels = [label for row in ROWS for label in [-100, -100, *row[2:]]]
    micro_batch = {"input_ids": ids, "labels": labels, "seq_lengths": [len(row) for row in ROWS]}
    inputs = collator_of(prepared)([micro_batch])
    trained = prepared.model.train()
    value = loss_of(trained, inputs, 0.1, in_pieces=prepared.in_pieces)
    torch.autograd.backward(value)
    found = {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}
    return {"the loss": value.detach(), **found}


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize(
    "changes",
    [{"activation_checkpointing": True}, {"logits_in_pieces": True}],
    ids=["layers run again", "logits in pieces"],
)
def test_saving_memory_gives_the_same_loss_and_gradients(
    changes: dict[str, bool], rank: int | None, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "PIECE_BYTES", 4 * 21 * 4)  # four loss tokens
    plain, saving = (gradients(tiny, lora_rank=rank, **more) for more in ({}, changes))
    assert plain.keys() == saving.keys()
    assert any(name.endswith("lora_B.default.weight") for name in plain) == (rank is not None)
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_layers_that_run_again_keep_less(tiny: Path) -> None:
    def number_kept(**changes: Any) -> int:
        kept = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            gradients(tiny, **changes)
        return len(kept)

    assert number_kept(activation_checkpointing=True) < number_kept() / 2


def test_logits_in_pieces_never_hold_more_than_a_piece(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "PIECE_BYTES", 4 * 21 * 4)
    seen: list[int] = []
    plain = loss.weighted_loss

    def counted(logits: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(logits.shape[0])
        return plain(logits, *rest)

    monkeypatch.setattr(loss, "weighted_loss", counted)
    gradients(tiny, logits_in_pieces=True)
    num_loss_tokens = sum(len(row) - 2 for row in ROWS)
    assert max(seen) == 4
    assert sum(seen) == 2 * num_loss_tokens  # once forward, once again in the backward pass


def test_a_model_that_changes_its_logits_keeps_them_whole(tiny: Path, tmp_path: Path) -> None:
    config = Gemma2Config(
        vocab_size=21,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=1.0,
    )
    torch.manual_seed(0)
    capped = AutoModelForCausalLM.from_config(config)
    settings = SftConfig(learning_rate=1e-3, logits_in_pieces=True)
    prepared = prepare(capped, settings, compute=torch.float32, longest=8, seed=0)
    assert not prepared.in_pieces
    assert any("logits are not computed in pieces" in note for note in prepared.notes)
    assert ends_with_head(AutoModelForCausalLM.from_pretrained(tiny))

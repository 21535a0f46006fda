"""One micro-batch: its rows as tensors, and its loss."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from selftaught.models.tokens import IGNORED
from selftaught.training.loss import loss_in_pieces, weighted_loss, without_head
from selftaught.training.models import Prepared
from selftaught.training.packed_attention import layout_of

Features = Sequence[dict[str, list[int]]]
"""One element of the data set (`rows.as_dataset`): the ids, labels and lengths of a micro-batch's rows."""
Collate = Callable[[Features], dict[str, Any]]


def collate_packed(features: Features) -> dict[str, Any]:
    """Concatenate the rows of one micro-batch into a sequence of N tokens; each row's positions begin at 0; no mask."""
    (feature,) = features
    labels, lengths = torch.tensor(feature["labels"]), feature["seq_lengths"]
    learned = (labels != IGNORED).nonzero()[:, 0]
    return {
        "input_ids": torch.tensor([feature["input_ids"]]),  # [1, N]
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],  # [1, N]
        "packed_layout": layout_of(lengths),
        # The token at t is predicted at t - 1; a row's first token is never learned, so t - 1 is in the same row.
        "logits_to_keep": learned - 1,
        "targets": labels[learned],
    }


def collate_padded(features: Features) -> dict[str, Any]:
    """Pad the rows of one micro-batch on the right: ids and mask [B, T]."""
    (feature,) = features
    lengths = feature["seq_lengths"]
    ids, labels = (
        pad_sequence(list(torch.split(torch.tensor(feature[name]), lengths)), batch_first=True, padding_value=filler)
        for name, filler in (("input_ids", 0), ("labels", IGNORED))
    )
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    learned = labels != IGNORED
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "logits_to_keep": learned.roll(-1, 1),  # bool [B, T]: the model gives logits [n, V] in this order
        "targets": labels[learned],
    }


def collator_of(prepared: Prepared) -> Collate:
    """How the micro-batches of this model are collated."""
    return collate_packed if prepared.why_padded is None else collate_padded


def loss_of(
    model: Any, inputs: dict[str, Any], share: float, *, router_weight: float = 0.0, in_pieces: bool = False
) -> torch.Tensor:
    """`share` times the summed loss of one collated micro-batch, plus `router_weight` times the loss of its router.

    With `in_pieces`, logits are computed for a few loss tokens at a time.
    """
    targets = inputs.pop("targets")
    if router_weight:
        inputs["output_router_logits"] = True
    if in_pieces:
        with without_head(model) as head:
            output = model(**inputs, use_cache=False)
        loss = loss_in_pieces(head, output.logits.reshape(len(targets), -1), targets, torch.tensor(share))
    else:
        output = model(**inputs, use_cache=False)
        loss = weighted_loss(output.logits.reshape(len(targets), -1), targets, torch.tensor(share))
    return loss + router_weight * output.aux_loss if router_weight else loss

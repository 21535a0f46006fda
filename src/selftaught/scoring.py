"""Log-probabilities of given token ids under a loaded model: one function for the engine and for the trainer."""

from collections.abc import Sequence
from typing import Any

import torch

ROWS_AT_A_TIME = 16


def context_of(model: Any) -> int:
    """The longest sequence that a model is made for, in tokens."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 30))


@torch.no_grad()
def completion_logprobs(
    model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, device: torch.device
) -> list[tuple[float, ...]]:
    """For each (prompt ids, completion ids): the log-probability (nats) of every completion token.

    Rows are padded on the right, so that a row's positions are those it has alone.
    """
    found: list[tuple[float, ...]] = []
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        batch = rows[start : start + ROWS_AT_A_TIME]
        longest = max(len(prompt) + len(completion) for prompt, completion in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)  # [B, T]
        mask = torch.zeros(len(batch), longest, dtype=torch.long)
        for i, (prompt, completion) in enumerate(batch):
            length = len(prompt) + len(completion)
            ids[i, :length] = torch.tensor([*prompt, *completion])
            mask[i, :length] = 1
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        for i, (prompt, completion) in enumerate(batch):
            first = len(prompt) - 1  # the token at t is predicted by the logits at t - 1
            predicted = logits[i, first : first + len(completion)].float().log_softmax(-1)
            wanted = torch.tensor(list(completion), device=device, dtype=torch.long)
            # Clamped, since minus infinity is no number in JSON.
            found.append(tuple(predicted.gather(-1, wanted[:, None])[:, 0].clamp(min=-1e9).tolist()))
    return found

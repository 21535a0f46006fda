"""Log-probabilities of given token ids under a loaded model: one function for the engine and for the trainer."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

BATCH_TOKENS = 4096
"""Tokens of one batch, padding included."""
BATCH_LOGITS = 1 << 26
"""Logits of one batch: 256 MiB in float32."""

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
"""(prompt ids, completion ids) of each row."""


def context_of(model: Any) -> int:
    """The longest sequence that a model is built for, in tokens."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 30))


@torch.no_grad()
def completion_logprobs(
    model: Any, rows: Pairs, *, device: torch.device, batch_tokens: int = BATCH_TOKENS
) -> list[tuple[float, ...]]:
    """For each (prompt ids, completion ids): the log-probability (nats) of every completion token.

    Rows are padded on the right, so that a row has the same positions as alone. If the model can leave logits out, none
    are computed before the end of the batch's shortest prompt.
    """
    by_row: dict[int, tuple[float, ...]] = {}
    can_leave_out = "logits_to_keep" in inspect.signature(model.forward).parameters
    positions = BATCH_LOGITS // model.config.get_text_config().vocab_size
    for members in in_batches(rows, tokens=batch_tokens, positions=positions):
        batch = [rows[i] for i in members]
        longest = max(len(prompt) + len(completion) for prompt, completion in batch)
        start = min(len(prompt) for prompt, _ in batch) - 1 if can_leave_out else 0
        ids = torch.zeros(len(batch), longest, dtype=torch.long)  # [B, T]
        mask = torch.zeros(len(batch), longest, dtype=torch.long)
        for i, (prompt, completion) in enumerate(batch):
            length = len(prompt) + len(completion)
            ids[i, :length] = torch.tensor([*prompt, *completion])
            mask[i, :length] = 1
        keep = {"logits_to_keep": longest - start} if can_leave_out else {}
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **keep).logits
        for i, (prompt, completion) in enumerate(batch):
            first = len(prompt) - 1 - start  # the token at t is predicted by the logits at t - 1
            predicted = logits[i, first : first + len(completion)].float().log_softmax(-1)
            targets = torch.tensor(list(completion), device=device, dtype=torch.long)
            # JSON has no minus infinity.
            values = predicted.gather(-1, targets[:, None])[:, 0].clamp(min=-1e9)
            by_row[members[i]] = tuple(values.tolist())
    return [by_row[i] for i in range(len(rows))]


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Have a model of another number type compute in float32: each module's weights are converted while it runs, so
    that there is no second copy of the model."""
    handles, before = [], {}

    def convert(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        before[module] = {name: weight.data for name, weight in module.named_parameters(recurse=False)}
        for weight in module.parameters(recurse=False):
            weight.data = weight.data.float()
        return tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)

    def restore(module: Any, *_: Any) -> None:
        for name, data in before.pop(module).items():
            getattr(module, name).data = data

    for module in model.modules():
        if any(weight.dtype != torch.float32 for weight in module.parameters(recurse=False)):
            handles.append(module.register_forward_pre_hook(convert))
            handles.append(module.register_forward_hook(restore))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def in_batches(rows: Pairs, *, tokens: int, positions: int) -> list[list[int]]:
    """Positions of the rows in batches; rows with prompts of similar length share one.

    A batch of more than one row has at most `tokens` tokens, padding included, and logits at no more than `positions`
    of them.
    """
    batches: list[list[int]] = []
    shortest = longest = 0
    for i in sorted(range(len(rows)), key=lambda i: (len(rows[i][0]), len(rows[i][1]), i)):
        prompt, length = len(rows[i][0]), len(rows[i][0]) + len(rows[i][1])
        size = len(batches[-1]) + 1 if batches else 0
        longest = max(longest, length)
        if not batches or size * longest > tokens or size * (longest - shortest + 1) > positions:
            batches.append([])
            shortest, longest = prompt, length
        batches[-1].append(i)
    return batches

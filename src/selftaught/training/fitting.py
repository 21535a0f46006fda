"""Make a training fit the memory by what leaves the method as it is: smaller micro-batches, logits in pieces over loss
tokens, activation checkpointing. Pure; decided once, at a run's first start.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from selftaught.machine.devices import Machine
from selftaught.models.forecast import Forecast, TrainingWork, affordable_tokens, forecast_training
from selftaught.models.shape import Shape

ACTIVATION_BYTES = 4 << 30
"""Of activations and logits of a micro-batch, about, where memory does not ask for less."""
LEAST_TOKENS, MOST_TOKENS = 256, 16384
"""Of a micro-batch that `auto` takes."""


class Switches(NamedTuple):
    """The settings of `sft` that change the memory and leave the method as it is; "auto" for those that are open."""

    micro_batch_tokens: int | Literal["auto"]
    activation_checkpointing: bool | Literal["auto"]
    logits_in_pieces: bool | Literal["auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a training step holds, at most."""

    longest: int
    """Tokens of the longest row."""
    loss_tokens: int
    """Those of them that carry loss."""
    batch_size: int
    """Rows of a step."""

    @property
    def tokens(self) -> int:
        return self.batch_size * self.longest


@dataclass(frozen=True, slots=True)
class Fitted:
    """Switches without "auto", and what a training with them needs."""

    switches: Switches
    forecast: Forecast
    lines: tuple[str, ...] = ()
    """What was done to make it fit, a sentence each."""


def fit(
    switches: Switches,
    rows: Rows,
    shape: Shape,
    machine: Machine,
    *,
    lora_rank: int | None,
    frozen_4bit: bool = False,
    is_split: bool,
    free: int,
) -> Fitted:
    """The first way to train that needs at most `free` bytes, from the fastest on; the smallest if none does.

    `is_split` says that a step has several micro-batches whatever their size.
    """
    usual = usual_tokens(shape, machine, longest=rows.longest, lora_rank=lora_rank)

    def needed(chosen: Switches) -> Forecast:
        budget, recomputes, in_pieces = chosen
        tokens = max(rows.longest, min(int(budget), -(-rows.tokens // (machine.workers * machine.ranks))))
        work = TrainingWork(
            dtype=machine.dtype,
            device=machine.device,
            tokens=tokens,
            loss_tokens=-(-tokens * rows.loss_tokens // rows.longest),
            longest=rows.longest,
            accumulates=is_split or tokens < rows.tokens,
            lora_rank=lora_rank,
            frozen_4bit=frozen_4bit,
            recomputes=bool(recomputes),
            in_pieces=bool(in_pieces),
            workers=machine.workers,
            ranks=machine.ranks if machine.device == "cpu" else 1,
        )
        return forecast_training(shape, work)

    ways = list(_ways(switches, usual=usual, least=min(usual, max(LEAST_TOKENS, rows.longest))))
    first, *_ = ways
    chosen = next((way for way in ways if needed(way).needed <= free), None)
    if chosen is None:
        chosen = min(ways, key=lambda way: needed(way).needed)
    return Fitted(chosen, needed(chosen), tuple(_changes(first, chosen)))


def usual_tokens(shape: Shape, machine: Machine, *, longest: int, lora_rank: int | None) -> int:
    """Tokens of a micro-batch that keep activations and logits near ACTIVATION_BYTES, by the model's shape."""
    work = TrainingWork(
        dtype=machine.dtype,
        device=machine.device,
        tokens=1,
        loss_tokens=1,
        longest=longest,
        accumulates=True,
        lora_rank=lora_rank,
    )
    affordable = affordable_tokens(shape, work, activations=ACTIVATION_BYTES)
    return max(LEAST_TOKENS, min(MOST_TOKENS, affordable))


def _ways(switches: Switches, *, usual: int, least: int) -> Iterator[Switches]:
    """Every way that the switches leave open, in the order of the time that it costs."""
    tokens, recomputes, in_pieces = switches
    sizes = [usual] if isinstance(tokens, str) else [tokens]
    while isinstance(tokens, str) and sizes[-1] > least:
        sizes.append(max(least, sizes[-1] // 2))
    for again in (False, True) if isinstance(recomputes, str) else (recomputes,):
        for pieces in (False, True) if isinstance(in_pieces, str) else (in_pieces,):
            yield from (Switches(size, again, pieces) for size in sizes)


def _changes(first: Switches, chosen: Switches) -> Iterator[str]:
    if chosen.micro_batch_tokens != first.micro_batch_tokens:
        yield (
            f"training.micro_batch_tokens = {chosen.micro_batch_tokens} in place of {first.micro_batch_tokens}, so "
            "that the training fits the memory"
        )
    if chosen.logits_in_pieces and not first.logits_in_pieces:
        yield "logits are computed in pieces (training.logits_in_pieces = true), so that the training fits the memory"
    if chosen.activation_checkpointing and not first.activation_checkpointing:
        yield (
            "layers are run again in the backward pass (training.activation_checkpointing = true), so that the "
            "training fits the memory; it takes about a third longer"
        )

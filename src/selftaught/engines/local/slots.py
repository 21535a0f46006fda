"""Keys and values of the completions that are generated, and how one forward pass attends to them.

Tokens of all completions are one row [1, N] without padding, so that no matrix product is spent on padding. The
prefix that all prompts share is kept once per layer; every token attends to it as one block, and to what its own slot
holds; the two results are merged by their log-sum-exp (exact: softmax over a union is the sum of both parts, each
weighted by its share of the normaliser).

transformers models call `attention` for every layer if their config names ATTENTION as implementation, and pass on the
keyword `slot_pass` of their forward call, which says what the pass does. There is no module-level state.

Letters: N tokens of a forward pass, H query heads, K key-value heads, G = H / K, D head size, P prefix tokens, S slots,
L positions of a slot ("own positions": they count from the end of the prefix).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

ATTENTION = "selftaught_slots"

IGNORED_KEYWORDS = frozenset({"slot_pass", "dropout", "position_ids", "use_cache", "sliding_window"})
"""Keywords of an attention call that slots may ignore; any other is refused.

There is no dropout in generation; queries and keys have their positions already; the engine runs no sequence in slots
that is longer than a sliding window.
"""

GROUP_SLOTS = 16
"""Slots that one attention call of a step reads to the same length, on a CPU."""
BATCH_SCORES = 1 << 23
"""Pairs of tokens, padding included, that one attention call computes scores of; a sequence that has more is alone."""


def is_batched(device: torch.device) -> bool:
    """Whether one attention call takes many sequences, padded: on a GPU, where a call costs more than the padding."""
    return device.type != "cpu"


class SlotPass(Protocol):
    """One forward pass: which tokens it runs, and what they attend to."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention output [1, N, H, D] of q [1, H, N, D] over the cache and k, v [1, K, N, D], which may be cached."""
        ...


Replaced = list[tuple[nn.Module, str, nn.Module]]
"""Parent, name and layer of what was replaced in a model."""


class SlotAttention(NamedTuple):
    """One call of attention from N tokens to what their slots hold and to the prefix."""

    q: Tensor
    """[H, N, D]."""
    new: tuple[Tensor, Tensor] | None
    """Keys and values [K, N, D] to write first, for tokens no two of which share a slot; None if all are written."""
    held: tuple[Tensor, Tensor]
    """Keys and values of all slots [S, K, L, D]."""
    slots: Tensor
    """[N], int64: each token's slot."""
    positions: Tensor
    """[N], int64: each token's position in its slot; it attends up to there."""
    scale: float
    shared: tuple[Tensor, Tensor] | None = None
    """The prefix's part, if there is one: output [1, K, G * N, D] and log-sum-exp [1, K, G * N]."""


class Kernels(Protocol):
    """Faster operations for some machine that an engine may be given (engines/cpu)."""

    def suits(self, model: Any) -> bool:
        """Whether they can be used for this model; an engine uses them for no other."""
        ...

    def attend(self, call: SlotAttention) -> Tensor:
        """Attention [1, N, H, D]; writes what is new."""
        ...

    def likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [B], the first among equals, and their log-probabilities [B], of logits [B, V]."""
        ...

    def fuse(self, model: Any, *, with_attention: bool) -> Replaced:
        """Replace layers of the model by faster ones that give the same numbers; returns what it replaced."""
        ...

    def pack(self, model: Any, *, rows: int) -> None:
        """Replace linear layers of the model, for products with about so many rows."""
        ...

    def decoder(self, model: Any) -> Callable[[Tensor, Tensor, SlotPass, Tensor], Tensor] | None:
        """A faster forward pass, of ids, positions, what the pass does and the places to keep, if the model has one."""
        ...


class SlotCache:
    """A shared prefix [1, K, P, D] and slots [S, K, L, D] for every layer; slots hold what follows the prefix."""

    def __init__(self, num_slots: int, length: int, kernels: Kernels | None = None) -> None:
        self.num_slots, self.length, self.kernels = num_slots, length, kernels
        self.prefix: dict[int, tuple[Tensor, Tensor]] = {}
        self.own: dict[int, tuple[Tensor, Tensor]] = {}

    def allocated(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all slots; the first call allocates them for keys and values like k, v [1, K, N, D]."""
        if layer not in self.own:
            shape = (self.num_slots, k.shape[1], self.length, k.shape[3])
            # torch's attention multiplies what it masks by zero, so that must be finite numbers.
            allocate = torch.empty if self.kernels else torch.zeros
            self.own[layer] = tuple(allocate(shape, dtype=x.dtype, device=x.device) for x in (k, v))  # type: ignore[assignment]
        return self.own[layer]

    def write(self, layer: int, slots: Tensor, positions: Tensor, k: Tensor, v: Tensor) -> None:
        """Write k, v [1, K, N, D] of N tokens at own positions [N] of slots [N]."""
        for held, new in zip(self.allocated(layer, k, v), (k, v), strict=True):
            held[slots, :, positions] = new[0].transpose(0, 1)

    def call(
        self, layer: int, q: Tensor, new: tuple[Tensor, Tensor], places: tuple[Tensor, Tensor], scale: float
    ) -> SlotAttention:
        """The attention of q [1, H, N, D] to each token's slot, up to its place there, and to the prefix.

        `new` are keys and values [1, K, N, D] that are still to be written, `places` slots and positions [N].
        """
        k, v = new
        held, shared = self.allocated(layer, k, v), _attend_to_prefix(self, layer, q, scale)
        return SlotAttention(q[0], (k[0], v[0]), held, *places, scale, shared)

    @torch.inference_mode()
    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy what the source slots hold to the target slots."""
        for held in (tensor for pair in self.own.values() for tensor in pair):
            held[list(targets)] = held[list(sources)]


class PrefixPass:
    """Prefill of the shared prefix: N = P tokens, causal, written to the cache."""

    def __init__(self, cache: SlotCache) -> None:
        self._cache = cache

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        self._cache.prefix[layer] = (k.contiguous(), v.contiguous())
        out, _ = _attend_to_itself(q[0], k[0], v[0], scale)
        return out.transpose(0, 1)[None]


class Padded:
    """Sequences of a row, side by side and padded on the right, so that one attention call takes them all."""

    def __init__(self, starts: Sequence[int], lengths: Sequence[int], device: torch.device) -> None:
        self.width = max(lengths)
        first, number = torch.tensor(starts)[:, None], torch.tensor(lengths)[:, None]
        column = torch.arange(self.width)
        gather = first + torch.minimum(column, number - 1)  # padding repeats the last token, which no token before sees
        self.gather = gather.to(device)
        """[sequences, width], places in the row."""
        self.within = (column < number).flatten().nonzero()[:, 0].to(device)
        """Places of the tokens among sequences times width."""
        self.scatter = gather.flatten()[(column < number).flatten()].to(device)
        """Places of the same tokens in the row."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, own: Tensor, lse: Tensor) -> None:
        """Causal attention of each sequence to itself, written to own [H, N, D] and lse [H, N]; q [H, N, D], k, v
        [K, N, D]."""
        batch, width = self.gather.shape
        heads, kv_heads, size = q.shape[0], k.shape[0], q.shape[2]
        places = self.gather.flatten()
        # The heads of a group are rows of one matrix, since all of them see the same keys.
        rows = q[:, places].view(kv_heads, -1, batch, width, size).permute(2, 0, 1, 3, 4).flatten(2, 3)
        k_rows, v_rows = (x[:, places].view(kv_heads, batch, width, -1).transpose(0, 1) for x in (k, v))
        hidden = torch.ones(width, width, dtype=torch.bool, device=q.device).triu(1).repeat(heads // kv_heads, 1)
        mask = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill_(hidden, float("-inf"))
        out, sums = attend(rows, k_rows, v_rows, scale=scale, mask=mask[None, None])
        of_head = out.view(batch, heads, width, -1).transpose(0, 1).flatten(1, 2)  # [H, batch * width, D]
        own[:, self.scatter] = of_head[:, self.within]
        lse[:, self.scatter] = sums.view(batch, heads, width).transpose(0, 1).flatten(1, 2)[:, self.within]


def padded_batches(lengths: Sequence[int], device: torch.device) -> list[Padded]:
    """Sequences that follow each other in a row, in as few padded batches as keep the padding under half of each and
    the scores under BATCH_SCORES. Sequences of similar length are one batch."""
    starts = [0, *itertools.accumulate(lengths)]
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batches[-1][0]] if batches else 0
        if not batches or 2 * lengths[i] < longest or (len(batches[-1]) + 1) * longest**2 > BATCH_SCORES:
            batches.append([])
        batches[-1].append(i)
    return [Padded([starts[i] for i in batch], [lengths[i] for i in batch], device) for batch in batches]


class PrefillPass:
    """Tokens of several sequences, each of which attends to the prefix and, causally, to itself.

    `lengths` are the numbers of tokens of each sequence; they follow each other in the row. `slots` are where the
    sequences are written, or None if they are not.
    """

    def __init__(self, cache: SlotCache, lengths: Sequence[int], slots: Sequence[int] | None, device: torch.device):
        self.cache = cache
        numbers = torch.tensor(lengths)
        ends = numbers.cumsum(0)
        self.own_positions = (torch.arange(int(ends[-1])) - (ends - numbers).repeat_interleave(numbers)).to(device)
        self.last = ends.to(device) - 1
        self.slots = None if slots is None else torch.tensor(slots).repeat_interleave(numbers).to(device)
        self._batches = padded_batches(lengths, device) if is_batched(device) else []
        self._spans = (
            [] if self._batches else [slice(end - n, end) for end, n in zip(ends.tolist(), lengths, strict=True)]
        )

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        if self.slots is not None:
            self.cache.write(layer, self.slots, self.own_positions, k, v)
            if self.cache.kernels:  # tokens of one slot attend to each other, so all are written first
                call = self.cache.call(layer, q, (k, v), (self.slots, self.own_positions), scale)
                return self.cache.kernels.attend(call._replace(new=None))
        own, lse = q.new_empty(q.shape[1:]), q.new_empty(q.shape[1:3], dtype=_lse_dtype(q))
        for batch in self._batches:
            batch.attend(q[0], k[0], v[0], scale, own, lse)
        for span in self._spans:
            own[:, span], lse[:, span] = _attend_to_itself(q[0, :, span], k[0, :, span], v[0, :, span], scale)
        return _with_prefix(self.cache, layer, q, own, lse, scale)


class StepPass:
    """One new token for each of the first N slots; it attends to the prefix and to its slot up to its own position.

    On a CPU groups of neighbouring slots share an attention call, which reads as far as the longest of them: reading
    memory is most of the cost. On a GPU all slots share one.
    """

    def __init__(self, cache: SlotCache, own_positions: Sequence[int], dtype: torch.dtype, device: torch.device):
        self.cache = cache
        self.slots = torch.arange(len(own_positions), device=device)
        self.own_positions = torch.tensor(own_positions, device=device)
        self._groups: list[tuple[slice, int, Tensor]] = []
        if cache.kernels:
            return
        size = len(own_positions) if is_batched(device) else GROUP_SLOTS
        for first in range(0, len(own_positions), size):
            group = slice(first, min(first + size, len(own_positions)))
            visible = max(own_positions[group]) + 1
            hidden = torch.arange(visible, device=device) > self.own_positions[group, None]
            mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
            self._groups.append((group, visible, mask[:, None, None]))  # [slots, 1, 1, visible], added to the scores

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        if self.cache.kernels:
            call = self.cache.call(layer, q, (k, v), (self.slots, self.own_positions), scale)
            return self.cache.kernels.attend(call)
        self.cache.write(layer, self.slots, self.own_positions, k, v)
        held_k, held_v = self.cache.own[layer]
        rows = _per_group(q[0].transpose(0, 1), 1, k.shape[1])  # [N, K, G, D]: the heads of a group are the query rows
        parts = [
            attend(
                rows[group],
                held_k[group, :, :visible],
                held_v[group, :, :visible],
                scale=scale,
                mask=mask.expand(-1, -1, rows.shape[2], -1),
            )
            for group, visible, mask in self._groups
        ]
        own, lse = (torch.cat(group).flatten(1, 2).transpose(0, 1) for group in zip(*parts, strict=True))
        return _with_prefix(self.cache, layer, q, own, lse, scale)


def _attend_to_itself(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention of one sequence, q [H, T, D] over k, v [K, T, D]: output [H, T, D] and log-sum-exp [H, T]."""
    groups = _per_group(q, 0, k.shape[0])  # [K, G, T, D]: the key-value heads are the batch, repeated by a stride of 0
    out, lse = attend(groups, k[:, None].expand_as(groups), v[:, None].expand_as(groups), scale=scale, is_causal=True)
    return out.flatten(0, 1), lse.flatten(0, 1)


def _with_prefix(cache: SlotCache, layer: int, q: Tensor, own: Tensor, own_lse: Tensor, scale: float) -> Tensor:
    """Merge attention over own tokens, [H, N, D] with log-sum-exp [H, N], with that over the prefix: [1, N, H, D]."""
    if of_prefix := _attend_to_prefix(cache, layer, q, scale):
        shared, lse = of_prefix
        share = torch.sigmoid(lse.reshape(own_lse.shape) - own_lse)[..., None]
        own = torch.lerp(own, shared.reshape(own.shape), share.to(own.dtype))
    return own.transpose(0, 1)[None]


def _attend_to_prefix(cache: SlotCache, layer: int, q: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
    """Attention of q [1, H, N, D] over the prefix, if there is one: [1, K, G * N, D] and log-sum-exp [1, K, G * N]."""
    if layer not in cache.prefix:
        return None
    k, v = cache.prefix[layer]
    # All queries of a key-value head, of every token and every head of its group, are rows of one matrix.
    return attend(q.reshape(1, k.shape[1], -1, q.shape[3]), k, v, scale=scale)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None = None, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention of q [B, K, T, D] over k, v [B, K, L, D]: the output [B, K, T, D] and its log-sum-exp [B, K, T].

    `mask` [B, 1 or K, T, L] is added to the scores. torch has a kernel that returns the log-sum-exp for the CPU;
    elsewhere it is computed in plain operations.
    """
    if q.device.type == "cpu" and q.shape[-1] == v.shape[-1]:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, is_causal, attn_mask=mask, scale=scale
        )
        return out, lse
    return attend_plainly(q, k, v, scale=scale, mask=mask, is_causal=is_causal)


def attend_plainly(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None = None, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """The same as `attend`, in matrix products and a softmax, on any device."""
    scores = (q @ k.transpose(-1, -2)).to(_lse_dtype(q)).mul_(scale)  # in place: they are most of the memory
    if mask is not None:
        scores += mask
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores.masked_fill_(hidden, float("-inf"))
    lse = scores.logsumexp(-1)
    return scores.sub_(lse[..., None]).exp_().to(v.dtype) @ v, lse


def attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None = None, **keywords: Any
) -> tuple[Tensor, None]:
    """What transformers calls for every layer. Raises UnsupportedInSlots for attention that slots do not have."""
    scale = scaling if scaling is not None else q.shape[-1] ** -0.5
    return slot_pass_of(mask, keywords).attend(module.layer_idx, q, k, v, scale), None


def slot_pass_of(mask: Tensor | None, keywords: Mapping[str, Any]) -> SlotPass:
    """The forward pass of an attention call, from its mask and keywords. Raises UnsupportedInSlots for other kinds."""
    used = {name for name, value in keywords.items() if value is not None}
    if unknown := sorted(used - IGNORED_KEYWORDS):
        raise UnsupportedInSlots(f"its attention uses {', '.join(unknown)}")
    if mask is not None:
        raise UnsupportedInSlots("it has attention masks of its own")
    slot_pass: SlotPass | None = keywords.get("slot_pass")
    if slot_pass is None:
        raise UnsupportedInSlots("it does not pass keywords on to its attention")
    return slot_pass


class UnsupportedInSlots(Exception):
    """A model does something that slots do not; the message is the end of "it is run by `generate`, since …"."""


def _per_group(q: Tensor, heads_at: int, kv_heads: int) -> Tensor:
    """Split the heads of q, H -> K, G; in transformers the heads of one group are neighbours."""
    return q.reshape(*q.shape[:heads_at], kv_heads, -1, *q.shape[heads_at + 1 :])


def _lse_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


AttentionInterface.register(ATTENTION, attention)

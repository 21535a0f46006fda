"""The engine `local`: a transformers model in this process, on CPU or GPU.

Completions are drawn in slots: a preallocated key-value cache with one row per completion, each at its own length.
The tokens that all prompts of a call begin with are run once. A slot whose completion has ended is given to the next
request; when none is left the batch shrinks. Shapes depend only on the requests and on the tokens drawn, so the same
call gives the same tokens.

Letters: B slots in use, T new tokens per slot, H key-value heads, L cache positions, D head size, V vocabulary.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM

from selftaught.errors import EngineError, ModelError, RefusedError
from selftaught.records import Completion, FinishReason, ModelRef, Request, SamplingParams, TokenScores
from selftaught.scoring import completion_logprobs, context_of
from selftaught.seeds import uniform
from selftaught.tokens import Codec

SHARED_PREFIX_AT_LEAST = 16
"""Tokens; below this a prefill of its own costs more than it saves."""


@dataclass(slots=True)
class _Row:
    """A completion being drawn."""

    request: int
    seed: int
    prompt_ids: list[int]
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0

    @property
    def length(self) -> int:
        """Tokens that the cache must hold before the next one is drawn, less the last drawn one."""
        return len(self.prompt_ids) + len(self.ids) - 1


class SlotCache:
    """Keys and values of all slots, [B, H, L, D] per layer; a plain object that transformers models accept."""

    def __init__(self, num_slots: int, length: int) -> None:
        self.num_slots, self.length = num_slots, length
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self.slots = torch.arange(0)
        self.positions = torch.zeros(0, 0, dtype=torch.long)
        self.visible = 0

    def aim(self, slots: torch.Tensor, positions: torch.Tensor, visible: int) -> None:
        """The next forward writes at `positions` [B, T] of `slots` [B] and reads the first `visible` positions."""
        self.slots, self.positions, self.visible = slots, positions, visible

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [B, H, T, D] and return what the slots aimed at hold, [B, H, visible, D]."""
        if layer_idx not in self.keys:
            heads = keys.shape[1]
            self.keys[layer_idx] = keys.new_zeros(self.num_slots, heads, self.length, keys.shape[-1])
            self.values[layer_idx] = values.new_zeros(self.num_slots, heads, self.length, values.shape[-1])
        return self._write(self.keys[layer_idx], keys), self._write(self.values[layer_idx], values)

    def _write(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        held[self.slots[:, None], :, self.positions] = new.transpose(1, 2)
        if len(self.slots) == held.shape[0]:
            return held[:, :, : self.visible]
        return held[self.slots, :, : self.visible]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.positions.min()) if self.positions.numel() else 0

    def share_first_slot(self, length: int) -> None:
        """Copy the first `length` positions of slot 0 to every slot."""
        for held in (*self.keys.values(), *self.values.values()):
            held[1:, :, :length] = held[:1, :, :length]

    def keep(self, slots: torch.Tensor) -> None:
        """Drop every slot but these; they become slots 0, 1, …"""
        self.num_slots = len(slots)
        for layers in (self.keys, self.values):
            for layer_idx in layers:
                layers[layer_idx] = layers[layer_idx][slots]


class LocalEngine:
    """Draws completions from the model in a folder. Raises ModelError for a model that cannot be loaded or served."""

    serves = None

    def __init__(
        self, model: ModelRef, *, dtype: str, device: str, threads: int, slots: int, trust_remote_code: bool = False
    ) -> None:
        torch.set_num_threads(threads)
        self._path = model.path
        self._device = torch.device(device)
        self._slots = slots
        self._codec = Codec(model.path, trust_remote_code=trust_remote_code)
        self._model = _load(model.path, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code).to(
            self._device
        )
        self._model.eval()
        self._context = context_of(self._model)
        self._check_slots_work()

    def close(self) -> None:
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        rows = [
            (self._codec.encode_prompt(r.prompt), self._codec.encode_completion(r.prompt, text))
            for r, text in zip(requests, completions, strict=True)
        ]
        scores = completion_logprobs(self._model, rows, device=self._device)
        return [TokenScores(token_ids=tuple(ids), logprobs=s) for (_, ids), s in zip(rows, scores, strict=True)]

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        rows = [
            _Row(request=i, seed=r.seed, prompt_ids=self._codec.encode_prompt(r.prompt)) for i, r in enumerate(requests)
        ]
        if not rows:
            return
        self._check_context(rows, params)
        # Prompts of like length are prefilled together; the stable sort keeps the order a function of the requests.
        waiting = deque(sorted(rows, key=lambda row: len(row.prompt_ids)))
        longest = max(len(row.prompt_ids) for row in rows)
        cache = SlotCache(min(self._slots, len(rows)), longest + params.max_new_tokens)
        shared = self._run_shared_prefix(rows, cache)
        may_stop = self._codec.ids_holding("".join(sorted({s[-1] for s in params.stop})))
        running: list[_Row | None] = [None] * cache.num_slots
        while waiting or any(running):
            running = self._refill(running, waiting, cache, shared, params)
            for slot, row in enumerate(running):
                if row is not None and (completion := self._ended(row, params, may_stop)):
                    running[slot] = None
                    yield completion
            if not waiting:
                running = _shrink(running, cache)
            if any(running) and not self._should_refill(running, waiting):
                self._step(running, cache, shared, params)

    def _should_refill(self, running: Sequence[_Row | None], waiting: Sequence[_Row]) -> bool:
        """Refill in groups: a prefill for one slot costs about as much as one for many."""
        free = sum(row is None for row in running)
        return bool(waiting) and free > 0 and (free >= max(1, len(running) // 8) or free >= len(waiting))

    def _refill(
        self,
        running: list[_Row | None],
        waiting: deque[_Row],
        cache: SlotCache,
        shared: int,
        params: SamplingParams,
    ) -> list[_Row | None]:
        """Give free slots to waiting requests: run their prompts and draw their first tokens."""
        if not self._should_refill(running, waiting):
            return running
        new: list[tuple[int, _Row]] = []
        for slot, row in enumerate(running):
            if row is None and waiting:
                running[slot] = waiting.popleft()
                new.append((slot, cast(_Row, running[slot])))
        tails = [row.prompt_ids[shared:] for _, row in new]
        logits = self._forward([slot for slot, _ in new], tails, [shared] * len(new), cache)
        self._draw(logits, [row for _, row in new], params)
        return running

    def _step(self, running: Sequence[_Row | None], cache: SlotCache, shared: int, params: SamplingParams) -> None:
        """One token for every slot in use.

        An ended slot takes part too, since leaving it out would copy the cache: it reads and writes at the first
        position that its next prompt will overwrite.
        """
        last_ids = [[row.ids[-1]] if row else [0] for row in running]
        starts = [row.length if row else shared for row in running]
        logits = self._forward(list(range(len(running))), last_ids, starts, cache)
        active = [slot for slot, row in enumerate(running) if row]
        self._draw(logits[active], [row for row in running if row], params)

    def _forward(
        self, slots: Sequence[int], new_ids: Sequence[Sequence[int]], starts: Sequence[int], cache: SlotCache
    ) -> torch.Tensor:
        """Run new tokens of some slots, the first of slot i at position starts[i]; logits after the last, [B, V]."""
        lengths = [len(ids) for ids in new_ids]
        width = max(lengths)
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in new_ids], device=self._device)  # [B, T]
        positions = torch.tensor(starts, device=self._device)[:, None] + torch.arange(width, device=self._device)
        # Padding may point past the cache's end; it is written to the last position, which its row never reads
        # before writing it itself.
        positions = positions.clamp(max=cache.length - 1)
        visible = min(max(starts) + width, cache.length)
        cache.aim(torch.tensor(slots, device=self._device), positions, visible)
        reachable = torch.arange(visible, device=self._device) <= positions[:, :, None]  # [B, T, L]
        dtype = self._model.dtype
        mask = torch.zeros(reachable.shape, dtype=dtype, device=self._device)
        mask = mask.masked_fill(~reachable, torch.finfo(dtype).min)[:, None]  # [B, 1, T, L], added to the scores
        last = torch.tensor(lengths, device=self._device) - 1
        keep, where = torch.unique(last, return_inverse=True)
        logits = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits  # [B, len(keep), V]
        return cast(torch.Tensor, logits[torch.arange(len(slots), device=self._device), where].float())

    def _draw(self, logits: torch.Tensor, rows: Sequence[_Row], params: SamplingParams) -> None:
        """Append one token to every row."""
        if not bool(torch.isfinite(logits).all()):
            raise EngineError(
                f"model {self._path}: its logits are not finite; the weights are broken or overflow in {logits.dtype}"
            )
        numbers = [uniform(row.seed, len(row.ids)) for row in rows]
        drawn = draw_tokens(logits, params, torch.tensor(numbers, dtype=torch.float64, device=logits.device))
        logprobs = logits.log_softmax(-1).gather(-1, drawn[:, None])[:, 0]
        for row, token, logprob in zip(rows, drawn.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.logprob += logprob

    def _ended(self, row: _Row, params: SamplingParams, may_stop: frozenset[int]) -> Completion | None:
        """The completion of a row whose last token ended it, or None."""
        reason: FinishReason
        ids = row.ids
        if ids[-1] in self._codec.end_ids:
            reason, ids = "end", ids[:-1]
        elif ids[-1] in may_stop and self._codec.cut(ids, params.stop, after=row.prompt_ids)[2]:
            reason = "stop"
        elif len(ids) >= params.max_new_tokens:
            reason = "length"
        else:
            return None
        text, kept, was_cut = self._codec.cut(ids, params.stop, after=row.prompt_ids)
        if self._codec.decode(kept, after=row.prompt_ids) != text:
            kept = []  # a split token that does not encode back; the text is what counts
        return Completion(
            request=row.request,
            text=text,
            token_ids=tuple(kept) if kept or not text else None,
            finish_reason="stop" if was_cut else reason,
            logprob=round(row.logprob, 6),
            num_tokens=len(row.ids),
        )

    def _run_shared_prefix(self, rows: Sequence[_Row], cache: SlotCache) -> int:
        """Run the tokens that all prompts begin with once, for every slot; returns how many there are."""
        shortest = min((row.prompt_ids for row in rows), key=len)
        shared = 0
        while shared < len(shortest) - 1 and all(row.prompt_ids[shared] == shortest[shared] for row in rows):
            shared += 1
        if shared < SHARED_PREFIX_AT_LEAST or len(rows) == 1:
            return 0
        self._forward([0], [shortest[:shared]], [0], cache)
        cache.share_first_slot(shared)
        return shared

    def _check_context(self, rows: Sequence[_Row], params: SamplingParams) -> None:
        longest = max(len(row.prompt_ids) for row in rows)
        if longest + params.max_new_tokens > self._context:
            raise RefusedError(
                f"a prompt of {longest} tokens and {params.max_new_tokens} new ones exceed the model's context of "
                f"{self._context}; use fewer shots or a smaller sampling.max_new_tokens"
            )

    @torch.no_grad()
    def _check_slots_work(self) -> None:
        """Refuse a model whose logits through the slot cache are not those of a plain forward pass."""
        config = self._model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        ids = [i % config.vocab_size for i in (3, 5, 2, 7, 4, 6)]
        cache = SlotCache(2, len(ids))
        try:
            self._forward([0, 1], [ids[:3], ids[:2]], [0, 0], cache)
            ours = self._forward([0, 1], [ids[3:], ids[2:5]], [3, 2], cache)
        except (TypeError, AttributeError, RuntimeError, ValueError, IndexError) as error:
            raise ModelError(
                f"model {self._path} ({config.model_type}) does not take the local engine's cache "
                f"({type(error).__name__}: {error}); use a Llama-like decoder model"
            ) from error
        for row, length in enumerate((len(ids), 5)):
            plain = (
                self._model(torch.tensor([ids[:length]], device=self._device), use_cache=False).logits[0, -1].float()
            )
            gap = float((ours[row] - plain).abs().max() / plain.abs().max().clamp(min=1.0))
            limit = 1e-3 if self._model.dtype == torch.float32 else 0.1
            if kinds != {"full_attention"} or not gap < limit:
                raise ModelError(
                    f"model {self._path} ({config.model_type}, layers {', '.join(sorted(kinds))}) gives other logits "
                    f"through the local engine's cache (relative difference {gap:.2g}); use a full-attention model"
                )


def draw_tokens(logits: torch.Tensor, params: SamplingParams, numbers: torch.Tensor) -> torch.Tensor:
    """One token per row of logits [B, V], by inverse distribution function from numbers [B] in [0, 1).

    Temperature first, then top-k, then top-p on what is left. Temperature 0 takes the likeliest.
    """
    if params.temperature == 0.0:
        return logits.argmax(-1)
    probs, order = (logits.double() / params.temperature).softmax(-1).sort(stable=True, dim=-1, descending=True)
    if params.top_k:
        probs[:, params.top_k :] = 0.0
    cumulative = probs.cumsum(-1)
    if params.top_p < 1.0:
        # A token stays if those before it do not yet make up top_p of what top-k left.
        before = cumulative - probs
        probs = probs.masked_fill(before >= params.top_p * cumulative[:, -1:], 0.0)
        cumulative = probs.cumsum(-1)
    picked = torch.searchsorted(cumulative, (numbers * cumulative[:, -1])[:, None], right=True)
    last = (probs > 0).sum(-1, keepdim=True) - 1  # rounding must not pick a token that was ruled out
    return order.gather(-1, picked.minimum(last))[:, 0]


def _shrink(running: list[_Row | None], cache: SlotCache) -> list[_Row | None]:
    """Drop ended slots once they are half of the batch."""
    active = [slot for slot, row in enumerate(running) if row is not None]
    if not active or len(active) > len(running) // 2:
        return running
    device = next(iter(cache.keys.values())).device
    cache.keep(torch.tensor(active, device=device))
    return [running[slot] for slot in active]


def _load(path: str, *, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except Exception as error:
        # transformers and safetensors raise many kinds here, and each of them means the same to the user.
        raise ModelError(
            f"model {path} cannot be loaded: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error

"""The engine `local`: a transformers model in this process, on CPU or GPU.

Prompts that begin alike share one prefill of what they have in common (`prefixes`); their completions are generated in
slots (`slots`, `slot_batch`). For a model that cannot be run in slots transformers' `generate` is used, and a line says
why. Which tokens share a forward pass depends only on the requests and on the tokens sampled so far, so the same call
gives the same tokens.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from selftaught.engines.local.forward import Runner, use_slots
from selftaught.engines.local.generate import generate
from selftaught.engines.local.prefixes import prefix_groups, shared_length
from selftaught.engines.local.rows import Endings, Row, TokenCount
from selftaught.engines.local.slot_batch import SlotBatch
from selftaught.engines.local.slots import ATTENTION, Kernels, SlotCache
from selftaught.engines.local.token_sampling import sample_tokens
from selftaught.machine.memory import return_freed_memory
from selftaught.models.attention_kinds import window_of
from selftaught.models.loading import load_model
from selftaught.models.scoring import completion_logprobs, context_of
from selftaught.models.tokens import Codec
from selftaught.records.errors import EngineError, RefusedError
from selftaught.records.prompts import ChatSettings, Prompt, RenderedPrompt
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
    TokenScores,
)

BATCH_LOGITS = 1 << 26
"""Logits that one batch of `score` may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """How a LocalEngine computes; the same in every process of a run."""

    dtype: str
    """`float32`, `bfloat16` or another floating point type of torch."""
    device: str
    threads: int
    """CPU threads."""
    slots: int
    """Completions that are generated at a time, at most."""
    cache_bytes: int = 4 << 30
    """Memory of their keys and values, at most."""
    prefill_tokens: int = 2048
    """Prompt tokens of one forward pass, at most."""
    compiled: bool = False
    """Whether `open_local` gives the engine the compiled operations (cpu/)."""
    trust_remote_code: bool = False
    chat: ChatSettings | None = None
    """What the model's chat template is given; None if prompts are text."""


class LocalEngine:
    """Generates completions with the model in a folder. Raises ModelError for a model that cannot be loaded.

    `kernels` are used if they suit the model. `note` is called once with the reason if a model is not run in slots,
    `on_tokens` with the tokens that are new, every half a second while `sample` generates, and at its end.
    """

    def __init__(
        self,
        model: ModelRef,
        settings: LocalSettings,
        *,
        kernels: Kernels | None = None,
        note: Callable[[str], None] = lambda line: None,
        on_tokens: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        torch.set_num_threads(settings.threads)
        self._path = model.path
        self._device = torch.device(settings.device)
        self._settings = settings
        self._note = note
        self._on_tokens = on_tokens
        self._codec = Codec(model.path, chat=settings.chat, trust_remote_code=settings.trust_remote_code)
        dtype: torch.dtype = getattr(torch, settings.dtype)
        loaded = load_model(model.path, dtype=dtype, trust_remote_code=settings.trust_remote_code)
        self._model = loaded.to(self._device)
        self._model.eval()
        self._model.generation_config = GenerationConfig()  # the run decides how to sample, never the model's folder
        self._context = context_of(self._model)
        self._own_attention = self._model.config._attn_implementation
        self._kernels = kernels if kernels is not None and kernels.suits(self._model) else None
        self._why_not_slots = use_slots(self._model, self._device, self._kernels)
        self._noted = False
        if self._why_not_slots is None:
            if self._kernels:
                self._kernels.pack(self._model, rows=settings.slots)
            self._runner = Runner(self._model, self._device, self._kernels)
        else:
            self._note_once(self._why_not_slots)
        self._window = window_of(self._model.config.get_text_config())

    def close(self) -> None:
        del self._model
        vars(self).pop("_runner", None)  # refers to the model, too; there is none if `generate` runs the model
        return_freed_memory()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        rows = [
            Row(request=i, seed=r.seed, prompt_ids=ids)
            for i, (r, ids) in enumerate(zip(requests, self._encode(requests), strict=True))
        ]
        if not rows:
            return
        longest = self._check_context([len(row.prompt_ids) for row in rows], params.max_new_tokens)
        endings = Endings(self._codec, params)
        count = TokenCount(self._on_tokens)

        def append_tokens(logits: Tensor, rows: Sequence[Row]) -> None:
            self._append_tokens(logits, rows, params)
            count.add(len(rows))

        if not self._set_attention(longest):
            yield from generate(
                self._model,
                rows,
                batch_size=self._slots_for(longest),
                max_new_tokens=params.max_new_tokens,
                append_tokens=append_tokens,
                endings=endings,
                device=self._device,
            )
            count.tell()
            return
        for group in prefix_groups([row.prompt_ids for row in rows]):
            members = [rows[i] for i in group]
            shared = shared_length([row.prompt_ids for row in members])
            length = max(len(row.prompt_ids) for row in members) - shared + params.max_new_tokens
            yield from SlotBatch(
                self._runner,
                members,
                shared=shared,
                num_slots=min(len(members), self._slots_for(length)),
                length=length,
                prefill_tokens=self._settings.prefill_tokens,
                append_tokens=append_tokens,
                endings=endings,
            ).run()
        count.tell()

    def render(self, prompt: Prompt) -> RenderedPrompt:
        return self._codec.render(prompt)

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        prompts = self._encode(requests)
        pairs = [
            (prompt, self._codec.encode_completion(request.prompt, text))
            for request, prompt, text in zip(requests, prompts, completions, strict=True)
        ]
        if not pairs:
            return []
        longest = self._check_context([len(prompt) + len(new) for prompt, new in pairs], 0)
        if self._set_attention(longest):
            scores = self._score_in_slots(pairs)
        else:
            scores = completion_logprobs(self._model, pairs, device=self._device)
        return [TokenScores(token_ids=tuple(ids), logprobs=s) for (_, ids), s in zip(pairs, scores, strict=True)]

    @torch.inference_mode()
    def _score_in_slots(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, ...]]:
        """Log-probabilities of (prompt ids, completion ids), with one prefill of each group's shared prefix."""
        by_pair: dict[int, tuple[float, ...]] = {}
        runner = Runner(self._model, self._device)
        max_kept = max(1, BATCH_LOGITS // self._model.config.get_text_config().vocab_size)
        for group in prefix_groups([prompt for prompt, _ in pairs]):
            shared = shared_length([pairs[i][0] for i in group])
            cache = SlotCache(0, 0)
            if shared:
                runner.prefill_prefix(cache, pairs[group[0]][0][:shared])
            for batch in _batches(group, pairs, shared, self._settings.prefill_tokens, max_kept):
                tails: list[list[int]] = []
                keep: list[int] = []
                start = 0
                for i in batch:
                    prompt, new = pairs[i]
                    tails.append([*prompt[shared:], *new])
                    first = start + len(prompt) - shared - 1  # the token at t is predicted by the logits at t - 1
                    keep += range(first, first + len(new))
                    start += len(tails[-1])
                targets = torch.tensor([token for i in batch for token in pairs[i][1]], device=self._device)
                values: list[float] = []
                if keep:
                    logits = runner.logits(cache, shared, tails, keep)
                    logprobs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
                    # JSON has no minus infinity.
                    values = logprobs.gather(-1, targets[:, None])[:, 0].clamp(min=-1e9).tolist()
                for i in batch:
                    number = len(pairs[i][1])
                    by_pair[i], values = (tuple(values[:number]), values[number:]) if number else ((), values)
        return [by_pair[i] for i in range(len(pairs))]

    def _encode(self, requests: Sequence[Request]) -> list[list[int]]:
        return [self._codec.encode_prompt(r.prompt) for r in requests]

    def _append_tokens(self, logits: Tensor, rows: Sequence[Row], params: SamplingParams) -> None:
        """Sample one token for every row, and append it."""
        if self._kernels and not params.temperature:
            tokens, logprobs = (x.tolist() for x in self._kernels.likeliest(logits))
        else:
            uniforms = [row.next_number() for row in rows] if params.temperature else []
            numbers = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)
            tokens, logprobs = (x.tolist() for x in sample_tokens(logits, params, numbers))
        if not all(map(math.isfinite, logprobs)):
            raise EngineError(
                f"model {self._path}: its logits are not finite; the weights are broken or overflow in {logits.dtype}"
            )
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.append(token, logprob)

    def _set_attention(self, longest: int) -> bool:
        """Switch the model to attention in slots if sequences of this length can be run so, else to its own.

        Returns whether they can. Every call decides anew, so that nothing carries over from one call to the next.
        """
        reason = self._why_not_slots
        if reason is None and self._window is not None and self._window < longest:
            reason = f"its sliding window of {self._window} tokens is shorter than the sequences ({longest} tokens)"
        if reason:
            self._note_once(reason)
        attention = self._own_attention if reason else ATTENTION
        if self._model.config._attn_implementation != attention:
            self._model.set_attn_implementation(attention)
        return reason is None

    def _note_once(self, reason: str) -> None:
        if not self._noted:
            self._noted = True
            self._note(f"{self._path} is run by transformers' generate, which is slower than slots: {reason}")

    def _check_context(self, lengths: Sequence[int], new: int) -> int:
        """The longest sequence; raises RefusedError if it does not fit."""
        longest = max(lengths) + new
        if longest > self._context:
            raise RefusedError(
                f"a prompt of {max(lengths)} tokens and {new} new ones exceed the model's context of {self._context}; "
                "use fewer few-shot examples (sampling.num_shots) or a smaller sampling.max_new_tokens"
            )
        return longest

    def _slots_for(self, length: int) -> int:
        """How many completions of this many tokens fit in the cache's memory at a time, with their keys and values."""
        config = self._model.config.get_text_config()
        bytes_of_one = length * kv_bytes_per_token(config, self._model.dtype.itemsize)
        return max(1, min(self._settings.slots, self._settings.cache_bytes // bytes_of_one))


def kv_bytes_per_token(config: Any, itemsize: int) -> int:
    """Bytes of the keys and values of one token in all layers."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * kv_heads * size * itemsize)


def _batches(
    group: Sequence[int], pairs: Sequence[tuple[list[int], list[int]]], shared: int, max_tokens: int, max_kept: int
) -> Iterator[list[int]]:
    """The group's positions in batches of at most so many tokens and logits to keep; one that has more is alone."""
    batch: list[int] = []
    tokens = kept = 0
    for i in group:
        new_tokens, new_kept = len(pairs[i][0]) - shared + len(pairs[i][1]), len(pairs[i][1])
        if batch and (tokens + new_tokens > max_tokens or kept + new_kept > max_kept):
            yield batch
            batch, tokens, kept = [], 0, 0
        batch.append(i)
        tokens, kept = tokens + new_tokens, kept + new_kept
    yield batch

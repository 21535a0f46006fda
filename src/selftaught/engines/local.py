"""The engine `local`: a transformers model in this process, on CPU or GPU.

Prompts that begin alike share one run of what they have in common (`prefixes`); their completions are drawn in slots
(`slots`, `slot_batch`). A model that cannot be run so is drawn by transformers' `generate` instead, and a line says it.
Which tokens share a pass depends only on the requests and on the tokens drawn, so the same call gives the same tokens.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from selftaught.attention_kinds import window_of
from selftaught.engines import forward
from selftaught.engines.forward import Runner
from selftaught.engines.generate import generate
from selftaught.engines.prefixes import prefix_groups, shared_length
from selftaught.engines.rows import Endings, Row
from selftaught.engines.slot_batch import SlotBatch
from selftaught.engines.slots import ATTENTION, Kernels, SlotCache
from selftaught.engines.token_sampling import sample_tokens
from selftaught.errors import EngineError, RefusedError
from selftaught.memory import return_freed_memory
from selftaught.model_loading import load_model
from selftaught.records import Completion, ModelRef, Request, SamplingParams, TokenScores
from selftaught.scoring import completion_logprobs, context_of
from selftaught.tokens import Codec

KEPT_LOGITS = 1 << 26
"""Logits that one pass of `score` may hold."""


class LocalEngine:
    """Generates completions with the model in a folder. Raises ModelError for a model that cannot be loaded.

    `slots` bounds the completions generated at a time, `cache_bytes` the memory of their keys and values,
    `prefill_tokens` the prompt tokens run at a time; `kernels` are used if they suit the model. `note` is called once
    with the reason why a model is not run in slots.
    """

    serves = None

    def __init__(
        self,
        model: ModelRef,
        *,
        dtype: str,
        device: str,
        threads: int,
        slots: int,
        cache_bytes: int = 4 << 30,
        prefill_tokens: int = 2048,
        trust_remote_code: bool = False,
        kernels: Kernels | None = None,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        torch.set_num_threads(threads)
        self._path = model.path
        self._device = torch.device(device)
        self._slots, self._cache_bytes, self._pass_tokens = slots, cache_bytes, prefill_tokens
        self._note = note
        self._codec = Codec(model.path, trust_remote_code=trust_remote_code)
        loaded = load_model(model.path, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code)
        self._model = loaded.to(self._device)
        self._model.eval()
        self._model.generation_config = GenerationConfig()  # drawing is set by the run, never by the model's folder
        self._context = context_of(self._model)
        self._own_attention = self._model.config._attn_implementation
        self._kernels = kernels if kernels is not None and kernels.suit(self._model) else None
        self._why_not = forward.prepare(self._model, self._device, self._kernels)
        self._noted = False
        if self._why_not is None:
            if self._kernels:
                self._kernels.pack(self._model, rows=slots)
            self._runner = Runner(self._model, self._device, self._kernels)
        else:
            self._note_once(self._why_not)
        self._window = window_of(self._model.config.get_text_config())

    def close(self) -> None:
        del self._model
        vars(self).pop("_runner", None)  # refers to the model, too; there is none for a model that `generate` draws
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

        def draw(logits: Tensor, rows: Sequence[Row]) -> None:
            self._draw(logits, rows, params)

        if not self._can_use_slots(longest):
            yield from generate(
                self._model,
                rows,
                batch_size=self._slots_for(longest),
                max_new_tokens=params.max_new_tokens,
                draw=draw,
                endings=endings,
                device=self._device,
            )
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
                prefill_tokens=self._pass_tokens,
                draw=draw,
                endings=endings,
            ).run()

    def score(self, requests: Sequence[Request], completions: Sequence[str]) -> list[TokenScores]:
        prompts = self._encode(requests)
        pairs = [
            (prompt, self._codec.encode_completion(request.prompt, text))
            for request, prompt, text in zip(requests, prompts, completions, strict=True)
        ]
        if not pairs:
            return []
        longest = self._check_context([len(prompt) + len(new) for prompt, new in pairs], 0)
        if self._can_use_slots(longest):
            scores = self._score_in_passes(pairs)
        else:
            scores = completion_logprobs(self._model, pairs, device=self._device)
        return [TokenScores(token_ids=tuple(ids), logprobs=s) for (_, ids), s in zip(pairs, scores, strict=True)]

    @torch.inference_mode()
    def _score_in_passes(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, ...]]:
        """Log-probabilities of (prompt ids, completion ids), each group's shared prefix run once."""
        found: dict[int, tuple[float, ...]] = {}
        runner = Runner(self._model, self._device)
        most_kept = max(1, KEPT_LOGITS // self._model.config.get_text_config().vocab_size)
        for group in prefix_groups([prompt for prompt, _ in pairs]):
            shared = shared_length([pairs[i][0] for i in group])
            cache = SlotCache(0, 0)
            if shared:
                runner.prefix(cache, pairs[group[0]][0][:shared])
            for batch in _batches(group, pairs, shared, self._pass_tokens, most_kept):
                tails: list[list[int]] = []
                keep: list[int] = []
                start = 0
                for i in batch:
                    prompt, new = pairs[i]
                    tails.append([*prompt[shared:], *new])
                    first = start + len(prompt) - shared - 1  # the token at t is predicted by the logits at t - 1
                    keep += range(first, first + len(new))
                    start += len(tails[-1])
                wanted = torch.tensor([token for i in batch for token in pairs[i][1]], device=self._device)
                values: list[float] = []
                if keep:
                    logits = runner.sequences(cache, shared, tails, keep)
                    logprobs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
                    # Clamped, since minus infinity is no number in JSON.
                    values = logprobs.gather(-1, wanted[:, None])[:, 0].clamp(min=-1e9).tolist()
                for i in batch:
                    number = len(pairs[i][1])
                    found[i], values = (tuple(values[:number]), values[number:]) if number else ((), values)
        return [found[i] for i in range(len(pairs))]

    def _encode(self, requests: Sequence[Request]) -> list[list[int]]:
        return [self._codec.encode_prompt(r.prompt) for r in requests]

    def _draw(self, logits: Tensor, rows: Sequence[Row], params: SamplingParams) -> None:
        """Append one token to every row."""
        if self._kernels and not params.temperature:
            tokens, logprobs = (found.tolist() for found in self._kernels.likeliest(logits))
        else:
            decided_by = [row.next_number() for row in rows] if params.temperature else []
            numbers = torch.tensor(decided_by, dtype=torch.float64, device=logits.device)
            tokens, logprobs = (found.tolist() for found in sample_tokens(logits, params, numbers))
        if not all(map(math.isfinite, logprobs)):
            raise EngineError(
                f"model {self._path}: its logits are not finite; the weights are broken or overflow in {logits.dtype}"
            )
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.append(token, logprob)

    def _can_use_slots(self, longest: int) -> bool:
        """Whether this call's sequences can be run in slots; decided for every call alone, as all else."""
        reason = self._why_not
        if reason is None and self._window is not None and self._window < longest:
            reason = f"its sliding window of {self._window} tokens is shorter than the sequences ({longest} tokens)"
        if reason:
            self._note_once(reason)
        wanted = self._own_attention if reason else ATTENTION
        if self._model.config._attn_implementation != wanted:
            self._model.set_attn_implementation(wanted)
        return reason is None

    def _note_once(self, reason: str) -> None:
        if not self._noted:
            self._noted = True
            self._note(f"{self._path} is drawn by transformers' generate, which is slower than slots: {reason}")

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
        """Completions drawn at a time whose keys and values, each of this many tokens, fit in the cache's memory."""
        config = self._model.config.get_text_config()
        return max(
            1, min(self._slots, self._cache_bytes // (length * kv_bytes_per_token(config, self._model.dtype.itemsize)))
        )


def kv_bytes_per_token(config: Any, itemsize: int) -> int:
    """Bytes of the keys and values of one token in all layers."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * kv_heads * size * itemsize)


def _batches(
    group: Sequence[int], pairs: Sequence[tuple[list[int], list[int]]], shared: int, most_tokens: int, most_kept: int
) -> Iterator[list[int]]:
    """The group's positions in passes of at most so many tokens and kept logits, or one position if that has more."""
    batch: list[int] = []
    tokens = kept = 0
    for i in group:
        new_tokens, new_kept = len(pairs[i][0]) - shared + len(pairs[i][1]), len(pairs[i][1])
        if batch and (tokens + new_tokens > most_tokens or kept + new_kept > most_kept):
            yield batch
            batch, tokens, kept = [], 0, 0
        batch.append(i)
        tokens, kept = tokens + new_tokens, kept + new_kept
    yield batch

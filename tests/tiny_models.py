"""Random models of several kinds with the shipped model's tokenizer, and what transformers itself computes."""

import random
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selftaught.engines.local.cpu import CpuKernels
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.engines.local.token_sampling import sample_tokens
from selftaught.models.loading import load_model
from selftaught.models.tokens import Codec
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
)
from selftaught.records.seeds import uniform

NEAR_TIE = 1e-4
"""Difference of two logits, or of two numbers that decide a token, that the rounding of float32 can reach."""

BODY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GROUPED = {**BODY, "num_key_value_heads": 2}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128, "rope_theta": 10_000.0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "llama with one key head": (
        "LlamaConfig",
        {**BODY, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 8, "num_key_value_heads": 1},
    ),
    "llama with biases": (
        "LlamaConfig",
        {**GROUPED, "intermediate_size": 64, "attention_bias": True, "mlp_bias": True},
    ),
    "llama with dynamic positions": ("LlamaConfig", {**GROUPED, "rope_parameters": DYNAMIC}),
    "llama with yarn positions": ("LlamaConfig", {**GROUPED, "intermediate_size": 64, "rope_parameters": YARN}),
    "qwen2": ("Qwen2Config", {**GROUPED, "intermediate_size": 64}),
    "qwen3": ("Qwen3Config", {**GROUPED, "intermediate_size": 64, "head_dim": 32}),
    "gpt-neox": ("GPTNeoXConfig", BODY),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 200}),
    "gemma2": ("Gemma2Config", {**GROUPED, "head_dim": 8, "sliding_window": 200, "query_pre_attn_scalar": 8}),
    "gpt-j": ("GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 256}),
}


def save_model(kind: str, folder: Path, adder: Path) -> None:
    """Write a random model; weights are large, so that its completions vary."""
    tokenizer = AutoTokenizer.from_pretrained(adder)
    name, values = KINDS[kind]
    config = getattr(transformers, name)(
        **values,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):  # they start at zero, where a mistake with them would not show
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_adapters(base: Path, folder: Path, **values: Any) -> Path:
    """Adapters as peft writes them, with factors that change something."""
    from peft import LoraConfig, get_peft_model

    model = load_model(str(base), dtype=torch.float32)
    config = LoraConfig(**{"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "down_proj"], **values})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(model, config).save_pretrained(folder)
    torch.manual_seed(1)
    path = folder / "adapter_model.safetensors"
    tensors = {name: torch.randn(tensor.shape) * 0.1 for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def texts_of(number: int, *heads: str, seed: int = 0) -> list[str]:
    """Prompts of unequal length: the heads in turn, each followed by 1 to 9 random digits (a token each)."""
    rng = random.Random(seed)
    return [
        heads[i % len(heads)] + "".join(rng.choice("123456789") for _ in range(rng.randint(1, 9)))
        for i in range(number)
    ]


HEADS: dict[str, tuple[str, ...]] = {
    "nothing": ("",),
    "a prefix": ("01234567890123456789",),
    "two prefixes": ("01234567890123456789" + "+" * 18, "01234567890123456789" + "," * 18),
}
"""What prompts share. The second and third are long enough to be run once."""


def open_engine(
    folder: Path,
    *,
    dtype: str = "float64",
    slots: int = 16,
    compiled: bool = True,
    note: Callable[[str], None] = lambda line: None,
    **more: Any,
) -> LocalEngine:
    kernels = CpuKernels(1) if compiled else None
    settings = LocalSettings(dtype=dtype, device="cpu", threads=1, slots=slots, **more)
    return LocalEngine(ModelRef(path=str(folder)), settings, kernels=kernels, note=note)


def sample(engine: LocalEngine, texts: Sequence[str], **params: Any) -> list[Completion]:
    """Completions in the order of the texts; the seed of each is its place."""
    requests = [Request(prompt=text, seed=i) for i, text in enumerate(texts)]
    completions = list(engine.sample(requests, SamplingParams(**{"temperature": 0.0, "max_new_tokens": 10, **params})))
    assert sorted(c.request for c in completions) == list(range(len(texts)))
    return sorted(completions, key=lambda c: c.request)


def near_ties(
    folder: Path, text: str, seed: int, ids: Sequence[int], params: SamplingParams, *, limit: float = NEAR_TIE
) -> list[bool]:
    """For each token of a completion, whether rounding alone could have given another one.

    Fails for a token that the plain model in float64, after the same tokens, would not sample with the number of this
    seed and place, not even with a slightly different number (at temperature 0: slightly different logits).
    """
    prompt = codec_of(folder).encode_prompt(text)
    logits = plain_logits(folder, [*prompt, *ids])[len(prompt) - 1 : -1]  # [T, V]
    if params.temperature == 0.0:
        top = logits.topk(2).values
        gaps = top[:, 0] - logits.gather(-1, torch.tensor([*ids])[:, None])[:, 0]
        assert bool((gaps < limit).all()), (text, ids)
        return (top[:, 0] - top[:, 1] < limit).tolist()
    possible = []
    for shift in (-limit, 0.0, limit):
        numbers = [min(max(uniform(seed, place) + shift, 0.0), 1.0 - 2**-53) for place in range(len(ids))]
        tokens, _ = sample_tokens(logits, params, torch.tensor(numbers, dtype=torch.float64))
        possible.append(tokens.tolist())
    by_place = [set(tokens) for tokens in zip(*possible, strict=True)]
    assert all(token in tokens for token, tokens in zip(ids, by_place, strict=True)), (text, ids)
    return [len(tokens) > 1 for tokens in by_place]


def ids_of(completions: Sequence[Completion]) -> list[list[int] | None]:
    return [None if c.token_ids is None else list(c.token_ids) for c in completions]


@cache
def plain_model(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@cache
def codec_of(folder: Path) -> Codec:
    return Codec(str(folder))


def generated(
    folder: Path, texts: Sequence[str], *, dtype: torch.dtype = torch.float64, max_new_tokens: int = 10
) -> list[list[int]]:
    """Greedy tokens of transformers' own generate, without the end token; prompts of one length share a batch."""
    codec, model = codec_of(folder), plain_model(folder, dtype)
    prompts = [codec.encode_prompt(text) for text in texts]
    by_place: dict[int, list[int]] = {}
    for length in {len(prompt) for prompt in prompts}:
        places = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        ids = torch.tensor([prompts[i] for i in places])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=0
        )
        for i, new in zip(places, out[:, length:].tolist(), strict=True):
            by_place[i] = new[: new.index(codec.end_id)] if codec.end_id in new else new
    return [by_place[i] for i in range(len(texts))]


def plain_logits(folder: Path, ids: Sequence[int], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Logits [T, V] of a forward pass over one sequence."""
    with torch.no_grad():
        return plain_model(folder, dtype)(torch.tensor([list(ids)]), use_cache=False).logits[0]


ModelFolder = Callable[[str], Path]

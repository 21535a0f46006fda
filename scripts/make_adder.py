#!/usr/bin/env python3
"""Make `builtin:adder`, the small weak model that the package ships for the arithmetic task.

    python scripts/make_adder.py [FOLDER]          default: src/selftaught/builtin/adder

A Llama-architecture model with one token per symbol of the scratchpad, trained from random weights on the task's
`seen` problems only (21 one-digit, 1,500 two-digit and 50 each of three, four and five digits), each with and without
a hint, loss on the completion. It is stopped early on purpose, so that it is weak: see docs/tasks.md for what it can
do, how long this takes and the sha256 of the result. Seeds are fixed; the weights are the same on the same machine
type and library versions.
"""

import math
import random
import sys
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selftaught.models.tokens import IGNORED
from selftaught.models.weights import weights_sha256
from selftaught.prompts.rendering import render_completion, render_prompt
from selftaught.tasks.arithmetic.task import PROMPT_FORMAT, Variant, seen_problems

VOCABULARY = [
    "<pad>",
    "<end>",
    "<unk>",
    "\n",
    *"0123456789",
    "+",
    ",",
    "C:",
    "<scratch>",
    "</scratch>",
    "Input:",
    "Target:",
]
VARIANT: Variant = "paper"
SEED = 0
STEPS = 1_900
BATCH_SIZE = 16
LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 50
WEIGHT_DECAY = 0.1
REPEATS = {"1": 3, "2": 1, "3": 4, "4": 4, "5": 4}
"""Copies of a class's rows per epoch: long classes have few problems."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per symbol; spaces are not tokens; decoding puts them between symbols, but not around line ends."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<unk>"))
    symbols = Regex(r"\n|</?scratch>|C:|Input:|Target:|[0-9+,]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(symbols, "isolated")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(" \n", "\n"),
            decoders.Replace("\n ", "\n"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=VOCABULARY.index("<pad>"),
        eos_token_id=VOCABULARY.index("<end>"),
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).float()
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    return model


def make_rows(tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[int], list[int]]]:
    rows = []
    for problem in seen_problems(VARIANT):
        for hint in (False, True):
            prompt = tokenizer(render_prompt(PROMPT_FORMAT, problem, hint=hint))["input_ids"]
            completion = tokenizer(render_completion(PROMPT_FORMAT, problem))["input_ids"]
            learned = [*completion, tokenizer.eos_token_id]
            row = ([*prompt, *learned], [IGNORED] * len(prompt) + learned)
            rows += [row] * REPEATS[problem.class_name]
    return rows


def train(model: LlamaForCausalLM, rows: list[tuple[list[int], list[int]]]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)
    rng = random.Random(SEED)
    order: list[int] = []
    model.train()
    for step in range(STEPS):
        while len(order) < BATCH_SIZE:
            order += rng.sample(range(len(rows)), len(rows))
        batch, order = [rows[i] for i in order[:BATCH_SIZE]], order[BATCH_SIZE:]
        longest = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch])
        labels = torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in batch])
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}  loss {loss.item():.4f}", flush=True)


def learning_rate(step: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    return LEARNING_RATE * 0.5 * (1 + math.cos(done * math.pi))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    began = time.monotonic()
    tokenizer, model = make_tokenizer(), make_model()
    rows = make_rows(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(rows):,} rows")
    train(model, rows)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    print(
        f"{folder}: {size / 1e6:.2f} MB, sha256 {weights_sha256(folder)}, {(time.monotonic() - began) / 60:.1f} minutes"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "src/selftaught/builtin/adder")

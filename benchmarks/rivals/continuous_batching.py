"""transformers continuous batching: `generate_batch`, with its own choice of block sizes and scheduling."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from benchmarks.child import Clock, Job, generated, serve
from benchmarks.rivals.generate import ended


def run(job: Job) -> dict[str, Any]:
    """job: as for generate; the batch size is left to the library."""
    torch.set_num_threads(job["threads"])
    began = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=getattr(torch, job["dtype"]), attn_implementation="sdpa"
    )
    model.to(job["device"]).eval()
    load = time.perf_counter() - began
    began = time.perf_counter()
    _generate(model, tokenizer, job["warm_up"][:8], {**job, "max_new_tokens": min(8, job["max_new_tokens"])})
    warm_up = time.perf_counter() - began
    with Clock() as clock:
        rows = _generate(model, tokenizer, job["prompts"], job)
    return generated(clock, rows, load_s=load, warm_up_s=warm_up, dtype=job["dtype"])


def _generate(model: Any, tokenizer: Any, prompts: Sequence[str], job: Job) -> list[dict[str, Any]]:
    end_ids = model.generation_config.eos_token_id
    config = GenerationConfig(
        max_new_tokens=job["max_new_tokens"],
        do_sample=False,
        eos_token_id=end_ids,
        pad_token_id=tokenizer.pad_token_id,
    )
    inputs = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    results = model.generate_batch(inputs=inputs, generation_config=config)
    outputs = sorted(results.values(), key=lambda output: int(str(output.request_id).rpartition("_")[2]))
    broken = [output.error for output in outputs if output.error]
    if broken or len(outputs) != len(prompts):
        raise RuntimeError(f"generate_batch answered {len(outputs)} of {len(prompts)} requests: {broken[:1]}")
    # It has no stop strings: tokens after one cost time, but do not count.
    return [ended(list(output.generated_tokens), tokenizer, end_ids, job) for output in outputs]


if __name__ == "__main__":
    serve(run)

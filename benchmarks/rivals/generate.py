"""transformers `generate`: left-padded batches, as the documentation shows."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StopStringCriteria

from benchmarks.child import Clock, Job, generated, serve


def run(job: Job) -> dict[str, Any]:
    """job: model, device, threads, dtype, batch_size, prompts, warm_up, max_new_tokens, stop, ignore_end."""
    torch.set_num_threads(job["threads"])
    began = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
    model.to(job["device"]).eval()
    load = time.perf_counter() - began
    began = time.perf_counter()
    few = {**job, "max_new_tokens": min(8, job["max_new_tokens"])}  # nothing is compiled, so a short warm-up is enough
    list(_generate(model, tokenizer, job["warm_up"][:8], few))
    warm_up = time.perf_counter() - began
    with Clock() as clock:
        rows = list(_generate(model, tokenizer, job["prompts"], job))
    return generated(clock, rows, load_s=load, warm_up_s=warm_up, dtype=job["dtype"])


@torch.inference_mode()
def _generate(model: Any, tokenizer: Any, prompts: Sequence[str], job: Job) -> Iterator[dict[str, Any]]:
    stop = {"stop_strings": job["stop"], "tokenizer": tokenizer} if knows_stop_strings(tokenizer, job["stop"]) else {}
    for first in range(0, len(prompts), job["batch_size"]):
        batch = tokenizer(prompts[first : first + job["batch_size"]], return_tensors="pt", padding=True)
        batch = batch.to(model.device)
        output = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=False,
            max_new_tokens=job["max_new_tokens"],
            pad_token_id=tokenizer.pad_token_id,
            **stop,
        )
        for ids in output[:, batch["input_ids"].shape[1] :].tolist():
            yield ended(ids, tokenizer, model.generation_config.eos_token_id, job)


def ended(ids: list[int], tokenizer: Any, end_ids: int | list[int], job: Job) -> dict[str, Any]:
    """A row of a batch without the padding after its end; the end token and the stop string count as tokens."""
    if job["ignore_end"]:
        return {"ids": ids, "text": tokenizer.decode(ids, clean_up_tokenization_spaces=False), "tokens": len(ids)}
    ends = {end_ids} if isinstance(end_ids, int) else set(end_ids)
    place = next((i for i, token in enumerate(ids) if token in ends or token == tokenizer.pad_token_id), len(ids))
    text = tokenizer.decode(ids[:place], clean_up_tokenization_spaces=False)
    places = [at for s in job["stop"] if (at := text.find(s)) >= 0]
    if not places:
        return {"ids": ids[:place], "text": text, "tokens": min(place + 1, len(ids))}
    while place and any(s in tokenizer.decode(ids[: place - 1]) for s in job["stop"]):
        place -= 1  # tokens after the stop string
    return {"ids": ids[:place], "text": text[: min(places)], "tokens": place}


def knows_stop_strings(tokenizer: Any, stop: Sequence[str]) -> bool:
    """Whether the library can use them: it needs letters that the vocabulary of some tokenizers lacks."""
    try:
        return bool(stop) and StopStringCriteria(tokenizer, stop) is not None
    except ValueError:
        return False


if __name__ == "__main__":
    serve(run)

"""The reference for outputs: losses on held-out rows, and the gap between a model's two likeliest tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.child import Job, serve
from selftaught.models.scoring import completion_logprobs
from selftaught.models.tokens import Codec


def held_out_loss(model_dir: str, pairs: Sequence[tuple[str, str]], *, device: str) -> float:
    """Mean loss per completion token (nats) in float32, under the model of a folder."""
    codec = Codec(model_dir)
    rows = [(codec.encode_prompt(prompt), codec.encode_completion(prompt, text)) for prompt, text in pairs]
    model = _load(model_dir, device)
    logprobs = completion_logprobs(model, rows, device=torch.device(device))
    losses = [-value for row in logprobs for value in row]
    return sum(losses) / len(losses)


@torch.inference_mode()
def top_two_gap(model: Any, ids: Sequence[int], *, device: str) -> float:
    """How much likelier (in logits) the likeliest next token is than the second, after these ids."""
    logits = model(torch.tensor([list(ids)], device=device), use_cache=False, logits_to_keep=1).logits[0, -1]
    first, second = logits.float().topk(2).values.tolist()
    return float(first - second)


def run(job: Job) -> dict[str, Any]:
    """job: model, device, threads; `contexts`, (prompt, generated ids) pairs, gives `gaps`; `held_out` gives `loss`."""
    torch.set_num_threads(job["threads"])
    result: dict[str, Any] = {}
    if job["contexts"]:
        codec, model = Codec(job["model"]), _load(job["model"], job["device"])
        result["gaps"] = [
            top_two_gap(model, [*codec.encode_prompt(prompt), *ids], device=job["device"])
            for prompt, ids in job["contexts"]
        ]
    if job["held_out"]:
        result["loss"] = held_out_loss(job["model"], job["held_out"], device=job["device"])
    return result


def _load(model_dir: str, device: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).to(device).eval()


if __name__ == "__main__":
    serve(run)

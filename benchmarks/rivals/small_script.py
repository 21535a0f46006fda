"""The small script: one STaR iteration as a competent user would write it in an hour, from `generate` and plain TRL.

Greedy generation in left-padded batches of 32 in the number type that is fast here, a regular expression for the
answer, SFTTrainer with its defaults. All of it is timed: loading, generating, hinting, training, saving.
"""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.child import Clock, Job, Laps, serve, work_of
from benchmarks.rivals.trl_sft import Times, fine_tune

BATCH = 32


def question(problem: dict[str, str], hint: bool) -> str:
    return f"Question: {problem['question']}" + (f" (The answer is {problem['answer']}.)" if hint else "") + "\nAnswer:"


def prompt(few_shot: list[dict[str, str]], problem: dict[str, str], hint: bool) -> str:
    examples = [question(e, hint) + f" {e['rationale']}\n#### {e['answer']}" for e in few_shot]
    return "\n\n".join([*examples, question(problem, hint)])


def is_correct(text: str, answer: str) -> bool:
    match = re.search(r"#### *(-?[0-9][0-9,]*(?:\.[0-9]+)?) *(?:\n|$)", text)
    return match is not None and match[1] == answer


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int) -> tuple[list[str], list[int]]:
    texts, tokens = [], []
    for i in range(0, len(prompts), BATCH):
        batch = tokenizer(prompts[i : i + BATCH], return_tensors="pt", padding=True).to(model.device)
        out = model.generate(
            **batch, do_sample=False, max_new_tokens=max_new_tokens, stop_strings=["\n\n"], tokenizer=tokenizer
        )
        new = out[:, batch["input_ids"].shape[1] :]
        tokens += (new != tokenizer.pad_token_id).sum(-1).tolist()
        texts += [t.split("\n\n")[0] for t in tokenizer.batch_decode(new, skip_special_tokens=True)]
    return texts, tokens


def run(job: Job) -> dict[str, Any]:
    """job: model, device, threads, dtype, few_shot, problems, max_new_tokens, steps, learning_rate, seed, trl."""
    torch.set_num_threads(job["threads"])
    out_dir, times = Path(job["folder"]) / "model", Times()
    with Clock() as clock:
        laps = Laps()
        tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
        model.to(job["device"])
        laps.lap("load")

        kept: list[tuple[str, str]] = []
        failed: list[dict[str, str]] = []
        generations: list[tuple[list[str], list[int]]] = []
        for hint in (False, True):
            problems = failed if hint else job["problems"]
            prompts = [prompt(job["few_shot"], p, hint) for p in problems]
            texts, tokens = generate(model, tokenizer, prompts, job["max_new_tokens"])
            generations.append((prompts, tokens))
            correct = [is_correct(text, p["answer"]) for p, text in zip(problems, texts, strict=True)]
            kept += [(question(p, False), t) for p, t, ok in zip(problems, texts, correct, strict=True) if ok]
            failed = [p for p, ok in zip(problems, correct, strict=True) if not ok]
            laps.lap("rationalization" if hint else "rationale")
        del model

        fine_tune(job["model"], kept, out_dir, job, callbacks=[times])
        laps.lap("train")
    return {
        **clock.record(),
        "laps": laps.seconds,
        "work": work_of(lambda text: list(tokenizer(text)["input_ids"]), generations, kept),
        "dtype": job["dtype"],
        "trained_tokens": times.steps[-1]["tokens"],
        "kept": len(kept),
        "still_failed": len(failed),
        "steps": times.steps,
        "out": str(out_dir),
    }


if __name__ == "__main__":
    serve(run)

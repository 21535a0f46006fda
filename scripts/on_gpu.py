#!/usr/bin/env python3
"""The steps of scripts/on_gpu.sh: tests on a GPU, then sampling and training of a model of 0.5 B beside other programs.

Each step is a process of its own with a time limit, so that one that fails or hangs costs only itself.
The model is made on the spot, with random weights and the shape of Qwen2.5-0.5B: speed and memory do not need others.
Operations are counted by benchmarks/flops.py; MFU is their rate as a share of PEAK_FLOPS.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_S = 470.0
"""For all steps together."""
PEAK_FLOPS = 989e12
"""Dense products in bfloat16 of an H100 SXM or an H200, by NVIDIA's data sheet."""
RESULT = "RESULT "

SHAPE = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
SMALL = {**SHAPE, "hidden_size": 56, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 512}
WORK = {"requests": 256, "shared": 800, "own": 120, "new": 128, "rows": 64, "steps": 6}
SMALL_WORK = {"requests": 16, "shared": 40, "own": 12, "new": 8, "rows": 8, "steps": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for on_gpu.json")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with a small model")
    parser.add_argument("--step", choices=STEPS, help="one step, in this process; `out` is the model's folder")
    given = parser.parse_args()
    job = Job(given.out, rehearsed=given.rehearse)
    if given.step:
        print(RESULT + json.dumps(STEPS[given.step][0](job)))
    else:
        run_steps(given.out / "on_gpu.json", rehearsed=given.rehearse)


def run_steps(path: Path, *, rehearsed: bool) -> None:
    """Every step, with what is left of the time; the file is written anew after each."""
    import torch

    began = time.monotonic()
    found: dict[str, Any] = {"rehearsed": rehearsed}

    def write() -> None:
        found["seconds"] = round(time.monotonic() - began, 1)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    if not rehearsed and not torch.cuda.is_available():
        found["skipped"] = f"torch {torch.__version__} sees no GPU here"
        write()
        print(f"skipped: {found['skipped']}; {path}")
        return
    with tempfile.TemporaryDirectory() as model:
        for name, (_, limit) in STEPS.items():
            left = LIMIT_S - (time.monotonic() - began)
            found[name] = step(name, model, min(limit, left), rehearsed) if left > 5 else {"error": "no time is left"}
            write()
            print(f"{name}: {json.dumps(found[name])[:600]}", flush=True)
    print(f"written: {path}")


def step(name: str, model: str, limit: float, rehearsed: bool) -> dict[str, Any]:
    """What a step says, or how it failed."""
    command = [sys.executable, __file__, model, "--step", name, *(["--rehearse"] if rehearsed else [])]
    began = time.monotonic()
    # A session of its own, so that what the step has started ends with it.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        return {"error": f"not done after {limit:.0f} s", "output": said[-3000:]}
    lines = [line for line in said.splitlines() if line.startswith(RESULT)]
    if process.returncode or not lines:
        return {"error": f"exit status {process.returncode}", "output": said[-3000:]}
    return {**json.loads(lines[-1][len(RESULT) :]), "wall_s": round(time.monotonic() - began, 1)}


class Job:
    """What the steps share: the model's folder, the device, the amount of work."""

    def __init__(self, folder: Path, *, rehearsed: bool) -> None:
        self.folder = folder
        self.rehearsed = rehearsed
        self.device: Any = "cpu" if rehearsed else "cuda"
        self.work = SMALL_WORK if rehearsed else WORK

    def prompts(self) -> list[str]:
        """Digits, each a token: a part that all share, and one of their own of unequal length."""
        head, own = "7" * self.work["shared"], self.work["own"]
        return [head + str(i % 10) * (own - i % (own // 4)) for i in range(self.work["requests"])]

    def peak(self) -> float | None:
        """GiB at the most that torch had of the GPU."""
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.device == "cuda" else None

    def wait(self) -> float:
        """The time, once the GPU has done all that it was given."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def machine(job: Job) -> dict[str, Any]:
    """Versions and the GPU; makes the model."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from selftaught.machine.versions import library_versions
    from selftaught.models.weights import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("builtin:adder").path)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    with torch.device(job.device):
        model = Qwen2ForCausalLM(Qwen2Config(**(SMALL if job.rehearsed else SHAPE), **ends)).to(torch.bfloat16)
    model.save_pretrained(job.folder)
    tokenizer.save_pretrained(job.folder)
    about: dict[str, Any] = {"versions": library_versions(), "parameters": model.num_parameters()}
    if job.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        about |= {"gpu": torch.cuda.get_device_name(0), "gpus": torch.cuda.device_count(), "cuda": torch.version.cuda}
        about |= {"free_gib": round(free / 2**30, 1), "total_gib": round(total / 2**30, 1)}
    return about


def tests(job: Job) -> dict[str, Any]:
    """pytest -m gpu: how many passed, and the failures' lines."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", "-m", "gpu", "-v", "-rfE"]
    chosen = ["-k", "killed"] if job.rehearsed else []
    env = {**os.environ, **({"SELFTAUGHT_TEST_DEVICE": "cpu"} if job.rehearsed else {})}
    process = subprocess.Popen(
        [*command, "--tb=short", *chosen, "tests/test_gpu.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )
    lines: list[str] = []
    for line in process.stdout or ():  # printed as it comes, so that a step that is cut off has told what it knew
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    return {"exit": process.wait(), "summary": lines[-1] if lines else "", "tail": "\n".join(lines)[-4000:]}


def sampling(job: Job) -> dict[str, Any]:
    """Greedy completions of all requests with the engine `local`, in slots; the second of two equal calls is timed."""
    from selftaught.engines.local.engine import LocalEngine, LocalSettings
    from selftaught.engines.local.settings import PREFILL_TOKENS, SLOTS
    from selftaught.records.samples import ModelRef, Request, SamplingParams

    notes: list[str] = []
    settings = LocalSettings(
        dtype="bfloat16",
        device=job.device,
        threads=4,
        slots=SLOTS[job.device],
        cache_bytes=16 << 30,
        prefill_tokens=PREFILL_TOKENS[job.device],
    )
    engine = LocalEngine(ModelRef(path=str(job.folder)), settings, note=notes.append)
    requests = [Request(prompt=text, seed=i) for i, text in enumerate(job.prompts())]
    params = SamplingParams(temperature=0.0, max_new_tokens=job.work["new"])
    list(engine.sample(requests[: len(requests) // 4], params))
    began = job.wait()
    completions = list(engine.sample(requests, params))
    return {**_generated(job, [c.num_tokens for c in completions], job.wait() - began), "notes": notes}


def sampling_by_generate(job: Job) -> dict[str, Any]:
    """The same requests by transformers' generate: one batch, padded on the left, with its key-value cache."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(job.folder, dtype=torch.bfloat16).to(job.device).eval()
    batch = tokenizer(job.prompts(), return_tensors="pt", padding=True).to(job.device)
    batch.pop("token_type_ids", None)
    new = job.work["new"]
    model.generate(**batch, do_sample=False, max_new_tokens=4)
    began = job.wait()
    out = model.generate(**batch, do_sample=False, max_new_tokens=new)
    seconds = job.wait() - began
    made = out[:, batch["input_ids"].shape[1] :]
    return _generated(job, [int((row != tokenizer.pad_token_id).sum()) for row in made], seconds)


def training(job: Job) -> dict[str, Any]:
    """Steps of the trainer `sft` in bfloat16 over float32 masters; the first two are not timed."""
    from selftaught.machine.devices import Machine
    from selftaught.models.shape import shape_of
    from selftaught.records.samples import ModelRef
    from selftaught.records.training import StepMetrics, Training, TrainingExample, TrainingPlan
    from selftaught.training.fitting import Rows
    from selftaught.training.sft import SftTrainer
    from selftaught.training.sft_config import SftConfig

    pairs = _pairs(job)
    examples = [
        TrainingExample(
            problem_id=str(i), prompt=prompt, completion=text, completion_ids=None, source="rationale", iteration=1
        )
        for i, (prompt, text) in enumerate(pairs)
    ]
    longest = max(len(prompt) + len(text) + 1 for prompt, text in pairs)
    rows = Rows(longest=longest, loss_tokens=job.work["new"] + 1, batch_size=job.work["rows"])
    machine_of_run = Machine(device=job.device, dtype="bfloat16", threads=4)
    shape = shape_of(str(job.folder))
    settings, fitted = SftConfig(batch_size=job.work["rows"], learning_rate=1e-5).fitted(
        rows, shape, machine_of_run, free=60 << 30
    )
    ended: list[float] = []
    losses: list[float] = []

    def on_step(metrics: StepMetrics) -> None:
        ended.append(job.wait())
        losses.append(metrics.loss)

    with tempfile.TemporaryDirectory() as out:
        plan = TrainingPlan(iteration=1, steps=job.work["steps"], seed=1, examples_sha256="x")
        start = ModelRef(path=str(job.folder))
        given = Training(examples=examples, validation=[], start=start, out_dir=Path(out), plan=plan)
        SftTrainer(settings, dtype="bfloat16", device=job.device, threads=4).fine_tune(given, on_step)
    forecast = round(fitted.forecast.needed / 2**30, 2) if fitted else None
    micro = settings.micro_batch_tokens
    return {**_trained(job, ended, losses), "forecast_gib": forecast, "micro_batch_tokens": micro}


def training_by_trl(job: Job) -> dict[str, Any]:
    """The same rows by TRL's SFTTrainer as its documentation shows it: bfloat16 autocast over float32 weights."""
    import torch
    from transformers import TrainerCallback

    from benchmarks.rivals.trl_sft import fine_tune

    ended: list[float] = []
    losses: list[float] = []

    class Times(TrainerCallback):  # type: ignore[misc]  # from a library without types
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                ended.append(job.wait())
                losses.append(float(logs["loss"]))

    in_one = min(16, job.work["rows"])
    batch = {
        "per_device_train_batch_size": in_one,
        "gradient_accumulation_steps": job.work["rows"] // in_one,
        "model_init_kwargs": {"dtype": torch.float32},
    }
    about = {"steps": job.work["steps"], "learning_rate": 1e-5, "seed": 1, "device": job.device, "dtype": "bfloat16"}
    with tempfile.TemporaryDirectory() as out:
        fine_tune(str(job.folder), _pairs(job), Path(out), {**about, "trl": batch}, callbacks=[Times()])
    return _trained(job, ended, losses)


def _pairs(job: Job) -> list[tuple[str, str]]:
    """Prompt and completion of a row."""
    own, new = job.work["own"], job.work["new"]
    return [(str(i % 10) * (own - i % (own // 4)), str((i + 1) % 10) * new) for i in range(job.work["rows"])]


def _generated(job: Job, tokens: list[int], seconds: float) -> dict[str, Any]:
    from benchmarks.flops import generation_flops, shape_of

    lengths = [len(text) for text in job.prompts()]
    flops = generation_flops(
        shape_of(str(job.folder)), shared_prefix=job.work["shared"], prompt_tokens=lengths, generated_tokens=tokens
    )
    return {
        "tokens": sum(tokens),
        "seconds": round(seconds, 3),
        "tokens_per_s": round(sum(tokens) / seconds),
        "mfu": round(flops / seconds / PEAK_FLOPS, 5),
        "peak_gib": job.peak(),
    }


def _trained(job: Job, ended: list[float], losses: list[float]) -> dict[str, Any]:
    from benchmarks.flops import shape_of, training_flops

    rows = [(len(prompt) + len(text) + 1, len(text) + 1) for prompt, text in _pairs(job)]
    flops = training_flops(
        shape_of(str(job.folder)), row_tokens=[row for row, _ in rows], loss_tokens=[loss for _, loss in rows]
    )
    timed = ended[-1] - ended[1]
    seconds = timed / (len(ended) - 2)
    return {
        "seconds_per_step": round(seconds, 4),
        "tokens_per_s": round(sum(row for row, _ in rows) / seconds),
        "mfu": round(flops / seconds / PEAK_FLOPS, 5),
        "peak_gib": job.peak(),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
    }


STEPS: dict[str, tuple[Callable[[Job], dict[str, Any]], float]] = {
    "machine": (machine, 60),
    "tests": (tests, 200),
    "sampling": (sampling, 70),
    "sampling_by_generate": (sampling_by_generate, 60),
    "training": (training, 70),
    "training_by_trl": (training_by_trl, 70),
}
"""In order, with the most seconds that each may take."""

if __name__ == "__main__":
    main()

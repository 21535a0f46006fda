"""selftaught's own generation and fine-tuning, opened as a run opens them.

The only file of the benchmarks that makes engines and trainers, from a config.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import Clock, Job, generated, serve
from selftaught.config.chat import resolve_chat
from selftaught.config.loading import config_from_values
from selftaught.config.resolving import Resolved, resolve
from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine
from selftaught.machine.opening import Opening
from selftaught.machine.workers import Worker, Workers
from selftaught.models.weights import resolve_model
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
)
from selftaught.records.seeds import seed_for
from selftaught.records.training import StepMetrics, Training, TrainingExample, TrainingPlan


def resolve_job(job: Job) -> tuple[RunConfig, ModelRef, Resolved]:
    """The job's config, its model and the resolved machine; job["settings"] are `section.key` values."""
    values = {
        "method": "custom",
        "model.path": job["model"],
        "task.name": "gsm8k",  # a config must name one; the job's problems are used
        "training.learning_rate": 2e-5,  # a config must give one; a generation does not use it
        "compute.device": job["device"],
        "compute.threads": job["threads"],
        **job["settings"],
    }
    config = config_from_values(values)
    model = resolve_model(config.model.path)
    return config, model, resolve(config, model, resolve_chat(config.model, Path(model.path)))


def opening_of(config: RunConfig, resolved: Resolved, workers: Sequence[Worker]) -> Opening:
    return resolved.opening(workers, trust_remote_code=config.model.trust_remote_code)


def generate(job: Job) -> dict[str, Any]:
    """job: model, device, threads, settings, prompts, warm_up, max_new_tokens, stop."""
    began = time.perf_counter()
    config, model, resolved = resolve_job(job)
    params = SamplingParams(temperature=0.0, max_new_tokens=job["max_new_tokens"], stop=tuple(job["stop"]))
    with Workers(resolved.workers - 1) as workers:
        engine = resolved.engine.opener(opening_of(config, resolved, workers))(model)
        load = time.perf_counter() - began
        began = time.perf_counter()
        _sample(engine, job["warm_up"], params, resolved.chunk_completions)
        warm_up = time.perf_counter() - began
        with Clock() as clock:
            completions = _sample(engine, job["prompts"], params, resolved.chunk_completions)
    rows = [{"ids": list(c.token_ids or ()), "text": c.text, "tokens": c.num_tokens} for c in completions]
    return generated(
        clock, rows, load_s=load, warm_up_s=warm_up, dtype=resolved.dtype, settings=resolved.model_dump(mode="json")
    )


def _sample(engine: Engine, prompts: Sequence[str], params: SamplingParams, chunk: int) -> list[Completion]:
    """Chunk by chunk, as the loop samples; in the order of the prompts."""
    completions: list[Completion] = []
    for first in range(0, len(prompts), chunk):
        requests = [
            Request(prompt=prompt, seed=seed_for("benchmark", first + i))
            for i, prompt in enumerate(prompts[first : first + chunk])
        ]
        completions += sorted(engine.sample(requests, params), key=lambda c: c.request)
    return completions


def fine_tune(job: Job) -> dict[str, Any]:
    """job: model, device, threads, settings, pairs, steps, seed, out_dir."""
    config, model, resolved = resolve_job(job)
    examples = [
        TrainingExample(
            problem_id=str(i), prompt=p, completion=c, completion_ids=None, source="human", iteration=1, index=0
        )
        for i, (p, c) in enumerate(job["pairs"])
    ]
    steps: list[dict[str, float]] = []
    out_dir = Path(job["folder"]) / "model"
    out_dir.mkdir()
    plan = TrainingPlan(iteration=1, steps=job["steps"], seed=job["seed"], examples_sha256="")

    def on_step(metrics: StepMetrics) -> None:
        steps.append({"at": time.perf_counter(), "tokens": metrics.tokens, "loss": metrics.loss})

    with Workers(resolved.workers - 1) as workers, Clock() as clock:
        trainer = config.training.opener(opening_of(config, resolved, workers))()
        trainer.fine_tune(Training(examples=examples, start=model, out_dir=out_dir, plan=plan), on_step)
    return {
        **clock.record(),
        "steps": steps,
        "dtype": resolved.dtype,
        "settings": resolved.model_dump(mode="json"),
        "out": str(out_dir),
    }


def run(job: Job) -> dict[str, Any]:
    return generate(job) if job["what"] == "generate" else fine_tune(job)


if __name__ == "__main__":
    serve(run)

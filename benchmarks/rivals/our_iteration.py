"""One STaR iteration by selftaught's own stages, on the task of this benchmark; without dev and test."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import Clock, Job, Laps, serve, work_of
from benchmarks.data import gsm8k_task, read_problems
from benchmarks.rivals.ours import opening_of, resolve_job
from selftaught.grading.references import check_reference_answers
from selftaught.machine.workers import Workers
from selftaught.methods.table import METHODS
from selftaught.models.tokens import Codec
from selftaught.prompts.rendering import prompt_text, render_prompt
from selftaught.records.events import Event, StepTaken
from selftaught.records.problems import Task, by_id
from selftaught.records.samples import Sample
from selftaught.records.training import TrainingExample
from selftaught.runs.store import RunStore
from selftaught.stages.lineage import Models
from selftaught.stages.sample import sample_iteration
from selftaught.stages.setup import Setup
from selftaught.stages.summary import Clock as StageClock
from selftaught.stages.train import fine_tune
from selftaught.training import sft  # noqa: F401 - imported before the clock starts, as the rival's libraries are


def run(job: Job) -> dict[str, Any]:
    """job: model, device, threads, settings, data, number."""
    task = gsm8k_task(read_problems(Path(job["data"]), "train"), job["number"])
    steps: list[dict[str, float]] = []

    def keep_steps(event: Event) -> None:
        if isinstance(event, StepTaken):
            metrics = event.metrics
            steps.append({"at": time.perf_counter(), "tokens": metrics.tokens, "loss": metrics.loss})

    run_dir = Path(job["folder"]) / "run"
    with Clock() as clock:
        laps = Laps()
        check_reference_answers(task, (*task.few_shot, *task.train))
        config, base, resolved = resolve_job(job)
        with RunStore(run_dir) as store, Workers(resolved.workers - 1) as workers:
            opening = opening_of(config, resolved, workers)
            setup = Setup(
                config=config,
                task=task,
                base=base,
                store=store,
                open_engine=resolved.engine.opener(opening),
                open_trainer=config.training.opener(opening),
                chunk=resolved.chunk_completions,
                method=METHODS[config.method].make(config, task),
                tell=keep_steps,
            )
            with Models(setup) as models:
                models.engine(base)
                laps.lap("load")
                stage_clock = StageClock(models)
                samples = sample_iteration(setup, models, 1, setup.method, stage_clock).samples
                laps.laps({name: stage_clock.seconds[name] for name in ("rationale", "rationalization")})
                chosen = setup.method.training_set(samples, ())
                checkpoint = fine_tune(setup, models, 1, chosen)
                laps.lap("train")
    rationales = [s for s in samples if s.kind == "rationale"]
    hinted = [s for s in samples if s.kind == "rationalization"]
    examples = chosen.examples
    kept = {e.problem_id for e in (*examples, *chosen.validation)}
    return {
        **clock.record(),
        "laps": laps.seconds,
        "work": _work(task, base.path, rationales, hinted, examples),
        "dtype": resolved.dtype,
        "trained_tokens": checkpoint.train.tokens,
        "kept": len(examples),
        "still_failed": len(setup.method.problems) - len(kept),
        "steps": steps,
        "settings": resolved.model_dump(mode="json"),
        "out": str(run_dir / checkpoint.path),
    }


def _work(
    task: Task,
    model: str,
    rationales: Sequence[Sample],
    hinted: Sequence[Sample],
    examples: Sequence[TrainingExample],
) -> dict[str, Any]:
    problems = by_id(task.train)
    generations = [
        (
            [
                prompt_text(
                    render_prompt(task.prompt_format, problems[s.problem_id], hint=hint, few_shot=task.few_shot)
                )
                for s in samples
            ],
            [s.num_tokens for s in samples],
        )
        for hint, samples in ((False, rationales), (True, hinted))
    ]
    return work_of(Codec(model).encode_prompt, generations, [(prompt_text(e.prompt), e.completion) for e in examples])


if __name__ == "__main__":
    serve(run)

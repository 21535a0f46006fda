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
from selftaught.models.tokens import Codec
from selftaught.prompts.rendering import render_prompt
from selftaught.records.problems import Task, by_id
from selftaught.records.progress import Silent
from selftaught.records.samples import Sample
from selftaught.records.training import StepMetrics, TrainingExample
from selftaught.runs.store import RunStore
from selftaught.stages.lineage import Models
from selftaught.stages.setup import Setup
from selftaught.stages.stages import (
    chosen_problems,
    failed_problems,
    fine_tune,
    sample_stage,
    select_and_write_left_out,
    training_examples,
    validation_examples,
)
from selftaught.training import sft  # noqa: F401 - imported before the clock starts, as the rival's libraries are


class Steps(Silent):
    """Keeps the steps of the training."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def step(self, metrics: StepMetrics) -> None:
        self.steps.append({"at": time.perf_counter(), "tokens": metrics.tokens, "loss": metrics.loss})


def run(job: Job) -> dict[str, Any]:
    """job: model, device, threads, settings, data, number."""
    task = gsm8k_task(read_problems(Path(job["data"]), "train"), job["number"])
    progress = Steps()
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
                progress=progress,
            )
            with Models(setup) as models:
                problems = chosen_problems(setup, 1)
                models.engine(base)
                laps.lap("load")
                rationales = sample_stage(setup, models, base, 1, "rationale", problems, hint=False)
                laps.lap("rationale")
                failed = failed_problems(setup, 1, problems, rationales)
                hinted = sample_stage(setup, models, base, 1, "rationalization", failed, hint=True)
                laps.lap("rationalization")
                selection = select_and_write_left_out(setup, 1, [*rationales, *hinted])
                examples = training_examples(config, task, 1, selection, problems)
                checkpoint = fine_tune(setup, models, 1, examples, validation_examples(setup, selection))
                laps.lap("train")
    return {
        **clock.record(),
        "laps": laps.seconds,
        "work": _work(task, base.path, rationales, hinted, examples),
        "dtype": resolved.dtype,
        "trained_tokens": checkpoint.train.tokens,
        "kept": len(examples),
        "still_failed": len(problems) - len(selection.kept),
        "steps": progress.steps,
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
                render_prompt(task.prompt_format, problems[s.problem_id], hint=hint, few_shot=task.few_shot)
                for s in samples
            ],
            [s.num_tokens for s in samples],
        )
        for hint, samples in ((False, rationales), (True, hinted))
    ]
    return work_of(Codec(model).encode_prompt, generations, [(e.prompt, e.completion) for e in examples])


if __name__ == "__main__":
    serve(run)

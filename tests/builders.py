"""Records with defaults, so that a test states only what matters to it; and a few helpers that tests share."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import selftaught
from selftaught.config.loading import config_from_values
from selftaught.config.settings import RunConfig
from selftaught.methods.metrics import wilson_interval
from selftaught.records.measurements import IterationSummary, Measurement, SamplingCounts
from selftaught.records.problems import (
    CheckResult,
    Problem,
    Task,
    Verdict,
)
from selftaught.records.samples import Kind, Sample
from selftaught.records.training import Checkpoint, StepMetrics, TrainingSummary
from selftaught.tasks import load_task
from selftaught.tasks.settings import TaskConfig

TESTS = Path(__file__).parent
CASES = TESTS / "cases"
GOLDEN = TESTS / "golden"
PACKAGE = Path(selftaught.__file__).parent
PATIENCE_S = 1_800
"""How long a test waits for a process that takes seconds on a quiet machine, before it says that it hangs."""


def problem(id: str = "p1", **fields: Any) -> Problem:
    return Problem(**{"id": id, "question": f"what is {id}?", "answer": "3", **fields})


def problems(*ids: str, **fields: Any) -> tuple[Problem, ...]:
    return tuple(problem(id, **fields) for id in ids)


def few_shot_example(id: str = "s1", **fields: Any) -> Problem:
    """A problem with a rationale."""
    return problem(id, **{"rationale": f"because of {id}", **fields})


def sample(problem_id: str = "p1", **fields: Any) -> Sample:
    """A correct, complete sample without a hint; fields replace these defaults."""
    values: dict[str, Any] = {
        "problem_id": problem_id,
        "iteration": 1,
        "kind": "rationale",
        "index": 0,
        "seed": 7,
        "prompt_sha256": "0123456789abcdef",
        "weights_sha256": None,
        "checkpoint": None,
        "completion": " <r>one and two</r>\n3",
        "token_ids": None,
        "num_tokens": 9,
        "finish_reason": "end",
        "logprob": -1.5,
        "verdict": Verdict.CORRECT,
        "checks": {},
        **fields,
    }
    if "prediction" not in values:
        values["prediction"] = {Verdict.CORRECT: "3", Verdict.INCORRECT: "4"}.get(values["verdict"])
    return Sample(**values)


def samples_of(problem_id: str, verdicts: str, *, kind: Kind = "rationale", iteration: int = 1) -> list[Sample]:
    """One distinct sample per letter: c(orrect), i(ncorrect), u(nparseable)."""
    verdict_of = {"c": Verdict.CORRECT, "i": Verdict.INCORRECT, "u": Verdict.UNPARSEABLE}
    return [
        sample(problem_id, index=k, verdict=verdict_of[letter], completion=f"{k}", kind=kind, iteration=iteration)
        for k, letter in enumerate(verdicts)
    ]


def steps_check(*, passed: bool) -> dict[str, CheckResult]:
    return {"steps": CheckResult(passed=passed, share=1.0 if passed else 0.5, detail="" if passed else "line 2: digit")}


def counts(**fields: Any) -> SamplingCounts:
    return SamplingCounts(
        **{
            "samples": 100,
            "correct": 60,
            "incorrect": 40,
            "unparseable": 0,
            "truncated": 0,
            "false_positive": None,
            **fields,
        }
    )


def measurement(correct: int = 50, n: int = 100, **fields: Any) -> Measurement:
    return Measurement(
        **{
            "task": "toy",
            "split": "dev",
            "iteration": 1,
            "num_shots": 0,
            "temperature": 0.0,
            "num_samples": 1,
            "n": n,
            "correct": correct,
            "accuracy": correct / n,
            "interval": wilson_interval(correct, n),
            "by_class": {},
            "unparseable": 0,
            "truncated": 0,
            "false_positive": None,
            **fields,
        }
    )


def training_summary(**fields: Any) -> TrainingSummary:
    return TrainingSummary(
        **{
            "steps": 40,
            "tokens": 1000,
            "seconds": 1.5,
            "first_loss": 2.0,
            "last_loss": 0.1,
            "validation_loss": None,
            "dev_answer_loss": 0.2,
            **fields,
        }
    )


def checkpoint(iteration: int = 1, **fields: Any) -> Checkpoint:
    return Checkpoint(
        **{
            "iteration": iteration,
            "path": f"checkpoints/{iteration:03d}",
            "sha256": "ab",
            "started_from": "base",
            "started_from_sha256": None,
            "examples": 3,
            "examples_sha256": "cd",
            "seed": 1,
            "train": training_summary(),
            **fields,
        }
    )


def summary(iteration: int = 1, **fields: Any) -> IterationSummary:
    return IterationSummary(
        **{
            "iteration": iteration,
            "rationale": counts(),
            "rationalization": counts(samples=40, correct=10, incorrect=30),
            "examples": 70,
            "examples_by_source": {"rationale": 60, "rationalization": 10},
            "validation_examples": 0,
            "left_out": {"incorrect": 70},
            "train": training_summary(),
            "dev": measurement(),
            "seconds": {"train": 1.5},
            "tokens_per_s": {"train": 666.7},
            "work_s": {"sampling": 0.5, "training": 0.75, "loading": 0.125, "other": 0.125},
            **fields,
        }
    )


def step_metrics(step: int = 1, **fields: Any) -> StepMetrics:
    values = {"step": step, "loss": 1.0, "learning_rate": 1e-3, "grad_norm": 0.5, "seconds": 0.1, "tokens": 64}
    return StepMetrics(**{**values, **fields})


LEAST = {"model.path": "builtin:adder", "task.name": "arithmetic", "training.learning_rate": 1e-3}
"""The settings that every config must give."""


def config(**sections: Mapping[str, Any]) -> RunConfig:
    """A config of method `custom` with defaults: config(sampling={"num_samples": 4})."""
    values = {f"{section}.{key}": value for section, given in sections.items() for key, value in given.items()}
    return config_from_values({**LEAST, "method": "custom", **values})


@cache
def arithmetic(variant: str | None = None, data_seed: int = 0) -> Task:
    """The shipped task, loaded once per process."""
    return task_named("arithmetic", variant=variant, data_seed=data_seed)


def json_case(name: str) -> Any:
    return json.loads((CASES / name).read_text(encoding="utf-8"))


def task_settings(name: str, **settings: Any) -> TaskConfig:
    """The section [task] for a task."""
    return config(task={"name": name, **settings}).task


def task_named(name: str, **settings: Any) -> Task:
    return load_task(task_settings(name, **settings))


def run_python(code: str, *args: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program in a new process that imports the package under test."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{TESTS}", **(env or {})},
    )


def output_of(code: str, *args: object, env: Mapping[str, str] | None = None) -> str:
    """What a program prints; fails if the program fails."""
    process = run_python(code, *args, env=env)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()

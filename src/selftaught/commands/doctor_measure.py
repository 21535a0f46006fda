"""Seconds of the real work of a run: its prompts sampled by its engine, its rows trained on by its trainer."""

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

from selftaught.commands.evaluate import opened_engine
from selftaught.config.resolving import Resolved
from selftaught.config.settings import RunConfig
from selftaught.machine.memory import return_freed_memory
from selftaught.machine.workers import Workers
from selftaught.methods.metrics import counter_for
from selftaught.methods.plan import choose_problems, planned_samples, problems_to_hint, solved_ids, steps_for
from selftaught.methods.training_set import examples_from_samples, examples_from_solutions, rehearsed_examples
from selftaught.records.measurements import SamplingCounts
from selftaught.records.problems import Problem, Task, Verdict, by_id
from selftaught.records.samples import Kind, ModelRef, Request, Sample
from selftaught.records.seeds import seed_for
from selftaught.records.training import StepMetrics, Training, TrainingExample, TrainingPlan
from selftaught.stages.sampling import Sampling, generate_chunk, measured_problems, passes_of_run, sampling_spec
from selftaught.training.trainer import Trainer

QUICK_S = 3.0
"""Sampling that took less is timed once more on as many problems as a run samples at a time: so few keep no machine
busy."""
ENOUGH_S = 8.0
"""Training is timed until so many seconds have passed, but for two steps at least."""
MOST_STEPS = 8
"""That are timed, after the first one, which is slower."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Completions that were generated together."""

    tokens: tuple[int, ...]
    """Of each."""
    seconds: float

    @property
    def completions(self) -> int:
        return len(self.tokens)

    @property
    def each(self) -> float:
        """Seconds of one, among as many as were generated at a time."""
        return self.seconds / len(self.tokens) if self.tokens else 0.0

    @property
    def median_tokens(self) -> float:
        return median(self.tokens) if self.tokens else 0.0

    @property
    def tokens_per_s(self) -> float:
        return sum(self.tokens) / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class Stage:
    """The samples of one kind, and what was timed of it."""

    samples: tuple[Sample, ...]
    timed: Timed

    def counts(self, task: Task) -> SamplingCounts:
        counter = counter_for(task)
        counter.add(self.samples)
        return counter.counts()


@dataclass(frozen=True, slots=True)
class Steps:
    """Optimizer steps that were timed."""

    number: int
    seconds: float
    tokens: int
    rows: int
    """Different ones."""

    @property
    def each(self) -> float:
        return self.seconds / self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    rationale: Stage
    rationalization: Stage | None
    """None for a method without hints."""


def at_a_time(resolved: Resolved) -> int:
    """Completions that a run generates together, at most."""
    return min(resolved.chunk_completions, resolved.engine.completions_at_a_time(resolved.machine))


def sample(config: RunConfig, task: Task, base: ModelRef, resolved: Resolved, number: int) -> Sampled:
    """One completion for each of so many training problems as iteration 1 would choose them, and one with a hint for
    those that failed, by the engine of the run."""

    def chosen_problems(number: int) -> list[Problem]:
        return choose_problems(
            task.train, how=config.task.choose, number=number, solved=frozenset(), seed=config.seed, iteration=1
        )

    problems, many = chosen_problems(number), chosen_problems(at_a_time(resolved))
    with opened_engine(resolved, config, base) as engine:

        def stage(kind: Kind, chosen: Sequence[Problem], *, temperature: float) -> Stage:
            again = kind == "rationalization"
            shots = config.sampling.num_shots
            spec = sampling_spec(config, task, num_shots=shots, temperature=temperature, again=again)
            sampling = Sampling(
                task=task, problems=by_id(task.train), model=base, spec=spec, iteration=1, run_seed=config.seed
            )
            # What is compiled or loaded at the first use, in any of the processes, is not timed.
            first = [Request(prompt=prompt, seed=0) for prompt in spec.prompts(task, many[: 2 * resolved.workers])]
            list(engine.sample(first, replace(spec.params, max_new_tokens=2)))

            def generated(problems: Sequence[Problem]) -> tuple[tuple[Sample, ...], Timed]:
                planned = planned_samples(problems, kind=kind, num_samples=1)
                samples: list[Sample] = []
                began = time.monotonic()
                while plans := tuple(islice(planned, resolved.chunk_completions)):
                    samples += generate_chunk(engine, sampling, plans)
                return tuple(samples), Timed(tuple(s.num_tokens for s in samples), time.monotonic() - began)

            samples, timed = generated(chosen)
            if samples and timed.seconds < QUICK_S and len(many) > len(chosen):
                timed = generated(many)[1]
            return Stage(samples, timed)

        rationale = stage("rationale", problems, temperature=config.sampling.temperature)
        if config.rationalization.hints == "none":
            return Sampled(rationale=rationale, rationalization=None)
        failed = problems_to_hint(problems, solved_ids(rationale.samples))
        hinted = stage("rationalization", failed, temperature=config.rationalization.temperature)
        return Sampled(rationale=rationale, rationalization=hinted)


def rows_like_a_runs(config: RunConfig, task: Task, sampled: Sampled) -> list[TrainingExample]:
    """Rows to time a training on: what was accepted, with the rehearsed examples and human solutions that the config
    adds; where that is less than one batch, the few-shot examples and whatever else the model wrote to its end."""
    stages = (sampled.rationale, sampled.rationalization)
    samples = [s for stage in stages if stage is not None for s in stage.samples]
    problems, fmt = by_id(task.train), task.prompt_format
    accepted = [s for s in samples if s.verdict is Verdict.CORRECT and s.finish_reason != "length"]
    rows = examples_from_samples(accepted if config.training.target == "rationale" else (), problems, fmt)
    with_hints = config.rationalization.gives_hints
    rehearsed = task.few_shot[: config.training.num_rehearsed]
    rows += rehearsed_examples(rehearsed, fmt, with_hints=with_hints, iteration=1)
    if config.training.human_solutions or config.training.target == "answer":
        of_samples = [problems[s.problem_id] for s in sampled.rationale.samples]
        solved = [p for p in of_samples if p.rationale]
        if config.training.target == "answer":
            solved = [replace(p, rationale="") for p in of_samples]
        rows += examples_from_solutions(solved, fmt, iteration=1)
    if len(rows) < config.training.batch_size:
        rows += examples_from_solutions(task.few_shot, fmt, iteration=1)
    if len(rows) < config.training.batch_size:
        others = [s for s in samples if s.completion.strip() and s not in accepted and s.finish_reason != "length"]
        rows += examples_from_samples(others, problems, fmt)
    return rows


def time_steps(config: RunConfig, base: ModelRef, resolved: Resolved, rows: Sequence[TrainingExample]) -> Steps | None:
    """Real optimizer steps of the run's trainer on these rows, dropped when they are timed; None for a trainer that
    takes no steps, and without rows."""
    settings = resolved.training or config.training
    if not rows or settings.name == "none":
        return None
    seen: list[StepMetrics] = []

    def on_step(metrics: StepMetrics) -> None:
        seen.append(metrics)
        timed = len(seen) - 1
        if timed >= MOST_STEPS or (timed >= 2 and metrics.seconds - seen[0].seconds > ENOUGH_S):
            raise _Enough

    plan = TrainingPlan(
        iteration=1, steps=2 * MOST_STEPS, seed=seed_for(config.seed, 1, "training"), examples_sha256=""
    )
    with Workers(resolved.workers - 1) as workers, tempfile.TemporaryDirectory() as folder:
        opening = resolved.opening(workers, trust_remote_code=config.model.trust_remote_code)
        training = Training(examples=rows, start=base, out_dir=Path(folder), plan=plan)
        _until_enough(settings.opener(opening)(), training, on_step)
    gc.collect()  # the trainer and its parts refer to each other
    return_freed_memory()
    timed = seen[1:]
    if not timed:
        return None
    seconds, tokens = timed[-1].seconds - seen[0].seconds, timed[-1].tokens - seen[0].tokens
    return Steps(len(timed), seconds, tokens, len(rows))


class _Enough(Exception):
    """Enough steps were timed."""


def _until_enough(trainer: Trainer, training: Training, on_step: Callable[[StepMetrics], None]) -> None:
    try:
        trainer.fine_tune(training, on_step)
    except _Enough:
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What iteration 1 does, and a run at most, if all goes as on the sampled problems."""

    completions: Mapping[str, int]
    """By stage: rationale, rationalization, dev."""
    kept: float
    """Rationales."""
    steps: int
    """Of iteration 1."""
    all_steps: int
    """Of all iterations, at most."""
    test: int
    """Completions at the end of the run, and those for pass@k, at most."""
    iterations: int

    def seconds(self, sampled: Sampled, steps: Steps | None) -> dict[str, float]:
        """Of iteration 1, by stage."""
        rationale = sampled.rationale.timed
        hinted = sampled.rationalization.timed if sampled.rationalization else rationale
        if 2 * hinted.completions < rationale.completions:
            hinted = rationale  # few at a time share the pass over the few-shot examples among few
        each = {"rationale": rationale.each, "rationalization": hinted.each, "dev": rationale.each}
        return {
            **{stage: each[stage] * number for stage, number in self.completions.items()},
            "training": self.steps * steps.each if steps else 0.0,
        }

    def seconds_of_run(self, sampled: Sampled, steps: Steps | None) -> float:
        """Of the whole run, at most: the base model is measured on dev, too, and two models on test."""
        of_one = self.seconds(sampled, steps)
        sampling = self.iterations * sum(s for stage, s in of_one.items() if stage != "training") + of_one["dev"]
        test = self.test * sampled.rationale.timed.each
        return sampling + test + (self.all_steps * steps.each if steps else 0.0)


def plan_of(config: RunConfig, task: Task, sampled: Sampled) -> Plan:
    """The plan of a config, with the rates of what was sampled."""
    training, wanted = config.training, config.task.problems_per_iteration
    problems = len(task.train) if isinstance(wanted, str) else min(wanted, len(task.train))
    per_problem = config.sampling.num_samples
    r = sampled.rationale.counts(task)
    rate = r.correct / max(1, r.samples)
    hinted, kept = 0, problems * per_problem * rate
    if sampled.rationalization is not None and per_problem:
        h = sampled.rationalization.counts(task)
        hinted = round(problems * (1.0 - rate) ** per_problem)
        wrong = (h.false_positive or 0) if "steps" in config.selection.require_hinted else 0
        kept += hinted * (h.correct - wrong) / max(1, h.samples)
    rehearsed = training.num_rehearsed * (2 if sampled.rationalization is not None else 1)
    fixed = rehearsed + (problems if training.human_solutions or training.target == "answer" else 0)

    def steps(n: int) -> int:
        rows = kept * (n if training.window == "all" else 1) + fixed
        return steps_for(n, training, num_examples=max(1, round(rows)))

    iterations = config.loop.max_iterations
    first = training.steps_first_iteration if training.sft_first else 0
    return Plan(
        completions={
            "rationale": problems * per_problem,
            "rationalization": hinted,
            "dev": len(measured_problems(config, task, "dev")),
        },
        kept=kept,
        steps=steps(1),
        all_steps=first + sum(map(steps, range(1, iterations + 1))),
        test=2 * sum(len(measured_problems(config, task, split)) for split in ("test", "extrapolation"))
        + passes_of_run(config, task),
        iterations=iterations,
    )

"""The doctor's parts that are measured: the time of an iteration, and whether a run is worth starting."""

from collections.abc import Callable, Iterator
from typing import Any

from selftaught.commands.doctor_advice import Sampled as Facts
from selftaught.commands.doctor_advice import advice
from selftaught.commands.doctor_measure import (
    Plan,
    Sampled,
    Stage,
    Steps,
    at_a_time,
    plan_of,
    rows_like_a_runs,
    sample,
    time_steps,
)
from selftaught.commands.doctor_text import Part, duration, joined, number, plain
from selftaught.config.resolving import Resolved
from selftaught.config.settings import RunConfig
from selftaught.methods.hints import AGAIN
from selftaught.methods.metrics import rate, rate_text
from selftaught.records.errors import SelftaughtError
from selftaught.records.measurements import SamplingCounts
from selftaught.records.problems import ChatFormat, Task
from selftaught.records.samples import ModelRef


def measured_parts(
    config: RunConfig, task: Task, base: ModelRef, resolved: Resolved, problems: int, note: Callable[[str], None]
) -> Iterator[Part]:
    """Time, and whether it is worth starting; both from the same samples of training problems."""
    problems = min(problems, len(task.train))
    note(f"sampling {problems} training problems …")
    try:
        sampled = sample(config, task, base, resolved, problems)
    except SelftaughtError as error:
        yield Part(name="time", title="Time", refusals=(str(error),))
        return
    note("timing a few optimizer steps …")
    refusals: list[str] = []
    steps = None
    try:
        steps = time_steps(config, base, resolved, rows_like_a_runs(config, task, sampled))
    except SelftaughtError as error:
        refusals.append(str(error))
    plan = plan_of(config, task, sampled)
    yield _time_part(config, resolved, sampled, steps, plan, tuple(refusals))
    yield _worth_part(config, task, sampled, plan)


def _time_part(
    config: RunConfig, resolved: Resolved, sampled: Sampled, steps: Steps | None, plan: Plan, refusals: tuple[str, ...]
) -> Part:
    lines = [_stage_line("without a hint", sampled.rationale)]
    if sampled.rationalization is not None and sampled.rationalization.samples:
        lines.append(_stage_line(AGAIN[config.rationalization.shows], sampled.rationalization))
    if steps is not None:
        lines.append(
            f"training: {steps.number} steps of {config.training.batch_size} rows after a first one, of {steps.rows} "
            f"different ones, in {duration(steps.seconds)}: {duration(steps.each)} a step, "
            f"{number(steps.tokens / max(steps.seconds, 1e-9))} tokens/s"
        )
    elif not refusals:
        lines.append("training: takes no steps")
    seconds = plan.seconds(sampled, steps)
    parts = [
        *(f"{n:,} {stage} {duration(seconds[stage])}" for stage, n in plan.completions.items() if n),
        *([f"{plan.steps:,} optimizer steps {duration(seconds['training'])}"] if steps else []),
    ]
    together, timed = at_a_time(resolved), sampled.rationale.timed.completions
    about = "at most about" if timed < together else "about"
    lines.append(f"iteration 1: {about} {duration(sum(seconds.values()))}: {joined(parts)}")
    whole = plan.seconds_of_run(sampled, steps)
    lines.append(
        f"the run: about {duration(whole)} at most, with {plan.iterations} iterations, {plan.all_steps:,} optimizer "
        f"steps in all, and {plan.test:,} test completions"
    )
    lines.append(
        "assumed: all problems and later models are like these; loading, checking and other programs are left out"
        + (
            f"; {timed} completions at a time, where a run has up to {together}, each of which takes a fraction of "
            f"that (--problems {together} times it)"
            if timed < together
            else ""
        )
    )
    facts: dict[str, Any] = {
        "sampling": _stage_facts(sampled.rationale),
        "sampling_hinted": _stage_facts(sampled.rationalization),
        "step_seconds": steps.each if steps else None,
        "training_tokens_per_s": steps.tokens / max(steps.seconds, 1e-9) if steps else None,
        "iteration": {"completions": dict(plan.completions), "steps": plan.steps, "seconds": seconds},
        "run_seconds": whole,
    }
    return Part(name="time", title="Time", lines=plain(*lines), facts=facts, refusals=refusals)


def _stage_line(how: str, stage: Stage) -> str:
    timed = stage.timed
    return (
        f"sampling {how}: {timed.completions} completions of {timed.median_tokens:.0f} tokens (median) in "
        f"{duration(timed.seconds)}: {duration(timed.each)} each, {number(timed.tokens_per_s)} tokens/s"
    )


def _stage_facts(stage: Stage | None) -> dict[str, Any] | None:
    if stage is None or not stage.samples:
        return None
    return {
        "completions": stage.timed.completions,
        "median_tokens": stage.timed.median_tokens,
        "seconds": stage.timed.seconds,
        "tokens_per_s": stage.timed.tokens_per_s,
    }


def _worth_part(config: RunConfig, task: Task, sampled: Sampled, plan: Plan) -> Part:
    r = sampled.rationale.counts(task)
    h = sampled.rationalization.counts(task) if sampled.rationalization is not None else None
    wanted = config.task.problems_per_iteration
    sentence = advice(
        Facts(
            rationale=r,
            rationalization=h,
            max_new_tokens=config.sampling.max_new_tokens,
            num_shots=config.sampling.num_shots,
            task_shots=len(task.few_shot),
            is_chat=isinstance(task.prompt_format, ChatFormat),
            has_instruction="instruction" in type(config.task).model_fields,
            shows=config.rationalization.shows,
            requires_steps="steps" in config.selection.require_hinted,
            trains_on_samples=bool(config.sampling.num_samples),
            kept=plan.kept,
            batch_size=config.training.batch_size,
            problems=len(task.train) if isinstance(wanted, str) else wanted,
        )
    )
    lines = [f"without a hint: {_counts_text(r, config)}"]
    if h is None:
        lines.append("with a hint: the method uses none")
    elif h.samples:
        lines.append(f"the failed ones {AGAIN[config.rationalization.shows]}: {_counts_text(h, config)}")
    lines.append(f"→ {sentence}")
    facts = {"rationale": _counts_facts(r), "rationalization": _counts_facts(h) if h else None, "advice": sentence}
    return Part(name="worth", title="Worth starting", lines=plain(*lines), facts=facts)


def _counts_text(counts: SamplingCounts, config: RunConfig) -> str:
    ended = counts.samples - counts.truncated
    parts = [
        f"{rate_text(rate(counts.correct, counts.samples))} correct",
        f"{ended} end",
        f"{counts.truncated} truncated at {config.sampling.max_new_tokens} tokens",
        f"{counts.unparseable} unparseable",
    ]
    if counts.false_positive is not None and counts.correct:
        parts.append(f"{counts.false_positive} of the correct ones fail the step check")
    return ", ".join(parts)


def _counts_facts(counts: SamplingCounts) -> dict[str, Any]:
    found = rate(counts.correct, counts.samples)
    return {
        "n": counts.samples,
        "correct": counts.correct,
        "accuracy": found.accuracy,
        "interval": list(found.interval),
        "truncated": counts.truncated,
        "unparseable": counts.unparseable,
        "false_positive": counts.false_positive,
    }

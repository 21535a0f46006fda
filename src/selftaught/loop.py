"""STaR, Algorithm 1 of Zelikman et al. 2022 (arXiv 2203.14465), and its siblings: the outer loop and nothing else.

Knows the seams Engine and Trainer, never a library behind them. Everything that is finished is on disk; a run that
is started again computes what is still owed and does only that.

Deviations from the paper: only failed problems are hinted (as in the authors' code), and the base model competes on
dev too, so that a run never ships something worse than what it started from.
"""

from dataclasses import dataclass

from selftaught.checks.health import warnings_for
from selftaught.lineage import Models
from selftaught.metrics import count_samples
from selftaught.plan import best_iteration, has_plateaued, problems_to_hint
from selftaught.records import IterationSummary, Measurement
from selftaught.selection import select
from selftaught.setup import Setup
from selftaught.stages import (
    Clock,
    chosen_problems,
    draw_stage,
    earlier_samples,
    fine_tune,
    fine_tune_on_solutions,
    measure_split,
    tally,
    training_examples,
)
from selftaught.store import read_summaries


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    summaries: tuple[IterationSummary, ...]
    base_dev: Measurement
    best: int
    """The iteration whose model is the result; 0 is the base model."""
    measured: dict[str, tuple[Measurement, Measurement]]
    """Split -> (base model, best model), for test and extrapolation."""


def run(setup: Setup) -> Outcome:
    """The whole of STaR: iterate until dev stops rising, then measure the best model on test, once."""
    with Models(setup) as models:
        base_dev = measure_split(setup, models, setup.base, "dev")
        if setup.config.training.sft_first:
            fine_tune_on_solutions(setup, models)
        summaries = read_summaries(setup.store.dir)
        for n in range(1, setup.config.loop.max_iterations + 1):
            accuracies = [base_dev.accuracy, *(s.dev.accuracy for s in summaries[: n - 1])]
            if has_plateaued(accuracies, patience=setup.config.loop.patience, min_delta=setup.config.loop.min_delta):
                summaries = summaries[: n - 1]
                break
            if n > len(summaries):
                dev_before = summaries[-1].dev if summaries else base_dev
                summaries.append(run_iteration(n, setup, models, dev_before))
        best = best_iteration([base_dev.accuracy, *(s.dev.accuracy for s in summaries)])
        measured = {
            split: (
                measure_split(setup, models, setup.base, split),
                measure_split(setup, models, models.of(best), split),
            )
            for split in ("test", "extrapolation")
            if setup.task.split(split)
        }
    return Outcome(summaries=tuple(summaries), base_dev=base_dev, best=best, measured=measured)


def run_iteration(n: int, setup: Setup, models: Models, dev_before: Measurement) -> IterationSummary:
    """One pass: draw, hint the failures and draw again, keep what is right, fine-tune, measure on dev."""
    config, clock = setup.config, Clock()
    model = models.before(n)
    problems = chosen_problems(setup, n)

    rationales = draw_stage(setup, models, model, n, "rationale", problems, hint=False)
    clock.lap("rationale", sum(s.num_tokens for s in rationales))
    failed = problems_to_hint(
        problems,
        rationales,
        probability=config.rationalization.probability if config.rationalization.hints == "failed" else 0.0,
        seed=config.seed,
        iteration=n,
    )
    rationalizations = draw_stage(setup, models, model, n, "rationalization", failed, hint=True)
    clock.lap("rationalization", sum(s.num_tokens for s in rationalizations))

    selection = select(
        [*earlier_samples(setup, n), *rationales, *rationalizations],
        accept=config.selection.accept,
        unique_by=config.selection.unique_by,
        max_per_problem=config.selection.max_per_problem,
        validation_share=config.training.validation_share,
        seed=config.seed,
    )
    examples = training_examples(setup, n, selection, problems)
    checkpoint = fine_tune(setup, models, n, examples, selection)
    clock.lap("train", checkpoint.train.tokens)
    dev = measure_split(setup, models, models.of(n), "dev")
    clock.lap("dev", dev.tokens)

    has_steps = setup.task.check_steps is not None
    counts = count_samples(rationales, has_step_check=has_steps)
    hinted = count_samples(rationalizations, has_step_check=has_steps)
    by_source = tally(e.source for e in examples)
    summary = IterationSummary(
        iteration=n,
        rationale=counts,
        rationalization=hinted,
        examples=len(examples),
        examples_by_source=by_source,
        validation_examples=len(selection.held_out),
        left_out=tally(item.reason for item in selection.left_out),
        train=checkpoint.train,
        dev=dev,
        seconds=clock.seconds,
        tokens_per_s=clock.tokens_per_s(),
        warnings=warnings_for(
            rationale=counts,
            rationalization=hinted,
            examples_by_source=by_source,
            batch_size=config.training.batch_size,
            dev=dev,
            dev_before=dev_before,
        ),
    )
    setup.store.finish_iteration(summary)
    setup.progress.iteration_done(summary)
    return summary

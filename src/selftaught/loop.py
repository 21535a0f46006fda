"""STaR, Algorithm 1 of Zelikman et al. 2022 (arXiv 2203.14465), and related methods: the outer loop and nothing else.

It knows the protocols Engine and Trainer, never a library behind them. Everything finished is on disk, and a run that
is started again does only what is still missing.

Deviations from the paper: only failed problems get a hint (as in the authors' code), and the base model is compared on
dev too, so that the result of a run is never worse on dev than the model it started from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selftaught.methods.plan import best_iteration, has_plateaued, weights_to_keep
from selftaught.records.errors import NothingAccepted
from selftaught.records.events import IterationEnded, Note
from selftaught.records.measurements import IterationSummary, Measurement
from selftaught.runs.reading import read_summaries
from selftaught.stages.lineage import Models
from selftaught.stages.sample import measure_passes, measure_split, recall, sample_iteration, samples_before
from selftaught.stages.setup import Setup
from selftaught.stages.summary import Clock, Counted, Measured, summarize
from selftaught.stages.train import fine_tune, fine_tune_on_solutions


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    summaries: tuple[IterationSummary, ...]
    base_dev: Measurement
    best: int
    """The iteration whose model is the result; 0 is the base model."""
    measured: dict[str, tuple[Measurement, ...]]
    """Split -> (base model, best model), or the base model alone if it is the best; for test and extrapolation."""
    last: Measurement | None
    """The model of the last iteration on test; None unless `loop.test_last`."""
    work_s: Mapping[str, float]
    """Seconds of this process by kind of work (`Clock.work_s`)."""


def run(setup: Setup) -> Outcome:
    """Iterate until accuracy on dev stops rising, then measure the best model on test, once."""
    loop = setup.config.loop
    with Models(setup) as models:
        clock = Clock(models)
        base_dev = measure_split(setup, models, setup.base, "dev")
        measure_passes(setup, models, setup.base)
        if setup.config.training.sft_first:
            fine_tune_on_solutions(setup, models)
        summaries = read_summaries(setup.store.dir)
        dev = [base_dev, *(s.dev for s in summaries)]
        keep_weights(setup, dev)  # a kill may have come before it
        recall(setup, setup.method, range(1, len(dev)))
        while len(summaries) < loop.max_iterations and not has_plateaued(
            [m.accuracy for m in dev], patience=loop.patience
        ):
            try:
                summaries.append(run_iteration(len(dev), setup, models, dev_before=dev[-1]))
            except NothingAccepted as error:
                if not summaries:
                    raise
                setup.tell(Note(text=f"the loop ends here: {error}"))
                break
            dev.append(summaries[-1].dev)
            keep_weights(setup, dev)
        best = best_iteration([m.accuracy for m in dev])
        if best:
            measure_passes(setup, models, models.of(best))
        contenders = (setup.base, models.of(best)) if best else (setup.base,)
        measured = {
            split: tuple(measure_split(setup, models, model, split) for model in contenders)
            for split in ("test", "extrapolation")
            if setup.task.split(split)
        }
        last = None
        if loop.test_last:
            tested = dict(zip((0, best), measured["test"], strict=False))
            last = tested.get(len(dev) - 1) or measure_split(setup, models, models.of(len(dev) - 1), "test")
    return Outcome(
        summaries=tuple(summaries), base_dev=base_dev, best=best, measured=measured, last=last, work_s=clock.work_s()
    )


def run_iteration(n: int, setup: Setup, models: Models, *, dev_before: Measurement) -> IterationSummary:
    """One pass: sample with M_{n-1}, make the training set, fine-tune, measure on dev."""
    clock = Clock(models)
    counted = make_training_set(n, setup, models, clock)
    checkpoint = fine_tune(setup, models, n, counted.training_set)
    clock.lap("train")
    dev = measure_split(setup, models, models.of(n), "dev")
    clock.lap("dev")
    passes = None
    if setup.config.pass_at_k.samples and n % setup.config.pass_at_k.every == 0:
        passes = measure_passes(setup, models, models.of(n))
        clock.lap("passes")

    measured = Measured(dev=dev, dev_before=dev_before, passes=passes)
    summary = summarize(setup, n, counted, checkpoint.train, measured, clock)
    setup.store.finish_iteration(summary)
    setup.tell(IterationEnded(summary=summary))
    return summary


def keep_weights(setup: Setup, dev: Sequence[Measurement]) -> None:
    """Delete the weights that the run does not need any more, unless all are to be kept; `dev` has the base model and
    every finished iteration."""
    if setup.config.training.keep_weights == "all":
        return
    for n in setup.store.keep_weights_of(weights_to_keep([m.accuracy for m in dev]), before=len(dev)):
        setup.tell(Note(text=f"the weights of iteration {n} are deleted: neither the best nor the last of the run"))


def make_training_set(n: int, setup: Setup, models: Models, clock: Clock) -> Counted:
    """Sample what the method asks for, and train on what it chooses of it. Samples are on disk, and read from there."""
    sampled = sample_iteration(setup, models, n, setup.method, clock)
    chosen = setup.method.training_set(sampled.samples, samples_before(setup, n))
    setup.store.write_left_out(n, chosen.left_out)
    return Counted(
        training_set=chosen,
        rationale=sampled.counts["rationale"],
        rationalization=sampled.counts["rationalization"],
    )

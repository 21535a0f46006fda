"""Signs of trouble in a run, as sentences for the terminal and the report, each with what may help. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selftaught.methods.metrics import wilson_interval
from selftaught.methods.settings import Requirement, Shows
from selftaught.records.measurements import Measurement, Rate, SamplingCounts

MAX_TRUNCATED = 0.05
MAX_UNPARSEABLE = 0.10
MAX_WRONG_STEPS = 0.10
MAX_LEAKS = 0.10
MAX_DEV_ACCURACY = 0.98
MIN_LENGTH = 0.5
"""Of the mean length of completions in the first iteration."""
MAX_KEPT_BEFORE = 0.95
FEWEST_PROBLEMS = 20
"""Problems with kept samples below which it says nothing that all of them were kept before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What there is to look at after an iteration."""

    rationale: SamplingCounts
    rationalization: SamplingCounts
    first: SamplingCounts | None = None
    """The rationales of the first iteration; None in that one."""
    require_hinted: tuple[Requirement, ...] = ("answer",)
    shows: Shows = "answer"
    examples_by_source: Mapping[str, int]
    batch_size: int
    kept_before: Rate | None = None
    dev: Measurement
    dev_before: Measurement
    passes: Measurement | None = None
    passes_before: Sequence[Measurement] = ()
    """Of the base model and of earlier iterations."""


def warnings_for(it: Iteration) -> tuple[str, ...]:
    """What a user should look at; empty if there is nothing."""
    return (*_of_samples(it), *_of_hints(it), *_of_kept(it), *_of_dev(it))


def _of_samples(it: Iteration) -> list[str]:
    warnings: list[str] = []
    for stage, counts in (("rationale", it.rationale), ("rationalization", it.rationalization)):
        warnings += _over(
            counts.truncated,
            counts.samples,
            MAX_TRUNCATED,
            f"{stage} completions were truncated; raise sampling.max_new_tokens",
        )
        warnings += _over(
            counts.unparseable,
            counts.samples,
            MAX_UNPARSEABLE,
            f"{stage} completions state no answer; raise sampling.num_shots, or sampling.num_shots_fine_tuned of a "
            "fine-tuned model, to show its form; `selftaught show DIR --verdict unparseable` has them",
        )
    now, then = it.rationale.mean_tokens, it.first.mean_tokens if it.first else None
    if now is not None and then is not None and now < MIN_LENGTH * then:
        warnings.append(
            f"completions without a hint have {now:.0f} tokens on average, {then:.0f} in the first iteration: "
            "reasoning gets lost; add 'steps' or 'no-leak' to selection.require, or lower training.learning_rate"
        )
    return warnings


def _of_hints(it: Iteration) -> list[str]:
    hinted, required = it.rationalization, it.require_hinted
    warnings: list[str] = []
    if hinted.samples and not hinted.correct and it.shows == "answer":
        warnings.append(
            f"none of {hinted.samples} completions with a hint gave the hint's answer: hints have no effect; method = "
            "'star-no-rationalization' saves their tokens"
        )
    if "steps" not in required:
        warnings += _over(
            hinted.false_positive or 0,
            hinted.correct,
            MAX_WRONG_STEPS,
            "hinted completions with the right answer fail the step check: the model copies the hint and learns "
            "to; method = 'star-checked' leaves them out"
            if it.shows == "answer"
            else "second attempts with the right answer fail the step check, and the model learns from them; add "
            "'steps' to selection.require_hinted",
        )
    leaks, usual = hinted.checks.get("leak"), it.rationale.checks.get("leak")
    if "no-leak" not in required and leaks is not None:
        # What is found without a hint, too, is the model's way to write, or an error of the check.
        more_than_usual = usual is None or not usual.n or leaks.accuracy < usual.accuracy
        if more_than_usual and it.shows == "answer":
            warnings += _over(
                leaks.n - leaks.correct,
                leaks.n,
                MAX_LEAKS,
                "hinted completions with the right answer give it away before they lead to it; add 'no-leak' to "
                "selection.require_hinted",
            )
    return warnings


def _of_kept(it: Iteration) -> list[str]:
    warnings: list[str] = []
    sampled = it.examples_by_source.get("rationale", 0) + it.examples_by_source.get("rationalization", 0)
    if it.rationale.samples and sampled < it.batch_size:
        warnings.append(
            f"only {sampled} sampled rationales were kept, fewer than one batch of {it.batch_size}; raise "
            "task.problems_per_iteration, or lower training.batch_size"
        )
    before = it.kept_before
    if before is not None and before.n >= FEWEST_PROBLEMS and before.accuracy >= MAX_KEPT_BEFORE:
        warnings.append(
            f"{before.correct} of {before.n} problems with kept samples had some in earlier iterations: little is new "
            "to learn; raise sampling.temperature and sampling.num_samples, or task.problems_per_iteration, or set "
            "task.choose = 'unsolved-first'"
        )
    return warnings


def _of_dev(it: Iteration) -> list[str]:
    dev, warnings = it.dev, list[str]()
    if dev.interval[1] < it.dev_before.accuracy:
        warnings.append(
            f"dev accuracy fell from {it.dev_before.accuracy:.3f} to {dev.accuracy:.3f}, outside the interval; lower "
            "training.learning_rate or training.steps_first_iteration"
        )
    if it.passes is not None and it.passes_before:
        k = str(it.passes.num_samples)
        best = max(it.passes_before, key=lambda m: m.pass_at_k.get(k, 0.0))
        was, now = best.pass_at_k.get(k, 0.0), it.passes.pass_at_k.get(k, 0.0)
        if wilson_interval(round(now * it.passes.n), it.passes.n)[1] < was:
            warnings.append(
                f"pass@{k} on dev fell from {was:.3f} (iteration {best.iteration}) to {now:.3f}, outside the interval: "
                "the model finds fewer ways to an answer; raise sampling.temperature, or lower training.learning_rate"
            )
    if dev.accuracy >= MAX_DEV_ACCURACY:
        warnings.append(
            f"dev accuracy is {dev.accuracy:.3f}: this dev set can hardly show further progress; raise "
            "task.dev_problems if there are more, or take harder problems"
        )
    return warnings


def _over(count: int, total: int, limit: float, text: str) -> list[str]:
    return [f"{count} of {total} {text}"] if total and count / total > limit else []

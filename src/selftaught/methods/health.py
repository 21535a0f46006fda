"""Signs of trouble in a run, as sentences for the terminal and the report. Pure."""

from collections.abc import Mapping

from selftaught.records.measurements import Measurement, SamplingCounts

MAX_TRUNCATED = 0.05
MAX_UNPARSEABLE = 0.10
MAX_WRONG_STEPS = 0.10
MAX_DEV_ACCURACY = 0.98


def warnings_for(
    *,
    rationale: SamplingCounts,
    rationalization: SamplingCounts,
    steps_required: bool,
    examples_by_source: Mapping[str, int],
    batch_size: int,
    dev: Measurement,
    dev_before: Measurement,
) -> tuple[str, ...]:
    """What a user should look at after an iteration; empty if there is nothing.

    `steps_required` says whether a sample with a hint must pass the step check.
    """
    warnings: list[str] = []
    for stage, counts in (("rationale", rationale), ("rationalization", rationalization)):
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
            f"{stage} completions state no answer; look at `selftaught show DIR --verdict unparseable`",
        )
    if rationalization.samples and not rationalization.correct:
        warnings.append(
            f"none of {rationalization.samples} completions with a hint gave the hint's answer; hints have no effect"
        )
    if not steps_required:
        warnings += _over(
            rationalization.false_positive or 0,
            rationalization.correct,
            MAX_WRONG_STEPS,
            "hinted completions with the right answer fail the step check: the model copies the hint and learns "
            "to; method = 'star-checked' leaves them out",
        )
    sampled = examples_by_source.get("rationale", 0) + examples_by_source.get("rationalization", 0)
    if rationale.samples and sampled < batch_size:
        warnings.append(f"only {sampled} sampled rationales were kept, fewer than one batch of {batch_size}")
    if dev.interval[1] < dev_before.accuracy:
        warnings.append(f"dev accuracy fell from {dev_before.accuracy:.3f} to {dev.accuracy:.3f}, outside the interval")
    if dev.accuracy >= MAX_DEV_ACCURACY:
        warnings.append(f"dev accuracy is {dev.accuracy:.3f}: this dev set can hardly show further progress")
    return tuple(warnings)


def _over(count: int, total: int, limit: float, text: str) -> list[str]:
    return [f"{count} of {total} {text}"] if total and count / total > limit else []

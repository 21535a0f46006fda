"""Signs that a run is not going as it should: sentences for the terminal and the report. Pure."""

from collections.abc import Mapping

from selftaught.records import Measurement, SamplingCounts

TRUNCATED_OVER = 0.05
UNPARSEABLE_OVER = 0.10
CEILING = 0.98


def warnings_for(
    *,
    rationale: SamplingCounts,
    rationalization: SamplingCounts,
    examples_by_source: Mapping[str, int],
    batch_size: int,
    dev: Measurement,
    dev_before: Measurement,
) -> tuple[str, ...]:
    """What a user should look at after an iteration; empty when nothing stands out."""
    found: list[str] = []
    for stage, counts in (("rationale", rationale), ("rationalization", rationalization)):
        found += _rate(
            counts.truncated,
            counts.samples,
            TRUNCATED_OVER,
            f"{stage} completions were truncated; raise sampling.max_new_tokens",
        )
        found += _rate(
            counts.unparseable,
            counts.samples,
            UNPARSEABLE_OVER,
            f"{stage} completions state no answer; look at `selftaught show DIR --verdict unparseable`",
        )
    if rationalization.samples and not rationalization.correct:
        found.append(
            f"none of {rationalization.samples} hinted completions ended on the shown answer; hints do nothing here"
        )
    sampled = examples_by_source.get("rationale", 0) + examples_by_source.get("rationalization", 0)
    if rationale.samples and sampled < batch_size:
        found.append(f"only {sampled} sampled rationales were kept, fewer than one batch of {batch_size}")
    if dev.interval[1] < dev_before.accuracy:
        found.append(f"dev accuracy fell from {dev_before.accuracy:.3f} to {dev.accuracy:.3f}, outside the interval")
    if dev.accuracy >= CEILING:
        found.append(f"dev accuracy is {dev.accuracy:.3f}: little is left to learn on this dev set")
    return tuple(found)


def _rate(count: int, total: int, limit: float, what: str) -> list[str]:
    return [f"{count} of {total} {what}"] if total and count / total > limit else []

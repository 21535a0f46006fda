"""Whether it is worth starting, from a few sampled training problems: one sentence. Pure."""

from dataclasses import dataclass

from selftaught.methods.health import MAX_WRONG_STEPS
from selftaught.methods.metrics import wilson_interval
from selftaught.methods.settings import Shows
from selftaught.records.measurements import SamplingCounts

BLOCKING = 0.25
"""Share of truncated or unparseable completions from which the solve rates say little."""
SATURATED = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What a few training problems gave, and the settings that the sentence may name."""

    rationale: SamplingCounts
    rationalization: SamplingCounts | None
    """Of the failed problems, in their second attempt; None for a method without one."""
    max_new_tokens: int
    num_shots: int
    task_shots: int
    """Few-shot examples that the task has."""
    is_chat: bool
    has_instruction: bool
    """Whether the task has the setting `task.instruction`."""
    shows: Shows = "answer"
    """What the second attempt was shown."""
    requires_steps: bool
    """Whether a hinted sample must pass the step check already."""
    trains_on_samples: bool
    kept: float
    """Rationales that an iteration would keep, at these rates."""
    batch_size: int
    problems: int
    """Of an iteration."""


def advice(sampled: Sampled) -> str:
    """What follows, the most urgent thing first; it names only settings that exist."""
    r, h = sampled.rationale, sampled.rationalization
    rates = _rates(sampled)
    if not sampled.trains_on_samples:
        return f"{rates}: this method trains on nothing that is sampled, so the rates decide nothing"
    return f"{rates}: {_blocked(sampled) or _nothing(r, h) or _rest(sampled)}"


def _rates(sampled: Sampled) -> str:
    r, h = sampled.rationale, sampled.rationalization
    second = "hinted" if sampled.shows == "answer" else "in the second attempt"
    again = f", {second} {h.correct} of {h.samples}" if h is not None and h.samples else ""
    return f"{r.correct} of {r.samples}{again}"


def _blocked(sampled: Sampled) -> str:
    """Answers that were cut off, or that nobody can read, say nothing about the model."""
    stages = [c for c in (sampled.rationale, sampled.rationalization) if c is not None and c.samples]
    for counts in stages:
        if counts.truncated > BLOCKING * counts.samples:
            return (
                f"{counts.truncated} of {counts.samples} are truncated at {sampled.max_new_tokens} tokens; raise "
                "sampling.max_new_tokens, or ask for shorter answers"
            )
    for counts in stages:
        if counts.unparseable > BLOCKING * counts.samples:
            return f"{counts.unparseable} of {counts.samples} state no answer that can be read; {_form(sampled)}"
    return ""


def _form(sampled: Sampled) -> str:
    """How to show a model the form of an answer."""
    if sampled.is_chat and sampled.has_instruction:
        return "say in task.instruction how the answer is written, or show it in few-shot examples (sampling.num_shots)"
    if sampled.num_shots < sampled.task_shots:
        return f"show it in more few-shot examples: sampling.num_shots = {sampled.task_shots}, now {sampled.num_shots}"
    if not sampled.task_shots and sampled.has_instruction:
        return "show it in few-shot examples (task.prompt_file; `selftaught init` writes one to fill in)"
    return "take a model that follows the few-shot examples"


def _nothing(r: SamplingCounts, h: SamplingCounts | None) -> str:
    if r.correct or (h is not None and h.correct):
        return ""
    if h is None:
        return (
            "nothing to start from without hints; try a method with hints (method = 'star'), an easier task or a "
            "larger model"
        )
    return "nothing to start from; an easier task or a larger model"


def _which(sampled: Sampled) -> str:
    return "hinted ones" if sampled.shows == "answer" else "correct second attempts"


def _rest(sampled: Sampled) -> str:
    r, h = sampled.rationale, sampled.rationalization
    if h is not None and h.correct and h.false_positive is not None:
        if sampled.requires_steps:
            if h.false_positive == h.correct and not r.correct:
                return (
                    f"all {h.correct} {_which(sampled)} fail the step check and are left out, so there is nothing to "
                    "start from; an easier task or a larger model"
                )
        elif h.false_positive > MAX_WRONG_STEPS * h.correct:
            fail = f"{h.false_positive} of the {h.correct} {_which(sampled)} fail the step check"
            if sampled.shows == "answer":
                return f"{fail}: the model copies the answer; method = 'star-checked' leaves them out"
            return f"{fail}, and the model would learn from them; add 'steps' to selection.require_hinted"
    if r.correct >= SATURATED * r.samples:
        return "little left to learn; a harder task, or a smaller model"
    if sampled.kept < sampled.batch_size:
        return (
            f"an iteration would keep about {sampled.kept:.0f} rationales, fewer than one batch of "
            f"{sampled.batch_size}; raise task.problems_per_iteration (now {sampled.problems}) if there are more"
        )
    if h is not None and h.samples >= 8 and not h.correct and sampled.shows == "answer":
        return (
            "worth a try, but hints have no effect: the model does not follow them, and only solved problems teach it"
        )
    low, high = wilson_interval(r.correct, r.samples)
    return (
        f"worth starting: an iteration would keep about {sampled.kept:.0f} rationales, and {low:.0%} to {high:.0%} of "
        "the problems are solved without a hint"
    )

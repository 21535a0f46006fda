"""What a person reads of a run: one text for each event that is worth a line. Pure."""

from collections.abc import Mapping

from selftaught.methods.metrics import mean_over_classes, rate_text, solve_rate_gap
from selftaught.prompts.rendering import prompt_text
from selftaught.records.events import (
    ChunkSaved,
    Event,
    IterationEnded,
    ModelTrained,
    Note,
    RunEnded,
    SplitMeasured,
    StageBegan,
    StageEnded,
    WorkersChanged,
)
from selftaught.records.measurements import IterationSummary, Measurement, Rate
from selftaught.records.training import Checkpoint

LONGEST_TEXT = 1_500
"""Characters of a prompt or a completion; a longer one is cut in its middle."""
BASE = "base model"


def text_of(event: Event, max_iterations: int) -> str | None:
    """The line, or the lines, of an event; None for one that only a live display shows."""
    match event:
        case Note(text=text):
            return text
        case StageBegan(total=int(total), done=done) if 0 < done < total:
            return f"{stage_name(event, max_iterations)}: {done} of {total} are on disk, {total - done} are left to do"
        case ChunkSaved(is_first=True) if event.first.kind != "evaluation":
            return _first_sample(event, max_iterations)
        case StageEnded(kind=kind) if kind != "evaluation" and event.counts.samples:
            return _stage(event, max_iterations)
        case ModelTrained(checkpoint=checkpoint):
            return _training(checkpoint, max_iterations)
        case SplitMeasured(measurement=measurement):
            return _measurement(measurement, max_iterations)
        case IterationEnded(summary=summary):
            return _iteration(summary, max_iterations)
        case RunEnded(work_s=work_s):
            return f"time of this process: {work_text(work_s)}"
    return None


def stage_name(event: StageBegan, max_iterations: int) -> str:
    return f"{where(event.iteration, max_iterations)}  {event.stage}"


def where(iteration: int, max_iterations: int) -> str:
    return f"iteration {iteration}/{max_iterations}" if iteration else BASE


def workers_text(event: WorkersChanged) -> str:
    """The processes that sample, for the line of a stage."""
    parts = [f"{event.ready} worker{'s' * (event.ready != 1)}"]
    parts += [f"{event.starting} starting"] if event.starting else []
    parts += [f"{event.losses} lost"] if event.losses else []
    return ", ".join([*parts, f"{event.in_flight} chunk{'s' * (event.in_flight != 1)} in flight"])


def work_text(work_s: Mapping[str, float]) -> str:
    """Seconds by kind of work for people to read, with the share of `other` in the total."""
    share = work_s["other"] / max(sum(work_s.values()), 1e-3)
    return "  ".join(f"{work} {s:.1f} s" for work, s in work_s.items()) + f" ({share:.1%})"


def _first_sample(event: ChunkSaved, max_iterations: int) -> str:
    sample = event.first
    lines = [
        f"{where(sample.iteration, max_iterations)}  the first {sample.kind} in full (problem {event.problem.id}):",
        *_indented("prompt", prompt_text(event.prompt)),
        *_indented("completion", sample.completion),
        f"    prediction {sample.prediction!r}  answer {event.problem.answer!r}  {sample.verdict}  "
        f"ended by {sample.finish_reason}",
    ]
    return "\n".join(lines)


def _stage(event: StageEnded, max_iterations: int) -> str:
    counts = event.counts
    parts = [f"{counts.samples} samples", f"{counts.correct} correct ({counts.correct / counts.samples:.2f})"]
    for count, what in (
        (counts.unparseable, "unparseable"),
        (counts.truncated, "truncated"),
        (counts.false_positive, "false positives"),
    ):
        parts += [f"{count} {what}"] if count else []
    parts += _rates(counts.checks)
    speed = [f"{event.tokens / event.seconds:.0f} tokens/s"] if event.tokens and event.seconds > 0 else []
    return f"{where(event.iteration, max_iterations)}  {event.stage:<16}{'  '.join(parts + speed)}"


def _training(checkpoint: Checkpoint, max_iterations: int) -> str:
    train = checkpoint.train
    loss = f"loss {_number(train.first_loss)} -> {_number(train.last_loss)}"
    loss += f"  validation {_number(train.validation_loss)}"
    return (
        f"{where(checkpoint.iteration, max_iterations)}  {'train':<16}{checkpoint.examples} examples  "
        f"{train.steps} steps  {loss}  {train.seconds:.0f} s"
    )


def _measurement(m: Measurement, max_iterations: int) -> str:
    if m.num_samples > 1:
        rates = "  ".join(f"pass@{k} {chance:.3f}" for k, chance in m.pass_at_k.items())
        how = f"{m.split}, {m.n} problems, {m.num_samples} samples each at {m.temperature}"
        return f"{where(m.iteration, max_iterations)}  {'passes':<16}{rates}  ({how})"
    classes = "  ".join(f"{name}: {s.accuracy:.2f}" for name, s in m.by_class.items())
    return (
        f"{where(m.iteration, max_iterations)}  {m.split:<16}accuracy {rate_text(m)}  by class {classes}  "
        + "  ".join([f"mean {mean_over_classes(m.by_class):.3f}", *_rates(m.checks)])
    )


def _iteration(summary: IterationSummary, max_iterations: int) -> str:
    name = where(summary.iteration, max_iterations)
    warnings = (f"{name}  warning: {warning}" for warning in summary.warnings)
    facts = facts_of(summary)
    progress = [f"{name}  {'progress':<16}{'  '.join(facts)}"] if facts else []
    return "\n".join([*progress, f"{name}  {'time':<16}{work_text(summary.work_s)}", *warnings])


def facts_of(summary: IterationSummary) -> list[str]:
    """What changed on dev, and what the samples are like beside their verdicts."""
    facts = [f"dev +{of.gained} -{of.lost} against {name}" for name, of in summary.dev_changes.items()]
    counts = summary.rationale
    if (gap := solve_rate_gap(summary)) is not None:
        facts.append(f"rationalization - rationale {gap:+.3f}")
    if counts.solutions_per_problem is not None:
        facts.append(f"{counts.solutions_per_problem:.2f} solutions per problem")
    if counts.mean_tokens is not None:
        facts.append(f"{counts.mean_tokens:.0f} tokens when complete")
    if counts.ended is not None and counts.samples:
        facts.append(f"{counts.ended / counts.samples:.2f} ended by the end token")
    if counts.lucky is not None and counts.correct:
        facts.append(f"{counts.lucky / counts.correct:.2f} of the correct by luck")
    if summary.kept_before is not None:
        facts.append(f"{summary.kept_before.accuracy:.2f} of the kept problems kept before")
    return facts


def _indented(name: str, text: str) -> list[str]:
    """Text that a model may have written: printed as it is, cut in the middle if it is long, never interpreted."""
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2
        text = f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"
    printable = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return [f"    {name}:", *(f"      | {line}" for line in printable.split("\n"))]


def _rates(checks: Mapping[str, Rate]) -> list[str]:
    return [f"{name} {rate.correct}/{rate.n}" for name, rate in checks.items()]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"

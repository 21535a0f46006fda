"""What `selftaught doctor` prints: parts of lines, some of whose text is marked as prompt, learned or end. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from selftaught.commands.dry_run import ShownRow
from selftaught.models.forecast import Forecast

Mark = Literal["", "prompt", "learned", "end"]

LONGEST_TEXT = 1_600
"""Characters of the first prompt that are shown; a longer one is cut in its middle."""
LONGEST_OTHER = 800
"""Of those that differ from it in little."""
SHOWN_PART_BYTES = 10 << 20
"""A smaller part of a forecast is not named."""


@dataclass(frozen=True, slots=True)
class Span:
    text: str
    mark: Mark = ""


Line = tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One block of what the doctor finds."""

    name: str
    """For JSON."""
    title: str
    lines: tuple[Line, ...] = ()
    """The text of a span may have several lines; so a prompt keeps its form."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """By name, ready for JSON."""
    refusals: tuple[str, ...] = ()
    """Why `run` would refuse to start, one line each, as it would say it."""


def plain(*texts: str) -> tuple[Line, ...]:
    """Lines without marks."""
    return tuple((Span(text),) for text in texts)


def part_text(part: Part) -> str:
    """A part where there are no colours: what carries loss stands between ⟨ and ⟩, the end token between ⟪ and ⟫."""
    lines = [f"# {part.title}"]
    for line in part.lines:
        lines.append("".join(_marked(span) for span in line))
    lines += [f"refused: {refusal}" for refusal in part.refusals]
    return "\n".join(lines)


def part_json(part: Part) -> dict[str, Any]:
    return {"part": part.name, **part.facts, "refused": list(part.refusals)}


def prompt_lines(title: str, text: str, *, longest: int) -> tuple[Line, ...]:
    """A filled prompt under its title."""
    return ((Span(f"{title}:"),), (Span(printable(_cut(text, longest)), "prompt"), Span("…")))


def row_lines(row: ShownRow, completion: str, end: str) -> tuple[Line, ...]:
    """A training row: the prompt without loss, then what is learned and the end, which are with loss."""
    title = f"training on {row.what} of problem {row.problem_id!r}: {len(row.learned)} of {row.num_tokens} tokens"
    prompt, learned = Span(printable(_cut(row.prompt, LONGEST_TEXT)), "prompt"), Span(printable(completion), "learned")
    legend = (Span("prompt, ", "prompt"), Span("learned", "learned"), Span(", "), Span("end", "end"))
    return (
        (Span(f"{title} carry loss ("), *legend, Span("):")),
        (prompt, learned, Span(printable(end), "end")),
    )


def forecast_line(forecast: Forecast, free: int) -> str:
    parts = ", ".join(f"{p.name} {size(p.bytes)}" for p in forecast.parts if p.bytes >= SHOWN_PART_BYTES)
    return f"{forecast.what}: needs about {size(forecast.needed)} of {size(free)} that are free: {parts}"


def forecast_facts(forecast: Forecast | None) -> dict[str, Any] | None:
    if forecast is None:
        return None
    return {"bytes": forecast.needed, "parts": {part.name: part.bytes for part in forecast.parts}}


def duration(seconds: float) -> str:
    """For people to read, with two digits or so: 4.2 ms, 0.4 s, 12 s, 3.5 min, 42 min, 5.1 h, 2.3 days."""
    for unit, length, limit in (("ms", 1e-3, 100.0), ("s", 1.0, 100.0), ("min", 60.0, 100.0), ("h", 3600.0, 48.0)):
        if seconds < limit * length:
            return f"{_short(seconds / length)} {unit}"
    return _short(seconds / 86400.0) + " days"


def size(number: int) -> str:
    """Bytes for people to read."""
    return f"{number / 2**30:.1f} GiB" if number >= 1 << 30 else f"{number / 2**20:.0f} MiB"


def number(value: float) -> str:
    return _short(value) if value < 100 else f"{value:,.0f}"


def printable(text: str) -> str:
    """Text that a model or a data set may hold, with control characters as escapes; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def joined(texts: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def _marked(span: Span) -> str:
    if span.mark == "learned":
        return f"⟨{span.text}⟩"
    return f"⟪{span.text}⟫" if span.mark == "end" else span.text


def _cut(text: str, longest: int) -> str:
    half = longest // 2
    if len(text) <= longest:
        return text
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"

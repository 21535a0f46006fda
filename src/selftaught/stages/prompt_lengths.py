"""Prompts that do not fit the model's context, before anything is sampled; for all commands that sample or check.

A token is at least a byte, so that most prompts need not be encoded to know that they fit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from selftaught.config.settings import RunConfig
from selftaught.methods.hints import longest_hints
from selftaught.models.tokens import Codec
from selftaught.prompts.rendering import prompt_text
from selftaught.records.errors import RefusedError
from selftaught.records.problems import SPLITS, Problem, Task
from selftaught.stages.sampling import SamplingSpec, measured_problems, sampling_spec

SEAM = 8
"""Tokens by which a prompt may differ from the sum of its parts."""

KNOBS = (
    "shorten the question or take it out, or use fewer few-shot examples (sampling.num_shots), fewer new tokens "
    "(sampling.max_new_tokens) or a model with a longer context"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What prompts have to fit into."""

    codec: Codec
    context: int | None
    """Tokens of the longest sequence, of prompt and completion together; None without a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Problems that are asked in one way."""

    spec: SamplingSpec
    problems: tuple[Problem, ...]


def asks_of_run(config: RunConfig, task: Task) -> tuple[Ask, ...]:
    """All that a run may ask: training problems with and without a hint, and the measured ones of the other splits;
    with as many few-shot examples as the base model or a fine-tuned one gets, whichever are more."""
    num_shots = max(config.sampling.num_shots_for(fine_tuned=fine_tuned) for fine_tuned in (False, True))
    train = task.train if config.sampling.num_samples else ()
    measured = {split: measured_problems(config, task, split) for split in SPLITS if split != "train"}
    asks = []
    for again, problems in (
        (False, (*train, *(problem for split in measured.values() for problem in split))),
        (True, train if config.rationalization.hints != "none" else ()),
    ):
        spec = sampling_spec(config, task, num_shots=num_shots, temperature=0.0, again=again)
        if spec.shown is not None:
            spec = replace(spec, shown=longest_hints(task, config.rationalization.shows, seed=config.seed))
        asks.append(Ask(spec=spec, problems=problems))
    return tuple(asks)


def too_long(room: Room, task: Task, asks: Sequence[Ask]) -> dict[str, tuple[Problem, SamplingSpec]]:
    """By id, the problems whose prompts and new tokens together exceed the context, each with the first spec by which
    they do."""
    if room.context is None:
        return {}
    found: dict[str, tuple[Problem, SamplingSpec]] = {}
    for ask in asks:
        limit = room.context - ask.spec.params.max_new_tokens
        for problem in _beyond(room.codec, task, ask, limit):
            found.setdefault(problem.id, (problem, ask.spec))
    return found


def refuse_too_long(
    room: Room, task: Task, asks: Sequence[Ask], *, place: Callable[[Problem], str], knobs: str = KNOBS
) -> None:
    """Raise RefusedError if a prompt does not fit. `place` says where a problem stands, `knobs` what helps."""
    if not (found := too_long(room, task, asks)):
        return
    problem, spec = next(iter(found.values()))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    tokens, new = len(room.codec.encode_prompt(spec.prompt(task, problem))), spec.params.max_new_tokens
    raise RefusedError(
        f"{place(problem)}{more}: a prompt of {tokens} tokens{', its hint included,' if spec.hint else ''} and {new} "
        f"new ones exceed the model's context of {room.context}; {knobs}; nothing was sampled"
    )


def _beyond(codec: Codec, task: Task, ask: Ask, limit: int) -> list[Problem]:
    """The problems whose prompts have more than `limit` tokens."""
    if not ask.problems:
        return []
    bare = replace(ask.spec, few_shot=())

    def length(problem: Problem, spec: SamplingSpec) -> int:
        return len(codec.encode_prompt(spec.prompt(task, problem)))

    sizes = [len(prompt_text(prompt).encode()) for prompt in bare.prompts(task, ask.problems)]
    shortest = ask.problems[sizes.index(min(sizes))]
    around = length(shortest, ask.spec)
    doubtful = [p for p, size in zip(ask.problems, sizes, strict=True) if around + size + SEAM > limit]
    if not doubtful:
        return []
    before = around - length(shortest, bare)
    near = {problem.id: before + length(problem, bare) for problem in doubtful}
    return [
        problem
        for problem in doubtful
        if near[problem.id] - SEAM > limit or (near[problem.id] + SEAM > limit and length(problem, ask.spec) > limit)
    ]

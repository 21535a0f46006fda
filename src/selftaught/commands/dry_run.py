"""`run --dry-run`: what a run would do, in full, without generating anything or loading weights."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from selftaught.commands.setting_check import check_settings
from selftaught.commands.stored_run import in_format
from selftaught.config.chat import codec_of, resolve_chat
from selftaught.config.loading import flat_values
from selftaught.config.settings import RunConfig
from selftaught.methods.method import Method
from selftaught.methods.plan import steps_for
from selftaught.methods.table import METHODS
from selftaught.methods.training_set import examples_from_solutions
from selftaught.models.tokens import IGNORED, Codec
from selftaught.records.errors import NothingAccepted
from selftaught.records.problems import Problem, Task
from selftaught.records.prompts import RenderedPrompt
from selftaught.records.training import TrainingExample
from selftaught.stages.sampling import measured_problems, passes_of_run, sampling_spec

NUM_PROMPTS = 3
NUM_ROWS = 2
"""Of each kind that are printed."""


def describe(config: RunConfig, task: Task, model_dir: Path) -> str:
    """The resolved config, the first filled prompts of each kind, the tokens that carry loss, and the plan's cost."""
    chat = resolve_chat(config.model, model_dir)
    codec = codec_of(config.model, model_dir, chat)
    task = in_format(task, config, chat)
    check_settings(config, task)
    method = METHODS[config.method].make(config, task)
    method.begin(1)
    problems = method.problems or task.train
    parts = [
        "# resolved config",
        *(f"{key} = {json.dumps(value)}" for key, value in flat_values(config).items()),
        *_prompts(config, task, problems, codec),
        *_training_rows(config, task, method, codec),
        *_cost(config, task, problems, codec),
    ]
    return "\n".join(parts)


def filled_prompts(
    config: RunConfig, task: Task, problems: Sequence[Problem], codec: Codec
) -> Iterator[tuple[str, Problem, RenderedPrompt]]:
    """Each kind of prompt of the base model for each of the problems, as the model gets it."""
    kinds = {"rationale" if config.sampling.num_samples else "evaluation": False}
    kinds |= {"rationalization": True} if config.rationalization.hints != "none" else {}
    for kind, again in kinds.items():
        spec = sampling_spec(config, task, num_shots=config.sampling.num_shots, temperature=0.0, again=again)
        for problem in problems:
            yield kind, problem, codec.render(spec.prompt(task, problem))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRow:
    """A training row as a person reads it."""

    what: str
    problem_id: str
    prompt: str
    """As the model gets it."""
    num_tokens: int
    learned: tuple[int, ...]
    """The ids with loss; the last one is the end."""


def shown_row(what: str, example: TrainingExample, codec: Codec) -> ShownRow:
    ids, labels = codec.encode_example(example)
    return ShownRow(
        what=what,
        problem_id=example.problem_id,
        prompt=codec.render(example.prompt).text,
        num_tokens=len(ids),
        learned=tuple(i for i, label in zip(ids, labels, strict=True) if label != IGNORED),
    )


def training_rows(config: RunConfig, task: Task, method: Method, codec: Codec) -> Iterator[ShownRow]:
    """The rows that do not depend on what is sampled, and few-shot examples encoded as accepted samples will be."""
    rows: list[tuple[str, TrainingExample]] = []
    if config.sampling.num_samples:
        few_shot = examples_from_solutions(task.few_shot[:NUM_ROWS], task.prompt_format, iteration=1)
        rows += [("a sample, if it reads like the few-shot example", example) for example in few_shot]
    with suppress(NothingAccepted):
        fixed = method.training_set([], []).examples
        for source in dict.fromkeys(example.source for example in fixed):
            of_source = [example for example in fixed if example.source == source]
            rows += [(f"a row of source {source}, one of {len(of_source)},", e) for e in of_source[:NUM_ROWS]]
    yield from (shown_row(what, example, codec) for what, example in rows)


def _prompts(config: RunConfig, task: Task, problems: Sequence[Problem], codec: Codec) -> Iterator[str]:
    for kind, problem, prompt in filled_prompts(config, task, problems[:NUM_PROMPTS], codec):
        yield f"\n# {kind} prompt of problem {problem.id!r}, {len(prompt.ids or ())} tokens"
        yield prompt.text + "⟨the model continues here⟩"


def _training_rows(config: RunConfig, task: Task, method: Method, codec: Codec) -> Iterator[str]:
    for row in training_rows(config, task, method, codec):
        yield f"\n# training on {row.what} of problem {row.problem_id!r}:"
        yield f"{len(row.learned)} of {row.num_tokens} tokens carry loss"
        yield f"without loss: {row.prompt!r}"
        yield f"with loss:    {' '.join(repr(codec.decode([i]))[1:-1] for i in row.learned)}"


def _cost(config: RunConfig, task: Task, problems: Sequence[Problem], codec: Codec) -> Iterator[str]:
    sampling, training = config.sampling, config.training
    hinted = len(problems) if config.rationalization.hints != "none" and sampling.num_samples else 0
    dev = len(measured_problems(config, task, "dev"))
    test = sum(len(measured_problems(config, task, split)) for split in ("test", "extrapolation"))
    iterations = range(1, config.loop.max_iterations + 1)
    steps = [steps_for(n, training, num_examples=_most_examples(config, problems, n)) for n in iterations]
    rationales = len(problems) * sampling.num_samples
    yield "\n# cost, at most"
    yield f"an iteration samples {rationales} rationales, up to {hinted} rationalizations and {dev} dev completions,"
    yield f"each of up to {sampling.max_new_tokens} new tokens;"
    yield f"the base model and the best one generate answers to {test} test problems each;"
    yield f"{len(steps)} iterations of {steps[0]} to {steps[-1]} optimizer steps of {training.batch_size} sequences;"
    passes = passes_of_run(config, task)
    if passes:
        yield f"for pass@k on dev they generate {passes} more;"
    first = training.steps_first_iteration if training.sft_first else 0
    if first:
        yield f"before them {first} steps on the human solutions;"
    total = len(steps) * (rationales + hinted + dev) + dev + 2 * test + passes
    tokens = total * sampling.max_new_tokens
    yield f"in all {total} completions, {tokens} new tokens, {first + sum(steps)} optimizer steps"


def _most_examples(config: RunConfig, problems: Sequence[Problem], n: int) -> int:
    """Training examples of iteration n if every completion is accepted."""
    sampling, training = config.sampling, config.training
    hinted = config.rationalization.gives_hints
    iterations = n if training.window == "all" else 1
    solutions = len(problems) if training.human_solutions or training.target == "answer" else 0
    return iterations * len(problems) * sampling.num_samples + solutions + training.num_rehearsed * (2 if hinted else 1)

"""`run --dry-run`: what a run would do, in full, without drawing anything or loading weights."""

import json
from collections.abc import Iterator, Sequence

from selftaught.config import flat_values
from selftaught.drawing import asking, without_rationales
from selftaught.plan import choose_problems, spread_over_classes, steps_for
from selftaught.records import Problem, Task, TrainingExample
from selftaught.selection import examples_from_solutions, warm_start_examples
from selftaught.settings import RunConfig
from selftaught.tokens import IGNORED, Codec
from selftaught.weights import resolve_model

PROMPTS_SHOWN = 3


def describe(config: RunConfig, task: Task) -> str:
    """The resolved config, the first filled prompts of each kind, the tokens that carry loss, and the plan's cost."""
    codec = Codec(resolve_model(config.model.path).path, trust_remote_code=config.model.trust_remote_code)
    problems = choose_problems(
        task.train,
        how=config.task.choose,
        number=config.task.train_problems,
        solved=frozenset(),
        seed=config.seed,
        iteration=1,
    )
    parts = [
        "# resolved config",
        *(f"{key} = {json.dumps(value)}" for key, value in flat_values(config).items()),
        *_prompts(config, task, problems, codec),
        *_training_rows(config, task, problems, codec),
        *_cost(config, task, problems, codec),
    ]
    return "\n".join(parts)


def _prompts(config: RunConfig, task: Task, problems: Sequence[Problem], codec: Codec) -> Iterator[str]:
    kinds = {"rationale": False} if config.sampling.samples else {}
    kinds |= {"rationalization": True} if config.rationalization.hints != "none" else {}
    for kind, hint in kinds.items():
        how = asking(
            task,
            shots=config.sampling.shots,
            temperature=0.0,
            max_new_tokens=config.sampling.max_new_tokens,
            hint=hint,
            answer_only=config.training.target == "answer",
        )
        for problem in problems[:PROMPTS_SHOWN]:
            prompt = how.prompt(task, problem)
            yield f"\n# {kind} prompt of problem {problem.id!r}, {len(codec.encode_prompt(prompt))} tokens"
            yield prompt + "⟨the model goes on here⟩"


def _training_rows(config: RunConfig, task: Task, problems: Sequence[Problem], codec: Codec) -> Iterator[str]:
    """Worked examples stand in for samples that are not drawn yet; the layout is the same."""
    training, fmt = config.training, task.prompt_format
    shots, worked = task.shots[: training.shots], task.shots[:PROMPTS_SHOWN]
    if training.target == "answer":
        shots, worked = without_rationales(shots), without_rationales(problems[:PROMPTS_SHOWN])
    rows: list[tuple[str, TrainingExample]] = [
        ("accepted sample", example) for example in examples_from_solutions(worked, fmt, shots, iteration=1)
    ]
    if training.warm_start:
        with_hints = config.rationalization.hints != "none"
        rehearsed = warm_start_examples(task.shots[:PROMPTS_SHOWN], fmt, with_hints=with_hints, iteration=1)
        rows += [("warm-start row", example) for example in rehearsed[:PROMPTS_SHOWN]]
    for what, example in rows:
        ids, labels = codec.lay_out(example)
        with_loss = [codec.decode([i]) for i, label in zip(ids, labels, strict=True) if label != IGNORED]
        yield f"\n# training on the {what} of problem {example.problem_id!r}:"
        yield f"{len(with_loss)} of {len(ids)} tokens carry loss"
        yield f"without loss: {example.prompt!r}"
        yield f"with loss:    {' '.join(repr(token)[1:-1] for token in with_loss)}"


def _cost(config: RunConfig, task: Task, problems: Sequence[Problem], codec: Codec) -> Iterator[str]:
    sampling, training = config.sampling, config.training
    hinted = len(problems) if config.rationalization.hints != "none" and sampling.samples else 0
    dev = len(spread_over_classes(task.dev, config.task.dev_problems))
    test = len(spread_over_classes(task.test, config.task.test_problems)) + len(task.extrapolation)
    iterations = range(1, config.loop.max_iterations + 1)
    steps = [
        steps_for(n, first_steps=training.first_steps, growth=training.growth, max_steps=training.max_steps)
        for n in iterations
    ]
    draws = len(problems) * sampling.samples
    yield "\n# cost, at most"
    yield f"an iteration draws {draws} rationales, up to {hinted} rationalizations and {dev} dev completions,"
    yield f"each of up to {sampling.max_new_tokens} new tokens;"
    yield f"the base model and the best one answer {test} test problems each;"
    yield f"{len(steps)} iterations of {steps[0]} to {steps[-1]} optimizer steps of {training.batch_size} sequences;"
    total = len(steps) * (draws + hinted + dev) + dev + 2 * test
    yield f"in all {total} completions, {total * sampling.max_new_tokens} new tokens, {sum(steps)} optimizer steps"

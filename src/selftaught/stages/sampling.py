"""Problems -> prompts -> completions -> samples with verdicts, for the loop and for `eval`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine, RendersPrompts
from selftaught.grading.judging import judge
from selftaught.methods.hints import hints_of
from selftaught.methods.plan import spread_over_classes
from selftaught.methods.training_set import without_rationales
from selftaught.prompts.rendering import Hint, prompt_sha256, prompt_text, render_few_shot, render_prompts
from selftaught.records.errors import EngineError
from selftaught.records.problems import Problem, Task
from selftaught.records.prompts import Prompt, RenderedPrompt
from selftaught.records.samples import (
    Completion,
    ModelRef,
    PlannedSample,
    Request,
    Sample,
    SamplingParams,
)
from selftaught.records.seeds import seed_for
from selftaught.runs.shared_chunks import SharedChunks


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSpec:
    """How to sample: what the prompts hold besides the question, and the engine's parameters."""

    few_shot: tuple[Problem, ...]
    params: SamplingParams
    hint: bool = False
    shown: Callable[[Problem], Hint] | None = None
    """With `hint`, what problems have beside them; None is their reference answers."""

    def prompt(self, task: Task, problem: Problem) -> Prompt:
        return self.prompts(task, [problem])[0]

    def few_shot_block(self, task: Task) -> Prompt:
        """What all prompts begin with, as `render_few_shot` has it."""
        return render_few_shot(task.prompt_format, self.few_shot, hint=self.hint)

    def prompts(self, task: Task, problems: Iterable[Problem]) -> list[Prompt]:
        return render_prompts(task.prompt_format, problems, hint=self.hint, few_shot=self.few_shot, shown=self.shown)


def sampling_spec(
    config: RunConfig,
    task: Task,
    *,
    num_shots: int,
    temperature: float,
    again: bool = False,
    iteration: int = 1,
) -> SamplingSpec:
    """How a config samples; `again` is the second attempt at failed problems of an iteration, with a hint unless the
    config shows nothing. For a model that is trained on answers alone, few-shot examples have no rationales."""
    examples = task.few_shot[:num_shots]
    params = SamplingParams(
        temperature=temperature,
        top_p=config.sampling.top_p,
        top_k=config.sampling.top_k,
        max_new_tokens=config.sampling.max_new_tokens,
        stop=task.prompt_format.stop,
    )
    few_shot = without_rationales(examples) if config.training.target == "answer" else examples
    shows = config.rationalization.shows
    shown = None
    if again and shows != "answer":
        shown = hints_of(task, shows, seed=config.seed, iteration=iteration)
    return SamplingSpec(few_shot=few_shot, params=params, hint=again and shows != "nothing", shown=shown)


def measured_problems(config: RunConfig, task: Task, split: str) -> tuple[Problem, ...]:
    """The problems of a split on which a config measures a model; the config limits those of dev and test."""
    limits = {"dev": config.task.dev_problems, "test": config.task.test_problems}
    return spread_over_classes(task.split(split), limits.get(split, "all"))


def passes_of_run(config: RunConfig, task: Task) -> int:
    """Completions that a run generates for pass@k, at most: of the base model, every few iterations, of the best."""
    settings = config.pass_at_k
    problems = len(spread_over_classes(measured_problems(config, task, "dev"), settings.problems))
    models = 2 + config.loop.max_iterations // settings.every
    return models * problems * settings.samples


def sample_seed(run_seed: int, iteration: int, planned: PlannedSample) -> int:
    return seed_for(run_seed, iteration, planned.kind, planned.problem_id, planned.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What samples are made from: all that they have in common."""

    task: Task
    problems: Mapping[str, Problem]
    """By id; all that are planned."""
    model: ModelRef
    spec: SamplingSpec
    iteration: int
    run_seed: int

    def seed(self, planned: PlannedSample) -> int:
        return sample_seed(self.run_seed, self.iteration, planned)


OnPrompts = Callable[[Prompt, Sequence[Prompt], Callable[[Prompt], RenderedPrompt]], None]
"""Called with the few-shot block, the prompts, and what renders a prompt as the model gets it."""


def generate_chunk(
    engine: Engine,
    sampling: Sampling,
    planned: Sequence[PlannedSample],
    *,
    on_prompts: OnPrompts = lambda few_shot_block, prompts, render: None,
    on_sample: Callable[[Sample], None] = lambda sample: None,
    shared: SharedChunks | None = None,
) -> list[Sample]:
    """Make the planned samples with an engine that is open on the model; they are in the order of the plan.

    With `shared`, a chunk that another run has made is taken from there. `on_prompts` gets the prompts before any
    sample is generated, `on_sample` each sample as soon as it is complete.
    Raises EngineError unless the engine answers every request exactly once.
    """
    spec, task = sampling.spec, sampling.task
    prompts = spec.prompts(task, (sampling.problems[plan.problem_id] for plan in planned))
    requests = [Request(prompt=prompt, seed=sampling.seed(plan)) for prompt, plan in zip(prompts, planned, strict=True)]
    render = engine.render if isinstance(engine, RendersPrompts) else _as_text
    on_prompts(spec.few_shot_block(task), prompts, render)

    def generate() -> Iterator[Completion]:
        return engine.sample(requests, spec.params)

    made = generate() if shared is None else shared.sample(sampling.model, requests, spec.params, render, generate)
    samples: dict[int, Sample] = {}
    for completion in made:
        position = completion.request
        plan = planned[position]
        if position in samples:
            raise EngineError(
                f"the engine answered twice for problem {plan.problem_id!r}; this is a fault of the engine"
            )
        samples[position] = _judge(sampling, plan, requests[position], completion)
        on_sample(samples[position])
    missing = [plan.problem_id for position, plan in enumerate(planned) if position not in samples]
    if missing:
        raise EngineError(f"the engine left {len(missing)} of {len(planned)} requests unanswered, first {missing[0]!r}")
    return [samples[position] for position in range(len(planned))]


def _judge(sampling: Sampling, planned: PlannedSample, request: Request, completion: Completion) -> Sample:
    task, problem, model = sampling.task, sampling.problems[planned.problem_id], sampling.model
    judgement = judge(task, problem, completion.text)
    return Sample(
        problem_id=problem.id,
        iteration=sampling.iteration,
        kind=planned.kind,
        index=planned.index,
        seed=request.seed,
        prompt_sha256=prompt_sha256(request.prompt),
        weights_sha256=model.sha256[:16] if model.sha256 else None,
        checkpoint=model.checkpoint,
        completion=completion.text,
        token_ids=completion.token_ids,
        num_tokens=completion.num_tokens,
        finish_reason=completion.finish_reason,
        logprob=completion.logprob,
        prediction=judgement.verification.prediction,
        verdict=judgement.verification.verdict,
        checks=judgement.checks,
        end_id=completion.end_id,
    )


def _as_text(prompt: Prompt) -> RenderedPrompt:
    return RenderedPrompt(text=prompt_text(prompt), ids=None)

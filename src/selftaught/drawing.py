"""Problems -> prompts -> completions -> judged samples: the one way in which the loop and `eval` ask a model."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from selftaught.engines import Engine
from selftaught.errors import EngineError
from selftaught.problems import CheckResult, Problem, Task, Verification
from selftaught.prompts import prompt_sha256, render_prompts
from selftaught.records import Completion, Draw, Kind, Request, Sample, SamplingParams
from selftaught.seeds import seeds_under
from selftaught.verification import run_checks


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How problems are put to a model."""

    shots: tuple[Problem, ...]
    params: SamplingParams
    hint: bool = False

    def prompt(self, task: Task, problem: Problem) -> str:
        return self.prompts(task, [problem])[0]

    def prompts(self, task: Task, problems: Iterable[Problem]) -> list[str]:
        return render_prompts(task.prompt_format, problems, hint=self.hint, shots=self.shots)


def asking(
    task: Task,
    *,
    shots: int,
    temperature: float,
    max_new_tokens: int,
    top_p: float = 1.0,
    top_k: int = 0,
    hint: bool = False,
    answer_only: bool = False,
) -> Asking:
    """With `answer_only` the worked examples show no rationale (the direct baseline)."""
    worked = task.shots[:shots]
    params = SamplingParams(
        temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=max_new_tokens, stop=task.prompt_format.stop
    )
    return Asking(shots=without_rationales(worked) if answer_only else worked, params=params, hint=hint)


def without_rationales(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    return tuple(replace(p, rationale="") for p in problems)


def draw_seeds(run_seed: int, iteration: int, draws: Iterable[Draw]) -> Iterator[int]:
    """The seed of each draw, by the run's seed, the iteration, the draw's kind, problem and index."""
    seeds_of = {kind: seeds_under(run_seed, iteration, kind) for kind in get_args(Kind)}
    return (seeds_of[draw.kind](draw.problem_id, draw.index) for draw in draws)


def draw_chunk(
    engine: Engine,
    task: Task,
    problems: Mapping[str, Problem],
    draws: Sequence[Draw],
    *,
    how: Asking,
    iteration: int,
    run_seed: int,
    on_sample: Callable[[Sample], None] = lambda sample: None,
) -> list[Sample]:
    """Draw and judge one chunk; the samples are in the order of `draws`.

    `on_sample` sees each one as it finishes. Raises EngineError if the engine does not answer every request once.
    """
    prompts = how.prompts(task, (problems[draw.problem_id] for draw in draws))
    seeds = draw_seeds(run_seed, iteration, draws)
    requests = [Request(prompt=prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    found: dict[int, Sample] = {}
    for completion in engine.sample(requests, how.params):
        position = completion.request
        draw = draws[position]
        if position in found:
            raise EngineError(
                f"the engine answered twice for problem {draw.problem_id!r}; this is a fault of the engine"
            )
        found[position] = _judge(task, problems[draw.problem_id], draw, requests[position], completion, iteration)
        on_sample(found[position])
    missing = [draws[i].problem_id for i in range(len(draws)) if i not in found]
    if missing:
        raise EngineError(f"the engine left {len(missing)} of {len(draws)} requests unanswered, first {missing[0]!r}")
    return [found[i] for i in range(len(draws))]


def _judge(
    task: Task, problem: Problem, draw: Draw, request: Request, completion: Completion, iteration: int
) -> Sample:
    verification = task.verifier(completion.text, problem)
    return Sample(
        problem_id=problem.id,
        iteration=iteration,
        kind=draw.kind,
        index=draw.index,
        seed=request.seed,
        prompt_sha256=prompt_sha256(request.prompt),
        completion=completion.text,
        token_ids=completion.token_ids,
        num_tokens=completion.num_tokens,
        finish_reason=completion.finish_reason,
        logprob=completion.logprob,
        prediction=verification.prediction,
        verdict=verification.verdict,
        checks={**run_checks(task, problem, completion.text), **_extraction_check(verification)},
    )


def _extraction_check(verification: Verification) -> dict[str, CheckResult]:
    """Whether strict and lenient extraction agree, for a task that has both."""
    if verification.other is None:
        return {}
    agree = verification.other is verification.verdict
    detail = "" if agree else f"{verification.other} under the other extraction"
    return {"extraction": CheckResult(passed=agree, score=float(agree), detail=detail)}

"""Check the reasoning of completions, and check a task's own answers and solutions."""

from collections.abc import Iterable, Iterator

from selftaught.prompts.rendering import render_completion
from selftaught.records.errors import RefusedError
from selftaught.records.problems import (
    CheckResult,
    Problem,
    Task,
    Verdict,
)


def run_checks(task: Task, problem: Problem, completion: str) -> dict[str, CheckResult]:
    """The task's checks of the reasoning, by name; empty for a task that has none."""
    checks = task.other_checks if task.check_steps is None else {"steps": task.check_steps, **task.other_checks}
    return {name: check(problem, completion) for name, check in checks.items()}


def check_reference_answers(task: Task, problems: Iterable[Problem]) -> None:
    """Raise RefusedError for the first problem whose reference answer or human solution fails.

    A verifier that rejects the reference answers would reject correct completions as well, and nobody would notice.
    Human solutions must also pass the step check, except in a task that is known to have flawed ones.
    """
    for problem, reason in failing_references(task, problems):
        raise RefusedError(f"task {task.name!r}, problem {problem.id!r}: {reason}")


def failing_references(task: Task, problems: Iterable[Problem]) -> Iterator[tuple[Problem, str]]:
    """Every problem that fails (see `check_reference_answers`), and the reason in a sentence."""
    few_shot = set(task.few_shot)
    for problem in problems:
        verification = task.verifier(render_completion(task.prompt_format, problem), problem)
        if verification.verdict is not Verdict.CORRECT:
            yield (
                problem,
                f"the reference answer {problem.answer!r} fails its own verifier (read as "
                f"{verification.prediction!r}, {verification.verdict}); correct the row or the answer format",
            )
            continue
        steps = None if task.has_flawed_solutions and problem not in few_shot else _check_solution(task, problem)
        if steps is not None and not steps.passed:
            yield problem, f"the human solution fails the step check ({steps.detail}); correct the row or the check"


def failing_solutions(task: Task, problems: Iterable[Problem]) -> dict[str, str]:
    """Problem id -> the first mistake in its human solution; for the problems whose solution fails the step check."""
    results = {problem.id: _check_solution(task, problem) for problem in problems}
    return {id: steps.detail for id, steps in results.items() if steps is not None and not steps.passed}


def _check_solution(task: Task, problem: Problem) -> CheckResult | None:
    if not problem.rationale or task.check_steps is None:
        return None
    return task.check_steps(problem, render_completion(task.prompt_format, problem))

"""Judge completions beyond their answers, and a task by its own standard."""

from collections.abc import Iterable, Iterator

from selftaught.errors import RefusedError
from selftaught.problems import CheckResult, Problem, Task, Verdict
from selftaught.prompts import render_completion


def run_checks(task: Task, problem: Problem, completion: str) -> dict[str, CheckResult]:
    """The task's checks of the reasoning, by name; empty for a task that has none."""
    checks = task.other_checks if task.check_steps is None else {"steps": task.check_steps, **task.other_checks}
    return {name: check(problem, completion) for name, check in checks.items()}


def check_reference_answers(task: Task, problems: Iterable[Problem]) -> None:
    """Raise RefusedError for the first problem whose own answer or worked solution does not verify.

    A verifier that rejects its own reference answers would call every right completion wrong, in silence. Worked
    solutions must pass the step check too, but for those of a task that is known to hold flawed ones.
    """
    for problem, what in failing_references(task, problems):
        raise RefusedError(f"task {task.name!r}, problem {problem.id!r}: {what}")


def failing_references(task: Task, problems: Iterable[Problem]) -> Iterator[tuple[Problem, str]]:
    """Every problem that fails by the task's own standard (see `check_reference_answers`), and what it fails."""
    shown = set(task.few_shot)
    for problem in problems:
        found = task.verifier(render_completion(task.prompt_format, problem), problem)
        if found.verdict is not Verdict.CORRECT:
            yield (
                problem,
                f"the reference answer {problem.answer!r} fails its own verifier (read as {found.prediction!r}, "
                f"{found.verdict}); correct the row or the answer format",
            )
            continue
        steps = None if task.has_flawed_solutions and problem not in shown else _check_solution(task, problem)
        if steps is not None and not steps.passed:
            yield problem, f"the worked solution fails the step check ({steps.detail}); correct the row or the check"


def failing_solutions(task: Task, problems: Iterable[Problem]) -> dict[str, str]:
    """Problem id -> what the step check finds wrong with its worked solution; for those that fail."""
    found = {problem.id: _check_solution(task, problem) for problem in problems}
    return {id: steps.detail for id, steps in found.items() if steps is not None and not steps.passed}


def _check_solution(task: Task, problem: Problem) -> CheckResult | None:
    if not problem.rationale or task.check_steps is None:
        return None
    return task.check_steps(problem, render_completion(task.prompt_format, problem))

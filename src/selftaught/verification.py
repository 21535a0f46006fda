"""Judge completions beyond their answers, and a task by its own standard."""

from collections.abc import Iterable

from selftaught.errors import RefusedError
from selftaught.problems import CheckResult, Problem, Task, Verdict
from selftaught.prompts import render_completion


def run_checks(task: Task, problem: Problem, completion: str) -> dict[str, CheckResult]:
    """The task's checks of the reasoning, by name; empty for a task that has none."""
    checks = task.other_checks if task.check_steps is None else {"steps": task.check_steps, **task.other_checks}
    return {name: check(problem, completion) for name, check in checks.items()}


def check_reference_answers(task: Task, problems: Iterable[Problem]) -> None:
    """Raise RefusedError for the first problem whose own answer or worked solution does not verify.

    A verifier that rejects its own reference answers would call every right completion wrong, in silence.
    """
    for problem in problems:
        found = task.verifier(render_completion(task.prompt_format, problem), problem)
        if found.verdict is not Verdict.CORRECT:
            raise RefusedError(
                f"task {task.name!r}, problem {problem.id!r}: the reference answer {problem.answer!r} fails its own "
                f"verifier (read as {found.prediction!r}, {found.verdict}); correct the row or the answer format"
            )
        if problem.rationale and task.check_steps is not None:
            steps = task.check_steps(problem, render_completion(task.prompt_format, problem))
            if not steps.passed:
                raise RefusedError(
                    f"task {task.name!r}, problem {problem.id!r}: the worked solution fails the step check "
                    f"({steps.detail}); correct the row or the check"
                )

"""Judge completions: completion x answer -> verdict and prediction. Total: any text gets a verdict."""

from collections.abc import Iterable

from selftaught.answers import extract, normalize
from selftaught.errors import RefusedError
from selftaught.prompts import render_completion
from selftaught.records import AnswerRule, CheckResult, Problem, Task, Verdict, Verification


def verify(completion: str, answer: str, rule: AnswerRule) -> Verification:
    """Compare the answer that a completion states with the reference answer."""
    prediction = extract(completion, rule)
    if prediction is None:
        return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
    verdict = Verdict.CORRECT if prediction == normalize(answer) else Verdict.INCORRECT
    return Verification(verdict=verdict, prediction=prediction)


def run_checks(task: Task, problem: Problem, completion: str) -> dict[str, CheckResult]:
    """The task's checks of the reasoning, by name; empty for a task that has none."""
    return {"steps": task.check_steps(problem, completion)} if task.check_steps is not None else {}


def check_reference_answers(task: Task, problems: Iterable[Problem]) -> None:
    """Raise RefusedError for the first problem whose own answer or worked solution does not verify.

    A verifier that rejects its own reference answers would call every right completion wrong, in silence.
    """
    for problem in problems:
        found = verify(render_completion(task.prompt_format, problem), problem.answer, task.answer_rule)
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

"""From a completion to a verdict and the results of checks: what follows the end of a thought is judged."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from selftaught.grading.references import run_checks
from selftaught.grading.thoughts import after_thought
from selftaught.records.problems import ChatFormat, CheckResult, Problem, Task, Verdict, Verification, Verifier

NEVER_ENDS = CheckResult(passed=False, share=0.0, detail="the thought never ends")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    verification: Verification
    checks: Mapping[str, CheckResult]
    """As in `Sample.checks`."""


def judge(task: Task, problem: Problem, completion: str) -> Judgement:
    """Verdict and checks of a completion of the task's prompts."""
    opens_thought = isinstance(task.prompt_format, ChatFormat) and task.prompt_format.opens_thought
    verification = verify(task.verifier, problem, completion, opens_thought=opens_thought)
    text = after_thought(completion, opened=opens_thought)
    if text is None:
        return Judgement(verification=verification, checks={"thought": NEVER_ENDS})
    start = len(completion) - len(text)
    checks = {name: _moved(result, start) for name, result in run_checks(task, problem, text).items()}
    return Judgement(verification=verification, checks={**checks, **_extraction_check(verification)})


def verify(verifier: Verifier, problem: Problem, completion: str, *, opens_thought: bool) -> Verification:
    """The verdict on a completion; one whose thought never ends is unparseable.

    `opens_thought` says that its prompt ends inside a thought.
    """
    text = after_thought(completion, opened=opens_thought)
    if text is None:
        return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
    return verifier(text, problem)


def _moved(result: CheckResult, start: int) -> CheckResult:
    """The result of a check of the text that begins at `start` of a completion, for the completion."""
    if result.at is None or not start:
        return result
    first, end = result.at
    return replace(result, at=(first + start, end + start))


def _extraction_check(verification: Verification) -> dict[str, CheckResult]:
    """Whether strict and lenient extraction give the same verdict; empty for a task with one kind of extraction."""
    if verification.other is None:
        return {}
    agree = verification.other is verification.verdict
    detail = "" if agree else f"{verification.other} under the other extraction"
    return {"extraction": CheckResult(passed=agree, share=float(agree), detail=detail)}

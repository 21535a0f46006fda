"""Verifiers: completion x problem -> verdict and prediction. Total: any text gets a verdict."""

from selftaught.answers import AnswerRule, extract, normalize
from selftaught.problems import Problem, Verdict, Verification, Verifier

__all__ = ["tagged_line"]


def tagged_line(rule: AnswerRule) -> Verifier:
    """Compares the line after the reasoning's tags with the reference answer, as text."""

    def verify(completion: str, problem: Problem) -> Verification:
        prediction = extract(completion, rule)
        if prediction is None:
            return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
        verdict = Verdict.CORRECT if prediction == normalize(problem.answer) else Verdict.INCORRECT
        return Verification(verdict=verdict, prediction=prediction)

    return verify

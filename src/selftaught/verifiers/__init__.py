"""Verifiers: completion x problem -> verdict and prediction. Total: any text gets a verdict."""

from selftaught.answers import AnswerRule, extract, normalize
from selftaught.errors import ConfigError
from selftaught.problems import Extraction, Problem, Verdict, Verification, Verifier

__all__ = ["make_verifier", "tagged_line"]


def tagged_line(rule: AnswerRule) -> Verifier:
    """Compares the line after the reasoning's tags with the reference answer, as text."""

    def verify(completion: str, problem: Problem) -> Verification:
        prediction = extract(completion, rule)
        if prediction is None:
            return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
        verdict = Verdict.CORRECT if prediction == normalize(problem.answer) else Verdict.INCORRECT
        return Verification(verdict=verdict, prediction=prediction)

    return verify


def make_verifier(
    name: str,
    *,
    marker: str,
    extraction: Extraction = "strict",
    pattern: str = "",
    function: str = "",
    next_question: tuple[str, ...] = (),
) -> Verifier:
    """A stand-in until the branch `verifiers` is merged."""
    if name not in ("exact", "numeric", "choice", "math", "regex", "python"):
        raise ConfigError(f"unknown verifier {name!r}")

    def verify(completion: str, problem: Problem) -> Verification:
        _, found, rest = completion.lower().partition(marker.lower())
        if not found:
            return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
        prediction = rest.strip().splitlines()[0].strip(" ().") if rest.strip() else ""
        if name == "numeric" and not any(c.isdigit() for c in prediction):
            return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
        right = prediction.casefold() == problem.answer.strip(" ().").casefold()
        return Verification(verdict=Verdict.CORRECT if right else Verdict.INCORRECT, prediction=prediction)

    return verify

"""Verifiers: completion x problem -> verdict and prediction. Total: any text gets a verdict."""

from selftaught.grading.answers import AnswerRule, extract
from selftaught.grading.signs import fold_space
from selftaught.grading.statements import AnswerPlace
from selftaught.grading.verifiers import pooled, text
from selftaught.records.errors import ConfigError
from selftaught.records.problems import (
    Extraction,
    Problem,
    Verdict,
    Verification,
    Verifier,
)

__all__ = ["NAMES", "make_verifier", "tagged_line"]

NAMES = ("exact", "numeric", "choice", "math", "regex", "python")
LIMIT_S = 10.0
"""Wall clock of one call of the verifiers `math`, `regex` and `python`."""


def make_verifier(
    name: str,
    *,
    marker: str,
    extraction: Extraction = "strict",
    pattern: str = "",
    function: str = "",
    next_question: tuple[str, ...] = (),
    limit_s: float = LIMIT_S,
) -> Verifier:
    """The verifier called `name`, one of NAMES (docs/verifiers.md).

    `marker` is the text right before the answer ("####"); without one, strict extraction reads only boxes. `pattern` is
    for `regex`, `function` for `python`. `next_question` are texts with which a next problem begins. Raises ConfigError
    for an unknown name, a missing or wrong argument, or a library that is not installed.
    """
    place = AnswerPlace(marker=marker, next_question=next_question)
    if name == "numeric":
        return text.numeric(place, extraction)
    if name == "choice":
        return text.choice(place, extraction)
    if name == "exact":
        return text.exact(place, extraction)
    if name == "math":
        return pooled.mathematics(place, extraction, limit_s)
    if name == "regex":
        if not pattern:
            raise ConfigError("task.answer_pattern is empty, expected an expression for the verifier regex; set it")
        return pooled.regex(pattern, place, extraction, limit_s)
    if name == "python":
        return pooled.python(function, place, limit_s)
    raise ConfigError(f"task.verifier is {name!r}, expected one of {', '.join(NAMES)}; correct it")


def tagged_line(rule: AnswerRule) -> Verifier:
    """A verifier that compares the line after the reasoning's tags with the reference answer, as text."""

    def verify(completion: str, problem: Problem) -> Verification:
        prediction = extract(completion, rule)
        if prediction is None:
            return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
        verdict = Verdict.CORRECT if prediction == fold_space(problem.answer) else Verdict.INCORRECT
        return Verification(verdict=verdict, prediction=prediction)

    return verify

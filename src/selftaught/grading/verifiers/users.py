"""Verifiers that a user writes as a function of a completion and its problem (docs/verifiers.md)."""

from collections.abc import Callable
from typing import Any

from selftaught.grading.statements import own_part
from selftaught.records.problems import Problem, Verdict, Verification, Verifier


def judgement_of(returned: Any) -> tuple[str, str | None]:
    """The result of a user's function as verdict and prediction; a bare verdict is its own prediction.

    Raises TypeError for what is neither a truth value nor a verdict, alone or with a prediction.
    """
    verdict, prediction = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if isinstance(verdict, bool):
        verdict = Verdict.CORRECT if verdict else Verdict.INCORRECT
    if verdict not in list(Verdict) or not isinstance(prediction, str | None):
        raise TypeError(
            f"the function returned {returned!r:.80}, expected True or False, 'correct', 'incorrect' or 'unparseable', "
            "or one of these and the prediction (a text)"
        )
    if verdict == Verdict.UNPARSEABLE:
        return verdict, None
    return str(verdict), str(verdict) if prediction is None else prediction


def in_this_process(function: Callable[[str, Problem], Any], next_question: tuple[str, ...] = ()) -> Verifier:
    """A verifier that calls the function here, without a time limit, on what stands before a next question.

    It raises what the function raises, and TypeError if that returns no verdict.
    """

    def verify(completion: str, problem: Problem) -> Verification:
        verdict, prediction = judgement_of(function(own_part(completion, next_question), problem))
        return Verification(verdict=Verdict(verdict), prediction=prediction)

    return verify

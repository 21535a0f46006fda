"""A task with a checker of its own: many answers are correct, and the reasoning is recomputed.

    python recipes/own_checker.py [RUN_DIR]

Even numbers are sums of two primes: `verify` judges the answer, `check_steps` every claim before it, and what passes
both is trained on. A function stands in for a model; for yours, set `task.name = "recipes/own_checker.py:load"`.
"""

import re
import sys

import selftaught
from selftaught import CheckResult, ModelRef, NullTrainer, Problem, Verdict, Verification, run

FORMAT = selftaught.PromptFormat(
    question="Q: {question}{hint}\nA:",  # ends where the completion begins
    hint=" (One is {answer}.)",
    completion=" {rationale}\nSum: {answer}",
    answer_only=" Sum: {answer}",
)


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def verify(completion: str, problem: Problem) -> Verification:
    if not (found := re.search(r"Sum: (\d{1,6}) \+ (\d{1,6})\s*\Z", completion)):
        return Verification(verdict=Verdict.UNPARSEABLE, prediction=None)
    a, b = sorted(map(int, found.groups()))
    verdict = Verdict.CORRECT if a + b == int(problem.id) and is_prime(a) and is_prime(b) else Verdict.INCORRECT
    return Verification(verdict=verdict, prediction=f"{a} + {b}")


def check_steps(problem: Problem, completion: str) -> CheckResult:
    claims = [is_prime(int(number)) for number in re.findall(r"(\d{1,6}) is prime", completion)]
    right = [*claims, False].index(False)  # the claims before the first wrong one
    passed = 0 < right == len(claims)
    return CheckResult(passed=passed, share=right / max(1, len(claims)), detail="" if passed else "a wrong claim")


def problem_of(n: int) -> Problem:
    a, b = next((a, n - a) for a in range(3, n) if is_prime(a) and is_prime(n - a))
    claims = f"{a} is prime, {b} is prime."
    return Problem(id=str(n), question=f"Write {n} as a sum of two primes.", answer=f"{a} + {b}", rationale=claims)


def load(settings: object = None) -> selftaught.Task:
    few_shot, dev, test, train = (tuple(map(problem_of, range(first, 406, 8))) for first in (6, 8, 10, 12))
    return selftaught.Task(
        name="primes", prompt_format=FORMAT, verifier=verify, check_steps=check_steps,
        few_shot=few_shot, train=train, dev=dev, test=test,
    )  # fmt: skip


def stand_in(model: ModelRef) -> selftaught.ScriptedEngine:
    """A "model" that tries 3, 5 and so on, one more with every iteration, and with a hint may repeat it blindly."""

    def reply(prompt: str, seed: int) -> str:
        n, *hint = map(int, re.findall(r"\d+", prompt.rpartition("Q: ")[2]))
        tried = [3, 5, 7, 11][: 1 + model.iteration]
        a = hint[0] if hint else next((a for a in tried if is_prime(n - a)), 3)
        return f" {a} is prime, {n - a if a < 12 else n} is prime.\nSum: {a} + {n - a}"

    return selftaught.ScriptedEngine(reply)


def main(run_dir: str | None = None) -> None:
    config = {"model.path": "builtin:adder", "training.learning_rate": 1e-5, "sampling.num_shots": 4}
    selection = {"require": ["answer", "steps"], "require_hinted": ["answer", "steps"]}
    settings = {"selection": selection, "loop.max_iterations": 3}
    result = run(config, settings=settings, task=load(), run_dir=run_dir, engine=stand_in, trainer=NullTrainer)
    for one in result.summaries:
        print(f"iteration {one.iteration}: {one.examples} examples, left out {dict(one.left_out)}")
    print(f"test: base model {result.base.correct}/{result.base.n}, best {result.test.correct}/{result.test.n}")


if __name__ == "__main__":
    main(*sys.argv[1:])

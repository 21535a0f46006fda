"""A method of one's own: work off the backlog.

    python recipes/own_method.py [RUN_DIR]

STaR samples every problem in every iteration. This method samples only those that no model has solved yet, and trains
on everything that was accepted so far. It is the standard method with two other answers: which problems, and what to
train on. What is solved is known from the samples on disk, so a killed run goes on where it was.
A function stands in for a language model, so that the recipe runs in seconds.
"""

import re
import sys
from collections.abc import Iterable, Sequence

import selftaught
from selftaught import ModelRef, NullTrainer, Problem, Sample, ScriptedEngine, StandardMethod, TrainingSet

QUESTIONS = [{"question": f"What is {a} times {b}?", "answer": a * b} for a in range(1, 13) for b in range(1, 13)]
FEW_SHOT = [{"question": "What is 2 times 13?", "rationale": "13 + 13 = 26.", "answer": 26}]


class Backlog(StandardMethod):
    remembers = True
    """It looks at the samples of earlier iterations, so that these are read again when a run is carried on."""

    def choose(self) -> Sequence[Problem]:
        return [problem for problem in super().choose() if problem.id not in self.solved]

    def training_set(self, samples: Iterable[Sample], earlier: Iterable[Sample]) -> TrainingSet:
        everything = [*earlier, *samples]  # few; `training.window = "all"` reads them from disk instead
        return self.as_training_set(self.select(everything), everything)


def stand_in(model: ModelRef) -> ScriptedEngine:
    """A "model" that multiplies up to 16, and 24 further with every iteration that it has learned from."""

    def reply(prompt: str, seed: int) -> str:
        a, b = map(int, re.findall(r"\d+", prompt.rpartition("Q: ")[2])[:2])
        product = a * b if a * b <= 16 + 24 * model.iteration else a * b + 1
        return f" {b} times {a} = {product}.\nThe answer is {product}"

    return ScriptedEngine(reply)


def main(run_dir: str | None = None) -> None:
    task = selftaught.task_from_rows(
        "times", QUESTIONS, few_shot=FEW_SHOT, verifier="numeric", dev_rows=20, test_rows=40
    )
    settings = {
        "model.path": "builtin:adder",  # which is not loaded, because a function stands in
        "sampling": {"num_shots": 1, "max_new_tokens": 64},
        "rationalization.hints": "none",
        "training.learning_rate": 1e-5,
        "training.keep_weights": "all",  # so that every iteration can be measured again
        "loop.max_iterations": 4,
        "method": "custom",
    }
    result = selftaught.run(settings, task=task, run_dir=run_dir, engine=stand_in, trainer=NullTrainer, method=Backlog)
    for one in result.summaries:
        print(
            f"iteration {one.iteration}: sampled {one.rationale.samples}, correct {one.rationale.correct}, "
            f"trained on {one.examples}, dev {one.dev.correct}/{one.dev.n}"
        )
    print(f"test: base model {result.base.correct}/{result.base.n}, best {result.test.correct}/{result.test.n}")


if __name__ == "__main__":
    main(*sys.argv[1:])

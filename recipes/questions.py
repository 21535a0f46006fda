"""STaR on a list of questions in Python: no data file, no config file, one call.

    python recipes/questions.py [RUN_DIR] [MODEL]

MODEL is a folder in Hugging Face format or a hub id. Without one a function stands in for a language model, so that the
recipe runs in seconds: it adds numbers as far as it has got, and a little further with a hint.
What is printed then shows how a run goes, and says nothing about any model.
"""

import re
import sys

import selftaught

QUESTIONS = [
    {"question": f"Ida has {pens} pens and buys {more} more. How many has she now?", "answer": pens + more}
    for pens in range(1, 13)
    for more in range(1, 13)
]
FEW_SHOT = [
    {
        "question": "Tom has 20 pens and buys 3 more. How many has he now?",
        "rationale": "He had 20. 20 + 3 = 23.",
        "answer": 23,
    },
]


def stand_in(model: selftaught.ModelRef) -> selftaught.ScriptedEngine:
    """A "model" that adds up to 8, and 4 further with a hint and with every iteration that it has learned from."""

    def reply(prompt: str, seed: int) -> str:
        pens, more, *hint = map(int, re.findall(r"\d+", prompt.rpartition("Q: ")[2]))
        known = 8 + 4 * model.iteration + (4 if hint else 0)
        total = pens + more if pens + more <= known else pens + more + 1
        return f" She had {pens}. {pens} + {more} = {total}.\nThe answer is {total}"

    return selftaught.ScriptedEngine(reply)


def main(run_dir: str | None = None, model: str | None = None) -> None:
    task = selftaught.task_from_rows(
        "pens", QUESTIONS, few_shot=FEW_SHOT, verifier="numeric", dev_rows=30, test_rows=40
    )
    settings = {
        "model.path": model or "builtin:adder",  # which is not loaded if a function stands in
        "sampling": {"num_shots": 1, "max_new_tokens": 64},
        "training.learning_rate": 1e-5,
        "loop.max_iterations": 3,
    }
    if model is None:
        result = selftaught.run(settings, task=task, run_dir=run_dir, engine=stand_in, trainer=selftaught.NullTrainer)
    else:
        result = selftaught.run(settings, task=task, run_dir=run_dir, progress=True)
    for summary in result.summaries:
        hinted = summary.rationalization
        print(
            f"iteration {summary.iteration}: correct {summary.rationale.correct}/{summary.rationale.samples}, "
            f"with a hint {hinted.correct}/{hinted.samples}, dev {summary.dev.correct}/{summary.dev.n}"
        )
    low, high = result.test.interval
    print(f"test: base model {result.base.correct}/{result.base.n}, iteration {result.best_iteration}", end=" ")
    print(f"{result.test.correct}/{result.test.n} = {result.test.accuracy:.3f} [{low:.3f}, {high:.3f}]")
    print(f"run folder {result.run_dir}; look at it with: selftaught show {result.run_dir}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A task of a few problems, a scripted model for it, and runs of the loop on both: no weights, no torch.

The problems ask for the length of a word. The question says whether the model solves the problem, and whether it needs
a hint for it, so that a test can say in advance what a run must do.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from builders import LEAST
from selftaught.config.loading import config_from_values
from selftaught.engines.scripted import ScriptedEngine
from selftaught.grading.answers import AnswerRule
from selftaught.grading.verifiers import tagged_line
from selftaught.loop import Outcome, run
from selftaught.methods.table import METHODS
from selftaught.records.problems import (
    CheckResult,
    Problem,
    PromptFormat,
    Task,
)
from selftaught.records.samples import ModelRef
from selftaught.runs.store import RunStore
from selftaught.stages.setup import Setup
from selftaught.training.none import NullTrainer
from selftaught.training.trainer import Trainer

FORMAT = PromptFormat(
    question="Q: {question}{hint}\nA:",
    hint=" (answer: {answer})",
    completion=" <r>{rationale}</r>\n{answer}",
    answer_only=" {answer}",
)
RULE = AnswerRule(opener="<r>", closer="</r>", pattern=r"\d+")


def toy_problem(word: str, skill: str, class_name: str = "words") -> Problem:
    """By skill: `easy` is solved without a hint, `hinted` only with one, `never` not at all; `mute` gets no readable
    answer, and `lucky` is solved with wrong reasoning."""
    return Problem(
        id=word, question=f"{word} {skill}", answer=str(len(word)), class_name=class_name, rationale=f"count {word}"
    )


def check_steps(problem: Problem, completion: str) -> CheckResult:
    passed = "count" in completion
    return CheckResult(passed=passed, share=float(passed), detail="" if passed else "no counting")


def reply(prompt: str, seed: int) -> str:
    """The scripted model's completion of a prompt, by the prompt's last question."""
    question = prompt.rpartition("Q: ")[2].partition("\nA:")[0]
    word, _, rest = question.partition(" ")
    skill, _, hint = rest.partition(" ")
    answer = len(word)
    if skill == "mute":
        return " <r>I wonder"
    if skill == "lucky":
        return f" <r>a guess</r>\n{answer}"
    if skill == "easy" or (skill == "hinted" and hint):
        return f" <r>count {word}</r>\n{answer}\n\nQ: and on it goes"
    return f" <r>count {word} badly</r>\n{answer + 1}"


TRAIN = tuple(
    toy_problem(w, s)
    for w, s in (
        ("ant", "easy"),
        ("bear", "hinted"),
        ("cat", "never"),
        ("dingo", "mute"),
        ("eel", "easy"),
        ("fox", "lucky"),
    )
)
DEV = tuple(toy_problem(w, s) for w, s in (("gnu", "easy"), ("hare", "never")))
TEST = tuple(toy_problem(w, s) for w, s in (("ibis", "easy"), ("jackal", "never"), ("koala", "easy")))
FEW_SHOT = tuple(toy_problem(w, "easy") for w in ("lemur", "mole"))


def toy_task(**changes: Any) -> Task:
    values: dict[str, Any] = {
        "name": "toy",
        "prompt_format": FORMAT,
        "verifier": tagged_line(RULE),
        "few_shot": FEW_SHOT,
        "train": TRAIN,
        "dev": DEV,
        "test": TEST,
        "check_steps": check_steps,
    }
    return Task(**{**values, **changes})


def toy_config(method: str = "star", **changes: Any) -> Any:
    values: dict[str, Any] = {
        **LEAST,
        "sampling.num_shots": 2,
        "sampling.num_shots_fine_tuned": 0,
        "training.validation_share": 0.0,
        "training.batch_size": 2,
        "training.steps_first_iteration": 2,
        "training.num_rehearsed": 1 if method == "seeds-only" else 0,
        "training.schedule": "constant",
        "training.warmup_steps": 0,
        "loop.max_iterations": 2,
        **METHODS[method].knobs,
        "method": method,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return config_from_values(values)


def run_toy(
    run_dir: Path,
    *,
    config: Any = None,
    task: Task | None = None,
    chunk: int = 2,
    reply: Callable[[str, int], str] = reply,
    engines: list[ScriptedEngine] | None = None,
    trainer: Trainer | None = None,
    **changes: Any,
) -> Outcome:
    """Run the loop on the toy task; adds every engine that it opens to `engines`, in order."""

    def open_engine(model: ModelRef) -> ScriptedEngine:
        engine = ScriptedEngine(reply)
        if engines is not None:
            engines.append(engine)
        return engine

    with RunStore(run_dir) as store:
        store.cut_torn_tails()
        values: dict[str, Any] = {
            "config": config or toy_config(),
            "task": task or toy_task(),
            "base": ModelRef(path="scripted"),
            "store": store,
            "open_engine": open_engine,
            "open_trainer": lambda: trainer or NullTrainer(),
            "chunk": chunk,
        }
        values["method"] = METHODS[values["config"].method].make(values["config"], values["task"])
        return run(Setup(**{**values, **changes}))


def folder_bytes(run_dir: Path, *names: str) -> dict[str, bytes]:
    """The content of the named files and of every file in the named folders, by relative path."""
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for name in names
        for path in (run_dir / name, *sorted((run_dir / name).rglob("*")))
        if path.is_file()
    }

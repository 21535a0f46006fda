"""Benchmark D, and the fine-tuning of C: how fast rows are learned, and how well."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import flops
from benchmarks.data import FORMAT, read_problems, training_pairs
from benchmarks.record import OURS, Record, Row, speed
from benchmarks.runner import RivalFailed
from benchmarks.session import Options, Rival, Session, in_turn, measured, session
from selftaught.config import load_config
from selftaught.plan import spread_over_classes
from selftaught.tasks import load_task
from selftaught.tokens import Codec

HELD_OUT = 32
WORSE_LOSS = 0.05
"""Nats: a rival (or we) whose loss on held-out rows is higher than the best by more did not learn the same."""

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """What is learned, in one pass over the rows."""

    pairs: Pairs
    held_out: Pairs
    batch_size: int
    learning_rate: float
    settings: Mapping[str, Any]
    """Of selftaught, before --set."""

    @property
    def steps(self) -> int:
        return len(self.pairs) // self.batch_size


def gsm8k(options: Options) -> TrainingJob:
    """D: the released solutions, batches of 8, one epoch."""
    pairs = training_pairs(read_problems(options.data_dir(), "train"), FORMAT)
    return _lesson(pairs[: options.n], pairs[-HELD_OUT:], batch_size=8, learning_rate=2e-5, settings={})


def arithmetic(options: Options) -> TrainingJob:
    """C: the worked solutions of the shipped task, with the shipped training settings, one epoch."""
    config = load_config("arithmetic")
    task = load_task(config.task)
    asked = spread_over_classes([p for p in task.train if p.class_name != "1"], options.n)
    training = config.training
    same = ("weight_decay", "adam_beta2", "max_grad_norm")
    return _lesson(
        training_pairs(asked, task.prompt_format),
        training_pairs(spread_over_classes(task.dev, HELD_OUT), task.prompt_format),
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        settings={
            **{f"training.{name}": getattr(training, name) for name in same},
            "compute.threads": config.compute.threads,
            "compute.workers": config.compute.workers,
        },
    )


def _lesson(
    pairs: Pairs, held_out: Pairs, *, batch_size: int, learning_rate: float, settings: Mapping[str, Any]
) -> TrainingJob:
    own = {
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "training.schedule": "linear",
        "training.validation_share": 0.0,
    }
    return TrainingJob(
        pairs=pairs,
        held_out=held_out,
        batch_size=batch_size,
        learning_rate=learning_rate,
        settings={**own, **settings},
    )


def rivals(lesson: TrainingJob, tokens: int) -> tuple[Rival, ...]:
    """`tokens` is the number in all rows; the packed rows are made so long that the number of steps stays the same.

    bfloat16 is TRL's default, and switched off where the machine is slow in it (`trl_sft.py`).
    """
    same = {
        "num_train_epochs": 1.0,
        **{
            name: lesson.settings[f"training.{name}"]
            for name in ("weight_decay", "adam_beta2", "max_grad_norm")
            if f"training.{name}" in lesson.settings
        },
    }
    batch = {"per_device_train_batch_size": lesson.batch_size}
    tuned = {**same, "gradient_checkpointing": False}
    packed = {"packing": True, "per_device_train_batch_size": 1, "max_length": -(-tokens // lesson.steps // 64) * 64}
    return (
        Rival(name=OURS, module="ours"),
        Rival(name="trl-plain", module="trl_sft", job={"trl": {**same, **batch}}),
        Rival(name="trl-tuned-packed", module="trl_sft", job={"trl": {**tuned, **packed}}),
        Rival(
            name="trl-tuned-sorted",
            module="trl_sft",
            job={"trl": {**tuned, **batch, "train_sampling_strategy": "group_by_length"}},
        ),
    )


def run(
    name: str, options: Options, lesson_of: Callable[[Options], TrainingJob], tell: Callable[[str], None]
) -> Record:
    lesson = lesson_of(options)
    with session(options, tell) as here:
        codec = Codec(here.model_dir)
        rows = [(codec.encode_prompt(p), codec.encode_completion(p, c)) for p, c in lesson.pairs]
        lengths = [len(prompt) + len(completion) + 1 for prompt, completion in rows]
        flop = flops.training_flops(here.shape, row_tokens=lengths, loss_tokens=[len(c) + 1 for _, c in rows])
        job = here.job(
            what="fine-tune",
            n=len(rows),
            pairs=lesson.pairs,
            steps=lesson.steps,
            learning_rate=lesson.learning_rate,
            seed=1,
            settings={**lesson.settings, **options.settings},
        )

        def time_one(rival: Rival, repeat: int, result: dict[str, Any]) -> Row:
            return _row(here, lesson, rival, repeat, result, flop / sum(lengths))

        # The number of steps follows from the epoch where TRL packs rows; ours is told.
        timed = in_turn(here, rivals(lesson, sum(lengths)), time_one, lambda rival: _job_of(rival, job), tell)
        before = _loss(here, lesson, here.model_dir, "loss-before")
        return here.record(
            _judged(timed),
            tell,
            benchmark=name,
            n=len(rows),
            flop_formula=flops.TRAINING_FORMULA,
            arguments={
                "model": options.model.rpartition("/")[2],
                "tokens": sum(lengths),
                "batch_size": lesson.batch_size,
                "learning_rate": lesson.learning_rate,
                "settings": dict(options.settings),
            },
            outputs={
                f"loss on {len(lesson.held_out)} held-out rows": {
                    "before": before,
                    **{row.rival: row.more["held_out_loss"] for row in timed if not row.failed},
                }
            },
        )


def warm_rate(steps: Sequence[Mapping[str, float]]) -> tuple[int, float]:
    """(tokens, seconds) from the end of the first optimizer step to the end of the last.

    Raises RivalFailed for fewer than two steps.
    """
    if len(steps) < 2:
        raise RivalFailed(f"{len(steps)} optimizer steps were seen, and the first one only warms up; use a larger --n")
    return int(steps[-1]["tokens"] - steps[0]["tokens"]), steps[-1]["at"] - steps[0]["at"]


def _job_of(rival: Rival, job: dict[str, Any]) -> dict[str, Any]:
    return job if rival.name == OURS else {**job, "steps": -1}


def _row(
    here: Session, lesson: TrainingJob, rival: Rival, repeat: int, result: Mapping[str, Any], flop_per_token: float
) -> Row:
    tokens, seconds = warm_rate(result["steps"])
    steps = result["steps"]
    return Row(
        rival=rival.name,
        repeat=repeat,
        n=len(lesson.pairs),
        more={
            "settings": result["settings"],
            "steps": len(steps),
            "all_tokens": steps[-1]["tokens"],
            "all_seconds": result["seconds"],
            "first_loss": steps[0]["loss"],
            "last_loss": steps[-1]["loss"],
            "held_out_loss": _loss(here, lesson, result["out"], f"loss-{rival.name}-{repeat}"),
        },
        **measured(result),
        **speed(
            tokens=tokens,
            seconds=seconds,
            load_s=result["seconds"] - seconds,
            flop=flop_per_token * tokens,
        ),
    )


def _loss(here: Session, lesson: TrainingJob, model: str, name: str) -> float:
    found = here.run("reference", here.job(model=model, contexts=[], held_out=lesson.held_out), name)
    here.drop(name)
    return round(float(found["loss"]), 4)


def _judged(rows: Sequence[Row]) -> list[Row]:
    losses = [row.more["held_out_loss"] for row in rows if not row.failed]
    return [
        replace(row, wrong=f"held-out loss {row.more['held_out_loss']} where the best is {min(losses)}")
        if not row.failed and not row.more["held_out_loss"] <= min(losses) + WORSE_LOSS
        else row
        for row in rows
    ]

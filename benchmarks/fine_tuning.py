"""Benchmark D, and the fine-tuning of C: how fast rows are trained on, and how well they are learned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import flops
from benchmarks.data import FORMAT, read_problems, training_pairs
from benchmarks.record import OURS, Record, Row, speed
from benchmarks.runner import RivalFailed
from benchmarks.session import Options, Rival, Session, in_turn, measured, session
from selftaught.config.loading import flat_values, load_config
from selftaught.methods.plan import spread_over_classes
from selftaught.models.tokens import Codec
from selftaught.tasks import load_task

HELD_OUT = 32
WORSE_LOSS = 0.05
"""Nats: the speed of a rival (or ours) does not count if its held-out loss is above the best one by more."""

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningCase:
    """What is trained: one pass over the rows, with these settings."""

    pairs: Pairs
    held_out: Pairs
    batch_size: int
    learning_rate: float
    settings: Mapping[str, Any]
    """Of selftaught, before --set."""

    @property
    def steps(self) -> int:
        return len(self.pairs) // self.batch_size


def gsm8k(options: Options) -> FineTuningCase:
    """D: the released solutions, batches of 8, one epoch."""
    pairs = training_pairs(read_problems(options.data_dir(), "train"), FORMAT)
    return _case(pairs[: options.n], pairs[-HELD_OUT:], batch_size=8, learning_rate=2e-5, settings={})


def arithmetic(options: Options) -> FineTuningCase:
    """C: the human solutions of the shipped task, with the shipped training settings, one epoch."""
    config = load_config("arithmetic")
    task = load_task(config.task)
    problems = spread_over_classes([p for p in task.train if p.class_name != "1"], options.n)
    settings = flat_values(config)
    same = ("training.weight_decay", "training.adam_beta2", "training.max_grad_norm")
    return _case(
        training_pairs(problems, task.prompt_format),
        training_pairs(spread_over_classes(task.dev, HELD_OUT), task.prompt_format),
        batch_size=config.training.batch_size,
        learning_rate=config.training.model_dump()["learning_rate"],
        settings={key: settings[key] for key in (*same, "compute.threads", "compute.workers")},
    )


def _case(
    pairs: Pairs, held_out: Pairs, *, batch_size: int, learning_rate: float, settings: Mapping[str, Any]
) -> FineTuningCase:
    own = {
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "training.schedule": "linear",
        "training.validation_share": 0.0,
    }
    return FineTuningCase(
        pairs=pairs,
        held_out=held_out,
        batch_size=batch_size,
        learning_rate=learning_rate,
        settings={**own, **settings},
    )


def rivals(case: FineTuningCase, tokens: int) -> tuple[Rival, ...]:
    """`tokens` is their number in all rows; packed rows are made so long that the number of steps stays the same.

    bfloat16 is TRL's default; it is switched off where the machine is slow in it (`trl_sft.py`).
    """
    same = {
        "num_train_epochs": 1.0,
        **{
            name: case.settings[f"training.{name}"]
            for name in ("weight_decay", "adam_beta2", "max_grad_norm")
            if f"training.{name}" in case.settings
        },
    }
    batch = {"per_device_train_batch_size": case.batch_size}
    tuned = {**same, "gradient_checkpointing": False}
    packed = {"packing": True, "per_device_train_batch_size": 1, "max_length": -(-tokens // case.steps // 64) * 64}
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
    name: str, options: Options, case_of: Callable[[Options], FineTuningCase], log: Callable[[str], None]
) -> Record:
    case = case_of(options)
    with session(options, log) as here:
        codec = Codec(here.model_dir)
        rows = [(codec.encode_prompt(p), codec.encode_completion(p, c)) for p, c in case.pairs]
        lengths = [len(prompt) + len(completion) + 1 for prompt, completion in rows]
        flop = flops.training_flops(here.shape, row_tokens=lengths, loss_tokens=[len(c) + 1 for _, c in rows])
        job = here.job(
            what="fine-tune",
            n=len(rows),
            pairs=case.pairs,
            steps=case.steps,
            learning_rate=case.learning_rate,
            seed=1,
            settings={**case.settings, **options.settings},
        )

        def time_one(rival: Rival, repeat: int, result: dict[str, Any]) -> Row:
            return _row(here, case, rival, repeat, result, flop / sum(lengths))

        # Ours gets the number of steps; TRL gets one epoch, since its packing decides the number of its rows.
        timed = in_turn(here, rivals(case, sum(lengths)), time_one, lambda rival: _job_of(rival, job), log)
        before = _loss(here, case, here.model_dir, "loss-before")
        return here.record(
            _judged(timed),
            log,
            benchmark=name,
            n=len(rows),
            flop_formula=flops.TRAINING_FORMULA,
            arguments={
                "model": options.model.rpartition("/")[2],
                "tokens": sum(lengths),
                "batch_size": case.batch_size,
                "learning_rate": case.learning_rate,
                "settings": dict(options.settings),
            },
            outputs={
                f"loss on {len(case.held_out)} held-out rows": {
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
        raise RivalFailed(f"{len(steps)} optimizer steps were made, and the first one only warms up; use a larger --n")
    return int(steps[-1]["tokens"] - steps[0]["tokens"]), steps[-1]["at"] - steps[0]["at"]


def _job_of(rival: Rival, job: dict[str, Any]) -> dict[str, Any]:
    return job if rival.name == OURS else {**job, "steps": -1}


def _row(
    here: Session, case: FineTuningCase, rival: Rival, repeat: int, result: Mapping[str, Any], flop_per_token: float
) -> Row:
    tokens, seconds = warm_rate(result["steps"])
    steps = result["steps"]
    return Row(
        rival=rival.name,
        repeat=repeat,
        n=len(case.pairs),
        more={
            "settings": result["settings"],
            "steps": len(steps),
            "all_tokens": steps[-1]["tokens"],
            "all_seconds": result["seconds"],
            "first_loss": steps[0]["loss"],
            "last_loss": steps[-1]["loss"],
            "held_out_loss": _loss(here, case, result["out"], f"loss-{rival.name}-{repeat}"),
        },
        **measured(result),
        **speed(
            tokens=tokens,
            seconds=seconds,
            load_s=result["seconds"] - seconds,
            flop=flop_per_token * tokens,
        ),
    )


def _loss(here: Session, case: FineTuningCase, model: str, name: str) -> float:
    result = here.run("reference", here.job(model=model, contexts=[], held_out=case.held_out), name)
    here.drop(name)
    return round(float(result["loss"]), 4)


def _judged(rows: Sequence[Row]) -> list[Row]:
    losses = [row.more["held_out_loss"] for row in rows if not row.failed]
    return [
        replace(row, wrong=f"held-out loss {row.more['held_out_loss']} where the best is {min(losses)}")
        if not row.failed and not row.more["held_out_loss"] <= min(losses) + WORSE_LOSS
        else row
        for row in rows
    ]

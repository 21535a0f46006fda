"""Benchmark E: one complete STaR iteration beside the small script."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from benchmarks import flops
from benchmarks.data import NUM_SHOTS, gsm8k_task, read_problems
from benchmarks.record import OURS, Record, Row, speed
from benchmarks.session import Options, Rival, Session, in_turn, measured, session

MAX_NEW_TOKENS = 128
BATCH_SIZE = 8
LEARNING_RATE = 2e-5

FORMULA = f"generation, per group: {flops.GENERATION_FORMULA}; training: {flops.TRAINING_FORMULA}"

RIVALS = (
    Rival(name=OURS, module="our_iteration"),
    Rival(name="small-script", module="small_script", job={"trl": {}}),
)


def run(name: str, options: Options, *, steps: int, log: Callable[[str], None]) -> Record:
    """`steps` is the number of optimizer steps of 8 rows, the same for both."""
    task = gsm8k_task(read_problems(options.data_dir(), "train"), options.n)
    settings = {
        "sampling.num_shots": NUM_SHOTS,
        "sampling.max_new_tokens": MAX_NEW_TOKENS,
        "rationalization.hints": "failed",
        "training.batch_size": BATCH_SIZE,
        "training.learning_rate": LEARNING_RATE,
        "training.schedule": "linear",
        "training.steps_first_iteration": steps,
        "training.max_epochs": 1000.0,  # no cap: the script has none
        "training.validation_share": 0.0,
        **options.settings,
    }
    with session(options, log) as here:
        job = here.job(
            n=options.n,
            number=options.n,
            data=str(options.data_dir().resolve()),
            settings=settings,
            few_shot=[asdict(problem) for problem in task.few_shot],
            problems=[asdict(problem) for problem in task.train],
            max_new_tokens=MAX_NEW_TOKENS,
            steps=steps,
            learning_rate=LEARNING_RATE,
            seed=1,
        )

        def time_one(rival: Rival, repeat: int, result: dict[str, Any]) -> Row:
            return _row(here, rival, repeat, result)

        rows = in_turn(here, RIVALS, time_one, lambda rival: job, log)
        return here.record(
            rows,
            log,
            benchmark=name,
            n=options.n,
            flop_formula=FORMULA,
            arguments={"model": options.model.rpartition("/")[2], "steps": steps, "settings": settings},
            outputs={**{f"{row.rival}, repeat {row.repeat + 1}": _facts(row) for row in rows}, **_ratio(rows)},
        )


def _facts(row: Row) -> Mapping[str, Any]:
    names = ("kept", "still_failed", "first_loss", "last_loss", "seconds_by_stage")
    return {name: row.more[name] for name in names if name in row.more}


def _row(here: Session, rival: Rival, repeat: int, result: Mapping[str, Any]) -> Row:
    laps = result["laps"]
    seconds = sum(spent for name, spent in laps.items() if name != "load")
    generated = sum(sum(group["generated_tokens"]) for group in result["work"]["generations"])
    trained = int(result["trained_tokens"])
    return Row(
        rival=rival.name,
        repeat=repeat,
        n=here.options.n,
        more={
            "seconds_by_stage": laps,
            "iteration_seconds": result["seconds"],
            "generated_tokens": generated,
            "trained_tokens": trained,
            "kept": result["kept"],
            "still_failed": result["still_failed"],
            "first_loss": result["steps"][0]["loss"],
            "last_loss": result["steps"][-1]["loss"],
            "settings": result.get("settings", {}),
        },
        **measured(result),
        **speed(
            tokens=generated + trained,
            seconds=seconds,
            load_s=result["seconds"] - seconds,
            flop=_flop(here.shape, result["work"], trained),
        ),
    )


def _flop(shape: flops.ModelShape, work: Mapping[str, Any], trained_tokens: int) -> float:
    """Operations of the generation, and of training on `trained_tokens` tokens of the kept rows."""
    generation = sum(
        flops.generation_flops(
            shape,
            shared_prefix=flops.shared_prefix(group["prompts"]),
            prompt_tokens=[len(ids) for ids in group["prompts"]],
            generated_tokens=group["generated_tokens"],
        )
        for group in work["generations"]
    )
    epoch = flops.training_flops(shape, row_tokens=work["row_tokens"], loss_tokens=work["loss_tokens"])
    return float(generation + epoch * trained_tokens / sum(work["row_tokens"]))


def _ratio(rows: list[Row]) -> dict[str, float]:
    """The script's mean time for an iteration over ours, loading included; empty if one of them did not run."""
    times: dict[str, list[float]] = {}
    for row in rows:
        if not row.failed:
            times.setdefault(row.rival, []).append(row.more["iteration_seconds"])
    if len(times) < 2:
        return {}
    mean = {name: sum(seconds) / len(seconds) for name, seconds in times.items()}
    return {"small script's seconds over ours": round(mean["small-script"] / mean[OURS], 2)}

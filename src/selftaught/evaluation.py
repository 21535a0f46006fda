"""Measure a model or a run's result on a split, outside the loop: the same sampling and the same judging."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from selftaught.commands import command
from selftaught.compute import check_engine, engine_opener, further_workers, resolve
from selftaught.config import (
    config_from_values,
    config_without_training,
    flat_values,
    load_config,
    shipped_configs,
    with_homes,
)
from selftaught.errors import ConfigError, StoreError
from selftaught.launch import check_before_start, config_of_run, refuse_other_data, task_of
from selftaught.methods import Value
from selftaught.metrics import measure
from selftaught.paths import link_to_nothing
from selftaught.plan import planned_samples
from selftaught.problems import SPLITS, by_id
from selftaught.records import Measurement, ModelRef, Sample
from selftaught.sampling import generate_in_chunks, measured_problems, sampling_spec
from selftaught.settings import RunConfig
from selftaught.store import read_result
from selftaught.weights import model_in_folder, resolve_model


@dataclass(frozen=True, slots=True)
class Target:
    """A model to measure, with the settings that it was trained under (the defaults for a model outside a run)."""

    model: ModelRef
    config: RunConfig
    iteration: int
    num_shots: int
    run_dir: Path | None = None
    """The run that the model is of."""


def find_target(name: str, *, task: str | None) -> Target:
    """A run folder (its result), a checkpoint in one, or a model: a folder, a hub id, or builtin:adder.

    A model outside a run needs a task. It takes the settings of the task's shipped config if that names this model,
    else the defaults.
    """
    folder = Path(name)
    if os.path.isfile(folder / "run.json"):  # False, not an error, for a name that no file could have
        return _target_of_run(folder)
    if os.path.isfile(folder / "checkpoint.json") and os.path.isfile(folder.parent.parent / "run.json"):
        config = config_of_run(folder.parent.parent)
        iteration = int(folder.name)
        model, run_dir = model_in_folder(folder), folder.parent.parent
        return Target(model, config, iteration, config.sampling.num_shots_for(fine_tuned=True), run_dir)
    if task is None:
        raise ConfigError(_no_run(name))
    config = config_without_training({"task.name": task, "model.path": name})
    if task in shipped_configs() and (shipped := load_config(task)).model.path == name:
        config = shipped
    return Target(resolve_model(name), config, 0, config.sampling.num_shots)


def evaluate(
    target: Target,
    *,
    task_name: str | None,
    variant: str | None,
    split: str,
    num_shots: int | None,
    num_samples: int,
    temperature: float | None,
    max_new_tokens: int | None,
    overrides: Mapping[str, Value] | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Measurement:
    """Generate `samples` completions per problem of a split and measure them; dev and test as far as the config says.

    Greedy for one sample, temperature 0.7 for several unless another one is given. What is not given comes from the
    target's config, with `overrides` on top. `note` is called if a server outside is measured, since nothing here
    proves which weights it serves. Raises ConfigError for settings that the task or the split cannot serve, and for an
    override of what has an argument of its own.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    temperature = temperature if temperature is not None else (0.0 if num_samples == 1 else 0.7)
    given: dict[str, Value | None] = {
        "task.name": task_name,
        "task.variant": variant,
        "sampling.num_samples": num_samples,
        "sampling.temperature": temperature,
        "sampling.num_shots": target.num_shots if num_shots is None else num_shots,
        "sampling.max_new_tokens": max_new_tokens,
    }
    config = _with(target.config, given, overrides or {})
    task = task_of(config)
    if target.run_dir is not None and _data_of(config) == _data_of(target.config):
        refuse_other_data(target.run_dir, task)
    check_before_start(config, task)
    check_engine(config)
    problems = measured_problems(config, task, split)
    if not problems:
        raise ConfigError(f"task {task.name!r} has no {split} split")
    resolved = resolve(config, target.model)
    samples_of_problems: list[Sample] = []
    with further_workers(resolved) as workers:
        engine = engine_opener(config, resolved, workers)(target.model)
        if engine.serves is not None:
            note(f"measured: what {config.engine.url} serves, by its own word {engine.serves!r}")
        try:
            for chunk in generate_in_chunks(
                lambda: engine,
                task,
                by_id(problems),
                planned_samples(problems, kind="evaluation", samples=num_samples),
                spec=sampling_spec(config, task, num_shots=config.sampling.num_shots, temperature=temperature),
                iteration=target.iteration,
                run_seed=config.seed,
                chunk=resolved.chunk_completions,
            ):
                samples_of_problems += chunk
        finally:
            engine.close()
    return measure(
        problems,
        samples_of_problems,
        task=task.name,
        split=split,
        iteration=target.iteration,
        num_shots=config.sampling.num_shots,
        temperature=temperature,
        has_step_check=task.check_steps is not None,
    )


HOW_MANY = {"choose", "problems_per_iteration", "dev_problems", "test_problems", "extraction"}


def _data_of(config: RunConfig) -> dict[str, Value]:
    """The settings that say which problems a task has, as opposed to how many of them are used."""
    return config.task.model_dump(exclude=HOW_MANY)


def _with(config: RunConfig, given: Mapping[str, Value | None], overrides: Mapping[str, Value]) -> RunConfig:
    """A config with overrides and the arguments that were given."""
    if fixed := sorted(overrides.keys() & {*given, "model.path"}):
        raise ConfigError(f"--set {fixed[0]}: eval takes it from an argument of its own; see `selftaught eval --help`")
    values = {**flat_values(config), **overrides, **{key: v for key, v in given.items() if v is not None}}
    return with_homes(config_from_values(values, lambda key: "eval"))


def _no_run(name: str) -> str:
    """Why a target without a task is none: what is there, or that nothing is."""
    if name.startswith("builtin:"):
        return f"{name!r} is a model of no run, so --task is needed; see `selftaught tasks`"
    if os.path.isdir(name):
        return (
            f"{name!r} is no run folder (no run.json in it); give the folder of a run, or for a model folder the task "
            "to measure on, --task"
        )
    if os.path.exists(name):
        return f"{name!r} is a file; give the folder of a run, or the folder of a model and --task"
    found = link_to_nothing(Path(name)) or f"no such folder{'' if os.path.isabs(name) else f' in {os.getcwd()}'}"
    return f"{name!r}: {found}; give the folder of a run, or for a model on the hub the task to measure on, --task"


def _target_of_run(folder: Path) -> Target:
    config = config_of_run(folder)
    result = read_result(folder)
    if result is None:
        models = sorted(
            path.parent for path in folder.glob("checkpoints/*/checkpoint.json") if path.parent.suffix == ""
        )
        raise StoreError(
            f"{folder} has not finished, so it has no result yet; finish it with "
            f"`{command('run', '--resume', folder)}`"
            + (f", or give one of its models, such as {models[-1]}" if models else "; it has no model of its own yet")
        )
    best = int(result["best_iteration"])
    sampling = config.sampling
    if best == 0:
        return Target(resolve_model(config.model.path), config, 0, sampling.num_shots, folder)
    model = model_in_folder(folder / str(result["checkpoint"]))
    return Target(model, config, best, sampling.num_shots_for(fine_tuned=True), folder)

"""Measure a model or the result of a run on a split, outside the loop but sampled and verified as in it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from selftaught.commands.prompt_check import place_of, room_of
from selftaught.commands.run import check_before_start
from selftaught.commands.stored_run import chat_of_run, config_of_run, in_format, refuse_other_data, task_of
from selftaught.config.chat import ChatResolved, resolve_chat
from selftaught.config.loading import (
    config_from_values,
    config_without_training,
    flat_values,
    load_config,
    overridden,
    shipped_configs,
    with_homes,
)
from selftaught.config.resolving import Resolved, resolve
from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine, ServedEngine
from selftaught.machine.command_lines import command
from selftaught.machine.paths import link_to_nothing
from selftaught.machine.workers import Workers
from selftaught.methods.metrics import Conditions, measure
from selftaught.methods.plan import planned_samples
from selftaught.models.adapters import base_folder, is_adapter
from selftaught.models.folder import ADAPTER_CONFIG
from selftaught.models.weights import model_in_folder, resolve_model
from selftaught.records.errors import ConfigError, RefusedError, StoreError
from selftaught.records.measurements import Measurement
from selftaught.records.problems import SPLITS, Problem, Task, by_id
from selftaught.records.samples import ModelRef, Sample
from selftaught.records.sections import Value
from selftaught.runs.reading import read_result
from selftaught.runs.store import RunStore
from selftaught.stages.prompt_lengths import Ask, refuse_too_long
from selftaught.stages.sampling import Sampling, generate_chunk, measured_problems, sampling_spec


@dataclass(frozen=True, slots=True)
class Target:
    """A model to measure, with the settings of its run (the defaults for a model outside a run)."""

    model: ModelRef
    config: RunConfig
    iteration: int
    num_shots: int
    run_dir: Path | None = None
    """The run of the model, if it has one."""


def find_target(name: str, *, task: str | None) -> Target:
    """The target of a name: a run folder (its result), a checkpoint in one, or a model (folder, hub id, builtin:adder).

    A model outside a run needs a task. Its settings are those of the task's shipped config if that names this model,
    else the defaults.
    """
    folder = Path(name)
    if os.path.isfile(folder / "run.json"):  # False, not an error, for a name that no file could have
        return _target_of_run(folder)
    if os.path.isfile(folder / "checkpoint.json") and os.path.isfile(folder.parent.parent / "run.json"):
        config = config_of_run(folder.parent.parent)
        iteration, run_dir = int(folder.name), folder.parent.parent
        model = _model_of(folder, iteration, run_dir)
        return Target(model, config, iteration, config.sampling.num_shots_for(fine_tuned=True), run_dir)
    if task is None:
        raise ConfigError(_no_run(name))
    config = config_without_training({"task.name": task, "model.path": name})
    if task in shipped_configs() and (shipped := load_config(task)).model.path == name:
        config = shipped
    return Target(resolve_model(name), config, 0, config.sampling.num_shots)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedSampling:
    """How to sample from a target; what is None is as in its settings."""

    task_name: str | None = None
    num_shots: int | None = None
    num_samples: int = 1
    """Completions per problem, K."""
    temperature: float | None = None
    """None is greedy for one sample, and 0.7 for several."""
    max_new_tokens: int | None = None
    overrides: Mapping[str, Value] = field(default_factory=dict)
    """Other settings."""

    def settings(self, target: Target) -> dict[str, Value | None]:
        """The settings that have an argument of their own."""
        greedy = 0.0 if self.num_samples == 1 else 0.7
        return {
            "task.name": self.task_name,
            "sampling.num_samples": self.num_samples,
            "sampling.temperature": greedy if self.temperature is None else self.temperature,
            "sampling.num_shots": target.num_shots if self.num_shots is None else self.num_shots,
            "sampling.max_new_tokens": self.max_new_tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(AskedSampling):
    """How a target is to be measured."""

    split: str
    variant: str | None = None

    def settings(self, target: Target) -> dict[str, Value | None]:
        return {"task.variant": self.variant, **AskedSampling.settings(self, target)}


def evaluate(target: Target, asked: Asked, *, note: Callable[[str], None] = lambda line: None) -> Measurement:
    """Sample the completions of a split and measure them; the target's config limits dev and test.

    For an external server, `note` is called with what the server says it serves, because nothing here checks it. Raises
    ConfigError for settings that the task or the split cannot be measured with, and for an override of a setting that
    has its own argument.
    """
    split = asked.split
    if split not in SPLITS:
        raise ConfigError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    config = config_for(target, asked, command_name="eval")
    chat = chat_for(target, config)
    task = in_format(task_for(target, config), config, chat)
    check_before_start(config, task)
    config.engine.check()
    problems = measured_problems(config, task, split)
    if not problems:
        raise ConfigError(f"task {task.name!r} has no {split} split")
    samples = _samples(config, resolve(config, target.model, chat), task, problems, target, note)
    return measure(
        problems,
        samples,
        Conditions(
            task=task.name,
            split=split,
            iteration=target.iteration,
            num_shots=config.sampling.num_shots,
            temperature=config.sampling.temperature,
            has_step_check=task.check_steps is not None,
        ),
    )


def _samples(
    config: RunConfig,
    resolved: Resolved,
    task: Task,
    problems: Sequence[Problem],
    target: Target,
    note: Callable[[str], None],
) -> list[Sample]:
    spec = sampling_spec(config, task, num_shots=config.sampling.num_shots, temperature=config.sampling.temperature)
    if config.engine.computes_here:
        refuse_too_long(
            room_of(config, Path(target.model.path), resolved.chat),
            task,
            (Ask(spec=spec, problems=tuple(problems)),),
            place=lambda problem: place_of(config, problem),
        )
    sampling = Sampling(
        task=task,
        problems=by_id(problems),
        model=target.model,
        spec=spec,
        iteration=target.iteration,
        run_seed=config.seed,
    )
    planned = planned_samples(problems, kind="evaluation", num_samples=config.sampling.num_samples)
    samples: list[Sample] = []
    with opened_engine(resolved, config, target.model) as engine:
        if isinstance(engine, ServedEngine):
            note(f"measured: what {engine.address} serves; the server names {engine.serves!r}")
        while plans := tuple(islice(planned, resolved.chunk_completions)):
            samples += generate_chunk(engine, sampling, plans)
    return samples


@contextmanager
def opened_engine(resolved: Resolved, config: RunConfig, model: ModelRef) -> Iterator[Engine]:
    """The resolved engine, open on a model outside the loop, with the workers that it uses."""
    with Workers(resolved.workers - 1) as workers:
        opening = resolved.opening(workers, trust_remote_code=config.model.trust_remote_code)
        engine = resolved.engine.opener(opening)(model)
        try:
            yield engine
        finally:
            engine.close()


PROMPTS = {"model.prompt_format", "model.system", "model.thinking", "model.template_date"}
"""The settings that must be the same wherever a model is used."""
SETTINGS_OF_USE = {"choose", "problems_per_iteration", "dev_problems", "test_problems", "extraction"}
"""The settings of [task] that do not change which problems the task has."""


def _data_of(config: RunConfig) -> dict[str, Value]:
    """The settings that decide which problems a task has."""
    return config.task.model_dump(exclude=SETTINGS_OF_USE)


def config_for(target: Target, asked: AskedSampling, *, command_name: str) -> RunConfig:
    """The target's config with what is asked. Raises ConfigError for an override of a setting that has an argument of
    its own."""
    given = asked.settings(target)
    if fixed := sorted(asked.overrides.keys() & {*given, "model.path"}):
        raise ConfigError(
            f"--set {fixed[0]}: `{command_name}` has an argument of its own for it; see "
            f"`selftaught {command_name} --help`"
        )
    if target.run_dir is not None and (fixed := sorted(asked.overrides.keys() & PROMPTS)):
        raise ConfigError(
            f"--set {fixed[0]}: the prompts of a run's model are rendered as in the run; leave it out, or start a run "
            "with it"
        )
    set_ones = {key: value for key, value in given.items() if value is not None}
    values = overridden(flat_values(target.config), {**asked.overrides, **set_ones})
    return with_homes(config_from_values(values, lambda key: command_name))


def chat_for(target: Target, config: RunConfig) -> ChatResolved | None:
    """How the prompts of a target are rendered: those of a run's model as in the run. None for text."""
    if target.run_dir is not None:
        return chat_of_run(target.run_dir)
    return resolve_chat(config.model, Path(target.model.path))


def task_for(target: Target, config: RunConfig) -> Task:
    """The task of a target's config. Raises RefusedError if its problems are not those that the target's run has."""
    task = task_of(config)
    if target.run_dir is not None and _data_of(config) == _data_of(target.config):
        refuse_other_data(target.run_dir, task)
    return task


def _no_run(name: str) -> str:
    """Why `name` cannot be measured without a task."""
    if name.startswith("builtin:"):
        return f"{name!r} belongs to no run, so --task is needed; see `selftaught tasks`"
    if os.path.isdir(name):
        return (
            f"{name!r} is no run folder (no run.json in it); give the folder of a run, or for a model folder the task "
            "to measure on, --task"
        )
    if os.path.exists(name):
        return f"{name!r} is a file; give the folder of a run, or the folder of a model and --task"
    reason = link_to_nothing(Path(name)) or f"no such folder{'' if os.path.isabs(name) else f' in {os.getcwd()}'}"
    return f"{name!r}: {reason}; give the folder of a run, or for a model on the hub the task to measure on, --task"


def _model_of(folder: Path, iteration: int, run_dir: Path) -> ModelRef:
    """The model of an iteration. Raises RefusedError for adapters if they or their base are not those of the run."""
    model = replace(model_in_folder(folder), checkpoint=iteration)
    checkpoint = RunStore(run_dir).checkpoint(iteration)
    if checkpoint is not None and is_adapter(folder) and model.sha256 != checkpoint.sha256:
        raise RefusedError(
            f"{folder} holds adapters that with their base model {base_folder(folder)} make other weights than the "
            f"run's (sha256 {(model.sha256 or '')[:12]}, expected {checkpoint.sha256[:12]}); restore the base model, "
            f"or correct base_model_name_or_path in {folder / ADAPTER_CONFIG}"
        )
    return model


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
    model = _model_of(folder / str(result["checkpoint"]), best, folder)
    return Target(model, config, best, sampling.num_shots_for(fine_tuned=True), folder)

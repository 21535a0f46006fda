"""`tasks check`: everything that can be known of a task before a run, problem by problem, and three filled prompts.

A run stops at the first mistake; this counts all of them. It only reads, and fetches no model.
"""

import os
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught.commands.prompt_check import places_of, room_of
from selftaught.commands.setting_check import check_settings
from selftaught.commands.stored_run import in_format, task_of
from selftaught.config.chat import ChatResolved, resolve_chat
from selftaught.config.loading import (
    config_without_training,
    load_config,
    parse_overrides,
    shipped_configs,
    with_homes,
)
from selftaught.config.settings import RunConfig
from selftaught.grading.references import failing_references, failing_solutions, run_checks
from selftaught.methods.training_set import examples_from_solutions
from selftaught.models.weights import check_model_path
from selftaught.prompts.rendering import prompt_text, render_completion, render_prompt, render_prompts
from selftaught.records.errors import ConfigError
from selftaught.records.problems import SPLITS, Problem, Task
from selftaught.records.prompts import Prompt
from selftaught.records.sections import Value
from selftaught.stages.prompt_lengths import Room, asks_of_run, too_long
from selftaught.tasks import TASKS
from selftaught.tasks.near_duplicates import near_duplicates
from selftaught.tasks.splits import key_of_problem

LISTED = 5
"""Of the problems that something is wrong with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCheck:
    facts: dict[str, Any]
    """By name, ready for JSON."""
    prompts: dict[str, str]
    """Title -> text."""
    refusals: tuple[str, ...]
    """Why `run` would refuse to start, one line each."""


@dataclass(frozen=True, slots=True)
class _Ruler:
    """Measures prompts, in tokens of the config's model where that is here, else in words."""

    unit: str
    lengths: Callable[[Sequence[Prompt]], list[int]]
    text: Callable[[Prompt], str] = prompt_text
    """A prompt as the model gets it."""
    room: Room | None = None


def check_task(
    name_or_config: str, overrides: Sequence[str] = (), *, variant: str | None = None, data_seed: int = 0
) -> TaskCheck:
    """Check a task by name (with the settings of its shipped config, if it has one) or the task of a config file.

    Raises what the start of a run raises for data that cannot be read, for splits that overlap, and for a model that
    is on this machine and cannot be used.
    """
    config = _config(name_or_config, overrides, variant, data_seed)
    folder = _model_folder(config)
    chat = resolve_chat(config.model, folder) if folder else None
    ruler = _ruler(config, folder, chat)
    task = in_format(task_of(config), config, chat)
    check_settings(config, task)
    places = places_of(config)
    failing = [
        f"{places.get(problem.id, problem.id)}: {what}"
        for problem, what in failing_references(task, task.examples_and_problems())
    ]
    long = list(too_long(ruler.room, task, asks_of_run(config, task))) if ruler.room else []
    flawed = failing_solutions(task, task.examples_and_problems()) if task.has_flawed_solutions else {}
    context = ruler.room.context if ruler.room else None
    refusals = []
    if failing:
        refusals.append(f"{len(failing)} reference answers or human solutions fail, first {failing[0]}")
    if long:
        refusals.append(
            f"{len(long)} prompts and sampling.max_new_tokens = {config.sampling.max_new_tokens} exceed the "
            f"model's context of {context}, first problem {places.get(long[0], long[0])}; use fewer "
            "few-shot examples, fewer new tokens or a model with a longer context"
        )
    near = near_duplicates(
        {"the few-shot examples": task.few_shot, **{name: task.split(name) for name in SPLITS}},
        ("test", "dev", "extrapolation"),
    )
    facts: dict[str, Any] = {"task": task.name, "lengths_in": ruler.unit}
    facts |= {split: _split_facts(task, task.split(split), ruler) for split in SPLITS}
    few_shot = task.few_shot[: config.sampling.num_shots]
    facts |= {
        "few_shot_examples": {
            "there": len(task.few_shot),
            "in_the_prompt": len(few_shot),
            "length": _prefix_length(task, few_shot, ruler),
        },
        "seen_by_shipped_models": len(task.seen),
        "step_check": task.check_steps is not None,
        "checks_of_human_solutions": _rates(task),
        "failing_answers": {"number": len(failing), "first": failing[:LISTED]},
        "flawed_solutions": {
            "number": len(flawed),
            "first": [f"{places.get(id, id)}: {detail}" for id, detail in list(flawed.items())[:LISTED]],
        },
        "read_as": {"number": len(task.reading), "first": list(task.reading)},
        "left_out": {"number": len(task.notes), "first": list(task.notes)},
        "context": context,
        "prompts_that_do_not_fit": {"number": len(long), "first": [places.get(i, i) for i in long[:LISTED]]},
        "duplicates": _duplicates(task, places),
        "near_duplicates_across_splits": {
            "number": len(near),
            "first": [
                f"{places.get(pair.problem.id, pair.problem.id)} ({pair.split}) is {pair.likeness:.0%} like "
                f"{places.get(pair.other.id, pair.other.id)} ({pair.other_split})"
                for pair in near[:LISTED]
            ],
        },
    }
    return TaskCheck(facts=facts, prompts=_prompts(config, task, ruler), refusals=tuple(refusals))


def check_text(checked: TaskCheck) -> str:
    """The facts for a person to read, then the filled prompts."""
    lines: list[str] = []
    for name, value in checked.facts.items():
        if not isinstance(value, dict):
            lines.append(f"{name}: {value}")
            continue
        first = value.get("first", [])
        lines.append(
            f"{name}: " + ", ".join(f"{key} {_in_words(inner)}" for key, inner in value.items() if key != "first")
        )
        lines += [f"  {line}" for line in first]
    for name, prompt in checked.prompts.items():
        lines += ["", f"# {name}", prompt]
    return "\n".join(lines)


def _config(name: str, overrides: Sequence[str], variant: str | None, data_seed: int) -> RunConfig:
    is_path = os.path.isfile(name) or (name not in TASKS and os.path.lexists(name))
    if is_path or name in shipped_configs():
        given = [f'task.variant="{variant}"'] if variant else []
        given += [f"task.data_seed={data_seed}"] if data_seed else []
        return load_config(name, [*given, *overrides])
    if name not in TASKS and ":" not in name:
        raise ConfigError(f"unknown task {name!r}, and no such config file; known tasks: {', '.join(sorted(TASKS))}")
    values: dict[str, Value] = {"task.name": name, "task.variant": variant, "task.data_seed": data_seed}
    values |= parse_overrides(overrides)
    return with_homes(config_without_training({"sampling.num_shots": 0, **values}, lambda key: "tasks check"))


def _model_folder(config: RunConfig) -> Path | None:
    """Where the config's model is; None if it is not on this machine."""
    path = config.model.path
    return check_model_path(path) if path.startswith("builtin:") or os.path.lexists(path) else None


def _ruler(config: RunConfig, folder: Path | None, chat: ChatResolved | None) -> _Ruler:
    path = config.model.path
    if folder is None:
        return _Ruler(f"words (no tokenizer: model.path = {path!r} is not a folder here)", _words)
    room = room_of(config, folder, chat)
    codec = room.codec
    return _Ruler(
        f"tokens of {path}",
        lambda prompts: [len(codec.encode_prompt(prompt)) for prompt in prompts],
        lambda prompt: codec.render(prompt).text,
        room,
    )


def _words(prompts: Sequence[Prompt]) -> list[int]:
    return [len(prompt_text(prompt).split()) for prompt in prompts]


def _split_facts(task: Task, problems: Sequence[Problem], ruler: _Ruler) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "problems": len(problems),
        "by_class": dict(Counter(problem.class_name for problem in problems)),
    }
    if problems:
        facts["question_length"] = _spread(ruler.lengths(render_prompts(task.prompt_format, problems, hint=False)))
        solved = [render_completion(task.prompt_format, p) for p in problems if p.rationale]
        facts["human_solution_length"] = _spread(ruler.lengths(solved)) if solved else None
    return facts


def _duplicates(task: Task, places: Mapping[str, str]) -> dict[str, Any]:
    """Problems with the question of an earlier one. Loading refuses them across splits, so these are within a split."""
    first: dict[str, str] = {}
    repeated = []
    key_of = key_of_problem(task)
    for name in SPLITS:
        for problem in task.split(name):
            place = f"{places.get(problem.id, problem.id)} ({name})"
            if (key := key_of(problem)) in first:
                repeated.append(f"{place} asks the same as {first[key]}")
            first.setdefault(key, place)
    return {"number": len(repeated), "first": repeated[:LISTED]}


def _spread(lengths: Sequence[int]) -> dict[str, float]:
    return {"median": statistics.median(lengths), "longest": max(lengths)}


def _prefix_length(task: Task, few_shot: Sequence[Problem], ruler: _Ruler) -> int:
    """Of the few-shot examples as they stand before a question."""
    if not few_shot:
        return 0
    last = few_shot[-1]
    before = render_prompt(task.prompt_format, last, hint=False, few_shot=few_shot)
    return ruler.lengths([before])[0] - ruler.lengths([render_prompt(task.prompt_format, last, hint=False)])[0]


def _rates(task: Task) -> dict[str, str]:
    """How many of the human solutions pass each check of the reasoning."""
    checked: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for problem in task.examples_and_problems():
        if problem.rationale:
            for name, result in run_checks(task, problem, render_completion(task.prompt_format, problem)).items():
                checked[name] += 1
                passed[name] += result.passed
    return {name: f"{passed[name]}/{number} pass" for name, number in checked.items()}


def _prompts(config: RunConfig, task: Task, ruler: _Ruler) -> dict[str, str]:
    """A plain prompt, a hinted one, and a training row."""
    problem, fmt = task.train[0], task.prompt_format
    few_shot = task.few_shot[: config.sampling.num_shots]
    solved = next((p for p in (*task.train, *task.few_shot) if p.rationale), problem)
    (row,) = examples_from_solutions([solved], fmt, iteration=1)
    end = "⟨the model continues here⟩"
    return {
        f"a prompt (problem {problem.id})": ruler.text(render_prompt(fmt, problem, hint=False, few_shot=few_shot))
        + end,
        f"the same with its hint (problem {problem.id})": ruler.text(
            render_prompt(fmt, problem, hint=True, few_shot=few_shot)
        )
        + end,
        f"a row that is trained on, if a sample reads like the human solution of problem {solved.id}": (
            f"{ruler.text(row.prompt)}⟨from here on with loss⟩{row.completion}⟨end⟩"
        ),
    }


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {inner}" for key, inner in value.items()) + ")"
    return "–" if value is None else str(value)

"""The config, the task and the prompts of a run that has begun, from its folder alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from selftaught.config.chat import ChatResolved
from selftaught.config.loading import config_from_values
from selftaught.config.resolving import carried_on
from selftaught.config.settings import RunConfig
from selftaught.grading.checks.leaks import checks_of_any
from selftaught.prompts.chat import as_chat
from selftaught.records.errors import RefusedError
from selftaught.records.problems import Task
from selftaught.runs.reading import read_run_json
from selftaught.tasks import load_task
from selftaught.tasks.fingerprint import data_sha256


def config_of_run(run_dir: Path) -> RunConfig:
    """The config that a run folder was started with."""
    return config_from_values(read_run_json(run_dir)["config"], lambda key: str(run_dir / "run.json"))


def task_of(config: RunConfig) -> Task:
    return fitted(config, load_task(config.task))


def fitted(config: RunConfig, task: Task) -> Task:
    """The task as this config uses it."""
    if config.training.target == "answer":
        # A model that is trained to answer without reasoning writes no reasoning to check.
        return replace(task, check_steps=None, other_checks={})
    return replace(task, other_checks={**checks_of_any(task), **task.other_checks})


def chat_of_run(run_dir: Path) -> ChatResolved | None:
    """How a run's prompts are rendered; None for text."""
    return carried_on(read_run_json(run_dir)["resolved"], config_of_run(run_dir), str(run_dir / "run.json")).chat


def in_format(task: Task, config: RunConfig, chat: ChatResolved | None) -> Task:
    """The task with prompts as this run's model gets them: as turns if `chat` is given, else as text."""
    if chat is None:
        return task
    return as_chat(
        task,
        system=config.model.system,
        opens_thought=chat.opens_thought,
        answer_only=config.training.target == "answer",
    )


def refuse_other_data(run_dir: Path, task: Task) -> None:
    """Raise RefusedError if a task's problems are not those that the run was started on."""
    refuse_data(run_dir, read_run_json(run_dir), data_sha256(task))


def refuse_data(run_dir: Path, about: Mapping[str, Any], data: str) -> None:
    """The same for the content of run.json and the hash of the problems now."""
    then = about.get("data_sha256")
    if then != data:
        raise RefusedError(
            f"{run_dir} was started on other problems (sha256 {str(then)[:12]}, now {data[:12]}): the data or the "
            "prompt file was changed; restore it, or use another --run-dir"
        )

"""What a config's prompts have to fit into, and the refusal of those that do not, with file and line."""

from collections.abc import Mapping
from pathlib import Path

from selftaught.config.chat import ChatResolved, codec_of
from selftaught.config.settings import RunConfig
from selftaught.models.configuration import context_of
from selftaught.records.problems import Problem, Task
from selftaught.records.samples import ModelRef
from selftaught.stages.prompt_lengths import Room, asks_of_run, refuse_too_long
from selftaught.tasks import source_of


def room_of(config: RunConfig, folder: Path, chat: ChatResolved | None) -> Room:
    """What the prompts of a config have to fit into; `folder` is the model's."""
    context = context_of(str(folder), trust_remote_code=config.model.trust_remote_code)
    return Room(codec=codec_of(config.model, folder, chat), context=context)


def places_of(config: RunConfig) -> Mapping[str, str]:
    """File and line of problems by their ids, for a task that is read from files."""
    source = source_of(config.task.name)
    return source.places(config.task) if source.places else {}


def place_of(config: RunConfig, problem: Problem) -> str:
    """File and line of a problem, or its id."""
    return places_of(config).get(problem.id, f"problem {problem.id!r}")


def refuse_long_prompts(
    config: RunConfig, task: Task, base: ModelRef, chat: ChatResolved | None, *, has_places: bool
) -> None:
    """Raise RefusedError if a prompt of a run does not fit the model; `has_places` if the task is the config's own.

    A server that somebody else starts has its own limit, and says so.
    """
    if config.engine.computes_here:
        refuse_too_long(
            room_of(config, Path(base.path), chat),
            task,
            asks_of_run(config, task),
            place=lambda problem: place_of(config, problem) if has_places else f"problem {problem.id!r}",
        )

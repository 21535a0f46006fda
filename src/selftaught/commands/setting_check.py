"""Settings that the task cannot serve, before anything is sampled."""

from selftaught.config.settings import RunConfig
from selftaught.methods.hints import shuffled_answers
from selftaught.records.errors import ConfigError
from selftaught.records.problems import ChatFormat, Task


def check_settings(config: RunConfig, task: Task) -> None:
    """Raise ConfigError for settings that the task cannot serve."""
    for key in ("require", "require_hinted"):
        if "steps" in getattr(config.selection, key) and task.check_steps is None:
            raise ConfigError(
                f"selection.{key} asks for 'steps', but task {task.name!r} has no step check; leave 'steps' out"
                + (", or use method = 'star'" if config.method == "star-checked" else "")
            )
        if "no-leak" in getattr(config.selection, key) and "leak" not in task.other_checks:
            raise ConfigError(
                f"selection.{key} asks for 'no-leak', but with training.target = 'answer' there is no reasoning to "
                "look at; leave 'no-leak' out"
            )
    if config.rationalization.gives_hints and config.rationalization.shows == "shuffled":
        try:
            shuffled_answers(task.train, seed=config.seed, iteration=1)
        except ValueError as error:
            raise ConfigError(
                f"rationalization.shows = 'shuffled', but {error}; use 'text', or more problems"
            ) from error
    if config.selection.unique_by == "equations" and task.solution_key is None:
        raise ConfigError(
            f"selection.unique_by = 'equations', but solutions of task {task.name!r} have no equations to compare; "
            "use 'text' or 'normalized-text'"
        )
    thinks = config.model.thinking or (isinstance(task.prompt_format, ChatFormat) and task.prompt_format.opens_thought)
    numbers = {
        "sampling.num_shots": config.sampling.num_shots,
        "sampling.num_shots_fine_tuned": config.sampling.num_shots_for(fine_tuned=True),
        "training.num_rehearsed": config.training.num_rehearsed,
    }
    for key, number in numbers.items():
        if thinks and number:
            raise ConfigError(
                f"{key} = {number}, but the model thinks before it answers, and few-shot examples have no thoughts to "
                f"show; set {key}=0, or model.thinking=false if its template has that switch"
            )
        if number > len(task.few_shot):
            raise ConfigError(
                f"{key} = {number}, but task {task.name!r} has {len(task.few_shot)} few-shot examples; use at most that"
                + (
                    ""
                    if task.few_shot
                    else ", or give a prompt file (task.prompt_file); `selftaught init` writes one to fill in"
                )
            )

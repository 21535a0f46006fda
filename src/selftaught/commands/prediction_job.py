"""What the predictions for a file follow from: a target, its settings and task, and the questions of the file."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selftaught.commands.evaluate import AskedSampling, Target, chat_for, config_for, task_for
from selftaught.commands.prompt_check import room_of
from selftaught.commands.run import fixed_settings
from selftaught.commands.setting_check import check_settings
from selftaught.commands.stored_run import in_format
from selftaught.config.chat import ChatResolved
from selftaught.config.settings import RunConfig
from selftaught.records.errors import ConfigError
from selftaught.records.problems import Problem, Task
from selftaught.stages.prompt_lengths import Ask, refuse_too_long
from selftaught.stages.sampling import SamplingSpec, sampling_spec
from selftaught.tasks import source_of
from selftaught.tasks.fingerprint import data_sha256
from selftaught.tasks.own import task as own
from selftaught.tasks.own.questions import Questions, read_questions
from selftaught.tasks.own.settings import OwnConfig
from selftaught.tasks.rows.prompt_file import few_shot_examples_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    target: Target
    config: RunConfig
    task: Task
    """Without checks of the reasoning: they were made for the task's own problems, and decide nothing here."""
    questions: Questions
    chat: ChatResolved | None
    """How prompts are rendered; None for text."""
    spec: SamplingSpec
    input_sha256: str

    @property
    def num_samples(self) -> int:
        """Completions per row, K."""
        return self.config.sampling.num_samples

    def place(self, problem: Problem) -> str:
        """File and line of a question."""
        return self.questions.places[int(problem.id) - 1]

    def columns(self) -> tuple[str, ...]:
        """The fields of `Prediction` that a line has."""
        choice = ("choice",) if self.questions.problems[0].choices else ()
        first = ("id", "question", "prediction", *choice)
        shown = ("completion", "finish_reason")
        return (*first, *shown) if self.num_samples == 1 else (*first, "share", "votes", *shown, "completions")

    def made_from(self) -> dict[str, Any]:
        """What decides the predictions, ready for JSON; nothing that a moved file or folder would change."""
        settings = fixed_settings(self.config)
        return {
            "input_sha256": self.input_sha256,
            "weights_sha256": self.target.model.sha256,
            "columns": self.questions.reading[0],
            "data_sha256": data_sha256(self.task),
            "config": {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in settings.items()
                if key != "model.path"
            },
        }


def job_of(target: Target, file: str, asked: AskedSampling, question_key: str | None) -> Job:
    """Read everything but the weights. Raises SelftaughtError for settings, data or questions that cannot be used."""
    config = config_for(target, asked, command_name="predict")
    if not source_of(config.task.name).reads_new_questions:
        raise ConfigError(
            f"task {config.task.name!r} judges only the problems that it makes itself, and can read no answer to "
            "another question; give --task own"
        )
    if isinstance(config.task, OwnConfig) and not config.task.data:
        questions = read_questions(file, config.task, question_key=question_key)
        task = _task_of_questions(config.task, questions)
        if asked.num_shots is None:
            sampling = config.sampling.model_copy(update={"num_shots": len(task.few_shot)})
            config = config.model_copy(update={"sampling": sampling})
    else:
        task = task_for(target, config)
        has_choices = any(problem.choices for problem in (*task.few_shot, *task.train))
        questions = read_questions(file, config.task, question_key=question_key, with_choices=has_choices)
    chat = chat_for(target, config)
    task = in_format(task, config, chat)
    check_settings(config, task)
    config.engine.check()
    with open(file, "rb") as opened:
        input_sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    sampling = config.sampling
    return Job(
        target=target,
        config=config,
        task=replace(task, check_steps=None, other_checks={}),
        questions=questions,
        chat=chat,
        spec=sampling_spec(config, task, num_shots=sampling.num_shots, temperature=sampling.temperature),
        input_sha256=input_sha256,
    )


def _task_of_questions(settings: OwnConfig, questions: Questions) -> Task:
    """The task `own` for a model that no run has trained: its prompts and its verifier, without problems."""
    few_shot = (
        few_shot_examples_in(settings.prompt_file, marker=settings.answer_marker or "") if settings.prompt_file else ()
    )
    asked = (*few_shot, *questions.problems)
    return Task(
        name="own",
        prompt_format=own.prompt_format(
            settings.answer_marker or own.MARKER,
            with_choices=any(problem.choices for problem in asked),
            instruction=settings.instruction or "",
        ),
        verifier=own.grader(settings, asked).verifier,
        few_shot=few_shot,
        train=(),
        dev=(),
        test=(),
        same_problem=own.same_problem,
    )


def refuse_long_questions(job: Job, done: int) -> None:
    """Raise RefusedError, before anything is generated, if the prompt of a row after the first `done` ones does not fit
    the model's context."""
    if not job.config.engine.computes_here:
        return  # the server has its own limit, and says so
    room = room_of(job.config, Path(job.target.model.path), job.chat)
    asks = (Ask(spec=job.spec, problems=tuple(job.questions.problems[done:])),)
    knobs = "shorten the question or take it out, or lower --max-new-tokens or --num-shots"
    refuse_too_long(room, job.task, asks, place=job.place, knobs=knobs)

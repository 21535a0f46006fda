"""The section [task]: what the loop uses for every task, and the keys that several tasks share.

Each task owns a subclass with the keys that it uses. A key that several have is written once, in one of the classes
here.
"""

from typing import Literal

from pydantic import Field

from selftaught.records.errors import ConfigError
from selftaught.records.problems import Extraction
from selftaught.records.sections import Count, OrAll, Positive, Section, Text

Choice = Literal["random", "random-per-class", "unsolved-first"]
"""How an iteration chooses its training problems."""


class TaskConfig(Section):
    """What the loop uses for every task.

    A subclass gives `name` as a Literal with a default, and the task's own keys.
    """

    name: str
    choose: Choice = Field(
        "random",
        description="Which training problems an iteration takes: `random`, `random-per-class` (the same number of each class, as far as it has them), or `unsolved-first`.",
    )
    problems_per_iteration: OrAll = Field("all", description="Training problems of an iteration, chosen anew for each.")
    dev_problems: OrAll = Field("all", description="Dev problems to measure on, spread over the classes.")
    test_problems: OrAll = Field("all", description="Test problems to measure on, spread over the classes.")

    def check_values(self) -> None:
        """Raise ConfigError for values that are wrong by themselves or contradict each other. Looks at nothing else."""


class SeededConfig(TaskConfig):
    """Of a task that generates problems or cuts splits."""

    data_seed: Count = Field(0, description="Seed of generated problems and of splits that are cut from train.")


class VariantConfig(TaskConfig):
    """Of a task that has several forms."""

    variant: Text | None = Field(
        None, description="Form of the task, of those that `selftaught tasks` lists; absent is the task's first."
    )


class PromptConfig(SeededConfig):
    """Of a task whose few-shot examples may be the user's, and whose dev split is made to size."""

    dev_rows: Positive | None = Field(
        None, description="Rows cut from train for dev, where dev has no file; absent is the task's own number."
    )
    prompt_file: Text | None = Field(
        None, description="The few-shot examples (text or TOML); absent is the task's own, if it has one."
    )
    answer_marker: Text | None = Field(None, description="Text right before the answer; absent is the task's own.")
    instruction: Text | None = Field(
        None,
        description="How to answer, in words, for a model that is asked in turns (`model.prompt_format`); absent is the task's own.",
    )


class SizedTestConfig(TaskConfig):
    """Of a task whose test split is made to size."""

    test_rows: Positive | None = Field(
        None, description="Rows cut for test, where test has no file; absent is the task's own number."
    )


class RowsConfig(PromptConfig):
    """Of a task whose problems are rows of files, judged by a verifier of the user's choice."""

    data: Text | None = Field(
        None,
        description="Where the rows are: a file (jsonl, csv, parquet), a folder with the files as released, or a hub id; absent is the task's own hub id.",
    )
    verifier: Text | None = Field(
        None,
        description="How answers are compared: `exact`, `numeric`, `choice`, `math`, `regex` or `python`; absent is the task's own.",
    )
    verifier_function: Text | None = Field(
        None, description="For `python`: your function, as `module:name` or `file.py:name`."
    )
    answer_pattern: Text | None = Field(None, description="For `regex`: expression whose first group is the answer.")
    extraction: Extraction = Field(
        "strict",
        description="`strict` reads an answer only where the answer format puts it, `lenient` also where a reader would find one. How often the two disagree is reported.",
    )

    def check_values(self) -> None:
        for key, verifier in {"answer_pattern": "regex", "verifier_function": "python"}.items():
            if getattr(self, key) is not None and self.verifier != verifier:
                raise ConfigError(f"task.{key} is set, but only task.verifier = {verifier!r} uses it; remove one")

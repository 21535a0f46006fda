"""The section [task]: which problems, from where, and how their answers are compared."""

from typing import Literal

from pydantic import Field, field_validator

from selftaught.records.problems import Extraction
from selftaught.records.sections import Count, OrAll, Positive, Section, Text, TextOrFalse

Choice = Literal["random", "random-per-class", "unsolved-first"]
"""How an iteration chooses its training problems."""


class TaskConfig(Section):
    name: Text = Field(
        description="A task from `selftaught tasks`, or your function that returns one, as `file.py:load` or `module:load` (docs/tasks.md)."
    )
    variant: Text | None = Field(
        None, description="Form of the task, of those that `selftaught tasks` lists; absent is the task's first."
    )
    data_seed: Count = Field(0, description="Seed of generated problems and of splits that are cut from train.")
    choose: Choice = Field(
        "random",
        description="Which training problems an iteration takes: `random`, `random-per-class` (the same number of each class, as far as it has them), or `unsolved-first`.",
    )
    problems_per_iteration: OrAll = Field("all", description="Training problems of an iteration, chosen anew for each.")
    dev_problems: OrAll = Field("all", description="Dev problems to measure on, spread over the classes.")
    test_problems: OrAll = Field("all", description="Test problems to measure on, spread over the classes.")
    data: Text | None = Field(
        None,
        description="Where the rows are: a file (jsonl, csv, parquet), a folder with the files as released, or a hub id; absent is the task's own hub id.",
    )
    dev_data: Text | None = Field(None, description="`own`: file of the dev split; absent cuts it from `data`.")
    test_data: Text | None = Field(None, description="`own`: file of the test split; absent cuts it from `data`.")
    dev_rows: Positive | None = Field(
        None, description="Rows cut from train for dev, where dev has no file; absent is the task's own number."
    )
    test_rows: Positive | None = Field(
        None, description="Rows cut for test, where test has no file; absent is the task's own number."
    )
    prompt_file: Text | None = Field(
        None, description="The few-shot examples (text or TOML); absent is the task's own, if it has one."
    )
    question_key: Text = Field(
        "question",
        description="`own`: key of the question; `a.b` goes into nested objects, `a + b` joins columns, `b?` may be empty.",
    )
    answer_key: Text = Field("answer", description="`own`: key of the reference answer.")
    answer_is: Literal["auto", "label", "text", "index0", "index1", "boxed"] = Field(
        "auto",
        description="`own`: what an answer is: a choice's `label`, its `text`, or its number from 0 (`index0`) or 1 (`index1`); `auto` is what all rows together show, and is refused where they show nothing. `boxed`: a complete solution, with the answer in its last `\\boxed{}`.",
    )
    choices_key: TextOrFalse = Field(
        "choices",
        description="`own`: key of the choices, if rows have them; `a + b + c` for a column each; `false` uses none.",
    )
    id_key: TextOrFalse = Field("id", description="`own`: key of the id, if rows have one; `false` uses none.")
    class_key: TextOrFalse = Field(
        "class",
        description="`own`: key of the class that results are reported by, if rows have one; `false` uses none.",
    )
    rationale_key: TextOrFalse = Field(
        "rationale", description="`own`: key of a human solution, if rows have one; `false` uses none."
    )
    verifier: Text | None = Field(
        None,
        description="How answers are compared: `exact`, `numeric`, `choice`, `math`, `regex` or `python`; absent is the task's own.",
    )
    verifier_function: Text | None = Field(
        None, description="`python`: your function, as `module:name` or `file.py:name`."
    )
    answer_marker: Text | None = Field(None, description="Text right before the answer; absent is the task's own.")
    answer_pattern: Text | None = Field(None, description="`regex`: expression whose first group is the answer.")
    extraction: Extraction = Field(
        "strict",
        description="`strict` reads an answer only where the answer format puts it, `lenient` also where a reader would find one. How often the two disagree is reported.",
    )

    @field_validator("choices_key", "id_key", "class_key", "rationale_key", mode="before")
    @classmethod
    def _refuse_a_number(cls, value: object) -> object:
        """For Literal[False] takes 0, too, which equals it."""
        if isinstance(value, int) and not isinstance(value, bool):
            raise ValueError("a number")
        return value

"""The section [task] for the task `own`: where the rows are, and what their columns mean."""

from typing import Literal

from pydantic import Field, field_validator

from selftaught.records.sections import Text, TextOrFalse
from selftaught.tasks.settings import RowsConfig, SizedTestConfig


class ColumnsConfig(SizedTestConfig, RowsConfig):
    """The keys of `own`, for it and for users' functions that read rows as it does."""

    dev_data: Text | None = Field(None, description="File of the dev split; absent cuts it from `data`.")
    test_data: Text | None = Field(None, description="File of the test split; absent cuts it from `data`.")
    question_key: Text = Field(
        "question",
        description="Key of the question; `a.b` goes into nested objects, `a + b` joins columns, `b?` may be empty.",
    )
    answer_key: Text = Field("answer", description="Key of the reference answer.")
    answer_is: Literal["auto", "label", "text", "index0", "index1", "boxed"] = Field(
        "auto",
        description="What an answer is: a choice's `label`, its `text`, or its number from 0 (`index0`) or 1 (`index1`); `auto` is what all rows together show, and is refused where they show nothing. `boxed`: a complete solution, with the answer in its last `\\boxed{}`.",
    )
    choices_key: TextOrFalse = Field(
        "choices",
        description="Key of the choices, if rows have them; `a + b + c` for a column each; `false` uses none.",
    )
    id_key: TextOrFalse = Field("id", description="Key of the id, if rows have one; `false` uses none.")
    class_key: TextOrFalse = Field(
        "class",
        description="Key of the class that results are reported by, if rows have one; `false` uses none.",
    )
    rationale_key: TextOrFalse = Field(
        "rationale", description="Key of a human solution, if rows have one; `false` uses none."
    )

    @field_validator("choices_key", "id_key", "class_key", "rationale_key", mode="before")
    @classmethod
    def _refuse_a_number(cls, value: object) -> object:
        """For Literal[False] takes 0, too, which equals it."""
        if isinstance(value, int) and not isinstance(value, bool):
            raise ValueError("a number")
        return value


class OwnConfig(ColumnsConfig):
    name: Literal["own"] = "own"

"""Rows of token ids for training: check what a row holds, and that TRL trains on exactly the rows it was given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from selftaught.models.tokens import IGNORED, Codec
from selftaught.records.errors import RefusedError
from selftaught.training.batches import MicroBatch

COLUMNS = ("input_ids", "labels", "seq_lengths")
"""Of the data set; TRL drops columns of any other name."""


@dataclass(frozen=True, slots=True)
class Row:
    """A training example as token ids; labels are IGNORED where there is no loss."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_loss_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def check_rows(rows: Sequence[Row], codec: Codec, *, context: int) -> None:
    """Raise RefusedError for rows that would not be learned as intended; nothing else would report these mistakes."""
    if not rows:
        raise RefusedError("there is nothing to train on; see left_out/ for why every sample was left out")
    for position, row in enumerate(rows):
        where = f"training row {position}"
        if len(row.input_ids) > context:
            raise RefusedError(
                f"{where} has {len(row.input_ids)} tokens, more than the model's context of {context}; leave "
                "such problems out"
            )
        if not 0 < row.num_loss_tokens < len(row.labels):
            raise RefusedError(
                f"{where}: {row.num_loss_tokens} of {len(row.labels)} tokens carry loss; the prompt must carry none "
                "and the completion all of it"
            )
        learned = [i for i, label in zip(row.input_ids, row.labels, strict=True) if label != IGNORED]
        num_ends = sum(i in codec.end_ids for i in learned)
        if learned[-1] not in codec.end_ids or num_ends != 1:
            raise RefusedError(
                f"{where}: one of the end tokens {sorted(codec.end_ids)} must be learned once, at the end; the last "
                f"learned token is {learned[-1]}, and {num_ends} end tokens are learned"
            )


def as_dataset(rows: Sequence[Row], micro_batches: Sequence[MicroBatch]) -> Dataset:
    """One element per micro-batch: its rows concatenated, and their lengths in the column that TRL passes on."""
    elements = [_element(rows, members) for members in micro_batches]
    return Dataset.from_dict({name: [element[name] for element in elements] for name in COLUMNS})


def check_prepared(prepared: Any, rows: Sequence[Row], micro_batches: Sequence[MicroBatch]) -> None:
    """Raise RefusedError unless TRL will train on exactly the rows it was given, id for id and label for label."""
    if len(prepared) != len(micro_batches):
        raise RefusedError(
            f"TRL prepared {len(prepared)} micro-batches, but was given {len(micro_batches)}; this version of TRL "
            "changes its input, install the range in pyproject.toml"
        )
    columns = {name: prepared[name] for name in COLUMNS}
    for position, members in enumerate(micro_batches):
        for name, expected in _element(rows, members).items():
            if (got := list(columns[name][position])) != expected:
                raise RefusedError(
                    f"TRL prepared other {name} for micro-batch {position} than it was given ({len(got)} values, given "
                    f"{len(expected)}); install the range of TRL in pyproject.toml"
                )


def _element(rows: Sequence[Row], members: MicroBatch) -> dict[str, list[int]]:
    return {
        "input_ids": [token for i in members for token in rows[i].input_ids],
        "labels": [label for i in members for label in rows[i].labels],
        "seq_lengths": [len(rows[i].input_ids) for i in members],
    }

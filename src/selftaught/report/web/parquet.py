"""A selection of samples as Parquet, in the columns of TRL's completions files, which the hub's viewer shows.

`step`, `prompt`, `completion`, a number for each thing that is judged, and `advantage`, which nothing here has; then
our own columns.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught.runs.lines import as_store_error

if TYPE_CHECKING:
    import pyarrow

BATCH = 1024
"""Rows that are in memory at a time."""


def write_parquet(path: Path, samples: Iterable[Mapping[str, Any]]) -> int:
    """Write samples, each with its `prompt`, and return how many; raises StoreError for a full disk."""
    import pyarrow
    import pyarrow.parquet

    schema, count, rows = _schema(), 0, _rows(samples)
    with as_store_error(path, "write"), pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(rows, BATCH)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _rows(samples: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        steps = sample["checks"].get("steps")
        yield {
            **sample,
            "step": sample["iteration"],
            "correct": float(sample["verdict"] == "correct"),
            "steps": None if steps is None else float(steps["passed"]),
            "advantage": None,
        }


def _schema() -> "pyarrow.Schema":
    import pyarrow

    text, whole, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    return pyarrow.schema(
        [
            ("step", whole),
            *((name, text) for name in ("prompt", "completion")),
            *((name, real) for name in ("correct", "steps", "advantage")),
            *((name, text) for name in ("problem_id", "question", "answer", "class_name", "prediction", "verdict")),
            *((name, text) for name in ("stage", "kind")),
            *((name, whole) for name in ("iteration", "index", "checkpoint", "num_tokens")),
            *((name, text) for name in ("finish_reason", "reason", "source")),
            ("kept", pyarrow.bool_()),
            ("logprob", real),
        ]
    )

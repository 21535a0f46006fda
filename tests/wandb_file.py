"""Read a wandb transaction file (`run-*.wandb`): wandb itself has no reader in Python.

A header, then LevelDB's log format: blocks of 32 KiB; in them pieces of records, each behind a checksum, its length and
whether it is whole, first, middle or last. A record is a protobuf message.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

HEADER = 7
BLOCK = 32 * 1024
PIECE = struct.Struct("<IHB")
WHOLE, FIRST, LAST = 1, 2, 4


def payloads(content: bytes) -> Iterator[bytes]:
    """The records' bytes; a record that is torn at the end of the file is skipped."""
    assert content[:4] == b":W&B"
    at, parts = HEADER, b""
    while at + PIECE.size <= len(content):
        if BLOCK - at % BLOCK < PIECE.size:  # no room for a piece: the rest of the block is padding
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = PIECE.unpack_from(content, at)
        if kind == 0 or at + PIECE.size + size > len(content):
            return
        piece = content[at + PIECE.size : at + PIECE.size + size]
        at += PIECE.size + size
        parts = piece if kind in (WHOLE, FIRST) else parts + piece
        if kind in (WHOLE, LAST):
            yield parts


def records(path: Path) -> list[Any]:
    parsed = []
    for payload in payloads(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        parsed.append(record)
    return parsed


def history(path: Path) -> list[dict[str, Any]]:
    """What was logged, call by call."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def axes(path: Path) -> dict[str, str]:
    """Metric, or its glob, -> the metric that it is drawn against."""
    metrics = (r.metric for r in records(path) if r.WhichOneof("record_type") == "metric")
    return {m.glob_name or m.name: m.step_metric for m in metrics}


def config(path: Path) -> dict[str, Any]:
    runs = [r.run for r in records(path) if r.WhichOneof("record_type") == "run"]
    return {item.key: json.loads(item.value_json) for item in runs[0].config.update}

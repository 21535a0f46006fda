"""One hash over a task's problems, so that a run is not carried on, or judged again, with other data."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from selftaught.problems import SPLITS, Problem, Task


def data_sha256(task: Task) -> str:
    """Of every field of every problem, split by split and in order, the worked examples included."""
    digest = hashlib.sha256()
    for name, problems in (("shots", task.shots), *((split, task.split(split)) for split in SPLITS)):
        digest.update(json.dumps([name, _values(problems)]).encode())
    return digest.hexdigest()


def _values(problems: Sequence[Problem]) -> list[list[object]]:
    return [list(asdict(problem).values()) for problem in problems]

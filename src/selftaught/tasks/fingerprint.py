"""One hash over a task's problems, so that a run is not carried on, or judged again, with other data."""

import hashlib
import json
from dataclasses import fields
from operator import attrgetter

from selftaught.problems import SPLITS, Problem, Task

_values = attrgetter(*(field.name for field in fields(Problem)))
"""Of every field, which are texts and tuples of texts; `asdict` would copy them one by one."""


def data_sha256(task: Task) -> str:
    """Of every field of every problem, split by split and in order, the worked examples included."""
    digest = hashlib.sha256()
    for name, problems in (("shots", task.shots), *((split, task.split(split)) for split in SPLITS)):
        digest.update(json.dumps([name, list(map(_values, problems))]).encode())
    return digest.hexdigest()

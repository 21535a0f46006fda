"""One hash over a task's problems, so that a run is not carried on, or judged again, with other data."""

import hashlib
import json
from dataclasses import fields
from operator import attrgetter

from selftaught.problems import SPLITS, Problem, Task

_values = attrgetter(*(field.name for field in fields(Problem)))
"""Of every field, which are texts and tuples of texts; `asdict` would copy them one by one."""

_AT_A_TIME = 256
"""Problems that are written at a time: their text stays in the cache, and takes half the time of one for all."""


def data_sha256(task: Task) -> str:
    """Of every field of every problem: of `json.dumps([name, values])` for the worked examples and for every split, one
    after the other."""
    digest = hashlib.sha256()
    for name, problems in (("shots", task.shots), *((split, task.split(split)) for split in SPLITS)):
        digest.update(f"[{json.dumps(name)}, [".encode())
        for start in range(0, len(problems), _AT_A_TIME):
            values = json.dumps(list(map(_values, problems[start : start + _AT_A_TIME])))
            digest.update(f"{', ' if start else ''}{values[1:-1]}".encode())
        digest.update(b"]]")
    return digest.hexdigest()

"""One hash over a task's problems, so that a run is not resumed, or judged again, with other data."""

import hashlib
import json
from dataclasses import fields

from selftaught.records.problems import SPLITS, Problem, Task


def data_sha256(task: Task) -> str:
    """Hash of every field of every few-shot example and of every problem of the splits."""
    names = [field.name for field in fields(Problem)]
    digest = hashlib.sha256()
    for name, problems in (("few_shot", task.few_shot), *((split, task.split(split)) for split in SPLITS)):
        values = [[getattr(problem, field) for field in names] for problem in problems]
        digest.update(json.dumps([name, values]).encode())
    return digest.hexdigest()

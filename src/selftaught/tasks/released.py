"""What the tasks on released data sets have in common: files, a dev split cut from train, few-shot examples."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from selftaught.grading.signs import fold
from selftaught.grading.verifiers import make_verifier
from selftaught.records.errors import ConfigError
from selftaught.records.problems import Problem, Verifier
from selftaught.records.seeds import seed_for
from selftaught.tasks.rows.files import Row, read_rows
from selftaught.tasks.rows.prompt_file import few_shot_examples_in, note_of_few_shot, read_prompt_file
from selftaught.tasks.settings import PromptConfig, RowsConfig

DEV_ROWS = 500
"""Cut from train by default; with 500 rows an accuracy is known to about four points."""

NEXT_QUESTION = ("Q:",)
STOP = ("\n\n", "\nQ:")


@dataclass(frozen=True, slots=True)
class Split:
    """Where the rows of a split are: file names without their ending, and the split's name on the hub."""

    files: tuple[str, ...]
    hub: str


def released_rows(settings: RowsConfig, split: Split, *, hub_id: str, hub_config: str = "") -> list[Row]:
    """The rows of a split, from the folder in `task.data` or from the hub.

    A folder holds the files as released: JSON lines or Parquet, also in parts as the hub stores them. Raises
    ConfigError if neither is there.
    """
    source = settings.data or hub_id
    if not os.path.isdir(source):
        if os.path.exists(source):
            raise ConfigError(f"task.data = {source!r} is a file; give the folder that holds the files as released")
        return read_rows(source, hub_split=split.hub, hub_config=hub_config)
    folder = Path(source)
    for name in (f"{stem}{ending}" for stem in split.files for ending in (".jsonl", ".parquet")):
        if (folder / name).is_file():
            return read_rows(str(folder / name))
    parts = sorted(folder.glob(f"{split.hub}-*-of-*.parquet"))
    if not parts:
        expected = " or ".join(f"{stem}.jsonl" for stem in split.files)
        raise ConfigError(f"{source}: no {expected}, .parquet or {split.hub}-*-of-*.parquet in it; give their folder")
    return [row for part in parts for row in read_rows(str(part))]


def cut_dev(
    problems: Sequence[Problem], settings: PromptConfig, *, name: str
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Train and dev: dev takes `task.dev_rows` problems by a hash of the question and the data seed.

    Both keep the order of the file. Problems with the same question stay together, so dev may be larger by a few.
    """
    number = settings.dev_rows or DEV_ROWS
    hashes = {p.id: seed_for(name, "dev", settings.data_seed, fold(p.question)) for p in problems}
    ordered = sorted(hashes.values())
    if number >= len(ordered):
        raise ConfigError(
            f"task {name!r}: {len(ordered)} training rows are too few to cut {number} for dev; set task.dev_rows lower"
        )
    last = ordered[number - 1]
    train = tuple(p for p in problems if hashes[p.id] > last)
    if not train:
        raise ConfigError(f"task {name!r}: nothing is left to train on after dev is cut; set task.dev_rows lower")
    return train, tuple(p for p in problems if hashes[p.id] <= last)


def few_shot_examples(settings: PromptConfig, *, name: str) -> tuple[Problem, ...]:
    """The examples in `task.prompt_file`, or the task's own, which come with the package."""
    if not settings.prompt_file:
        where = f"{name}/few_shot.toml"
        text = (resources.files("selftaught.tasks") / where).read_text(encoding="utf-8")
        return read_prompt_file(text, where)
    return few_shot_examples_in(settings.prompt_file, marker=settings.answer_marker or "")


def without_few_shot(
    train: Sequence[Problem], few_shot: Sequence[Problem]
) -> tuple[tuple[Problem, ...], tuple[str, ...]]:
    """The training problems that are no few-shot examples, and a note about those that are."""
    questions = {fold(example.question) for example in few_shot}
    rest = tuple(p for p in train if fold(p.question) not in questions)
    return rest, note_of_few_shot([p.id for p in train if fold(p.question) in questions])


def verifier_of(settings: RowsConfig, *, name: str, marker: str) -> Verifier:
    """The verifier that the settings name; without one, the verifier `name`."""
    return make_verifier(
        settings.verifier or name,
        marker=marker,
        extraction=settings.extraction,
        pattern=settings.answer_pattern or "",
        function=settings.verifier_function or "",
        next_question=NEXT_QUESTION,
    )


def as_template(text: str) -> str:
    """The text with braces escaped, so that a `str.format` template reproduces it unchanged."""
    return text.replace("{", "{{").replace("}", "}}")

"""A run's problems, samples and training sets as Parquet, in the layout of a data set of the hub: one type per column.

A function of the run folder. A batch of rows is in memory at a time.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from selftaught.records.problems import SPLITS, StoredProblem
from selftaught.records.prompts import Prompt
from selftaught.records.samples import Sample
from selftaught.records.training import TrainingExample
from selftaught.runs.lines import adapter_of, as_store_error, read_lines
from selftaught.runs.reading import StoredProblems, StoredPrompts, read_problems

if TYPE_CHECKING:
    import pyarrow

BATCH = 1024
"""Rows that are in memory at a time, and that a reader can skip as one."""

STAGES = ("rationale", "rationalization", "dev", "test", "extrapolation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of Parquet: a split of a configuration of the data set."""

    config: str
    """`examples`, `samples` or `problems`."""
    split: str
    file: str
    """Relative to the folder of the data set."""
    rows: int


def write_parts(run_dir: Path, out_dir: Path) -> list[Part]:
    """Write every table of a run below a folder; a table without rows is left out.

    Raises StoreError for a run folder that is damaged, and for a disk that is full.
    """
    parts: list[Part] = []

    def write(config: str, split: str, schema: "pyarrow.Schema", rows: Iterable[Mapping[str, Any]]) -> None:
        file = f"{config}/{split}.parquet"
        if count := _write(out_dir / file, schema, rows):
            parts.append(Part(config=config, split=split, file=file, rows=count))

    for iteration, path in _by_iteration(run_dir / "examples"):
        examples = read_lines(TrainingExample, path)
        write("examples", f"iteration_{iteration:03d}", *_examples(examples))
    places = StoredProblems(run_dir), StoredPrompts(run_dir)
    for stage in STAGES:
        paths = sorted((run_dir / "samples").glob(f"*-{stage}.jsonl"))
        write("samples", stage, _sample_schema(), _sample_rows(paths, *places))
    for split in ("few_shot", *SPLITS):
        write("problems", split, _problem_schema(), _problem_rows(run_dir, split))
    return parts


def _by_iteration(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in sorted(folder.glob("*.jsonl")):
        yield int(path.stem), path


def _values(record: StoredProblem | Sample | TrainingExample) -> dict[str, Any]:
    values: dict[str, Any] = adapter_of(cast(Hashable, type(record))).dump_python(record, mode="json")
    return values


def _problem_rows(run_dir: Path, split: str) -> Iterator[dict[str, Any]]:
    for problem in read_problems(run_dir):
        if problem.split == split:
            values = _values(problem)
            del values["split"]
            yield values


def _sample_rows(paths: Iterable[Path], problems: StoredProblems, prompts: StoredPrompts) -> Iterator[dict[str, Any]]:
    """The samples of files, each with its problem and its complete prompt."""
    problem_of = lru_cache(maxsize=4096)(problems.__getitem__)
    for path in paths:
        for sample in read_lines(Sample, path):
            problem, values = problem_of(sample.problem_id), _values(sample)
            checks = [{"name": name, **result} for name, result in values["checks"].items()]
            yield {
                "question": problem.question,
                "answer": problem.answer,
                "choices": list(problem.choices),
                "class_name": problem.class_name,
                "prompt": prompts[sample.prompt_sha256].text,
                **values,
                "checks": checks,
            }


def _examples(examples: Iterable[TrainingExample]) -> tuple["pyarrow.Schema", Iterator[dict[str, Any]]]:
    """The rows of a training set, and their schema: in a run all prompts are texts, or all are turns."""
    waiting = iter(examples)
    first = next(waiting, None)
    rows = (_values(example) for example in ([] if first is None else [first, *waiting]))
    return _example_schema("" if first is None else first.prompt), rows


def _write(path: Path, schema: "pyarrow.Schema", rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows, and return how many there were; without one there is no file."""
    import pyarrow
    import pyarrow.parquet

    waiting, count = iter(rows), 0
    batch = list(islice(waiting, BATCH))
    if not batch:
        return 0
    with as_store_error(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd", write_page_index=True) as writer:
            while batch:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
                count += len(batch)
                batch = list(islice(waiting, BATCH))
    return count


def _schema(columns: Sequence[tuple[str, Any]]) -> "pyarrow.Schema":
    import pyarrow

    return pyarrow.schema(columns)


def _problem_schema() -> "pyarrow.Schema":
    import pyarrow

    text = pyarrow.string()
    columns = [(name, text) for name in ("id", "question", "answer", "class_name", "rationale")]
    return _schema([*columns, ("choices", pyarrow.list_(text))])


def _sample_schema() -> "pyarrow.Schema":
    import pyarrow

    text, whole, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    check = [
        ("name", text),
        ("passed", pyarrow.bool_()),
        ("share", real),
        ("detail", text),
        ("at", pyarrow.list_(whole)),
    ]
    return _schema(
        [
            *((name, text) for name in ("problem_id", "question", "answer")),
            ("choices", pyarrow.list_(text)),
            *((name, text) for name in ("class_name", "prompt", "completion", "prediction", "verdict", "kind")),
            *((name, whole) for name in ("iteration", "index", "seed")),
            ("prompt_sha256", text),
            ("weights_sha256", text),
            ("checkpoint", whole),
            ("token_ids", pyarrow.list_(pyarrow.int32())),
            ("num_tokens", whole),
            ("finish_reason", text),
            ("end_id", whole),
            ("logprob", real),
            ("checks", pyarrow.list_(pyarrow.struct(check))),
        ]
    )


def _example_schema(prompt: Prompt) -> "pyarrow.Schema":
    """For training sets whose prompts are of this prompt's kind."""
    import pyarrow

    text, whole = pyarrow.string(), pyarrow.int64()
    turns = pyarrow.list_(pyarrow.struct([("role", text), ("content", text)]))
    return _schema(
        [
            ("problem_id", text),
            ("prompt", text if isinstance(prompt, str) else turns),
            ("given", text),
            ("completion", text),
            ("source", text),
            ("iteration", whole),
            ("index", whole),
            ("completion_ids", pyarrow.list_(pyarrow.int32())),
            ("end_id", whole),
        ]
    )

"""The run folder: append complete chunks, cut off incomplete lines, replace small files in one step, one writer.

docs/run-folder.md describes every file. pydantic checks what is read, so that a damaged line is an error that names
file and line, never a wrong number. Times and rates are not in samples/ and examples/, so that a resumed run writes the
same bytes.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from selftaught.records.errors import StoreError
from selftaught.machine.paths import link_to_nothing, what_is_there_of_a_run
from selftaught.records.training import Checkpoint, StepMetrics, TrainingExample
from selftaught.records.measurements import IterationSummary, Measurement
from selftaught.records.samples import LeftOut, Sample

FORMAT = 1
SUBFOLDERS = ("samples", "examples", "left_out", "checkpoints", "logs")

R = TypeVar("R")


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


class RunStore:
    """The files of one run, open for writing. Use as a context manager: it holds the folder's lock."""

    def __init__(self, run_dir: Path) -> None:
        self.dir = run_dir
        self._lock: BinaryIO | None = None
        self._created: list[Path] = []
        """The folder and its parents, as far as this process created them; innermost first."""
        self._existing: set[Path] = set()
        """What the folder held before; `withdraw` does not remove it."""

    def __enter__(self) -> "RunStore":
        folders = [self.dir, *self.dir.parents]
        while not self._holds_the_lock():
            with as_store_error(self.dir, "create"):
                self._created = [folder for folder in folders if not folder.exists()]
                self._existing = {*self.dir.glob("*"), *self.dir.glob("logs/*")}
                for name in SUBFOLDERS:
                    (self.dir / name).mkdir(parents=True, exist_ok=True)
                self._lock = open(self.dir / "lock", "ab")
            try:
                # The kernel releases the lock when the process ends, so a killed run leaves no lock.
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._lock.close()
                raise StoreError(
                    f"{self.dir} is being written by another selftaught process; wait for it, or use another --run-dir"
                ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def _holds_the_lock(self) -> bool:
        """False if the folder has no lock file or another one: a run that withdrew has removed the locked one."""
        if self._lock is None:
            return False
        try:
            is_same = os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.dir / "lock"))
        except FileNotFoundError:
            is_same = False
        if not is_same:
            self._lock.close()
        return is_same

    def withdraw(self) -> None:
        """Remove what this process has created of a run that has no samples yet; a folder with more stays as it is.

        A server's log stays, because the error that led here refers to it.
        """
        with contextlib.suppress(OSError):  # the user should read the error that led here
            if any(any((self.dir / name).iterdir()) for name in SUBFOLDERS if name != "logs"):
                return
            logs = self.dir.glob("logs/attempt-*.log")
            for path in (self.dir / "run.json", self.dir / "run.json.tmp", *logs, self.dir / "lock"):
                if path not in self._existing:
                    path.unlink(missing_ok=True)
            for folder in (*(self.dir / name for name in SUBFOLDERS), *self._created):
                if folder not in self._existing and not any(folder.iterdir()):
                    folder.rmdir()

    # Paths, which readers use too.

    def samples_path(self, iteration: int, stage: str) -> Path:
        return self.dir / "samples" / f"{iteration:03d}-{stage}.jsonl"

    def examples_path(self, iteration: int) -> Path:
        return self.dir / "examples" / f"{iteration:03d}.jsonl"

    def checkpoint_dir(self, iteration: int) -> Path:
        return self.dir / "checkpoints" / f"{iteration:03d}"

    # Sampling: the chunk is the unit (stage_file.py).

    def samples(self, iteration: int, stage: str) -> Iterator[Sample]:
        """The samples of a finished stage; none if none was planned."""
        return _read_lines(Sample, self.samples_path(iteration, stage))

    # Small files, each written in one step.

    def write_examples(self, iteration: int, examples: Iterable[TrainingExample]) -> str:
        """Write what an iteration trains on, and return the sha256 of the file."""
        digest = hashlib.sha256()

        def lines() -> Iterator[bytes]:
            for example in examples:
                line = dump_line(TrainingExample, example)
                digest.update(line)
                yield line

        self.replace(self.examples_path(iteration), lines())
        return digest.hexdigest()

    def write_left_out(self, iteration: int, left_out: Iterable[LeftOut]) -> None:
        path = self.dir / "left_out" / f"{iteration:03d}.jsonl"
        self.replace(path, (dump_line(LeftOut, item) for item in left_out))

    def finish_iteration(self, summary: IterationSummary) -> None:
        """Mark an iteration as finished, once everything else of it is on disk."""
        append(self.dir / "iterations.jsonl", dump_line(IterationSummary, summary))

    def append_measurement(self, measurement: Measurement) -> None:
        """Record a measurement unless it is recorded already, as it is in a resumed run."""
        if measurement not in read_measurements(self.dir):
            append(self.dir / "evaluations.jsonl", dump_line(Measurement, measurement))

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        self.replace(self.dir / name, [json.dumps(values, indent=2).encode() + b"\n"])

    def replace(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Write a file in one step: after a kill it is either complete or as it was before."""
        temporary = path.with_name(path.name + ".tmp")
        try:
            with as_store_error(path, "write"):
                with open(temporary, "wb") as file:
                    file.writelines(pieces)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
                _sync_dir(path.parent)
        except StoreError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def cut_torn_tails(self) -> None:
        """Cut off the incomplete last line that a killed process may have left in the files of one line per record."""
        for name in ("iterations.jsonl", "evaluations.jsonl", "metrics.jsonl"):
            path = self.dir / name
            if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
                with as_store_error(path, "cut"), open(path, "r+b") as file:
                    file.truncate(content.rfind(b"\n") + 1)

    # Checkpoints: made in a temporary folder, renamed when complete.

    def new_checkpoint_dir(self, iteration: int) -> Path:
        """An empty temporary folder for a training; removes what a killed training left there."""
        temporary = self.checkpoint_dir(iteration).with_suffix(".tmp")
        with as_store_error(temporary, "create"):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        return temporary

    def publish_checkpoint(self, temporary: Path, checkpoint: Checkpoint) -> None:
        """Sync every file of a finished training, then give the folder its final name in one step."""
        final = self.checkpoint_dir(checkpoint.iteration)
        with as_store_error(temporary, "write"):
            (temporary / "checkpoint.json").write_bytes(_adapter(Checkpoint).dump_json(checkpoint, indent=2) + b"\n")
            for file in temporary.iterdir():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            _sync_dir(temporary)
            old = final.with_suffix(".old")
            shutil.rmtree(old, ignore_errors=True)
            if final.exists():
                os.replace(final, old)  # a kill while it is removed under its own name would leave half of it
            os.replace(temporary, final)
            _sync_dir(final.parent)
            shutil.rmtree(old, ignore_errors=True)

    def checkpoint(self, iteration: int) -> Checkpoint | None:
        """The finished checkpoint of an iteration, or None."""
        path = self.checkpoint_dir(iteration) / "checkpoint.json"
        if not path.exists():
            return None
        (checkpoint,) = parsed_lines(Checkpoint, [path.read_bytes()], path)
        return checkpoint


def append_metrics(run_dir: Path, iteration: int, metrics: StepMetrics) -> None:
    """Append a line to metrics.jsonl; a number that is not finite is null."""
    values = {
        "iteration": iteration,
        **{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(metrics).items()},
    }
    append(run_dir / "metrics.jsonl", json.dumps(values).encode() + b"\n", sync=False)


def read_run_json(run_dir: Path) -> dict[str, Any]:
    """The content of run.json. Raises StoreError if the folder is not a run folder or has another format."""
    path = run_dir / "run.json"
    if not os.path.isfile(path):  # False, not an error, for a name that no file could have
        raise StoreError(f"{run_dir} is not a run folder{what_is_there_of_a_run(run_dir)}")
    content = _read_json(path)
    if content.get("format") != FORMAT:
        raise StoreError(f"{path}: run folder format is {content.get('format')!r}, this version reads {FORMAT}")
    if missing := [name for name in ("resolved", "config", "model") if not isinstance(content.get(name), dict)]:
        raise StoreError(f"{path}: {', '.join(missing)} missing or damaged; restore the file or start a new run")
    return content


def read_result(run_dir: Path) -> dict[str, Any] | None:
    """The content of result.json, or None for a run that has not finished."""
    path = run_dir / "result.json"
    if not path.exists():
        return None
    content = _read_json(path)
    kinds = {"best_iteration": int, "checkpoint": str, "base": dict, "test": dict}
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            raise StoreError(f"{path}: {name!r} is missing or damaged; delete the file and run the same command again")
    return content


def read_summaries(run_dir: Path) -> list[IterationSummary]:
    return list(_read_lines(IterationSummary, run_dir / "iterations.jsonl"))


def read_measurements(run_dir: Path) -> list[Measurement]:
    return list(_read_lines(Measurement, run_dir / "evaluations.jsonl"))


def read_samples(run_dir: Path) -> Iterator[tuple[Path, Sample]]:
    """Every sample of a run with its file, file by file in the order of names; skips an incomplete last line."""
    for path in sorted((run_dir / "samples").glob("*.jsonl")):
        for sample in _read_lines(Sample, path):
            yield path, sample


def dump_measurement(measurement: Measurement) -> dict[str, Any]:
    """A measurement as in evaluations.jsonl, for other JSON files and outputs."""
    return cast(dict[str, Any], _adapter(Measurement).dump_python(measurement, mode="json"))


def dump_sample(sample: Sample) -> dict[str, Any]:
    return cast(dict[str, Any], _adapter(Sample).dump_python(sample, mode="json"))


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with as_store_error(path, "read"):
            content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: not readable as JSON ({error}); restore the file or start a new run") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path}: expected a JSON object, got {type(content).__name__}; restore the file")
    return content


def _read_lines(kind: type[R], path: Path) -> Iterator[R]:
    """The records of a file, one at a time; none if there is no file."""
    if path.exists():
        yield from parsed_lines(kind, _complete_lines(path), path)


def _complete_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their line ends; skips what follows the last one, an incomplete line."""
    with as_store_error(path, "read"), open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def parsed_lines(kind: type[R], lines: Iterable[bytes], path: Path, *, first: int = 1) -> Iterator[R]:
    """The records of consecutive lines of a file; the first line has the number `first`."""
    adapter = _adapter(cast(Hashable, kind))
    for number, line in enumerate(lines, start=first):
        try:
            record = cast(R, adapter.validate_json(line))
        except ValidationError as error:
            first_error = error.errors()[0]
            where = ".".join(str(part) for part in first_error["loc"]) or "the line"
            raise StoreError(
                f"{path}:{number}: {where}: {first_error['msg'].lower()}; the file was changed or damaged, restore it "
                "or start a new run"
            ) from error
        yield record


def dump_line(kind: type[Any], record: object) -> bytes:
    return _adapter(cast(Hashable, kind)).dump_json(record) + b"\n"


def append(path: Path, content: bytes, *, sync: bool = True) -> None:
    # Unbuffered, so that no buffer is written later, after a failed write has been cut off.
    with as_store_error(path, "append to"), open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            view = memoryview(content)
            while view:
                view = view[file.write(view) or 0 :]
            if sync:
                os.fsync(file.fileno())
        except OSError:
            os.truncate(path, before)
            raise


def _sync_dir(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def as_store_error(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        if link := link_to_nothing(path):
            raise StoreError(f"cannot {verb} {path}: {link}; make that folder, or give another path") from error
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        next_step = (
            "free some space (or raise the file size limit) and run the same command again; what is finished is kept"
            if full
            else "check the path and its permissions"
        )
        raise StoreError(f"cannot {verb} {path}: {error.strerror or error}; {next_step}") from error

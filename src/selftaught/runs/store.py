"""Write a run folder: append complete chunks, cut off incomplete lines, replace small files in one step, one writer.

docs/run-folder.md describes every file. Times and rates are not in samples/ and examples/, so that a resumed run writes
the same bytes.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, cast

from selftaught.records.errors import StoreError
from selftaught.records.measurements import IterationSummary, Measurement
from selftaught.records.problems import SPLITS, Problem, StoredProblem, Task
from selftaught.records.prompts import ChunkPrompts, Prompt
from selftaught.records.samples import LeftOut, Sample
from selftaught.records.training import SAMPLED, Checkpoint, StepMetrics, TrainingExample
from selftaught.runs.lines import (
    adapter_of,
    append,
    as_store_error,
    complete_lines,
    cut_torn_tail,
    dump,
    parsed,
    read_lines,
    replace_file,
    sync_dir,
)
from selftaught.runs.prompts import PromptFile, Render
from selftaught.runs.reading import PROBLEMS, PROMPTS, SERVED, read_measurements, read_passes

TRACKING = "tracking"
"""The folder of the trackers' processes, which alone write there (tracking/mirror_process.py)."""
NO_WEIGHTS = hashlib.sha256().hexdigest()
"""The hash in the record of a trainer that saves none."""
SUBFOLDERS = ("samples", "examples", "left_out", "checkpoints", "logs")


class RunStore:
    """The files of one run, open for writing. Use as a context manager: it holds the folder's lock."""

    def __init__(self, run_dir: Path) -> None:
        self.dir = run_dir
        self._lock: BinaryIO | None = None
        self._created: list[Path] = []
        """The folder and its parents, as far as this process created them; innermost first."""
        self._existing: set[Path] = set()
        """What the folder held before; `withdraw` does not remove it."""
        self._prompts = PromptFile(run_dir / PROMPTS)

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
                    f"{self.dir} is being written by another selftaught process; wait for it, or use another folder"
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
            names = ("run.json", "run.json.tmp", PROBLEMS, f"{PROBLEMS}.tmp", PROMPTS, "lock")
            for path in (*(self.dir / name for name in names), *self.dir.glob("logs/attempt-*.log")):
                if path not in self._existing:
                    path.unlink(missing_ok=True)
            if self.dir / TRACKING not in self._existing:
                shutil.rmtree(self.dir / TRACKING, ignore_errors=True)
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

    def served_dir(self, checkpoint: int | None) -> Path:
        """Of the complete model of a checkpoint with adapters, for a server; None is the base model."""
        return self.dir / SERVED / ("base" if checkpoint is None else f"{checkpoint:03d}")

    def remove_served(self, *, but: Path | None = None) -> None:
        """Remove what was written for servers, all but one folder."""
        for path in (self.dir / SERVED).glob("*"):
            if path != but:
                shutil.rmtree(path)
        with contextlib.suppress(OSError):  # not there, or not empty
            (self.dir / SERVED).rmdir()

    # What a run is begun with.

    def begin(self, task: Task, about: dict[str, Any]) -> None:
        """Store a task's problems and few-shot examples, then run.json, which marks the run as begun.

        Raises StoreError if the folder holds other problems, or prompts: a killed start may have left these problems.
        """
        places = (("few_shot", task.few_shot), *((split, task.split(split)) for split in SPLITS))
        names = [field.name for field in fields(Problem)]
        stored = (
            StoredProblem(**{name: getattr(problem, name) for name in names}, split=cast(Any, split))
            for split, problems in places
            for problem in problems
        )
        lines, path = (dump(StoredProblem, problem) for problem in stored), self.dir / PROBLEMS
        if not path.exists():
            self.replace(path, lines)
        elif any(before != line for before, line in zip_longest(complete_lines(path), lines)):
            raise StoreError(f"{path} is no file of this run; move it away, or use another --run-dir")
        if (prompts := self.dir / PROMPTS).exists():
            raise StoreError(f"{prompts} is no file of this run; move it away, or use another --run-dir")
        self.write_json("run.json", about)

    # Sampling: the chunk is the unit (stage_file.py).

    def append_prompts(self, few_shot: Prompt, prompts: Sequence[Prompt], render: Render) -> None:
        """Store what a chunk is generated from, as `PromptFile.append` does; before its samples are appended."""
        self._prompts.append(few_shot, prompts, render)

    def append_rendered_prompts(self, prompts: ChunkPrompts) -> None:
        """The same for prompts that a worker has rendered."""
        self._prompts.append_rendered(prompts)

    def samples(self, iteration: int, stage: str) -> Iterator[Sample]:
        """The samples of a finished stage; none if none was planned."""
        return read_lines(Sample, self.samples_path(iteration, stage))

    def trained_on(self, iteration: int) -> set[str]:
        """The problems of which a sample is in the training set of an iteration; without a check of the other keys,
        because all earlier training sets are read after every iteration."""
        path = self.examples_path(iteration)
        lines = map(json.loads, complete_lines(path)) if path.exists() else ()
        return {line["problem_id"] for line in lines if line["source"] in SAMPLED}

    # Small files, each written in one step.

    def write_examples(self, iteration: int, examples: Iterable[TrainingExample]) -> str:
        """Write what an iteration trains on, and return the sha256 of the file."""
        digest = hashlib.sha256()

        def lines() -> Iterator[bytes]:
            for example in examples:
                line = dump(TrainingExample, example)
                digest.update(line)
                yield line

        self.replace(self.examples_path(iteration), lines())
        return digest.hexdigest()

    def write_left_out(self, iteration: int, left_out: Iterable[LeftOut]) -> None:
        path = self.dir / "left_out" / f"{iteration:03d}.jsonl"
        self.replace(path, (dump(LeftOut, item) for item in left_out))

    def finish_iteration(self, summary: IterationSummary) -> None:
        """Mark an iteration as finished, once everything else of it is on disk."""
        append(self.dir / "iterations.jsonl", dump(IterationSummary, summary))

    def append_measurement(self, measurement: Measurement) -> None:
        """Record a measurement unless it is recorded already, as it is in a resumed run."""
        if measurement not in read_measurements(self.dir):
            append(self.dir / "evaluations.jsonl", dump(Measurement, measurement))

    def append_passes(self, measurement: Measurement) -> None:
        """The same for a measurement of dev in several samples a problem."""
        if measurement not in read_passes(self.dir):
            append(self.dir / "passes.jsonl", dump(Measurement, measurement))

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        self.replace(self.dir / name, [json.dumps(values, indent=2).encode() + b"\n"])

    def replace(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Write a file in one step: after a kill it is either complete or as it was before."""
        replace_file(path, pieces)

    def cut_torn_tails(self) -> None:
        """Cut off the incomplete last line that a killed process may have left in the files of one line per record."""
        for name in ("iterations.jsonl", "evaluations.jsonl", "passes.jsonl", "metrics.jsonl", PROMPTS):
            if (path := self.dir / name).exists():
                cut_torn_tail(path)

    # Checkpoints: made in a temporary folder, renamed when complete.

    def new_checkpoint_dir(self, iteration: int) -> Path:
        """An empty temporary folder for a training; removes what a killed training left there."""
        temporary = self.checkpoint_dir(iteration).with_suffix(".tmp")
        with as_store_error(temporary, "create"):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        return temporary

    @contextlib.contextmanager
    def new_checkpoint(self, iteration: int) -> Iterator[Path]:
        """The same folder for as long as a training takes; an exception removes it, so that only a process that died
        leaves one behind."""
        temporary = self.new_checkpoint_dir(iteration)
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def publish_checkpoint(self, temporary: Path, checkpoint: Checkpoint) -> None:
        """Sync every file of a finished training, then give the folder its final name in one step.

        Raises StoreError for a folder without the weights that a trainer, perhaps on another machine, has saved.
        """
        _refuse_lost_weights(temporary, checkpoint)
        final = self.checkpoint_dir(checkpoint.iteration)
        with as_store_error(temporary, "write"):
            (temporary / "checkpoint.json").write_bytes(adapter_of(Checkpoint).dump_json(checkpoint, indent=2) + b"\n")
            for file in temporary.iterdir():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            sync_dir(temporary)
            old = final.with_suffix(".old")
            shutil.rmtree(old, ignore_errors=True)
            if final.exists():
                os.replace(final, old)  # a kill while it is removed under its own name would leave half of it
            os.replace(temporary, final)
            sync_dir(final.parent)
            shutil.rmtree(old, ignore_errors=True)

    def remove_unfinished_checkpoints(self) -> None:
        """Remove what killed processes left of trainings; for a run that trains no more. Until then it says which
        training died (`reading.died_in_training`), and the training that takes its name removes it."""
        for path in sorted((self.dir / "checkpoints").iterdir()):
            if path.suffix in (".tmp", ".old") and path.stem.isdigit():
                with as_store_error(path, "remove"):
                    shutil.rmtree(path)

    def keep_weights_of(self, iterations: Collection[int], *, before: int) -> list[int]:
        """Delete the weights of the checkpoints before an iteration that are not among `iterations`; their folders and
        JSON files stay. Returns the iterations whose weights are not kept from now on.

        Says so in checkpoint.json before it deletes them, so that a kill leaves nothing that looks like weights; the
        next call deletes the rest.
        """
        dropped = []
        for n in range(before):
            checkpoint = None if n in iterations else self.checkpoint(n)
            if checkpoint is None:
                continue
            folder = self.checkpoint_dir(n)
            if checkpoint.weights_kept:
                record = adapter_of(Checkpoint).dump_json(replace(checkpoint, weights_kept=False), indent=2) + b"\n"
                self.replace(folder / "checkpoint.json", [record])
                dropped.append(n)
            with as_store_error(folder, "write"):
                for path in sorted(folder.glob("*.safetensors")):
                    path.unlink()
        return dropped

    def checkpoint(self, iteration: int) -> Checkpoint | None:
        """The finished checkpoint of an iteration, or None."""
        path = self.checkpoint_dir(iteration) / "checkpoint.json"
        if not path.exists():
            return None
        (checkpoint,) = parsed(Checkpoint, [path.read_bytes()], path)
        return checkpoint


def _refuse_lost_weights(folder: Path, checkpoint: Checkpoint) -> None:
    """Their hash is the trainer's: to compute it again would read all of a large model twice."""
    if checkpoint.sha256 == NO_WEIGHTS:
        return
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    if not sizes or not all(sizes):
        raise StoreError(
            f"{folder}: the training of iteration {checkpoint.iteration} has saved its weights, and "
            f"{'a file of them is empty' if sizes else 'none are'} here; put the run folder on a filesystem that all "
            "who train for the run see under this path, and run the same command again; the samples are kept and the "
            "training is redone"
        )


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def append_metrics(run_dir: Path, iteration: int, metrics: StepMetrics) -> None:
    """Append a line to metrics.jsonl; a number that is not finite is null."""
    values = {
        "iteration": iteration,
        **{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(metrics).items()},
    }
    append(run_dir / "metrics.jsonl", json.dumps(values).encode() + b"\n", sync=False)

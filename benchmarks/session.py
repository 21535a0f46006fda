"""One run of one benchmark: its options, the speed of matrix products, and its rivals in turn."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.child import HOPELESS
from benchmarks.flops import ModelShape
from benchmarks.machine import available_cpus, description
from benchmarks.record import Record, Row
from benchmarks.runner import RivalFailed, run_rival
from selftaught.models.weights import resolve_model
from selftaught.records.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line."""

    model: str
    data: Path | None
    device: str
    threads: int
    n: int
    slow_n: int
    """Most questions for transformers' own ways to generate, whose time per question does not depend on the number."""
    repeat: int
    rivals: tuple[str, ...]
    """Empty: all."""
    settings: Mapping[str, Any]
    """Of selftaught, `section.key` values."""
    vllm_python: str
    timeout_s: float
    check: int
    """Questions whose outputs are compared in float32; 0: none."""
    peak_sizes: tuple[int, ...]

    def data_dir(self) -> Path:
        if self.data is None:
            raise ConfigError("this benchmark reads GSM8K; give --data FOLDER with its train.jsonl as released")
        return self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    name: str
    module: str
    """Of benchmarks.rivals."""
    job: Mapping[str, Any] = field(default_factory=dict)
    """What it gets in addition to the benchmark's job."""
    is_slow: bool = False
    needs_vllm: bool = False
    dtype: str = ""
    """Number type of its job; empty: its own choice, or the session's `fast_dtype`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    options: Options
    model_dir: str
    folder: Path
    """Temporary; nothing of a benchmark stays."""
    shape: ModelShape
    device_name: str
    peak_before: Mapping[str, float]
    """FLOP/s of square matrix products before the first rival, by number type."""

    @property
    def fast_dtype(self) -> str:
        """The number type of the faster matrix products, which a user would choose on this machine."""
        return max(self.peak_before, key=lambda name: self.peak_before[name])

    def job(self, **values: Any) -> dict[str, Any]:
        return {"model": self.model_dir, "device": self.options.device, "dtype": self.fast_dtype, **values}

    def run(self, module: str, job: Mapping[str, Any], name: str, *, python: str = sys.executable) -> dict[str, Any]:
        """One process; its folder `name` stays until `drop`. Raises RivalFailed."""
        options = self.options
        return run_rival(
            module, job, self.folder / name, threads=options.threads, timeout_s=options.timeout_s, python=python
        )

    def record(self, rows: Sequence[Row], log: Callable[[str], None], **values: Any) -> Record:
        """The finished record. Matrix products are measured again, since the speed of a shared machine may change; the
        higher of the two rates counts."""
        log("measuring matrix products again")
        after = measure_machine(self.options, self.model_dir, self.folder / "peak-after")["peak"]
        options = self.options
        machine = description(
            device=options.device,
            threads=options.threads,
            device_name=self.device_name,
            peak_before=self.peak_before,
            peak_after=after,
        )
        highest = max(*self.peak_before.values(), *after.values())
        shared = [replace(row, peak_share=round(row.flop_per_s / highest, 4)) for row in rows]
        return Record(machine=machine, rows=shared, **values)

    def drop(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)


@contextmanager
def session(options: Options, log: Callable[[str], None]) -> Iterator[Session]:
    """Measure the machine and the model first. Raises ConfigError for a model that is not there."""
    model = resolve_model(options.model)
    with TemporaryDirectory(prefix="selftaught-benchmark-") as folder:
        log("measuring matrix products")
        measurements = measure_machine(options, model.path, Path(folder) / "peak-before")
        yield Session(
            options=options,
            model_dir=model.path,
            folder=Path(folder),
            shape=ModelShape(**measurements["shape"]),
            device_name=measurements["device_name"],
            peak_before=measurements["peak"],
        )


def measure_machine(options: Options, model: str, folder: Path) -> dict[str, Any]:
    """Rates of matrix products, the GPU's name and the model's shape. Raises RivalFailed."""
    job = {"model": model, "device": options.device, "sizes": options.peak_sizes, "repeats": 5}
    return run_rival("machine_peak", job, folder, threads=options.threads, timeout_s=options.timeout_s)


def in_turn(
    session: Session,
    rivals: Sequence[Rival],
    time_one: Callable[[Rival, int, dict[str, Any]], Row],
    job_of: Callable[[Rival], Mapping[str, Any]],
    log: Callable[[str], None],
) -> list[Row]:
    """Run all rivals, `options.repeat` times; `time_one` makes a row from what a rival measured.

    A rival that cannot run gets a row with the reason.
    """
    options = session.options
    names = options.rivals or tuple(rival.name for rival in rivals)
    if unknown := set(names) - {rival.name for rival in rivals}:
        raise ConfigError(f"unknown rivals {sorted(unknown)}; this benchmark has {', '.join(r.name for r in rivals)}")
    rows = []
    for repeat in range(options.repeat):
        for rival in rivals:
            if rival.name not in names:
                continue
            log(f"{rival.name}, repeat {repeat + 1} of {options.repeat}")
            job = job_of(rival)
            folder = f"{rival.name}-{repeat}"
            try:
                if rival.needs_vllm and not options.vllm_python:
                    raise RivalFailed("no --vllm-python INTERPRETER was given")
                refuse_hopeless(rival, session.peak_before)
                python = options.vllm_python if rival.needs_vllm else sys.executable
                own = {**rival.job, **({"dtype": rival.dtype} if rival.dtype else {})}
                result = session.run(rival.module, {**job, **own}, folder, python=python)
                rows.append(time_one(rival, repeat, result))
            except RivalFailed as error:
                rows.append(Row(rival=rival.name, repeat=repeat, n=int(job["n"]), failed=str(error)))
            finally:
                session.drop(folder)
    return rows


def refuse_hopeless(rival: Rival, peak: Mapping[str, float]) -> None:
    """Raise RivalFailed for bfloat16 on a processor without units for it: it would take hours, and nobody uses it."""
    if rival.dtype == "bfloat16" and peak["bfloat16"] * HOPELESS < peak["float32"]:
        times = peak["float32"] / peak["bfloat16"]
        raise RivalFailed(f"matrix products in bfloat16 are {times:.0f} times slower here than in float32")


def measured(result: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row that a rival measured itself."""
    fields = ("peak_memory_bytes", "gpu_peak_memory_bytes", "load_before", "load_after", "own_cpus", "other_cpus")
    return {**{name: result[name] for name in fields}, "dtype": result.get("dtype", "")}


def threads_or_all(threads: int) -> int:
    return threads or available_cpus()

"""`python -m benchmarks NAME`: the command line of the benchmarks."""

import argparse
import signal
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import fine_tuning, generating, iteration
from benchmarks.record import Record, save, show
from benchmarks.session import Options, threads_or_all
from selftaught.records.errors import ConfigError, SelftaughtError

GET_A_MODEL = (
    "this benchmark needs --model FOLDER, a model in Hugging Face format; for the figures in docs/speed.md get one "
    "with: hf download HuggingFaceTB/SmolLM2-135M-Instruct --local-dir FOLDER"
)
PEAK_SIZES = {"cpu": (2048, 3072, 4096), "cuda": (4096, 8192, 16384)}
"""Of the square matrices whose products give the peak rate."""
STEPS = 40
"""Optimizer steps of iteration 1 in Zelikman et al. 2022."""
QUICK_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    letter: str
    help: str
    n: int
    quick_n: int
    model: str = ""
    """Default of --model; empty: it must be given."""
    slow_n: int = 0
    """Default of --slow-n; 0: all questions."""


BENCHMARKS = {
    "generate-fixed": Benchmark(letter="A", help="six few-shot examples, exactly 64 new tokens", n=128, quick_n=32),
    "generate-natural": Benchmark(
        letter="B",
        help="the same, up to a stop or end, at most 128 new tokens",
        n=512,
        quick_n=64,
        slow_n=128,
    ),
    "generate-arithmetic": Benchmark(
        letter="C",
        help="the shipped model on its own problems, shortest first",
        n=1000,
        quick_n=200,
        model="builtin:adder",
    ),
    "generate-arithmetic-mixed": Benchmark(
        letter="C", help="the same problems, mixed", n=1000, quick_n=200, model="builtin:adder"
    ),
    "fine-tune-arithmetic": Benchmark(
        letter="C", help="fine-tune the shipped model", n=1000, quick_n=320, model="builtin:adder"
    ),
    "fine-tune": Benchmark(letter="D", help="fine-tune on GSM8K solutions, one epoch", n=512, quick_n=64),
    "iteration": Benchmark(letter="E", help="one STaR iteration with hints", n=128, quick_n=16),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 for what the user can correct."""
    given = _parser().parse_args(arguments)
    console = Console(width=200 if not sys.stdout.isatty() else None)
    try:
        record = run(given.name, _options(given), steps=given.steps or (QUICK_STEPS if given.quick else STEPS))
    except SelftaughtError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    show(record, console)
    if given.json is not None:
        save(record, given.json)
    return 0


def run(name: str, options: Options, *, steps: int) -> Record:
    """One benchmark by its name; `steps` are the optimizer steps of `iteration`."""
    if name == "fine-tune":
        return fine_tuning.run(name, options, fine_tuning.gsm8k, _log)
    if name == "fine-tune-arithmetic":
        return fine_tuning.run(name, options, fine_tuning.arithmetic, _log)
    if name == "iteration":
        return iteration.run(name, options, steps=steps, log=_log)
    workloads: dict[str, Callable[[Options], generating.Workload]] = {
        "generate-fixed": generating.fixed,
        "generate-natural": generating.natural,
        "generate-arithmetic": generating.arithmetic,
        "generate-arithmetic-mixed": partial(generating.arithmetic, is_mixed=True),
    }
    return generating.run(name, options, workloads[name], _log)


def _options(given: argparse.Namespace) -> Options:
    benchmark = BENCHMARKS[given.name]
    model = given.model or benchmark.model
    if not model:
        raise ConfigError(GET_A_MODEL)
    n = given.n or (benchmark.quick_n if given.quick else benchmark.n)
    return Options(
        model=model,
        data=given.data,
        device=given.device,
        threads=threads_or_all(given.threads),
        n=n,
        slow_n=given.slow_n or benchmark.slow_n or n,
        repeat=given.repeat,
        rivals=tuple(filter(None, given.rivals.split(","))),
        settings=dict(_setting(item) for item in given.set),
        vllm_python=given.vllm_python,
        timeout_s=given.timeout,
        check=given.check,
        peak_sizes=tuple(given.peak_sizes or PEAK_SIZES[given.device]),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time selftaught beside its rivals.")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, benchmark in BENCHMARKS.items():
        sub = names.add_parser(name, help=f"({benchmark.letter}) {benchmark.help}")
        sub.add_argument("--model", default="", help=f"model folder (default: {benchmark.model or 'none'})")
        sub.add_argument("--data", type=Path, help="folder with GSM8K's train.jsonl as released")
        sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        sub.add_argument("--threads", type=_count, default=0, help="CPU threads of every rival; 0: all")
        sub.add_argument("--n", type=_count, default=0, help=f"how many (default {benchmark.n})")
        sub.add_argument("--quick", action="store_true", help=f"a small form (n = {benchmark.quick_n})")
        sub.add_argument("--slow-n", type=_count, default=0, help="most questions given to transformers")
        sub.add_argument("--steps", type=_count, default=0, help=f"optimizer steps of `iteration` (default {STEPS})")
        sub.add_argument("--repeat", type=_count, default=1, help="times every rival is run, in turn")
        sub.add_argument("--rivals", default="", help="only these, with commas (default: all)")
        sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of selftaught")
        sub.add_argument("--vllm-python", default="", metavar="INTERPRETER", help="Python that has vllm and psutil")
        sub.add_argument("--timeout", type=float, default=3600.0, help="seconds that one rival may take")
        sub.add_argument("--check", type=_count, default=16, help="outputs compared in float32; 0: none")
        sub.add_argument("--peak-sizes", type=_count, nargs="+", default=[], help=argparse.SUPPRESS)
        sub.add_argument("--json", type=Path, metavar="FILE", help="append the JSON line to this file")
    return parser


def _setting(item: str) -> tuple[str, Any]:
    key, equals, raw = item.partition("=")
    if not equals:
        raise ConfigError(f"--set {item!r} has no '='; write --set section.key=value")
    try:
        return key, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return key, raw  # a word needs no quotes on a command line


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that the rival at work is ended, too
    sys.exit(main())

"""Cost of the loop itself: runs of 1,000, 10,000 and 100,000 toy problems with a scripted model, and one resume.

    python benchmarks/loop_scale.py
    python benchmarks/loop_scale.py --million

The model is a function and the trainer does nothing, so only the loop is measured: planning, prompts, verdicts,
storing, selecting, writing examples. Two iterations with rationalization and measurements; completions of about 200
characters, about 70 % correct; prompts with six few-shot examples. Every run is a process of its own. The largest run
is repeated, killed with SIGKILL half way through the rationalizations of iteration 2, and started again. The time from
the start of that process to its first new sample is the cost of planning a resume; at the end its files must have the
bytes of the run that was not killed. Prints a table and then a JSON line.

With `--million`, one iteration of 10,000 problems with 100 samples each, all of them different, of which at most 10 of
a problem are trained on (ReST-EM's settings); `--set` changes that. It is not repeated and not killed.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import selftaught
from selftaught.commands.run import check_before_start
from selftaught.config.loading import config_from_values
from selftaught.engines.scripted import ScriptedEngine
from selftaught.grading.answers import AnswerRule
from selftaught.grading.verifiers import tagged_line
from selftaught.loop import run
from selftaught.methods.table import METHODS
from selftaught.records.events import Event, StageBegan, StageEnded
from selftaught.records.problems import Problem, PromptFormat, Task
from selftaught.records.samples import (
    Completion,
    ModelRef,
    Request,
    SamplingParams,
)
from selftaught.records.seeds import uniform
from selftaught.runs.reading import read_summaries
from selftaught.runs.store import RunStore
from selftaught.stages.setup import Setup
from selftaught.tasks.fingerprint import data_sha256
from selftaught.tasks.splits import check_splits
from selftaught.training.none import NullTrainer

SIZES = (1_000, 10_000, 100_000)
SHARE_CORRECT, SHARE_CORRECT_HINTED = 0.7, 0.5
NUM_SHOTS = 6
MILLION = {
    "sampling.num_samples": 100,
    "sampling.temperature": 0.7,
    "selection.max_per_problem": 10,
    "loop.max_iterations": 1,
}
FORMAT = PromptFormat(
    question="Q: {question}{hint}\nA:",
    hint=" (answer: {answer})",
    completion=" <r>{rationale}</r>\n{answer}",
    answer_only=" {answer}",
)
RULE = AnswerRule(opener="<r>", closer="</r>", pattern=r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Time and memory of one process."""

    problems: int
    samples: int
    """To train on, of the iteration with most of them."""
    examples: int
    seconds: float
    """Wall clock of the loop, without the start of Python and without making the problems."""
    cpu_s: float
    """CPU time of the same work; other processes on the machine disturb it less."""
    first_sample_s: float
    """From the start of the process to its first sample."""
    stages: dict[str, float]
    """Seconds by stage, of the iterations that this process finished; `measure` is the time outside of iterations."""
    start_mib: float
    """Peak memory before the loop: Python, the package, and the problems."""
    peak_mib: float
    peaks_mib: Mapping[str, float]
    """Peak memory so far at the end of a stage of the last iteration; `selection`: when its examples are written."""


def rationale(a: int, b: int, total: int) -> str:
    return (
        f"The shelf starts with {a} books, and the truck brings {b} boxes of two books, so it brings {2 * b} books. "
        f"Together that is {a} + {2 * b} = {a + 2 * b} books on the shelf. The answer is therefore {total} books."
    )


def problem(k: int, split: str) -> Problem:
    a, b = 10 + k, 3 + (k * 7919 + len(split)) % 97
    question = (
        f"A library shelf numbered {split}-{k} holds {a} books in the morning. At noon a truck brings {b} boxes with "
        "two books each, and nobody takes a book home. How many books are on the shelf in the evening?"
    )
    return Problem(id=f"{split}-{k}", question=question, answer=str(a + 2 * b), rationale=rationale(a, b, a + 2 * b))


def made(number: int, split: str) -> tuple[Problem, ...]:
    return tuple(problem(k, split) for k in range(number))


def toy_task(problems: int) -> Task:
    """A task with that many training problems, and a tenth as many for dev and for test."""
    task = Task(
        name="shelf",
        prompt_format=FORMAT,
        verifier=tagged_line(RULE),
        few_shot=made(NUM_SHOTS, "shot"),
        train=made(problems, "train"),
        dev=made(problems // 10, "dev"),
        test=made(problems // 10, "test"),
    )
    check_splits(task)
    return task


def reply(prompt: str, seed: int) -> str:
    """About 200 characters of reasoning, others for another seed, and an answer, which is correct in the shares given
    above."""
    question = prompt.rpartition("Q: ")[2]
    words = question.split()
    a, b = int(words[6]), int(words[16])
    share = SHARE_CORRECT_HINTED if "(answer:" in question else SHARE_CORRECT
    total = a + 2 * b + (uniform(seed, 0) >= share)
    return f" <r>{rationale(a, b, total)} I am {seed % 9973} sure.</r>\n{total}\n\nQ: and on it goes"


class Scripted(ScriptedEngine):
    """A scripted model that can give token ids as a real one does."""

    def __init__(self, started: float, num_ids: int) -> None:
        super().__init__(reply)
        self.started, self.num_ids = started, num_ids
        self.first_sample_s: float | None = None

    def sample(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        if self.first_sample_s is None:
            self.first_sample_s = time.time() - self.started
        for completion in super().sample(requests, params):
            ids = tuple((ord(c) + 1000) * 7 for c in completion.text[: self.num_ids])
            yield replace(completion, token_ids=ids) if ids else completion


def run_here(
    folder: Path, problems: int, *, started: float, num_ids: int, chunk: int, changes: Mapping[str, str]
) -> None:
    """Make the run in this process; print its time and memory as JSON."""
    peaks: dict[str, float] = {}

    def note_peak(event: Event) -> None:
        if isinstance(event, StageEnded) and event.stage in ("rationale", "rationalization"):
            peaks[event.stage] = peak_mib()
        if isinstance(event, StageBegan) and event.stage == "train":
            peaks["selection"] = peak_mib()

    settings = {
        **METHODS["star"].knobs,
        "method": "custom",
        "model.path": "scripted",
        "task.name": "own",
        "sampling.num_shots": NUM_SHOTS,
        "sampling.max_new_tokens": 1_000,
        "training.learning_rate": 1e-6,
        "training.steps_first_iteration": 1,
        "loop.max_iterations": 2,
    }
    config = config_from_values(
        settings | {key: tomllib.loads(f"value = {value}")["value"] for key, value in changes.items()}
    )
    task = toy_task(problems)
    check_before_start(config, task)
    data_sha256(task)  # launch computes it too, to compare it with run.json
    engine = Scripted(started, num_ids)
    start_mib, began, cpu_began = peak_mib(), time.monotonic(), time.process_time()
    with RunStore(folder) as store:
        store.cut_torn_tails()
        finished = len(read_summaries(folder))
        setup = Setup(
            config=config,
            task=task,
            base=ModelRef(path="scripted"),
            store=store,
            open_engine=lambda model: engine,
            open_trainer=NullTrainer,
            chunk=chunk,
            method=METHODS[config.method].make(config, task),
            tell=note_peak,
        )
        outcome = run(setup)
    seconds = time.monotonic() - began
    stages: dict[str, float] = {}
    for summary in outcome.summaries[finished:]:
        for stage, spent in summary.seconds.items():
            stages[stage] = round(stages.get(stage, 0.0) + spent, 3)
    stages["measure"] = round(seconds - sum(stages.values()), 3)
    measured = Measured(
        problems=problems,
        samples=max(s.rationale.samples + s.rationalization.samples for s in outcome.summaries),
        examples=max(s.examples for s in outcome.summaries),
        seconds=round(seconds, 3),
        cpu_s=round(time.process_time() - cpu_began, 3),
        first_sample_s=round(engine.first_sample_s or 0.0, 3),
        stages=stages,
        start_mib=start_mib,
        peak_mib=peak_mib(),
        peaks_mib=peaks,
    )
    print(json.dumps(asdict(measured)))


def peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def command(folder: Path, problems: int, options: argparse.Namespace) -> list[str]:
    here = [sys.executable, __file__, "--child", str(folder), "--sizes", str(problems), "--started", str(time.time())]
    changes = [word for change in options.set for word in ("--set", change)]
    return [*here, "--ids", str(options.ids), "--chunk", str(options.chunk), *changes]


def finish(folder: Path, problems: int, options: argparse.Namespace) -> Measured:
    done = subprocess.run(command(folder, problems, options), check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(done.stdout))


def kill_half_way(folder: Path, problems: int, options: argparse.Namespace) -> None:
    """Start a run and SIGKILL it when half of the rationalizations of iteration 2 are on disk."""
    process = subprocess.Popen(command(folder, problems, options), stdout=subprocess.DEVNULL)
    first, second = (folder / "samples" / f"{n:03d}-rationalization.jsonl" for n in (1, 2))
    while not second.exists() or second.stat().st_size < first.stat().st_size / 2:
        if process.poll() is not None:
            raise RuntimeError("the run ended before it could be killed; take more problems")
        time.sleep(0.002)
    process.kill()
    process.wait()


def content_sha256(folder: Path) -> str:
    """Over everything that must not depend on a kill."""
    digest = hashlib.sha256()
    for path in sorted(p for name in ("samples", "examples", "left_out") for p in (folder / name).iterdir()):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def table(rows: Sequence[Measured]) -> str:
    names = list(rows[0].stages)
    numbers = f"{'seconds':>8} {'growth':>8} {'CPU s':>8} {'growth':>8} {'start MiB':>9} {'peak MiB':>9}"
    heads = f"{'problems':>9} {'samples':>9} {numbers} {'B/sample':>10}  "
    lines = [heads + "  ".join(names)]
    for before, row in zip((None, *rows), rows, strict=False):
        growth = f"{row.seconds / before.seconds:.2f} x" if before else ""
        cpu_growth = f"{row.cpu_s / before.cpu_s:.2f} x" if before else ""
        in_loop = (row.peak_mib - row.start_mib) * 2**20 / row.samples
        stages = "  ".join(f"{row.stages[name]:>{len(name)}.2f}" for name in names)
        spent = f"{row.seconds:>8.2f} {growth:>8} {row.cpu_s:>8.2f} {cpu_growth:>8}"
        memory = f"{row.start_mib:>9.0f} {row.peak_mib:>9.0f} {in_loop:>10,.0f}"
        lines.append(f"{row.problems:>9,} {row.samples:>9,} {spent} {memory}  {stages}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=list(SIZES))
    parser.add_argument("--ids", type=int, default=0, help="token ids per completion, as a real engine gives; 0: none")
    parser.add_argument("--chunk", type=int, default=512, help="samples that are stored together")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the run, value in TOML"
    )
    parser.add_argument("--dir", type=Path, default=None, help="keep the run folders here")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each size; the median is shown")
    parser.add_argument("--no-kill", action="store_true", help="leave out the killed run")
    parser.add_argument("--million", action="store_true", help="a million samples in one iteration")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        changes = dict(change.split("=", 1) for change in options.set)
        run_here(
            options.child,
            options.sizes[0],
            started=options.started,
            num_ids=options.ids,
            chunk=options.chunk,
            changes=changes,
        )
        return
    if options.million:
        sizes = options.sizes if options.sizes != list(SIZES) else [10_000]
        options.sizes, options.repeat, options.no_kill = sizes, 1, True
        options.set = [*(f"{key}={value}" for key, value in MILLION.items()), *options.set]
    with tempfile.TemporaryDirectory() as temporary:
        root = options.dir or Path(temporary)
        rows = []
        for n in options.sizes:
            runs = [finish(root / f"{n}-{k}", n, options) for k in range(options.repeat)]
            rows.append(sorted(runs, key=lambda row: row.seconds)[options.repeat // 2])
        print(table(rows))
        peaks = ", ".join(f"{mib:.0f} MiB after {stage}" for stage, mib in rows[-1].peaks_mib.items())
        print(f"the largest: {peaks}, {rows[-1].examples:,} examples")
        facts: dict[str, Any] = {"benchmark": "loop_scale", "runs": [asdict(row) for row in rows]}
        if not options.no_kill:
            largest = max(options.sizes)
            kill_half_way(root / "killed", largest, options)
            resumed = finish(root / "killed", largest, options)
            same = content_sha256(root / "killed") == content_sha256(root / f"{largest}-0")
            print(
                f"resume at {largest:,} problems: {resumed.first_sample_s:.2f} s from the start of the process to "
                f"its first new sample (a first start takes {rows[-1].first_sample_s:.2f} s), peak "
                f"{resumed.peak_mib:.0f} MiB, {'same bytes as' if same else 'OTHER BYTES than'} without the kill"
            )
            facts["resume"] = {**asdict(resumed), "same_bytes": same}
    facts |= {
        "ids": options.ids,
        "chunk": options.chunk,
        "set": options.set,
        "repeat": options.repeat,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "selftaught": selftaught.__version__,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()

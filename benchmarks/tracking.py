"""How much longer a run's iterations are with a tracker: `python -m benchmarks.tracking`.

For each tracker, pairs of runs of the quick start, one without and one with it, in turn first and second. wandb gets a
server on this machine that takes everything (fake_wandb.py), so that points are really sent while the run goes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from statistics import median

from benchmarks.fake_wandb import fake_wandb
from selftaught.runs.reading import read_summaries
from selftaught.tracking.mirror_process import read_state

TRACKERS = ("wandb", "trackio", "tensorboard")


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one run."""

    iterations: float
    rest: float
    """Start-up, measuring the base model and test, the report, and with a tracker its opening and closing."""


@dataclass(frozen=True, slots=True)
class Pair:
    tracker: str
    without: Took
    with_it: Took

    @property
    def longer(self) -> float:
        """By what share the iterations are longer with the tracker."""
        return self.with_it.iterations / self.without.iterations - 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trackers", default=",".join(TRACKERS), help="with commas")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of both runs")
    given = parser.parse_args(arguments)
    for tracker in given.trackers.split(","):
        pairs = []
        for number in range(given.pairs):
            with tempfile.TemporaryDirectory() as folder, receiving(tracker, Path(folder)) as environment:
                took = {}
                for name in ("", tracker) if number % 2 == 0 else (tracker, ""):
                    took[name] = timed_run(Path(folder) / (name or "without"), name, given.set, environment)
            pairs.append(pair := Pair(tracker, took[""], took[tracker]))
            print(dumps({**asdict(pair), "longer": round(pair.longer, 4)}), flush=True)
        longer = median(pair.longer for pair in pairs)
        rest = median(pair.with_it.rest - pair.without.rest for pair in pairs)
        each = ", ".join(f"{pair.longer:+.1%}" for pair in pairs)
        print(
            f"{tracker}: iterations {longer:+.1%} longer (median of {each}); start-up and end {rest:+.1f} s", flush=True
        )
    return 0


def timed_run(folder: Path, tracker: str, settings: Sequence[str], environment: dict[str, str]) -> Took:
    values = [*settings, *([f"tracking.backends={tracker}"] if tracker else [])]
    overrides = [part for value in values for part in ("--set", value)]
    command = [sys.executable, "-m", "selftaught", "run", "arithmetic", "--run-dir", str(folder), *overrides]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    total = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"the run ended with {done.returncode}: {done.stderr[-2000:]}")
    if tracker and ((state := read_state(folder, tracker)) is None or state.offline or "result" not in state.sent):
        raise SystemExit(f"{tracker} has not got the run: {done.stderr[-2000:]}")
    iterations = sum(sum(summary.seconds.values()) for summary in read_summaries(folder))
    return Took(iterations=round(iterations, 2), rest=round(total - iterations, 2))


@contextmanager
def receiving(tracker: str, folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which what a tracker sends stays on this machine."""
    environment = {"TRACKIO_DIR": str(folder / "trackio"), "HF_HUB_OFFLINE": "1"}
    if tracker != "wandb":
        yield environment
        return
    with fake_wandb() as fake:
        yield {**environment, **fake.environment}


if __name__ == "__main__":
    sys.exit(main())

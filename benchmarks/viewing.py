"""What it costs a run to be looked at while it goes: `python -m benchmarks.viewing`.

Pairs of runs of the quick start, one alone and one with `selftaught view` and its viewers, in turn first and second. A
viewer asks for what an open page asks for: every five seconds whether something has changed, and if so for the runs
and for the view that is open. The browsers themselves are not there: what they draw costs the machine that they are on.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from json import dumps, loads
from pathlib import Path
from statistics import median

from selftaught.runs.reading import read_summaries

POLL_S = 5.0
"""As the page's main.js has it."""
VIEWS: dict[str, tuple[str, ...]] = {
    "runs": (),
    "problems": ("api/grid?run=watched",),
    "samples": ("api/facets?run=watched", "api/samples?run=watched&offset=0&limit=50"),
}
"""What a view asks for besides the runs."""


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one run."""

    iterations: float
    wall: float
    """Of the whole command."""
    cpu: float
    """Computed by the command and its workers."""


@dataclass(slots=True)
class Watched:
    """What the viewers of one run have got."""

    asked: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Of each reply, in which everything that changed has been read."""
    server_cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Pair:
    alone: Took
    watched: Took
    server_cpu: float
    asked: int
    failed: int
    median_reply: float
    longest_reply: float

    @property
    def longer(self) -> float:
        """By what share the iterations are longer with the viewers."""
        return self.watched.iterations / self.alone.iterations - 1

    @property
    def more_cpu(self) -> float:
        """By what share the run itself computes longer, the server not counted."""
        return self.watched.cpu / self.alone.cpu - 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--viewers", type=int, default=1)
    parser.add_argument("--view", choices=VIEWS, default="samples", help="the view that every viewer has open")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of both runs")
    given = parser.parse_args(arguments)
    pairs = []
    for number in range(given.pairs):
        took: dict[str, Took] = {}
        watched = Watched()
        with tempfile.TemporaryDirectory() as folder:
            for name in ("alone", "watched") if number % 2 == 0 else ("watched", "alone"):
                viewers = given.viewers if name == "watched" else 0
                took[name] = timed_run(Path(folder) / name, given.set, viewers, VIEWS[given.view], watched)
        replies = watched.seconds or [0.0]
        pair = Pair(
            alone=took["alone"],
            watched=took["watched"],
            server_cpu=round(watched.server_cpu, 2),
            asked=watched.asked,
            failed=len(watched.failed),
            median_reply=round(median(replies), 4),
            longest_reply=round(max(replies), 4),
        )
        pairs.append(pair)
        print(dumps({**asdict(pair), "longer": round(pair.longer, 4), "more_cpu": round(pair.more_cpu, 4)}), flush=True)
        for reason in watched.failed[:3]:
            print(reason, file=sys.stderr)
    each = ", ".join(f"{pair.longer:+.1%}" for pair in pairs)
    print(
        f"{given.viewers} viewers of {given.view}: iterations {median(p.longer for p in pairs):+.1%} longer (median of "
        f"{each}), {median(p.more_cpu for p in pairs):+.1%} more computing by the run; the server computed "
        f"{median(p.server_cpu for p in pairs):.1f} s in {median(p.watched.wall for p in pairs):.0f} s; "
        f"{sum(p.failed for p in pairs)} of {sum(p.asked for p in pairs)} requests failed"
    )
    return 0


def timed_run(folder: Path, settings: Sequence[str], viewers: int, view: Sequence[str], watched: Watched) -> Took:
    overrides = [part for value in settings for part in ("--set", value)]
    command = [sys.executable, "-m", "selftaught", "run", "arithmetic", "--run-dir", str(folder), *overrides]
    began = time.monotonic()
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as run,
        looked_at(folder, run, viewers, view, watched),
    ):
        cpu = waited_for(run)
        if run.returncode:
            errors.seek(0)
            raise SystemExit(f"the run ended with {run.returncode}: {errors.read()[-2000:].decode()}")
        wall = time.monotonic() - began
    iterations = sum(sum(summary.seconds.values()) for summary in read_summaries(folder))
    return Took(iterations=round(iterations, 2), wall=round(wall, 2), cpu=round(cpu, 2))


def waited_for(process: "subprocess.Popen[bytes]") -> float:
    """The seconds that a process has computed, with those that it has waited for, when it has ended."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def looked_at(
    folder: Path, run: "subprocess.Popen[bytes]", viewers: int, view: Sequence[str], watched: Watched
) -> Iterator[None]:
    """Serve the run from its first file on, to so many viewers, until it ends."""
    if not viewers:
        yield
        return
    while not (folder / "run.json").exists():
        if os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            yield  # to the caller, who says why
            return
        time.sleep(0.05)
    command = [sys.executable, "-m", "selftaught", "view", str(folder), "--port", "0"]
    over = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        address = server.stdout.readline().decode().strip()
        threads = [
            threading.Thread(target=look, args=(address, view, over, watched, POLL_S * i / viewers))
            for i in range(viewers)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
            server.terminate()
            watched.server_cpu = waited_for(server)


def look(address: str, view: Sequence[str], over: threading.Event, watched: Watched, later: float) -> None:
    """What one open page does; the pages are opened at different times."""
    version = ""
    while not over.wait(later):
        later = POLL_S
        began = time.monotonic()
        try:
            if ask(address, "api/state", watched)["version"] == version:
                continue
            version = ask(address, "api/runs", watched)["version"]
            for path in view:
                ask(address, path, watched)
            watched.seconds.append(time.monotonic() - began)
        except (OSError, HTTPException, ValueError) as error:
            watched.failed.append(f"{type(error).__name__}: {error}")


def ask(address: str, path: str, watched: Watched) -> dict[str, str]:
    watched.asked += 1
    with urllib.request.urlopen(address + path, timeout=120) as reply:
        values: dict[str, str] = loads(reply.read())
        return values


if __name__ == "__main__":
    sys.exit(main())

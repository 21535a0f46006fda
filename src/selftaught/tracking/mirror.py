"""The listener of one tracker: hands what happens to a process, from a thread with a bounded queue, and never waits.

Whatever becomes of that process, the run goes on. A full queue drops, a process that has died is told nothing more, and
either is said once; when the run has finished, what is missing is sent from its files, which are the truth.
"""

import contextlib
import os
import queue
import select
import signal
import subprocess
import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from threading import Thread

from selftaught.config.settings import TrackingConfig
from selftaught.machine.children import environment, module_command
from selftaught.machine.command_lines import command
from selftaught.records.errors import ConfigError
from selftaught.records.events import Event, IterationEnded, RunEnded, SplitMeasured, StageEnded, StepTaken
from selftaught.records.training import StepMetrics
from selftaught.runs.lines import adapter_of, dump
from selftaught.runs.reading import LoggedStep
from selftaught.tracking.files import is_logged
from selftaught.tracking.mirror_process import Ended, Message, Opening, Reply, as_line
from selftaught.tracking.trackers import TRACKERS

QUEUE = 1_000
"""Messages that may wait for the tracker; each is a line of at most some kilobytes."""
START_S = 90.0
"""How long a tracker may take to be opened, before the first sample: its library may take long on a busy machine."""
SERVER_S = 20.0
"""Of that, how long its server may take to answer."""
CLOSE_S = 60.0
"""How long it may take at the end to get what is missing and to have everything arrive."""
CLOSE_WITH_FILES_S = 1_800.0
"""The same, where checkpoints or training sets are asked for."""
CLOSE_UNFINISHED_S = 10.0
"""The same for a run that was stopped: whoever stopped it waits, and the next start sends what has not arrived."""
GRACE_S = 10.0
"""How much longer its process is waited for than it has itself, so that it can say what went wrong."""


LEAVING_S = 3.0
"""How long it may take to end after its last word."""


class Process:
    """A tracker's process."""

    def __init__(self, opening: Opening) -> None:
        source = TRACKERS[opening.tracker]
        self._process = subprocess.Popen(
            module_command("selftaught.tracking.mirror_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment(), **source.environment()},
            start_new_session=True,  # Ctrl-C on the run's terminal is not for it
            bufsize=0,
        )
        self._said = b""
        with contextlib.suppress(OSError):  # it has ended already, which its reply says
            self.send(dump(Opening, opening))

    def send(self, line: bytes) -> None:
        """Waits if the process does not read. Raises OSError if it has ended, ValueError if its input is closed."""
        assert self._process.stdin is not None
        view = memoryview(line)
        while view:
            view = view[self._process.stdin.write(view) or 0 :]

    def reply(self, timeout_s: float) -> Reply | None:
        """The next reply; None if there is none in that time."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            if not (more := os.read(self._process.stdout.fileno(), 1 << 16)):
                return Reply(what="failed", text=f"its process ended with code {self._process.wait()}")
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        reply: Reply = adapter_of(Reply).validate_json(line)
        return reply

    def end(self, *, after: Reply | None = None) -> None:
        """End the process, and what it has started, however far it is; `after` its last word, which leaves both a
        moment to end by themselves and tidy up."""
        deadline = time.monotonic() + (LEAVING_S if after is not None else 0.0)
        while time.monotonic() < deadline and self._is_there():
            time.sleep(0.02)
        for kill in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, kill)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1.0)
                break
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _is_there(self) -> bool:
        """Whether anything of its group of processes is."""
        self._process.poll()
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Mirror:
    """Told every event; `wait` and `close` are where it may wait, each for a limited time."""

    def __init__(self, tracker: str, run_dir: Path, settings: TrackingConfig) -> None:
        self._tracker, self._run_dir, self._settings = tracker, run_dir, settings
        self._label = TRACKERS[tracker].label
        self._note: Callable[[str], None] = lambda text: None
        self._process: Process | None = None
        self._queue: queue.Queue[Message | None] = queue.Queue(QUEUE)
        self._thread: Thread | None = None
        self._has_dropped = self._has_failed = self._is_offline = self._is_finished = False

    def begin(self, note: Callable[[str], None]) -> None:
        """Begin to open the tracked run; `note` is how a person hears of it. The run folder must be there."""
        self._note = note
        self._process = Process(self._opening("live"))

    def wait(self) -> None:
        """Wait until it is open. Raises ConfigError if it cannot be written; one that is not there, or not now, is said
        and tried again at the end."""
        assert self._process is not None
        reply = self._process.reply(START_S)
        if reply is not None and reply.what == "opened":
            self._note(f"tracked by {self._label}: {reply.text}")
            self._thread = Thread(target=self._work, name=f"mirror-{self._tracker}", daemon=True)
            self._thread.start()
            return
        self._process.end(after=reply)
        self._process = None
        if reply is not None and reply.what == "refused":
            raise ConfigError(reply.text)
        if reply is not None and reply.what == "offline":
            self._is_offline = True
            self._note(
                f"{self._label} is offline: {reply.text}; the run's end writes files for it, and later "
                f"`{self._again()}` sends the run"
            )
        else:
            self._fail(reply.text if reply is not None else "it did not answer")

    def tell(self, event: Event) -> None:
        self._is_finished |= isinstance(event, RunEnded)
        message = message_of(event, self._settings.log_every_steps)
        if message is None or self._process is None or self._has_failed:
            return
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            if not self._has_dropped:
                self._has_dropped = True
                self._note(f"{self._label} does not keep up: what it misses is sent from the run's files at the end")
        if (reply := self._process.reply(0.0)) is not None:
            self._fail(reply.text)

    def close(self) -> None:
        """Send what is missing of a finished run, and wait until it has arrived, for a limited time."""
        if self._thread is not None and not self._has_failed:
            reply = self._closed()
            if reply is not None and reply.what == "closed":
                return
            if reply is not None and reply.what == "missing":
                self._note(f"{self._label} has not got everything: {reply.text}; `{self._again()}` sends the run again")
                return
            if not self._is_finished:
                self._note(f"{self._label} has not got everything: what is missing is sent when the run has finished")
        if self._process is not None:
            self._process.end()
        if self._is_finished:
            reply = whole(self._opening("whole" if self._is_offline else "live", offline=self._is_offline))
            if reply.what != "closed":
                self._note(f"{self._label} has not got everything: {reply.text}; `{self._again()}` sends the run again")

    def _closed(self) -> Reply | None:
        """Let the process finish its work; None if it does not in its time."""
        limit_s = close_s(self._settings) if self._is_finished else CLOSE_UNFINISHED_S
        deadline = time.monotonic() + limit_s + GRACE_S
        assert self._process is not None
        assert self._thread is not None
        with contextlib.suppress(queue.Full):  # if it has not moved on in all this time, it will not
            self._queue.put(None, timeout=limit_s)
        self._thread.join(deadline - time.monotonic())
        reply = self._process.reply(max(0.0, deadline - time.monotonic()))
        self._process.end(after=reply)
        return reply

    def _work(self) -> None:
        """The thread: it alone waits for the process to read."""
        assert self._process is not None
        with contextlib.suppress(OSError, ValueError):  # the process has ended; its last reply says why
            while (message := self._queue.get()) is not None:
                self._process.send(as_line(message))
            self._process.send(as_line(Ended(is_finished=self._is_finished)))

    def _fail(self, reason: str) -> None:
        self._has_failed = True
        self._note(f"{self._label} failed: {reason}; the run goes on, and its end tries to send it from its files")

    def _opening(self, how: str, *, offline: bool = False) -> Opening:
        attempt = sum(1 for _ in self._run_dir.glob("logs/attempt-*.log"))
        return opening_of(self._tracker, self._run_dir, self._settings, how, offline=offline, attempt=attempt)

    def _again(self) -> str:
        return command("track", self._run_dir, "--backend", self._tracker)


def close_s(settings: TrackingConfig) -> float:
    return CLOSE_WITH_FILES_S if settings.artifacts else CLOSE_S


def opening_of(
    tracker: str,
    run_dir: Path,
    settings: TrackingConfig,
    how: str,
    *,
    offline: bool = False,
    attempt: int | None = None,
) -> Opening:
    return Opening(
        tracker=tracker,
        module=TRACKERS[tracker].module,
        run_dir=str(run_dir.absolute()),
        settings=settings,
        how=how,  # type: ignore[arg-type]
        offline=offline,
        attempt=attempt,
        server_s=SERVER_S,
        close_s=close_s(settings),
    )


def whole(opening: Opening) -> Reply:
    """Send what a tracked run lacks of a folder; the reply after which nothing more comes."""
    process = Process(opening)
    reply: Reply | None = None
    try:
        with contextlib.suppress(OSError):
            process.send(as_line(Ended(is_finished=True)))
        reply = process.reply(START_S)
        if reply is not None and reply.what == "opened":
            reply = process.reply(opening.close_s + GRACE_S)
        return reply or Reply(what="failed", text="it did not answer in time")
    finally:
        process.end(after=reply)


def message_of(event: Event, every: int) -> Message | None:
    """What a tracker is told of an event; None for what no chart shows."""
    match event:
        case StepTaken(iteration=iteration, steps=steps, metrics=metrics) if is_logged(metrics.step, steps, every):
            return logged(iteration, metrics)
        case StageEnded():
            return event
        case SplitMeasured(measurement=measurement):
            return measurement
        case IterationEnded(summary=summary):
            return summary
    return None


def logged(iteration: int, metrics: StepMetrics) -> LoggedStep:
    """A step as metrics.jsonl has it."""

    def known(value: float) -> float | None:
        return value if isfinite(value) else None

    return LoggedStep(
        iteration=iteration,
        step=metrics.step,
        loss=known(metrics.loss),
        learning_rate=known(metrics.learning_rate),
        grad_norm=known(metrics.grad_norm),
        seconds=metrics.seconds,
        tokens=metrics.tokens,
        noise=metrics.noise,
        peak_bytes=metrics.peak_bytes,
    )

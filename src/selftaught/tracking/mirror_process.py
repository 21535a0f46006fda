"""The process of one tracker: gets what happens as lines on its input, and tells the tracker; ends with its input.

It alone imports the tracker's library: what that prints, how long it takes and how it ends does not reach the run. It
owns tracking/ in the run folder, where it keeps the id of the tracked run and what has arrived there.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from selftaught.config.settings import TrackingConfig
from selftaught.machine.command_lines import command
from selftaught.records.errors import StoreError, one_line
from selftaught.records.events import StageEnded
from selftaught.records.measurements import IterationSummary, Measurement, SamplingCounts
from selftaught.runs.lines import adapter_of, dump
from selftaught.runs.reading import LoggedStep, read_result, read_steps
from selftaught.tracking.folder import RunFolder
from selftaught.tracking.points import Item, Row, StepRows, counted, counts_row, measured_row
from selftaught.tracking.trackers import NotArrived, Offline, Place, Refused, Tracker

NICENESS = 10
"""The run comes first."""
LOCK_S = {"live": 60.0, "whole": 5.0, "later": 5.0}
"""How long another process may hold the lock: that of a start that was killed may yet be sending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The first line: what is to be tracked, and how."""

    tracker: str
    module: str
    """As in the table of trackers."""
    run_dir: str
    settings: TrackingConfig
    how: Literal["live", "whole", "later"]
    """Carry the tracked run on while the run goes; send everything to a new one; add to the one that there is."""
    offline: bool = False
    attempt: int | None = None
    server_s: float
    close_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The last line. Whether the run has finished; if it has, what is missing is sent from its files."""

    is_finished: bool


Message = LoggedStep | StageEnded | Measurement | IterationSummary | Ended
MESSAGES: dict[str, Any] = {
    kind.__name__: kind for kind in (LoggedStep, StageEnded, Measurement, IterationSummary, Ended)
}


ReplyKind = Literal["opened", "offline", "refused", "failed", "closed", "missing"]
"""`closed`: everything has arrived; `missing`: it is closed, and something has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    what: ReplyKind
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the run folder keeps of a tracked run: tracking/NAME.json."""

    id: str
    where: str
    offline: bool
    """Whether it is files that have yet to be sent."""
    settings: TrackingConfig
    sent: tuple[str, ...] = ()
    """Keys of what has arrived."""


def as_line(message: Message) -> bytes:
    kind = type(message)
    return f'{{"{kind.__name__}":'.encode() + dump(kind, message).rstrip(b"\n") + b"}\n"


def message_of(line: bytes) -> Message:
    ((name, values),) = json.loads(line).items()
    message: Message = adapter_of(MESSAGES[name]).validate_python(values)
    return message


def state_path(run_dir: Path, tracker: str) -> Path:
    return run_dir / "tracking" / f"{tracker}.json"


def read_state(run_dir: Path, tracker: str) -> State | None:
    """Raises StoreError for a file that is damaged."""
    path = state_path(run_dir, tracker)
    if not path.exists():
        return None
    try:
        state: State = adapter_of(State).validate_json(path.read_bytes())
    except ValidationError as error:
        raise StoreError(
            f"{path}: {error.errors()[0]['msg'].lower()}; delete it, and `{command('track', run_dir)}` sends the run "
            "again"
        ) from error
    return state


def main() -> None:
    """Exit code 0, unless nothing more could be done: what went wrong is a reply, or stands in the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then ends this process's input
    lines = os.fdopen(os.dup(0), "rb")
    opening: Opening = adapter_of(Opening).validate_json(lines.readline())
    folder = Path(opening.run_dir).absolute() / "tracking"
    replies = os.fdopen(os.dup(1), "wb", buffering=0)

    def reply(what: ReplyKind, text: object = "") -> None:
        with contextlib.suppress(BrokenPipeError):  # the run has ended, or waits no longer
            replies.write(dump(Reply, Reply(what=what, text=one_line(text))))

    code = 1
    try:
        _print_into(folder, f"{opening.tracker}.log")
        with (
            _locked(folder / f"{opening.tracker}.lock", LOCK_S[opening.how]),
            _temporary_files_in(folder / f"{opening.tracker}.tmp"),
        ):
            session = Session(opening, folder)
            reply("opened", session.tracker.where)
            os.nice(NICENESS)  # from here on the run goes
            session.close(is_finished=session.listen(lines))
        reply("closed", session.tracker.where)  # after which this process may be ended
        code = 0
    except Refused as error:
        reply("refused", error)
    except Offline as error:
        reply("offline", error)
    except NotArrived as error:
        reply("missing", error)
    except BaseException as error:  # the last place where it can be told
        traceback.print_exc()
        reply("failed", error)
    sys.stderr.flush()
    os._exit(code)  # not through the exit handlers of a library, which may wait for a server for hours


class Session:
    """An open tracked run, and what of the run it has."""

    def __init__(self, opening: Opening, folder: Path) -> None:
        """Raises Refused, Offline, or StoreError for what is no run folder."""
        self.run = RunFolder(Path(opening.run_dir), opening.settings)
        self._opening, self._folder = opening, folder
        before = read_state(self.run.dir, opening.tracker)
        if opening.how == "whole" or (opening.how == "live" and before is not None and before.offline):
            carried = None  # files that were sent since, or not, must not be carried on
        else:
            carried = before
        self._sent = set(carried.sent) if carried else set()
        self._new: set[str] = set()
        self._failures: dict[str, str] = {}
        self._rounds: dict[tuple[int, str], SamplingCounts] = {}
        self._steps: tuple[int | None, StepRows] = None, StepRows(self.run.work)
        """The training that goes on, by its iteration."""
        given = opening.settings.id if before is None else None
        place = Place(
            run_dir=self.run.dir,
            folder=folder,
            name=self.run.dir.absolute().name,
            id=carried.id if carried else given or uuid.uuid4().hex[:8],
            is_new=carried is None,
            offline=opening.offline,
            config=self.run.description(),
            settings=opening.settings,
            server_s=opening.server_s,
            close_s=opening.close_s,
        )
        self.tracker, self._offline = _opened(opening, place)
        self._id = place.id
        self._write_state()

    def listen(self, lines: Iterable[bytes]) -> bool:
        """Add what comes, up to the last line; whether that says that the run has finished."""
        for line in lines:
            match message_of(line):
                case LoggedStep() as step:
                    self._add(self._steps_of(step.iteration).row(step))
                case StageEnded(iteration=iteration, kind=kind, counts=counts) if kind != "evaluation":
                    rounds = counted(self._rounds.get((iteration, kind)), counts)
                    self._rounds[iteration, kind] = rounds
                    self._add(counts_row(iteration, kind, rounds), is_more=True)
                case Measurement() as measurement:
                    self._add(measured_row(measurement))
                case IterationSummary() as summary:
                    for item in self.run.of_iteration(summary):
                        self._add(item)
                case Ended(is_finished=is_finished):
                    return is_finished
        return False  # the run was killed

    def _steps_of(self, iteration: int) -> StepRows:
        """What makes rows of a training's steps. Where these begin is read from the run's files: the last step of the
        training before may not have come here."""
        if self._steps[0] != iteration:
            steps = StepRows(self.run.work)
            for step in read_steps(self.run.dir):
                if step.iteration < iteration:
                    steps.row(step)
            self._steps = iteration, steps
        return self._steps[1]

    def close(self, *, is_finished: bool) -> None:
        """Raises NotArrived if something is missing."""
        if is_finished:
            for item in self.run.items():
                self._add(item, is_live=False)
        self.tracker.close(is_finished=is_finished and read_result(self.run.dir) is not None)
        self._sent |= self._new
        self._write_state()
        if self._failures:
            key, reason = next(iter(self._failures.items()))
            raise NotArrived(f"{len(self._failures)} tables or files, the first of them {key}: {reason}")

    def _add(self, item: Item, *, is_live: bool = True, is_more: bool = False) -> None:
        """Add an item that is not there; `is_more`: one that has grown since."""
        if item.key in self._sent or (item.key in self._new and not is_more):
            return
        try:
            self.tracker.add(item, self._opening.attempt if is_live else None)
        except Exception as error:
            if isinstance(item, Row):
                raise
            # Tables and files ask more of a tracker than numbers do, and must not take the numbers with them.
            traceback.print_exc()
            self._failures[item.key] = one_line(error)
            return
        self._new.add(item.key)
        self._failures.pop(item.key, None)

    def _write_state(self) -> None:
        opening = self._opening
        state = State(
            id=self._id,
            where=self.tracker.where,
            offline=self._offline,
            settings=opening.settings,
            sent=tuple(sorted(self._sent)),
        )
        path = state_path(self.run.dir, opening.tracker)
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_bytes(dump(State, state))
        os.replace(temporary, path)


def _opened(opening: Opening, place: Place) -> tuple[Tracker, bool]:
    """The tracked run, and whether it is files to be sent later."""
    module = import_module(opening.module)
    try:
        return module.open_tracker(place), place.offline
    except Offline:
        if opening.how != "whole":
            raise
    return module.open_tracker(replace(place, offline=True)), True


@contextlib.contextmanager
def _locked(path: Path, wait_s: float) -> Iterator[None]:
    """Raises Refused if another process keeps the lock."""
    with path.open("ab") as file:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Refused(f"another process tracks this run ({path}); wait for it") from None
                time.sleep(0.05)
        yield


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Have libraries put their temporary files there. They are removed at the end, and after a kill next time, since
    this process does not go through the exit handlers in which libraries remove their own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _print_into(folder: Path, name: str) -> None:
    """What a library prints must go neither to the replies nor to the terminal of the run. Raises Refused for a folder
    that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    except OSError as error:
        raise Refused(
            f"{folder} cannot be written ({error.strerror}); free some space or correct its permissions"
        ) from error


if __name__ == "__main__":
    main()

"""The table of trackers, and what one is: something outside a run that keeps its points and draws charts of them.

A tracker runs in a process of its own (`mirror_process.py`), which alone imports its library.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from selftaught.config.settings import TrackingConfig
from selftaught.records.errors import ConfigError
from selftaught.tracking.points import Item


class Refused(Exception):
    """The tracker cannot be written, and a person must change something; the text is one line."""


class Offline(Exception):
    """The tracker's server cannot be reached or has no account of the user; the text says why."""


class NotArrived(Exception):
    """Not everything that was added has arrived where it should; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which tracked run is opened, and how."""

    run_dir: Path
    folder: Path
    """For files of the tracker: tracking/ in the run folder."""
    name: str
    """Of the run, for people."""
    id: str
    is_new: bool
    """Whether the tracked run must not be there yet; else it is carried on, or begun if it is not there."""
    offline: bool = False
    """Write files to be sent later, without any network; for a tracker that has a server."""
    config: Mapping[str, Any]
    """The resolved settings, to be kept with the points."""
    settings: TrackingConfig
    server_s: float
    """How long its server may take to answer at the beginning, and to get everything at the end."""
    close_s: float


class Tracker(Protocol):
    """An open tracked run."""

    where: str
    """An address or a folder, for people."""

    def add(self, item: Item, attempt: int | None) -> None:
        """`attempt` is the number of the run's start, for what a killed training may repeat; None afterwards."""

    def close(self, *, is_finished: bool) -> None:
        """Raises NotArrived if something is known to be missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An entry of the table."""

    package: str
    """Whose absence is an error that names the extra of the same name."""
    module: str
    """Has `open_tracker(place) -> Tracker`, which raises Refused or Offline."""
    label: str
    environment: Callable[[], Mapping[str, str]] = field(default=lambda: {})
    """For its process."""


def _of_trackio() -> dict[str, str]:
    remote = any(os.environ.get(name) for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"))
    # Without a space to send to, it would still ask the hub who the user is.
    return {} if remote else {"HF_HUB_OFFLINE": "1"}


TRACKERS: Mapping[str, Source] = {
    "wandb": Source(
        package="wandb",
        module="selftaught.tracking.wandb",
        label="wandb",
        # Its reports of its own errors hold paths.
        environment=lambda: {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"},
    ),
    "trackio": Source(
        package="trackio", module="selftaught.tracking.trackio", label="trackio", environment=_of_trackio
    ),
    "tensorboard": Source(package="tensorboard", module="selftaught.tracking.tensorboard", label="TensorBoard"),
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker that is not known, or whose package is not there."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"tracker {name!r}: expected one of {', '.join(TRACKERS)}")
        if find_spec(TRACKERS[name].package) is None:
            raise ConfigError(
                f"tracking.backends names {name}, which needs the package {TRACKERS[name].package}; install "
                f"selftaught[{name}], or leave it out"
            )


def refuse_unwritable(folder: Path, what: str, variable: str) -> None:
    """Raise Refused if no file can be made in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Refused(
            f"{what} {folder} cannot be written ({error.strerror}); free some space or correct its permissions, or "
            f"name another in the environment variable {variable}"
        ) from error

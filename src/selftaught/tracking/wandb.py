"""Weights & Biases: one tracked run for a run, carried on under its id; or, without its server, files to be sent later.

`step` is never given, since wandb drops points whose step is not above the last one; the axes are values of each row.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import wandb

from selftaught.records.errors import one_line
from selftaught.tracking.copies import files_to_send
from selftaught.tracking.points import ITERATION, ITERATION_GROUPS, STEP, STEP_GROUP, Files, Item, Row, Texts
from selftaught.tracking.trackers import NotArrived, Offline, Place, Refused, refuse_unwritable

UNREACHABLE = re.compile(
    r"deadline exceeded|connection refused|no such host|giving up after|timed out|timeout|HTTP 5\d\d|error 5\d\d"
    r"|connection reset|network is unreachable|EOF|proxyconnect|certificate",
    re.IGNORECASE,
)
"""In the text of an error at the start: the server is not there, or not now."""
GIVEN_DATA_DIR = os.environ.get("WANDB_DATA_DIR")
"""Where copies of tables and files wait until they are sent; wandb's default is the user's home, which may be full."""


def open_tracker(place: Place) -> "WandbRun":
    """Raises Offline if there is no account or no server; Refused if the server does not let this run be written."""
    settings = place.settings
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        if folder := os.environ.get(variable):
            refuse_unwritable(Path(folder), "wandb's folder", variable)
    is_offline = place.offline or os.environ.get("WANDB_MODE", "").lower() in ("offline", "dryrun", "disabled")
    if is_offline and not place.offline:
        raise Offline(f"WANDB_MODE is {os.environ['WANDB_MODE']}")
    os.environ["WANDB_DATA_DIR"] = GIVEN_DATA_DIR or (
        str(place.folder / "wandb") if is_offline else tempfile.gettempdir()
    )
    try:
        run = wandb.init(
            mode="offline" if is_offline else "online",
            project=settings.project,
            entity=settings.entity,
            id=place.id,
            name=place.name,
            resume="never" if place.is_new else "allow",
            config=dict(place.config),
            settings=_settings(place),
        )
    except wandb.errors.UsageError as error:
        if "API key" in str(error) or "log in" in str(error):
            raise Offline(f"there is no account: {one_line(error)}") from error
        raise Refused(f"wandb refuses this run: {one_line(error)}") from error
    except (wandb.errors.CommError, TimeoutError) as error:
        if UNREACHABLE.search(str(error)):
            raise Offline(f"its server does not answer: {one_line(error)}") from error
        where = "/".join(filter(None, (settings.entity, settings.project)))
        raise Refused(
            f"wandb does not let run {place.id} in project {where!r} be written: {one_line(error)}; correct "
            "tracking.project, tracking.entity or tracking.id, or log in with another key (`wandb login`)"
        ) from error
    return WandbRun(run, place, is_offline=is_offline)


def _settings(place: Place) -> wandb.Settings:
    given: dict[str, Any] = {
        "root_dir": str(place.folder),
        "use_dot_wandb": False,
        "console": "off",  # what is printed goes nowhere
        "silent": True,
        "save_code": False,
        "disable_code": True,
        "disable_job_creation": True,
        "x_save_requirements": False,
        "allow_val_change": True,  # a run may be carried on with other settings of the engine
        "label_disable": True,
        "init_timeout": place.server_s,
        "login_timeout": place.server_s,
        "finish_timeout": place.close_s,
        "finish_timeout_raises": True,
        "program": "selftaught",
        "x_executable": "",
    }
    if not place.settings.machine_info:
        given |= {
            "x_disable_meta": True,
            "x_disable_machine_info": True,
            "x_disable_stats": True,
            "disable_git": True,
            "host": "",
            "username": "",
            "email": "",
        }
    return wandb.Settings(**given)


class WandbRun:
    """A tracked run whose rows each hold their place on their axis."""

    def __init__(self, run: Any, place: Place, *, is_offline: bool) -> None:
        self.where = str(Path(run.settings.sync_dir)) if is_offline else str(run.url)
        self._run, self._run_dir, self._is_offline = run, place.run_dir, is_offline
        for axis, groups in ((STEP, (STEP_GROUP,)), (ITERATION, ITERATION_GROUPS)):
            run.define_metric(axis, hidden=True)
            for group in groups:
                run.define_metric(f"{group}/*", step_metric=axis)

    def add(self, item: Item, attempt: int | None) -> None:
        match item:
            case Row():
                more = {} if attempt is None else {"attempt": attempt}
                self._run.log({**item.values, item.axis: item.at, **more})
            case Texts():
                table = wandb.Table(columns=list(item.columns), data=[list(row) for row in item.rows])
                if self._is_offline:
                    # A file beside the others. As an artifact, wandb's other copy of every table, it would be in the
                    # user's home under a path that stands in the file to be sent.
                    table.bind_to_run(self._run, item.name, item.iteration)
                self._run.log({item.name: table})
            case Files():
                artifact = wandb.Artifact(f"{self._run.id}-{item.kind}", type=item.type)
                with tempfile.TemporaryDirectory() as scratch:
                    for name, path in files_to_send(self._run_dir / item.path, Path(scratch)).items():
                        # wandb copies it at once; a second copy in its cache would be of no use to anyone.
                        artifact.add_file(str(path), name=name, skip_cache=True)
                self._run.log_artifact(artifact, aliases=[f"iteration-{item.iteration:03d}"])

    def close(self, *, is_finished: bool) -> None:
        try:
            self._run.finish(exit_code=0 if is_finished else 1)
        except TimeoutError as error:
            raise NotArrived("its server did not take everything in time") from error

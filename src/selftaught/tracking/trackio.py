"""trackio: a project on this machine, in a folder of the user's cache (or on a Space, if the user's environment says
so)."""

import os
import tempfile
from pathlib import Path
from typing import Any

import trackio
from trackio.sqlite_storage import SQLiteStorage

from selftaught.machine.command_lines import quoted
from selftaught.tracking.copies import files_to_send
from selftaught.tracking.points import Files, Item, Row, Texts
from selftaught.tracking.trackers import NotArrived, Place, Refused, refuse_unwritable


def open_tracker(place: Place) -> "TrackioRun":
    """Raises Refused for a project's name that it does not take, a run that is there, or a folder that it cannot
    write."""
    settings = place.settings
    refuse_unwritable(Path(trackio.utils.TRACKIO_DIR), "trackio's folder", "TRACKIO_DIR")
    name = settings.id if settings.id == place.id else f"{place.name}-{place.id}"
    assert name is not None
    try:
        SQLiteStorage.validate_project_name(settings.project)
        is_there = SQLiteStorage.get_latest_run_record_by_name(settings.project, name) is not None
        if place.is_new and is_there:
            raise Refused(
                f"tracking.id = {name!r}: project {settings.project!r} has a run of that name, which is not this run "
                "folder's; give another, or leave it out"
            )
        run = trackio.init(
            project=settings.project,
            name=name,
            config=dict(place.config),
            resume="never" if place.is_new else "allow",
            embed=False,
            auto_log_gpu=settings.machine_info,
            auto_log_cpu=settings.machine_info,
        )
    except ValueError as error:
        raise Refused(f"tracking.project = {settings.project!r}: {error}; give another") from error
    if not settings.machine_info:
        run.config["_Username"] = None
    return TrackioRun(run, place)


class TrackioRun:
    """Each chart has the steps of its own axis; trackio takes steps in any order."""

    def __init__(self, run: Any, place: Place) -> None:
        project = place.settings.project
        self.where = f"run {run.name} (trackio show --project {quoted(project)})"
        self._run, self._run_dir = run, place.run_dir
        self._is_here = not any(os.environ.get(name) for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"))
        self._before = self._count() if self._is_here else 0
        self._added = 0

    def add(self, item: Item, attempt: int | None) -> None:
        match item:
            case Row():
                values: dict[str, Any] = dict(item.values)
                if attempt is not None:
                    values["attempt"] = attempt
                self._log(values, item.at)
            case Texts():
                rows = [list(row) for row in item.rows]
                self._log({item.name: trackio.Table(columns=list(item.columns), data=rows)}, item.iteration)
            case Files():
                artifact = trackio.Artifact(f"{self._run.name}-{item.kind}", type=item.type)
                with tempfile.TemporaryDirectory() as scratch:
                    for name, path in files_to_send(self._run_dir / item.path, Path(scratch)).items():
                        artifact.add_file(path, name=name)
                    self._run.log_artifact(artifact, aliases=[f"iteration-{item.iteration:03d}"])

    def close(self, *, is_finished: bool) -> None:
        self._run.finish()
        if self._is_here and (there := self._count() - self._before) < self._added:
            raise NotArrived(f"{there} of {self._added} rows are in its database")

    def _log(self, values: dict[str, Any], step: int) -> None:
        self._run.log(values, step=step)
        self._added += 1

    def _count(self) -> int:
        return int(SQLiteStorage.get_log_count(self._run.project, self._run.name, run_id=self._run.id))

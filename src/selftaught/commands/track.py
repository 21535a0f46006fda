"""Send a run folder to trackers: all of it to a new tracked run, or what `eval` has measured to the one there is."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from selftaught.commands.stored_run import config_of_run
from selftaught.machine.command_lines import command
from selftaught.records.errors import ConfigError, EngineError, StoreError
from selftaught.records.measurements import Measurement
from selftaught.runs.lines import append, dump
from selftaught.runs.store import TRACKING
from selftaught.tracking.mirror import opening_of, whole
from selftaught.tracking.mirror_process import read_state
from selftaught.tracking.trackers import TRACKERS, check_trackers

PATIENCE_S = 3_600.0
"""Nothing waits for this command but a person, who can stop it."""


def track(run_dir: Path, names: Sequence[str], *, note: Callable[[str], None]) -> None:
    """Send all that a run folder holds, finished or not, to a new tracked run of each tracker.

    Without names, to those of the run's config. Raises ConfigError where there are none, or where one cannot be
    written; EngineError if something has not arrived.
    """
    settings = config_of_run(run_dir).tracking
    chosen = list(dict.fromkeys(names or settings.backends))
    if not chosen:
        raise ConfigError(
            f"{run_dir} was started without trackers; name one or more with --backend ({', '.join(TRACKERS)})"
        )
    check_trackers(chosen)
    for name in chosen:
        reply = whole(replace(opening_of(name, run_dir, settings, "whole"), close_s=PATIENCE_S))
        if reply.what in ("refused", "offline"):
            raise ConfigError(reply.text)
        if reply.what != "closed":
            raise EngineError(
                f"{TRACKERS[name].label} has not got everything of {run_dir}: {reply.text}; run the same command again"
            )
        state = read_state(run_dir, name)
        again = f"; offline: `{command('track', run_dir, '--backend', name)}` sends it once the server is there"
        note(f"{TRACKERS[name].label}: {reply.text}{again if state and state.offline else ''}")


def tell_later(run_dir: Path, measurement: Measurement, *, note: Callable[[str], None]) -> None:
    """Add a measurement of a tracked run to its tracked runs; a run that is not tracked stays as it is.

    What a tracker does not take is said, and stays in the run folder for `track`.
    """
    names = [name for name in TRACKERS if (run_dir / TRACKING / f"{name}.json").exists()]
    if not names:
        return
    append(run_dir / TRACKING / "evaluations.jsonl", dump(Measurement, measurement))
    for name in names:
        label = TRACKERS[name].label
        again = f"`{command('track', run_dir, '--backend', name)}` sends the run again, with this measurement"
        try:
            state = read_state(run_dir, name)
            assert state is not None
            check_trackers([name])
        except (ConfigError, StoreError) as error:  # it is measured, and the next tracker may take it
            note(f"{label} has not got this measurement: {error}; {again}")
            continue
        if state.offline:
            note(f"{label}: the run's files were written offline; {again}")
            continue
        reply = whole(opening_of(name, run_dir, state.settings, "later"))
        if reply.what == "closed":
            note(f"{label}: added to {reply.text}")
        else:
            note(f"{label} has not got this measurement: {reply.text}; {again}")

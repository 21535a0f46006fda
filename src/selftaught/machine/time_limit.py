"""The time that a run may take, as people write it: `3h`, `90m`, `1h30m`, or a number of seconds."""

import re
import time
from collections.abc import Callable

from selftaught.records.errors import ConfigError

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PARTS = re.compile(
    r"(?:([0-9]+(?:[.][0-9]+)?)d)?(?:([0-9]+(?:[.][0-9]+)?)h)?(?:([0-9]+(?:[.][0-9]+)?)m)?(?:([0-9]+(?:[.][0-9]+)?)s)?"
)


def time_limit(given: str | float | None, what: str) -> Callable[[], str]:
    """What says from now on whether the time is over: in words if it is, else with an empty text.

    Raises ConfigError as `seconds_of` does; None is no limit.
    """
    if given is None:
        return lambda: ""
    end = time.monotonic() + (seconds_of(given, what) if isinstance(given, str) else _positive(given, given, what))
    return lambda: f"the time limit of {given}" if time.monotonic() >= end else ""


def seconds_of(text: str, what: str) -> float:
    """The seconds that a duration stands for, above 0; `what` is the option that gives it.

    Raises ConfigError for a text of another form, for units in another order and for no time at all.
    """
    written = text.strip().lower()
    number = re.fullmatch(r"[0-9]+(?:[.][0-9]+)?", written)
    parts = _PARTS.fullmatch(written)
    if number:
        seconds = float(written)
    elif parts and written:
        seconds = sum(float(part) * size for part, size in zip(parts.groups(), _SECONDS.values(), strict=True) if part)
    else:
        raise ConfigError(f"{what} {text!r}: expected a time such as 90m, 3h, 1h30m or 5400 (seconds)")
    return _positive(seconds, text, what)


def _positive(seconds: float, given: object, what: str) -> float:
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{what} {given!r}: expected a time above 0 that has an end, such as 3h")
    return seconds

"""The browser that the tests of the page are run in, and what is said where there is none."""

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")


def browser_path() -> str | None:
    """None on a machine without one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def why_none() -> str:
    return f"none of {', '.join(NAMES)} on this machine (.ci/run installs chromium: apt-get install chromium)"

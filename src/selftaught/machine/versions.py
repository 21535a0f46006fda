"""The versions of Python, of the libraries that decide the numbers of a run, and of what lies around it."""

import platform
import subprocess
from importlib import metadata

VERSIONS_OF = (
    "selftaught",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "numba",
    "llvmlite",
)


def library_versions() -> dict[str, str]:
    """By name; "not installed" for a library that is not there."""
    numbers = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers


def git_commit() -> str | None:
    """The commit that is checked out in the current folder, if it is in a git repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None

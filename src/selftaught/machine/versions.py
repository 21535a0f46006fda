"""The versions of Python and of the libraries that decide the numbers of a run."""

import platform
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

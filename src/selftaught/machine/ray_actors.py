"""What all actors of a run have in common, whether they sample or train: how they start, their names, their end."""

import contextlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import ray


def starter() -> Callable[[list[str], str], str]:
    """A function for the classes of actors, which Ray carries to nodes whole, and this with them: puts the folders that
    are to be searched last at the end, and returns why the node's Python is not the run's, empty if it is."""

    def start(last: list[str], run_version: str) -> str:
        import sys
        from importlib import metadata

        # Ray puts the run's folders first, where a file of the user's would replace a library's; they come last.
        for path in last:
            if path in sys.path:
                sys.path.remove(path)
                sys.path.append(path)
        try:
            version = metadata.version("selftaught")
        except metadata.PackageNotFoundError:
            version = "none"
        if version == run_version:
            return ""
        return (
            f"its Python has selftaught {version}, and the run {run_version}; install the same version there, and "
            "start the node from that environment"
        )

    return start


def namespace_of(run_dir: Path) -> str:
    """Where Ray keeps the names of a run's actors, apart from those of all others."""
    return f"selftaught-{sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]}"


def end_leftovers(run_dir: Path) -> int:
    """End the actors of an earlier start of a run, whose process may have ended where Ray has not noticed it yet.

    Returns their number.
    """
    ours = [
        about
        for about in ray.util.list_named_actors(all_namespaces=True)
        if about["namespace"] == namespace_of(run_dir)
    ]
    for about in ours:
        with contextlib.suppress(ValueError):  # it has ended meanwhile
            ray.kill(ray.get_actor(about["name"], namespace=about["namespace"]), no_restart=True)
    return len(ours)

"""A model of a shared folder, copied once to the disk of the machine that loads it, for all processes there.

Many processes that read the same gigabytes from a network filesystem at the same time wait for each other. The first
process of a machine makes the copy and compares its hash; the others wait for it. A copy that no process uses is
removed when the next one is made. A folder that is used where it is may hold other weights than the run's, on a disk
of the machine alone or in its cache of the hub: the first process hashes it, and leaves a mark for the others.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from selftaught.models.adapters import adapters_in, is_adapter, read_adapter
from selftaught.models.folder import ADAPTER_CONFIG, json_object
from selftaught.models.weights import weights_sha256
from selftaught.records.errors import ModelError, RefusedError, one_line
from selftaught.records.samples import ModelRef

LEFT_OUT = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack")
"""The same weights in forms that are never read."""
WAY_OUT = (
    "free some space there, or set TMPDIR, where the machine's processes are started, to a disk with room that can be "
    "written"
)
APPEARS_S = 60.0
"""A network filesystem may show another machine's new folder only so much later."""


def place_of_copies() -> Path:
    """Where this machine keeps them: in the folder for temporary files, which TMPDIR names.

    Raises ModelError if no file can be written to that, nor to any other folder of the system for them.
    """
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        raise ModelError(_unmade("a temporary file", error)) from error
    return Path(folder) / f"selftaught-{os.getuid()}" / "models"


@contextmanager
def folder_here(model: ModelRef, place: Path, *, appears_s: float = APPEARS_S) -> Iterator[Path]:
    """The folder to load a model from: its own if that is on the disk of `place`, else a copy in `place`, which stays
    while the context lasts. What is there has the hash of the model, if that is known.

    Raises ModelError for a folder that is not there, a disk that is too full, and a copy with another hash, and
    RefusedError for a folder with another hash.
    """
    folder = Path(model.path)
    _wait_for(folder, appears_s)
    _make_private(place)
    if _is_on_disk_of(place, folder):
        _check_once(folder, place, sha256=model.sha256)
        yield folder
    elif is_adapter(folder):
        base = read_adapter(folder, named=model.path).base
        with (
            folder_here(ModelRef(path=str(base)), place) as base_here,
            _copy(folder, place, sha256=model.sha256, base=base_here) as copy,
        ):
            _check_once(copy, place, sha256=model.sha256)  # the base may have changed since the copy was made
            yield copy
    else:
        with _copy(folder, place, sha256=model.sha256) as copy:
            yield copy


@contextmanager
def _copy(folder: Path, place: Path, *, sha256: str | None, base: Path | None = None) -> Iterator[Path]:
    """`sha256` is None for the base of adapters, which their hash covers."""
    copy = place / (sha256 or _key(folder))
    with ExitStack() as used:
        with _writing(f"a copy of the model {str(folder)!r}", place):
            lock = used.enter_context(open(f"{copy}.lock", "wb"))
            fcntl.flock(lock, fcntl.LOCK_SH)
            while not copy.is_dir():
                fcntl.flock(lock, fcntl.LOCK_UN)
                # Who is to make it has a lock of its own: whoever waited to have the copy's alone would wait for all
                # users.
                with open(f"{copy}.making.lock", "wb") as making:
                    fcntl.flock(making, fcntl.LOCK_EX)
                    if not copy.is_dir():
                        fcntl.flock(lock, fcntl.LOCK_EX)
                        _remove_unused(place)
                        _make(folder, copy, sha256=sha256, base=base)
                fcntl.flock(lock, fcntl.LOCK_SH)  # lets go of the other first, so that the copy may be gone again
        yield copy


def _make(folder: Path, copy: Path, *, sha256: str | None, base: Path | None) -> None:
    part = copy.with_name(f"{copy.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix not in LEFT_OUT)
    free = shutil.disk_usage(copy.parent).free
    if size > free:
        raise ModelError(
            f"node {socket.gethostname()}: a copy of the model {str(folder)!r} needs {size >> 20:,} MiB in "
            f"{copy.parent}, where {free >> 20:,} are free; {WAY_OUT}"
        )
    try:
        shutil.copytree(folder, part, ignore=shutil.ignore_patterns(*(f"*{suffix}" for suffix in LEFT_OUT)))
        if base is not None:
            config = json_object(part / ADAPTER_CONFIG, str(folder))
            named_here = {**config, "base_model_name_or_path": str(base), "revision": None}
            (part / ADAPTER_CONFIG).write_text(json.dumps(named_here), encoding="utf-8")
        if sha256 is not None and (found := weights_sha256(part)) != sha256:
            raise ModelError(
                f"model {str(folder)!r}: its copy on this machine hashes to {found[:12]}, the run's model to "
                f"{sha256[:12]}; see whether the folder is the run's, remove {copy.parent} and start again"
            )
        part.rename(copy)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # half a copy would keep the disk full


def _check_once(folder: Path, place: Path, *, sha256: str | None) -> None:
    """Raise RefusedError for a folder whose weights have another hash. They are read once for all processes of the
    machine, and again if a file of theirs has changed; a hash that is None is that of the base of adapters, which
    theirs covers."""
    if sha256 is None:
        return
    about = {"folder": str(folder), "files": _described(folder)}
    mark = place / f"{hashlib.sha256(str(folder).encode()).hexdigest()}.checked"
    writing = f"a mark for the model {str(folder)!r}, which is used where it is,"
    with ExitStack() as used:
        with _writing(writing, place):
            lock = used.enter_context(open(f"{mark}.lock", "wb"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        known = _read_mark(mark)
        if known is None or {**known, "sha256": None} != {**about, "sha256": None}:
            known = {**about, "sha256": weights_sha256(folder)}
            part = mark.with_name(f"{mark.name}.part")
            with _writing(writing, place):
                part.write_text(json.dumps(known), encoding="utf-8")
                part.rename(mark)
    if (found := known["sha256"]) != sha256:
        raise RefusedError(
            f"node {socket.gethostname()}: the weights in {folder} hash to {found[:12]}, the run's model to "
            f"{sha256[:12]}; put the run's weights there, or have the model in a folder that all nodes share"
        )


def _described(folder: Path) -> list[list[Any]]:
    """Path, size and times of change (ns) of all files that a hash covers: those of adapters and of their base."""
    folders = [folder, *(adapter.base for adapter in adapters_in(folder))]
    files = [path for each in folders for path in sorted(each.glob("*.safetensors")) if path.is_file()]
    return [[str(path), (s := path.stat()).st_size, s.st_mtime_ns, s.st_ctime_ns] for path in files]


def _read_mark(mark: Path) -> dict[str, Any] | None:
    """None if there is none, or if it is damaged."""
    try:
        content = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("sha256"), str) else None


def _remove_unused(place: Path) -> None:
    """Remove the copies that no process holds. Their empty locks stay, since another may be about to use one."""
    for copy in place.iterdir():
        if copy.suffix == ".lock" or not copy.is_dir():
            continue
        with open(copy.with_name(f"{copy.stem}.lock"), "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(copy)


def _key(folder: Path) -> str:
    """The name of the copy of a folder whose hash is not known: other files there mean another name."""
    files = sorted(folder.glob("*.safetensors"))
    about = [str(folder), *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _is_on_disk_of(place: Path, folder: Path) -> bool:
    weights = next(iter(sorted(folder.glob("*.safetensors"))), folder)  # a hub's cache has links there
    return weights.stat().st_dev == place.stat().st_dev


def _make_private(place: Path) -> None:
    """Raises ModelError for a folder that somebody else has made, who could change the copies."""
    with _writing("the folder for copies of models", place):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.stat().st_uid != os.getuid() for folder in (place, place.parent)):
        raise ModelError(f"{place} belongs to somebody else; set TMPDIR where the machine's processes are started")


@contextmanager
def _writing(what: str, place: Path) -> Iterator[None]:
    """Raise ModelError for a disk that is too full, or that cannot be written at all."""
    try:
        yield
    except OSError as error:
        raise ModelError(_unmade(f"{what} in {place}", error)) from error


def _unmade(what: str, error: OSError) -> str:
    """A line for the user; of a folder that was copied, with what happened to its first file."""
    copied = isinstance(error, shutil.Error) and isinstance(error.args[0], list)
    why = one_line(error.args[0][0][2] if copied else error)
    return f"node {socket.gethostname()}: {what} cannot be made ({why}); {WAY_OUT}"


def _wait_for(folder: Path, appears_s: float) -> None:
    end = time.monotonic() + appears_s
    while not folder.is_dir():
        if time.monotonic() >= end:
            raise ModelError(
                f"model {str(folder)!r}: this machine does not see the folder; put it where all machines see it under "
                "this path, or give a hub id"
            )
        time.sleep(0.5)

"""A Ray cluster (ray.io): reaching it, looking at its nodes, and refusing what cannot work there.

Only a process that is on a node of the cluster can join it. `python -m selftaught.machine.ray_cluster ADDRESS` joins
and leaves, for `reachable`: Ray itself waits for minutes for a cluster that is not there.
"""

import contextlib
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# Before the import, which reads them: no statistics are sent, and what Ray says of its workers and nodes, many lines at
# a time and on stdout, is not printed beside the lines of the run.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "(?s).*")

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from selftaught import __version__
from selftaught.machine.children import environment, module_command
from selftaught.machine.cluster import Needs, counted
from selftaught.records.errors import ConfigError, one_line

JOIN_S = 60.0
"""Seconds in which a cluster must answer. Ray itself tries for 25 to join one that wants another token."""
WITHOUT_TOKEN = ("InvalidAuthToken", "AuthenticationError")
"""In what Ray says if the cluster wants a token and this process has none, or another one."""
CONNECT_S = 10.0
LOOK_S = 120.0
"""Seconds in which every node must have started a process and looked around."""
NONCE = "cluster.nonce"
"""A file of the run folder, by which another machine shows that it sees this very folder."""
SHOWN_NODES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the cluster, as the cluster says; what it says itself is there when it was asked."""

    id: str
    name: str
    cpus: float
    gpus: float
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of Python and of packages, by name; without those that are not installed."""
    gpu_names: tuple[str, ...] = ()
    sees_folder: bool | None = None
    """None if it was not asked."""
    problem: str = ""
    """Why nothing is known of it but its name; else empty."""

    def fits(self, needs: Needs) -> int:
        """How many such processes have room on it."""
        counts = [have / need for have, need in ((self.cpus, needs.cpus), (self.gpus, needs.gpus)) if need]
        return math.floor(min(counts) + 1e-9) if counts else 1


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Be in the cluster while the context lasts; a program that is in one already stays in it.

    Raises ConfigError for a cluster that cannot be reached in time, or does not take this process.
    """
    if ray.is_initialized():
        yield
        return
    reachable(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _join(address)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ConfigError(_refused(address, f"{type(error).__name__}: {one_line(error)}")) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray takes SIGTERM for itself
                signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def reachable(address: str) -> None:
    """Raise ConfigError if the cluster cannot be joined from here within a minute; a process of its own tries."""
    if "://" in address:
        raise ConfigError(
            f"cluster.address = {address!r}: expected `auto` or HOST:PORT; start the run on a node of the cluster, for "
            "example its head, without Ray Client"
        )
    if address != "auto":
        _connect(address)
    try:
        done = subprocess.run(
            module_command("selftaught.machine.ray_cluster", address),
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=JOIN_S,
            start_new_session=True,  # so that Ctrl-C at the terminal is the run's alone
        )
    except subprocess.TimeoutExpired as error:
        why, said = f"no answer in {JOIN_S:.0f} s", f"{error.stdout!r} {error.stderr!r}"
    else:
        if not done.returncode:
            return
        lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
        why, said = lines[-1] if lines else f"exit code {done.returncode}", done.stdout + done.stderr
    if any(mark in said for mark in WITHOUT_TOKEN):
        raise ConfigError(
            f"cluster.address = {address!r}: the Ray cluster wants a token, and this process has none or another one; "
            "set RAY_AUTH_MODE=token and give the cluster's token, in RAY_AUTH_TOKEN, the file that "
            "RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token (docs/cluster.md)"
        )
    raise ConfigError(_refused(address, why))


def alive() -> list[Node]:
    """All nodes that are alive, by name, with what the cluster says of them."""
    nodes = [
        Node(
            id=node["NodeID"],
            name=node["NodeManagerHostname"] or node["NodeManagerAddress"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.name, node.id))


def look(*, nonce: tuple[Path, str] | None = None) -> list[Node]:
    """All nodes that are alive, by name, each with what a process there finds.

    With `nonce`, a file and its content, each says whether it sees that.
    """
    path, content = (str(nonce[0]), nonce[1]) if nonce else ("", "")
    nodes = alive()
    look_around = ray.remote(num_cpus=0, max_retries=0)(_looker())
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        asked[node.id] = look_around.options(scheduling_strategy=there).remote(path, content)
    done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=LOOK_S) if asked else ([], [])
    found: list[Node] = []
    for node in nodes:
        answer: dict[str, Any] = {}
        problem = ""
        if asked[node.id] not in done:
            problem = f"no process started there in {LOOK_S:.0f} s"
        else:
            try:
                answer = ray.get(asked[node.id])
            except RayError as error:
                problem = first_line(error)
        found.append(
            replace(
                node,
                versions=answer.get("versions", {}),
                gpu_names=tuple(answer.get("gpus", ())),
                sees_folder=answer.get("sees") if nonce else None,
                problem=problem,
            )
        )
    return found


def refusals(nodes: Sequence[Node], needs: Sequence[Needs], folder: Path) -> list[str]:
    """What is wrong with the nodes that have room for a process of one of these kinds, one line for each kind of
    fault."""
    usable = [node for node in nodes if any(map(node.fits, needs))]
    lines = []
    if silent := [node for node in usable if node.problem]:
        lines.append(f"{_names(silent)}: {silent[0].problem}; see Ray's logs there, or take it out of the cluster")
    answering = [node for node in usable if not node.problem]
    if without := [node for node in answering if "selftaught" not in node.versions]:
        lines.append(
            f"{_names(without)}: selftaught is not installed for the Python that Ray runs there; install selftaught "
            f"{__version__} with its extra `cluster`, and start the node from that environment"
        )
    others = [node for node in answering if node.versions.get("selftaught", __version__) != __version__]
    if others:
        lines.append(
            f"{_names(others)}: selftaught {others[0].versions['selftaught']}, and here {__version__}; install the "
            "same version there"
        )
    if blind := [node for node in answering if node.sees_folder is False]:
        lines.append(
            f"{_names(blind)}: does not see {folder}; put the run folder on a filesystem that all nodes have under the "
            "same path (--run-dir)"
        )
    return lines


def refuse_too_few(nodes: Sequence[Node], needs: Needs, workers: int | None) -> int:
    """How many processes there will be: `workers`, or as many as have room.

    Raises ConfigError if fewer have room in the whole cluster, whoever uses it now.
    """
    room = sum(node.fits(needs) for node in nodes)
    if room >= (workers or 1):
        return workers or room
    wanted = f"{workers} workers" if workers and workers > 1 else "a worker"
    raise ConfigError(
        f"cluster.workers: the cluster has room for {room}, not for {wanted} with {needs} each: "
        f"{_there(nodes)}; add nodes, or correct cluster.workers, cluster.gpus_per_worker or compute.threads"
    )


def refuse_too_few_for_ranks(nodes: Sequence[Node], needs: Needs, ranks: int) -> None:
    """Raise ConfigError if fewer ranks of a training have room in the whole cluster, whoever uses it now."""
    if (room := sum(node.fits(needs) for node in nodes)) < ranks:
        raise ConfigError(
            f"cluster.train_workers = {ranks}: the cluster has room for {room} with {needs} each: {_there(nodes)}; add "
            "nodes, or begin a new run with fewer train workers"
        )


def described(node: Node) -> str:
    """The CPUs and GPUs of a node, in words."""
    kinds = sorted(set(node.gpu_names))
    gpus = counted(node.gpus, "GPU") + (f" ({'; '.join(kinds)})" if kinds and node.gpus else "")
    return f"{counted(node.cpus, 'CPU')} and {gpus}"


def free_now() -> str:
    """What of the cluster nobody uses at the moment, in words."""
    free, all_of_it = ray.available_resources(), ray.cluster_resources()
    return " and ".join(f"{free.get(kind, 0):g} of {all_of_it.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))


def unused_gpus(device: str) -> str:
    """What the user should know of GPUs that a run on CPUs does not use, because the machine where it began has none;
    empty for nothing."""
    number = ray.cluster_resources().get("GPU", 0) if device == "cpu" else 0
    if not number:
        return ""
    return (
        f"warning: the run computes on CPUs, as the machine does where it was begun, and uses none of the cluster's "
        f"{counted(number, 'GPU')}; begin a new run on a node with a GPU to use them"
    )


@contextlib.contextmanager
def nonce_in(folder: Path) -> Iterator[tuple[Path, str]]:
    """A file with a random content in a folder, or in the nearest of its parents that exists.

    Raises ConfigError if none can be written there.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    path, content = there / f"{NONCE}-{secrets.token_hex(4)}", secrets.token_hex(16)
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--run-dir {folder}: cannot write in {there}: {error.strerror}; give a folder that you may write"
        ) from error
    try:
        yield path, content
    finally:
        path.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """What Ray says of a failure, without its lists of ids and possible causes."""
    cause = getattr(error, "cause", None)  # of an error in a function that ran there
    if isinstance(error, ActorUnavailableError):
        return "it cannot be reached"
    text = one_line(error) if cause is None else f"{type(cause).__name__}: {one_line(cause)}"
    for mark in ("The actor is dead because ", "Worker exit detail: "):
        text = text.partition(mark)[2] or text
    for mark in (
        "Some common causes",
        "There are some potential root causes",
        "To troubleshoot",
        "The task may or may",
    ):
        text = text.partition(mark)[0]
    return text.strip().rstrip(".")[:300]


def _looker() -> Callable[[str, str], dict[str, Any]]:
    """A function that Ray carries to nodes whole, since it has no name in a module: none of this package is needed."""

    def look_around(path: str, content: str) -> dict[str, Any]:
        import platform
        import subprocess
        import time
        from importlib import metadata

        versions = {"python": platform.python_version()}
        for name in ("selftaught", "ray", "torch", "transformers", "trl", "vllm"):
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        try:
            query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
            said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
        except (OSError, subprocess.SubprocessError):
            said = ""
        sees = not path
        for _ in range(20):  # a network filesystem may show a new file a little later
            if sees:
                break
            try:
                with open(path, encoding="utf-8") as file:
                    sees = file.read() == content
            except OSError:
                pass
            if not sees:
                time.sleep(0.5)
        return {"versions": versions, "gpus": said.splitlines(), "sees": sees}

    return look_around


def _join(address: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"cluster.address = {address!r}: expected `auto` or HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise ConfigError(_refused(address, one_line(error))) from error


def _refused(address: str, why: str) -> str:
    return (
        f"cluster.address = {address!r}: the Ray cluster cannot be joined from here ({why[:300]}); start it with `ray "
        "start --head`, and the run on one of its nodes, with the same Ray, Python and token (docs/cluster.md)"
    )


def _there(nodes: Sequence[Node]) -> str:
    there = ", ".join(f"{node.name} has {described(node)}" for node in nodes[:SHOWN_NODES])
    more = f", and {len(nodes) - SHOWN_NODES} more" if len(nodes) > SHOWN_NODES else ""
    return f"{there or 'no node is alive'}{more}"


def _names(nodes: Sequence[Node]) -> str:
    names = sorted({node.name for node in nodes})
    shown = ", ".join(names[:SHOWN_NODES])
    more = f" and {len(names) - SHOWN_NODES} more" if len(names) > SHOWN_NODES else ""
    return f"node{'s' if len(names) > 1 else ''} {shown}{more}"


def _main(address: str) -> int:
    try:
        _join(address)
    except Exception as error:
        print(f"{type(error).__name__}: {one_line(error)}")
        return 1
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))

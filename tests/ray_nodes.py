"""A Ray cluster whose nodes are processes of this machine, for tests; each node's workers import what tests import."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from builders import PACKAGE, PATIENCE_S, TESTS

SMALL: dict[str, Any] = {"object_store_memory": 80 << 20, "include_dashboard": False}
SETTINGS = {
    "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(TESTS)]),
    "RAY_worker_niceness": "0",  # else anything beside the tests comes before them
    "RAY_worker_register_timeout_seconds": str(PATIENCE_S),
}


class Nodes:
    """A head and nodes that can be lost."""

    def __init__(self, cluster: Any, folder: str) -> None:
        self._cluster, self._folder = cluster, folder
        self.address: str = cluster.address

    def add(self, cpus: float) -> None:
        """One more node, with this process's environment."""
        self._cluster.add_node(num_cpus=cpus, object_store_memory=SMALL["object_store_memory"])

    def lose_node_of(self, pid: int) -> None:
        """Kill the node that has started a process, with all its processes."""
        by_pid = {node.all_processes["raylet"][0].process.pid: node for node in self._cluster.worker_nodes}
        while pid not in by_pid:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])  # of its parent
        self._cluster.remove_node(by_pid[pid], allow_graceful=False)

    def processes(self, name: str) -> list[int]:
        """The ids of the cluster's processes that have a name in their command line, oldest first."""
        return processes_of(self._folder, name)

    def workers(self) -> list[int]:
        """The processes that sample."""
        return self.processes("SelftaughtWorker")

    def ranks(self) -> list[int]:
        """The processes that train."""
        return self.processes("SelftaughtRank")


def processes_of(folder: str, name: str = "") -> list[int]:
    """The ids of all processes of the cluster that has its files in a folder, or of those with a name."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_named = name.encode() in (process / "cmdline").read_bytes()
            if is_named and f"RAY_TMPDIR={folder}\0".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue  # it has ended meanwhile
    return sorted(found)


@contextmanager
def cluster_of(*nodes: float, head_cpus: float = 0, **environment: str) -> Iterator[Nodes]:
    """A cluster with a head and nodes with so many CPUs each; all its processes have the environment, too.

    Its files are in a folder of its own, so that two clusters of this machine know nothing of each other. Nothing of it
    stays: neither processes nor the address that Ray keeps for `auto`.
    """
    from ray._private import services
    from ray.cluster_utils import Cluster

    from selftaught.machine import ray_cluster

    with (
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder,  # Ray's sockets need a short path
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**SETTINGS, "RAY_TMPDIR": folder, **environment}.items():
            patch.setenv(name, value)
        patch.setattr(services, "get_node", _patient(services.get_node))
        for name in ("JOIN_S", "LOOK_S"):  # a process that imports Ray must answer in that time
            patch.setattr(ray_cluster, name, float(PATIENCE_S))
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=head_cpus, **SMALL)
            for cpus in nodes:
                cluster.add_node(num_cpus=cpus, object_store_memory=SMALL["object_store_memory"])
            yield Nodes(cluster, folder)
        finally:
            cluster.shutdown()


def _patient(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Ray's look for a node that has been started, which gives up after 30 s: a busy machine takes longer."""

    def found(*arguments: Any) -> Any:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    return found


def wait_until(what: Callable[[], Any]) -> Any:
    """What `what` returns as soon as it is true of something."""
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < end, f"waited {PATIENCE_S} s in vain"
        time.sleep(0.05)
    return found

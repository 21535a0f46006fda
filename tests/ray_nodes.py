"""A Ray cluster whose nodes are processes of this machine, for tests; each node's workers import what tests import."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builders import PACKAGE, TESTS

SMALL: dict[str, Any] = {"object_store_memory": 80 << 20, "include_dashboard": False}


@contextmanager
def cluster_of(*nodes: float, folder: Path, head_cpus: float = 0) -> Iterator[Any]:
    """A cluster with a head and nodes with so many CPUs each; its files are in `folder`, whose path must be short.

    Nothing of it stays: neither processes nor the address that Ray keeps for `auto`.
    """
    from ray.cluster_utils import Cluster

    settings = {
        "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(TESTS)]),
        "RAY_TMPDIR": str(folder),
        "RAY_worker_niceness": "0",  # else anything beside the tests comes before them
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    cluster = None
    try:
        cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "num_cpus": head_cpus})
        for cpus in nodes:
            cluster.add_node(num_cpus=cpus, object_store_memory=80 << 20)
        yield cluster
    finally:
        if cluster is not None:
            cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

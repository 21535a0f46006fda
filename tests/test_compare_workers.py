"""A comparison whose cells are sampled by workers, on this machine or in a Ray cluster: the cells of one without."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ray_nodes import cluster_of
from selftaught.runs.shared_chunks import saving_of
from test_cli import QUICK, selftaught, settings
from test_compare import NAMES, without_times
from test_kill import weights
from toy import folder_bytes

pytestmark = pytest.mark.slow

CELLS = ("star-seed1", "seeds-only-seed1")


def compared(folder: Path, **more: Any) -> dict[str, Any]:
    """Everything of a comparison that must not depend on who samples."""
    values = {**QUICK, "compute.chunk_completions": 8, "engine.cache_mib": 64, **more}
    arguments = ("--rows", "star,seeds-only", "--seeds", "1", "--dir", str(folder))
    done = selftaught("compare", "arithmetic", *arguments, *settings(values))
    assert done.returncode == 0, done.stderr
    return {
        "cells": {cell: (folder_bytes(folder / cell, *NAMES), weights(folder / cell)) for cell in CELLS},
        "table": without_times(json.loads((folder / "compare.json").read_text())),
        "shared": saving_of(folder / "shared", CELLS),
        "chunks": {path.name for path in (folder / "shared").glob("*.jsonl")},
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = compared(tmp_path_factory.mktemp("alone") / "compared")
    assert found["shared"].saved, "the base model's measurement on dev, at least"
    return found


def test_a_comparison_with_worker_processes_has_the_cells_of_one_without(alone: dict[str, Any], tmp_path: Path) -> None:
    assert compared(tmp_path / "compared", **{"cluster.workers": 2}) == alone


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (selftaught[cluster])")
def test_a_comparison_on_a_cluster_has_the_cells_of_one_without(alone: dict[str, Any], tmp_path: Path) -> None:
    with cluster_of(1, 1) as cluster:
        found = compared(tmp_path / "compared", **{"cluster.address": cluster.address})
        assert found == alone
        assert not cluster.workers()

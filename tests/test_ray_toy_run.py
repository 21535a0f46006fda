"""A whole run whose samples are made in a Ray cluster, with one of its workers killed, and a training on two ranks
there: the short form of test_ray_run.py, with a scripted model, and a training of its own."""

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("ray") is None:
    pytest.skip("Ray is not installed (selftaught[cluster])", allow_module_level=True)

from ray_nodes import Nodes, cluster_of, wait_until
from selftaught.machine.cluster import ClusterConfig, Needs
from selftaught.machine.devices import Machine
from selftaught.machine.opening import Opening
from selftaught.machine.ray_cluster import joined
from selftaught.records.events import Event, Note, SampleMade
from selftaught.records.samples import ModelRef
from selftaught.stages.workers.ray_workers import RayWorkers
from selftaught.training.ranks import Ranks
from selftaught.training.sft_config import SftConfig
from test_train_ranks import SETTINGS, forks, on_ranks, trainer, training
from toy import folder_bytes, run_toy

FILES = ("prompts.jsonl", "samples", "examples", "left_out", "evaluations.jsonl")


class KillsAWorker:
    """A listener that kills the worker that has made the first chunk, and hears what is said of it. One that is not
    ready yet has no work that somebody would miss."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir, self.killed, self.notes = run_dir, list[int](), list[str]()

    def tell(self, event: Event) -> None:
        if isinstance(event, SampleMade) and not self.killed:
            self.killed.append(int(next(self._run_dir.glob("*.made")).stem))
            os.kill(self.killed[0], signal.SIGKILL)
        if isinstance(event, Note):
            self.notes.append(event.text)

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with cluster_of(head_cpus=2) as started:
        yield started


def test_a_run_that_loses_a_worker_of_the_cluster_has_the_bytes_of_one_without(cluster: Nodes, tmp_path: Path) -> None:
    model, run_dir = tmp_path / "model", tmp_path / "cluster"
    model.mkdir()
    base = ModelRef(path=str(model))
    run_toy(tmp_path / "alone", chunk=1, base=base)
    run_dir.mkdir()
    with joined(cluster.address):
        listener = KillsAWorker(run_dir)
        with RayWorkers(run_dir, Needs(cpus=1, gpus=0), maker="scripted_maker:ToyRunMaker") as source:
            run_toy(run_dir, chunk=1, base=base, source=source, num_workers=2, tell=listener.tell)
        assert cluster.workers() == []
    assert any("was lost" in note for note in listener.notes)
    assert folder_bytes(run_dir, *FILES) == folder_bytes(tmp_path / "alone", *FILES)


@forks
def test_two_ranks_of_the_cluster_train_the_bytes_of_two_ranks_without_it(
    cluster: Nodes, tiny: Path, tmp_path: Path
) -> None:
    here, there = (training(tiny, tmp_path / name, steps=2) for name in ("here", "there"))

    def share(ranks: Ranks) -> str | None:
        with_ranks = trainer("float32", ranks)
        if ranks.rank:
            with_ranks.take_part(here)
            return None
        return with_ranks.fine_tune(here, lambda metrics: None).sha256

    sha256, _ = on_ranks(2, share)
    machine = Machine(device="cpu", dtype="float32", threads=2, ranks=2)
    with joined(cluster.address):
        opening = Opening(machine=machine, cluster=ClusterConfig(address=cluster.address))
        checkpoint = SftConfig(**SETTINGS).opener(opening)().fine_tune(there, lambda metrics: None)
        wait_until(lambda: not cluster.ranks())
    assert checkpoint.sha256 == sha256
    assert sorted(path.name for path in there.out_dir.iterdir()) == sorted(path.name for path in here.out_dir.iterdir())

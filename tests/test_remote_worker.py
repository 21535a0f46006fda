"""What a worker on another machine does in its process, without a cluster."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from selftaught.models.weights import model_in_folder
from selftaught.records.errors import RefusedError
from selftaught.records.samples import ModelRef
from selftaught.stages.workers.protocol import Ready, Refused
from selftaught.stages.workers.remote import RemoteWorker


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteWorker:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "nonce").write_text("of this run", encoding="utf-8")
    nonce = (str(tmp_path / "nonce"), "of this run")
    return RemoteWorker("7", str(tmp_path), nonce, None, "scripted_maker:ScriptedMaker")


@pytest.mark.parametrize("is_the_runs", [True, False])
def test_a_worker_is_ready_only_with_the_weights_of_the_run_also_of_its_base_model(
    is_the_runs: bool, adder: Path, tmp_path: Path, worker: RemoteWorker
) -> None:
    """As where every machine has the folder on a disk of its own."""
    model = model_in_folder(shutil.copytree(adder, tmp_path / "model"))
    answer = worker.open_model(model if is_the_runs else ModelRef(path=model.path, sha256="0" * 64))
    if is_the_runs:
        assert isinstance(answer, Ready)
        return
    assert isinstance(answer, Refused)
    assert isinstance(answer.error, RefusedError)
    assert "the run's model to 000000000000" in str(answer.error)


def test_a_model_that_has_another_path_here_is_found_by_the_name_that_the_run_has_for_it(
    adder: Path, tmp_path: Path, worker: RemoteWorker
) -> None:
    """As where the package is installed in another folder on each machine."""
    about = {"format": 3, "resolved": {}, "model": {}, "config": {"model.path": "builtin:adder"}}
    (tmp_path / "run.json").write_text(json.dumps(about), encoding="utf-8")
    answer = worker.open_model(ModelRef(path="/elsewhere/adder", sha256=model_in_folder(adder).sha256))
    assert isinstance(answer, Ready), answer

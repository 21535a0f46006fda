"""A model on a shared folder is copied to a machine's disk once, is what its hash says, and goes when unused."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from builders import PATIENCE_S
from selftaught.models import local_copy
from selftaught.models.local_copy import folder_here
from selftaught.models.weights import model_in_folder, weights_sha256
from selftaught.records.errors import ModelError, RefusedError
from selftaught.records.samples import ModelRef
from tiny_models import make_adapters


@pytest.fixture(autouse=True)
def _other_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder but a copy is on another disk."""
    monkeypatch.setattr(local_copy, "_is_on_disk_of", lambda place, folder: False)


@pytest.fixture
def model(adder: Path, tmp_path: Path) -> ModelRef:
    folder = shutil.copytree(adder, tmp_path / "shared" / "model")
    (folder / "pytorch_model.bin").write_bytes(b"the same in another form")
    return model_in_folder(folder)


def test_who_asks_at_the_same_time_gets_one_copy(model: ModelRef, tmp_path: Path) -> None:
    """Threads stand for processes: each opens the lock itself, which is what it tells apart. Several times, because
    one that waits for those that have the copy already does so in one of three times."""
    for time in range(10):
        all_have_it = threading.Barrier(4, timeout=PATIENCE_S)

        def use(place: Path = tmp_path / str(time), all_have_it: threading.Barrier = all_have_it) -> int:
            with folder_here(model, place) as folder:
                all_have_it.wait()
                return folder.stat().st_ino

        with ThreadPoolExecutor(4) as pool:
            assert len({use.result() for use in [pool.submit(use) for _ in range(4)]}) == 1


def test_a_copy_has_the_weights_and_small_files_and_nothing_else(model: ModelRef, tmp_path: Path) -> None:
    with folder_here(model, tmp_path / "own") as folder:
        assert folder.parent == tmp_path / "own"
        assert weights_sha256(folder) == model.sha256
        left_out = {path.name for path in Path(model.path).iterdir()} - {path.name for path in folder.iterdir()}
    assert left_out == {"pytorch_model.bin"}


def test_a_copy_that_nobody_uses_goes_when_the_next_is_made(model: ModelRef, made: Path, tmp_path: Path) -> None:
    place = tmp_path / "own"
    with ExitStack() as used:
        first = used.enter_context(folder_here(model, place))
        with folder_here(ModelRef(path=str(made)), place):
            assert first.is_dir(), "it is in use"
    with folder_here(ModelRef(path=shutil.copytree(made, tmp_path / "another")), place):
        assert not first.exists()


@pytest.fixture(scope="module")
def made(adder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapters(adder, tmp_path_factory.mktemp("adapters") / "made")


def test_adapters_come_with_their_base_and_hash_as_they_did(made: Path, tmp_path: Path) -> None:
    model = model_in_folder(made)
    with folder_here(model, tmp_path / "own") as folder:
        assert model_in_folder(folder).sha256 == model.sha256
        assert str(tmp_path / "own") in (folder / "adapter_config.json").read_text()


def test_other_weights_than_the_runs_are_refused(model: ModelRef, tmp_path: Path) -> None:
    other = ModelRef(path=model.path, sha256="0" * 64)
    with pytest.raises(ModelError, match=r"hashes to \w{12}, the run's model to 000000000000") as caught:
        folder_here(other, tmp_path / "own").__enter__()
    assert len(str(caught.value).splitlines()) == 1
    assert {path.suffix for path in (tmp_path / "own").iterdir()} == {".lock"}


def test_a_folder_that_this_machine_does_not_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="this machine does not see the folder"):
        folder_here(ModelRef(path=str(tmp_path / "nowhere")), tmp_path / "own", appears_s=0.6).__enter__()


def test_a_disk_that_is_too_full_is_refused(model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(local_copy.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(ModelError, match=r"needs .* MiB in .*, where 0 are free"):
        folder_here(model, tmp_path / "own").__enter__()


FULL = """
import resource, sys
from pathlib import Path
from selftaught.models import local_copy
from selftaught.records.errors import ModelError
from selftaught.records.samples import ModelRef
limit, is_copied, place, path, sha256 = sys.argv[1:]
model = ModelRef(path=path, sha256=sha256)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
local_copy._is_on_disk_of = lambda place, folder: is_copied != "copied"
try:
    with local_copy.folder_here(model, Path(place) if place else local_copy.place_of_copies()):
        print("it was written")
except ModelError as error:
    print(error)
"""


def on_a_full_disk(model: ModelRef, place: Path | str, *, limit: int = 0, is_copied: bool = False) -> str:
    """What the user is told where no file can have more than `limit` bytes."""
    arguments = [str(limit), "copied" if is_copied else "", str(place), model.path, str(model.sha256)]
    command = [sys.executable, "-c", FULL, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    (line,) = done.stdout.splitlines()
    return line


def test_a_full_disk_for_temporary_files_is_one_line_that_names_it(model: ModelRef, tmp_path: Path) -> None:
    """A limit on the size of files stands for it, which is an error of the system at the same call."""
    place, node = tmp_path / "own", f"node {socket.gethostname()}: "
    way_out = "; free some space there, or set TMPDIR, where the machine's processes are started, to a disk with room"
    line = on_a_full_disk(model, place)
    assert line.startswith(
        f"{node}a mark for the model {model.path!r}, which is used where it is, in {place} cannot be"
    )
    assert f"File too large){way_out}" in line

    line = on_a_full_disk(model, place, limit=10_000, is_copied=True)
    assert line.startswith(f"{node}a copy of the model {model.path!r} in {place} cannot be made ([Errno ")
    assert "File too large" in line
    assert way_out in line
    assert {path.suffix for path in place.iterdir()} <= {".lock", ".part"}
    assert not [path for path in place.iterdir() if path.is_dir()], "half a copy would keep the disk full"

    line = on_a_full_disk(model, "")
    assert line.startswith(f"{node}a temporary file cannot be made ([Errno ")
    assert way_out in line


@pytest.mark.parametrize("is_copied", [True, False])
def test_a_disk_for_temporary_files_that_cannot_be_written_is_one_line(
    is_copied: bool, model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_copy, "_is_on_disk_of", lambda place, folder: not is_copied)
    (tmp_path / "own").write_bytes(b"")
    line = (
        rf"node .*: the folder for copies of models in {tmp_path}/own/models cannot be made \(.*Not a directory.*TMPDIR"
    )
    with pytest.raises(ModelError, match=line):
        folder_here(model, tmp_path / "own" / "models").__enter__()


def test_a_folder_on_the_machines_own_disk_is_used_where_it_is(
    model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with folder_here(model, tmp_path / "own") as folder:
        assert folder == Path(model.path)


def alter(folder: Path, name: str = "model.safetensors") -> None:
    """Other weights of the same size."""
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)


def test_other_weights_on_the_machines_own_disk_are_refused_until_the_runs_are_there_again(
    model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    folder, place = Path(model.path), tmp_path / "own"
    with folder_here(model, place):
        pass
    alter(folder)
    for _ in range(2):
        with pytest.raises(RefusedError) as caught:
            folder_here(model, place).__enter__()
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"node {socket.gethostname()}: the weights in {folder} hash to ")
        assert f", the run's model to {(model.sha256 or '')[:12]}; put the run's weights there" in line
    alter(folder)
    with folder_here(model, place) as used:
        assert used == folder


def test_weights_on_the_machines_own_disk_are_hashed_once_for_all_processes(
    model: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    hashed: list[Path] = []

    def counted(folder: Path) -> str:
        hashed.append(folder)
        return weights_sha256(folder)

    monkeypatch.setattr(local_copy, "weights_sha256", counted)

    def use() -> None:
        with folder_here(model, tmp_path / "own"):
            pass

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(use) for _ in range(8)]:
            done.result()
    assert hashed == [Path(model.path)]
    for mark in (tmp_path / "own").glob("*.checked"):
        mark.write_text("torn")
    use()
    assert len(hashed) == 2


@pytest.mark.parametrize("is_copied", [True, False])
def test_adapters_whose_base_is_another_one_here_are_refused(
    is_copied: bool, adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the copy of the adapters was made when it was still the same."""
    base = shutil.copytree(adder, tmp_path / "base")
    made = make_adapters(base, tmp_path / "adapters")
    model, place = model_in_folder(made), tmp_path / "own"
    monkeypatch.setattr(local_copy, "_is_on_disk_of", lambda place, folder: folder == base or not is_copied)
    with folder_here(model, place):
        pass
    alter(base)
    with pytest.raises(RefusedError, match="hash to"):
        folder_here(model, place).__enter__()

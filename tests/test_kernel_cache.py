"""Compiled kernels on disk: found again by another process, never another kernel's, never needed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROGRAM = """
import torch
from selftaught.engines.likeliest import _kernel, likeliest
logits = torch.linspace(-3.0, 3.0, 192).mul(7.0).sin().view(3, 64)
tokens, logprobs = likeliest(logits, 1)
print(tokens.tolist(), logprobs.tolist(), sum(_kernel(False, False).stats.cache_hits.values()))
"""


def choose(folder: Path, program: str = PROGRAM) -> tuple[str, int]:
    """The likeliest tokens as a process with this cache finds them, and how many kernels it found compiled."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    found, _, hits = done.stdout.strip().rpartition(" ")
    return found, int(hits)


def test_a_second_process_finds_the_kernel_compiled_and_gets_the_same_numbers(tmp_path: Path) -> None:
    first, hits = choose(tmp_path / "new" / "folder")
    assert hits == 0
    (entry,) = (tmp_path / "new" / "folder").iterdir()
    assert entry.parent.stat().st_mode & 0o077 == 0  # code that will be run is the user's alone to write
    assert choose(tmp_path / "new" / "folder") == (first, 1)


@pytest.mark.parametrize("damage", ["empty", "cut", "a bit"])
def test_a_damaged_entry_is_compiled_and_written_again(damage: str, tmp_path: Path) -> None:
    first, _ = choose(tmp_path)
    (entry,) = tmp_path.iterdir()
    good = entry.read_bytes()
    middle = len(good) // 2
    flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    entry.write_bytes({"empty": b"", "cut": good[:-100], "a bit": flipped}[damage])
    assert choose(tmp_path) == (first, 0)
    assert choose(tmp_path) == (first, 1)


def test_kernels_of_other_parameters_and_of_other_sources_have_entries_of_their_own(tmp_path: Path) -> None:
    choose(tmp_path)
    choose(tmp_path, PROGRAM.replace("likeliest(logits, 1)", "likeliest(logits.bfloat16(), 1)"))
    assert len(list(tmp_path.iterdir())) == 2
    other = "import selftaught.engines.kernel_cache as c\nc._build = lambda: ('another version',)\n" + PROGRAM
    assert choose(tmp_path, other)[1] == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_processes_that_compile_at_the_same_time_leave_one_whole_entry(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = {text for text, _ in pool.map(choose, [tmp_path] * 3)}
    assert len(found) == 1
    assert len(list(tmp_path.iterdir())) == 1
    assert choose(tmp_path) == (found.pop(), 1)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    first, hits = choose(in_the_way)
    assert hits == 0
    assert choose(in_the_way) == (first, 0)


def test_the_cache_is_in_the_users_cache_folder_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selftaught.engines.kernel_cache import cache_dir

    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "selftaught" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "selftaught" / "kernels"

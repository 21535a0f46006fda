"""Compiled kernels on disk: another process loads them, no kernel gets another's code, and none is required."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builders import PACKAGE

LOAD = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("cache", {str(PACKAGE / "engines/local/cpu/cache.py")!r})
cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cache)
"""
"""Its package would import torch and transformers, which takes most of a process's time."""
KERNEL = """
import numba

@cache.kept_on_disk("some parameter")
@numba.njit
def kernel(x, y):
    return 2 * x + y

print(kernel(3, 4.5), sum(kernel.stats.cache_hits.values()))
"""
PROGRAM = LOAD + KERNEL
RESULT = "10.5"

ATTENTION = """
import sys
import torch
from selftaught.engines.local.cpu.attention import _in_parallel, attend_in_slots
from selftaught.engines.local.slots import SlotAttention
worst = hits = 0.0
for kind in sys.argv[1:]:
    size, dtype = int(kind[:-1]), {"f": torch.float32, "h": torch.bfloat16}[kind[-1]]
    q, k, v = (torch.linspace(-3, 3, n * size).mul(9 + n).sin().view(n // 4, 4, size).to(dtype) for n in (12, 24, 24))
    q, held = q.transpose(0, 1), tuple(x.view(3, 1, 8, size).expand(3, 4, 8, size).contiguous() for x in (k, v))
    call = SlotAttention(q, None, held, torch.arange(3), torch.tensor([7, 2, 5]), size**-0.5)
    out = attend_in_slots(call, threads=2)
    for n, last in enumerate((7, 2, 5)):
        scores = torch.einsum("hd,htd->ht", q[:, n].double(), held[0][n, :, : last + 1].double()) * size**-0.5
        expected = torch.einsum("ht,htd->hd", scores.softmax(-1), held[1][n, :, : last + 1].double())
        worst = max(worst, float((out[0, n].double() - expected).abs().nan_to_num(9.0).max()))
    hits += sum(_in_parallel(size, 1, dtype == torch.bfloat16, False).stats.cache_hits.values())
print(worst < 0.02, int(hits))
"""

LOGITS = """
import hashlib
import sys
import torch
from transformers.utils import logging
from selftaught.engines.local.cpu import CpuKernels
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.engines.local.slots import SlotCache
from selftaught.records.samples import ModelRef
logging.disable_progress_bar()
digest = hashlib.sha256()
dtype, threads = sys.argv[2], int(sys.argv[3])
kernels = CpuKernels(threads)
settings = LocalSettings(dtype=dtype, device="cpu", threads=threads, slots=4)
engine = LocalEngine(ModelRef(path=sys.argv[1]), settings, kernels=kernels)
for prefix in ([], [3, 4]):
    cache = SlotCache(3, 20, kernels)
    if prefix:
        engine._runner.prefill_prefix(cache, prefix)
    logits = engine._runner.prefill(cache, len(prefix), [[3, 4, 5, 6], [8, 9], [7, 8, 9, 10, 11]], [0, 1, 2])
    logits = torch.cat([logits, engine._runner.step(cache, len(prefix), [5, 6, 7], [4, 2, 5])])
    for numbers in (logits, *kernels.likeliest(logits)):
        digest.update(numbers.float().contiguous().numpy().tobytes())
print(digest.hexdigest(), 0)
"""


def run(folder: Path, program: str = PROGRAM, *arguments: str) -> tuple[str, int]:
    """What a process with this cache prints, and how many kernels it loaded; all processes hash text alike."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    printed, _, hits = done.stdout.strip().rpartition(" ")
    return printed, int(hits)


@pytest.mark.slow
def test_a_second_process_loads_the_kernel_and_gets_the_same_numbers(tmp_path: Path) -> None:
    assert run(tmp_path / "new" / "folder") == (RESULT, 0)
    (entry,) = (tmp_path / "new" / "folder").iterdir()
    assert entry.parent.stat().st_mode & 0o077 == 0  # only the user may write code that will be run
    assert run(tmp_path / "new" / "folder") == (RESULT, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry[: len(entry) // 2] + bytes([entry[len(entry) // 2] ^ 1]) + entry[len(entry) // 2 + 1 :],
        lambda entry: entry[:-100],
        lambda entry: b"",
    ],
    ids=["a bit", "its end", "all of it"],
)
@pytest.mark.slow
def test_a_damaged_entry_is_compiled_and_written_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    run(tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert run(tmp_path) == (RESULT, 0)
    assert run(tmp_path) == (RESULT, 1)


@pytest.mark.parametrize(
    "other",
    [
        LOAD + "cache._build = lambda: ('another version',)\n" + KERNEL,
        PROGRAM.replace("some parameter", "another"),
        PROGRAM.replace("4.5), sum", "4), kernel(3, 4.5), sum"),
        "import numba\nnumba.config.LOOP_VECTORIZE = 0\n" + PROGRAM,
    ],
    ids=["sources", "parameters", "types", "settings"],
)
@pytest.mark.slow
def test_other_parameters_types_sources_and_settings_have_entries_of_their_own(other: str, tmp_path: Path) -> None:
    run(tmp_path)
    printed, hits = run(tmp_path, other)
    assert (printed.split()[-1], hits) == (RESULT, "kernel(3, 4)" in other)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_process_does_not_mix_up_kernels_that_several_processes_compiled(tmp_path: Path) -> None:
    """Their symbols differ by more than a number that every process counts from the same start."""
    kinds = ["64f", "20f"]
    for kind in kinds:
        assert run(tmp_path, ATTENTION, kind) == ("True", 0)
    for order in (kinds, kinds[::-1]):
        assert run(tmp_path, ATTENTION, *order) == ("True", 2)


@pytest.mark.parametrize(("dtype", "threads"), [("float32", "1"), ("bfloat16", "2")])
@pytest.mark.slow
def test_processes_that_compile_and_processes_that_load_get_the_same_bits(
    dtype: str, threads: str, adder: Path, tmp_path: Path
) -> None:
    """A kernel that another one calls is compiled together with its caller in one, and by itself in the other."""
    compiled = run(tmp_path, LOGITS, str(adder), dtype, threads)
    entries = sorted(path.name for path in tmp_path.iterdir())
    assert entries
    assert run(tmp_path, LOGITS, str(adder), dtype, threads) == compiled
    assert sorted(path.name for path in tmp_path.iterdir()) == entries


def test_all_sources_of_the_kernels_are_part_of_their_names() -> None:
    from selftaught.engines.local.cpu import cache

    texts = {path.name: path.read_text(encoding="utf-8") for path in Path(cache.__file__).parent.glob("*.py")}
    users = {name for name, text in texts.items() if "kept_on_disk" in text}
    emitters = {
        f"{node.module.removeprefix('selftaught.engines.local.cpu.')}.py"
        for name in users
        for node in ast.walk(ast.parse(texts[name]))
        if isinstance(node, ast.ImportFrom)
        and node.module in ("selftaught.engines.local.cpu.vectors", "selftaught.engines.local.cpu.attention")
    }
    assert users | emitters == set(cache.SOURCES)


@pytest.mark.slow
def test_processes_that_compile_at_the_same_time_leave_one_valid_entry(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        results = {printed for printed, _ in pool.map(run, [tmp_path] * 3)}
    assert len(results) == 1
    assert len(list(tmp_path.iterdir())) == 1
    assert run(tmp_path) == (results.pop(), 1)


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("not a folder")
    assert run(not_a_folder) == (RESULT, 0)
    assert run(not_a_folder) == (RESULT, 0)


def test_the_cache_is_in_the_users_cache_folder_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selftaught.engines.local.cpu.cache import cache_dir

    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "selftaught" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "selftaught" / "kernels"
    monkeypatch.setenv("HOME", "nowhere")  # as for a user without a home
    assert cache_dir() is None

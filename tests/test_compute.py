"""What a run resolves once for its machine."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import config
from selftaught.commands.opening import bfloat16_is_faster, engine_opener, resolve
from selftaught.config.loading import load_config, shipped_configs
from selftaught.records.errors import ConfigError
from selftaught.records.samples import ModelRef


def test_the_cache_and_the_slots_are_those_of_the_settings(adder: Path) -> None:
    compute = {"device": "cpu", "cache_mib": 7, "slots": 3, "chunk_completions": 99}
    resolved = resolve(config(compute=compute), ModelRef(path=str(adder)))
    assert (resolved.cache_bytes, resolved.slots, resolved.chunk_completions) == (7 * 1024 * 1024, 3, 99)


def test_auto_is_resolved_for_the_machine(adder: Path) -> None:
    resolved = resolve(config(compute={"device": "cpu"}), ModelRef(path=str(adder)))
    assert resolved.cache_bytes > 0
    assert resolved.cache_bytes % (64 << 20) == 0
    assert (resolved.prefill_tokens, resolved.slots, resolved.chunk_completions) == (2048, 128, 512)
    assert resolved.threads >= 1


@pytest.mark.parametrize("setting", ["auto", "off"])
@pytest.mark.parametrize("is_installed", [True, False])
def test_operations_are_compiled_if_numba_is_installed_and_the_setting_allows_it(
    setting: str, is_installed: bool, adder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selftaught.commands.opening.has_compiler", lambda: is_installed)
    resolved = resolve(config(compute={"device": "cpu", "compiled": setting}), ModelRef(path=str(adder)))
    assert resolved.compiled == (setting == "auto" and is_installed)


def test_a_run_that_began_with_compiled_operations_is_not_carried_on_without_numba(
    adder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(compute={"device": "cpu"})
    resolved = replace(resolve(settings, ModelRef(path=str(adder))), compiled=True)
    monkeypatch.setattr("selftaught.commands.opening.has_compiler", lambda: False)
    with pytest.raises(ConfigError, match="numba is not installed here; install it"):
        engine_opener(settings, resolved, ())


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_small_model_stays_float32_on_a_cpu_unless_the_settings_say_otherwise(dtype: str, adder: Path) -> None:
    resolved = resolve(config(compute={"device": "cpu"}, model={"dtype": dtype}), ModelRef(path=str(adder)))
    assert resolved.dtype == ("float32" if dtype == "auto" else dtype)


@pytest.mark.parametrize(
    ("single", "half", "is_faster", "halves"),
    [(1.0, 0.5, True, 10), (1.0, 0.7, False, 10), (1.0, 3.9, False, 10), (1.0, 100.0, False, 2)],
)
def test_bfloat16_is_used_where_it_is_much_faster_and_its_measurement_ends_early_where_it_is_hopeless(
    single: float, half: float, is_faster: bool, halves: int
) -> None:
    timed = list[str]()

    def seconds_of(name: str) -> float:
        timed.append(name)
        first = 50.0 if timed.count(name) == 1 else 0.0  # kernels are made at the first product
        return first + (single if name == "float32" else half)

    assert bfloat16_is_faster(seconds_of) is is_faster
    assert timed.count("bfloat16") == halves


def test_a_chunk_that_would_leave_slots_empty_is_refused(adder: Path) -> None:
    with pytest.raises(ConfigError, match="chunk_completions = 511 is less than four times the 128 completions"):
        resolve(config(compute={"device": "cpu", "chunk_completions": 511}), ModelRef(path=str(adder)))
    with pytest.raises(ConfigError, match="chunk_completions = 1023 is less than four times the 256 completions"):
        resolve(config(compute={"device": "cpu", "chunk_completions": 1023, "workers": 2}), ModelRef(path=str(adder)))


def test_every_worker_has_all_slots_and_a_share_of_the_memory(adder: Path) -> None:
    one, two = (
        resolve(config(compute={"device": "cpu", "workers": number}), ModelRef(path=str(adder))) for number in (1, 2)
    )
    assert (two.slots, two.chunk_completions, two.workers) == (one.slots, 2 * one.chunk_completions, 2)
    assert two.cache_bytes <= one.cache_bytes // 2 + (64 << 20)
    assert two.threads == max(1, one.threads // 2)


def test_workers_that_cannot_share_a_training_step_evenly_are_refused(adder: Path) -> None:
    with pytest.raises(ConfigError, match=r"compute.workers = 3 cannot share .* training.batch_size = 8 rows"):
        config(compute={"workers": 3}, training={"batch_size": 8})


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_a_shipped_config_is_for_a_machine_with_a_gpu_too(
    name: str, adder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for function, value in {"is_available": True, "device_count": 1, "is_bf16_supported": True}.items():
        monkeypatch.setattr(torch.cuda, function, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 << 30, 16 << 30))
    resolved = resolve(load_config(name), ModelRef(path=str(adder)))
    assert (resolved.device, resolved.workers) == ("cuda", 1)


THREADS = """
import sys, torch
from selftaught.engines.local.multi_process import open_local
from selftaught.records.samples import ModelRef
settings = {"dtype": "float32", "device": "cpu", "threads": 2, "slots": 4}
for _ in range(2):
    open_local(ModelRef(path=sys.argv[1]), settings, compiled=True)
    print(torch.get_num_threads())
"""


@pytest.mark.slow
def test_what_is_compiled_leaves_torch_the_threads_of_the_settings(adder: Path) -> None:
    """numba and torch share a pool of threads; the first engine of a process starts numba's part of it."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "4"}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", THREADS, str(adder)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "2"]

"""What a run resolves once for its machine."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import config
from selftaught.config.loading import load_config, shipped_configs
from selftaught.config.resolving import Resolved, carried_on, machine_lines, resolve
from selftaught.engines.local.settings import LocalConfig
from selftaught.engines.server.openai_settings import OpenAIConfig
from selftaught.machine.devices import Machine, bfloat16_is_faster, gpu_line
from selftaught.machine.opening import Opening
from selftaught.records.errors import ConfigError, StoreError
from selftaught.records.samples import ModelRef


def resolved_for(path: Path, **sections: Mapping[str, Any]) -> Resolved:
    return resolve(config(**{"compute": {"device": "cpu"}, **sections}), ModelRef(path=str(path)), None)


def local(resolved: Resolved) -> LocalConfig:
    assert isinstance(resolved.engine, LocalConfig)
    return resolved.engine


def test_the_cache_and_the_slots_are_those_of_the_settings(adder: Path) -> None:
    compute = {"device": "cpu", "chunk_completions": 99}
    resolved = resolved_for(adder, compute=compute, engine={"cache_mib": 7, "slots": 3})
    engine = local(resolved)
    assert (engine.cache_mib, engine.slots, resolved.chunk_completions) == (7, 3, 99)


def test_auto_is_resolved_for_the_machine(adder: Path) -> None:
    resolved = resolved_for(adder)
    engine = local(resolved)
    assert int(engine.cache_mib) > 0
    assert int(engine.cache_mib) % 64 == 0
    assert (engine.slots, resolved.chunk_completions) == (128, 512)
    assert resolved.threads >= 1
    assert "auto" not in resolved.model_dump().values()
    assert "auto" not in engine.model_dump().values()


@pytest.mark.parametrize("setting", ["auto", "off"])
@pytest.mark.parametrize("is_installed", [True, False])
def test_operations_are_compiled_if_numba_is_installed_and_the_setting_allows_it(
    setting: str, is_installed: bool, adder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selftaught.engines.local.settings.has_compiler", lambda: is_installed)
    resolved = resolved_for(adder, engine={"compiled": setting})
    assert local(resolved).compiled == ("on" if setting == "auto" and is_installed else "off")


def test_a_run_that_began_with_compiled_operations_is_not_carried_on_without_numba(
    adder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = resolved_for(adder, engine={"compiled": "on"})
    monkeypatch.setattr("selftaught.engines.local.settings.has_compiler", lambda: False)
    with pytest.raises(ConfigError, match="numba is not installed here; install it"):
        resolved.engine.opener(Opening(machine=resolved.machine))
    with pytest.raises(ConfigError, match="numba is not installed here; install it"):
        config(engine={"compiled": "on"}).engine.check()


def test_operations_cannot_be_compiled_for_a_gpu() -> None:
    gpu = Machine(device="cuda", dtype="bfloat16", threads=1)
    with pytest.raises(ConfigError, match=r"compiles for a CPU, but the run computes on cuda"):
        LocalConfig(compiled="on").resolved(gpu)


@pytest.mark.parametrize(("name", "number"), [("openai", 16), ("vllm", 128)])
def test_a_chunk_for_a_server_has_four_times_the_requests_at_a_time(name: str, number: int, adder: Path) -> None:
    of_name = {"name": name, **({"url": "http://h"} if name == "openai" else {})}
    auto, given = (resolved_for(adder, engine={**of_name, **more}) for more in ({}, {"concurrency": 3}))
    assert (auto.chunk_completions, given.chunk_completions) == (4 * number, 12)
    assert auto.engine.model_dump()["concurrency"] == number


def test_what_is_resolved_survives_the_way_through_run_json(adder: Path) -> None:
    settings = config(compute={"device": "cpu"}, engine={"name": "openai", "url": "http://h", "concurrency": 5})
    resolved = resolve(settings, ModelRef(path=str(adder)), None)
    written = json.loads(json.dumps(resolved.model_dump(mode="json")))
    assert carried_on(written, settings, "run.json") == resolved


def test_a_run_is_carried_on_with_a_server_at_another_place_and_the_concurrency_that_it_began_with(
    adder: Path,
) -> None:
    begun = resolved_for(adder, engine={"name": "openai", "url": "http://old", "concurrency": 5})
    now = config(engine={"name": "openai", "url": "http://new", "concurrency": 9})
    engine = carried_on(begun.model_dump(mode="json"), now, "run.json").engine
    assert engine == OpenAIConfig(url="http://new", concurrency=5)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"threads": 0}, "run.json: resolved.threads: input should be greater than or equal to 1, got 0; restore"),
        ({"threads": "auto"}, "resolved.threads: input should be a valid integer, got 'auto'"),
        ({"device": "tpu"}, "resolved.device: input should be 'cpu' or 'cuda', got 'tpu'"),
        ({"engine": {"name": "local", "slots": "auto", "cache_mib": 1}}, "engine.slots: input should be resolved"),
        ({"engine": {"name": "local", "slots": None, "cache_mib": 1}}, "engine.slots: input should be a valid integer"),
        ({"engine": {"name": "vllm", "concurrency": 1}}, "engine.name: input should be 'local', got 'vllm'"),
        ({"engine": {"name": "xyzzy"}}, "engine.name: input should be 'local', got 'xyzzy'"),
        ({"engine": 3}, "resolved.engine: input should be a valid dictionary"),
        ({"slots": 3}, "run.json: resolved is damaged"),
    ],
)
def test_a_damaged_value_of_what_was_resolved_is_named(damage: dict[str, Any], expected: str, adder: Path) -> None:
    held = resolved_for(adder).model_dump(mode="json")
    with pytest.raises(StoreError) as caught:
        carried_on({**held, **damage}, config(), "run.json")
    assert expected in str(caught.value)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_small_model_stays_float32_on_a_cpu_unless_the_settings_say_otherwise(dtype: str, adder: Path) -> None:
    resolved = resolved_for(adder, model={"dtype": dtype})
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


def test_every_worker_has_all_slots_and_a_share_of_the_memory(adder: Path) -> None:
    one, two = (resolved_for(adder, compute={"device": "cpu", "workers": number}) for number in (1, 2))
    assert local(two).slots == local(one).slots
    assert (two.chunk_completions, two.workers) == (2 * one.chunk_completions, 2)
    assert int(local(two).cache_mib) <= int(local(one).cache_mib) // 2 + 64
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
    resolved = resolve(load_config(name), ModelRef(path=str(adder)), None)
    assert (resolved.device, resolved.workers) == ("cuda", 1)


def a_gpu(patch: pytest.MonkeyPatch, *, number: int = 1, free: int = 8 << 30) -> None:
    """torch says that there are GPUs."""
    answers = {"is_available": True, "device_count": number, "is_bf16_supported": True, "get_device_name": "H9"}
    for function, value in answers.items():
        patch.setattr(torch.cuda, function, lambda *device, value=value: value)
    patch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))


def test_on_a_gpu_keys_and_values_get_half_of_what_the_weights_leave(
    adder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_gpu(monkeypatch, free=8 << 30)
    on_gpu = {"compute": {"device": "cuda"}}
    assert local(resolved_for(adder, **on_gpu)).cache_mib == (4 << 10) - 64  # the weights are 1 MiB
    monkeypatch.setattr("selftaught.config.resolving.num_parameters", lambda model: 3 << 30)
    assert local(resolved_for(adder, **on_gpu)).cache_mib == 1 << 10  # 6 of 8 GiB are weights in bfloat16
    assert local(resolved_for(adder, **on_gpu, model={"dtype": "float32"})).cache_mib == 64


@pytest.mark.parametrize("number", [1, 3])
def test_of_several_gpus_the_first_is_taken_with_a_line_and_a_gpu_is_told_of_vllm(
    number: int, adder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_gpu(monkeypatch, number=number)
    resolved = resolved_for(adder, compute={"device": "cuda"})
    (vllm,) = machine_lines(resolved)
    assert "of choice on a GPU is vLLM" in vllm
    assert "same bytes" in vllm
    expected = "3 GPUs are visible, and this run uses one: the first, H9; CUDA_VISIBLE_DEVICES names another"
    assert gpu_line(resolved.device) == (expected if number == 3 else "")
    assert machine_lines(resolved_for(adder)) == []
    assert gpu_line("cpu") == ""


THREADS = """
import sys, torch
from selftaught.engines.local.engine import LocalSettings
from selftaught.engines.local.multi_process import open_local
from selftaught.records.samples import ModelRef
settings = LocalSettings(dtype="float32", device="cpu", threads=2, slots=4, compiled=True)
for _ in range(2):
    open_local(ModelRef(path=sys.argv[1]), settings)
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

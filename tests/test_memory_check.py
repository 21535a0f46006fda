"""What a run needs of memory and disk is told before its first token: fitted, written down, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import LEAST, arithmetic
from selftaught.commands import memory_check
from selftaught.commands.memory_check import fit_memory
from selftaught.commands.run import launch
from selftaught.config.loading import config_from_values
from selftaught.config.resolving import Resolved, carried_on, resolve
from selftaught.config.settings import RunConfig
from selftaught.machine import memory
from selftaught.machine.memory import free_memory_bytes, used_memory_bytes
from selftaught.models.weights import resolve_model
from selftaught.records.errors import Interrupted, RefusedError
from selftaught.tracking.listeners import Recorder
from selftaught.training.settings import SftSettings
from test_cli import QUICK

MIB = 1 << 20


def config_with(**values: object) -> RunConfig:
    return config_from_values({**LEAST, **QUICK, "compute.device": "cpu", **values})


def with_free(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let so many bytes be free, besides what this process has."""
    monkeypatch.setattr(memory_check, "free_memory_bytes", lambda device: number)
    monkeypatch.setattr(memory_check, "used_memory_bytes", lambda: 0)


def fitted(config: RunConfig) -> tuple[Resolved, tuple[str, ...]]:
    base = resolve_model(config.model.path)
    return fit_memory(config, arithmetic(), base, resolve(config, base, None))


def switches(resolved: Resolved) -> tuple[Any, ...]:
    assert isinstance(resolved.training, SftSettings)
    training = resolved.training
    return training.micro_batch_tokens, training.activation_checkpointing, training.logits_in_pieces


def test_a_training_that_does_not_fit_is_made_to_fit_and_a_line_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_with(**{"training.batch_size": 64, "sampling.max_new_tokens": 192})
    with_free(monkeypatch, 1 << 40)
    much, nothing = fitted(config)
    assert nothing == ()
    assert much.training_bytes is not None
    with_free(monkeypatch, much.training_bytes - 50 * MIB)
    less, lines = fitted(config)
    assert less.training_bytes is not None
    assert less.training_bytes <= much.training_bytes - 50 * MIB
    assert int(switches(less)[0]) < int(switches(much)[0])
    assert any(f"training.micro_batch_tokens = {switches(less)[0]}" in line for line in lines)


def test_a_training_that_cannot_fit_is_refused_with_its_parts_and_the_knobs(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 300 * MIB)
    with pytest.raises(
        RefusedError, match=r"^training with .*adder needs about 0\.\d GiB of memory \(.*libraries"
    ) as error:
        fitted(config_with())
    text = str(error.value)
    assert "0.3 GiB are free" in text
    for knob in ("training.lora_rank=16", "a smaller model"):
        assert knob in text
    assert "\n" not in text
    assert error.value.exit_code == 2


def test_train_workers_on_a_cpu_need_their_memory_too_and_one_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 700 * MIB)
    fitted(config_with(**{"compute.workers": 1}))
    with pytest.raises(RefusedError, match=r"other ranks 1\.\d.* 0\.7 GiB are free; .*set cluster\.train_workers=1"):
        fitted(config_with(**{"compute.workers": 1, "cluster.train_workers": 4}))


def test_processes_that_sample_on_a_cpu_need_their_memory_too_and_fewer_are_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_free(monkeypatch, 1400 * MIB)
    fitted(config_with(**{"compute.workers": 1}))
    with pytest.raises(RefusedError, match=r"workers \d+\.\d\), and 1\.4 GiB are free; set fewer cluster\.workers,"):
        fitted(config_with(**{"compute.workers": 1, "cluster.workers": 64}))


def test_a_model_that_fits_no_gpu_is_refused_with_adapters_as_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = fitted(config_with(**{"compute.workers": 1, "cluster.train_workers": 2}))[0]
    with_free(monkeypatch, 10 * MIB)
    on_gpus = resolved.model_copy(update={"device": "cuda"})
    config = config_with(**{"compute.workers": 1, "cluster.train_workers": 2})
    expected = r"each of 2 GPUs holds the whole model; .*train adapters \(training\.lora_rank=16"
    with pytest.raises(RefusedError, match=expected):
        fit_memory(config, arithmetic(), resolve_model(config.model.path), on_gpus)


def test_a_set_micro_batch_is_named_in_the_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 300 * MIB)
    with pytest.raises(RefusedError, match=r"set training\.micro_batch_tokens below 4096"):
        fitted(config_with(**{"training.micro_batch_tokens": 4096}))


def test_only_what_is_beyond_the_forecasts_own_error_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 0)
    monkeypatch.setattr(memory_check, "TOLERANCE", float("inf"))
    least = fitted(config_with())[0].training_bytes
    assert least is not None
    monkeypatch.setattr(memory_check, "TOLERANCE", 1.15)
    with_free(monkeypatch, int(least / 1.14))
    fitted(config_with())
    with_free(monkeypatch, int(least / 1.16))
    with pytest.raises(RefusedError):
        fitted(config_with())


def test_a_generation_that_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 200 * MIB)
    config = config_with(**{"training.name": "none", "training.learning_rate": None, "engine.cache_mib": 4000})
    with pytest.raises(RefusedError, match=r"^sampling with .* engine\.cache_mib"):
        fitted(config)


def test_a_refused_run_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_free(monkeypatch, 300 * MIB)
    with pytest.raises(RefusedError, match="needs about"):
        launch(config_with(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_was_fitted_stands_in_run_json_and_a_resume_keeps_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, notes = config_with(**{"training.batch_size": 64, "sampling.max_new_tokens": 192}), Recorder()
    with_free(monkeypatch, 600 * MIB)
    with pytest.raises(Interrupted):
        launch(config, tmp_path / "run", should_stop=lambda: True, listeners=[notes])
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    tokens = about["resolved"]["training"]["micro_batch_tokens"]
    assert about["config"]["training.micro_batch_tokens"] == "auto"
    assert any(f"training.micro_batch_tokens = {tokens}" in text for text in notes.notes)
    with_free(monkeypatch, 1 << 40)
    with pytest.raises(Interrupted):
        launch(config, tmp_path / "run", should_stop=lambda: True)
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == about
    assert switches(carried_on(about["resolved"], config, "run.json"))[0] == tokens
    with_free(monkeypatch, 300 * MIB)
    with pytest.raises(
        RefusedError, match=r"training of the run in .* needs about 0\.\d GiB of memory and 0.3 GiB are"
    ):
        launch(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("best-and-last", r"the weights of up to 3 more iterations at a time, 0\.0 GiB each.* on another disk$"),
        (
            "all",
            r'up to 40 more .*set training\.keep_weights = "best-and-last", or set loop\.max_iterations = 2 or less',
        ),
    ],
)
def test_a_disk_without_room_for_the_checkpoints_is_refused(
    setting: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory_check, "free_bytes", lambda folder: 5 * MIB)
    with pytest.raises(RefusedError, match=message):
        launch(config_with(**{"loop.max_iterations": 40, "training.keep_weights": setting}), tmp_path / "run")


MEMINFO = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


def groups(monkeypatch: pytest.MonkeyPatch, folder: Path, membership: str, files: dict[str, str]) -> None:
    for name, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": membership, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(memory, "_PROC", folder / "proc")
    monkeypatch.setattr(memory, "_GROUPS", folder / "groups")


def test_without_limits_what_the_kernel_calls_available_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    groups(monkeypatch, tmp_path, "0::/\n", {"groups/memory.max": "max\n", "groups/memory.current": "5\n"})
    assert free_memory_bytes("cpu") == 8_000_000 * 1024


@pytest.mark.parametrize("at", ["", "a/", "a/b/"])
def test_the_limit_of_a_group_or_of_one_above_it_counts(
    at: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {
        f"groups/{at}memory.max": f"{900 * MIB}\n",
        f"groups/{at}memory.current": f"{500 * MIB}\n",
        f"groups/{at}memory.stat": f"anon 5\ninactive_file {100 * MIB}\n",
    }
    groups(monkeypatch, tmp_path, "0::/a/b\n", files)
    assert free_memory_bytes("cpu") == 500 * MIB


def test_the_limit_of_a_group_of_the_older_version_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {
        "groups/memory/job/memory.limit_in_bytes": f"{900 * MIB}\n",
        "groups/memory/job/memory.usage_in_bytes": f"{500 * MIB}\n",
        "groups/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "groups/memory/memory.usage_in_bytes": f"{700 * MIB}\n",
    }
    groups(monkeypatch, tmp_path, "4:cpu,memory:/job\n1:cpu:/job\n0::/\n", files)
    assert free_memory_bytes("cpu") == 400 * MIB


def test_a_process_knows_its_own_anonymous_memory() -> None:
    before = used_memory_bytes()
    block = bytearray(b"x" * (64 * MIB))
    after = used_memory_bytes()
    if before is None or after is None:
        pytest.skip("this system has no /proc")
    assert after - before == pytest.approx(len(block), rel=0.1)

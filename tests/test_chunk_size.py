"""How many completions are one unit of saving: fewer of a large model, decided by model, device and settings alone."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from builders import config
from selftaught.config.resolving import CHUNK_STEP, SMALLEST_CHUNK, chunk_completions, resolve
from selftaught.machine.devices import Device
from selftaught.models.folder import INDEX, WEIGHTS
from selftaught.models.weights import num_parameters
from selftaught.records.errors import ModelError
from selftaught.records.samples import ModelRef

AT_A_TIME = st.integers(1, 4096)
PARAMETERS = st.integers(1, 10**12)
DEVICES = st.sampled_from(["cpu", "cuda"])


@pytest.mark.parametrize(
    ("parameters", "device", "at_a_time", "expected"),
    [
        (640_000, "cpu", 128, 512),
        (640_000, "cpu", 256, 1024),  # two workers, as the shipped config of arithmetic has them
        (134_515_008, "cpu", 128, 512),
        (268_000_000, "cpu", 128, 464),
        (494_032_768, "cpu", 128, 256),
        (1_000_000_000, "cpu", 128, 128),
        (8_030_000_000, "cpu", 128, 64),
        (134_515_008, "cuda", 256, 1024),
        (494_032_768, "cuda", 256, 1024),
        (8_030_000_000, "cuda", 256, 384),
        (32_000_000_000, "cuda", 256, 96),
        (8_030_000_000, "cpu", 3, 12),  # never more than four times as many as are generated at a time
        (None, "cpu", 16, 64),
    ],
)
def test_a_large_model_has_smaller_chunks(
    parameters: int | None, device: Device, at_a_time: int, expected: int
) -> None:
    assert chunk_completions("auto", at_a_time, parameters=parameters, device=device) == expected


@given(AT_A_TIME, PARAMETERS, PARAMETERS, DEVICES)
def test_a_larger_model_never_has_a_larger_chunk(at_a_time: int, some: int, others: int, device: Device) -> None:
    small, large = sorted((some, others))
    of_small, of_large = (
        chunk_completions("auto", at_a_time, parameters=parameters, device=device) for parameters in (small, large)
    )
    assert of_large <= of_small


@given(AT_A_TIME, PARAMETERS, DEVICES)
def test_a_chunk_is_within_its_bounds_and_of_whole_steps(at_a_time: int, parameters: int, device: Device) -> None:
    chunk = chunk_completions("auto", at_a_time, parameters=parameters, device=device)
    assert min(SMALLEST_CHUNK, 4 * at_a_time) <= chunk <= 4 * at_a_time
    assert chunk == 4 * at_a_time or chunk % CHUNK_STEP == 0
    assert chunk <= chunk_completions("auto", at_a_time, parameters=parameters, device="cuda")


@given(st.integers(1, 10**6), AT_A_TIME, st.none() | PARAMETERS, DEVICES)
def test_a_size_that_is_given_is_taken_as_it_is(
    setting: int, at_a_time: int, parameters: int | None, device: Device
) -> None:
    assert chunk_completions(setting, at_a_time, parameters=parameters, device=device) == setting


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"name": "local"}, 256),
        ({"name": "local", "slots": 8}, 32),
        ({"name": "vllm"}, 256),
        ({"name": "openai", "url": "http://h", "concurrency": 40}, 160),  # whose device is not this one
    ],
)
def test_the_parameters_count_where_the_model_is_run_on_this_machine(
    engine: dict[str, object], expected: int, adder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selftaught.config.resolving.num_parameters", lambda model: 494_032_768)
    settings = config(compute={"device": "cpu"}, engine=engine)
    assert resolve(settings, ModelRef(path=str(adder)), None).chunk_completions == expected


def test_parameters_are_counted_in_the_headers_of_one_file_or_of_several(adder: Path, tmp_path: Path) -> None:
    expected = sum(tensor.numel() for tensor in load_file(adder / WEIGHTS).values())
    assert num_parameters(ModelRef(path=str(adder))) == expected > 600_000
    AutoModelForCausalLM.from_pretrained(adder).save_pretrained(tmp_path, max_shard_size="500KB")
    assert (tmp_path / INDEX).exists()
    shutil.copy(adder / WEIGHTS, tmp_path / "consolidated.safetensors")  # the same again, which no program reads
    assert num_parameters(ModelRef(path=str(tmp_path))) == expected


def test_a_folder_without_weights_has_no_number_of_parameters(tmp_path: Path) -> None:
    assert num_parameters(ModelRef(path=str(tmp_path))) is None


@pytest.mark.parametrize("content", [b"", b"\xff" * 100])
def test_a_file_whose_header_cannot_be_read_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match=r"is not a complete safetensors file .*; fetch or save the model again"):
        num_parameters(ModelRef(path=str(tmp_path)))

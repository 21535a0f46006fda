"""A folder that holds no model, or one of a kind that cannot be trained, is refused before any data is read."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_server import make_model, needs_llama_cpp, to_gguf
from selftaught.commands.check_task import check_task
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.models.loading import check_model, load_model
from selftaught.models.tokens import Codec
from selftaught.models.weights import check_model_path, resolve_model
from selftaught.records.errors import ModelError
from selftaught.records.samples import ModelRef
from test_cli import refused, selftaught

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\nsize 269060552\n"  # noqa: E501


def only(folder: Path, *names: str) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def set_in_config(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def link_to_nothing(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("../blobs/1")

    return change


def an_adapter(folder: Path) -> None:
    only(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base", "r": 8}))
    (folder / "adapter_model.safetensors").write_bytes(b"")


def an_unreadable_adapter(folder: Path) -> None:
    an_adapter(folder)
    (folder / "adapter_config.json").write_text("{")


def a_gguf_file(folder: Path) -> None:
    only(folder)
    (folder / "model-q4.gguf").write_bytes(b"GGUF")


def a_gguf_file_beside_a_config(folder: Path) -> None:
    only(folder, "config.json", "tokenizer.json", "tokenizer_config.json")
    (folder / "model-q4.gguf").write_bytes(b"GGUF")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def nested(folder: Path) -> None:
    (folder / "checkpoint-500").mkdir()
    for path in list(folder.iterdir()):
        if path.is_file():
            path.rename(folder / "checkpoint-500" / path.name)


def a_dangling_link(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("../blobs/not-there")

    return change


def released_weights(folder: Path) -> None:
    only(folder)
    (folder / "consolidated.00.pth").write_bytes(b"")


def a_folder_in_its_place(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (only, "has no config.json"),
    "adapter": (an_adapter, r"adapters for the model some/base, which is neither a folder here nor in the hub's cache"),
    "adapter beside its model": (write("adapter_config.json", "{}"), "merge the adapter into the model"),
    "adapter's config is not JSON": (an_unreadable_adapter, r"adapter_config\.json is not JSON"),
    "gguf": (a_gguf_file, r"a GGUF file, the format of llama\.cpp; .*gguf_file='model-q4\.gguf'"),
    "gguf beside a config": (a_gguf_file_beside_a_config, r"a GGUF file, .*gguf_file='model-q4\.gguf'"),
    "pickled": (pickled, r"no \*\.safetensors weights in .*, but pytorch_model\.bin; pickled weights are not read"),
    "one folder deeper": (nested, r"checkpoint-500 has one: give that folder"),
    "as released": (released_weights, r"consolidated\.00\.pth, weights as their authors released them"),
    "config is a pointer": (write("config.json", POINTER), r"config\.json is a Git LFS pointer.*`git lfs pull`"),
    "weights are a pointer": (write("model.safetensors", POINTER), r"model\.safetensors is a Git LFS pointer"),
    "tokenizer is a pointer": (write("tokenizer.json", POINTER), r"tokenizer\.json is a Git LFS pointer"),
    "index is a pointer": (
        write("model.safetensors.index.json", POINTER), r"index\.json is a Git LFS pointer"
    ),
    "generation config is a pointer": (write("generation_config.json", POINTER), r"is a Git LFS pointer"),
    "config is a list": (write("config.json", "[]"), r"config\.json holds no JSON object"),
    "config is text": (write("config.json", "llama"), r"config\.json is not JSON"),
    "config of nested brackets": (write("config.json", "[" * 100_000), r"config\.json is not JSON"),
    "config links to nothing": (a_dangling_link("config.json"), r"a link to \.\./blobs/not-there, which is not there"),
    "weights link to nothing": (
        a_dangling_link("model.safetensors"), r"model\.safetensors is a link to \.\./blobs/not-there, which is not"
    ),
    "weights are a folder": (a_folder_in_its_place, r"model\.safetensors"),
    "fp8": (set_in_config(quantization_config=FP8), r"is quantised \(fp8, by its config\.json\)"),
    "gptq": (set_in_config(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised \(gptq,"),
    "awq": (set_in_config(quantization_config={"quant_method": "awq", "bits": 4}), r"quantised \(awq,"),
    "mxfp4": (set_in_config(quantization_config={"quant_method": "mxfp4"}), r"quantised \(mxfp4,"),
    "bitsandbytes": (set_in_config(quantization_config={"load_in_4bit": True}), r"quantised \(bitsandbytes,"),
    "compressed tensors": (
        set_in_config(compression_config={"quant_method": "compressed-tensors"}), r"quantised \(compressed-tensors,"
    ),
    "modelopt": (set_in_config(quantization_config={"quant_algo": "NVFP4"}), r"quantised \(NVFP4,"),
    "mlx": (set_in_config(quantization={"group_size": 64, "bits": 4}), r"quantised \(4 bits,"),
    "settings of the tokenizer that are no JSON": (
        write("tokenizer_config.json", "{'a': 1}"), r"tokenizer_config\.json is not JSON"
    ),
    "an empty generation_config.json": (write("generation_config.json", " "), r"generation_config\.json is empty"),
    "a tokenizer.json that leads nowhere": (
        link_to_nothing("tokenizer.json"), r"tokenizer\.json is a link to \.\./blobs/1, which is not there"
    ),
    "a tokenizer_config.json that leads nowhere": (
        link_to_nothing("tokenizer_config.json"), r"tokenizer_config\.json is a link to \.\./blobs/1"
    ),
    "a config with a byte order mark": (
        write("config.json", "\ufeff{}"), r"config\.json begins with a byte order mark"
    ),
    "a config in UTF-16": (
        lambda folder: (folder / "config.json").write_text("{}", encoding="utf-16"),
        r"config\.json begins with a byte order mark",
    ),
    "the text part of a larger model": (
        set_in_config(text_config={"quantization_config": {"quant_method": "hqq"}}), r"quantised \(hqq,"
    ),
}  # fmt: skip


@pytest.fixture
def folder(adder: Path, tmp_path: Path) -> Path:
    shutil.copytree(adder, tmp_path / "model")
    return tmp_path / "model"


def line_of(path: str) -> str:
    with pytest.raises(ModelError) as caught:
        check_model_path(path)
    with pytest.raises(ModelError) as again:
        resolve_model(path)
    line = str(caught.value)
    assert str(again.value) == line
    assert "\n" not in line
    assert path in line
    return line


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_without_a_model_that_can_be_trained_is_refused_before_it_is_loaded(name: str, folder: Path) -> None:
    change, message = BROKEN[name]
    change(folder)
    assert re.search(message, line_of(str(folder)))


def code_in(message: str, start: str) -> str:
    """The statements that a message gives, from their beginning on."""
    return message[message.index(start) :]


@needs_llama_cpp
def test_the_statements_for_a_gguf_file_make_a_model_that_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_model(tmp_path / "source")
    (tmp_path / "packed").mkdir()
    to_gguf(source, tmp_path / "packed" / "model.gguf")
    statements = code_in(line_of(str(tmp_path / "packed")), "AutoModelForCausalLM")
    monkeypatch.chdir(tmp_path)
    exec(f"from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig\n{statements}")
    check_model("unpacked")
    Codec("unpacked")


def test_the_statements_for_pickled_weights_make_a_model_that_is_accepted(
    adder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(load_model(str(adder), dtype=torch.float32).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    statement = re.search(r"AutoModelForCausalLM\S* ?\S*\)", line_of(str(folder)))
    assert statement
    monkeypatch.chdir(tmp_path)
    exec(f"from transformers import AutoModelForCausalLM\n{statement[0]}")
    check_model("new folder")


def test_a_folder_with_more_files_than_are_read_is_accepted(folder: Path) -> None:
    (folder / "model-q4.gguf").write_bytes(b"GGUF")
    (folder / "pytorch_model.bin").write_text(POINTER)
    (folder / "consolidated.safetensors").write_text(POINTER)
    (folder / "tokenizer.model").write_text(POINTER)  # tokenizer.json is read
    (folder / "README.md").write_text(POINTER)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{")
    set_in_config(quantization_config=None)(folder)
    assert check_model_path(str(folder)) == folder
    assert resolve_model(str(folder)).path == str(folder)


def test_the_parts_of_a_tokenizer_without_tokenizer_json_are_checked(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "merges.txt").write_text(POINTER)
    assert "merges.txt is a Git LFS pointer" in line_of(str(folder))


def test_a_file_or_a_link_to_nothing_is_no_model_folder(folder: Path) -> None:
    assert "is a file; give the folder that holds the model" in line_of(str(folder / "model.safetensors"))
    (folder / "q4.gguf").write_bytes(b"GGUF")
    assert "is a GGUF file" in line_of(str(folder / "q4.gguf"))
    (folder / "link").symlink_to("gone")
    assert "is a link to gone, which is not there" in line_of(str(folder / "link"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_one_line(folder: Path) -> None:
    (folder / "config.json").chmod(0)
    assert "cannot be read" in line_of(str(folder))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "TASK", "--run-dir", "RUN", "--set", "model.path=./nowhere"],
        ["run", "TASK", "--dry-run", "--set", "model.path=./nowhere"],
        ["run", "TASK", "--run-dir", "RUN", "--set", "model.path=MODEL"],
        ["run", "TASK", "--dry-run", "--set", "model.path=MODEL"],
        ["tasks", "check", "TASK", "--set", "model.path=MODEL"],
        ["eval", "MODEL", "--task", "own", "--set", "task.data=gone.jsonl"],
    ],
    ids=" ".join,
)
def test_a_model_that_cannot_be_used_is_refused_before_the_data_is_read(
    arguments: list[str], folder: Path, tmp_path: Path
) -> None:
    set_in_config(quantization_config=FP8)(folder)
    config = tmp_path / "rows.toml"
    config.write_text('[task]\nname = "own"\ndata = "gone.jsonl"\n[training]\nlearning_rate = 1e-5\n')
    places = {"TASK": str(config), "RUN": str(tmp_path / "run"), "MODEL": str(folder)}
    given = [places.get(word, word.replace("MODEL", str(folder))) for word in arguments]
    line = refused(selftaught(*given))
    assert "gone.jsonl" not in line
    assert "no such folder" in line if "nowhere" in " ".join(arguments) else "is quantised (fp8" in line
    assert not (tmp_path / "run").exists()


def test_tasks_check_measures_in_words_where_there_is_no_model_yet() -> None:
    facts = check_task("arithmetic", ["model.path=./later"]).facts
    assert facts["lengths_in"].startswith("words (no tokenizer: model.path = './later' is not a folder here)")


CASES = Path(__file__).parents[2] / "shared" / "cases" / "make_models.py"


@pytest.mark.skipif(not CASES.is_file(), reason="the folder of failing inputs is not beside this checkout")
def test_every_broken_model_of_the_case_folder_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, str(CASES), str(tmp_path)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    folders = sorted(tmp_path.iterdir())
    assert len(folders) >= 6
    for folder in folders:
        with pytest.raises(ModelError, match=re.escape(str(folder))) as caught:
            LocalEngine(ModelRef(path=str(folder)), LocalSettings(dtype="float32", device="cpu", threads=1, slots=1))
        assert "\n" not in str(caught.value)

"""Folders with adapters, of runs and of others: their base is found, and what cannot be merged is refused in a line."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file

from selftaught.models.adapters import base_folder
from selftaught.models.loading import check_model, load_model
from selftaught.models.places import folder_of, hub_id, local_folder
from selftaught.models.tokens import Codec
from selftaught.models.weights import model_in_folder, resolve_model, weights_sha256
from selftaught.records.errors import ModelError
from tiny_models import make_adapters

Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapters(tiny, tmp_path_factory.mktemp("adapters") / "made")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "adapters"))


def look_at(folder: Path) -> None:
    model_in_folder(folder)
    check_model(str(folder))


def line_of(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        look_at(folder)
    (line,) = str(caught.value).splitlines()
    return line


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


@pytest.mark.parametrize("values", [{}, {"use_rslora": True, "r": 4}])
def test_adapters_of_others_are_merged_as_peft_applies_them_and_have_their_base_models_tokenizer(
    tiny: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    folder = make_adapters(tiny, tmp_path / "adapters", **values)
    codec = Codec(str(folder))
    assert codec.encode_prompt("1 + 2 =") == Codec(str(tiny)).encode_prompt("1 + 2 =")
    assert codec.end_ids == Codec(str(tiny)).end_ids
    ids = torch.tensor([codec.encode_prompt("1 + 2 =")])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beside = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(input_ids=ids).logits
        merged = load_model(str(folder), dtype=torch.float32).eval()(input_ids=ids).logits
        base = load_model(str(tiny), dtype=torch.float32).eval()(input_ids=ids).logits
    assert (merged - beside).norm() < 1e-4 * (merged - base).norm()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "LOHA"}, "adapters of the kind LOHA, which are not merged here"),
        ({"use_dora": True}, "with use_dora = True"),
        ({"bias": "all"}, "with bias = all"),
        ({"modules_to_save": ["embed_tokens"]}, r"with modules_to_save = \['embed_tokens'\]"),
        ({"rank_pattern": {"q_proj": 4}}, "with rank_pattern = "),
        ({"init_lora_weights": "pissa"}, "with init_lora_weights = 'pissa'"),
        ({"something_new": 3}, "with something_new = 3"),
        ({"r": 0}, "of rank 0"),
        ({"r": 3}, r"the factors of .* are \(2, 48\) and \(32, 2\), expected \(3, 48\) and \(32, 3\)"),
        (
            {"base_model_name_or_path": "some/base", "revision": "abc"},
            r"for the model some/base \(revision abc\), which",
        ),
        ({"base_model_name_or_path": None}, "for the model that their author names, which"),
    ],
)
def test_adapters_that_cannot_be_merged_are_refused(values: dict[str, Any], message: str, folder: Path) -> None:
    set_config(folder, **values)
    assert re.search(message, line_of(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "lm_head.weight": torch.ones(2, 2)}, "lm_head.weight is no factor of an adapter"),
        (lambda t: {n: x for n, x in t.items() if n != f"{Q_PROJ}.lora_B.weight"}, "are (2, 32) and None"),
        (lambda t: {n.replace("self_attn.q_proj", "input_layernorm"): x for n, x in t.items()},
         "it adapts model.layers.0.input_layernorm, which is no linear layer of its base model"),
        (lambda t: {}, "adapter_model.safetensors is empty"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_factors_of_linear_layers_are_refused(change: Any, message: str, folder: Path) -> None:
    change_tensors(folder, change)
    assert message in line_of(folder)


def test_adapters_without_their_weights_are_refused_and_those_of_an_iteration_that_was_not_kept_say_so(
    folder: Path,
) -> None:
    (folder / "adapter_model.safetensors").unlink()
    assert "has adapter_config.json, but no adapter_model.safetensors; fetch or save" in line_of(folder)
    (folder / "checkpoint.json").write_text('{"weights_kept": false}')
    assert "were not kept" in line_of(folder)
    assert 'training.keep_weights = "all"' in line_of(folder)


def test_the_hash_of_adapters_changes_with_all_that_makes_the_merged_weights(tiny: Path, folder: Path) -> None:
    base = Path(shutil.copytree(tiny, folder.parent / "base"))
    set_config(folder, base_model_name_or_path=str(base))
    hashes = [weights_sha256(folder)]
    set_config(folder, lora_alpha=4)
    hashes.append(weights_sha256(folder))
    change_tensors(folder, lambda t: {name: x + 1 for name, x in t.items()})
    hashes.append(weights_sha256(folder))
    tensors = load_file(base / "model.safetensors")
    save_file({name: x * 2 for name, x in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    hashes.append(weights_sha256(folder))
    assert len(set(hashes)) == 4
    shutil.move(base, folder.parent / "elsewhere")
    set_config(folder, base_model_name_or_path=str(folder.parent / "elsewhere"))
    assert weights_sha256(folder) == hashes[-1]


def test_a_base_model_is_named_and_found_by_name_hub_id_and_path(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builtin = Path(resolve_model("builtin:adder").path)
    assert hub_id(builtin) == ("builtin:adder", None)
    assert local_folder("builtin:adder") == builtin
    assert hub_id(tiny) is None
    assert base_folder(tiny) == local_folder(str(tiny)) == tiny
    commit = "0123456789" * 4
    cached = tmp_path / "models--some-one--a.model" / "snapshots" / commit
    shutil.copytree(tiny, cached)
    (tmp_path / "models--some-one--a.model" / "refs").mkdir()
    (tmp_path / "models--some-one--a.model" / "refs" / "main").write_text("f" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert hub_id(cached) == ("some-one/a.model", commit)
    assert local_folder("some-one/a.model", commit) == cached
    assert local_folder("some-one/a.model", "a" * 40) is None
    assert local_folder("no such folder") is None
    there = "/elsewhere/models--some-one--a.model/snapshots/" + commit
    assert folder_of(there, hub_id(Path(there))) == str(cached)
    assert folder_of("/elsewhere/adder", hub_id(builtin)) == str(builtin)
    assert folder_of(str(tiny), None) == str(tiny)
    with pytest.raises(ModelError, match=rf"no some-one/a\.model at commit {'a' * 40} in the hub's cache; fetch it"):
        folder_of("/elsewhere/a", ("some-one/a.model", "a" * 40))

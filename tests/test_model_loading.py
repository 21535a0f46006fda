"""Every weight of a loaded model comes from its folder: whatever does not fit the config is refused, all else loads."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import strategies  # noqa: F401 (the profile that property tests run under)
from builders import LEAST
from selftaught.config.loading import config_from_values
from selftaught.config.resolving import resolve
from selftaught.engines.local.engine import LocalEngine, LocalSettings
from selftaught.models.folder import INDEX, WEIGHTS
from selftaught.models.loading import check_model, load_model
from selftaught.models.weights import resolve_model
from selftaught.records.errors import ModelError
from selftaught.records.samples import ModelRef
from selftaught.training.models import load_float32

BODY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**BODY, "num_key_value_heads": 2, "max_position_embeddings": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
NARROW = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "llama that ties": ("LlamaConfig", {**GROUPED, "tie_word_embeddings": True}),
    "llama with biases": ("LlamaConfig", {**GROUPED, "attention_bias": True, "mlp_bias": True}),
    "qwen2": ("Qwen2Config", {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}),
    "gemma3": ("Gemma3TextConfig", {**GROUPED, "head_dim": 8, "sliding_window": 32}),
    "phi3": ("Phi3Config", {**GROUPED, "pad_token_id": 0}),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4}),
    "qwen3-moe": ("Qwen3MoeConfig", {**GROUPED, **EXPERTS, "head_dim": 8}),
    "gpt2": ("GPT2Config", NARROW),
    "gpt-j": ("GPTJConfig", {**NARROW, "rotary_dim": 4, "tie_word_embeddings": False}),
    "gpt-neo": ("GPTNeoConfig", {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 64,
                                 "attention_types": [[["global", "local"], 1]]}),
    "gpt-neox": ("GPTNeoXConfig", BODY),
}  # fmt: skip
TIED = ("llama that ties", "qwen2", "gemma3", "gpt2", "gpt-neo")

examples = settings(max_examples=settings().max_examples // 2)  # of each kind
every_kind = pytest.mark.parametrize("kind", KINDS)
QUICK = ("the shipped one", "llama that ties", "mixtral")
changed_kind = pytest.mark.parametrize(
    "kind", [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in QUICK)]
)


@dataclass(frozen=True)
class Model:
    folder: Path
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]

    def copy(self, folder: Path, *, tensors: Mapping[str, torch.Tensor] | None = None, **config: Any) -> Path:
        """The model's folder with other tensors or other numbers."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder)
        if tensors is not None:
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
        (folder / "config.json").write_text(json.dumps({**self.config, **config}))
        return folder


@pytest.fixture(scope="module")
def model_of_kind(tmp_path_factory: pytest.TempPathFactory, adder: Path) -> Callable[[str], Model]:
    at = tmp_path_factory.mktemp("kinds")

    @cache
    def make(kind: str) -> Model:
        if kind == "the shipped one":
            folder = adder
        else:
            name, values = KINDS[kind]
            torch.manual_seed(0)
            tokens = {"vocab_size": 21, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
            config = getattr(transformers, name)(**{**tokens, **values})
            folder = at / kind
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            AutoTokenizer.from_pretrained(adder).save_pretrained(folder)
        return Model(folder, load_file(folder / WEIGHTS), json.loads((folder / "config.json").read_text()))

    return make


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every example of a property test writes anew."""
    return tmp_path_factory.mktemp("examples") / "model"


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(folder), dtype=torch.float32)
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def other_name(draw: st.DrawFn, name: str, names: Any) -> str:
    """A name that no tensor has and that no model would read as one of its own."""
    numbers = [match.span() for match in re.finditer(r"(?<=\.)\d+(?=\.)", name)]
    ways = ["suffix", "prefix", "inside", "word"] + ["number"] * (3 if numbers else 0)
    match draw(st.sampled_from(ways)):
        case "suffix":
            new = name + draw(st.sampled_from(["2", "_old", ".lora_A.default.weight", "_scale_inv", ".weight", "日"]))
        case "prefix":
            new = draw(st.sampled_from(["module.", "base_model.model.", "_orig_mod.", "student.", "x"])) + name
        case "inside":
            new = name.replace(".", draw(st.sampled_from(["..", "._orig_mod.", "-"])), 1)
        case "word":
            new = draw(st.text("abc.", min_size=1, max_size=8))
        case _:
            start, end = draw(st.sampled_from(numbers))
            new = name[:start] + draw(st.sampled_from(["9", "30", "00", "-1"])) + name[end:]
    return new if new not in names else new + "2"


@changed_kind
@examples
@given(data=st.data())
def test_a_tensor_dropped_renamed_added_or_reshaped_is_refused_by_its_name(
    kind: str, model_of_kind: Callable[[str], Model], scratch: Path, data: st.DataObject
) -> None:
    model = model_of_kind(kind)
    tensors = dict(model.tensors)
    name = data.draw(st.sampled_from(sorted(tensors)))
    change = data.draw(st.sampled_from(["drop", "rename", "add", "add a copy", "reshape", "store as whole numbers"]))
    named = name
    if change == "drop":
        del tensors[name]
    elif change == "rename":
        other = data.draw(st.composite(other_name)(name, tensors))
        tensors[other] = tensors.pop(name)
    elif change == "add":
        named = data.draw(st.composite(other_name)(name, tensors))
        tensors[named] = torch.zeros(data.draw(st.sampled_from([(), (3,), (16, 16)])))
    elif change == "add a copy":
        named = data.draw(st.composite(other_name)(name, tensors))
        tensors[named] = tensors[name]
    elif change == "reshape":
        shape = tensors[name].shape
        tensors[name] = torch.zeros(data.draw(st.sampled_from([(*shape, 1), (shape[0] + 1, *shape[1:]), shape[1:]])))
    else:
        dtype = data.draw(st.sampled_from([torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int64]))
        tensors[name] = tensors[name].to(dtype)
    folder = model.copy(scratch, tensors=tensors)
    if change.startswith("add") and is_ignored_by_its_class(named, model):
        load_model(str(folder), dtype=torch.float32)
        return
    line = refusal(folder)
    assert named in line or parameter_of(named) in line, line


def is_ignored_by_its_class(name: str, model: Model) -> bool:
    """GPT-2's class ignores whatever holds attn.bias, c_attn.bias2 among it."""
    patterns = getattr(transformers, model.config["architectures"][0])._keys_to_ignore_on_load_unexpected or ()
    return any(re.search(pattern, name) for pattern in patterns)


def parameter_of(name: str) -> str:
    """The line may name an expert by the parameter that it is loaded into."""
    return (
        name.partition(".experts.")[0].replace("block_sparse_moe", "mlp") + ".experts." if ".experts." in name else name
    )


HUGE = 1 << 40


def numbers_in(config: Mapping[str, Any]) -> list[str]:
    return sorted(key for key, value in config.items() if isinstance(value, int))


def build_of(config: Mapping[str, Any]) -> Any:
    """Names, shapes and ties of an empty model, or the error."""
    try:
        made = AutoConfig.for_model(**config)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(made)
    except Exception as error:
        return type(error)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, model.all_tied_weights_keys


@changed_kind
@examples
@given(data=st.data())
def test_a_number_of_the_config_is_refused_if_and_only_if_it_changes_the_tensors(
    kind: str, model_of_kind: Callable[[str], Model], scratch: Path, data: st.DataObject
) -> None:
    model = model_of_kind(kind)
    key = data.draw(st.sampled_from(numbers_in(model.config)))
    value = model.config[key]
    changed = (
        not value
        if isinstance(value, bool)
        else data.draw(st.sampled_from([value + 1, value - 1, 2 * value, value // 2, 0, 1, 3, HUGE]))
    )
    if key in ("num_hidden_layers", "n_layer", "num_layers"):
        changed = min(changed, 100)
    changes: dict[str, Any] = {key: changed}
    folder = model.copy(scratch, **changes)
    before, after = build_of(model.config), build_of({**model.config, key: changed})
    assert isinstance(before, tuple)
    if after != before:
        refusal(folder)
    elif changed != HUGE:
        load_model(str(folder), dtype=torch.float32)
    else:  # tables of positions, which are in no file, have a size, too, and may be too large for any machine
        with suppress(ModelError):
            load_model(str(folder), dtype=torch.float32)


@every_kind
def test_the_model_itself_loads_with_every_weight_of_its_file(kind: str, model_of_kind: Callable[[str], Model]) -> None:
    model = model_of_kind(kind)
    loaded = load_model(str(model.folder), dtype=torch.float32)
    ids = torch.arange(2, 12)[None]
    plain = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32).eval()
    assert torch.equal(loaded(ids).logits, plain(ids).logits)


def head_of(model: Model) -> str:
    return next(n for n in ("lm_head.weight", "embed_out.weight") if n in build_of(model.config)[0])


def embedding_of(model: Model) -> str:
    return next(n for n in model.tensors if n.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight")))


@pytest.mark.parametrize("kind", TIED)
def test_a_copy_of_a_tied_weight_is_accepted_and_one_with_other_values_is_refused(
    kind: str, model_of_kind: Callable[[str], Model], tmp_path: Path
) -> None:
    model = model_of_kind(kind)
    head, embedding = head_of(model), embedding_of(model)
    assert head not in model.tensors
    copied = model.tensors[embedding]
    load_model(str(model.copy(tmp_path / "m", tensors={**model.tensors, head: copied})), dtype=torch.float32)
    half = {**model.tensors, embedding: copied.to(torch.bfloat16), head: copied.to(torch.bfloat16).float()}
    load_model(str(model.copy(tmp_path / "m", tensors=half)), dtype=torch.float32)
    moved = {(head if name == embedding else name): tensor for name, tensor in model.tensors.items()}
    load_model(str(model.copy(tmp_path / "m", tensors=moved)), dtype=torch.float32)
    other = copied.clone()
    other[-1, -1] += 1
    line = refusal(model.copy(tmp_path / "m", tensors={**model.tensors, head: other}))
    assert f"ties {head} to " in line
    assert "set tie_word_embeddings to false" in line


MASK = torch.ones(1, 1, 64, 64)
IGNORED: dict[str, tuple[str, dict[str, torch.Tensor]]] = {
    "llama: positions of each layer": (
        "llama", {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(2) for i in range(2)},
    ),
    "gpt2: masks": ("gpt2", {f"transformer.h.{i}.attn.bias": MASK for i in range(2)}),
    "gpt2: minus infinity": ("gpt2", {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}),
    "gpt-neox: masks and minus infinity": (
        "gpt-neox",
        {f"gpt_neox.layers.{i}.attention.{name}": MASK.bool() for i in range(2) for name in ("bias", "masked_bias")},
    ),
    "gpt-j: masks": ("gpt-j", {f"transformer.h.{i}.attn.bias": MASK.bool() for i in range(2)}),
    "gpt-neo: masks and minus infinity": (
        "gpt-neo",
        {
            **{f"transformer.h.{i}.attn.attention.bias": MASK for i in range(2)},
            **{f"transformer.h.{i}.attn.attention.masked_bias": torch.tensor(-1e9) for i in range(2)},
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IGNORED)
def test_what_a_model_computes_by_itself_may_be_in_its_file(
    name: str, model_of_kind: Callable[[str], Model], tmp_path: Path
) -> None:
    kind, constants = IGNORED[name]
    model = model_of_kind(kind)
    plain, loaded = (
        load_model(str(model.copy(tmp_path / name, tensors=tensors)), dtype=torch.float32).state_dict()
        for name, tensors in (("plain", model.tensors), ("more", {**model.tensors, **constants}))
    )
    assert plain.keys() == loaded.keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in plain.items())


def test_a_bias_named_like_an_old_mask_is_refused(model_of_kind: Callable[[str], Model], tmp_path: Path) -> None:
    model = model_of_kind("gpt-j")
    added = {"transformer.h.0.attn.bias": torch.ones(16)}
    assert "transformer.h.0.attn.bias" in refusal(model.copy(tmp_path / "m", tensors={**model.tensors, **added}))


@pytest.mark.parametrize(("kind", "prefix"), [("gpt2", "transformer."), ("llama that ties", "model.")])
def test_a_base_model_without_the_prefix_loads_as_on_the_hub(
    kind: str, prefix: str, model_of_kind: Callable[[str], Model], tmp_path: Path
) -> None:
    model = model_of_kind(kind)
    bare = {name.removeprefix(prefix): tensor for name, tensor in model.tensors.items()}
    assert bare.keys() != model.tensors.keys()
    loaded = load_model(str(model.copy(tmp_path / "m", tensors=bare)), dtype=torch.float32)
    for name, tensor in model.tensors.items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize(("kind", "prefix"), [("gpt2", "transformer."), ("llama", "model.")])
def test_two_tensors_that_are_read_as_one_parameter_are_refused(
    kind: str, prefix: str, model_of_kind: Callable[[str], Model], tmp_path: Path
) -> None:
    model = model_of_kind(kind)
    name = next(name for name in model.tensors if name.startswith(prefix))
    twice = {**model.tensors, name.removeprefix(prefix): model.tensors[name] + 1}
    assert f"are both read as {name}" in refusal(model.copy(tmp_path / "m", tensors=twice))


@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe"])
def test_an_expert_that_is_missing_renumbered_or_too_many_is_refused(
    kind: str, model_of_kind: Callable[[str], Model], tmp_path: Path
) -> None:
    model = model_of_kind(kind)
    for name in [name for name in model.tensors if ".1." in name and ".experts." in name]:
        number = re.search(r"experts\.(\d+)\.", name)
        assert number is not None
        left = {key: tensor for key, tensor in model.tensors.items() if key != name}
        refusal(model.copy(tmp_path / "m", tensors=left))
        for other in (7, 30):
            new = name.replace(number.group(), f"experts.{other}.")
            refusal(model.copy(tmp_path / "m", tensors={**left, new: model.tensors[name]}))
            refusal(model.copy(tmp_path / "m", tensors={**model.tensors, new: model.tensors[name]}))


def sharded(model: Model, folder: Path) -> Path:
    """The model in two files with an index."""
    model.copy(folder)
    (folder / WEIGHTS).unlink()
    names = sorted(model.tensors)
    places = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(places.values())):
        save_file({n: model.tensors[n] for n in names if places[n] == file}, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return folder


def test_a_model_in_several_files_loads_and_what_no_index_names_is_not_read(
    model_of_kind: Callable[[str], Model], tmp_path: Path
) -> None:
    model = model_of_kind("llama")
    folder = sharded(model, tmp_path / "m")
    save_file({"tok_embeddings.weight": torch.ones(2)}, folder / "consolidated.safetensors")
    loaded = load_model(str(folder), dtype=torch.float32)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.tensors.items())


def test_files_that_contradict_their_index_are_refused(model_of_kind: Callable[[str], Model], tmp_path: Path) -> None:
    model = model_of_kind("llama")
    folder = sharded(model, tmp_path / "m")
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    names = sorted(load_file(folder / second))
    save_file({**load_file(folder / first), names[0]: torch.ones(1)}, folder / first, {"format": "pt"})
    assert f"holds the tensor {names[0]} twice" in refusal(folder)
    folder = sharded(model, tmp_path / "m")
    save_file({n: model.tensors[n] for n in names[1:]}, folder / second, {"format": "pt"})
    assert names[0] in refusal(folder)
    folder = sharded(model, tmp_path / "m")
    (folder / second).unlink()
    assert f"1 of the 2 weight files that {INDEX} names are not in" in refusal(folder)
    folder = sharded(model, tmp_path / "m")
    save_file(model.tensors, folder / WEIGHTS, {"format": "pt"})
    assert "has its weights twice" in refusal(folder)
    folder = sharded(model, tmp_path / "m")
    (folder / INDEX).write_text(json.dumps({"metadata": {}}))
    assert "has no weight_map" in refusal(folder)
    folder = sharded(model, tmp_path / "m")
    (folder / INDEX).unlink()
    assert f"neither {WEIGHTS} nor {INDEX}" in refusal(folder)


def test_an_index_of_the_single_file_is_fine(model_of_kind: Callable[[str], Model], tmp_path: Path) -> None:
    model = model_of_kind("llama")
    folder = model.copy(tmp_path / "m")
    places = dict.fromkeys(model.tensors, WEIGHTS)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    loaded = load_model(str(folder), dtype=torch.float32)
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in model.tensors.items())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_weight_file_that_is_cut_off_is_refused_by_its_name(
    share: float, model_of_kind: Callable[[str], Model], tmp_path: Path
) -> None:
    folder = model_of_kind("llama").copy(tmp_path / "m")
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(share * len(content))])
    assert f"{folder / WEIGHTS} is not a complete safetensors file" in refusal(folder)


CAUSES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], dict[str, Any], str]] = {
    "inside PEFT": (lambda t: {f"base_model.model.{n}": v for n, v in t.items()}, {}, r"merge it with peft"),
    "an adapter in it": (
        lambda t: {**t, "model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 2)}, {}, r"merge it with peft"
    ),
    "inside DataParallel": (lambda t: {f"module.{n}": v for n, v in t.items()}, {}, r"begins with 'module\.'"),
    "quantised": (lambda t: {**t, "model.layers.0.mlp.up_proj.qweight": torch.ones(2)}, {}, r"weights are quantised"),
    "no head": (lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"}, {}, r"tie_word_embeddings to true"),
    "more layers": (dict, {"num_hidden_layers": 1}, r"has more layers than config\.json"),
    "fewer layers": (dict, {"num_hidden_layers": 3}, r"has fewer layers than config\.json"),
    "a number": (dict, {"intermediate_size": 23}, r"\[24, 16\] in the file, \[23, 16\] by config\.json.*A number in"),
    "one tensor": (lambda t: {n: v for n, v in t.items() if n != "model.norm.weight"}, {}, r"\(model\.norm\.weight\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CAUSES)
def test_the_line_names_the_likely_cause(name: str, model_of_kind: Callable[[str], Model], tmp_path: Path) -> None:
    change, config, cause = CAUSES[name]
    model = model_of_kind("llama")
    assert re.search(cause, refusal(model.copy(tmp_path / "m", tensors=change(dict(model.tensors)), **config)))


def test_the_engines_and_the_trainer_load_models_the_same_way(
    model_of_kind: Callable[[str], Model], tmp_path: Path
) -> None:
    model = model_of_kind("llama")
    left = {name: tensor for name, tensor in model.tensors.items() if name != "model.norm.weight"}
    folder = model.copy(tmp_path / "m", tensors=left)
    ref = ModelRef(path=str(folder))
    wanted = r"1 tensor missing \(model\.norm\.weight\)"
    with pytest.raises(ModelError, match=wanted):
        LocalEngine(ref, LocalSettings(dtype="float32", device="cpu", threads=1, slots=1))
    with pytest.raises(ModelError, match=wanted):
        load_float32(str(folder))
    with pytest.raises(ModelError, match=wanted):
        check_model(str(folder))
    for name, where in (("openai", {"engine.url": "http://127.0.0.1:1"}), ("vllm", {})):
        config = config_from_values({**LEAST, "engine.name": name, "compute.device": "cpu", **where})
        resolved = resolve(config, resolve_model("builtin:adder"), None)
        opening = resolved.opening((), trust_remote_code=False)
        with pytest.raises(ModelError, match=wanted):
            resolved.engine.opener(opening)(ref)

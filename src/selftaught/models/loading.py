"""Load a model folder: the only place that does, for generating and for training.

`from_pretrained` makes up what a file lacks and drops what it does not know. So the names and shapes of the tensors
are first compared with an empty model of the config, without reading a weight, and a difference is refused.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key, revert_weight_conversion

from selftaught.models.adapters import adapters_in, base_folder
from selftaught.models.configuration import config_of, empty_model
from selftaught.models.folder import check_folder, incomplete, weight_files
from selftaught.models.merging import check_adapter, merge
from selftaught.models.misfits import Misfits, misfit_text, natural
from selftaught.records.errors import ModelError, one_line

FLOATS = {"F64", "F32", "F16", "BF16"}
"""The number types of weights, as safetensors names them; any other is a quantised one."""
OLD_CONSTANTS = {
    model_type: re.compile(r"\.attn\.(attention\.)?(bias|masked_bias|causal_mask)$")
    for model_type in ("gpt2", "gpt_neo", "gptj", "codegen")
}
"""Model type -> names of the causal mask and of minus infinity: tensors of older files that no model class has."""
ROWS_COMPARED = 1024
"""At a time, of two large tensors."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a file, of which only the header is read."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def load_model(path: str, *, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """The model of a folder, every weight of it from the folder's files; adapters are merged into their base, on a CPU
    and without a second copy of it. Raises ModelError if that cannot be."""
    base, constants = _checked(Path(path), trust_remote_code)
    with _explained(base):
        model, info = AutoModelForCausalLM.from_pretrained(
            base, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True, output_loading_info=True
        )
    _refuse_misfits(base, model, {**info, "unexpected_keys": set(info["unexpected_keys"]) - constants})
    for adapter in reversed(list(adapters_in(Path(path)))):
        merge(adapter, model)
    return model


def load_in_4bit(path: str, *, compute: torch.dtype, trust_remote_code: bool = False) -> Any:
    """The model of a folder on a GPU, with its linear layers in 4 bits, but for the output layer (NF4; Dettmers et al.
    2023, arXiv 2305.14314); they are multiplied as `compute`. Raises ModelError for adapters, which are no files of it.
    """
    base, _ = _checked(Path(path), trust_remote_code)
    if base != path:
        raise ModelError(
            f"model {path} holds adapters, and training.frozen_4bit needs a complete model; merge them, or leave it out"
        )
    with _explained(base):
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
        return AutoModelForCausalLM.from_pretrained(
            base,
            dtype=compute,
            quantization_config=quantisation,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )


def check_model(path: str, *, trust_remote_code: bool = False) -> None:
    """Raise ModelError if the tensors of a model folder are not those of its config, or adapters not those of their
    base; no weight is read for it."""
    _checked(Path(path), trust_remote_code)


def _checked(folder: Path, trust_remote_code: bool) -> tuple[str, frozenset[str]]:
    """The folder of the complete weights, checked, and the names of its tensors that are no weights, but constants that
    the model computes by itself."""
    adapters = list(adapters_in(folder))
    path = str(base_folder(folder))
    check_folder(Path(path), named=path)
    tensors = _tensors_in(weight_files(Path(path), named=path), path)
    config = config_of(path, trust_remote_code=trust_remote_code)
    empty = empty_model(path, config, trust_remote_code=trust_remote_code)
    sources, elsewhere = _sources(empty, tensors)
    _refuse_unclear_sources(path, sources, tensors)
    constants = _constants(empty, tensors)
    with _explained(path):
        model, info = type(empty).from_pretrained(
            None,
            config=config,
            state_dict={
                name: torch.empty(tensor.shape, device="meta")
                for name, tensor in tensors.items()
                if name not in constants
            },
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    in_files = {
        "missing_keys": _as_in_files(empty, info["missing_keys"]),
        "unexpected_keys": {elsewhere.get(name, name) for name in info["unexpected_keys"]},
        "mismatched_keys": {
            (next(iter(sources[name].get("", ())), name), *shapes) for name, *shapes in info["mismatched_keys"]
        },
    }
    _refuse_misfits(path, model, {**info, **in_files})
    _refuse_quantised(path, model, sources, tensors)
    _refuse_other_copies(path, model, sources, tensors)
    for adapter in adapters:
        check_adapter(adapter, empty)
    return path, constants


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # transformers, safetensors and torch raise errors of many kinds, and to the user all of them mean the same.
        raise ModelError(f"model {path} cannot be loaded: {type(error).__name__}: {one_line(error)}") from error


def _tensors_in(files: Iterable[Path], path: str) -> dict[str, Tensor]:
    """Name -> tensor, of all files."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                    if name in tensors:
                        raise ModelError(
                            f"model {path} holds the tensor {name} twice, in {tensors[name].file.name} and in "
                            f"{file.name}; save the model again"
                        )
                    view = opened.get_slice(name)
                    tensors[name] = Tensor(file, tuple(view.get_shape()), view.get_dtype())
        except (SafetensorError, OSError) as error:
            raise incomplete(file, error, named=path) from error
    return tensors


Sources = Mapping[str, Mapping[str, Sequence[str]]]
"""Parameter of the model -> pattern of the conversion that makes it, empty for none -> names in the files."""


def _sources(empty: Any, names: Iterable[str]) -> tuple[Sources, dict[str, str]]:
    """Which tensors each parameter is made from, by transformers' own rules; and for names that fit no parameter, the
    name that the rules turn them into -> the name."""
    parameters = empty.state_dict()
    rules = get_model_conversion_mapping(empty)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    elsewhere: dict[str, str] = {}
    sources: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(names, key=natural):
        target, pattern = rename_source_key(name, renamings, converters, empty.base_model_prefix, parameters)
        if target not in parameters and name in parameters:
            target, pattern = rename_source_key(name, [], [], empty.base_model_prefix, parameters)
        if target in parameters:
            sources[target][pattern or ""].append(name)
        else:
            elsewhere[target] = name
    return sources, elsewhere


def _as_in_files(empty: Any, names: Iterable[str]) -> set[str]:
    """Names of the model's parameters as its files would have them, where transformers renames or joins tensors."""
    state = empty.state_dict()
    return set(revert_weight_conversion(empty, {name: state[name] for name in names}))


def _refuse_unclear_sources(path: str, sources: Sources, tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelError for a parameter that two tensors belong to and for parts of one (experts) that are not numbered
    from 0 without a gap, since both would load in an arbitrary order; and for parts of unequal shape, for which
    transformers would fail without a name."""
    for target, by_pattern in sources.items():
        for pattern, names in by_pattern.items():
            if not pattern and len(names) > 1:
                raise ModelError(
                    f"model {path}: {names[0]} and {names[1]} are both read as {target}; save the model again, with "
                    "one of them"
                )
            shapes = Counter(tensors[name].shape for name in names)
            if len(shapes) > 1:
                usual = shapes.most_common(1)[0][0]
                other = next(name for name in names if tensors[name].shape != usual)
                raise ModelError(
                    f"model {path}: {other} is {list(tensors[other].shape)}, and the other parts of {target} are "
                    f"{list(usual)}; fetch or save the model again"
                )
        parts = {pattern: [_last_number(n) for n in names] for pattern, names in by_pattern.items() if len(names) > 1}
        number = max(map(len, parts.values()), default=0)
        for pattern, numbers in parts.items():
            if numbers != list(range(number)):
                last = by_pattern[pattern][-1]
                raise ModelError(
                    f"model {path}: the parts of {target} should be numbered from 0 to {number - 1}, and those named "
                    f"like {last} are {_ranges(numbers)}; fetch or save the model again"
                )


def _last_number(name: str) -> int:
    numbers = re.findall(r"(?<=\.)[0-9]+(?=\.)", name)
    return int(numbers[-1]) if numbers and numbers[-1] == str(int(numbers[-1])) else -1


def _ranges(numbers: Sequence[int]) -> str:
    """0, 1, 2, 5 -> "0-2, 5", the first few of them."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    first = ", ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in runs[:6])
    return first + (", …" if len(runs) > 6 else "")


def _constants(empty: Any, tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """Names of tensors in older files that the model computes by itself."""
    pattern = OLD_CONSTANTS.get(empty.config.model_type)
    if pattern is None:
        return frozenset()
    return frozenset(name for name, tensor in tensors.items() if pattern.search(name) and _is_mask(tensor.shape))


def _is_mask(shape: Sequence[int]) -> bool:
    """A single number, or a square of positions."""
    return shape in ((), (1,)) or (len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3])


def _refuse_misfits(path: str, model: Any, info: Mapping[str, Any]) -> None:
    misfits = Misfits(
        missing=tuple(sorted(info["missing_keys"], key=natural)),
        unexpected=tuple(sorted(info["unexpected_keys"], key=natural)),
        of_other_shape=tuple(
            (name, tuple(in_file), tuple(by_config))
            for name, in_file, by_config in sorted(info["mismatched_keys"], key=lambda mismatch: natural(mismatch[0]))
        ),
    )
    if misfits.missing or misfits.unexpected or misfits.of_other_shape:
        tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
        raise ModelError(f"model {path}: {misfit_text(misfits, is_tied=tied)}")


def _refuse_quantised(path: str, model: Any, sources: Sources, tensors: Mapping[str, Tensor]) -> None:
    for target, parameter in model.named_parameters():
        for name in (name for names in sources.get(target, {}).values() for name in names):
            if parameter.is_floating_point() and tensors[name].dtype not in FLOATS:
                raise ModelError(
                    f"model {path}: {name} is stored as {tensors[name].dtype}, a quantised number type, with nothing "
                    "that says how to read it; give the model in bfloat16, float16 or float32"
                )


def _refuse_other_copies(path: str, model: Any, sources: Sources, tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelError for a copy of a tied weight with other values: it contradicts the config, and programs differ in
    which of the two they use. An equal copy is harmless."""
    for target, source in model.all_tied_weights_keys.items():
        pair = [name for key in (target, source) for name in sources.get(key, {}).get("", ())]
        if len(pair) == 2 and not _are_equal(tensors[pair[0]], tensors[pair[1]], *pair):
            raise ModelError(
                f"model {path}: its config.json ties {target} to {source} (tie_word_embeddings), but its files hold "
                f"both ({pair[0]}, {pair[1]}) with different values; set tie_word_embeddings to false in config.json "
                "if the model was trained with an output layer of its own, else remove the copy"
            )


def _are_equal(a: Tensor, b: Tensor, name_a: str, name_b: str) -> bool:
    """Whether two tensors are equal, compared in pieces because an embedding may have gigabytes."""
    if a.shape != b.shape or not a.shape:
        return False
    with safe_open(a.file, framework="pt") as file_a, safe_open(b.file, framework="pt") as file_b:
        pair = file_a.get_slice(name_a), file_b.get_slice(name_b)
        pieces = (slice(start, start + ROWS_COMPARED) for start in range(0, a.shape[0], ROWS_COMPARED))
        return all(torch.equal(*(view[rows].double() for view in pair)) for rows in pieces)

"""A config or a tokenizer that transformers refuses with a page of text is refused here with one short line."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from selftaught.models.loading import check_model
from selftaught.models.tokens import Codec
from selftaught.records.errors import ModelError, SelftaughtError
from test_model_folder import set_in_config

LONGEST = 600
"""Characters of a line, the paths in it included; those of transformers have thousands."""


def drop_from_config(*keys: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in keys}))

    return change


OWN_CODE = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
PICTURES = {"model_type": "gemma3", "text_config": {"hidden_size": 16}, "vision_config": {"hidden_size": 16}}
CONFIGS: dict[str, tuple[Callable[[Path], object], str]] = {
    **{
        name: (set_in_config(model_type=name), rf"of the type '{name}' .* encoder with a decoder; give one")
        for name in ("t5", "mt5", "m2m_100", "switch_transformers")
    },
    **{
        name: (set_in_config(model_type=name), rf"of the type '{name}' .*continues text \(a causal language model\); g")
        for name in ("vit", "clip", "distilbert", "deberta-v2", "wav2vec2")
    },
    **{
        name: (
            set_in_config(model_type=name, architectures=[]),
            rf"of the type '{name}' .* is an encoder: its",
        )
        for name in ("bert", "roberta", "xlm-roberta", "electra")
    },
    **{
        name: (set_in_config(model_type=name), rf"of the type '{name}' .* encoder with a decoder; give one")
        for name in ("bart", "mbart", "whisper")
    },
    "a model that reads images": (set_in_config(**PICTURES), r"of the type 'gemma3' .*reads images besides text"),
    "a classifier": (
        set_in_config(architectures=["LlamaForSequenceClassification"]),
        r"was saved as a LlamaForSequenceClassification .* continues text",
    ),
    "a type of the future": (set_in_config(model_type="llama9"), r"'llama9', which transformers .* install a newer"),
    "a type that is none": (set_in_config(model_type=["x"]), r"model_type .*does not know"),
    "no type": (drop_from_config("model_type"), r"no model_type, which transformers"),
    "code of its own": (set_in_config(**OWN_CODE), r"'mine', .* set model\.trust_remote_code = true if you trust it"),
    "a number as text": (set_in_config(hidden_size="64"), r"config\.json .*hidden_size"),
    "a list as number": (set_in_config(num_hidden_layers=[3]), r"config\.json .*num_hidden_layers"),
    "padding beyond the vocabulary": (set_in_config(pad_token_id=99), r"look at .*pad_token_id = 99"),
    "padding below it": (set_in_config(pad_token_id=-40), r"look at .*pad_token_id = -40"),
    "no heads": (set_in_config(num_attention_heads=0), r"look at .*num_attention_heads = 0"),
    "no width": (set_in_config(hidden_size=-8), r"look at .*hidden_size = -8"),
}


MODEL_ONLY = ("padding beyond the vocabulary", "padding below it", "no width")
"""Their config can be read."""


@pytest.fixture
def folder(adder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adder, tmp_path / "model"))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_no_model_fits_is_one_short_line_with_a_next_step(name: str, folder: Path) -> None:
    change, message = CONFIGS[name]
    change(folder)
    with pytest.raises(ModelError) as caught:
        check_model(str(folder))
    line = str(caught.value)
    assert re.search(message, line), line
    assert len(line.replace(str(folder), "")) < LONGEST
    assert "\n" not in line


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in MODEL_ONLY])
def test_the_tokenizer_of_such_a_model_says_the_same(name: str, folder: Path) -> None:
    CONFIGS[name][0](folder)
    with pytest.raises(ModelError) as of_model:
        check_model(str(folder))
    with pytest.raises(ModelError, match=f"^{re.escape(str(of_model.value))}$"):
        Codec(str(folder))


def damaged(name: str, damage: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(damage((folder / name).read_bytes()))


def a_tokenizer_with_code(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    (folder / "mine.py").write_text("class Mine: ...")


TOKENIZERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], r"not there: .* has no tokenizer\.json, nor"),
    "settings only": (lambda f: (f / "tokenizer.json").unlink(), r"not there: .* has no tokenizer\.json, nor"),
    "cut off": (damaged("tokenizer.json", lambda b: b[: len(b) // 2]), r"tokenizer\.json is not JSON .*fetch"),
    "empty": (damaged("tokenizer.json", lambda b: b""), r"tokenizer\.json is empty; fetch"),
    "not UTF-8": (damaged("tokenizer.json", lambda b: b"\xff" + b), r"tokenizer\.json is not JSON .*utf-8"),
    "a byte order mark": (damaged("tokenizer.json", lambda b: b"\xef\xbb\xbf" + b), r"tokenizer\.json begins with a"),
    "another object": (damaged("tokenizer.json", lambda b: b"{}"), r"from .*tokenizer\.json .*fetch the model's tok"),
    "code of its own": (a_tokenizer_with_code, r"code of its own; set model\.trust_remote_code = true if you trust"),
    "a list": (damaged("tokenizer.json", lambda b: b"[]"), r"tokenizer\.json holds no JSON object; fetch"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_cannot_be_loaded_names_the_file_and_the_next_step(name: str, folder: Path) -> None:
    change, message = TOKENIZERS[name]
    change(folder)
    with pytest.raises(SelftaughtError) as caught:
        Codec(str(folder))
    line = str(caught.value)
    assert re.search(message, line), line
    assert len(line.replace(str(folder), "")) < LONGEST
    assert "\n" not in line

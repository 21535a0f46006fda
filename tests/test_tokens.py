"""Text and token ids: one begin token, one end token, and the same ids for generation and training."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from builders import task_named
from selftaught.models.tokens import Codec, cut_at_stop
from selftaught.models.weights import resolve_model
from selftaught.prompts.rendering import render_completion, render_prompt
from selftaught.records.errors import ModelError, RefusedError

TASK = task_named("arithmetic")
CODEC = Codec(resolve_model("builtin:adder").path)


@given(st.sampled_from([*TASK.dev, *TASK.extrapolation]), st.booleans(), st.integers(0, 3))
def test_the_shipped_tokenizer_is_exact_on_prompts_and_scratchpads(problem: object, hint: bool, shots: int) -> None:
    prompt = render_prompt(TASK.prompt_format, problem, hint=hint, few_shot=TASK.few_shot[:shots])  # type: ignore[arg-type]
    completion = render_completion(TASK.prompt_format, problem)  # type: ignore[arg-type]
    ids = CODEC.encode_prompt(prompt)
    assert CODEC.decode(ids) == prompt
    assert CODEC.decode(CODEC.encode_completion(prompt, completion), after=ids) == completion


@given(st.lists(st.integers(3, 20), min_size=1, max_size=40), st.integers(1, 39))
def test_what_is_kept_before_a_stop_string_spells_the_text_before_it(ids: list[int], place: int) -> None:
    text = CODEC.decode(ids)
    stop = text[place : place + 2]
    cut, kept, was_cut = CODEC.cut(ids, (stop,) if stop else (), after=())
    assert stop not in cut or not stop
    assert text.startswith(cut)
    assert was_cut == bool(stop)
    if CODEC.decode(kept) == cut:
        assert ids[: len(kept)] == kept or was_cut


def test_a_five_digit_example_has_about_a_hundred_tokens_and_the_model_is_small() -> None:
    problem = next(p for p in TASK.dev if p.class_name == "5")
    prompt = render_prompt(TASK.prompt_format, problem, hint=False)
    completion = render_completion(TASK.prompt_format, problem)
    number = len(CODEC.encode_prompt(prompt)) + len(CODEC.encode_completion(prompt, completion))
    assert 80 <= number <= 120
    folder = Path(resolve_model("builtin:adder").path)
    assert sum(p.stat().st_size for p in folder.glob("*.safetensors")) < 3_000_000


def copy_of(adder: Path, folder: Path) -> Path:
    shutil.copytree(adder, folder)
    return folder


@pytest.mark.parametrize(("named", "ends"), [(1, {1}), (5, {1, 5}), ([5, 1], {1, 5}), ([], {1}), (None, {1})])
def test_all_ends_stop_a_completion_and_the_tokenizers_own_is_taught(
    named: object, ends: set[int], adder: Path, tmp_path: Path
) -> None:
    folder = copy_of(adder, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": named}))
    codec = Codec(str(folder))
    assert (codec.end_id, codec.end_ids) == (1, ends)


def test_a_model_whose_tokenizer_names_no_end_has_that_of_generation_config_or_is_refused(
    adder: Path, tmp_path: Path
) -> None:
    folder = copy_of(adder, tmp_path / "model")
    values = json.loads((folder / "tokenizer_config.json").read_text())
    del values["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    assert Codec(str(folder)).end_id == 1
    (folder / "generation_config.json").unlink()
    with pytest.raises(RefusedError, match="names no end token, neither its tokenizer"):
        Codec(str(folder))


def with_begin_token(adder: Path, folder: Path) -> Codec:
    """The shipped tokenizer, changed to put a begin token before every text."""
    tokenizer = AutoTokenizer.from_pretrained(adder)
    tokenizer.add_special_tokens({"bos_token": "<begin>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<begin> $A", special_tokens=[("<begin>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    return Codec(str(folder))


def test_a_begin_token_stands_once_and_only_in_the_prompt(adder: Path, tmp_path: Path) -> None:
    codec = with_begin_token(adder, tmp_path)
    begin = codec.tokenizer.bos_token_id
    prompt = render_prompt(TASK.prompt_format, TASK.dev[0], hint=False)
    completion = render_completion(TASK.prompt_format, TASK.dev[0])
    assert codec.encode_prompt(prompt).count(begin) == 1
    assert begin not in codec.encode_completion(prompt, completion)


def test_two_begin_tokens_are_refused(adder: Path, tmp_path: Path) -> None:
    codec = with_begin_token(adder, tmp_path)
    with pytest.raises(RefusedError, match="two begin tokens"):
        codec.encode_prompt("<begin>Input:\n1 + 1\nTarget:\n")


def test_a_folder_without_a_tokenizer_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"its tokenizer is not there: .* has no tokenizer\.json"):
        Codec(str(tmp_path))


def with_token(adder: Path, folder: Path, text: str, number: int, *, special: bool, template: bool = False) -> Path:
    """The shipped model, whose tokenizer has one more token."""
    path = copy_of(adder, folder) / "tokenizer.json"
    values = json.loads(path.read_text())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    values["added_tokens"].append({"id": number, "content": text, "special": special, **plain})
    if template:
        values["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]}},
        }
    path.write_text(json.dumps(values))
    return folder


def refusal_of(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        Codec(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("number", [21, 25, 4_000_000])
def test_a_token_beyond_the_embedding_is_refused_by_its_name(number: int, adder: Path, tmp_path: Path) -> None:
    path = copy_of(adder, tmp_path / "vocabulary") / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["Goal:"] = number
    path.write_text(json.dumps(values))
    assert f"gives 'Goal:' the id {number}, but the model has rows for 21 tokens" in refusal_of(path.parent)


def test_an_added_token_beyond_the_embedding_is_refused_by_its_name(adder: Path, tmp_path: Path) -> None:
    line = refusal_of(with_token(adder, tmp_path / "added", "<think>", 21, special=False))
    assert "gives '<think>' the id 21, but" in line


def test_what_the_tokenizer_puts_before_every_text_must_have_a_row(adder: Path, tmp_path: Path) -> None:
    line = refusal_of(with_token(adder, tmp_path / "begin", "<begin>", 21, special=True, template=True))
    assert "what the tokenizer puts around every text holds the token '<begin>' of id 21" in line


def test_a_special_token_beyond_the_embedding_is_refused_in_the_text_that_holds_it(adder: Path, tmp_path: Path) -> None:
    """Some models come with one that they never use, such as an image's place in a model without images."""
    codec = Codec(str(with_token(adder, tmp_path / "special", "<image>", 21, special=True)))
    assert codec.encode_prompt("12") == CODEC.encode_prompt("12")
    for encode in (codec.encode_prompt, lambda text: codec.encode_completion("1", text)):
        with pytest.raises(ModelError, match=r"the text that ends '.*2<image>' holds the token '<image>' of id 21"):
            encode("12<image>")


def test_an_end_token_beyond_the_embedding_is_refused(adder: Path, tmp_path: Path) -> None:
    folder = copy_of(adder, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 21]}))
    assert "generation_config.json names the end token 21, but the model has rows for 21 tokens" in refusal_of(folder)


def test_a_tokenizer_with_fewer_tokens_than_the_embedding_has_rows_is_fine(adder: Path, tmp_path: Path) -> None:
    path = copy_of(adder, tmp_path / "model") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 64}))
    assert Codec(str(path.parent)).encode_prompt("12") == CODEC.encode_prompt("12")
    (path.parent / "tokenizer.json").write_text('{"version": "1.0"}')
    assert "its tokenizer cannot be loaded" in refusal_of(path.parent)


def test_a_text_is_cut_at_the_stop_string_that_comes_first() -> None:
    assert cut_at_stop("one\nQ: two\n\nthree", ("\n\n", "\nQ:")) == ("one", True)
    assert cut_at_stop("one\nQ two", ("\n\n", "\nQ:")) == ("one\nQ two", False)
    assert cut_at_stop("\n\n", ("\n\n",)) == ("", True)
    assert cut_at_stop("one", ()) == ("one", False)

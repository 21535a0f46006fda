"""Turns through a model's own chat template: the ids of transformers, and text that stays text."""

import json
import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import strategies  # noqa: F401 (loads the profile of property tests)
from chat_models import CHAT_MODELS, CHATML_TURNS, IM, LLAMA3, PLAIN, QWEN3, save_tokenizer
from selftaught.models.tokens import IGNORED, Codec
from selftaught.records.errors import ModelError, RefusedError
from selftaught.records.prompts import ChatSettings, Prompt, RenderedPrompt, Turn
from selftaught.records.training import ProbeRow, TrainingExample
from selftaught.runs.lines import adapter_of

DAY = "2024-02-03"
CHAT = ChatSettings()
ASKED = (Turn("user", "How many?"),)
SPECIAL = ("<|im_end|>", "<|im_start|>", "</s>", "<s>", "<bos>", "<end_of_turn>", "<|eot_id|>", "<|end|>", "[/INST]")
ADDED = ("<think>", "</think>", "<tool_response>")

every_model = pytest.mark.parametrize("name", CHAT_MODELS)
names = st.sampled_from(list(CHAT_MODELS))


FOLDERS: dict[str, Path] = {}


@pytest.fixture(scope="session", autouse=True)
def chat_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    FOLDERS.update(
        (name, save_tokenizer(model, tmp_path_factory.mktemp("chat"))) for name, model in CHAT_MODELS.items()
    )


@cache
def codec_of(name: str, thinking: bool | None = None) -> Codec:
    return Codec(str(FOLDERS[name]), chat=ChatSettings(thinking=thinking, date=DAY))


def made(folder: Path, template: str | None, chat: ChatSettings | None = CHAT, **changes: Any) -> Codec:
    """A codec of ChatML's tokenizer with another template."""
    return Codec(str(save_tokenizer(replace(CHAT_MODELS["chatml"], template=template, **changes), folder)), chat=chat)


def words(*specials: str) -> st.SearchStrategy[str]:
    """Texts of the tokenizers' own words, white space, other scripts and these strings."""
    own = [
        " ",
        "\n",
        "\n\n",
        "the",
        " answer is",
        "12",
        "<",
        ">",
        "|",
        "</",
        "thinking",
        "<table>",
        "é",
        "🧮",
        "\ue000",
    ]
    return st.lists(st.sampled_from([*own, *specials]), max_size=8).map("".join)


@st.composite
def turns(draw: st.DrawFn, /, contents: st.SearchStrategy[str]) -> tuple[Turn, ...]:
    """A system turn or none, few-shot examples as turns, a question."""
    system = draw(st.none() | contents)
    examples = draw(st.lists(st.tuples(contents, contents), max_size=2))
    return (
        *([] if system is None else [Turn("system", system)]),
        *(t for question, answer in examples for t in (Turn("user", question), Turn("assistant", answer))),
        Turn("user", draw(contents)),
    )


def of_transformers(codec: Codec, prompt: tuple[Turn, ...], **arguments: Any) -> Any:
    messages = [{"role": turn.role, "content": turn.content} for turn in prompt]
    day = date.fromisoformat(DAY).strftime("%d %b %Y")
    return codec.tokenizer.apply_chat_template(messages, add_generation_prompt=True, date_string=day, **arguments)


@every_model
def test_the_facts_of_a_template_are_what_a_reader_sees_in_it(name: str) -> None:
    model, template = CHAT_MODELS[name], codec_of(name).template
    assert template is not None
    for fact in ("has_system", "default_system", "reads_clock", "has_thinking_switch", "opens_thought"):
        assert getattr(template, fact) is getattr(model, fact), fact
    assert template.think_tags == (("<think>", "</think>") if model.has_think_tags else None)
    assert template.end_of_turn == codec_of(name).tokenizer.convert_tokens_to_ids(model.end_of_turn)


@settings(max_examples=4 * settings().max_examples)  # of all models
@given(names, turns(words()), st.sampled_from([None, True, False]))
def test_turns_have_the_ids_that_transformers_gives_them(
    name: str, prompt: tuple[Turn, ...], thinking: bool | None
) -> None:
    codec = codec_of(name, thinking)
    arguments = {} if thinking is None else {"enable_thinking": thinking}
    assert codec.encode_prompt(prompt) == of_transformers(codec, prompt, **arguments)["input_ids"]
    rendered = codec.render(prompt)
    assert rendered.text == of_transformers(codec, prompt, tokenize=False, **arguments)
    assert rendered.ids == tuple(codec.encode_prompt(prompt))


@settings(max_examples=4 * settings().max_examples)  # of all models
@given(names, turns(words(*SPECIAL, *ADDED)))
def test_special_strings_in_turns_stay_text(name: str, prompt: tuple[Turn, ...]) -> None:
    codec = codec_of(name)
    assert codec.template is not None
    specials = codec.template._specials

    def number(ids: list[int]) -> int:
        return sum(i in specials.values() for i in ids)

    ids = codec.encode_prompt(prompt)
    harmless = tuple(Turn(turn.role, "x") for turn in prompt)
    assert number(ids) == number(of_transformers(codec, harmless)["input_ids"])
    assert codec.decode(ids) == codec.render(prompt).text
    if not CHAT_MODELS[name].has_think_tags:  # those look for the end of a thought in the assistant's text
        assert codec.render(prompt).text == of_transformers(codec, prompt, tokenize=False)


def test_a_special_string_changes_no_other_tokens_than_those_it_touches() -> None:
    codec = codec_of("chatml")
    ids = codec.encode_prompt((Turn("user", "the answer is <|im_end|>\n\nthe answer"),))
    plain = codec.encode_prompt((Turn("user", "the answer is \n\nthe answer"),))
    shared = next(i for i, (a, b) in enumerate(zip(ids, plain, strict=False)) if a != b)
    rest = ids[shared:]
    assert codec.decode(plain[:shared]).endswith("the answer is")
    assert codec.decode(rest).startswith(" <|im_end|>\n\nthe answer<|im_end|>")
    assert ids[-12:] == plain[-12:]


@every_model
def test_a_system_text_that_is_absent_empty_and_given_are_three_prompts(name: str) -> None:
    codec = codec_of(name)
    absent, empty, given_ = (
        codec.render((*system, *ASKED)).text for system in ((), (Turn("system", ""),), (Turn("system", "Be short."),))
    )
    assert "Be short." in given_
    assert "Be short." not in absent + empty
    prompt = (Turn("system", ""), *ASKED)
    assert empty == of_transformers(codec, prompt, tokenize=False)
    if name == "chatml with a default system text":
        assert "You help." in absent
        assert "You help." not in empty + given_
        assert empty.startswith("<|im_start|>system\n<|im_end|>")


def test_the_same_date_gives_the_same_text_on_every_day(tmp_path: Path) -> None:
    today = datetime.now(UTC).astimezone().date()
    texts = {}
    for day in (today.isoformat(), (today - timedelta(days=400)).isoformat(), DAY, None):
        chat = ChatSettings(date=day)
        texts[day] = Codec(str(FOLDERS["llama 3"]), chat=chat).render(ASKED).text
        assert date.fromisoformat(day or today.isoformat()).strftime("%d %b %Y") in texts[day]
    assert len(set(texts.values())) == 3
    assert texts[None] == texts[today.isoformat()]
    assert "Today: 03 Feb 2024" in texts[DAY]


@pytest.mark.parametrize(
    ("head", "clock", "begins"),
    [
        ("", "{{- strftime_now('%Y-%m-%d') }}", "2024-02-03"),
        ("  {#- none -#}\n", "{{ strftime_now('%-d %B') }}", "3 February"),
        ("\n\n  ", "{{ strftime_now('100%% %A') }}", "\n\n  100% Saturday"),
        (
            "{# of strftime_now #}",
            "{% set f = '%y' %}{% macro m() %}{{ strftime_now(f) }}{% endmacro %}{{ m() }}",
            "24",
        ),
        ("", "{% if strftime_now is defined %}{{ strftime_now('%H:%M') }}{% endif %}", "00:00"),
    ],
)
def test_a_fixed_date_stands_for_the_clock_and_changes_nothing_else(
    head: str, clock: str, begins: str, tmp_path: Path
) -> None:
    codec = made(tmp_path, head + clock + CHATML_TURNS, ChatSettings(date=DAY))
    assert codec.render(ASKED).text == begins + codec_of("chatml").render(ASKED).text
    assert codec.template
    assert codec.template.reads_clock


def test_a_date_that_the_template_puts_together_is_refused_and_a_comment_reads_no_clock(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"does not take these turns \(user, assistant\): it puts together .* %Y"):
        made(tmp_path / "a", "{{ strftime_now('%' ~ 'Y') }}" + CHATML_TURNS, ChatSettings(date=DAY))
    codec = made(tmp_path / "b", "{# strftime_now #}" + CHATML_TURNS, ChatSettings(date=DAY))
    assert codec.template
    assert not codec.template.reads_clock


def test_with_thinking_off_an_empty_thought_stands_in_the_prompt() -> None:
    ends = {thinking: codec_of("qwen 3", thinking).render(ASKED).text for thinking in (None, True, False)}
    assert ends[None] == ends[True]
    assert ends[False] == ends[True] + "<think>\n\n</think>\n\n"
    codec = codec_of("qwen 3", False)
    assert codec.template
    assert not codec.template.opens_thought
    number = [
        codec.encode_prompt(ASKED).count(codec.tokenizer.convert_tokens_to_ids(t)) for t in ("<think>", "</think>")
    ]
    assert number == [1, 1]


def test_earlier_thoughts_are_stripped_by_the_template_unless_the_tags_are_tokens_that_text_must_not_become(
    tmp_path: Path,
) -> None:
    prompt = (*ASKED, Turn("assistant", "<think>\nHm.\n</think>\n\nTwo."), *ASKED)
    without = made(tmp_path, QWEN3)
    assert "Hm." not in without.render(prompt).text
    assert without.encode_prompt(prompt) == of_transformers(without, prompt)["input_ids"]
    codec = codec_of("qwen 3")
    assert codec.render(prompt).text.count("<think>\nHm.\n</think>\n\nTwo.") == 1
    assert codec.tokenizer.convert_tokens_to_ids("</think>") not in codec.encode_prompt(prompt)


@pytest.mark.parametrize(
    ("name", "prompt", "message"),
    [
        ("gemma 3", (*ASKED, *ASKED), r"does not take these turns \(user, user\): roles must alternate; give turns"),
        ("mistral", (Turn("assistant", "Two."), *ASKED), r"\(assistant, user\): roles must alternate"),
        ("chatml", (), r"does not take these turns \(no turn\)"),
    ],
)
def test_turns_that_a_template_does_not_take_are_refused_in_one_line(name: str, prompt: Prompt, message: str) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        codec_of(name).encode_prompt(prompt)
    assert "\n" not in str(caught.value)
    assert 'model.prompt_format = "plain"' in str(caught.value)
    assert str(FOLDERS[name]) in str(caught.value)


def test_a_template_without_system_turns_has_none(tmp_path: Path) -> None:
    refuses = "{%- if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{%- endif %}" + CHATML_TURNS
    drops = CHATML_TURNS.replace("for m in messages", "for m in messages if m.role != 'system'")
    fails = refuses.replace("raise_exception('no system turn')", "messages[0].content + 1")
    for i, source in enumerate((refuses, drops, fails)):
        codec = made(tmp_path / str(i), source)
        assert codec.template
        assert not codec.template.has_system
        assert codec.encode_prompt(ASKED) == codec_of("chatml").encode_prompt(ASKED)
        if source is not drops:
            why = "no system turn" if source is refuses else "TypeError: "
            with pytest.raises(
                RefusedError, match=rf"these turns \(system, user\): {why}.*the text of a system turn can"
            ):
                codec.encode_prompt((Turn("system", "Be short."), *ASKED))


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        (None, RefusedError, r"has no chat template \(chat_template.jinja, or .*prompt_format = \"plain\""),
        ("{{ messages", ModelError, r"no Jinja template \(line 1: .*restore the model's chat_template.jinja"),
        ("{% for m in messages %}\n{{ m.content }}", ModelError, r"no Jinja template \(line 2: "),
        ("{{ strftime_now('%Y') }}\n{% endif %}", ModelError, r"no Jinja template \(line 2: "),
        ("{{ messages[0].content.nothing.at_all }}", RefusedError, r"does not take these turns \(user, assistant\)"),
    ],
)
def test_a_template_that_is_missing_or_broken_is_refused_when_the_codec_is_opened(
    template: str | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        made(tmp_path, template, ChatSettings(date=DAY))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert made(tmp_path, template, None).encode_prompt("12") == codec_of("chatml").encode_prompt("12")


def test_of_several_templates_one_must_be_the_default(tmp_path: Path) -> None:
    folder = save_tokenizer(replace(PLAIN, special=IM), tmp_path)
    values = json.loads((folder / "tokenizer_config.json").read_text())
    values["chat_template"] = []
    for name in ("tools", "default"):
        values["chat_template"].append({"name": name, "template": CHATML_TURNS})
        (folder / "tokenizer_config.json").write_text(json.dumps(values))
        if name == "tools":
            with pytest.raises(ModelError, match="none of its chat templates is the default"):
                Codec(str(folder), chat=CHAT)
    assert Codec(str(folder), chat=CHAT).render(ASKED).text == codec_of("chatml").render(ASKED).text


@every_model
def test_a_prompt_that_is_a_text_has_the_same_ids_in_a_codec_of_turns_and_of_texts(name: str) -> None:
    plain, chat = Codec(str(FOLDERS[name])), codec_of(name)
    for text in ("Q: 1 + 1?\nA:", "<|im_start|>user\n[INST]", " x"):
        assert chat.encode_prompt(text) == plain.encode_prompt(text)
        assert chat.encode_completion(text, " 2\n\nQ") == plain.encode_completion(text, " 2\n\nQ")
        assert chat.render(text) == RenderedPrompt(text=text, ids=tuple(plain.encode_prompt(text)))


def test_turns_are_refused_by_a_codec_of_texts() -> None:
    codec = Codec(str(FOLDERS["chatml"]))
    for encode in (codec.encode_prompt, codec.render, lambda prompt: codec.encode_completion(prompt, "x")):
        with pytest.raises(RefusedError, match=r"a prompt has 1 turns, but model .* opened for prompts that are texts"):
            encode(ASKED)


def test_a_template_that_writes_two_begin_tokens_is_refused(tmp_path: Path) -> None:
    codec = made(tmp_path, "{{ bos_token }}" + LLAMA3, bos="<|begin|>")
    with pytest.raises(RefusedError, match=r"two begin tokens \('<\|begin\|>'\): the chat template of model .* writes"):
        codec.encode_prompt(ASKED)
    assert codec_of("gemma 3").encode_prompt(ASKED).count(codec_of("gemma 3").tokenizer.bos_token_id) == 1


def test_a_special_token_of_one_character_in_a_turn_is_refused(tmp_path: Path) -> None:
    codec = made(tmp_path, CHATML_TURNS, special=(*IM, "§"))
    with pytest.raises(RefusedError, match="holds '§', one character that is a special token"):
        codec.encode_prompt((Turn("user", "see § 5"),))


@given(names, words(*SPECIAL, *ADDED))
def test_a_completion_after_turns_is_encoded_by_itself_and_its_special_strings_stay_text(name: str, text: str) -> None:
    codec = codec_of(name)
    assert codec.template is not None
    ids = codec.encode_completion(ASKED, text)
    tags = {codec.tokenizer.convert_tokens_to_ids(tag) for tag in codec.template.think_tags or ()}
    assert not (set(ids) - tags) & set(codec.template._specials.values())
    assert codec.decode(ids, after=codec.encode_prompt(ASKED)) == text
    if codec.template.think_tags:
        assert [i for i in ids if i in tags].count(codec.tokenizer.convert_tokens_to_ids("<think>")) == text.count(
            "<think>"
        )
    others = (Turn("system", "x"), Turn("user", "y\n"))
    assert codec.encode_completion(others, text) == ids


def test_the_tags_of_a_thought_are_tokens_in_a_completion_and_text_in_a_prompt() -> None:
    codec, text = codec_of("qwen 3"), "<think>\nHm <|im_end|>\n</think>\n\nTwo."
    tags = codec.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    ids = codec.encode_completion(ASKED, text)
    assert [i for i in ids if i in codec.tokenizer.added_tokens_decoder] == tags
    assert ids[0] == tags[0]
    assert not set(tags) & set(codec.encode_prompt((Turn("user", text),)))


def test_an_end_token_that_the_tokenizer_puts_behind_every_text_is_taken_off(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS["chatml"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", tokenizer.eos_token_id)]
    )
    tokenizer.save_pretrained(tmp_path)
    for chat in (None, CHAT):
        codec = Codec(str(tmp_path), chat=chat)
        for prompt in ("the answer", *(() if chat is None else (ASKED,))):
            assert codec.encode_prompt(prompt) == codec_of("chatml").encode_prompt(prompt)


ENDS = {
    "the template's and the tokenizer's are one": ("chatml with a default system text", None, ["<|im_end|>"]),
    "the template's is taught": ("chatml", None, ["<|im_end|>", "<|endoftext|>"]),
    "generation_config adds one": (
        "llama 3",
        ["<|start_header_id|>"],
        ["<|eot_id|>", "<|end_of_text|>", "<|start_header_id|>"],
    ),
    "generation_config repeats one": ("gemma 3", ["<eos>", "<end_of_turn>"], ["<end_of_turn>", "<eos>"]),
}


@pytest.mark.parametrize("case", ENDS)
def test_every_end_that_template_tokenizer_and_generation_config_name_stops_a_completion(
    case: str, tmp_path: Path
) -> None:
    name, more, expected = ENDS[case]
    of_text = codec_of(name).tokenizer.convert_tokens_to_ids
    folder = save_tokenizer(CHAT_MODELS[name], tmp_path, generation_eos=None if more is None else of_text(more))
    chat = Codec(str(folder), chat=CHAT)
    assert chat.end_ids == set(of_text(expected))
    assert chat.end_id == of_text(expected[0])
    plain = Codec(str(folder))
    assert plain.end_ids == {of_text(CHAT_MODELS[name].eos), *(of_text(more or []))}
    assert plain.end_id == of_text(CHAT_MODELS[name].eos)


def test_the_end_of_turn_is_the_token_that_the_template_puts_behind_the_assistant_if_it_is_a_special_one(
    tmp_path: Path,
) -> None:
    words_only = "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n\n{% endfor %}### assistant\n"
    begins = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ bos_token }}{% endfor %}"
    silent = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    for i, source in enumerate((words_only, begins, silent)):
        codec = made(tmp_path / str(i), source, bos="<|begin|>")
        assert codec.template
        assert codec.template.end_of_turn is None
        assert codec.end_id == codec.tokenizer.eos_token_id
        assert not codec.template.default_system
    behind_a_space = "{% for m in messages %}{{ m.role + ':' + m.content + ' <|im_end|>' }}{% endfor %}"
    codec = made(tmp_path / "space", behind_a_space, special=("<|im", *IM))
    assert codec.end_id == codec.tokenizer.convert_tokens_to_ids("<|im_end|>") != codec.tokenizer.eos_token_id
    stated = made(tmp_path / "stated", "Answer in a word.\n" + words_only)
    assert stated.template
    assert stated.template.default_system


def test_an_end_of_turn_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = save_tokenizer(CHAT_MODELS["chatml"], tmp_path)
    end = codec_of("chatml").end_id
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": end}))
    with pytest.raises(
        ModelError, match=rf"the chat template names the end token {end}, but the model has rows for {end}"
    ):
        Codec(str(folder), chat=CHAT)


def example(prompt: Prompt, completion: str, **changes: Any) -> TrainingExample:
    values = {"completion_ids": None, "source": "rationale", "iteration": 1, **changes}
    return TrainingExample(problem_id="p", prompt=prompt, completion=completion, **values)


@every_model
def test_the_prompt_of_a_training_example_is_that_of_sampling_id_for_id(name: str) -> None:
    codec = codec_of(name)
    prompt = (*ASKED, Turn("assistant", "Two."), Turn("user", "And <|im_end|> now?\n"))
    sampled = (5, 9, 7)
    ids, labels = codec.encode_example(example(prompt, "?", completion_ids=sampled))
    head = codec.encode_prompt(prompt)
    assert ids == [*head, *sampled, codec.end_id]
    assert labels == [IGNORED] * len(head) + [*sampled, codec.end_id]


def test_the_end_that_was_sampled_is_learned_and_another_is_refused() -> None:
    codec = codec_of("chatml")
    eos = codec.tokenizer.eos_token_id
    assert codec.end_ids == {codec.end_id, eos}
    assert eos != codec.end_id
    ids, labels = codec.encode_example(example(ASKED, "?", completion_ids=(5, 9), end_id=eos))
    assert ids[-3:] == labels[-3:] == [5, 9, eos]
    with pytest.raises(RefusedError, match=r"of problem 'p' ends with the token 5, but sampling stops at \["):
        codec.encode_example(example(ASKED, "?", completion_ids=(5, 9), end_id=5))
    for inside in (eos, codec.end_id):
        with pytest.raises(RefusedError, match="holds an end token inside"):
            codec.encode_example(example(ASKED, "?", completion_ids=(5, inside, 9), end_id=eos))
    ids, _ = codec.encode_example(example(ASKED, "not <|im_end|> but"))
    assert ids[-1] == codec.end_id
    assert ids[:-1].count(codec.end_id) == codec.encode_prompt(ASKED).count(codec.end_id)


@given(names, st.booleans(), words(), words(), st.sampled_from(["12", " the answer", "x", "\n"]))
def test_what_is_given_of_a_completion_has_no_loss(
    name: str, chat: bool, before: str, after: str, completion: str
) -> None:
    codec = codec_of(name)
    prompt: Prompt = ASKED if chat else "Q: How many?\nA:"
    assume(not before.startswith(" ") or chat or CHAT_MODELS[name].kind != "spaces")
    completion += after
    row = example(prompt, completion, given=before)
    ids, labels = codec.encode_example(row)
    head = codec.encode_prompt(prompt)
    assert ids == [*head, *codec.encode_completion(prompt, before + completion), codec.end_id]
    number = labels.count(IGNORED)
    assert labels == [IGNORED] * number + ids[number:]
    shown = codec.decode(ids[len(head) : number], after=head)
    assert before.startswith(shown)
    spanning = codec.decode(ids[len(head) : number + 1], after=head)
    assert not before.startswith(spanning)


def test_a_token_that_spans_the_end_of_what_is_given_belongs_to_the_completion() -> None:
    codec = codec_of("gemma 3")
    for given_, completion, learned in (
        ("1", "2.", "12."),
        ("x1 ", "2", "2"),
        ("of the", "", ""),
        ("of t", "he", " the"),
    ):
        if completion:
            _, labels = codec.encode_example(example(ASKED, completion, given="so " + given_))
            assert codec.decode([i for i in labels[:-1] if i != IGNORED], after=[5]) == learned
    with pytest.raises(RefusedError, match="empty completion"):
        codec.encode_example(example(ASKED, "", given="of the"))
    with pytest.raises(ValueError, match="was sampled"):
        codec.encode_example(example(ASKED, "x", completion_ids=(5,), given="y"))


def test_what_is_given_may_be_spelt_in_another_way_by_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS["chatml"])
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.save_pretrained(tmp_path)
    codec = Codec(str(tmp_path), chat=CHAT)
    for prompt in ("A:", ASKED):
        _, labels = codec.encode_example(example(prompt, " 12", given=" cafe\u0301 is"))
        assert codec.decode([i for i in labels if i != IGNORED][:-1]) == " 12"


@given(turns(words(*SPECIAL)), st.none() | st.integers(0, 300_000), words())
def test_an_example_of_turns_survives_its_line_on_disk(prompt: tuple[Turn, ...], end: int | None, before: str) -> None:
    for record in (
        example(prompt, "x", end_id=end, given=before),
        ProbeRow(prompt=prompt, completion="x", old_logprobs=()),
    ):
        adapter = adapter_of(type(record))
        assert adapter.validate_json(adapter.dump_json(record)) == record


REAL = os.environ.get("SELFTAUGHT_TEST_MODEL", "").split(os.pathsep)[0]


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="SELFTAUGHT_TEST_MODEL names no model folder")
def test_turns_have_the_ids_of_transformers_with_the_tokenizer_of_a_pretrained_model() -> None:
    if not Codec(REAL).tokenizer.chat_template:
        pytest.skip(f"{REAL} has no chat template")
    codec = Codec(REAL, chat=ChatSettings(date=DAY))
    assert codec.template
    alone = Turn("user", "How many r's are in strawberry?\n\n(A) 2  (B) 3")
    shots = (Turn("user", "1 + 1?\n"), Turn("assistant", " 1 + 1 = 2.\n#### 2"))
    for prompt in (
        (alone,),
        (*shots, alone),
        (Turn("system", ""), alone),
        (Turn("system", "Ünï 日本 🧮"), *shots, alone),
    ):
        ids = codec.encode_prompt(prompt)
        assert ids == of_transformers(codec, prompt)["input_ids"]
        assert codec.decode(ids) == codec.render(prompt).text
    every = " ".join(codec.template._specials)
    ids = codec.encode_prompt((Turn("user", every),))
    plain = codec.encode_prompt((Turn("user", "x"),))
    specials = codec.template._specials.values()
    assert [i for i in ids if i in specials] == [i for i in plain if i in specials]
    assert codec.decode(ids) == codec.render((Turn("user", every),)).text
    assert codec.template.end_of_turn in codec.end_ids

"""Small tokenizers with chat templates of the shapes that models come with; the templates are written for these tests.

`CHAT_MODELS` names them; `save_tokenizer` writes the folder of one, without weights.
"""

import json
import string
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML_TURNS = """
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

CHATML_DEFAULT = (
    "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{%- endif %}"
    + CHATML_TURNS
)

LLAMA3 = """
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}
{%- set given = messages[0].role == 'system' %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string + '\\n\\n' }}
{{- messages[0].content | trim if given else '' }}{{- '<|eot_id|>' }}
{%- for m in (messages[1:] if given else messages) %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

GEMMA3 = """
{{- bos_token }}
{%- set first = namespace(text='') %}
{%- if messages[0].role == 'system' %}
    {%- set first.text = messages[0].content + '\\n\\n' %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- for m in turns %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}
    {{- first.text if loop.first else '' }}{{- m.content | trim }}{{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""

QWEN3 = """
{%- for m in messages %}
    {%- set text = m.content %}
    {%- if m.role == 'assistant' and '</think>' in text %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {#- what a tool answers stands in <tool_response> #}
    {%- if m.role == 'tool' %}{%- set text = '<tool_response>\\n' + text %}{%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

OPENS_THOUGHT = """
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'system' %}{{- m.content }}{%- endif %}
    {%- if m.role == 'user' %}{{- '<|User|>' + m.content }}{%- endif %}
    {%- if m.role == 'assistant' %}{{- '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\\n' }}{%- endif %}"""

MISTRAL = """
{{- bos_token }}
{%- set given = messages[0].role == 'system' %}
{%- for m in (messages[1:] if given else messages) %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
    {%- if m.role == 'user' %}
        {{- '[INST] ' + (messages[0].content + '\\n\\n' if given and loop.last else '') + m.content + '[/INST]' }}
    {%- else %}
        {{- ' ' + m.content + eos_token }}
    {%- endif %}
{%- endfor %}"""


@dataclass(frozen=True)
class ChatModel:
    """A tokenizer and its template; the facts are what a reader of the template would say."""

    template: str | None
    kind: str = "bytes"
    """The tokenizer: `bytes` as of GPT-2, `spaces` marks the beginning of a text, `newlines` has tokens for them."""
    eos: str = "<|endoftext|>"
    bos: str | None = None
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    """Added tokens that are not special."""
    end_of_turn: str | None = None
    has_system: bool = True
    default_system: bool = False
    reads_clock: bool = False
    has_thinking_switch: bool = False
    opens_thought: bool = False
    has_think_tags: bool = False


IM = ("<|im_start|>", "<|im_end|>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
THOUGHT = ("<think>", "</think>", "<tool_response>", "</tool_response>")
CHAT_MODELS = {
    "chatml": ChatModel(CHATML_TURNS, special=IM, end_of_turn="<|im_end|>"),
    "chatml with a default system text": ChatModel(
        CHATML_DEFAULT, eos="<|im_end|>", special=IM, end_of_turn="<|im_end|>", default_system=True
    ),
    "llama 3": ChatModel(
        LLAMA3,
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        special=HEADERS,
        end_of_turn="<|eot_id|>",
        default_system=True,
        reads_clock=True,
    ),
    "gemma 3": ChatModel(
        GEMMA3,
        kind="newlines",
        bos="<bos>",
        eos="<eos>",
        special=("<start_of_turn>", "<end_of_turn>"),
        added=("\n\n", "<table>"),
        end_of_turn="<end_of_turn>",
    ),
    "qwen 3": ChatModel(
        QWEN3, special=IM, added=THOUGHT, end_of_turn="<|im_end|>", has_thinking_switch=True, has_think_tags=True
    ),
    "opens a thought": ChatModel(
        OPENS_THOUGHT,
        bos="<|begin|>",
        eos="<|end|>",
        special=("<|User|>", "<|Assistant|>"),
        added=THOUGHT[:2],
        end_of_turn="<|end|>",
        opens_thought=True,
        has_think_tags=True,
    ),
    "mistral": ChatModel(
        MISTRAL, kind="spaces", bos="<s>", eos="</s>", special=("[INST]", "[/INST]"), end_of_turn="</s>"
    ),
}
PLAIN = ChatModel(None)

CORPUS = (
    "The baker makes twelve rolls an hour. How many rolls are there after three hours?\n\nThe answer is 36.\n",
    "<|system|> user assistant model <a> </b> [x] thinking, the think, end of turn.\n\n\n  for i in range(10):\n",
)


@cache
def tokenizer_of(kind: str) -> str:
    """A tokenizer without special tokens, as JSON."""
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(
            CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
        )
        return str(made.to_str())
    characters = "▁" + string.ascii_letters + string.digits + string.punctuation
    merges = [("▁", "a"), ("t", "h"), ("th", "e"), ("<", "/"), ("▁", "the"), ("1", "2"), ("/", "s"), ("▁", "<")]
    words = [*(f"<0x{i:02X}>" for i in range(256)), *characters, *(a + b for a, b in merges)]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges, byte_fallback=True, fuse_unk=True))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    if kind == "spaces":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Sequence([made.decoder, decoders.Strip(" ", 1, 0)])
    else:
        made.normalizer = normalizers.Replace(" ", "▁")
    return str(made.to_str())


def save_tokenizer(
    model: ChatModel, folder: Path, *, generation_eos: int | list[int] | None = None, pad: str | None = None
) -> Path:
    """The folder of a model without weights. With a begin token, the tokenizer puts it before every text."""
    made = Tokenizer.from_str(tokenizer_of(model.kind))
    names = [*([model.bos] if model.bos else []), model.eos, *model.special]
    made.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    made.add_tokens([AddedToken(name, normalized=False) for name in model.added])
    if model.bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{model.bos} $A", special_tokens=[(model.bos, made.token_to_id(model.bos))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=model.eos, bos_token=model.bos, pad_token=pad, chat_template=model.template
    )
    fast.save_pretrained(folder)
    if generation_eos is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation_eos}), encoding="utf-8")
    return folder
